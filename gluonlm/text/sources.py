"""The data sets known by name, where they come from, and what is on this machine.

Downloads go to a folder that all projects share: ``$GLUONLM_DATA``, else ``$XDG_CACHE_HOME/gluonlm``, else
``~/.cache/gluonlm``, one folder per data set. A file put there by hand is verified like a downloaded one.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder
from gluonlm.text.download import File, Mirror, correct, fetch, write_verified

SPLITS = ("train", "valid", "test")
BUNDLED = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Dataset:
    """A data set by name. ``closed``: its alphabet is that of all three splits, without ``<unk>``."""

    name: str
    level: str
    about: str
    files: tuple[File, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    closed: bool = False


def read_registry(path: Path) -> dict[str, Dataset]:
    """The data sets of a registry in YAML."""
    found = {}
    for name, values in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        files = tuple(File(*pair) for pair in values.pop("files", {}).items())
        mirrors = tuple(Mirror(*parts) for parts in values.pop("mirrors", []))
        found[name] = Dataset(name, files=files, mirrors=mirrors, **values)
    return found


DATASETS = read_registry(Path(__file__).with_name("registry.yaml"))
ALIASES = {"penn": "ptb", "pennchar": "ptb-char", "ptbchar": "ptb-char", "wikitext2": "wikitext-2"}
ALIASES |= {"wt2": "wikitext-2", "wikitext103": "wikitext-103", "wt103": "wikitext-103"}


def ensure(dataset: Dataset) -> Path:
    """The folder that holds a data set's files, which are downloaded or made if they are not there."""
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
        raise UserError(
            f"the bundled data set {name} is not in {folder}: run from a clone of the repository, where "
            f"`make` installs the package in place, or restore the folder with `git checkout data/{name}`"
        )
    return folder


def make_ptb_char(dataset: Dataset, folder: Path) -> None:
    """The text of ptb with the blanks around each line taken off, to be read by characters.

    That is the usual data set of 50 characters, with a blank for the ``_`` of the published files.
    """
    if all(correct(folder / file.name, file.digest) for file in dataset.files):
        return
    source = ensure(DATASETS["ptb"])
    for file in dataset.files:
        lines = (source / file.name).read_text(encoding="utf-8").splitlines()
        write_verified(
            folder / file.name, "".join(line.strip() + "\n" for line in lines).encode(), file.digest
        )


def presence(dataset: Dataset) -> str:
    """Whether a data set's files are here: "bundled", "here", "part" or "not here"."""
    if dataset.name == "austen":
        return "bundled"
    present = [(cache_folder() / dataset.name / file.name).is_file() for file in dataset.files]
    return "here" if all(present) else "part" if any(present) else "not here"
