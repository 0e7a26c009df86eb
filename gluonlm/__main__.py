"""The commands of gluonlm.

python -m gluonlm            # names them all
gluonlm train --help         # the same as python -m gluonlm.train --help
"""

import ast
import runpy
import sys
from pathlib import Path

from gluonlm import cli
from gluonlm.system.errors import UserError

COMMANDS = (
    *("train", "evaluate", "score", "generate", "prune", "quantize", "export", "launch"),
    *("prepare", "datasets", "doctor", "completion"),
)


def summary(command: str) -> str:
    """What a command is for: the first line of its module, which need not be imported for it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def name_all(argv: list[str]) -> None:
    """Name all commands; a UserError when another one was meant."""
    if argv and not argv[0].startswith("-"):
        raise UserError(f"there is no command {argv[0]}: give one of {', '.join(COMMANDS)}")
    for name in COMMANDS:
        print(f"python -m gluonlm.{name:<10} {summary(name)}")
    print("\n--help after any of them shows its options.")


def main() -> None:
    """Run the command that is named, as ``python -m gluonlm.COMMAND`` does; name all if none is."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        del sys.argv[0]
        runpy.run_module(f"gluonlm.{sys.argv[0]}", run_name="__main__", alter_sys=True)
    else:
        cli.run(name_all)


if __name__ == "__main__":
    main()
