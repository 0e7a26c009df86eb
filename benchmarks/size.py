"""How large the package is: lines of each room and how many of them are code (not blank, comments
or docstrings), the median and the longest function, the longest parameter list.

    make size

A room is a folder of the package; the commands and settings at its top count as one more.
"""

import ast
import io
import tokenize
from pathlib import Path
from statistics import median
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "gluonlm"


class Function(NamedTuple):
    """A function or method, at any depth."""

    name: str  # with its file: "model/rnn.py: RNNModel.hybrid_forward"
    lines: int  # from `def` to its end
    parameters: int  # self counts


def sources() -> dict[str, str]:
    """The text of each Python file by its path within the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in paths}


def code_lines(source: str) -> int:
    """How many lines have code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [
        (t.start[0], t.end[0]) for t in tokens if t.string.strip() and t.type != tokenize.COMMENT
    ]
    lines = {line for first, last in spans for line in range(first, last + 1)}
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def functions(file: str, source: str) -> list[Function]:
    """All functions of a file."""
    found = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}{getattr(child, 'name', '')}"
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = child.end_lineno - child.lineno + 1
                found.append(Function(f"{file}: {name}", lines, parameters(child.args)))
            named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            visit(child, f"{name}." if named else prefix)

    visit(ast.parse(source), "")
    return found


def parameters(args: ast.arguments) -> int:
    """How many parameters there are, of all kinds."""
    return (
        len(args.posonlyargs + args.args + args.kwonlyargs) + bool(args.vararg) + bool(args.kwarg)
    )


def main() -> None:
    """Print the table."""
    rooms: dict[str, list[str]] = {}
    for file, source in sources().items():
        room = file.partition("/")[0] if "/" in file else "(commands)"
        rooms.setdefault(room, []).append(source)
    for room, files in [*rooms.items(), ("total", sum(rooms.values(), []))]:
        lines, code = [len(one.splitlines()) for one in files], sum(map(code_lines, files))
        counts = f"{len(lines):>3} files {sum(lines):>7,} lines, {code:>6,} of code"
        print(f"{room:<12} {counts}, longest {max(lines)}")
    every = [one for file, source in sources().items() for one in functions(file, source)]
    longest = max(every, key=lambda one: one.lines)
    widest = max(every, key=lambda one: one.parameters)
    print(f"\n{len(every):,} functions, median {median(one.lines for one in every):g} lines")
    print(f"longest function: {longest.lines} lines, {longest.name}")
    print(f"longest parameter list: {widest.parameters}, {widest.name}")


if __name__ == "__main__":
    main()
