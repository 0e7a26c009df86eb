"""Text as arrays of token ids: the vocabulary, reading in a streaming pass, and batches.

    >>> corpus = load_corpus("austen")              # a data set name, a folder or one text file
    >>> batches = batchify(corpus.train, 20)        # (L, 20)
    >>> data, target = get_batch(batches, 0, 35)    # (35, 20) each

At word level a line is a sentence: its words, parted by blanks, then ``<eos>``. At character level every
character is a token and the line end is one of them. ``enwik8`` is read as bytes: its characters are those of
Latin-1, which has one for each byte.
"""

import hashlib
import itertools
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from gluonlm.system.errors import UserError
from gluonlm.text.reader import Span, blocks
from gluonlm.text.sources import resolve
from gluonlm.text.vocabulary import EOS, UNK, Dictionary

CODE_POINTS = 0x110000  # of Unicode
CHUNK = 1 << 20  # ids renumbered at once
MUCH_UNKNOWN = (
    0.1  # share of tokens; about 0.05 are in the test texts of Penn Treebank and WikiText-2
)


@dataclass(frozen=True)
class Corpus:
    """A vocabulary and three texts as int32 ids (tokens,); ``level`` is "word" or "char"."""

    name: str
    level: str
    dictionary: Dictionary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @cached_property
    def hashes(self) -> dict[str, str]:
        """What tells this vocabulary, and this training and validation text, from others."""
        parts = {
            "vocabulary": self.dictionary.to_json().encode(),
            "text": b"".join(map(bytes, (self.train, self.valid))),
        }
        return {name: hashlib.sha256(part).hexdigest()[:12] for name, part in parts.items()}


def load_corpus(
    data: str, level: str | None = None, dictionary: Dictionary | None = None
) -> Corpus:
    """Read a data set.

    Without ``dictionary`` the vocabulary is that of the training text, by falling frequency. ``<unk>`` and
    ``<eos>`` are added if they are missing; words are never dropped, not even those seen once, so that a text
    without ``<unk>`` of its own does not teach when to expect unknown words: a line on stderr says so then.

    :param data: name of a data set, folder with train.txt, valid.txt and test.txt, or one text file, which is
        split 80/10/10.
    :param level: "word" or "char"; None for the data set's own.
    :raises UserError: when there is no such data, it cannot be read, or a text has no tokens.
    """
    files = resolve(str(data))
    level = level or files.level
    spans = {"train": files.train, "valid": files.valid, "test": files.test}
    ids: dict[str, np.ndarray] = {}
    open_vocabulary = given = dictionary is not None
    if given:
        spans = {
            split: replace(span, encoding=dictionary.encoding) for split, span in spans.items()
        }
    elif level == "word":
        dictionary, ids["train"] = index_words(spans["train"])
        open_vocabulary = UNK not in dictionary
        dictionary.add_word(UNK)
        dictionary.add_word(EOS)
    elif files.closed:
        dictionary = index_characters(spans.values())
    else:
        dictionary, open_vocabulary = index_characters([spans["train"]]), True
        dictionary.add_word(UNK)
    for split, span in spans.items():
        if split not in ids:
            ids[split] = encode_span(span, dictionary, level)
        if len(ids[split]) == 0:
            raise UserError(f"{span.path} is empty: the {split} text needs at least one line")
    if open_vocabulary and dictionary.unk_id is not None:
        say_unknown(files.name, dictionary, ids, given)
    return Corpus(files.name, level, dictionary, **ids)


def say_unknown(name: str, dictionary: Dictionary, ids: dict[str, np.ndarray], given: bool) -> None:
    """Tell on stderr how much of the texts a vocabulary does not know: a given one, or that of the training text."""
    train, valid, test = (
        100 * float(np.mean(ids[split] == dictionary.unk_id))
        for split in ("train", "valid", "test")
    )
    if given and train > 100 * MUCH_UNKNOWN:
        print(
            f"{name}: {train:.1f} % of the training, {valid:.1f} % of the validation and {test:.1f} % of the test "
            f"tokens are not in the model's vocabulary and are read as {UNK}, which makes perplexities look too good",
            file=sys.stderr,
        )
    elif not given and (valid or test):
        print(
            f"{name}: {valid:.1f} % of the validation and {test:.1f} % of the test tokens are not "
            f"in the training text and are read as {UNK}, which this training text does not teach",
            file=sys.stderr,
        )


def encode_file(path: str | Path, dictionary: Dictionary, level: str) -> np.ndarray:
    """The ids (tokens,) int32 of any text file; unknown tokens become ``<unk>``.

    :raises UserError: when the file cannot be read, or has a character unknown to a closed vocabulary.
    """
    return encode_span(Span(Path(path), encoding=dictionary.encoding), dictionary, level)


def encode_span(span: Span, dictionary: Dictionary, level: str) -> np.ndarray:
    """The ids (tokens,) int32 of a span of a file at level "word" or "char"."""
    pieces = word_blocks(span) if level == "word" else blocks(span)
    if level == "word":
        return gather(map(dictionary.encode, pieces))
    return gather(character_ids(pieces, dictionary, span))


