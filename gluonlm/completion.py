"""Print what completes commands, options and files after ``gluonlm`` at a press of the tab key.

gluonlm completion > ~/.local/share/bash-completion/completions/gluonlm      # for bash

zsh reads the same file after ``autoload -U bashcompinit && bashcompinit``.
"""

import contextlib
import importlib
import io
import re

from gluonlm.__main__ import COMMANDS
from gluonlm.cli import Parser, run

SCRIPT = """\
_gluonlm() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" known
  case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
    1*) known="{commands}" ;;
{cases}
  esac
  [[ $COMP_CWORD == 1 || $word == -* ]] && COMPREPLY=($(compgen -W "$known" -- "$word"))
}}
complete -o default -F _gluonlm gluonlm"""


def help_text(module: str) -> str:
    """What a command prints for --help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    return said.getvalue()


def options(command: str) -> list[str]:
    """The long options of a command, from its help."""
    lines = re.findall(r"^  (-.*?)(?:   |$)", help_text(f"gluonlm.{command}"), re.MULTILINE)
    return re.findall(r"--[a-z][\w-]*", " ".join(lines))


def main(argv: list[str]) -> None:
    """Print the script."""
    Parser("completion", __doc__).parse_args(argv)
    cases = [f'    *" {name}") known="{" ".join(options(name))}" ;;' for name in COMMANDS]
    print(SCRIPT.format(commands=" ".join(COMMANDS), cases="\n".join(cases)))


if __name__ == "__main__":
    run(main)
