"""The dataset card: README.md with the hub's front matter, made from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cultural_palette.errors import UsageError
from cultural_palette.safe_text import as_code, without_html
from cultural_palette.training.pentachromatic.forms import FORMS
from cultural_palette.training.pentachromatic.splits import SPLITS

CARD = "README.md"
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
UNITS = ("1K", "10K", "100K", "1M", "10M")
PRISM = (
    "The queries are opening prompts of PRISM (Kirk et al. 2024, `HannahRoseKirk/prism-alignment`). What "
    "people wrote there is under CC BY 4.0: use it as you like, and name them. What models answered there is "
    "under CC BY-NC 4.0; none of it is in this dataset, so that restriction does not reach it. It would, if "
    "you put PRISM's model answers beside ours in one set."
)
LIMITS = (
    "A community here is a large part of the world. Its answers are what one teacher model takes for its "
    "views: they flatten what differs within it, and carry the teacher's own stereotypes.",
    "`rejected` means: another community's answer. It does not mean a worse one.",
    "Validation is done by a model or by fixed checks; what they did not notice is still there.",
    "Queries are those of PRISM's participants (or of the source named above), who are no sample of the "
    "world.",
)


@dataclass(frozen=True)
class Licence:
    """What the card states. `id`: as the hub lists it; "other" leaves the answers to the teacher's terms."""

    id: str = "other"
    languages: tuple[str, ...] = ("en",)

    def __post_init__(self) -> None:
        for code in (self.id, *self.languages):
            if not code or not code.replace("-", "").replace(".", "").isalnum():
                raise UsageError(f"licence or language {code!r}: expected one like 'cc-by-4.0' or 'en'")


