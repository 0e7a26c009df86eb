"""The layout: imports point one way and in no circle, no library imports a command, nothing is
large.

What stands in TOO_LARGE and UPWARD is older than the rule and may only shrink or go.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from scripts import load_script

size = load_script("benchmarks/size.py")

RANKS = {  # a room may import rooms of its own rank or a lower one; no two rooms import each other
    "system": 0,
    "text": 1,
    "model": 2,
    "inference": 3,
    "compress": 4,
    "training": 5,
    "onnx": 5,
    "parallel": 6,
    "teaching": 7,  # what only the notebooks import
}
SETTINGS = {"config", "presets", "errors"}  # at the top of the package, for all to import
FRONT_DOOR = {"RUNTIME", "prepare", "__version__"}  # what a library may use of gluonlm itself
LIMITS = {"lines of a file": 320, "lines of a function": 40, "parameters": 6}
TOO_LARGE: dict[str, int] = {
    "model/adaptive.py: SplitDecoder.hybrid_forward: parameters": 7,  # Gluon passes each weight
    "model/qrnn.py: QRNNLayer.__init__: parameters": 8,
    "model/rnn.py: RecurrentLayer.__init__: parameters": 7,
    "training/step.py: train_step: parameters": 8,
}
UPWARD: set[str] = set()


def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module by its name, such as ``gluonlm.model.rnn``."""
    trees = {}
    for file, source in size.sources().items():
        parts = ["gluonlm", *file.removesuffix(".py").split("/")]
        trees[".".join(part for part in parts if part != "__init__")] = ast.parse(source)
    return trees


def imported(tree: ast.Module, names: set[str]) -> set[str]:
    """Which of the modules a module imports, anywhere: also in functions and for type checkers
    only.

    What is used of ``gluonlm`` itself appears as ``gluonlm:NAME``.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in names else node.module)
                if node.module == "gluonlm" and module not in names:
                    found.add(f"gluonlm:{alias.name}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gluonlm":
            found |= {f"gluonlm:{node.attr}"} - {f"gluonlm:{name[8:]}" for name in names}
    return {name for name in found if name in names or name.startswith("gluonlm:")}


def room(module: str) -> str:
    """The folder that a module lies in; for one at the top its own name."""
    return (module.split(".") + [""])[1]


def wrong_imports(graph: dict[str, set[str]]) -> set[str]:
    """Imports of the libraries that point upward, at a command or at the front door."""
    wrong = set()
    for module, others in graph.items():
        rank = RANKS.get(room(module))
        for other in others if rank is not None else ():
            _, colon, used = other.partition(":")
            allowed = room(other) in SETTINGS or RANKS.get(room(other), 9) <= rank
            if other != "gluonlm" and not (used in FRONT_DOOR if colon else allowed):
                wrong.add(f"{module} -> {other}")
    return wrong


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """What each module imports of the package."""
    trees = modules()
    return {name: imported(tree, set(trees)) - {name} for name, tree in trees.items()}


@pytest.fixture(scope="module")
def rooms(graph) -> dict[str, set[str]]:
    """What each room imports of the other rooms."""
    found = {}
    for module, others in graph.items():
        for other in others:
            if f"{module} -> {other}" not in UPWARD and {room(module), room(other)} <= set(RANKS):
                found.setdefault(room(module), set()).add(room(other))
    return {name: others - {name} for name, others in found.items()}


def too_large() -> dict[str, int]:
    """What is above its limit, and by which figure."""
    figures = {}
    for file, source in size.sources().items():
        figures[f"{file}: lines of a file"] = len(source.splitlines())
        for one in size.functions(file, source):
            figures[f"{one.name}: lines of a function"] = one.lines
            if one.name != "config.py: Config.__init__":
                figures[f"{one.name}: parameters"] = one.parameters
    return {
        what: figure
        for what, figure in figures.items()
        if figure > LIMITS[what.rpartition(": ")[2]]
    }


def test_imports_of_libraries_point_one_way(graph):
    assert set(RANKS) == {room(name) for name in graph if name.count(".") > 1}
    assert wrong_imports(graph) <= UPWARD


def test_no_two_rooms_import_each_other(rooms):
    assert circle(rooms) == []


def test_no_module_imports_itself_through_others(graph):
    ours = {
        name: {other for other in others if ":" not in other and f"{name} -> {other}" not in UPWARD}
        for name, others in graph.items()
    }
    assert circle(ours) == []


def test_nothing_is_large():
    assert {what: n for what, n in too_large().items() if n > TOO_LARGE.get(what, 0)} == {}


def test_a_wrong_import_is_seen_wherever_it_stands():
    names = {"gluonlm", "gluonlm.train", "gluonlm.text.corpus", "gluonlm.text.reader"}
    source = """
import gluonlm
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from gluonlm.text import corpus
def late():
    from gluonlm.train import main
    return gluonlm.load("x"), gluonlm.RUNTIME
"""
    seen = imported(ast.parse(source), names)
    assert seen == {"gluonlm", "gluonlm.text.corpus", "gluonlm.train"} | {
        "gluonlm:load",
        "gluonlm:RUNTIME",
    }
    graph = {"gluonlm.text.reader": seen, "gluonlm.text.corpus": {"gluonlm.text.reader"}}
    assert wrong_imports(graph) == {
        "gluonlm.text.reader -> gluonlm.train",
        "gluonlm.text.reader -> gluonlm:load",
    }
    assert set(circle(graph)) == {"gluonlm.text.reader", "gluonlm.text.corpus"}


def test_the_sizes_of_functions_are_those_of_the_source():
    source = (
        "class A:\n    def f(self, a, /, *b, c=1, **d):\n        def g(): ...\n        return 1\n"
    )
    assert size.functions("a.py", source) == [("a.py: A.f", 3, 5), ("a.py: A.f.g", 1, 0)]


def test_make_size_prints_the_figures(capsys):
    size.main()
    said = capsys.readouterr().out
    lines = sum(len(source.splitlines()) for source in size.sources().values())
    assert f"{lines:,} lines" in said
    assert "median" in said
    assert "longest parameter list" in said


def test_tests_begin_in_an_empty_folder_outside_of_the_clone():
    assert not Path.cwd().is_relative_to(size.PACKAGE.parent)
    assert list(Path.cwd().iterdir()) == []
