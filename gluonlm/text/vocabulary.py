"""The vocabulary of a model: tokens by id and ids by token. Serving needs only numpy for it."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gluonlm.system.errors import UserError
from gluonlm.system.typed import parse, typed

UNK = "<unk>"
EOS = "<eos>"
RARE = "\ufffd"  # what stands for an unknown character in a text that is read by characters
ABOUT = {  # what may be known of a vocabulary's text: see Dictionary
    "data": str,
    "texts": dict[str, str],
    "sizes": dict[str, dict[str, int]],
    "rules": dict[str, str | bool],
    "subwords": str,
}


@dataclass(frozen=True)
class Written:
    """What a file holds of a vocabulary."""

    words: list[str]
    encoding: str = "utf-8"
    about: dict[str, Any] = field(default_factory=dict)


class Dictionary:
    """The vocabulary: tokens by id and ids by token.

    :param encoding: how a text for it is to be read. :param about: what is known of that text:
        ``data``, where it is; ``texts``, hashes of its splits' ids; ``sizes``, their words and
        characters; ``rules``, how prose becomes tokens; ``subwords``, the model of subwords.
    """

    def __init__(
        self, words: Iterable[str] = (), encoding: str = "utf-8", about: dict | None = None
    ):
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []
        self.encoding, self.about = encoding, about or {}
        for word in words:
            self.add_word(word)

    @classmethod
    def from_counts(
        cls, counts: Counter, max_size: int | None = None, min_count: int = 1
    ) -> "Dictionary":
        """At most ``max_size`` tokens seen ``min_count`` times, by frequency, then by alphabet."""
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(word for word, count in ordered[:max_size] if count >= min_count)

    def add_word(self, word: str) -> int:
        """The id of ``word``, a new one if it is new."""
        if word not in self.word2idx:
            self.word2idx[word] = len(self.idx2word)
            self.idx2word.append(word)
        return self.word2idx[word]

    def __len__(self) -> int:
        return len(self.idx2word)

    def __contains__(self, word: str) -> bool:
        return word in self.word2idx

    def __getitem__(self, word: str) -> int:
        index = self.word2idx.get(word, self.unk_id)
        if index is None:
            known = f"the {len(self)} tokens of this vocabulary"
            raise UserError(f"{word!r} is not among {known}, which has no {UNK}")
        return index

    @property
    def unk_id(self) -> int | None:
        """The id that unknown tokens get; None if the vocabulary is closed."""
        return self.word2idx.get(UNK)

    @property
    def eos_id(self) -> int | None:
        """The id of the end of a line; None at character level."""
        return self.word2idx.get(EOS)

    @property
    def start_id(self) -> int:
        """The id before the first token of a text: a line end, or token 0 where there is none."""
        return self.word2idx.get(EOS, self.word2idx.get("\n", 0))

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """Ids int32 (len(words),); an unknown token is ``<unk>``, or else a UserError."""
        words, unk = list(words), self.unk_id
        ids = map(self.word2idx.get, words, itertools.repeat(unk))  # fast
        if unk is None:
            ids = map(self.__getitem__, words)
        return np.fromiter(ids, np.int32, len(words))

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise a UserError for ids of another vocabulary."""
        if np.size(ids) and not 0 <= np.min(ids) <= np.max(ids) < len(self):
            others = f"there are ids that are not among this model's {len(self)}"
            raise UserError(f"{others}: encode the text with its own dictionary")

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens with these ids."""
        return [self.idx2word[int(index)] for index in ids]

    def described(self, about: dict) -> "Dictionary":
        """The same vocabulary with more that is known of its text."""
        return Dictionary(self.idx2word, self.encoding, self.about | about)

    def to_json(self) -> str:
        """The vocabulary as one JSON string."""
        written = {"encoding": self.encoding, "words": self.idx2word}
        if self.about:
            written["about"] = self.about
        text = json.dumps(written, ensure_ascii=False)
        # the name of a file that is not UTF-8 gets escapes, which JSON knows
        return text.encode(errors="backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str) -> "Dictionary":
        """The vocabulary that :meth:`to_json` wrote; a ValueError for anything else."""
        written = parse(text, Written)
        "a".encode(written.encoding)  # a LookupError unless this is the name of one
        dictionary = cls(written.words, written.encoding, written.about)
        if not written.words or len(dictionary) != len(written.words):
            raise ValueError("its vocabulary is empty, or has a word twice")
        for name in ABOUT.keys() & dictionary.about.keys():
            typed(dictionary.about[name], ABOUT[name], name)
        return dictionary


@dataclass(frozen=True)
class Limits:
    """Which tokens of a training text are in the vocabulary; the others are ``<unk>``."""

    vocab_size: int | None = None  # entries with ``<unk>`` and ``<eos>``; None for all
    min_count: int = 1  # times they occur

    def vocabulary(self, counts: Counter, special: Iterable[str]) -> Dictionary:
        """The vocabulary of a text with such counts, by falling frequency, and special tokens."""
        size = self.vocab_size and max(1, self.vocab_size - len({UNK, EOS}.intersection(special)))
        ordinary = Counter({token: n for token, n in counts.items() if token not in (UNK, EOS)})
        kept = Dictionary.from_counts(ordinary, size, self.min_count)
        rare = ordinary.total() - sum(ordinary[token] for token in kept.idx2word)
        counts = Counter({t: n for t, n in counts.items() if t in kept or t in (UNK, EOS)})
        if rare:
            counts[UNK] += rare
        dictionary = Dictionary.from_counts(counts)
        for token in special:
            dictionary.add_word(token)
        return dictionary


ALL = Limits()
