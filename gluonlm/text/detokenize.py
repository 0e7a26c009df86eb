"""Between a reader's text and a model's tokens: seed phrases in, generated text out.

    >>> tokens_of("She was", dictionary, "word")
    ['she', 'was']
    >>> to_text(["the", "company", "'s", "shares", "fell", "N", "%", "<eos>"])
    "the company's shares fell N%\\n"

The corpora set punctuation and endings apart, each in its way. The Moses detokenizer says where a
blank belongs; what it does not know of Penn Treebank (``do n't``), WikiText (``1 @,@ 000``) and
quotation marks with a direction is here.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache

from gluonlm.text.subwords import BLANK, encoder
from gluonlm.text.tokenizer import NUMBER, tokenize
from gluonlm.text.vocabulary import EOS, Dictionary

TO_THE_LEFT = {"n't", "”", "’", "…", "''", *"،؛؟।，。！？；："}  # no blank before these
TO_THE_RIGHT = {"“", "„", "‘", "``", "#", *"，！？；："}  # no blank after these
WHOLE = re.compile(  # of three tokens: didn’t, l’homme, o’clock, 10:30
    r"\w+’(?:s|t|re|ve|ll|d|m)|(?:[cdjlmnst]|\w*qu|aujourd|d[ae]ll|nell|sull|quell|un)’\w+|o’clock"
    r"|\d+:\d\d",
    re.IGNORECASE,
)
ENDS = {*".!?"}  # of a sentence within a line
BETWEEN = {"@-@": "-", "@,@": ",", "@.@": "."}  # WikiText: no blank on either side
PART = re.compile(r"\W+$|['’]")  # of a word that was cut: punctuation, or 's


@cache
def moses():
    """The Moses detokenizer, which gluonnlp calls, too, but with MXNet loaded."""
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer("en")


@lru_cache(maxsize=1 << 16)
def parted(before: tuple[str, ...], token: str) -> bool:
    """Whether Moses sets a blank between the last word of ``before`` and a token."""
    text = moses().detokenize([*before, token], unescape=False)
    return text.removesuffix(token).endswith(" ")


def example(word: str) -> str:
    """A short word that stands beside others as this one does, so that few pairs are asked for."""
    if "\uac00" <= word[-1:] <= "\ud7a3":  # Korean has blanks, unlike what Moses knows
        return "a"
    return word[-1:].replace("s", "is") if word.isascii() and word.isalpha() else word


class Detokenizer:
    """Turns a model's tokens into text as they come; call it with one after another.

    ``capitals``: begin each sentence with a capital letter, and write I for i. ``raw``: leave the
    tokens as they are, ``<eos>`` too, separated by blanks.
    """

    def __init__(self, level: str = "word", capitals: bool = False, raw: bool = False):
        self.level, self.capitals, self.raw = level, capitals, raw
        self._begin_line()

    def _begin_line(self) -> None:
        self.second_last = self.last = ""  # the tokens before, none at the beginning of a line
        self.sentence_start = True
        self.open: tuple[str, ...] = ()  # straight quotation marks that wait for their partners
        self.open_before: tuple[str, ...] = ()  # those that did so before the last token
        self.low = False  # whether „ is open, which “ ends

    def __call__(self, token: str) -> str:
        """What this token adds to the text."""
        if self.level == "char" or self.raw:
            return self._plain(token)
        if token == EOS:
            self._begin_line()
            return "\n"
        if self.level == "subword":
            piece = token.replace(BLANK, " ")
            piece = piece if self.last else piece.lstrip(" ")
        else:
            piece = (" " if self._needs_blank(token) else "") + BETWEEN.get(token, token)
        self._follow(token)
        return self._cased(piece)

    def _needs_blank(self, token: str) -> bool:
        if not self.last or self.last in TO_THE_RIGHT or self.last in BETWEEN:
            return False
        if token in TO_THE_LEFT or token in BETWEEN:
            return False
        if WHOLE.fullmatch(self.second_last + self.last + token) or (self.low and token == "“"):
            return False
        before = (example(self.second_last),) if self.last in "'\"" and self.second_last else ()
        return parted((*self.open_before, *before, example(self.last)), example(token))

    def _follow(self, token: str) -> None:
        self.open_before = self.open
        if token in self.open:
            self.open = tuple(mark for mark in self.open if mark != token)
        elif token == '"' or (token == "'" and not self.last.endswith("s")):  # not the boys' room
            self.open = (*self.open, token)
        self.second_last, self.last = self.last, "”" if self.low and token == "“" else token
        self.low = token == "„" or (self.low and token not in "“”")

    def _plain(self, token: str) -> str:
        blank = " " if self.level != "char" and self.last else ""
        self.last = token
        return blank + token

    def _cased(self, piece: str) -> str:
        word = piece.lstrip(" ")
        if not self.capitals or word.startswith("<") or not word:
            self.sentence_start &= not word
            return piece
        begins = self.sentence_start and word not in TO_THE_LEFT  # “Oh!” said she
        self.sentence_start = (begins and not word[0].isalnum()) or word in ENDS
        if begins or word == "i" or word.startswith("i'"):
            return piece[: len(piece) - len(word)] + word[0].upper() + word[1:]
        return piece


def to_text(
    tokens: Iterable[str], level: str = "word", capitals: bool = False, raw: bool = False
) -> str:
    """Tokens as text; see :class:`Detokenizer`."""
    return "".join(map(Detokenizer(level, capitals, raw), tokens))


def tokens_of(text: str, dictionary: Dictionary, level: str) -> list[str]:
    """The tokens of a phrase that a person wrote.

    Words are found as they were when the data set was prepared, unless blanks separate all tokens
    already. A word that is not in the vocabulary is tried in small letters, without the punctuation
    around it, and as ``N`` if it is a number. A line end is an ``<eos>``. At character level the
    tokens are the characters.
    """
    if level == "char":
        return list(text.lower() if dictionary.about.get("rules", {}).get("lowercase") else text)
    first, *others = (line_tokens(line, dictionary, level) for line in text.split("\n"))
    return [*first, *(token for line in others for token in (EOS, *line))]


def line_tokens(line: str, dictionary: Dictionary, level: str) -> list[str]:
    """The tokens of a line, words or subwords."""
    words, rules, known = line.split(), dictionary.about.get("rules", {}), dictionary.word2idx
    unknown = [word for word in words if word not in known]
    if level == "subword" and (unknown or BLANK not in line):  # "in" may be the end of a word, too
        line = line.lower() if rules.get("lowercase") else line
        return encoder(dictionary.about.get("subwords", ""))(line)
    if rules.get("tokenizer") == "moses":
        # of a line that is cut already Moses would make more: 's becomes ' and s
        if any(tokenize(word) != [word] for word in unknown):
            words = tokenize(line, rules.get("lowercase"), rules.get("numbers"))
        elif line.rstrip()[-1:] in ENDS and not any(map(PART.match, words)):
            words[-1:] = tokenize(words[-1])  # "line." may be known from within a sentence
    return [word if word in known else spelled(word, dictionary) for word in words]


def spelled(word: str, dictionary: Dictionary) -> str:
    """An unknown word as the vocabulary has it, or itself where it has none of its spellings."""
    bare = word.strip('.,;:!?"“”‘’()[]—-_*') or word
    forms = [word.lower(), bare, bare.lower(), *(["N"] if NUMBER.fullmatch(bare) else [])]
    return next((form for form in forms if form in dictionary), word)
