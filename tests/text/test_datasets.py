"""Data sets by name, by path and by the paths of other toolkits; what the command lists and
fetches."""

import hashlib
import math
import shlex
from pathlib import Path

import pytest

from gluonlm import evaluate, train
from gluonlm.cli import run
from gluonlm.datasets import main
from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder
from gluonlm.text import locate, sources
from gluonlm.text.corpus import EOS, UNK, Dictionary, Limits, index, load_corpus, read_split
from gluonlm.text.download import File
from gluonlm.text.locate import resolve
from gluonlm.text.sources import ALIASES, DATASETS, Dataset


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and, as the current folder, an empty one beside it; nothing is downloaded."""
    monkeypatch.setenv("GLUONLM_DATA", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("requests.get", refuse_network)
    return tmp_path / "cache"


def refuse_network(url, **_):
    raise AssertionError(f"a test wants to download {url}")


def write_splits(folder: Path, pattern: str = "{}.txt") -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / pattern.format(split)).write_text(f"the {split} text\n")
    return folder


def digest(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


def replace_dataset(monkeypatch, name: str, files: dict[str, bytes]) -> None:
    """Let a known data set consist of these small files."""
    old = DATASETS[name]
    small = tuple(File(key, digest(content)) for key, content in files.items())
    monkeypatch.setitem(
        DATASETS, name, Dataset(name, old.level, old.about, small, old.mirrors, old.closed)
    )


def test_the_registry_is_complete():
    assert list(DATASETS) == ["austen", "ptb", "wikitext-2", "wikitext-103", "ptb-char", "enwik8"]
    assert set(ALIASES.values()) <= set(DATASETS)
    lengths = {"sha256": 64, "sha1": 40}
    for dataset in DATASETS.values():
        assert dataset.level in ("word", "char")
        for file in dataset.files:
            algorithm, _, value = file.digest.partition(":")
            assert len(bytes.fromhex(value)) * 2 == lengths[algorithm]
        for mirror in dataset.mirrors:
            assert mirror.url.startswith(("https://", "http://"))
            assert (mirror.member is not None) == mirror.url.endswith(".zip")
            assert len({mirror.url.format(file.stem) for file in dataset.files}) in (
                1,
                len(dataset.files),
            )


def test_the_bundled_corpus_needs_no_network(cache):
    corpus = load_corpus("austen")
    assert (corpus.name, corpus.level, len(corpus.dictionary)) == ("austen", "word", 10_000)
    assert len(corpus.train) > 600_000
    assert corpus.dictionary.unk_id is not None
    assert not cache.exists()


def test_the_bundled_corpus_by_characters(cache, capsys):
    corpus = load_corpus("austen", level="char")
    assert corpus.level == "char"
    letters = set(corpus.dictionary.idx2word) - {UNK}
    assert set("abcdefghijklmnopqrstuvwxyz N'-<>.,;:!?()“”\n") <= letters
    assert not letters & set("ABCDEFGHIJ_[]")
    assert capsys.readouterr().err == ""


def test_a_missing_bundled_corpus_is_said(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match="clone of the repository"):
        resolve("austen")


@pytest.mark.parametrize("pattern", ["{}.txt", "wiki.{}.tokens", "ptb.{}.txt"])
def test_a_folder_by_any_of_its_usual_names(cache, tmp_path, pattern):
    folder = write_splits(tmp_path / "mine", pattern)
    files = resolve(str(folder))
    assert (files.name, files.level, files.closed) == ("mine", "word", False)
    assert [
        span.path.name for span in (files.spans["train"], files.spans["valid"], files.spans["test"])
    ] == [pattern.format(split) for split in ("train", "valid", "test")]


@pytest.mark.parametrize("name", ["ptb", "data/penn", "austen"])
def test_a_folder_of_texts_wins_over_a_name(cache, name):
    write_splits(Path(name))
    assert resolve(name).spans["train"].path == Path(name) / "train.txt"


@pytest.mark.parametrize("name", ["austen", "data/austen", "../data/Austen/"])
def test_a_path_that_is_not_here_is_a_name(cache, name, capsys):
    assert resolve(name).name == "austen"
    assert ("using the data set austen" in capsys.readouterr().err) == ("/" in name)


def test_a_path_outside_of_data_is_not_a_name(cache):
    with pytest.raises(UserError, match="no folder or text file /nowhere/austen: put it back"):
        resolve("/nowhere/austen")
    with pytest.raises(UserError, match="no folder, text file or data set '../austen'"):
        resolve("../austen")
    Path("mine/penn").mkdir(parents=True)
    with pytest.raises(UserError, match="the folder mine/penn has no train.txt.*gluonlm.prepare"):
        resolve("mine/penn")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("mine.txt", '{"text": "one"}\n' * 20, "JSON lines"), ("mine.csv", "a,text\n" * 20, "CSV")],
)
def test_records_are_told_from_prose(cache, name, content, kind, capsys):
    Path(name).write_text(content)
    resolve(name)
    told = f"{name} is {kind} and read as prose: to take a field, `python -m gluonlm.prepare {name}"
    assert told in capsys.readouterr().err


def test_a_place_is_found_from_another_folder(cache, tmp_path, monkeypatch, capsys):
    write_splits(Path("penn"))
    Path("mine.txt").write_text("text\n")
    places = [locate.located(name) for name in ("penn", "mine.txt", "data/penn", "ptb", "/no/ptb")]
    assert capsys.readouterr().err == "data/penn is not here: using the data set ptb\n"
    assert places == [
        str(Path("penn").resolve()),
        str(Path("mine.txt").resolve()),
        "ptb",
        "ptb",
    ] + ["/no/ptb"]


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (("Train.TXT", "VAL.txt", "Test.txt"), ""),
        (("train.txt", "dev.txt", "test.txt"), ""),
        (("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"), ""),
    ],
)
def test_names_as_others_have_them(cache, tmp_path, names, family):
    for name in names:
        (tmp_path / name).write_text(f"{name}\n")
    files = resolve(str(tmp_path))
    assert [files.spans[split].path.name for split in ("train", "valid", "test")] == list(names)


def test_two_kinds_of_names_in_one_folder_are_refused(cache, tmp_path):
    write_splits(tmp_path / "mine")
    (tmp_path / "mine" / "wiki.test.tokens").write_text("a\n")
    with pytest.raises(UserError, match=r"texts of \*\.txt and of wiki\.\*\.tokens: keep those"):
        resolve(str(tmp_path / "mine"))
    (tmp_path / "mine" / "wiki.test.tokens").rename(tmp_path / "mine" / "dev.txt")
    with pytest.raises(UserError, match="are the same text"):
        resolve(str(tmp_path / "mine"))


def test_only_the_text_that_is_read_must_be_there(cache, tmp_path):
    (tmp_path / "test.txt").write_text("b a\n")
    dictionary = Dictionary(["a", "b", UNK, EOS])
    assert read_split(str(tmp_path), "test", dictionary, "word").tolist() == [1, 0, 3]
    with pytest.raises(UserError, match=r"has no valid\.txt"):
        read_split(str(tmp_path), "valid", dictionary, "word")


def test_published_characters_are_read_as_characters(cache, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.char.{split}.txt").write_text(" t h e _ c a t\n a _ c a t\n")
    corpus = load_corpus(str(tmp_path))
    assert corpus.level == "char"
    assert "".join(corpus.dictionary.decode(corpus.test)) == "the cat\na cat\n"


def test_a_text_is_known_by_its_content(cache, tmp_path, capsys):
    write_splits(tmp_path / "mine")
    corpus = load_corpus(str(tmp_path / "mine"))
    dictionary = Dictionary.from_json(corpus.dictionary.to_json())  # as in a checkpoint
    for split in ("train", "valid", "test"):
        ids = read_split(str(tmp_path / "mine"), split, dictionary, "word")
        assert ids.tolist() == getattr(corpus, split).tolist()
    (tmp_path / "mine" / "test.txt").write_text("another text\n")
    read_split(str(tmp_path / "mine"), "valid", dictionary, "word")
    for read in (
        lambda: read_split(str(tmp_path / "mine"), "test", dictionary, "word"),
        lambda: load_corpus(str(tmp_path / "mine"), dictionary=dictionary),
    ):
        with pytest.raises(UserError, match=r"the test text in .*mine is no longer what"):
            read()
    write_splits(tmp_path / "other")
    (tmp_path / "other" / "test.txt").write_text("another text\n")
    load_corpus(
        str(tmp_path / "other"), dictionary=dictionary
    )  # another place may have another text


def test_an_empty_folder_does_not_hide_a_name(cache):
    Path("austen").mkdir()
    assert resolve("austen").name == "austen"


def test_a_folder_with_a_text_missing_does_not_stand_for_a_name(cache):
    folder = Path("austen")
    folder.mkdir()
    (folder / "train.txt").write_text("mine\n")
    for name in ("austen", "./austen", str(folder.resolve())):
        with pytest.raises(UserError, match=r"has no valid\.txt"):
            resolve(name)


def test_a_user_that_is_not_there(cache):
    with pytest.raises(UserError, match="~nosuchuser/x: there is no such user"):
        resolve("~nosuchuser/x")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("data/penn", "ptb"),
        ("data/pennchar", "ptb-char"),
        ("data/wikitext-2", "wikitext-2"),
        ("wikitext-103/", None),
    ]
    + [("data/enwik8", None), ("./data/ptb", "ptb")],
)
def test_paths_of_other_toolkits(cache, alias, name, monkeypatch):
    monkeypatch.setattr(locate, "ensure", lambda dataset: cache / dataset.name)
    name = name or Path(alias).name
    files = resolve(alias)
    assert files.name == name
    assert files.level == DATASETS[name].level
    assert files.spans["train"].path.parent == cache / name


def test_an_unknown_name_is_said(cache):
    with pytest.raises(
        UserError,
        match="no folder, text file or data set 'wikitext-3': the data sets are austen, ptb",
    ):
        resolve("wikitext-3")


def test_a_folder_without_texts_is_said(cache, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text("one\n")
    with pytest.raises(
        UserError, match=r"mine has no valid\.txt and no test\.txt: put train\.txt, .*austen"
    ):
        resolve(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"GLUONLM_DATA": "/data/lm", "XDG_CACHE_HOME": "/xdg"}, "/data/lm"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/gluonlm"),
        ({"GLUONLM_DATA": "~/lm"}, "/home/me/lm"),
        ({"GLUONLM_DATA": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/gluonlm"),
    ],
)
def test_the_cache_folder(monkeypatch, environment, folder):
    for name in ("GLUONLM_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def test_characters_of_penn_are_made_from_its_words(cache, monkeypatch):
    words = {
        f"{split}.txt": f" the {split} <unk> \n n't N \n".encode()
        for split in ("train", "valid", "test")
    }
    characters = {
        name: content.replace(b" \n", b"\n").replace(b"\n ", b"\n")[1:]
        for name, content in words.items()
    }
    replace_dataset(monkeypatch, "ptb", words)
    replace_dataset(monkeypatch, "ptb-char", characters)
    (cache / "ptb").mkdir(parents=True)
    for name, content in words.items():
        (cache / "ptb" / name).write_bytes(content)
    corpus = load_corpus("ptb-char")
    assert corpus.level == "char"
    assert "".join(corpus.dictionary.decode(corpus.train)) == "the train <unk>\nn't N\n"
    assert corpus.dictionary.unk_id is None
    assert "v" in corpus.dictionary  # of the validation text: the alphabet is that of all three
    for name in words:
        (cache / "ptb" / name).unlink()
    assert load_corpus("ptb-char").train.tolist() == corpus.train.tolist()  # made once


def test_enwik8_is_bytes_in_three_parts(cache, monkeypatch):
    (cache / "enwik8").mkdir(parents=True)
    content = "戦場 and no end".encode()
    (cache / "enwik8" / "enwik8").write_bytes(content)
    replace_dataset(monkeypatch, "enwik8", {"enwik8": content})
    files = resolve("enwik8")
    assert [
        (s.start, s.stop) for s in (files.spans["train"], files.spans["valid"], files.spans["test"])
    ] == [(0, 90_000_000), (90_000_000, 95_000_000), (95_000_000, 100_000_000)]
    monkeypatch.setattr(
        locate, "ENWIK8_CUTS", (0, 2, 10, len(content))
    )  # the first within a character
    corpus = load_corpus("enwik8")
    assert [len(ids) for ids in (corpus.train, corpus.valid, corpus.test)] == [
        2,
        8,
        len(content) - 10,
    ]
    together = [
        token
        for ids in (corpus.train, corpus.valid, corpus.test)
        for token in corpus.dictionary.decode(ids)
    ]
    assert "".join(together).encode("latin-1") == content
    assert len(corpus.dictionary) == len(set(content))
    assert corpus.dictionary.encoding == "latin-1"


def test_enwik8_is_trained_and_evaluated_in_bits(cache, monkeypatch, tmp_path, capsys):
    content = "戦場 and no end, ".encode() * 60
    (cache / "enwik8").mkdir(parents=True)
    (cache / "enwik8" / "enwik8").write_bytes(content)
    replace_dataset(monkeypatch, "enwik8", {"enwik8": content})
    monkeypatch.setattr(locate, "ENWIK8_CUTS", (0, 800, 1000, len(content)))
    small = "--emsize 8 --nhid 8 --nlayers 2 --batch-size 4 --bptt 10 --epochs 1 --optimizer adam"
    result = train.main(
        shlex.split(f"--preset awd --data enwik8 --save '{tmp_path / 'run'}' {small}")
    )
    trained = capsys.readouterr().out
    score = evaluate.main([str(tmp_path / "run")])
    said = f"bits per character {result.test_loss / math.log(2):.4f}"
    assert said in trained
    assert said in capsys.readouterr().out
    assert score.tokens == len(content) - 1000


def test_a_wrong_file_put_there_by_hand_is_refused(cache):
    write_splits(cache / "wikitext-2")
    with pytest.raises(UserError, match=r"wikitext-2/train\.txt is not the file expected"):
        load_corpus("wikitext-2")


def test_the_list(cache, capsys):
    (cache / "ptb").mkdir(parents=True)
    (cache / "ptb" / "train.txt").write_text("")
    assert main([]) == {}
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(lines) == list(DATASETS)
    assert "bundled" in lines["austen"]
    assert " part " in lines["ptb"]
    assert " not here " in lines["enwik8"]


def test_naming_data_sets_fetches_them(cache, monkeypatch, capsys):
    content = {f"{split}.txt": b"words\n" for split in ("train", "valid", "test")}
    replace_dataset(monkeypatch, "ptb", content)
    (cache / "ptb").mkdir(parents=True)
    for name, text in content.items():
        (cache / "ptb" / name).write_bytes(text)
    assert main(["penn", "austen"]) == {"ptb": cache / "ptb", "austen": sources.BUNDLED / "austen"}
    assert f"ptb: complete and verified in {cache / 'ptb'}" in capsys.readouterr().out
    main([])
    assert "ptb           here" in capsys.readouterr().out


def test_the_command_ends_with_one_sentence(cache, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gluonlm.datasets", "nothing"])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: there is no data set 'nothing': the data sets are {', '.join(DATASETS)}\n"
    )


def test_a_run_finds_its_text_from_another_folder(cache, tmp_path, monkeypatch, capsys):
    """``data/penn`` is also how other toolkits call Penn Treebank, and another folder may have a
    text of that name."""
    write_splits(Path("data/penn"))
    run = str(tmp_path / "run")
    small = "--emsize 4 --nhid 4 --nlayers 1 --batch-size 2 --bptt 3 --epochs 1"
    train.main(["--data", "data/penn", "--save", run, *small.split()])
    first = evaluate.main([run])
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate.main([run]) == first
    write_splits(Path("data/penn"))
    (Path("data/penn") / "test.txt").write_text("quite another text\n")
    assert evaluate.main([run]) == first
    there = tmp_path / "here" / "data" / "penn"
    (there / "train.txt").write_text("changed\n" * 9)
    with pytest.raises(UserError, match="the train text in .*here/data/penn is no longer what"):
        train.main(["--finetune", run, "--save", str(tmp_path / "second"), "--epochs", "1"])
    (there / "test.txt").unlink()
    with pytest.raises(UserError, match=r"here/data/penn has no test\.txt"):
        evaluate.main([run])


def test_a_vocabulary_of_all_characters_has_no_limits():
    whole = locate.DatasetFiles("enwik8", "char", {"train": None}, "enwik8", closed=True)
    with pytest.raises(UserError, match="leave out --vocab-size and --min-count"):
        index(whole, "char", Limits(min_count=2))
