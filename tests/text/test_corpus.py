"""Text to ids: vocabulary, streaming, splits, batches, and a clear sentence for a file that cannot
be read."""

import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenization

from gluonlm.system.errors import UserError
from gluonlm.text import reader as textfile
from gluonlm.text.batches import batchify, evaluation_batches, get_batch
from gluonlm.text.corpus import (
    EOS,
    UNK,
    Corpus,
    Dictionary,
    Limits,
    encode_file,
    index_words,
    load_corpus,
)
from gluonlm.text.reader import Span


@pytest.fixture
def folder(tmp_path):
    """A data set of three texts."""
    for split, text in {
        "train": "b a b\n\na b <unk>\n",
        "valid": "b x\n",
        "test": " a \t b\r\ny",
    }.items():
        (tmp_path / f"{split}.txt").write_bytes(text.encode())
    return tmp_path


@pytest.fixture(params=[1, 2, 3, 7, 1 << 22])
def block(request, monkeypatch):
    """Reading in pieces of so many bytes must not change what is read."""
    monkeypatch.setattr(textfile, "BLOCK", request.param)
    return request.param


def words(corpus, split):
    return corpus.dictionary.decode(getattr(corpus, split))


def test_dictionary_orders_by_frequency_then_alphabet():
    counts = Counter({"c": 1, "b": 3, "a": 3, "d": 1})
    assert Dictionary.from_counts(counts).idx2word == ["a", "b", "c", "d"]
    assert Dictionary.from_counts(counts, max_size=3).idx2word == ["a", "b", "c"]
    assert Dictionary.from_counts(counts, min_count=2).idx2word == ["a", "b"]


