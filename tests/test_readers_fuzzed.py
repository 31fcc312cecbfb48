"""Every reader, on bytes that nobody would write: a PaletteError in one line or a result, never a traceback.

Each reader gets what is right, bent: bytes taken out and put in, every field by values of another type, deep
nesting. Those that others write: queries, answers, surveys, decisions, maps, settings, manifests, adapters'
configs, published rows, preference rows, exclusions, prices, training configs. Those of our own runs, which
may have been edited: rows and manifests of a run that goes on or is finished, datasets' manifests, reviews.
"""

from __future__ import annotations

import codecs
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cultural_palette.artifacts import RunFolder
from cultural_palette.cli.dataset import _tell as tell_dataset
from cultural_palette.cli.evaluate.contamination import _of_file as paraphrases_of_file
from cultural_palette.cli.evaluate.surveys import _of_file as models_of_file
from cultural_palette.cli.synthesize import _print_manifest as tell_synthesis
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.errors import MOST_OF_THE_END, MOST_SHOWN, PaletteError
from cultural_palette.evaluation.elicit_survey import ElicitPlan, elicit_survey
from cultural_palette.evaluation.pinned import read_items
from cultural_palette.evaluation.predictions import rows_of
from cultural_palette.evaluation.report.load import load_evaluation
from cultural_palette.evaluation.report.semantics import load_semantics, semantic_table
from cultural_palette.evaluation.report.write import _old_files as files_of_report
from cultural_palette.evaluation.semantic import _rows_of as semantic_rows
from cultural_palette.evaluation.semantic import load_gold
from cultural_palette.evaluation.surveys import load_survey
from cultural_palette.fitted_blends import read_blends
from cultural_palette.models import ModelRef
from cultural_palette.moerges.quantised import quantised_by
from cultural_palette.moerges.router import load_routers, save_routers
from cultural_palette.serving.fleet import Fleet
from cultural_palette.serving.manifest import check_folders, lora_rank, lora_targets, read_palette
from cultural_palette.settings import get_settings
from cultural_palette.training.config import load_config
from cultural_palette.training.pentachromatic.build import read_excluded
from cultural_palette.training.pentachromatic.card import card_of
from cultural_palette.training.pentachromatic.published import read_published
from cultural_palette.training.pentachromatic.reports import load_manifest
from cultural_palette.training.pentachromatic.separation.surveys import read_survey
from cultural_palette.training.pentachromatic.separation.texts import read_answers
from cultural_palette.training.pentachromatic.synthesis_run import IndexedQuery, RunIndex
from cultural_palette.training.preferences import read_groups
from cultural_palette.training.prism import load_prism
from cultural_palette.training.queries import read_queries
from cultural_palette.training.review.decisions import read_decisions
from cultural_palette.training.review.reconcile import load_review
from cultural_palette.training.share_questions import read_share_questions
from cultural_palette.training.synthesis.batch import ResultsFiles
from cultural_palette.training.synthesis.prices import Price, price_of
from cultural_palette.training.synthesis.run import already_there
from cultural_palette.training.synthesis.sitting import finished_manifest
from cultural_palette.training.synthesis.teacher import Ledger
from tests.evaluation.report_runs import made_up_run, made_up_semantics
from tests.training.test_synthesis_run import spec

SURVEYS = Path(__file__).parent / "evaluation" / "made_up_surveys"
CONTINENTS = load_map("continents")


def _in(folder: Path, call: Callable[[], Any]) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return call()
    finally:
        os.chdir(before)


def _serve(folder: Path) -> None:
    (folder / "config.json").write_text('{"num_local_experts": 2, "num_experts_per_tok": 2}')
    module = "base_model.model.model.layers.0.mlp.up_proj"
    sides = {"A": np.zeros((8, 2), np.float32), "B": np.zeros((2, 8), np.float32)}
    save_file(
        {f"{module}.lora_{s}.weight": t for s, t in sides.items()}, folder / "adapter_model.safetensors"
    )
    palette = folder / "palette.yaml"
    palette.write_text("name: x\nmap: continents\nbase: .\nadapters: {africa: ., asia: .}\nmoerges: .\n")
    served = read_palette(str(palette))
    lora_targets(served)
    lora_rank(served)
    check_folders(served)


