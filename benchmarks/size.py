"""How large the package is: lines of each room, the median and the longest function, the longest
parameter list.

    make size

A room is a folder of the package; the commands and settings at its top count as one more.
"""

import ast
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
    rooms: dict[str, list[int]] = {}
    for file, source in sources().items():
        room = file.partition("/")[0] if "/" in file else "(commands)"
        rooms.setdefault(room, []).append(len(source.splitlines()))
    for room, lines in [*rooms.items(), ("total", sum(rooms.values(), []))]:
        print(f"{room:<12} {len(lines):>3} files {sum(lines):>7,} lines, longest {max(lines)}")
    every = [one for file, source in sources().items() for one in functions(file, source)]
    longest = max(every, key=lambda one: one.lines)
    widest = max(every, key=lambda one: one.parameters)
    print(f"\n{len(every):,} functions, median {median(one.lines for one in every):g} lines")
    print(f"longest function: {longest.lines} lines, {longest.name}")
    print(f"longest parameter list: {widest.parameters}, {widest.name}")


if __name__ == "__main__":
    main()
