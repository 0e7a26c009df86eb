"""Text as arrays of token ids: the vocabulary, and reading in a streaming pass.

    >>> corpus = load_corpus("austen")              # a data set name, a folder or one text file
    >>> corpus.train                                # (tokens,) int32
    >>> read_split("austen", "test", corpus.dictionary, corpus.level)

At word level a line is a sentence: its words, separated by blanks, then ``<eos>``; subwords are
read like words. At character level every character is a token and the line end is one of them.
``enwik8`` is read as bytes: its characters are those of Latin-1, which has one for each byte.
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
from gluonlm.text.detokenize import tokens_of
from gluonlm.text.documents import JOIN, physical_lines
from gluonlm.text.locate import COUNTS, DatasetFiles, resolve
from gluonlm.text.reader import LONGEST_WORD, SPLITS, Span, blocks
from gluonlm.text.vocabulary import ALL, EOS, RARE, UNK, Dictionary, Limits

CODE_POINTS = 0x110000  # of Unicode
CHUNK = 1 << 20  # ids renumbered at once
MUCH_UNKNOWN = 0.1  # share of tokens; about 0.05 in the test texts of Penn Treebank and WikiText-2


@dataclass(frozen=True)
class Corpus:
    """A vocabulary and three texts as int32 ids (tokens,)."""

    name: str
    level: str  # "word", "subword" or "char"
    dictionary: Dictionary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def __post_init__(self):
        for ids in (self.train, self.valid, self.test):
            self.dictionary.check_ids(ids)  # MXNet would write beyond the embedding

    @cached_property
    def hashes(self) -> dict[str, str]:
        """What tells this vocabulary and this text from others."""
        words = self.dictionary
        parts = {
            "vocabulary": [Dictionary(words.idx2word, words.encoding).to_json().encode()],
            "text": [self.train, self.valid],
            "test text": [self.test],
        }
        return {name: digest(*part)[:12] for name, part in parts.items()}


def digest(*parts: bytes | np.ndarray) -> str:
    """The sha256 of bytes or arrays one after another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, bytes) else np.ascontiguousarray(part))
    return whole.hexdigest()


def load_corpus(
    data: str, level: str | None = None, dictionary: Dictionary | None = None, limits: Limits = ALL
) -> Corpus:
    """Read a data set.

    Without ``dictionary`` the vocabulary is that of the training text, by falling frequency.
    ``<unk>`` and ``<eos>`` are added if they are missing. A text without ``<unk>`` of its own and
    without limits does not teach when to expect unknown words: a line on stderr says so then.

    :param data: name of a data set, folder with train.txt, valid.txt and test.txt, or one text
        file, which is split 80/10/10.
    :param level: "word" or "char"; None for the data set's own.
    :raises UserError: when there is no such data, it cannot be read, a text has no tokens, or with
        ``dictionary`` the text is not what it was when a model learned from it.
    """
    files = resolve(str(data))
    level = level or files.level
    ids: dict[str, np.ndarray] = {}
    given = dictionary
    if given is None:
        dictionary, ids = index(files, level, limits)
    for split, span in files.spans.items():
        tokens = ids[split] if split in ids else encode_span(span, dictionary, level)
        ids[split] = checked(tokens, dictionary, files, split)
    if dictionary.unk_id is not None and (given or dictionary.unk_id not in ids["train"]):
        say_unknown(files.name, dictionary, ids, given is not None)
    dictionary = dictionary.described(about(files, level, ids, dictionary.unk_id))
    return Corpus(files.name, level, dictionary, **ids)


def about(files: DatasetFiles, level: str, ids: dict[str, np.ndarray], unk_id: int | None) -> dict:
    """What a vocabulary is to tell of its texts: see Dictionary. A text of which more is ``<unk>``
    here than in its file has no size: its losses are not those of its characters."""
    known = {"data": files.place, "texts": {s: digest(tokens)[:16] for s, tokens in ids.items()}}
    known["sizes"] = {}  # instead of those of a text that a finetuned model learned from before
    if files.made and level == files.level:
        known |= {name: files.made[name] for name in ("rules", "subwords") if name in files.made}
    if files.made and level == files.level != "char":  # whose own measure is bits per character
        for split, counts in files.made.get("splits", {}).items():
            if split in ids and np.count_nonzero(ids[split] == unk_id) == counts.get("unknown"):
                known["sizes"][split] = {name: counts[name] for name in COUNTS}
    return known


def index(files: DatasetFiles, level: str, limits: Limits) -> tuple[Dictionary, dict]:
    """The vocabulary of a training text, and at word level its ids, which come in the same pass."""
    train = files.spans["train"]
    if level != "char":
        dictionary, ids = index_words(train, limits)
        return dictionary, {"train": ids}
    if files.closed:
        if limits != ALL:
            fixed = f"{files.name} is read with all of its characters"
            raise UserError(f"{fixed}: leave out --vocab-size and --min-count")
        return index_characters(files.spans.values()), {}
    return index_characters([train], limits), {}


def read_split(data: str, split: str, dictionary: Dictionary, level: str) -> np.ndarray:
    """The ids (tokens,) int32 of one text of a data set; the other two need not be there. Raises a
    UserError as :func:`load_corpus` does."""
    files = resolve(str(data), (split,))
    return checked(encode_span(files.spans[split], dictionary, level), dictionary, files, split)


