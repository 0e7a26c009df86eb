"""From raw files to data sets: what is read, what becomes a token, where it goes, and what is said
about it."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import re
import sys
import tarfile
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from small import ONCE

import gluonlm
from gluonlm import evaluate, score, train
from gluonlm.prepare import main
from gluonlm.system.errors import UserError
from gluonlm.text.checks import Checks
from gluonlm.text.corpus import UNK, load_corpus, read_split
from gluonlm.text.detokenize import tokens_of
from gluonlm.text.preparation import Rules, is_wrapped, select
from gluonlm.text.splits import Splits, Unit
from gluonlm.text.vocabulary import EOS, Dictionary

LINES = [f'Mr. Number {n} came on the {n}th. "Yes!" he said--"I know it."\n' for n in range(200)]
TEXT = "".join(LINES)
SPLITS = ("train", "valid", "test")


@pytest.fixture
def prepared(tmp_path, capsys):
    """Prepare a file of this content; returns the figures, the three texts and what was printed."""

    def run(content: str | bytes, *options: str, name: str = "raw.txt"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        made = main([str(tmp_path / name), "--out", str(tmp_path / "out"), *options])
        texts = {s: (tmp_path / "out" / f"{s}.txt").read_text(encoding="utf-8") for s in SPLITS}
        return made, texts, capsys.readouterr().out

    return run


def test_words_sentences_and_figures(prepared, tmp_path):
    made, texts, said = prepared(TEXT, "--lowercase", "--numbers")
    assert texts["train"].splitlines()[:3] == [
        "mr. number N came on the N .",
        "“ yes ! ” he said -- “ i know it . ”",
        "mr. number N came on the N .",
    ]
    assert [made["splits"][s]["lines"] for s in SPLITS] == [320, 40, 40]
    assert made["rules"] == {"tokenizer": "moses", "lowercase": True, "numbers": True}
    corpus = load_corpus(str(tmp_path / "out"))
    for split in SPLITS:
        assert made["splits"][split]["tokens"] == len(getattr(corpus, split))
    assert made["vocabulary"] == len(corpus.dictionary)
    assert corpus.dictionary.about["rules"] == made["rules"]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == made
    assert "0.00 %" in said
    assert "train on it: python -m gluonlm.train --preset small-text --data" in said


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        (gzip.compress, "raw.gz"),
        (lzma.compress, "raw.xz"),
        (bz2.compress, "raw.bz2"),
        (lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), "raw.txt"),
        (lambda data: data.replace(b"\n", b"\r").replace(b"Yes", b"\xe2\x80\x8bYes"), "raw.txt"),
    ],
)
def test_the_same_text_packed_or_with_other_line_ends(prepared, pack, name):
    _, texts, _ = prepared(TEXT, "--no-sentences")
    _, again, _ = prepared(pack(TEXT.encode()), "--no-sentences", name=name)
    assert again == texts


def test_a_zip_a_folder_and_standard_input(tmp_path, monkeypatch, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text(TEXT)
    (tmp_path / "in" / "deep" / "b.txt").write_text(TEXT)
    (tmp_path / "in" / ".hidden").write_text("secret\n")
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.txt", TEXT)
        archive.writestr("deep/b.txt", TEXT)
        archive.writestr(".github/secret.md", "secret\n")  # Before, these were read
        archive.writestr("__MACOSX/._a.txt", "secret\n")
    first = main([str(tmp_path / "in"), "--out", str(tmp_path / "1")])
    assert list(first["documents"]) == ["a.txt", "deep/b.txt"]
    assert "in: left out 1 file that" in first["notes"][0]
    second = main([str(tmp_path / "in.zip"), "--out", str(tmp_path / "2")])
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(TEXT.encode())))
    monkeypatch.setattr(sys, "stdin", stdin)
    third = main(["-", str(tmp_path / "in" / "a.txt"), "--out", str(tmp_path / "3")])
    assert first["splits"] == second["splits"] == third["splits"]
    assert [file["name"] for file in third["sources"]] == ["stdin", "a.txt"]


def test_a_folder_of_packed_texts_and_of_utf_16(tmp_path):
    kinds = {"gz": (gzip.compress(TEXT.encode()), ()), "u16": (TEXT.encode("utf-16"), ("utf-16",))}
    for kind, (content, encoding) in kinds.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "a.txt").write_bytes(content)
        (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
        options = ["--encoding", *encoding] if encoding else []
        made = main([str(folder), "--out", str(tmp_path / f"{kind}-out"), *options])
        assert list(made["documents"]) == ["a.txt"], kind
        assert f"{kind}: left out 1 file that" in made["notes"][0], kind
    with pytest.raises(UserError, match="nothing to read .*u16: left out 2 files that cannot"):
        main([str(tmp_path / "u16"), "--out", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("encoding", "line"), [("cp1252", "Grüße aus Köln"), ("gb18030", "他说了什么")]
)
def test_files_in_utf_8_among_others_are_read_as_such(tmp_path, encoding, line):
    """Before, what the error about the other one advised made GrÃ¼ÃŸe of these."""
    (tmp_path / "in").mkdir()
    for name, kind in (("a", encoding), ("b", "utf-8"), ("c", "utf-8")):
        (tmp_path / "in" / f"{name}.txt").write_bytes((line + "\n").encode(kind) * 200)
    with pytest.raises(UserError, match=f"--encoding {encoding}"):
        main([str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    options = ["--out", str(tmp_path / "out"), "--encoding", encoding, "--level", "char"]
    made = main([str(tmp_path / "in"), *options])
    assert (tmp_path / "out" / "train.txt").read_text() == f"{line}\n" * 480
    assert f"in: 2 files in UTF-8 read as such, and not as {encoding}" in made["notes"][0]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_archive_is_told(tmp_path, mode):
    (tmp_path / "a.txt").write_text(TEXT)
    with tarfile.open(tmp_path / "texts.tgz", mode) as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
    with pytest.raises(UserError, match="texts.tgz is a tar archive: unpack it, and give the fold"):
        main([str(tmp_path / "texts.tgz"), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("member", ["[Content_Types].xml", "mimetype"])
def test_an_office_document_is_no_archive_of_texts(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "novel.docx", "w") as archive:
        archive.writestr(member, "application/epub+zip")
        archive.writestr("document.xml", TEXT)
    with pytest.raises(UserError, match="novel.docx is an office document or e-book: save it as"):
        main([str(tmp_path / "novel.docx"), "--out", str(tmp_path / "out")])


def test_a_picture_in_a_zip_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("picture.png", b"\x89PNG\r\n\x1a\n\0\0")
        archive.writestr("a.txt", TEXT)
    made = main([str(tmp_path / "in.zip"), "--out", str(tmp_path / "out")])
    assert "in.zip: left out 1 file that cannot be read" in made["notes"][0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_no_text_is_left_out_wherever_that_shows(tmp_path, encoding):
    """Before, a zero byte after the first 8 KB stopped the work, in an archive after the first 512
    bytes, and so did a packed picture."""
    png, late = b"\x89PNG\r\n\x1a\n\0\0", b"words\n" * 9000 + b"\0\0\0\0"
    odd = {"late": late} if encoding == "utf-8" else {}
    odd |= {"png.gz": gzip.compress(png), "twice.gz": gzip.compress(gzip.compress(b"a\n"))}
    odd |= {"office.docx": damage_of_a_zip(lambda *_: None)}
    good = TEXT.encode(encoding)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name, content in {**odd, "a.txt": good, "b.txt.bz2": bz2.compress(good)}.items():
            (tmp_path / "in" / name).write_bytes(content)
            archive.writestr(name, content)
    for source in ("in", "in.zip"):
        options = ["--out", str(tmp_path / "out"), "--encoding", encoding]
        made = main([str(tmp_path / source), *options])
        assert list(made["documents"]) == ["a.txt", "b.txt.bz2"]
        assert f"{source}: left out {len(odd)} files" in made["notes"][0]


def test_the_licence_of_project_gutenberg_goes(prepared):
    start = "*** START OF THE PROJECT GUTENBERG EBOOK X ***"
    novel = (
        f"The Project Gutenberg eBook of X\n\n{start}\n\n"
        f"Produced by A\nand B\n\n{TEXT}\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence\n"
    )
    made, texts, said = prepared(novel, "--no-sentences")
    assert texts == prepared(TEXT, "--no-sentences")[1]
    assert "note: raw.txt: Project Gutenberg's header and licence were left out" in said
    wrapped = novel.replace(start, "*** START OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ***")
    assert prepared(wrapped, "--no-sentences")[1] == texts
    made, _, _ = prepared(novel := novel + "licence\n" * 30_000)
    whole = hashlib.sha256(novel.encode()).hexdigest()
    assert made["sources"] == [{"name": "raw.txt", "bytes": len(novel.encode()), "sha256": whole}]


@pytest.mark.parametrize("name", ["raw.jsonl", "raw.csv", "raw.txt"])
def test_fields(prepared, name):
    records = [{"id": n, "text": line.strip()} for n, line in enumerate(LINES)]
    if name == "raw.csv":
        quoted = (f'{r["id"]},"{r["text"].replace(chr(34), 2 * chr(34))}"\n' for r in records)
        content = "id,text\n" + "".join(quoted)
    else:
        content = "".join(json.dumps(record) + "\n" for record in records)
    made, texts, _ = prepared(content, "--field", "text", "--no-sentences", name=name)
    assert Counter("".join(texts.values()).splitlines()) == Counter(
        prepared(TEXT, "--no-sentences", "--min-count", "1")[1]["train"].splitlines()
    ) or sum(made["splits"][s]["lines"] for s in SPLITS) == len(LINES)
    with pytest.raises(UserError, match=r"say which of id, text holds the text with --field"):
        prepared(content, name=name)
    with pytest.raises(UserError, match="has no field body"):
        prepared(content, "--field", "body", name=name)


def test_a_table_with_a_separator_in_its_text_is_told(prepared):
    """Before, the text ended there."""
    prepared("text,id\n" + "one,2,,\n" * 200, "--field", "text", name="raw.csv")
    with pytest.raises(UserError, match="record 2 has more fields than the first line names"):
        prepared("text\none\ntwo, three\n", "--field", "text", name="raw.csv")


@pytest.mark.parametrize("content", [["one", "two"], {"one": "two"}])
def test_a_field_that_holds_no_text_is_told(prepared, content):
    """Before, its brackets and quotation marks were learned."""
    lines = '{"text": "one two"}\n' * 200 + json.dumps({"text": content})
    with pytest.raises(UserError, match="in record 201 of raw.jsonl the field text is no string"):
        prepared(lines, "--field", "text", name="raw.jsonl")


def test_a_field_that_is_not_utf_8_is_told(prepared):
    with pytest.raises(UserError, match="--field .*: there is no CSV"):
        prepared("one,two\n" * 20, "--field", "\udcff")


@pytest.mark.parametrize("name", ["utf-8", "UTF-8", "utf8"])
def test_utf_8_has_several_names(prepared, name):
    with pytest.raises(UserError, match="zero byte at offset 4"):
        prepared(b"two\n\0\n" * 20, "--encoding", name)


@pytest.mark.parametrize(
    ("line_end", "name"), [("\n", "latin-1"), ("\r\n", "latin-1"), ("\r", "L1")]
)
def test_latin_1_has_line_ends_like_any_other(prepared, line_end, name):
    text = "caf\xe9\n" * 200
    content = text.replace("\n", line_end).encode("latin-1")
    _, texts, _ = prepared(content, "--level", "char", "--encoding", name)
    assert texts["test"] == text[: 5 * 20]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_table_of_another_name_is_known_by_its_header(prepared, between, encoding):
    rows = (f"{n}{between}one word\n" for n in range(200))
    content = f'\ufeff"id"{between}"text»"\n' + "".join(rows)
    encoded = content.encode(encoding)
    _, texts, _ = prepared(encoded, "--field", "text»", "--encoding", encoding)
    assert texts["test"] == "one word\n" * 20


def test_documents_are_cut_at_the_same_shares_and_short_ones_go_whole(tmp_path):
    splits = Splits(tmp_path, (80, 10, 10), "word")
    splits.add("long", [Unit(f"long {n}", 8, 3) for n in range(100)])
    for number in range(40):
        splits.add(f"short {number}", [Unit(f"short {number}", 9, 3)] * 5)
    units = {}
    for split, file in splits.files.items():
        file.flush()
        units[split] = [unit.text for unit in splits.units(split)]
    splits.open.close()
    assert [sum(t.startswith("long") for t in units[s]) for s in SPLITS] == [80, 10, 10]
    assert [len(units[s]) for s in SPLITS] == [240, 30, 30]
    short = [{t for t in units[s] if t.startswith("short")} for s in SPLITS]
    assert sum(map(len, short)) == len(set.union(*short)) == 40  # none is in two texts


def test_documents_begin_and_end_within_a_file():
    rules = Rules(document="^(ONE|TWO)$", begin="^CHAPTER", end="^FINIS$")
    lines = ["ONE", "title page", "CHAPTER 1", "a", "FINIS", "note", "TWO", "by", "CHAPTER 1", "b"]
    assert list(select("file", lines, rules)) == [
        ("ONE", "CHAPTER 1"),
        ("ONE", "a"),
        ("TWO", "CHAPTER 1"),
        ("TWO", "b"),
    ]


def test_wrapped_texts_are_told_from_others():
    line = "a line of a novel that is cut at about seventy characters, as here"
    assert is_wrapped([line, line, "the end.", "", line, line, line, ""] * 9)
    assert not is_wrapped([line, "", line, ""] * 9)
    assert not is_wrapped([line * 3, line, ""] * 9)
    assert not is_wrapped(["a short one", "b", "c"] * 9)


@pytest.mark.parametrize("level", ["word", "char"])
def test_rare_tokens_teach_unk(prepared, tmp_path, level):
    made, texts, _ = prepared(TEXT, "--level", level, "--vocab-size", "20")
    corpus = load_corpus(str(tmp_path / "out"))
    assert made["vocabulary"] == len(corpus.dictionary) == 20
    unknown = UNK if level == "word" else "\ufffd"
    assert unknown in texts["train"]
    assert made["splits"]["test"]["unknown"] == texts["test"].count(unknown)


def test_a_replacement_character_is_an_unknown_one(prepared, tmp_path):
    made, _, _ = prepared("a\ufffd\ufffdb c\n" * 200, "--level", "char", "--vocab-size", "5")
    corpus = load_corpus(str(tmp_path / "out"))
    assert made["vocabulary"] == len(corpus.dictionary) == 5
    assert made["splits"]["test"]["unknown_percent"] == 42.86  # three of seven


def test_characters(prepared, tmp_path):
    text = TEXT.replace("Number 7 ", "Nümber 7 ")
    made, texts, _ = prepared(text, "--level", "char", "--min-count", "2")
    assert "".join(texts[s] for s in SPLITS) == text.replace("ü", "\ufffd")
    corpus = load_corpus(str(tmp_path / "out"))
    assert corpus.level == "char"
    assert made["vocabulary"] == len(corpus.dictionary)
    assert made["splits"]["train"]["unknown"] == sum(corpus.train == corpus.dictionary.unk_id) == 1


def test_a_text_without_line_ends(prepared, tmp_path):
    text = "one two three four " * 5000
    made, texts, _ = prepared(text)
    assert [texts[s].count("\n") for s in SPLITS] == [1, 1, 1]
    assert " ".join(texts[s].strip() for s in SPLITS) == text.strip()
    assert made["splits"]["train"]["tokens"] == len(load_corpus(str(tmp_path / "out")).train)
    bases = "ACGT" * 20_000
    made, texts, said = prepared(bases, "--level", "char")
    assert "train on it: python -m gluonlm.train --data" in said
    assert "".join(texts[s].strip() for s in SPLITS) == bases
    assert "--level char or --level subword fits it better" in prepared(bases)[2]


def test_a_short_text_without_line_ends_is_cut_at_the_shares(prepared):
    made, texts, _ = prepared("ACGT" * 5_000, "--level", "char")
    assert {split: len(text.strip()) for split, text in texts.items()} == {
        "train": 16_000,
        "valid": 2_000,
        "test": 2_000,
    }


def test_subwords_come_back_as_the_text_and_lie_in_the_vocabulary(prepared, tmp_path):
    made, texts, _ = prepared(TEXT, "--level", "subword", "--vocab-size", "60")
    corpus = load_corpus(str(tmp_path / "out"))
    assert corpus.level == "subword"
    assert made["vocabulary"] == len(corpus.dictionary) <= 62
    assert corpus.dictionary.about["subwords"] == made["subwords"]
    first = texts["train"].splitlines()[0]
    assert "".join(first.split()).replace("▁", " ").strip() == "Mr. Number 0 came on the 0th."
    sizes = corpus.dictionary.about["sizes"]
    words = prepared(TEXT)[0]["splits"]
    for split in SPLITS:  # the same text at word level has as many words and characters
        assert sizes[split] == {name: words[split][name] for name in ("words", "characters")}
    assert {"e", "n"} <= set(corpus.dictionary.idx2word)  # within a word; a line begins one
    tokens = tokens_of("n e", corpus.dictionary, "subword")
    assert "".join(tokens) == "▁n▁e"
    assert tokens_of("▁ n ▁ e", corpus.dictionary, "subword") == ["▁", "n", "▁", "e"]
    with pytest.raises(UserError, match="no 100000 subwords|change --vocab-size"):
        prepared("a b\n" * 50, "--level", "subword", "--vocab-size", "3")


@pytest.mark.parametrize(
    ("text", "options", "warning"),
    [
        (TEXT.replace("\n", " <eos>\n"), (), "lines end with <eos> or </s> (200 of them)"),
        (TEXT.replace("\n", " <UNK> <s>\n"), (), "marks of another tool: <UNK> (200), <s> (200)"),
        ("abcdefghij" * 3000, (), "next to no blanks"),
        ("".join(f"w{n} {n}x\n" for n in range(300)), (), "of the test tokens are unknown"),
        (
            TEXT,
            ("--numbers", "--no-sentences"),
            "of the long held-out lines stand in the training text",
        ),
    ],
)
def test_warnings(prepared, text, options, warning):
    assert warning in prepared(text, *options)[2]


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("我们今天早上七点出发去北京，路上 看到很多人在公园里跑步。", True),
        ("เราออกเดินทางไปกรุงเทพฯ ตอนเช้า และเห็นผู้คนมากมาย", True),
        ("我们 今天 早上 七点 出发 去 北京 。", False),  # cut in words already
        ("우리는 오늘 아침 일곱 시에 서울로 떠났다.", False),
        ("The sign at the door said 出口 and that was all.", False),
    ],
)
def test_texts_with_blanks_between_phrases_are_noticed(prepared, line, warned):
    """Before, 3 % of blanks were enough for words in any script."""
    said = prepared("".join(f"{line} {n}\n" for n in range(200)))[2]
    assert ("next to no blanks between words" in said) is warned


def test_a_second_end_can_be_dropped(prepared):
    marked = TEXT.replace("\n", " <eos>\n")
    cure = re.search("--drop '(.*)' removes it", prepared(marked)[2])[1]
    _, texts, said = prepared(marked, "--drop", cure)
    assert texts == prepared(TEXT)[1]
    assert "removes it" not in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--split", "80", "20", "0"], "three shares above 0"),
        (["--split", "80", "10", "nan"], "three shares above 0"),
        (["--split", "inf", "10", "10"], "three shares above 0"),
        (["--vocab-size", "2"], "argument --vocab-size: must be at least 3, not 2"),
        (["--level", "subword", "--vocab-size", "99999999999"], "change --vocab-size"),
        (["--drop", "("], "no regular expression"),
        (["--encoding", "klingon"], "there is no such encoding"),
        (["--encoding", "undefined"], "there is no such encoding"),
        (["--encoding", "utf-16"], "not in the encoding utf-16"),
    ],
)
def test_impossible_options_are_said(prepared, options, complaint):
    with pytest.raises(UserError, match=complaint):
        prepared(TEXT, *options)


def test_a_data_set_that_is_replaced_is_named(prepared, tmp_path):
    note = f"the data set that was in {tmp_path / 'out'} before has been replaced"
    assert note not in prepared(TEXT)[2]
    assert note in prepared(TEXT.upper())[2]


def test_places_that_would_be_overwritten_are_refused(prepared, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.txt").write_text("mine\n")
    with pytest.raises(UserError, match="that was not prepared"):
        prepared(TEXT)
    with pytest.raises(UserError, match="lie in each other"):
        main([str(tmp_path), "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="there is no file or folder"):
        main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")])
    (tmp_path / "small.txt").write_text("one line\n")
    with pytest.raises(UserError, match="nothing is left for the valid text"):
        main([str(tmp_path / "small.txt"), "--out", str(tmp_path / "x")])
    assert not list(Path(tmp_path / "x").glob("*.txt"))


def test_prepared_texts_are_read_back_in_their_level(prepared, tmp_path):
    prepared(TEXT, "--level", "subword", "--vocab-size", "60")
    corpus = load_corpus(str(tmp_path / "out"))
    again = read_split(str(tmp_path / "out"), "test", corpus.dictionary, corpus.level)
    assert again.tolist() == corpus.test.tolist()


def test_what_a_killed_process_left_goes_and_a_second_one_waits(prepared, tmp_path):
    left, second = tmp_path / "out" / ".prepare-killed", []
    (left / "deep").mkdir(parents=True)

    def while_it_reads(lines):
        assert not left.exists()
        with pytest.raises(UserError, match=f"out is being written by process {os.getpid()} on "):
            prepared(TEXT, name="other.txt")
        second.append(True)
        yield from lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checks, "watch", lambda self, lines, drop: while_it_reads(lines))
        prepared(TEXT)
    assert second
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{split}.txt" for split in SPLITS),
        "dataset.json",
    }


def test_texts_of_two_data_sets_are_never_together(prepared, tmp_path, monkeypatch):
    unlink, replace, left = Path.unlink, os.replace, [0]

    def counted(operation):
        def run(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return operation(*arguments, **options)

        return run

    after, whole = prepared(TEXT, "--level", "char")[1], []
    for killed_at in range(1, 13):
        left[0] = 0
        before = prepared(TEXT)[1]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counted(unlink))
            patch.setattr(os, "replace", counted(replace))
            left[0] = killed_at
            with suppress(KeyboardInterrupt):
                prepared(TEXT, "--level", "char")
        if not (tmp_path / "out" / "train.txt").exists():
            with pytest.raises(UserError, match="has no train.txt|there is no folder"):
                load_corpus(str(tmp_path / "out"))
            continue
        corpus = load_corpus(str(tmp_path / "out"))
        texts = {s: (tmp_path / "out" / f"{s}.txt").read_text() for s in SPLITS}
        assert texts in (before, after)
        assert corpus.level == ("word" if texts == before else "char")
        whole.append(killed_at)
    assert whole[0] == 1  # nothing was touched
    assert whole[-1] == 12  # it was not killed at all


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": "words"},
        {"rules": 5},
        {"splits": {"train": {"words": 3}}},
        {"splits": [1]},
        {"splits": {"test": {"words": 0, "characters": 0}}},
    ],
)
def test_a_wrong_description_of_a_data_set_is_told(prepared, tmp_path, wrong):
    prepared(TEXT)
    path = tmp_path / "out" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(UserError, match="dataset.json is damaged"):
        load_corpus(str(tmp_path / "out"))


@pytest.mark.long
def test_levels_are_compared_by_word_and_character(prepared, tmp_path, capsys, monkeypatch):
    small = ["--emsize", "8", "--nhid", "8", "--epochs", "1", "--batch-size", "4", "--bptt", "5"]
    for level in ("word", "subword"):
        options = ["--vocab-size", "60"] if level == "subword" else []
        made = prepared(TEXT, "--level", level, *options)[0]["splits"]["test"]
        run = tmp_path / level
        result = train.main(["--data", str(tmp_path / "out"), "--save", str(run), *small])
        nats = result.test_loss * made["tokens"]
        trained = capsys.readouterr().out
        evaluated = evaluate.main([str(run)])
        for said in (trained, capsys.readouterr().out):
            per_word = math.exp(nats / made["words"])  # of words it is the test perplexity
            assert (f"perplexity per word {per_word:.4f}" in said) == (level == "subword")
            assert f"perplexity {per_word:.2f}" in said or level == "subword"
            assert f"bits per character {nats / math.log(2) / made['characters']:.4f}" in said
        assert evaluated.tokens == made["tokens"]
        model = gluonlm.load(run)
        assert model.level == level
        assert "▁" not in model.generate('Mr. Number 7 said "I', words=5)
        assert model.dictionary.about["subwords" if level == "subword" else "rules"]
    # of pieces; what is shown are whole words
    text = "Mr. Number 7 said no."
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    total = score.main([str(run), "--json", "--words"])
    words = json.loads(capsys.readouterr().out)["words_bits"]
    assert [word for word, _ in words] == [*text.split(), EOS]
    nats = math.log(2) * sum(bits for _, bits in words)
    assert total["tokens"] > len(words)
    assert nats == pytest.approx(-total["log_probability"], abs=1e-3)


def test_a_model_s_own_text_has_the_same_figures_however_it_is_named(prepared, tmp_path, capsys):
    """Before, there were no bits per character with --data."""
    prepared(TEXT)
    run, data = str(tmp_path / "run"), tmp_path / "out"
    train.main(["--data", str(data), "--save", run, *ONCE])
    data = data.rename(tmp_path / "moved")
    last = []
    for name in (data, data / "test.txt"):
        evaluate.main([run, "--data", str(name), "--batch-size", "1"])
        last.append(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    assert last[0] == last[1]
    assert "bits per character" in last[0]
    (data / "test.txt").write_text("another text\n")
    evaluate.main([run, "--data", str(data)])
    assert "bits per character" not in capsys.readouterr().out


def test_words_that_only_the_model_does_not_know_flatter_no_bits(prepared, tmp_path, capsys):
    """Before, bits per character fell with --vocab-size, down to nothing."""
    prepared(TEXT)
    for name, options, said in (("all", [], True), ("few", ["--vocab-size", "9"], False)):
        run = str(tmp_path / name)
        train.main(["--data", str(tmp_path / "out"), "--save", run, *ONCE, *options])
        evaluate.main([run])
        assert capsys.readouterr().out.count("bits per character") == 2 * said


def test_a_description_by_another_program_is_none(prepared, tmp_path):
    prepared(TEXT)
    (tmp_path / "out" / "dataset.json").write_text('{"name": "mine"}')
    assert load_corpus(str(tmp_path / "out")).dictionary.about["sizes"] == {}


def damage_of_a_zip(change) -> bytes:
    """A zip with a changed byte: (first byte in its one member's header, the same in its index)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", TEXT)
    content = bytearray(file.getvalue())
    change(content, content.index(b"PK\1\2"))
    return bytes(content)


def encrypt(content, index):
    content[6] |= 1
    content[index + 8] |= 1


def pack_otherwise(content, index):
    content[8] = content[index + 10] = 99


def spoil(content, index):
    content[60] ^= 255


def cut(content, index):
    del content[index:]


@pytest.mark.parametrize("change", [encrypt, pack_otherwise, spoil, cut])
def test_an_archive_that_cannot_be_read_is_told(prepared, change):
    with pytest.raises(UserError, match="cannot be read"):
        prepared(damage_of_a_zip(change), name="raw.zip")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("lines", [9, 9000])
def test_a_download_that_was_cut_short_is_told(tmp_path, pack, lines):
    """Before, a long one was a traceback: who took its lines was not within what tells."""
    text = "".join(
        f"{hashlib.sha256(str(n).encode()).hexdigest()}\n" for n in range(lines)
    ).encode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "raw.txt").write_bytes(pack(text)[: -len(text) // 9])
    for source in ("in/raw.txt", "in"):
        with pytest.raises(UserError, match="raw.txt cannot be read .*: fetch it again"):
            main([str(tmp_path / source), "--out", str(tmp_path / "out")])


def test_where_nothing_is_made_no_folder_is_left(prepared, tmp_path):
    with pytest.raises(UserError):
        prepared("word\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.txt"]
    with pytest.raises(UserError):
        main([str(tmp_path / "raw.txt"), "--out", str(tmp_path / "new" / "deep" / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.txt"]


def test_an_empty_folder_that_was_there_before_stays(prepared, tmp_path):
    """Before, it was removed with what had been made in it."""
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError):
        prepared("word\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_html_is_noticed(prepared):
    page = "".join(f"<p>{line}</p>\n" for line in LINES)
    made, _, out = prepared(page)
    assert any(note.startswith(f"lines with HTML ({len(LINES)} of them)") for note in made["notes"])
    made, _, _ = prepared(page, "--level", "char")
    assert not any("HTML" in note for note in made["notes"])


def test_a_full_stop_at_the_end_is_cut_off_a_word_that_is_known_with_one():
    """Before, the last word was another one when the training text had it within a sentence."""
    words = ["delete", "a", "line", "line.", "mr.", "she", "'s", ".", UNK, EOS]
    dictionary = Dictionary(words, about={"rules": {"tokenizer": "moses"}})
    for text, tokens in (
        ("delete a line.", ["delete", "a", "line", "."]),
        ("delete a line. mr. delete", ["delete", "a", "line.", "mr.", "delete"]),
        ("delete a line .", ["delete", "a", "line", "."]),
        ("she 's mr.", ["she", "'s", "mr."]),
        ("", []),
    ):
        assert tokens_of(text, dictionary, "word") == tokens


def test_what_only_json_can_write_does_not_get_into_a_text(prepared, tmp_path):
    lines = [json.dumps({"text": f"{n} half a pair \ud83d and zero \0"}) for n in range(200)]
    prepared("\n".join(lines), "--field", "text", "--level", "char", name="raw.jsonl")
    assert UNK in load_corpus(str(tmp_path / "out")).dictionary
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(UserError, match="cannot be read"):
        prepared(f'{{"text": {deep}}}', "--field", "text", name="raw.jsonl")


def test_names_of_files_need_not_be_utf_8(prepared, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    made, _, _ = prepared(TEXT, name=name)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == made
    train.main(["--data", str(tmp_path / name), "--save", str(tmp_path / "run"), *ONCE])
    model = gluonlm.load(tmp_path / "run")
    assert model.dictionary.about["data"] == str(tmp_path / name)


@pytest.mark.parametrize(
    "options",
    [
        ["--level", "char", "--numbers"],
        ["--level", "char", "--no-sentences"],
        ["--level", "char", "--tokenizer", "none"],
        ["--level", "char", "--no-wrapped"],
        ["--level", "subword", "--numbers"],
        ["--tokenizer", "none", "--numbers"],
    ],
)
def test_what_would_change_nothing_is_refused(prepared, options):
    with pytest.raises(UserError, match="has no effect without --level"):
        prepared(TEXT, *options)


def test_a_field_of_plain_text_is_refused(prepared):
    records = [{"text": line} for line in LINES]
    with pytest.raises(UserError, match="no JSON with an object a line"):
        prepared(json.dumps(records), "--field", "text")  # a list is no object
    prepared("\n".join(map(json.dumps, records)), "--field", "text")


def test_a_finetuned_model_is_not_measured_by_the_size_of_the_text_before(
    cats, prepared, tmp_path, capsys
):
    """Before, the loss of the new text was divided by the number of words of the old one."""
    prepared(TEXT)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    train.main(["--data", str(tmp_path / "out"), "--save", first, *ONCE])
    train.main(["--finetune", first, "--data", str(cats), "--save", second, "--epochs", "1"])
    evaluate.main([second])
    assert "bits per character" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("damage", [None, "", "hello", "AAAA"])
def test_a_damaged_model_of_subwords_is_told(prepared, tmp_path, damage):
    """Before, a training was done when it was noticed."""
    prepared(TEXT, "--level", "subword", "--vocab-size", "60")
    path = tmp_path / "out" / "dataset.json"
    made = json.loads(path.read_text()) | {"subwords": damage}
    path.write_text(json.dumps({name: value for name, value in made.items() if value is not None}))
    with pytest.raises(UserError, match="model of subwords is missing or damaged"):
        load_corpus(str(tmp_path / "out"))
    with pytest.raises(UserError, match="model of subwords is missing or damaged"):
        tokens_of("she", Dictionary(["she"], about={"subwords": damage or ""}), "subword")


def test_rules_that_are_not_said_are_off(prepared, tmp_path):
    dictionary = Dictionary(["She"], about={"rules": {"tokenizer": "moses"}})
    assert tokens_of("She was.", dictionary, "word") == ["She", "was", "."]


@pytest.mark.parametrize(
    "about", [{"rules": 5}, {"sizes": {"test": 7}}, {"subwords": 1}, {"data": None}]
)
def test_what_a_vocabulary_says_of_its_text_is_checked(about):
    with pytest.raises(ValueError, match="must be"):
        Dictionary.from_json(Dictionary(["a"], about=about).to_json())


def test_a_phrase_of_many_lines_takes_no_longer_for_each():
    """Before, the tokens of all lines so far were copied for each line."""
    dictionary = Dictionary(["<eos>", "the", "cat"])
    seconds = []
    for lines in (1000, 20_000):
        times = []
        for _ in range(3):  # the best of them: another process may empty the processor's caches
            started = time.process_time()
            tokens_of("the cat the cat the cat\n" * lines, dictionary, "word")
            times.append(time.process_time() - started)
        seconds.append(min(times) / lines)
    assert seconds[1] < 5 * seconds[0]


@pytest.mark.parametrize("level", ["word", "subword", "char"])
def test_a_raw_text_is_read_by_the_rules_of_the_model(prepared, tmp_path, capsys, level):
    """Before, evaluate took "Yes!" for a word, and no reader of characters knew a capital one."""
    options = ["--vocab-size", "60"] if level == "subword" else []
    prepared(TEXT, "--level", level, "--lowercase", *options)
    run, raw = str(tmp_path / "run"), str(tmp_path / "raw.txt")
    train.main(["--data", str(tmp_path / "out"), "--save", run, *ONCE])
    capsys.readouterr()
    whole = evaluate.main([run, "--data", raw, "--batch-size", "1"])
    said = capsys.readouterr()
    assert said.out.startswith("raw.txt: ")
    assert (
        said.err
        == f"{raw}: read by the rules of the model's own text, as score and perplexity do\n"
    )
    lines = score.main([run, raw, "--carry"])
    assert lines["tokens"] == whole.tokens
    assert lines["perplexity"] == pytest.approx(whole.perplexity, rel=1e-6)
    assert gluonlm.load(run).perplexity(TEXT) == pytest.approx(whole.perplexity, rel=1e-6)
    assert whole.unknown <= 0.2 * whole.tokens  # most numbers
    capsys.readouterr()
    if level != "subword":  # whose test.txt is the text before it is cut in pieces
        known = evaluate.main([run, "--data", str(tmp_path / "out" / "test.txt")])
        assert known.perplexity == pytest.approx(evaluate.main([run]).perplexity, rel=1e-6)
        assert not capsys.readouterr().err


def test_a_line_that_is_cut_already_is_not_cut_further():
    """Before, an unknown word in a line made ' and s of 's."""
    words = ["she", "'s", ".", UNK]
    dictionary = Dictionary(words, about={"rules": {"tokenizer": "moses", "lowercase": True}})
    for line in ("she 's emma .", "She's emma."):
        assert tokens_of(line, dictionary, "word") == ["she", "'s", "emma", "."]
