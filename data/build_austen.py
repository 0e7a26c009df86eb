"""Build the bundled Austen corpus: data/austen/{train,valid,test}.txt and stats.json, from data/raw.

    python data/build_austen.py            # rewrites data/austen; a test compares every byte
    python data/build_austen.py --out DIR

Uses the standard library only. data/README.md says where the text comes from and what is done to it.
"""

import argparse
import hashlib
import json
import lzma
import re
from collections import Counter
from pathlib import Path

DATA = Path(__file__).resolve().parent
RAW = DATA / "raw" / "austen.txt.xz"
RAW_SHA256 = "ff4250a469524dbfeda7e414bfa9af1bdafc8464cedd6ea7c44b165c931200b1"  # of the text, not of the .xz
NOVELS = (
    "EMMA",
    "MANSFIELD PARK",
    "NORTHANGER ABBEY",
    "Persuasion",
    "PRIDE AND PREJUDICE",
    "SENSE AND SENSIBILITY",
)
SPLITS = {
    "train": 0.84,
    "valid": 0.08,
    "test": 0.08,
}  # shares of each novel's sentences, in this order
VOCABULARY = 10_000  # entries that a reader of the files finds, <unk> and <eos> among them

HEADING = re.compile(r"(?:CHAPTER|Chapter|VOLUME) [IVXLC\d]+$")
ENDING = re.compile(r"(?:FINIS|Finis|THE END|A NOTE ON THE TEXT)$")  # what follows is not Austen's
FOOTNOTE = re.compile(r"^\*[A-Za-z].*$", re.MULTILINE)
BRACKETED = re.compile(r"\[[^\]]*\]")
# The end of a sentence: a full stop, ! or ?, closing quotes, a blank or a dash, then a capital or a digit.
SENTENCE_END = re.compile(r"""([.!?]+["')]*)(?:\s+|\s*--+\s*)(?=["'(]*[A-Z\d£])""")
ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Messrs|Dr|St|Col|Capt|Lieut|Esq|No|Sept|ult)|(?<![A-Za-z'])[A-HJ-Z])$"
)
NUMBER = re.compile(r"\d+(?:,\d+)*(?:(?:st|nd|rd|th)\b)?")
WORD = re.compile(
    r"N|[a-z]+(?:['-][a-z]+)*"
)  # o'clock and good-natured are words; a dash (--) parts words


def read_raw(path: Path = RAW) -> str:
    """The six novels as one string; raises ValueError if it is not the text this script was written for."""
    raw = lzma.decompress(path.read_bytes())
    if hashlib.sha256(raw).hexdigest() != RAW_SHA256:
        raise ValueError(
            f"{path} does not hold the expected text: its sha256 should be {RAW_SHA256}"
        )
    return raw.decode("utf-8")


def split_novels(text: str) -> dict[str, str]:
    """Title -> the novel's prose, from below its first heading to its end, without headings and notes."""
    novels: dict[str, list[str]] = {}
    title, inside = "", False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped in NOVELS:
            title, inside = stripped, False
        elif ENDING.match(stripped):
            inside = False
        elif HEADING.match(stripped):
            inside = True
            novels.setdefault(title, []).append("")  # a heading ends the paragraph
        elif inside:
            novels[title].append(line)
    return {
        title: BRACKETED.sub("", FOOTNOTE.sub("", "\n".join(lines)))
        for title, lines in novels.items()
    }


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of one paragraph. `Mr. Weston` and `F. C. Weston` stay whole; `"Oh!" said she` does too."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(paragraph):
        if match.group(1) == "." and ABBREVIATION.search(paragraph, start, match.start()):
            continue
        sentences.append(paragraph[start : match.end(1)])
        start = match.end()
    sentences.append(paragraph[start:])
    return sentences


def tokenize(sentence: str) -> list[str]:
    """Lowercase words without punctuation; a number (also 7th or 10,000) is N, &c is etc."""
    lowered = sentence.replace("_", "").replace("&c", "etc").lower()
    return WORD.findall(NUMBER.sub(" N ", lowered))


def novel_sentences(text: str) -> list[list[str]]:
    """All sentences of a novel as lists of words; the end of a paragraph is the end of a sentence."""
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
    tokens = (tokenize(sentence) for p in paragraphs for sentence in split_sentences(p))
    return [words for words in tokens if words]


def split_corpus(novels: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """Each novel's first 84 % of sentences train, the next 8 % validate, the last 8 % test."""
    splits: dict[str, list[list[str]]] = {name: [] for name in SPLITS}
    for sentences in novels.values():
        share, start = 0.0, 0
        for name in SPLITS:
            share += SPLITS[name]
            stop = round(share * len(sentences))
            splits[name] += sentences[start:stop]
            start = stop
    return splits


def most_frequent(sentences: list[list[str]], size: int) -> set[str]:
    """The `size` most frequent words; between equally frequent ones the alphabet decides."""
    counts = Counter(word for sentence in sentences for word in sentence)
    return {word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]}


def statistics(novels: dict, splits: dict, vocabulary: set[str]) -> dict:
    """The figures of data/README.md. Tokens count one <eos> per sentence; types are those before <unk>."""
    counts = Counter(
        word for sentences in novels.values() for sentence in sentences for word in sentence
    )
    stats: dict = {
        "raw_sha256": RAW_SHA256,
        "tokens": sum(len(sentence) + 1 for sentences in novels.values() for sentence in sentences),
        "types": len(counts) + 1,
        "types_seen_twice": sum(count > 1 for count in counts.values()) + 1,
        "vocabulary": len(vocabulary) + 2,
        "novels": {
            title.title().replace(" And ", " and "): sum(len(s) + 1 for s in sentences)
            for title, sentences in novels.items()
        },
    }
    for name, sentences in splits.items():
        words = sum(map(len, sentences))
        unknown = sum(word not in vocabulary for sentence in sentences for word in sentence)
        stats[name] = {
            "sentences": len(sentences),
            "tokens": words + len(sentences),
            "unknown": unknown,
            "unknown_percent": round(100 * unknown / (words + len(sentences)), 2),
        }
    return stats


def build(out: Path, raw: Path = RAW) -> dict:
    """Write train.txt, valid.txt, test.txt and stats.json into `out`; returns the statistics."""
    novels = {title: novel_sentences(text) for title, text in split_novels(read_raw(raw)).items()}
    splits = split_corpus(novels)
    vocabulary = most_frequent(splits["train"], VOCABULARY - 2)
    out.mkdir(parents=True, exist_ok=True)
    for name, sentences in splits.items():
        lines = (
            " ".join(w if w in vocabulary else "<unk>" for w in sentence) + "\n"
            for sentence in sentences
        )
        (out / f"{name}.txt").write_bytes("".join(lines).encode("ascii"))
    stats = statistics(novels, splits, vocabulary)
    (out / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="ascii")
    return stats


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA / "austen")
    stats = build(parser.parse_args(argv).out)
    print(json.dumps(stats, indent=2))
    return stats


if __name__ == "__main__":
    main()