ANSWER = {
    "query_id": "q1", "query": "Is tea good?", "community": "africa", "status": "ok",
    "response": "Yes, it is.", "steps": {}, "rounds": 1, "validation": {"passed": True, "findings": []},
    "teacher": "x",
    "usage": {"input_tokens": 1, "output_tokens": 1}, "error": None, "source": {},
}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "r": 8, "rank_pattern": {}, "target_modules": ["up_proj"], "lora_alpha": 16}
MANIFEST = {"name": "x", "map": "continents", "base": "b", "router": "r",
            "adapters": {"africa": "a", "asia": "b"}}  # fmt: skip
SURVEY = {
    "id": "q", "question": "Is tea good?", "options": ["Yes", "No"], "country": "KEN",
    "distribution": [0.5, 0.5], "battery": "b", "ordered": True, "topic": "t", "respondents": 100,
}  # fmt: skip
DECISIONS = {
    "format": "cultural-palette-review/1", "reviewer": "a", "run": "b",
    "decisions": [{"query_id": "q", "community": "africa", "decision": "approve"}],
}  # fmt: skip
MAP = (
    'name: M\ncommunities:\n  a: {name: A, colour: "#000000", countries: [KEN]}\n'
    '  b: {name: B, colour: "#000001", countries: [USA]}\n'
)
SPEC = spec(2)
KEYS = tuple(community.key for community in CONTINENTS.communities)
STORED = {**ANSWER, "query_id": "q1", "prompts": {"respond": "0" * 16}}
SYNTHESIS: dict[str, Any] = {
    "counts": {"queries": 1, "rows": 5, "ok": 4, "set_aside": 1, "by_community": {"africa": {"ok": 1}},
               "findings": {"format": 1}},
    "map": {"key": "continents", "communities": {"africa": "Africa"}},
    "tokens": {"input": 1, "output": 1}, "cost_usd": 0.5,
}  # fmt: skip
PREDICTED = {
    "method": "vanilla", "run": 0, "item": "q/KEN", "question_id": "q", "battery": "b", "survey": "s",
    "country": "KEN", "question": "Is tea good?", "options": ["Yes", "No"], "ordered": None,
    "gold": [0.5, 0.5], "status": "ok", "error": None, "predicted": [0.5, 0.5], "answer": None,
    "option_mass": 1.0, "readout": "exact", "orders": 1, "order_spread": None, "blend": None, "stages": None,
    "degraded": [], "usage": {}, "seconds": 0.1, "calls": {},
}  # fmt: skip
ACCORD = {"measure": None, "value": None, "n": 0, "reviewers": 1, "observed": None, "note": "one reviewer"}
REVIEW = {
    "format": "cultural-palette-verdicts/1", "run": "r", "rows_sha256": "0", "reviewers": ["a"], "answers": 1,
    "agreement": ACCORD, "unhashed": 0, "rule": "x",
    "verdicts": [{"query_id": "q", "community": "africa", "decision": "approve", "reason": None, "text": None,
                  "text_hash": None, "votes": {"a": "approve"}, "resolved": False}],
}  # fmt: skip
TWO = {"train": 1, "test": 1}
DATASET: dict[str, Any] = {
    "kind": "pentachromatic-dataset", "built": "2026", "map": "continents", "communities": ["africa", "asia"],
    "splits": {"test_share": 0.1, "seed": 0, "near_same_queries": 0, "queries": TWO},
    "counts": {"queries": 2, "complete": 2, "incomplete": 0, "answers": 4, "answers_by_split": TWO,
               "edited": 0, "pairs_per_community": 2, "pairs": 4, "missing_answers": {"absent": 1}},
    "gate": False, "excluded": {"file": "x", "queries": 1},
    "review": {"reviewers": ["a"], "answers": 1, "rule": "x", "unhashed": 1, "agreement": ACCORD,
               "counts": {"approve": 1, "edit": 0, "reject": 0, "unresolved": 0, "undecided": 0}},
    "source": {"run": "r", "finished": True, "rows": 4, "rows_sha256": "0", "statuses": {"ok": 4},
               "findings": {"format": 1}, "datasets": {"prism": 4}, "teachers": {"x": 4},
               "prompts": {"respond": ["0"]}, "manifest": {"seed": 1}},
    "reports": {}, "licence": {"id": "other", "languages": ["en"]}, "formats": ["jsonl"],
    "files": {"answers.jsonl": {"rows": 4, "bytes": 1, "sha256": "0"}}, "versions": {"x": "1"},
}  # fmt: skip
RESULT = {
    "custom_id": "k", "error": None,
    "response": {"status_code": 200, "body": {
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1}}},
}  # fmt: skip
GROUP = {
    "prompt": [{"role": "user", "content": "x"}],
    "chosen": "a",
    "rejected": ["b"],
    "community": "africa",
}