def checked(ids: np.ndarray, dictionary: Dictionary, files: DatasetFiles, split: str) -> np.ndarray:
    """The ids; a UserError when there are none, or a model's own text lay there and was another."""
    if len(ids) == 0:
        place = files.spans[split].path
        raise UserError(f"{place} is empty: the {split} text needs at least one line")
    then = dictionary.about.get("texts", {}).get(split)
    if then and dictionary.about.get("data") == files.place and digest(ids)[:16] != then:
        other = f"the {split} text in {files.place} is no longer what the model was trained with"
        advice = "put the old text back, or give this one another name and --data"
        raise UserError(f"{other}: {advice}")
    return ids


def say_unknown(name: str, dictionary: Dictionary, ids: dict[str, np.ndarray], given: bool) -> None:
    """Tell on stderr what a vocabulary, given or new, does not know of the texts."""
    train, valid, test = (100 * np.mean(ids[split] == dictionary.unk_id) for split in SPLITS)
    held_out = f"{valid:.1f} % of the validation and {test:.1f} % of the test tokens are not"
    if given and train > 100 * MUCH_UNKNOWN:
        where = f"{train:.1f} % of the training, {held_out} in the model's vocabulary"
        trouble = "which makes perplexities look too good"
    elif not given and (valid or test):
        where = f"{held_out} in the training text"
        cure = "prepare it with `python -m gluonlm.prepare`, or limit it with --min-count 2"
        trouble = f"which this training text does not teach: {cure}"
    else:
        return
    print(f"{name}: {where} and are read as {UNK}, {trouble}", file=sys.stderr)


def encode_file(path: str | Path, dictionary: Dictionary, level: str) -> np.ndarray:
    """The ids (tokens,) int32 of any text file, ``<unk>`` for unknown tokens: of one of those that
    the model was made with as it stands, of another as a person wrote it, which a line on stderr
    says where that matters. A UserError when it cannot be read, or has a character unknown to a
    closed vocabulary."""
    span, plain = Span(Path(path), encoding=dictionary.encoding), hashlib.sha256()
    ids = gather(written_ids(span, dictionary, level, plain.update))
    if plain.hexdigest() != digest(ids):
        if plain.hexdigest()[:16] in dictionary.about.get("texts", {}).values():
            return encode_span(span, dictionary, level)
        how = "read by the rules of the model's own text, as score and perplexity do"
        print(f"{path}: {how}", file=sys.stderr)
    return ids


def written_ids(
    span: Span, dictionary: Dictionary, level: str, note: Callable[[np.ndarray], None]
) -> Iterator[np.ndarray]:
    """The ids of each line that a person wrote, or at character level of each block, after ``note``
    has been called with those of the text as it stands."""
    if level == "char":
        for block in blocks(span):
            texts = block, "".join(tokens_of(block, dictionary, level))
            plain, ids = character_ids(texts, dictionary, span)
            note(plain)
            yield ids
        return
    for line in physical_lines(blocks(span), LONGEST_WORD):
        text, end = line.removesuffix(JOIN), [] if line.endswith(JOIN) else [EOS]
        note(dictionary.encode([*text.split(), *end]))
        yield dictionary.encode([*tokens_of(text, dictionary, level), *end])


def encode_span(span: Span, dictionary: Dictionary, level: str) -> np.ndarray:
    """The ids (tokens,) int32 of a span of a file at a level, in the vocabulary's encoding."""
    span = replace(span, encoding=dictionary.encoding)
    if level == "char":
        return gather(character_ids(blocks(span), dictionary, span))
    return gather(map(dictionary.encode, word_blocks(span)))


def gather(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Join int32 arrays by growing one; to concatenate a list would take twice the memory."""
    tokens = array("i")
    for piece in pieces:
        tokens.frombytes(piece.view(np.uint8))
    return np.frombuffer(tokens, np.int32) if tokens else np.empty(0, np.int32)


def word_blocks(span: Span) -> Iterator[list[str]]:
    """The words of a text by blocks, ``<eos>`` after each line, also if the last has no end."""
    last = "\n"
    for block in blocks(span):
        last = block[-1]
        yield block.replace("\n", f" {EOS} ").split()
    if last != "\n":
        yield [EOS]


def index_words(span: Span, limits: Limits = ALL) -> tuple[Dictionary, np.ndarray]:
    """Vocabulary and ids of a text in one pass: numbered anew when the frequencies are known."""
    first_seen: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids = gather(
        np.fromiter(map(first_seen.__getitem__, w), np.int32, len(w)) for w in word_blocks(span)
    )
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    counts = np.zeros(len(first_seen), np.int64)
    for chunk in chunks:
        counts += np.bincount(chunk, minlength=len(first_seen))
    seen = Counter(dict(zip(first_seen, counts.tolist(), strict=True)))
    dictionary = limits.vocabulary(seen, (UNK, EOS))
    dictionary.encoding = span.encoding
    renumber = dictionary.encode(first_seen)
    for chunk in chunks:  # in place
        chunk[:] = renumber[chunk]
    return dictionary, ids


def code_points(text: str) -> np.ndarray:
    """The characters of a text as uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def index_characters(spans: Iterable[Span], limits: Limits | None = None) -> Dictionary:
    """The characters of all spans by falling frequency, without ``limits`` a closed vocabulary."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for span in spans:
        encoding = span.encoding
        for block in blocks(span):
            counts += np.bincount(code_points(block), minlength=CODE_POINTS)
    seen = Counter({chr(point): int(counts[point]) for point in np.flatnonzero(counts)})
    if limits is None:
        dictionary = Dictionary.from_counts(seen)
    else:
        if RARE in seen:
            seen[UNK] = seen.pop(RARE)
        dictionary = limits.vocabulary(seen, (UNK,))
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
            known = f"none of the {len(dictionary)} characters of this vocabulary"
            character = f"{piece[bad[0]]!r}, which is {known}"
            raise UserError(f"{span.path} contains {character}: remove or replace it")
        yield ids
