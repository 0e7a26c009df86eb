"""From prose to tokens: quotation marks get a direction, sentences end, Moses finds the words.

    >>> [tokenize(one) for one in sentences('Mr. Weston came. "Oh!" said he--"I know."')]
    [['Mr.', 'Weston', 'came', '.'],
     ['“', 'Oh', '!', '”', 'said', 'he', '--', '“', 'I', 'know', '.', '”']]

Punctuation is a token of its own, so that a model writes sentences with commas, quotation marks and
full stops.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th)?")
RARER = ("Lieut", "Esq", "Sept", "ult")  # abbreviations that Moses does not list
DASHES = re.compile(r"-{2,}")
OPENING = re.compile(r'(?:(?<![^\s(\[{—-])|(?<=\s[\'‘])|(?<=^[\'‘]))"(?=\S)')
# of a word, in Moses' eyes punctuation: accents, joiners as in Persian, the syllables of Korean
WITHIN = r"\u0300-\u036f\u200c\u200d\uac00-\ud7a3"
# soft hyphens, and marks of a text's direction, which messengers write into their exports
UNSEEN = dict.fromkeys([0xAD, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
# A sentence ends at a full stop, ! or ? with the closing marks and the dash after it, if a blank or
# that dash follows; in Chinese and Japanese at the mark itself.
ENDING = re.compile(
    r"""(?P<mark>[.!?…؟।]+["'”’»)\]]*)(?:\s*(?:--+|—)[”’]*\s*|\s+)(?=["'“‘«(\[]*(?P<letter>\S))"""
    r"""|[。！？]+[”’」』）"]*\s*"""
)


@cache
def moses():
    """The Moses tokenizer, which gluonnlp calls, too, but with MXNet loaded."""
    from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer("en")
    special, apart = tokenizer.PAD_NOT_ISALNUM
    tokenizer.PAD_NOT_ISALNUM = re.compile(special.pattern.replace("[^", f"[^{WITHIN}", 1)), apart
    return tokenizer


@cache
def abbreviations() -> dict[str, bool]:
    """Words whose full stop ends no sentence; True: only before a number, such as No."""
    from sacremoses.corpus import NonbreakingPrefixes

    words = (line.split() for line in NonbreakingPrefixes().words("en"))
    known = {word: bool(condition) for word, *condition in words} | dict.fromkeys(RARER, False)
    del known["I"]  # more often the pronoun than an initial
    return known


def direct_quotes(text: str) -> str:
    """Straight double quotation marks as “ and ”, by what stands beside them."""
    return OPENING.sub("“", text).replace('"', "”") if '"' in text else text


def sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph. ``Mr. Weston`` stays whole, and so does ``"Oh!" said she``."""
    paragraph, start = direct_quotes(paragraph), 0
    for match in ENDING.finditer(paragraph):
        if match["mark"]:
            if match["letter"].islower() or match["letter"] in ",;:)”’":
                continue
            if match["mark"] == "." and abbreviated(paragraph, match):
                continue
        yield paragraph[start : match.end()].strip()
        start = match.end()
    if rest := paragraph[start:].strip():
        yield rest


def abbreviated(paragraph: str, match: re.Match) -> bool:
    """Whether the full stop found belongs to the word before it."""
    word = re.search(r"\w*$", paragraph[max(0, match.start() - 20) : match.start()])[0]
    only_before_number = abbreviations().get(word)
    return only_before_number is False or bool(only_before_number and match["letter"].isdigit())


def tokenize(sentence: str, lowercase: bool = False, numbers: bool = False) -> list[str]:
    """The tokens of a sentence, punctuation apart; ``numbers``: ``N`` for each, such as 28th."""
    text = unicodedata.normalize("NFC", sentence).translate(UNSEEN)  # one spelling for each word
    text = DASHES.sub(" -- ", direct_quotes(text))
    text = re.sub(r"\bI\.(?!\w)", "I .", text)  # Moses takes it for an initial
    text = re.sub(r"(?<!\S)'(?=\w)", "' ", text)  # an opening quotation mark, not an ending
    tokens = moses().tokenize(text, escape=False)
    if lowercase:
        tokens = [token.lower() for token in tokens]
    return ["N" if NUMBER.fullmatch(token) else token for token in tokens] if numbers else tokens