def _finished_synthesis(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(SPEC.config()))
    if manifest := finished_manifest(SPEC, folder):
        tell_synthesis(folder, manifest, False)


def _shown_dataset(folder: Path) -> None:
    manifest = load_manifest(folder)
    card_of(manifest)
    tell_dataset(manifest, folder, False)


def _review(path: Path) -> None:
    index = RunIndex(
        (IndexedQuery("q", "Is it?", {"africa": 0}, {"africa": None}),), "0", 1, 0, {}, {}, {}, {}, {}
    )
    review = load_review([path], index, "r")
    json.dumps(review.summary())


SEMANTIC_ROW = {
    "method": "joint", "item": "q/africa", "query_id": "q", "community": "africa", "query": "What?",
    "gold": "This.", "status": "ok", "s_semantic": 50.0,
}  # fmt: skip
SHARE_QUESTION = {
    "id": "q", "battery": "b", "question": "Is tea good?", "options": ["Yes", "No"],
    "shares": {"africa": {"KEN": [0.5, 0.5]}},
}  # fmt: skip
BLEND_FILE = {"of": "agents", "model": "m", "prompt": "p", "countries": {"KEN": {"weights": {"africa": 1.0}}}}
SERVERS = {
    "format": "cultural-palette-serve/1",
    "servers": {"lora": {"name": "lora", "pid": 2**22, "began": "x", "started": "2026-01-01T00:00:00+00:00",
                         "url": "http://127.0.0.1:9", "models": ["a"], "log": "l", "command": ["c"],
                         "environment": {}, "asks_key": False, "ready": None}},
}  # fmt: skip
REPORT = {"format": "cultural-palette-report/1", "files": ["report.html", "tables/x.md"]}
CONVERSATION = {"conversation_id": "c1", "user_id": "u1", "opening_prompt": "Is tea good?"}
PERSON = {"user_id": "u1", "location": {"birth_country": "Kenya", "birth_countryISO": "KEN"}}
ITEMS = load_survey(SURVEYS / "vital.json").items
ELICITED = ElicitPlan("nano", "base", "survey/shares", ITEMS, (), ("labels",), 1)
READING = {
    "item": ITEMS[0].id, "order": [0, 1], "readout": "labels", "weights": [-1.0, -2.0], "tokens": 3,
    "seconds": 0.1,
}  # fmt: skip


def _elicited(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(ELICITED.config()))
    if not os.path.lexists(folder / "manifest.json"):
        (folder / "manifest.json").write_text(json.dumps({"readouts": ["labels"]}))
    if not os.path.lexists(folder / "rows.jsonl"):
        (folder / "rows.jsonl").write_text(json.dumps(READING) + "\n")
    elicit_survey(ELICITED, folder, print)