def gather(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Join int32 arrays; an array('i') grows in place, concatenating a list would take twice the memory."""
    tokens = array("i")
    for piece in pieces:
        tokens.frombytes(piece.view(np.uint8))
    return np.frombuffer(tokens, np.int32) if tokens else np.empty(0, np.int32)


def word_blocks(span: Span) -> Iterator[list[str]]:
    """The words of a text by blocks, ``<eos>`` for each line end; a last line without one gets it."""
    last = "\n"
    for block in blocks(span):
        last = block[-1]
        yield block.replace("\n", f" {EOS} ").split()
    if last != "\n":
        yield [EOS]


def index_words(span: Span) -> tuple[Dictionary, np.ndarray]:
    """Vocabulary and ids of a text in one pass: numbered by first appearance, by frequency in the end."""
    first_seen: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids = gather(
        np.fromiter(map(first_seen.__getitem__, w), np.int32, len(w)) for w in word_blocks(span)
    )
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    counts = np.zeros(len(first_seen), np.int64)
    for chunk in chunks:
        counts += np.bincount(chunk, minlength=len(first_seen))
    dictionary = Dictionary.from_counts(
        Counter(dict(zip(first_seen, counts.tolist(), strict=True)))
    )
    dictionary.encoding = span.encoding
    renumber = np.fromiter(map(dictionary.word2idx.get, first_seen), np.int32, len(first_seen))
    for chunk in chunks:  # in place
        chunk[:] = renumber[chunk]
    return dictionary, ids


def code_points(text: str) -> np.ndarray:
    """The characters of a text as uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def index_characters(spans: Iterable[Span]) -> Dictionary:
    """The characters of all spans by falling frequency."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for span in spans:
        encoding = span.encoding
        for block in blocks(span):
            counts += np.bincount(code_points(block), minlength=CODE_POINTS)
    dictionary = Dictionary.from_counts(
        Counter({chr(point): counts[point] for point in np.flatnonzero(counts)})
    )
    dictionary.encoding = encoding
    return dictionary


def character_ids(
    pieces: Iterable[str], dictionary: Dictionary, span: Span
) -> Iterator[np.ndarray]:
    """The ids of the characters of each piece, int32."""
    unknown = -1 if dictionary.unk_id is None else dictionary.unk_id
    table = np.full(CODE_POINTS, unknown, np.int32)
    for index, token in enumerate(dictionary.idx2word):
        if len(token) == 1:
            table[ord(token)] = index
    for piece in pieces:
        ids = table[code_points(piece)]
        if unknown < 0 and (bad := np.flatnonzero(ids < 0)).size:
            raise UserError(
                f"{span.path} contains {piece[bad[0]]!r}, which is none of the {len(dictionary)} characters "
                "of this vocabulary: remove or replace it"
            )
        yield ids


def batchify(ids: np.ndarray, batch_size: int) -> np.ndarray:
    """Cut a text into ``batch_size`` columns that are read side by side, dropping what does not fill a row.

    :param ids: (tokens,) int32.
    :returns: (L, N) int32 with L = tokens // N; column n is the n-th stretch of the text.
    :raises UserError: when there are fewer tokens than columns.
    """
    length = len(ids) // batch_size
    if length == 0:
        raise UserError(
            f"a text of {len(ids)} tokens does not fill {batch_size} columns: lower the batch size"
        )
    return np.ascontiguousarray(ids[: length * batch_size].reshape(batch_size, length).T)


def random_length(bptt: int, seed: int, step: int) -> int:
    """The number of steps of training step ``step``'s segment, about ``bptt``: a function of seed and step alone.

    Normal(bptt, 5), for one segment in twenty Normal(bptt / 2, 5), at least 5 and, so that no segment needs much
    more memory than the others, at most bptt + 10 (Merity et al. 2018, section 5).
    """
    random = np.random.default_rng((seed, step))
    center = bptt if random.random() < 0.95 else bptt / 2
    return min(max(5, int(random.normal(center, 5))), bptt + 10)


def segments(
    rows: int, bptt: int, length: Callable[[int], int] | None = None
) -> list[tuple[int, int]]:
    """Beginning and steps of each segment of a text of ``rows`` rows, of which the last is only a target.

    :param length: steps of the i-th segment; None for ``bptt`` each. What is left makes the last one shorter.
    """
    plan, start = [], 0
    while start < rows - 1:
        steps = min(length(len(plan)) if length else bptt, rows - 1 - start)
        plan.append((start, steps))
        start += steps
    return plan


def get_batch(source: np.ndarray, i: int, bptt: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``i`` to ``i + T`` and, as targets, the rows one later; T = ``bptt`` or what is left.

    :param source: (L, N) of :func:`batchify`, 0 <= i < L - 1. :returns: data (T, N), target (T, N).
    """
    steps = min(bptt, len(source) - 1 - i)
    return source[i : i + steps], source[i + 1 : i + 1 + steps]


def evaluation_columns(ids: np.ndarray, batch_size: int) -> int:
    """In how many columns to evaluate a text: ``batch_size``, or one for each token of a shorter text.

    :raises UserError: when the text is empty.
    """
    if len(ids) == 0:
        raise UserError("there is no text to evaluate: the file is empty")
    return min(batch_size, len(ids))


def evaluation_batches(
    ids: np.ndarray, start_id: int, batch_size: int, bptt: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Segments in which every token of a text is a target exactly once, also the first and the last.

    The input of the first token is ``start_id``; the text is padded to fill ``batch_size`` columns.

    :param ids: (tokens,) int32.
    :returns: yields inputs (T, N) int32, targets (T, N) int32, mask (T, N) float32, 0 where padded.
    """
    length = -(-len(ids) // batch_size)  # rows, rounded up
    padding = (0, length * batch_size - len(ids))
    inputs, targets, mask = (
        np.pad(tokens, padding).reshape(batch_size, length).T
        for tokens in (
            np.concatenate([np.array([start_id], np.int32), ids[:-1]])[: len(ids)],
            ids,
            np.ones(len(ids), np.float32),
        )
    )
    for i in range(0, length, bptt):
        yield inputs[i : i + bptt], targets[i : i + bptt], mask[i : i + bptt]
