"""The commands of gluonlm.

python -m gluonlm            # names them all
gluonlm train --help         # the same as python -m gluonlm.train --help
"""

import ast
import runpy
import sys
from pathlib import Path

COMMANDS = (
    *("train", "evaluate", "score", "generate", "prune", "quantize", "export", "launch"),
    *("prepare", "datasets", "doctor", "completion"),
)


def summary(command: str) -> str:
    """What a command is for: the first line of its module, which need not be imported for it."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def main() -> None:
    """Run the command that is named, as ``python -m gluonlm.COMMAND`` does; name all if none is."""
    del sys.argv[0]
    if sys.argv and sys.argv[0] in COMMANDS:
        runpy.run_module(f"gluonlm.{sys.argv[0]}", run_name="__main__", alter_sys=True)
    elif sys.argv and not sys.argv[0].startswith("-"):
        sentence = f"there is no command {sys.argv[0]}: give one of {', '.join(COMMANDS)}"
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    else:
        for name in COMMANDS:
            print(f"python -m gluonlm.{name:<10} {summary(name)}")
        print("\n--help after any of them shows its options.")


if __name__ == "__main__":
    main()
