"""The notebooks run, their solutions hold, their stored outputs are what the code prints, and they
follow the rules."""

import ast
import builtins
import copy
import functools
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import coalesce_streams, get_sanitize_patterns

from gluonlm.presets import PRESETS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
SANITIZE = FOLDER / "nbval.cfg"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_LINES, MAX_BYTES, MAX_WIDTH = 30, 350_000, 250
MAX_DRAWING = 0.2  # share of the code lines of a lesson
DRAWING = re.compile(
    r"\b(plt|axes|panels|figure|teaching\.(figure|lines|bars|rows|heat_strip|draw_\w+|box|arrow|dress))\b"
)
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(home|root|work|tmp|usr|opt|var|Users|mnt)/|[A-Z]:\\\\")
# nobody looks at the pictures of these runs; a large one takes four times as long as a small one
SMALL = "--IPKernelApp.exec_lines=from gluonlm.teaching import figures; figures.DPI = 20"
NUMBER = re.compile(r"\d(?:[\d,.]*\d)?(?:e-\d+)?")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def solutions(notebook) -> list[str]:
    """The folded solutions of the exercises."""
    return [
        code
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for code in SOLUTION.findall(cell.source)
    ]


def commands(notebook) -> list[list[str]]:
    """The package's commands with options that the prose shows, in blocks and within lines."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = re.findall(r"^python -m gluonlm\..*", text, re.MULTILINE)
    lines += re.findall(r"`(python\s+-m\s+gluonlm\.[^`]+)`", text)
    found = [shlex.split(line, comments=True)[2:] for line in lines]
    return [command for command in found if len(command) > 1]


@functools.cache
def stored(path: Path):
    return nbformat.read(path, as_version=4)


@functools.cache
def executed(path: Path):
    """The notebook after a run at the tiny workload, with its solutions as further cells: once for
    all tests."""
    notebook = copy.deepcopy(stored(path))
    notebook.cells += [
        new_code_cell(code, metadata={"tags": ["solution"]}) for code in solutions(notebook)
    ]
    waits = {"timeout": 600, "startup_timeout": 600, "iopub_timeout": 600}  # 4 s: output is lost
    executor = ExecutePreprocessor(kernel_name="python3", extra_arguments=[SMALL], **waits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLUONLM_WORKLOAD", "tiny")
        executor.preprocess(notebook, {"metadata": {"path": FOLDER}})
    return notebook


def printed(cell) -> list[str]:
    """What a cell shows as text, without what nbval leaves out too."""
    texts = []
    for output in coalesce_streams(copy.deepcopy(cell.outputs)):
        if output.output_type == "stream":
            text = output.text
        else:
            text = output.data.get("text/markdown", output.data.get("text/plain", ""))
        for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text()):
            text = re.sub(pattern, replacement, text)
        texts.append(text)
    return texts


def public_names() -> set[str]:
    """Functions and classes that the package's modules define for others."""
    return {
        node.name
        for module in (ROOT / "gluonlm").rglob("*.py")
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


def defined(source: str) -> set[str]:
    """Names of the functions and classes that a cell defines at its top level."""
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def drawing_share(notebook) -> float:
    """The share of code lines that belong to statements that draw; captions are prose, not code."""
    lines = {True: 0, False: 0}
    for cell in code_cells(notebook):
        tree, source = ast.parse(cell.source), cell.source.splitlines()
        prose = {
            number
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr | ast.Constant) and isinstance(node, ast.expr)
            for number in range(node.lineno, node.end_lineno + 1)
            if re.fullmatch(r"\s*f?\".*\"\,?", source[number - 1])
        }
        for node in tree.body:
            numbers = set(range(node.lineno, node.end_lineno + 1)) - prose
            draws = DRAWING.search("\n".join(source[number - 1] for number in numbers))
            lines[bool(draws)] += sum(bool(source[number - 1].strip()) for number in numbers)
    return lines[True] / sum(lines.values())


def has_assert(source: str) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def alternative_text(output) -> str:
    """What a picture shows, in words, as :func:`gluonlm.teaching.show_figure` stores it; empty
    where it says little."""
    text = output.metadata.get("image/png", {}).get("alt", "")
    return text if len(text.split()) >= 5 else ""


