"""Case studies and failures as parts of the page: every text in them was written by a model or a survey."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cultural_palette.countries import find_country
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.evaluation.metrics import ALIGNMENTS
from cultural_palette.evaluation.report.cases import RULE, Case, Failure, MethodCase
from cultural_palette.evaluation.report.layout import Cell, Column, Line, Section, Table, number, to_html
from cultural_palette.evaluation.report.page import Part, escape
from cultural_palette.evaluation.report.roles import title

NEUTRAL = "#8a8a96"
# Options of one question, told apart beside each other; more than eight begin anew.
SHADES = ("#33608c", "#6f9bc4", "#b5cde3", "#e3c9a8", "#d09a5b", "#a3652a", "#7a7a85", "#b9b9c3")
MOST_ROWS = 25
STATUS_WORDS = {"ok": "ok", "unreadable": "unreadable reply", "failed": "failed", "missing": "no row"}


def cases_part(
    cases: Sequence[Case], cultural_map: CulturalMap, metric: str, *, ours: str, drawn: int, seed: int
) -> Part:
    """Each case through all stages."""
    rule = escape(RULE.format(ours=title(ours), drawn=drawn, seed=seed))
    text = "".join(_case(case, cultural_map, metric) for case in cases)
    nothing = f"<p>{escape(title(ours))} answered nothing: there is no case to show.</p>"
    return Part("cases", "Case studies", f'<p class="soft">{rule}</p>{text or nothing}')


def failures_part(failed: Sequence[Failure], errors: Mapping[int, str]) -> Part:
    """Rows that are not ok: the items that most methods failed on, and the first rows of each method."""
    if not failed:
        return Part("failures", "Failures", "<p>Every row is ok.</p>")
    by_item: Counter[str] = Counter(key for key, _ in {(f.item.id, f.method) for f in failed})
    items = {failure.item.id: failure.item for failure in failed}
    methods: dict[str, set[str]] = {}
    for failure in failed:
        methods.setdefault(failure.item.id, set()).add(title(failure.method))
    ranked = sorted(by_item, key=lambda key: (-by_item[key], key))
    worst = tuple(
        Line(
            key,
            (
                Cell(items[key].question),
                number(by_item[key], digits=0),
                Cell(", ".join(sorted(methods[key]))),
            ),
        )
        for key in ranked[:MOST_ROWS]
    )
    table = Table(
        "failed_items",
        f"Items that methods failed on: {len(ranked):,} in all, the first {len(worst)} shown.",
        (Column("question"), Column("methods"), Column("which")),
        (Section("", worst),),
        ("Every such row is in tables/failures.csv, with its line in rows.jsonl.",),
        first="Item",
    )
    rows = []
    for method in dict.fromkeys(failure.method for failure in failed):
        own = [failure for failure in failed if failure.method == method]
        lines = "".join(f"<li>{_failure(failure, errors)}</li>" for failure in own[:MOST_ROWS])
        more = f"<li>... and {len(own) - MOST_ROWS:,} more</li>" if len(own) > MOST_ROWS else ""
        counts = ", ".join(f"{n:,} {status}" for status, n in Counter(f.status for f in own).items())
        rows.append(
            f"<details><summary>{escape(title(method))}: {counts}</summary><ul>{lines}{more}</ul></details>"
        )
    return Part("failures", "Failures", to_html(table) + "".join(rows))


def _failure(failure: Failure, errors: Mapping[int, str]) -> str:
    where = f", line {failure.line}" if failure.line else ""
    text = f"{failure.status}: {failure.item.id}, run {failure.run}{where}"
    error = errors.get(failure.line, "")
    return escape(f"{text}. {error}" if error else text)


def _case(case: Case, cultural_map: CulturalMap, metric: str) -> str:
    country = find_country(case.item.country).name
    score = case.ours.scores.get(metric)
    head = f"{case.why.capitalize()}: {country}, {case.mean_score:.2f}"
    tags = f'<span class="tag">{escape(case.item.id)}</span><span class="tag">run {case.run}</span>'
    if score is not None:
        tags += f'<span class="tag">{score:.2f} in this run ({escape(metric)})</span>'
    degraded = case.ours.row.get("degraded") or []
    tags += "".join(f'<span class="tag bad">degraded: {escape(str(note))}</span>' for note in degraded)
    return (
        f"<article><h3>{escape(head)}</h3><p>{tags}</p><p class='text'>{escape(case.item.question)}</p>"
        f"{_stages(case.ours, cultural_map)}{_decision(case)}{_blend(case.ours, cultural_map)}"
        f"{_others(case, metric)}</article>"
    )


def _stages(prediction: MethodCase, cultural_map: CulturalMap) -> str:
    stages = prediction.row.get("stages") or {}
    drafts = stages.get("drafts") or {}
    communities = {community.key: community for community in cultural_map.communities}
    cards = []
    for key, text in drafts.items():
        community = communities.get(key)
        name, colour = (community.name, community.colour) if community else (key, NEUTRAL)
        draft = escape(text) if text else '<em class="soft">no draft</em>'
        cards.append(
            f'<div class="draft" style="border-color:{colour}"><strong>{escape(name)}</strong>'
            f'<div class="text">{draft}</div></div>'
        )
    parts = [f'<h3>1. Drafts</h3><div class="drafts">{"".join(cards)}</div>'] if cards else []
    if regulated := stages.get("regulated"):
        parts.append(f'<h3>2. Regulated account</h3><div class="account text">{escape(str(regulated))}</div>')
    return "".join(parts)


def _decision(case: Case) -> str:
    predicted = case.ours.row.get("predicted") or []
    rows = []
    for option, gold, share in zip(case.item.options, case.item.gold, predicted, strict=True):
        chosen = " ✓" if option == case.ours.row.get("answer") else ""
        rows.append(
            f"<div>{escape(option)}{chosen}</div><div>{_bar('survey', gold)}{_bar('predicted', share)}</div>"
        )
    mass = case.ours.row.get("option_mass")
    readout = f"; read by {case.ours.row.get('readout', 'none')}"
    readout += f", {100 * mass:.1f} % of the reply's probability on the options" if mass is not None else ""
    scores = ", ".join(f"{key} {case.ours.scores[key]:.2f}" for key in ALIGNMENTS if key in case.ours.scores)
    legend = (
        '<p class="soft"><span class="key" style="background:var(--survey);margin-left:0"></span>survey'
        f'<span class="key" style="background:var(--ours)"></span>predicted{escape(readout)}. '
        f"{escape(scores)}.</p>"
    )
    return f'<h3>3. Decision and survey</h3><div class="bars">{"".join(rows)}</div>{legend}'


def _bar(kind: str, share: float) -> str:
    width = max(0.0, min(1.0, share)) * 85
    return f'<div class="bar {kind}"><i style="width:{width:.2f}%"></i>{100 * share:.1f} %</div>'


def _blend(prediction: MethodCase, cultural_map: CulturalMap) -> str:
    blend = prediction.row.get("blend")
    if not blend:
        return ""
    colours = {community.key: (community.name, community.colour) for community in cultural_map.communities}
    total = sum(blend.values()) or 1.0
    pieces, keys = [], []
    for key, weight in blend.items():
        name, colour = colours.get(key, (key, NEUTRAL))
        pieces.append(f'<i style="width:{100 * weight / total:.2f}%;background:{colour}"></i>')
        keys.append(
            f'<span class="key" style="background:{colour}"></span>{escape(name)} {100 * weight:.1f} %'
        )
    bar = f'<div class="blend">{"".join(pieces)}</div><p class="soft">{"".join(keys)}</p>'
    return f"<h3>Blend of communities</h3>{bar}"


def _others(case: Case, metric: str) -> str:
    gold = _mini(case.item.gold)
    survey = f'<tr><th scope="row">Survey</th><td></td><td></td><td class="n"></td><td>{gold}</td></tr>'
    rows = "".join(_other(prediction, metric) for prediction in (case.ours, *case.others))
    keys = "".join(
        f'<span class="key" style="background:{SHADES[k % len(SHADES)]}"></span>{escape(option)}'
        for k, option in enumerate(case.item.options)
    )
    head = "<tr><th>Method</th><th>row</th><th>answer</th><th class='n'>score</th><th>distribution</th></tr>"
    return (
        f'<h3>The same item, every method</h3><div class="scroll"><table><thead>{head}</thead>'
        f'<tbody>{survey}{rows}</tbody></table></div><p class="soft">{keys}</p>'
    )


def _other(prediction: MethodCase, metric: str) -> str:
    score = f"{prediction.scores[metric]:.2f}" if metric in prediction.scores else "–"
    predicted = prediction.row.get("predicted")
    status = STATUS_WORDS.get(prediction.status, prediction.status)
    error = prediction.row.get("error")
    shown = f'<span class="tag bad">{escape(status)}</span>' if prediction.status != "ok" else escape(status)
    answer = str(prediction.row.get("answer") or error or "–")
    answer = answer if len(answer) <= 160 else answer[:157] + "..."
    return (
        f'<tr><th scope="row">{escape(title(prediction.method))}</th><td>{shown}</td>'
        f"<td>{escape(answer)}</td>"
        f'<td class="n">{score}</td><td>{_mini(predicted) if predicted else ""}</td></tr>'
    )


def _mini(shares: Sequence[float]) -> str:
    pieces = (
        f'<i style="width:{100 * share:.2f}%;background:{SHADES[k % len(SHADES)]}"></i>'
        for k, share in enumerate(shares)
    )
    return f'<span class="mini">{"".join(pieces)}</span>'