def test_dictionary_gives_unknown_words_the_id_of_unk():
    dictionary = Dictionary(["the", UNK, EOS])
    assert dictionary.add_word("the") == 0
    assert dictionary.add_word("cat") == 3
    assert (len(dictionary), dictionary.unk_id, dictionary.eos_id, dictionary.start_id) == (
        4,
        1,
        2,
        2,
    )
    assert "cat" in dictionary
    assert "dog" not in dictionary
    assert dictionary["dog"] == 1
    ids = dictionary.encode(["the", "dog", "cat"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 1, 3]
    assert dictionary.decode(ids) == ["the", UNK, "cat"]


def test_a_closed_dictionary_refuses_unknown_tokens():
    dictionary = Dictionary(["a", "\n"])
    assert (dictionary.unk_id, dictionary.eos_id, dictionary.start_id) == (None, None, 1)
    assert dictionary.encode("a\n").tolist() == [0, 1]
    with pytest.raises(UserError, match="'b' is not among the 2 tokens"):
        dictionary["b"]
    with pytest.raises(UserError, match="'b'"):
        dictionary.encode("ab")


def test_dictionary_survives_json():
    dictionary = Dictionary(["the", "größe", "戦場", '"', "\n"], encoding="latin-1")
    again = Dictionary.from_json(dictionary.to_json())
    assert again.idx2word == dictionary.idx2word
    assert again.word2idx == dictionary.word2idx
    assert again.encoding == "latin-1"
    assert json.loads(dictionary.to_json())["words"][1] == "größe"


@pytest.mark.usefixtures("block")
def test_words_of_a_folder(folder):
    corpus = load_corpus(str(folder))
    assert (corpus.name, corpus.level) == (folder.name, "word")
    assert corpus.dictionary.idx2word == [
        EOS,
        "b",
        "a",
        UNK,
    ]  # three each, ties by the alphabet; two; one
    assert words(corpus, "train") == ["b", "a", "b", EOS, EOS, "a", "b", UNK, EOS]
    assert words(corpus, "valid") == ["b", UNK, EOS]
    assert words(corpus, "test") == [
        "a",
        "b",
        EOS,
        UNK,
        EOS,
    ]  # a last line without an end is a line
    assert {ids.dtype for ids in (corpus.train, corpus.valid, corpus.test)} == {np.dtype(np.int32)}


@pytest.mark.usefixtures("block")
def test_characters_of_a_folder(tmp_path):
    for split, text in {"train": "añ ñ\n", "valid": "ñ戦", "test": "\n\n"}.items():
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(str(tmp_path), level="char")
    assert corpus.level == "char"
    assert corpus.dictionary.idx2word == ["ñ", "\n", " ", "a", UNK]
    assert words(corpus, "train") == ["a", "ñ", " ", "ñ", "\n"]
    assert words(corpus, "valid") == ["ñ", UNK]
    assert words(corpus, "test") == ["\n", "\n"]
    assert corpus.dictionary.start_id == 1


def test_the_vocabulary_always_has_unk_and_eos(folder, capsys):
    (folder / "train.txt").write_text("one two")
    corpus = load_corpus(str(folder))
    assert corpus.dictionary.idx2word == [EOS, "one", "two", UNK]
    assert "66.7 % of the validation and 60.0 % of the test tokens" in capsys.readouterr().err


def test_nothing_is_said_where_unk_is_taught(folder, capsys):
    load_corpus(str(folder))
    assert capsys.readouterr().err == ""


def test_a_given_dictionary_is_used_for_all_splits(folder):
    dictionary = Dictionary([UNK, EOS, "b"])
    corpus = load_corpus(str(folder), dictionary=dictionary)
    assert corpus.dictionary.idx2word == dictionary.idx2word
    assert corpus.train.tolist() == [2, 0, 2, 1, 1, 0, 2, 0, 1]


def test_much_that_a_given_dictionary_does_not_know_is_said(folder, capsys):
    load_corpus(str(folder), dictionary=Dictionary([UNK, EOS, "b"]))
    assert "33.3 % of the training" in capsys.readouterr().err  # 3 of 9
    (folder / "train.txt").write_text("b b\n" * 9)
    load_corpus(str(folder), dictionary=Dictionary([UNK, EOS, "b"]))
    assert "model's vocabulary" not in capsys.readouterr().err


def test_words_of_latin_1_are_read_alike_afterwards(tmp_path):
    (tmp_path / "a.txt").write_bytes("é a\n".encode("latin-1"))
    dictionary, ids = index_words(Span(tmp_path / "a.txt", encoding="latin-1"))
    dictionary.add_word(UNK)
    again = encode_file(tmp_path / "a.txt", Dictionary.from_json(dictionary.to_json()), "word")
    assert again.tolist() == ids.tolist()


def test_hashes_tell_corpora_apart(folder):
    corpus = load_corpus(str(folder))
    assert corpus.hashes == load_corpus(str(folder)).hashes
    other = replace(corpus, valid=corpus.valid[::-1])
    assert other.hashes["vocabulary"] == corpus.hashes["vocabulary"]
    assert other.hashes["text"] != corpus.hashes["text"]


@pytest.mark.parametrize("end", ["\n", "\r"])  # Before, that of old Macs was none
def test_a_single_file_is_split_by_lines(tmp_path, capsys, block, end):
    text = tmp_path / "mine.txt"
    text.write_text("".join(f"line {n}\n" for n in range(20)), newline=end)
    corpus = load_corpus(str(text))
    error = capsys.readouterr().err
    assert "80 %" in error
    assert str(text) in error
    assert corpus.name == "mine"
    assert [
        int((ids == corpus.dictionary.eos_id).sum())
        for ids in (corpus.train, corpus.valid, corpus.test)
    ] == [16, 2, 2]
    assert words(corpus, "train")[1] == "0"
    assert words(corpus, "train")[-2] == "15"
    assert words(corpus, "valid") == ["line", UNK, EOS] * 2


def test_encode_file(folder):
    dictionary = Dictionary([UNK, EOS, "b"])
    assert encode_file(folder / "valid.txt", dictionary, "word").tolist() == [2, 0, 1]
    (folder / "empty.txt").write_bytes(b"")
    assert encode_file(folder / "empty.txt", dictionary, "word").tolist() == []
    assert encode_file(folder / "empty.txt", Dictionary("b"), "char").tolist() == []
    with pytest.raises(
        UserError, match=r"valid\.txt contains ' ', which is none of the 1 characters"
    ):
        encode_file(folder / "valid.txt", Dictionary("b"), "char")


@pytest.mark.parametrize(
    ("level", "tokens"), [("word", ["a", "b", EOS, "b", "a", EOS]), ("char", [*"a b\nb a"])]
)
def test_a_file_of_anybody_is_read_once(tmp_path, monkeypatch, capsys, level, tokens):
    (tmp_path / "text.txt").write_text("A b\nb A")
    dictionary = Dictionary([UNK, *dict.fromkeys(tokens)], about={"rules": {"lowercase": True}})
    reads, read = [], textfile.byte_blocks
    monkeypatch.setattr(textfile, "byte_blocks", lambda span: reads.append(span) or read(span))
    assert dictionary.decode(encode_file(tmp_path / "text.txt", dictionary, level)) == tokens
    assert len(reads) == 1
    assert "read by the rules" in capsys.readouterr().err


def test_bytes_of_latin_1_are_characters(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    dictionary = Dictionary(map(chr, range(256)), encoding="latin-1")
    assert encode_file(tmp_path / "a", dictionary, "char").tolist() == list(range(256))


def test_a_byte_order_mark_is_no_word(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone one\n".encode())
    assert encode_file(tmp_path / "a.txt", Dictionary(["one", UNK, EOS]), "word").tolist() == [
        0,
        0,
        2,
    ]


def test_spans_end_where_they_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree\nfour\n")
    assert "".join(textfile.blocks(Span(path, 4, 14))) == "two\nthree\n"
    assert Span(path, 14).size() == 5
    assert Span(path, 14, 1000).size() == 5
    assert Span(path, 1000).size() == 0


def test_reading_never_holds_the_text(tmp_path, monkeypatch):
    """Blocks stay near their size however long the file is: no piece of work sees more of it."""
    monkeypatch.setattr(textfile, "BLOCK", 1000)
    path = tmp_path / "long.txt"
    path.write_text("some words \n" * 5000)
    sizes = [len(piece) for piece in textfile.blocks(Span(path))]
    assert sum(sizes) == path.stat().st_size
    assert max(sizes) <= 1012


PEAK = """
import re, sys
from pathlib import Path
from gluonlm.text.corpus import index_words
from gluonlm.text.reader import Span
status = Path("/proc/self/status")
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 1024
before = peak()
dictionary, ids = index_words(Span(Path(sys.argv[1])))
print(len(ids), peak() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc"
)
def test_memory_is_that_of_the_ids(tmp_path):
    """Four million words are 16 MB of ids and a block or two; as a list of strings they would be
    some 250 MB."""
    path = tmp_path / "long.txt"
    random = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(40):
            file.write(" ".join(map(str, random.integers(0, 10_000, 100_000).tolist())) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path], check=True, capture_output=True, text=True
    )
    tokens, mebibytes = done.stdout.split()
    assert int(tokens) == 4_000_040
    assert float(mebibytes) < 120


def test_large_files_show_a_progress_bar(folder, monkeypatch, capsys):
    monkeypatch.setattr(textfile, "BAR_FROM", 4)
    load_corpus(str(folder))
    assert "reading train.txt" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["word", "char"])
@pytest.mark.parametrize("block_size", [3, 1 << 22])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"fine\nfine \xe9t\xe9 no\n", r"not UTF-8: the byte at offset 10 \(line 2\)"),
        (b"fine\ncut \xe6\x88", r"not UTF-8: the byte at offset 9 \(line 2\)"),
        (b"fine\n\x00\x01\n", "not a text file: there is a zero byte at offset 5"),
        (
            "utf-16 text\n".encode("utf-16"),
            "text in UTF-16: convert it with .*, or make a data set of it with .*--encoding utf-16",
        ),
    ],
)
def test_what_is_not_utf8_is_said(folder, monkeypatch, level, block_size, content, complaint):
    monkeypatch.setattr(textfile, "BLOCK", block_size)
    (folder / "valid.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"valid\.txt is {complaint}"):
        load_corpus(str(folder), level=level)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("level", ["word", "char"])
def test_an_empty_split_is_said(folder, split, level):
    (folder / f"{split}.txt").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{split}\.txt is empty"):
        load_corpus(str(folder), level=level)


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    dictionary = Dictionary([UNK, EOS])
    with pytest.raises(UserError, match="there is no file .*nowhere.txt"):
        encode_file(tmp_path / "nowhere.txt", dictionary, "word")
    with pytest.raises(UserError, match="cannot be read .Is a directory.: give a text file"):
        encode_file(tmp_path, dictionary, "word")


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read .Permission denied.: give"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_an_unreadable_file_is_said(folder, monkeypatch, error, complaint):
    def refuse(self, *_):
        raise error

    monkeypatch.setattr(
        Path, "open", refuse
    )  # root may read everything, so chmod would test nothing here
    with pytest.raises(UserError, match=complaint):
        load_corpus(str(folder))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("one\n", "only 4 characters,"),
        ("just one line of text here that is quite short", "only 46 characters,"),
    ],
)
def test_a_file_too_small_to_split_is_said(tmp_path, text, complaint):
    (tmp_path / "small.txt").write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_corpus(str(tmp_path / "small.txt"))


@pytest.mark.parametrize(
    ("text", "level", "lengths"),
    [
        ("a\n" * 9, "word", [14, 2, 2]),  # each line end is an <eos>
        ("a " * 50, "word", [41, 6, 6]),  # one line: an <eos> at the end of each text
        ("acgt" * 25, "char", [80, 10, 10]),
        ("é" * 100, "char", [80, 10, 10]),  # two bytes each
        ("a\r\nb\r\n" * 10, "char", [32, 4, 4]),
        ("a\rb\r" * 10, "word", [32, 4, 4]),
    ],
)
def test_a_text_of_few_lines_is_cut_at_blanks_or_characters(tmp_path, text, level, lengths):
    (tmp_path / "text.txt").write_bytes(text.encode())
    corpus = load_corpus(str(tmp_path / "text.txt"), level)
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == lengths


def test_invisible_characters_go(tmp_path):
    (tmp_path / "text.txt").write_text("\ufeffa\u200bb\r\n\ufeffc\r" * 10, encoding="utf-8")
    ids = encode_file(tmp_path / "text.txt", Dictionary("abc\n"), "char")
    assert ids.tolist() == [0, 1, 3, 2, 3] * 10


@pytest.mark.parametrize(
    ("content", "kind", "cure"),
    [
        ("é à la ça\n".encode("cp1252") * 9, "probably Windows-1252", "iconv -f cp1252"),
        ("我来了他在这里\n".encode("gbk") * 9, "probably GBK", "--encoding gb18030"),
        ("été à la ça\n".encode() * 9 + b"\xe9t\xe9\n", "text around it is UTF-8", "iconv -c"),
        ("Все счастливые семьи\n".encode()[:-2], "with which the file ends", "iconv -c"),
        (
            "Все счастливые семьи\n".encode("cp1251") * 9,
            "is no part of a character: find",
            "such as cp1251 or",
        ),
        (
            "우리는 오늘 아침\n".encode("cp949") * 9,
            "is no part of a character: find",
            "shift_jis or cp949, and make",
        ),
        ("a text\n".encode("utf-16"), "text in UTF-16", "--encoding utf-16"),
        ("a text\n".encode("utf-16-le"), "text in UTF-16-LE", "iconv -f utf-16le -t"),
        ("a text\n".encode("utf-16-le"), "text in UTF-16-LE", "--encoding utf-16-le"),
        (gzip.compress(b"a text", mtime=0), "compressed with gzip", "gluonlm.prepare FILE"),
        (lzma.compress(b"a text"), "compressed with xz", "gluonlm.prepare FILE"),
        (b"PK\x03\x04" + bytes(20), "compressed with zip", "gluonlm.prepare FILE"),
        (b"%PDF-1.4", "a PDF document", "plain file"),
        (b"a\0b", "not a text file", "plain text in UTF-8"),
    ],
)
def test_what_a_file_is_is_said_with_the_cure(tmp_path, content, kind, cure):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError, match=kind) as caught:
        encode_file(tmp_path / "text.txt", Dictionary([UNK, EOS]), "word")
    assert cure in str(caught.value)


def test_limits_of_the_vocabulary_teach_unk(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a a a b b c\n" * 9 + "d e\n" + "a b z\n" * 2)
    whole = load_corpus(str(tmp_path / "text.txt"))
    told = capsys.readouterr().err
    assert "which this training text does not teach: prepare it with" in told
    assert "--min-count 2" in told
    corpus = load_corpus(str(tmp_path / "text.txt"), limits=Limits(min_count=2))
    assert capsys.readouterr().err.count("\n") == 1  # only how the file is split
    assert corpus.dictionary.idx2word == ["a", "b", EOS, "c", UNK]
    assert words(corpus, "train")[-3:] == [UNK, UNK, EOS]
    assert len(whole.train) == len(corpus.train)
    small = load_corpus(str(tmp_path / "text.txt"), limits=Limits(vocab_size=4))
    assert sorted(small.dictionary.idx2word) == [EOS, UNK, "a", "b"]
    assert np.mean(small.train == small.dictionary.unk_id) == pytest.approx(11 / 66)


def test_rare_characters_teach_unk(tmp_path):
    (tmp_path / "text.txt").write_text("ab" * 40 + "c\ufffd" + "ab" * 20 + "\ufffdz")
    corpus = load_corpus(str(tmp_path / "text.txt"), "char", limits=Limits(min_count=2))
    assert corpus.dictionary.idx2word == ["a", "b", UNK]
    assert words(corpus, "train")[80:82] == [UNK, UNK]
    assert words(corpus, "test")[-2:] == [UNK, UNK]


def test_hashing_takes_no_second_copy_of_the_text():
    ids = np.zeros(20_000_000, np.int32)  # 80 MB
    corpus = Corpus("a", "word", Dictionary(["a"]), ids, ids[:10], ids[:10])
    tracemalloc.start()
    assert set(corpus.hashes) == {"vocabulary", "text", "test text"}
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_batchify_cuts_the_text_in_columns():
    batches = batchify(np.arange(11, dtype=np.int32), 3)
    assert batches.dtype == np.int32
    assert batches.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    with pytest.raises(UserError, match="2 tokens does not fill 3 columns"):
        batchify(np.arange(2, dtype=np.int32), 3)


def test_get_batch_shifts_the_target_by_one():
    source = batchify(np.arange(12, dtype=np.int32), 2)
    data, target = get_batch(source, 0, 4)
    assert data.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9]]
    assert target.tolist() == [[1, 7], [2, 8], [3, 9], [4, 10]]
    data, target = get_batch(source, 4, 4)
    assert (data.tolist(), target.tolist()) == ([[4, 10]], [[5, 11]])


@pytest.mark.parametrize("tokens", [1, 2, 9, 10, 11, 29, 30, 31])
@pytest.mark.parametrize(("batch_size", "bptt"), [(1, 1), (1, 7), (3, 2), (10, 35)])
def test_evaluation_predicts_every_token_once_from_the_one_before(tokens, batch_size, bptt):
    ids = np.arange(1, tokens + 1, dtype=np.int32)
    predicted = []
    for inputs, targets, mask in evaluation_batches(ids, 0, batch_size, bptt):
        assert inputs.shape == targets.shape == mask.shape
        assert inputs.shape[0] <= bptt
        assert inputs.shape[1] == batch_size
        assert (inputs.dtype, targets.dtype, mask.dtype) == (np.int32, np.int32, np.float32)
        assert (inputs == targets - 1)[mask == 1].all()
        predicted += targets[mask == 1].tolist()
    assert sorted(predicted) == ids.tolist()


def test_evaluation_carries_each_column_on():
    """Segments laid below each other are the columns, so that the state of one belongs before the
    next."""
    ids = np.arange(1, 8, dtype=np.int32)
    columns = np.concatenate([targets for _, targets, _ in evaluation_batches(ids, 0, 2, 3)])
    assert columns.tolist() == [[1, 5], [2, 6], [3, 7], [4, 0]]


def test_the_benchmark_compares_like_with_like(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenization, "TYPES", 5000)  # to make all takes seconds
    monkeypatch.setattr(tokenization, "PIECE", 20_000)
    out = tmp_path / "tokenize.json"
    options = ["--words", "20000", "--naive-share", "0.5", "--seed", "7", "--out", str(out)]
    tokenization.main(options)
    result = json.loads(out.read_text())
    naive, share, whole = result["runs"]
    assert naive["sha256_of_ids"] == share["sha256_of_ids"] != whole["sha256_of_ids"]
    assert naive["types"] == share["types"] < whole["types"]
    assert 0.45 < share["tokens"] / whole["tokens"] < 0.55
    assert result["seed"] == 7
    assert result["command"].startswith("python benchmarks/tokenization.py --words 20000")
    assert {"python", "numpy", "mxnet", "cpu", "cores", "date"} <= result["machine"].keys()


@pytest.mark.parametrize("wrong", [-1, 2])
def test_ids_beyond_the_vocabulary_make_no_corpus(wrong):
    """Before, training on them ended the process, or wrote into other arrays."""
    ids = np.zeros(9, np.int32)
    with pytest.raises(UserError, match="ids that are not among"):
        Corpus("a", "word", Dictionary(["a", "b"]), ids, ids, ids + np.int32(wrong))
