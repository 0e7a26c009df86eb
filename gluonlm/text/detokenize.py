"""Between a reader's text and a model's tokens: seed phrases in, generated text out, a token at a time.

    >>> tokens_of("She was", dictionary, "word")
    (['she', 'was'], [])
    >>> to_text(["the", "company", "'s", "shares", "fell", "N", "%", "<eos>"])
    "the company's shares fell N%\\n"

The corpora part punctuation and endings from words, each in its way: Penn Treebank ``do n't`` and ``$ N``, WikiText
``1 @,@ 000``. The rules here undo what can be undone and leave all else as it is.
"""

import re
from collections.abc import Iterable

from gluonlm.text.vocabulary import EOS, Dictionary

TO_THE_LEFT = {
    *",.;:!?)]%…”",
    "''",
    "'",
    "n't",
    "'s",
    "'re",
    "'ve",
    "'ll",
    "'d",
    "'m",
}  # no blank before these
TO_THE_RIGHT = {*"([$£€#“", "``"}  # no blank after these
ENDS = {*".!?"}  # of a sentence within a line
BETWEEN = {"@-@": "-", "@,@": ",", "@.@": "."}  # WikiText: no blank on either side
NUMBER = re.compile(r"\d+([.,]\d+)*")


class Detokenizer:
    """Turns a model's words into text as they come; call it with one token after another.

    :param capitals: begin each sentence with a capital letter, and write I for i.
    :param raw: leave the tokens as they are, ``<eos>`` too, parted by blanks.
    """

    def __init__(self, level: str = "word", capitals: bool = False, raw: bool = False):
        self.level, self.capitals, self.raw = level, capitals, raw
        self.glue = True  # nothing is parted from the beginning of a line
        self.sentence_start = True
        self.quoted = False

    def __call__(self, token: str) -> str:
        """What this token adds to the text."""
        if self.level == "char" or self.raw:
            return self._plain(token)
        if token == EOS:
            self.glue = self.sentence_start = True
            self.quoted = False
            return "\n"
        closing = token == '"' and self.quoted
        tight = self.glue or closing or token in TO_THE_LEFT or token in BETWEEN
        self.glue = token in TO_THE_RIGHT or token in BETWEEN or (token == '"' and not self.quoted)
        self.quoted ^= token == '"'
        piece = ("" if tight else " ") + self._cased(BETWEEN.get(token, token))
        self.sentence_start |= token in ENDS
        return piece

    def _plain(self, token: str) -> str:
        blank = "" if self.level == "char" or self.glue else " "
        self.glue = False
        return blank + token

    def _cased(self, word: str) -> str:
        if not self.capitals or word.startswith("<"):
            self.sentence_start = False
            return word
        if self.sentence_start or word == "i" or word.startswith("i'"):
            self.sentence_start &= not word[0].isalnum()  # an opening quotation mark has no capital
            return word[0].upper() + word[1:]
        return word


def to_text(
    tokens: Iterable[str], level: str = "word", capitals: bool = False, raw: bool = False
) -> str:
    """Tokens as text; see :class:`Detokenizer`."""
    return "".join(map(Detokenizer(level, capitals, raw), tokens))


def tokens_of(text: str, dictionary: Dictionary, level: str) -> tuple[list[str], list[str]]:
    """The tokens of a phrase that a person wrote, as this vocabulary spells them, and those of them it does not know.

    A word that is not in the vocabulary is tried in small letters, without the punctuation around it, and as ``N`` if
    it is a number. A line end is an ``<eos>``. At character level the tokens are the characters.
    """
    if level == "char":
        tokens = list(text)
    else:
        tokens = [spelled(word, dictionary) for word in text.replace("\n", f" {EOS} ").split()]
    return tokens, [token for token in tokens if token not in dictionary]


def spelled(word: str, dictionary: Dictionary) -> str:
    """A word as the vocabulary has it, or itself where it has none of its spellings."""
    bare = word.strip('.,;:!?"“”‘’()[]—-_*') or word
    number = ["N"] if NUMBER.fullmatch(bare) else []
    return next(
        (form for form in (word, word.lower(), bare, bare.lower(), *number) if form in dictionary),
        word,
    )