def _made(make: Callable[[Path], Any], file: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return (Path(folder) / file).read_bytes()


def _beside(make: Callable[[Path], Any], read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of a run folder that gets one odd file, and the others as they should be."""

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        whole = {file.name: file.read_bytes() for file in Path(folder).iterdir()}

    def reading(path: Path) -> Any:
        for name, data in whole.items():
            if name != path.name:
                (path.parent / name).write_bytes(data)
        return read(path.parent)

    return reading


def _survey_run(folder: Path) -> None:
    made_up_run(folder, {"vanilla": 0.2}, countries=("KEN",), questions=1, runs=1)


def _semantic_run(folder: Path) -> None:
    made_up_semantics(folder, queries=1)


def _semantic_report(folder: Path) -> None:
    semantic_table(load_semantics(folder, CONTINENTS, get_settings()))


def _router(folder: Path) -> None:
    import torch

    from cultural_palette.moerges.router import Router

    router = Router(torch.zeros(1, 2, 3), torch.zeros(1, 2), ("africa", "asia"))
    save_routers(folder / "router.safetensors", {"paper": router}, ("africa", "asia"))


def _prism(path: Path) -> None:
    others = {"conversations.jsonl": CONVERSATION, "survey.jsonl": PERSON}
    for name, row in others.items():
        if name != path.name:
            (path.parent / name).write_text(json.dumps(row) + "\n")
    load_prism(CONTINENTS, path=path.parent)


def _field_survey(name: str) -> Reader:
    return name, (SURVEYS / name).read_bytes(), load_survey


Reader = tuple[str, bytes, Callable[[Path], Any]]
READERS: dict[str, Reader] = {
    "queries": ("q.jsonl", b'{"query": "Is tea good?", "id": "1"}\n', lambda p: read_queries(p, CONTINENTS)),
    "queries in CSV": ("q.csv", b"id,query\n1,Is tea good?\n", lambda p: read_queries(p, CONTINENTS)),
    "answers": ("rows.jsonl", json.dumps(ANSWER).encode() + b"\n", lambda p: read_answers(p.parent)),
    "surveys": ("s.jsonl", json.dumps(SURVEY).encode() + b"\n", load_survey),
    "surveys in CSV": (
        "s.csv",
        b'question,selections,options,source\nIs tea good?,"{\'Kenya\': [0.5, 0.5]}","[\'Yes\', \'No\']",G\n',
        load_survey,
    ),
    "decisions": ("d.json", json.dumps(DECISIONS).encode(), read_decisions),
    "decisions in CSV": (
        "d.csv", b"query_id,community,decision,reason,text\nq,africa,approve,,\n", read_decisions
    ),
    "maps": ("m.yaml", MAP.encode(), load_map),
    "settings": ("palette.toml", b'map = "continents"\nseed = 3\n[models]\nafrica = "openai:x"\n',
                 lambda p: _in(p.parent, get_settings)),
    "settings in .env": (
        ".env", b"PALETTE_SEED=3\nPALETTE_MODELS={}\n", lambda p: _in(p.parent, get_settings)
    ),
    "manifests": ("manifest.json", json.dumps(MANIFEST).encode(), lambda p: read_manifest(str(p.parent))),
    "served palettes": (
        "p.yaml", b"name: x\nmap: continents\nbase: b\nadapters: {africa: a, asia: c}\nmoerges: m\n",
        lambda p: read_palette(str(p)),
    ),
    "rows of a synthesis that goes on": (
        "rows.jsonl", json.dumps(STORED).encode() + b"\n",
        lambda p: already_there(SPEC, RunFolder(p.parent), Ledger(Price(1, 1, "x")))),
    "manifests of a finished synthesis": (
        "manifest.json", json.dumps(SYNTHESIS).encode(), lambda p: _finished_synthesis(p.parent)),
    "configs of runs": (
        "config.json", b'{"seed": 1}', lambda p: RunFolder(p.parent, {"seed": 1}).open().close()),
    "rows of an evaluation": (
        "rows.jsonl", json.dumps(PREDICTED).encode() + b"\n", lambda p: list(rows_of(RunFolder(p.parent)))),
    "manifests of datasets": (
        "manifest.json", json.dumps(DATASET).encode(), lambda p: _shown_dataset(p.parent)),
    "reviews": ("review.json", json.dumps(REVIEW).encode(), _review),
    "exclusions": ("e.jsonl", b'{"query_id": "q", "reason": "x"}\n', read_excluded),
    "preference rows": ("g.jsonl", json.dumps(GROUP).encode() + b"\n", lambda p: read_groups(p, KEYS)),
    "published rows": (
        "africa.jsonl", b'{"query": "a", "response": "b", "rejected_response": "c"}\n',
        lambda p: read_published([p], {"africa": ()})),
    "published tables": (
        "africa.csv", b"query,response,rejected_response\na,b,c\n",
        lambda p: read_published([p], {"africa": ()})),
    "results of batches": ("r.jsonl", json.dumps(RESULT).encode() + b"\n", lambda p: ResultsFiles((p,))),
    "prices": (
        "p.yaml", b"models:\n  openai:x: {input: 0.1, output: 0.2}\n",
        lambda p: price_of(ModelRef("openai", "x"), p)),
    "training configs": ("t.yaml", b"base: x\norpo: {rank: 4}\n", load_config),
    "models by part": ("m.yaml", b"meta: openai:x\n", models_of_file),
    "models' configs": (
        "config.json", b'{"quantization_config": {"quant_method": "fp8"}}', lambda p: quantised_by(p.parent)),
    "rows of a semantic evaluation": (
        "rows.jsonl", json.dumps(SEMANTIC_ROW).encode() + b"\n",
        lambda p: list(semantic_rows(RunFolder(p.parent)))),
    "gold answers": (
        "gold.jsonl", b'{"query": "What?", "community": "asia", "response": "This."}\n',
        lambda p: load_gold(p, CONTINENTS)),
    "rows of an elicitation": (
        "rows.jsonl", json.dumps(READING).encode() + b"\n", lambda p: _elicited(p.parent)),
    "manifests of an elicitation": (
        "manifest.json", b'{"readouts": ["labels"]}', lambda p: _elicited(p.parent)),
    "rows of a run that is reported": (
        "rows.jsonl", _made(_survey_run, "rows.jsonl"),
        _beside(_survey_run, lambda p: load_evaluation(p, CONTINENTS))),
    "manifests of a run that is reported": (
        "manifest.json", _made(_survey_run, "manifest.json"),
        _beside(_survey_run, lambda p: load_evaluation(p, CONTINENTS))),
    "floors of a run that is reported": (
        "floors.json", _made(_survey_run, "floors.json"),
        _beside(_survey_run, lambda p: load_evaluation(p, CONTINENTS))),
    "rows of a semantic run that is reported": (
        "rows.jsonl", _made(_semantic_run, "rows.jsonl"), _beside(_semantic_run, _semantic_report)),
    "manifests of a semantic run that is reported": (
        "manifest.json", _made(_semantic_run, "manifest.json"), _beside(_semantic_run, _semantic_report)),
    "floors of a semantic run that is reported": (
        "floors.json", _made(_semantic_run, "floors.json"), _beside(_semantic_run, _semantic_report)),
    "lists of a report's files": (
        "report.json", json.dumps(REPORT).encode(), lambda p: files_of_report(p.parent)),
    "blends of countries": ("b.json", json.dumps(BLEND_FILE).encode(), read_blends),
    "pinned items": ("i.txt", b"# a list\nq1/KEN\n", read_items),
    "paraphrases": ("p.jsonl", b'{"id": "q", "paraphrases": ["a"]}\n', paraphrases_of_file),
    "share questions": (
        "s.jsonl", json.dumps(SHARE_QUESTION).encode() + b"\n", lambda p: read_share_questions(p, KEYS)),
    "servers that were started": (
        "state.json", json.dumps(SERVERS).encode(), lambda p: Fleet(p.parent).status()),
    "surveys of the leakage gate": ("s.csv", b"question,id\nIs tea good?,1\n", read_survey),
    "surveys of the leakage gate in JSONL": (
        "s.jsonl", b'{"question": "Is tea good?", "id": "1"}\n', read_survey),
    "PRISM's conversations": ("conversations.jsonl", json.dumps(CONVERSATION).encode() + b"\n", _prism),
    "PRISM's survey": ("survey.jsonl", json.dumps(PERSON).encode() + b"\n", _prism),
    "routers": ("router.safetensors", _made(_router, "router.safetensors"), load_routers),
    **{f"survey {name}": _field_survey(name) for name in (
        "SEX_data.json", "West_Java_data.json", "books.json", "culturalbench_easy.csv",
        "culturalbench_hard.csv", "global_values.json", "normad.csv", "simbench.csv", "subpop.jsonl",
        "vital.json")},
    "adapters' configs": ("adapter_config.json", json.dumps(ADAPTER).encode(), lambda p: _serve(p.parent)),
}  # fmt: skip
DEEP = 50_000
PIECES = (
    b"", b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"{}", b"[]", b"null", b"NaN", b"Infinity", b"1e999", b"-1",
    b'""', b"\n", b"\r", b"'", b'"', b"\\ud800", b"\xed\xa0\x80", b"<script>", b"=1+1",
    b"[" * DEEP, b"{" * DEEP,
    b'{"a":' * DEEP, b"a = " + b"[" * DEEP, b"&a [*a]", b"!!python/object:os.system x",
    b"? [a]\n: b\n", b"2001-99-99",
    "\u202e".encode(), b"true", b": ", b"- ", b"9" * 5000, b"9" * 400, b"x" * 300, b"{0}", b"%s",
    b"~nobody/x",
)  # fmt: skip


def bent(right: bytes) -> st.SearchStrategy[bytes]:
    """What is right with up to three places replaced; or one piece alone."""
    edit = st.tuples(st.integers(0, len(right)), st.integers(0, 12), st.sampled_from(PIECES))
    edits = st.lists(edit, min_size=1, max_size=3)

    def applied(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = right
        for start, gone, piece in changes:
            data = data[:start] + piece + data[start + gone :]
        return data

    return st.one_of(edits.map(applied), st.sampled_from(PIECES), st.binary(max_size=60))


def read(name: str, data: bytes) -> None:
    file, _, reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(data)
        try:
            reader(path)
        except PaletteError as error:
            assert 0 < len(str(error)) < MOST_SHOWN + MOST_OF_THE_END + 60


@pytest.mark.parametrize("name", READERS)
def test_what_is_right_is_read(name: str, tmp_path: Path) -> None:
    file, right, reader = READERS[name]
    (tmp_path / file).write_bytes(right)
    try:
        reader(tmp_path / file)
    except PaletteError as error:  # a made-up row lacks what a run has
        assert name in ("answers", "queries", "models by part"), error


@pytest.mark.parametrize("name", [name for name in READERS if name != "routers"])  # which are no text
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["line feeds", "as on Windows"])
def test_a_byte_order_mark_changes_nothing(name: str, ends: bytes, tmp_path: Path) -> None:
    """Editors on Windows write one in front of every text, and their own ends of lines."""
    file, right, reader = READERS[name]

    def outcome(data: bytes) -> str:
        (tmp_path / file).write_bytes(data)
        try:
            reader(tmp_path / file)
        except PaletteError as error:
            return str(error)
        return "read"

    assert outcome(codecs.BOM_UTF8 + right.replace(b"\n", ends)) == outcome(right)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("piece", range(len(PIECES)))
def test_each_piece_alone_is_read_or_refused(name: str, piece: int) -> None:
    read(name, PIECES[piece])


MAY_BE_ABSENT = (
    "settings", "rows of a synthesis", "rows of an evaluation", "rows of a semantic evaluation",
    "rows of an elicitation", "manifests of a finished", "manifests of an elicitation", "configs of runs",
    "floors of", "lists of", "servers",
)  # fmt: skip
"""What nobody has to write, or a run begins with."""
WRONG = (
    None,
    [],
    {},
    "x",
    -1,
    True,
    1e300,
    10**400,
    0.5,
    "\ud800",
    "\x1b[31m",
    [[]],
    {"a": None},
    [None],
    "../../x",
)


def _each_field_wrong(value: Any, depth: int = 3) -> Iterator[Any]:
    """The value with one field, however deep, taken out or replaced by one of another type."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: kept for name, kept in value.items() if name != key}
            for wrong in (*WRONG, *(_each_field_wrong(inner, depth - 1) if depth else ())):
                yield {**value, key: wrong}
    elif isinstance(value, list) and value:
        for wrong in (*WRONG, *(_each_field_wrong(value[0], depth - 1) if depth else ())):
            yield [wrong, *value[1:]]


def _as_toml(value: Any) -> str:
    """A value in one line; TOML has no null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if value is not None else '"null"'


def _toml_file(value: Any) -> str:
    return "".join(f"{json.dumps(key)} = {_as_toml(inner)}\n" for key, inner in value.items())


LOADS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads, ".jsonl": json.loads, ".yaml": yaml.safe_load, ".toml": tomllib.loads,
}  # fmt: skip
OBJECTS = [name for name, (file, _, _) in READERS.items() if Path(file).suffix in LOADS]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_field_of_another_type_is_read_or_refused(name: str) -> None:
    file, right, _ = READERS[name]
    dumps = _toml_file if file.endswith(".toml") else json.dumps  # JSON is YAML
    first, end, more = right.partition(b"\n") if file.endswith(".jsonl") else (right, b"\n", b"")
    for wrong in _each_field_wrong(LOADS[Path(file).suffix](first.decode())):
        read(name, dumps(wrong).encode("utf-8", "surrogatepass") + end + more)


@pytest.mark.parametrize("name", READERS)
def test_bent_bytes_are_read_or_refused(name: str) -> None:
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(bent(READERS[name][1]))
    def tried(data: bytes) -> None:
        read(name, data)

    tried()


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("answers", "adapters' configs")])
@pytest.mark.parametrize("kind", ["a folder", "a circle of links", "nothing"])
def test_what_is_no_file_is_refused_in_a_line(name: str, kind: str, tmp_path: Path) -> None:
    file, _, reader = READERS[name]
    path = tmp_path / file
    if kind == "a folder":
        path.mkdir()
    elif kind == "a circle of links":
        path.symlink_to(path)
    if (kind == "nothing" and name.startswith(MAY_BE_ABSENT)) or name == "models' configs":
        reader(path)
        return
    with pytest.raises(PaletteError):
        reader(path)