def complaints(notebook, public: set[str]) -> list[str]:
    """What is against the rules of notebooks."""
    cells = code_cells(notebook)
    found = [
        f"cell {i}: execution count {c.execution_count}"
        for i, c in enumerate(cells, 1)
        if c.execution_count != i
    ]
    found += [
        f"cell {i}: times of its execution"
        for i, cell in enumerate(cells, 1)
        if "execution" in cell.metadata
    ]
    for i, cell in enumerate(cells, 1):
        by_hand = "from-scratch" in cell.metadata.get("tags", ())
        if by_hand and not (i < len(cells) and has_assert(cells[i].source)):
            found.append(f"cell {i}: written from scratch, but the next cell asserts nothing")
        if not by_hand and (names := defined(cell.source) & public):
            found.append(f"cell {i}: redefines {min(names)} of the package")
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            found.append(f"cell {i}: {lines} lines")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {i}: {output.get('name', 'error')} in the output")
            if (width := max(map(len, output.get("text", "").split("\n")))) > MAX_WIDTH:
                found.append(f"cell {i}: a printed line of {width} characters")
            if ABSOLUTE_PATH.search(
                str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            ):
                found.append(f"cell {i}: an absolute path in the output")
            # pictures are shown with teaching.show_figure(figure, "what there is to see") instead
            # of plt.show()
            if "image/png" in output.get("data", {}) and not alternative_text(output):
                found.append(f"cell {i}: a picture without a description")
    found += ["a solution asserts nothing" for code in solutions(notebook) if not has_assert(code)]
    return found


def test_there_are_notebooks():
    assert "01_language_model" in [path.stem for path in NOTEBOOKS]


@every_notebook
def test_follows_the_rules(path):
    assert complaints(stored(path), public_names() - set(dir(builtins))) == []


@every_notebook
def test_is_a_lesson_of_bearable_size(path):
    assert path.stat().st_size <= MAX_BYTES
    assert 3 <= len(solutions(stored(path))) <= 6
    assert stored(path).metadata.kernelspec.name == "python3"


@every_notebook
def test_draws_little_and_asks_eight_quick_questions(path):
    assert drawing_share(stored(path)) <= MAX_DRAWING
    questions = [
        cell.source
        for cell in stored(path).cells
        if cell.cell_type == "markdown" and cell.source.startswith("## Quick questions")
    ]
    assert [text.count("<details><summary>") for text in questions] == [8]
    assert any("**To read on.**" in cell.source for cell in stored(path).cells)


@every_notebook
def test_the_figures_in_the_course_table_stand_in_the_notebook(path):
    readme = (ROOT / "README.md").read_text()
    (result,) = re.findall(rf"^\| .*{re.escape(path.name)}\).* \| (.*) \|$", readme, re.MULTILINE)
    outputs = [output for cell in code_cells(stored(path)) for output in cell.outputs]
    shown = set(re.findall(NUMBER, "\n".join(output.get("text", "") for output in outputs)))
    assert re.findall(NUMBER, result), result
    for figure in re.findall(NUMBER, result):
        assert figure in shown, f"{path.name} does not print {figure}, which README quotes"


@every_notebook
def test_its_commands_are_understood(path):
    for name, *arguments in commands(stored(path)):
        module = importlib.import_module(name)
        parse = module.parse if hasattr(module, "parse") else module.parser().parse_args
        assert getattr(parse(arguments), "preset", "tiny") in PRESETS


@every_notebook
def test_every_figure_has_its_caption(path):
    outputs = [output for cell in code_cells(stored(path)) for output in cell.outputs]
    for picture, caption in zip(outputs, [*outputs[1:], {}], strict=True):
        if "image/png" in picture.get("data", {}):
            assert caption["data"]["text/markdown"] == f"*{alternative_text(picture)}*"
            assert picture.metadata["image/png"]["width"] > 300


BY_HAND = {
    "Dictionary",
    "Corpus",
    "batchify",
    "get_batch",
    "RNNModel",
    "detach",
    "evaluate",
    "train",
}


def test_the_first_lesson_builds_the_model_on_the_page():
    cells = [cell.source for cell in code_cells(stored(FOLDER / "01_language_model.ipynb"))]
    assert max(len(source.splitlines()) for source in cells) <= 20
    homes = {name: i for i, source in enumerate(cells) for name in defined(source) & BY_HAND}
    assert set(homes) == BY_HAND
    compared = min(i for i, source in enumerate(cells) if "gluonlm.batchify" in source)
    assert max(homes.values()) < compared
    earlier = "\n".join(cells[:compared])
    modules = {
        getattr(node, "module", None) or alias.name
        for node in ast.walk(ast.parse(earlier))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in modules if name.startswith("gluonlm")} == {"gluonlm"}
    assert set(re.findall(r"\bgluonlm\.(\w+)", earlier)) == {"__version__"}
    assert has_assert(cells[compared])


