"""The commands of gluonlm.

python -m gluonlm
"""

import ast
from pathlib import Path

COMMANDS = (
    "train",
    "evaluate",
    "generate",
    "prune",
    "quantize",
    "tradeoff",
    "export",
    "launch",
    "datasets",
    "doctor",
)


def summary(command: str) -> str:
    """What a command is for: the first line of its module, which need not be imported for it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    for name in COMMANDS:
        print(f"python -m gluonlm.{name:<9} {summary(name)}")
    print("\n--help after any of them shows its options.")
