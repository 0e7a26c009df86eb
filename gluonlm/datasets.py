"""List the data sets known by name, or download and verify them.

python -m gluonlm.datasets                # list them
python -m gluonlm.datasets ptb enwik8     # download and verify
"""

from pathlib import Path

from gluonlm.cli import Parser, run
from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder
from gluonlm.text.sources import ALIASES, DATASETS, ensure, presence


def main(argv: list[str] | None = None) -> dict[str, Path]:
    """List the data sets, or download and verify those named; returns the folders of the latter."""
    parser = Parser("datasets", __doc__)
    known = ", ".join(DATASETS)
    words = f"data sets to download: {known}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=words)
    names = [ALIASES.get(name, name) for name in parser.parse_args(argv).names]
    for name in names:
        if name not in DATASETS:
            raise UserError(f"there is no data set {name!r}: the data sets are {known}")
    folders = {name: ensure(DATASETS[name]) for name in names}
    for name, folder in folders.items():
        print(f"{name}: complete and verified in {folder}")
    if not names:
        print(f"data sets (downloads in {cache_folder()}):")
        for dataset in DATASETS.values():
            here = presence(dataset)
            print(f"  {dataset.name:<13} {here:<11} {dataset.level:<5} {dataset.about}")
    return folders


if __name__ == "__main__":
    run(main)