def card_of(manifest: Mapping[str, Any]) -> str:
    """The card's text."""
    parts = [f"# {_title(manifest)}", "", *_body(manifest)]
    parts += [*_reports(manifest), "## Known limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    return "\n".join(["---", _front(manifest), "---", "", without_html("\n".join(parts))])


def _front(manifest: Mapping[str, Any]) -> str:
    import yaml

    counts, licence = manifest["counts"], manifest["licence"]
    front: dict[str, Any] = {
        "pretty_name": _title(manifest),
        "license": licence["id"],
    }
    if licence["id"] == "other":
        front["license_name"] = "queries-cc-by-4.0-answers-teacher-terms"
    front |= {
        "language": list(licence["languages"]),
        "task_categories": ["text-generation"],
        "tags": ["preference", "culture", "pluralism", "synthetic", "orpo", "trl"],
        "size_categories": [_size(counts["answers"])],
        "configs": list(configs(manifest)),
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=110).rstrip()


def configs(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The hub's configs: the answers, and every form of every community; Parquet where there is any."""
    files = manifest["files"]
    suffix = "parquet" if "parquet" in manifest["formats"] else "jsonl"

    def splits(before: str, after: str) -> list[dict[str, str]]:
        named = {split: f"{before}{split}{after}" for split in SPLITS}
        return [{"split": s, "path": p} for s, p in named.items() if p in files and files[p]["rows"]]

    if data_files := splits("answers/", ".parquet"):
        yield {"config_name": "answers", "default": True, "data_files": data_files}
    for name, form in FORMS.items():
        for key in manifest["communities"]:
            if data_files := splits(f"{name}/", f"/{form.file.format(key)}.{suffix}"):
                yield {"config_name": f"{name}-{key}", "data_files": data_files}


def _title(manifest: Mapping[str, Any]) -> str:
    n = len(manifest["communities"])
    return f"Pentachromatic preferences of {n} cultural communities"


def _body(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts, source, splits = manifest["counts"], manifest["source"], manifest["splits"]
    communities = manifest["communities"]
    yield (
        f"Every query is answered once for each of {len(communities)} communities ({', '.join(communities)}; "
        f"map {as_code(manifest['map'] or 'unnamed')}). A community's own answer is *chosen*, the others' "
        "are *rejected*. "
        "Made with Cultural Palette, by the method of *Cultural Palette: Pluralising Culture Alignment via "
        "Multi-agent Palette*."
    )
    yield from ("", "## Size", "", "| | train | test | all |", "|---|---:|---:|---:|")
    for what, by_split in (
        ("queries that every community answered", splits["queries"]),
        ("answers (all, of incomplete queries too)", counts["answers_by_split"]),
    ):
        yield f"| {what} | {by_split['train']:,} | {by_split['test']:,} | {sum(by_split.values()):,} |"
    pairs = {split: n * (len(communities) - 1) for split, n in splits["queries"].items()}
    yield (
        f"| preference pairs of each community | {pairs['train']:,} | {pairs['test']:,} "
        f"| {counts['pairs_per_community']:,} |"
    )
    yield ""
    yield (
        f"The split is by query (share of test {splits['test_share']}, seed {splits['seed']}): none is in "
        f"both, and {splits['near_same_queries']:,} near-same queries follow the one they resemble."
    )
    yield from ("", "## Configs", "", "| config | rows |", "|---|---|")
    yield "| `answers` | an answer a row, with its steps, findings and source |"
    for name, form in FORMS.items():
        yield f"| `{name}-COMMUNITY` | {form.about} (`{'`, `'.join(form.columns)}`) |"
    yield from ("", "## Licence and what follows from it", "", *_licence(manifest))
    yield from ("", "## Where it comes from", "", *_provenance(source, manifest))
    yield from ("", "## What was left out", "", *_left_out(manifest))
    yield from ("", "## Review by people", "", *_review(manifest), "")


def _licence(manifest: Mapping[str, Any]) -> Iterator[str]:
    datasets = manifest["source"]["datasets"]
    prism = [name for name in datasets if "prism" in name.lower()]
    if prism:
        yield f"- {PRISM}"
    if others := [name for name in datasets if name not in prism]:
        also = " as well" if prism else ""
        yield f"- Queries come from {_named(others)}{also}; that source's own licence holds for them."
    teachers = _named(list(manifest["source"]["teachers"]))
    yield (
        f"- The answers were written by {teachers}. The terms of whoever serves that model hold for them; "
        "some forbid to train competing models on what it writes. Read them before you train or publish."
    )
    licence = manifest["licence"]["id"]
    yield (
        "- So the front matter says `other`; whoever publishes this may name a licence with `--licence`."
        if licence == "other"
        else f"- Whoever published this puts the answers under `{licence}`."
    )


def _provenance(source: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    run_manifest = source["manifest"]
    yield (
        f"- run {as_code(source['run'])}{'' if source['finished'] else ' (not finished)'}, "
        f"{source['rows']:,} rows, SHA-256 of the rows `{source['rows_sha256']}`"
    )
    teachers = (f"{as_code(name)} ({n:,} answers)" for name, n in source["teachers"].items())
    yield f"- teacher: {', '.join(teachers)}"
    yield f"- queries: {', '.join(f'{as_code(name)} ({n:,})' for name, n in source['datasets'].items())}"
    settings = ("seed", "temperature", "max_tokens", "max_rounds", "validation", "cost_usd")
    if listed := [
        f"{name.replace('_', ' ')} {_figure(run_manifest[name])}"
        for name in settings
        if run_manifest.get(name) is not None
    ]:
        yield f"- synthesis: {', '.join(listed)}"
    for name, digests in source["prompts"].items():
        yield f"- prompt {as_code(name)}: SHA-256 begins {', '.join(f'`{digest}`' for digest in digests)}"
    if any(len(digests) > 1 for digests in source["prompts"].values()):
        yield "- a prompt changed within the run: its answers are not all made alike"
    yield f"- built {manifest['built']}, with {_versions(manifest['versions'])}"


def _left_out(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts, source = manifest["counts"], manifest["source"]
    statuses, missing = source["statuses"], counts["missing_answers"]
    queries = source["manifest"].get("queries")
    filters = queries.get("filters") if isinstance(queries, Mapping) else None
    if isinstance(filters, Mapping) and filters:
        yield "Before the synthesis, as the loader counted:"
        yield from ("", *(f"- {name.replace('_', ' ')}: {_figure(n)}" for name, n in filters.items()), "")
    yield (
        f"Validation let {statuses.get('ok', 0):,} answers through and set {statuses.get('set_aside', 0):,} "
        f"aside. {counts['incomplete']:,} of {counts['queries']:,} queries lack an answer, and give no "
        "preferences:"
    )
    yield ""
    if not missing:
        yield "- no answer is missing"
    for why, n in missing.items():
        yield f"- {why.replace('_', ' ')}: {n:,} answers"
    if excluded := manifest["excluded"]:
        yield ""
        yield f"{excluded['queries']:,} queries were left out by the list {as_code(excluded['file'])}."
    if source["findings"]:
        yield ""
        listed = ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in source["findings"].items())
        yield f"Findings in the last round, of all answers: {listed}."


def _review(manifest: Mapping[str, Any]) -> Iterator[str]:
    review = manifest["review"]
    if review is None:
        yield "**No person has reviewed these answers.**"
        return
    counts, agreement = review["counts"], review["agreement"]
    yield (
        "Only answers that a reviewer approved or edited are in here."
        if manifest["gate"]
        else "The gate was off: rejected answers are left out, edits are applied, the undecided are in here."
    )
    yield ""
    yield f"- reviewers: {len(review['reviewers'])}"
    yield (
        f"- decisions: {counts['approve']:,} approved, {counts['edit']:,} edited, {counts['reject']:,} "
        f"rejected, {counts['unresolved']:,} unresolved, "
        f"{counts['undecided']:,} of {review['answers']:,} undecided"
    )
    yield f"- agreement: {agreement_line(agreement)}"
    yield f"- when they disagree: {review['rule']}"
    if review["unhashed"]:
        yield f"- {review['unhashed']:,} decisions did not say which text they were about"


def agreement_line(agreement: Mapping[str, Any]) -> str:
    """One line on an agreement, undefined ones too."""
    names = {"cohen_kappa": "Cohen's kappa", "krippendorff_alpha": "Krippendorff's alpha"}
    if agreement["measure"] is None:
        return str(agreement["note"])
    value = agreement["note"] if agreement["value"] is None else f"{agreement['value']:.3f}"
    return (
        f"{names[agreement['measure']]} {value} "
        f"(n = {agreement['n']:,} answers, {agreement['reviewers']} reviewers; "
        f"the same decision in {100 * agreement['observed']:.1f} % of pairs)"
    )


def _reports(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `palette dataset measure`, where there are any."""
    titles = {
        "separation": "Do the communities separate",
        "topics": "Topics",
        "leakage": "Leakage of surveys",
    }
    for name, figures in manifest["reports"].items():
        yield from (f"## {titles[name]}", "", "| | |", "|---|---|")
        for key, value in figures.items():
            yield f"| {key.replace('_', ' ')} | {_figure(value)} |"
        yield ""
    if "leakage" not in manifest["reports"]:
        yield from (f"## {titles['leakage']}", "", "**Nobody has looked for survey questions in it.**", "")


def _figure(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|").replace("\n", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _named(names: list[str]) -> str:
    return ", ".join(map(as_code, names))


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _size(n: int) -> str:
    if n < SIZES[0]:
        return "n<1K"
    for low, high, small, large in zip(UNITS, UNITS[1:], SIZES, SIZES[1:], strict=False):
        if n < large:
            assert n >= small
            return f"{low}<n<{high}"
    return "n>10M"
