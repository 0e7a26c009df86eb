"""The data sets known by name, where they come from, and what is on this machine.

Downloads go to a folder for each in :func:`gluonlm.system.files.cache_folder`, which all projects
share. A file put there by hand is verified like a downloaded one.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder, write_output
from gluonlm.system.typed import typed
from gluonlm.text.download import File, Mirror, correct, fetch
from gluonlm.text.reader import SPLITS

BUNDLED = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Dataset:
    """A data set by name; the alphabet of a ``closed`` one is that of all three splits."""

    name: str
    level: str
    about: str
    files: tuple[File, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    closed: bool = False
    also: tuple[str, ...] = ()  # other names


REGISTRY = yaml.safe_load(Path(__file__).with_name("registry.yaml").read_text(encoding="utf-8"))
DATASETS = {name: typed({"name": name, **one}, Dataset, name) for name, one in REGISTRY.items()}
ALIASES = {other: name for name, dataset in DATASETS.items() for other in dataset.also}


def ensure(dataset: Dataset) -> Path:
    """The folder of a data set's files, which are downloaded or made if they are not there."""
    if dataset.name == "austen":
        return bundled_folder("austen")
    folder = cache_folder() / dataset.name
    if dataset.name == "ptb-char":
        make_ptb_char(dataset, folder)
    else:
        fetch(dataset.name, folder, dataset.files, dataset.mirrors)
    return folder


def bundled_folder(name: str) -> Path:
    """The folder of a data set that comes with the repository."""
    folder = BUNDLED / name
    if not all((folder / f"{split}.txt").is_file() for split in SPLITS):
        advice = "run from a clone of the repository, where `make` installs the package in place"
        cure = f"{advice}, or restore the folder with `git checkout data/{name}`"
        raise UserError(f"the bundled data set {name} is not in {folder}: {cure}")
    return folder


def make_ptb_char(dataset: Dataset, folder: Path) -> None:
    """The text of ptb without the blanks around its lines, to be read by characters: the usual data
    set of 50 characters, with a blank for the ``_`` of the published files."""
    if all(correct(folder / file.name, file.digest) for file in dataset.files):
        return
    source = ensure(DATASETS["ptb"])
    for file in dataset.files:
        lines = (source / file.name).read_text(encoding="utf-8").splitlines()
        write_output(folder / file.name, "".join(line.strip() + "\n" for line in lines))


def presence(dataset: Dataset) -> str:
    """Whether a data set's files are here: "bundled", "here", "part" or "not here"."""
    if dataset.name == "austen":
        return "bundled"
    present = [(cache_folder() / dataset.name / file.name).is_file() for file in dataset.files]
    return "here" if all(present) else "part" if any(present) else "not here"
