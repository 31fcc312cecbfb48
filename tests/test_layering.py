"""Imports point one way, without exceptions: palette <- nodes <- graph <- evaluation; training uses palette,
nodes and graph; serving uses palette. Commands, the page and the names of the package itself stand on top.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

FOLDERS = ("palette", "nodes", "graph", "training", "evaluation", "benchmarks")
BELOW = {"palette", "nodes", "graph", "training", "evaluation", "serving", "ui"}
# A room -> the rooms it may import from, at its top or inside a function, for the type checker too.
MAY_USE = {
    "palette": {"palette"},
    "serving": {"palette", "serving"},
    "nodes": {"palette", "nodes"},
    "graph": {"palette", "nodes", "graph"},
    "training": {"palette", "nodes", "graph", "training"},
    "evaluation": {"palette", "nodes", "graph", "evaluation"},
    "ui": {"palette", "nodes", "graph", "ui"},
    "cli": {*BELOW, "cli", "door"},
    "door": {*BELOW, "cli", "door"},  # `import cultural_palette`, `python -m cultural_palette`
    "benchmarks": {*BELOW, "cli", "door", "benchmarks"},
}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "mergekit",
    "vllm",
    "ray",
    "accelerate",
    "datasets",
    "safetensors",
    "scipy",
}
# What `palette --help` must not wait for.
SLOW = HEAVY | {
    "asyncio", "langchain_core", "langchain_openai", "langgraph", "numpy", "openai", "pycountry", "pydantic",
    "pydantic_settings", "rich", "yaml",
}  # fmt: skip


class Import(NamedTuple):
    """`name`: the module as far as known; `lazy`: inside a function; `typing`: for the type checker only."""

    file: Path
    line: int
    name: str
    lazy: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name}"


def imports_of(file: Path) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, lazy, typing)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the whole name"
            for alias in node.names:
                yield Import(file, node.lineno, f"{node.module}.{alias.name}", lazy, typing)
        typing_block = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy, typing or typing_block)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), False, False)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    inside = parts[1:] if parts[0] == "palette" else parts
    return ".".join(("cultural_palette", *inside)).removesuffix(".__init__")


def room_of(name: str) -> str | None:
    """The room a module lives in; None when it is not ours."""
    top, _, rest = name.partition(".")
    if top == "benchmarks" or (top == "cultural_palette" and rest.startswith("benchmarks.")):
        return "benchmarks"
    if top != "cultural_palette":
        return None
    first = rest.partition(".")[0]
    if first in ("", "__main__", "__version__"):
        return "door"
    return first if first in MAY_USE else "palette"


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]


def allowed(found: Import) -> bool:
    room, target = room_of(module_of(found.file)), room_of(found.name)
    assert room is not None
    return target is None or target in MAY_USE[room]


def test_every_folder_is_a_package() -> None:
    assert [folder for folder in FOLDERS if not (ROOT / folder / "__init__.py").is_file()] == []


def packages_around(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def test_imports_go_round_in_no_circle() -> None:
    """Counting those inside functions and those for the type checker, and the packages around a module, whose
    `__init__.py` runs before it.
    """
    modules = {module_of(file) for file in FILES}
    uses: dict[str, set[str]] = {module: set() for module in modules}
    for found in IMPORTS:
        user, target = module_of(found.file), found.name
        while target and target not in modules:
            target = target.rpartition(".")[0]
        if target and target != user and room_of(target) != "door":
            around = packages_around(target) - packages_around(user) - {user}
            uses[user] |= {target, *(package for package in around if room_of(package) != "door")}
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle: {' -> '.join(reversed(circle.args[1]))}")


def test_imports_point_one_way() -> None:
    assert [str(found) for found in IMPORTS if not allowed(found)] == []


# Stages whose modules import a heavy package at the top; their callers import the module when they run.
HEAVY_AT_TOP = ("training", "evaluation")
# What loads without a heavy package: clients, commands, settings, files; each name with its submodules.
LIGHT = (
    "cultural_palette.cli", "cultural_palette.graph", "cultural_palette.nodes",
    "cultural_palette.training.config", "cultural_palette.training.durations",
    "cultural_palette.training.jobs", "cultural_palette.training.orpo_settings",
    "cultural_palette.training.preferences", "cultural_palette.training.prism",
    "cultural_palette.training.queries", "cultural_palette.training.synthesis",
    "cultural_palette.training.pentachromatic.build", "cultural_palette.training.pentachromatic.card",
    "cultural_palette.training.review", "cultural_palette.evaluation.surveys",
)  # fmt: skip

# Of the layers' room, what a command or a graph may import: the nouns, no tensor.
MOERGES_LIGHT = {
    f"cultural_palette.moerges{name}"
    for name in ("", ".headers", ".modes", ".peft_settings", ".peft_weights", ".prompts", ".quantised")
}


def light(module: str) -> bool:
    """The rest of `palette/` too, but for the engine in process, its layers and what runs inside vLLM; not
    what runs in the LangGraph server, which sets up its own process.
    """
    if within(module, "cultural_palette.graph.server") or module.endswith((".ray_engine", ".on_cluster")):
        return False
    if any(within(module, name) for name in LIGHT) or module in MOERGES_LIGHT:
        return True
    return room_of(module) == "palette" and not any(
        within(module, f"cultural_palette.{heavy}")
        for heavy in ("embedded", "models.embedded", "moerges", "serving")
    )


def test_light_modules_load_no_heavy_package() -> None:
    modules = [module for file in FILES if light(module := module_of(file)) and file.name != "__main__.py"]
    assert len(modules) > 60
    code = (
        f"import sys, importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
        f"    heavy = set(sys.modules) & {HEAVY}\n    assert not heavy, (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_heavy_packages_are_imported_at_the_top_of_the_modules_that_need_them() -> None:
    inside = [
        str(found)
        for found in IMPORTS
        if found.name.partition(".")[0] in HEAVY
        and found.lazy
        and found.file.relative_to(ROOT).parts[0] in HEAVY_AT_TOP
    ]
    assert inside == []


def test_ray_is_imported_where_shards_are_run_and_where_ray_serve_runs_us_only() -> None:
    modules = {module_of(found.file) for found in IMPORTS if within(found.name, "ray")}
    benchmarks = {"cultural_palette.benchmarks.scale", "cultural_palette.benchmarks.app_load"}
    assert modules - benchmarks == {
        "cultural_palette.cluster.ray_engine", "cultural_palette.serving.ray_serve",
    }  # fmt: skip
    importers = {
        module_of(found.file) for found in IMPORTS if within(found.name, "cultural_palette.serving.ray_serve")
    }
    assert importers <= {"cultural_palette.benchmarks.app_load"}


def test_no_class_is_made_inside_a_function() -> None:
    nested = [
        f"{file.relative_to(ROOT)}:{inner.lineno} class {inner.name}"
        for file in FILES
        if file.relative_to(ROOT).parts[0] in HEAVY_AT_TOP
        for outer in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.ClassDef)
    ]
    assert nested == []


def test_no_package_imports_tests() -> None:
    assert [str(found) for found in IMPORTS if within(found.name, "tests")] == []


@pytest.mark.parametrize(
    ("package", "line", "right"),
    [
        ("palette/x.py", "import cultural_palette.graph.build", False),
        ("palette/x.py", "def f():\n    from cultural_palette.graph.build import build_palette", False),
        ("palette/cli/x.py", "def f():\n    from cultural_palette.graph.build import build_palette", True),
        ("palette/cli/x.py", "from cultural_palette.evaluation import metrics", True),
        ("palette/serving/x.py", "from cultural_palette.graph import build", False),
        ("palette/__init__.py", "from cultural_palette.graph.front_door import ask", True),
        ("nodes/x.py", "import cultural_palette", False),
        ("palette/x.py", "def f():\n    from cultural_palette.serving import plan", False),
        ("nodes/x.py", "from cultural_palette.nodes.state import PaletteState", True),
        ("nodes/x.py", "from cultural_palette.graph import build", False),
        ("nodes/x.py", "from cultural_palette.graph.build import build_palette", False),
        ("graph/x.py", "from cultural_palette.nodes.draft import draft", True),
        ("graph/x.py", "import cultural_palette.training", False),
        ("training/x.py", "from cultural_palette.evaluation import metrics", False),
    ],
)
def test_the_rule_itself(
    package: str, line: str, right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / package
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert all(allowed(found) for found in imports_of(file)) is right


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nbefore = set(sys.modules)\n"
        "from cultural_palette.cli import main\n"
        f"result = CliRunner().invoke(main, {arguments!r})\nassert result.exit_code == 0, result.output\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(done.stdout.split()) & SLOW == set()


def test_import_palette_loads_nothing() -> None:
    code = "import sys, cultural_palette as p; print(*sys.modules); p.Question; p.PaletteError"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & (SLOW | {"click"}) == set()
    assert "cultural_palette.questions" not in done.stdout.split()


def test_a_client_loads_no_heavy_package() -> None:
    code = (
        "import sys; from cultural_palette.graph.variants import build_variant; build_variant(); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_the_lazy_names_are_all_there() -> None:
    import cultural_palette

    assert sorted(cultural_palette.MODULE_OF) == sorted(cultural_palette.__all__)
    for name in cultural_palette.__all__:
        assert getattr(cultural_palette, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cultural_palette.nonsense