@every_notebook
def test_runs_and_its_solutions_hold(path):
    for cell in code_cells(executed(path)):  # an error in any cell has been raised before
        assert [output.text for output in cell.outputs if output.get("name") == "stderr"] == []


@every_notebook
def test_stored_outputs_are_what_the_code_prints(path):
    for before, after in zip(code_cells(stored(path)), code_cells(executed(path)), strict=False):
        assert printed(before) == printed(after), before.source


def test_the_share_of_drawing_counts_statements_and_leaves_out_captions():
    sources = [
        "x = 1\ny = 2",
        'with teaching.figure(\n    "a long caption, "\n    "in two lines"\n) as axes:\n    '
        "axes.plot(x)",
        "figure, axes = plt.subplots()",
    ]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    assert drawing_share(notebook) == 4 / 6


def test_the_rules_can_be_broken():
    def cell(source, count, *outputs, tags=()):
        return new_code_cell(
            source, execution_count=count, outputs=list(outputs), metadata={"tags": list(tags)}
        )

    notebook = new_notebook(
        cells=[
            cell("def batchify(): ...", 1, new_output("stream", text=f"{'x' * 251}\nx")),
            cell("def batchify(): ...", 2, tags=["from-scratch"]),
            cell("x = 1", 4, new_output("stream", name="stderr", text="oops")),
            cell(
                "\n".join(["x = 1"] * 31),
                4,
                new_output("stream", name="stdout", text="saved in /home/me/runs"),
            ),
            cell("plt.show()", 5, new_output("display_data", {"image/png": "iVBORw0KGgo="})),
            new_code_cell(
                "x = 1",
                execution_count=6,
                metadata={"execution": {"iopub.execute_input": "2026-11-23"}},
            ),
            new_markdown_cell("<details>\n\n```python\nx = 1\n```\n\n</details>"),
        ]
    )
    assert complaints(notebook, {"batchify"}) == [
        "cell 3: execution count 4",
        "cell 6: times of its execution",
        "cell 1: redefines batchify of the package",
        "cell 1: a printed line of 251 characters",
        "cell 2: written from scratch, but the next cell asserts nothing",
        "cell 3: stderr in the output",
        "cell 4: 31 lines",
        "cell 4: an absolute path in the output",
        "cell 5: a picture without a description",
        "a solution asserts nothing",
    ]


OUTPUT = """epoch   1/40 | batch   100/203 | lr 17.56 | loss {0}.831 | ppl  {0}40.86 \
|  1{0}248 tokens/s |    {0} s left
epoch   1 |      {0} s in all | lr 15 | train ppl   {0}53.27 | valid loss {0}.0155 \
| valid ppl   {0}50.74 | best model saved
forward (35, 20): ≈{0}.28 ms, hybridized ≈{0}1.3e-05 ms
» emma was {0}
» and so on
shape (35, 20), learning rate 0.25
"""


def claims_to_have_printed(text: str):
    """A cell that prints OUTPUT for 7, stored with another output."""
    output = new_output("stream", name="stdout", text=text)
    return new_code_cell(
        f"print({OUTPUT.format(7)!r}, end='')", execution_count=1, outputs=[output]
    )


def test_nbval_forgives_another_machine_but_not_another_output(tmp_path):
    changes = [
        ("0.25", "0.26"),
        ("(35, 20),", "(35, 21),"),
        ("» ", ""),
        ("epoch   1 ", "epoch   2 "),
    ]
    texts = [OUTPUT.format(3), *(OUTPUT.format(7).replace(old, new) for old, new in changes)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(
        new_notebook(cells=[claims_to_have_printed(t) for t in texts], metadata=kernel),
        tmp_path / "n.ipynb",
    )
    (tmp_path / "pytest.ini").write_text("[pytest]")  # not that of this repository
    options = [
        "--nbval",
        "--nbval-current-env",
        f"--nbval-sanitize-with={SANITIZE}",
        "-rA",
        "-p",
        "no:cacheprovider",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    outcomes = re.findall(r"^(PASSED|FAILED) n\.ipynb::Cell (\d)", result.stdout, re.MULTILINE)
    assert outcomes == [("PASSED", "0")] + [("FAILED", str(cell)) for cell in range(1, len(texts))]
