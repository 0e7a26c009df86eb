"""The bundled corpus: the committed files are what the command in data/README.md makes of the
committed raw text."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from gluonlm.prepare import main
from gluonlm.text.corpus import load_corpus
from gluonlm.text.ngrams import kneser_ney_perplexity

DATA = Path(__file__).parents[2] / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def made():
    return json.loads((DATA / "austen" / "dataset.json").read_text(encoding="utf-8"))


def test_the_command_of_the_readme_gives_the_committed_bytes(tmp_path, monkeypatch, made):
    command = re.search(r"^python -m gluonlm.prepare (?:.*\\\n)*.*", README, re.MULTILINE)[
        0
    ].replace("\\\n", "")
    arguments = shlex.split(command)[3:]
    arguments[arguments.index("data/austen")] = str(tmp_path / "austen")
    monkeypatch.chdir(DATA.parent)
    result = main(arguments)
    for name in SPLITS:
        built = (tmp_path / "austen" / f"{name}.txt").read_bytes()
        assert built == (DATA / "austen" / f"{name}.txt").read_bytes(), name
    assert result | {"command": ""} == made | {"command": ""}
    assert shlex.split(made["command"]) == shlex.split(command)


def test_the_figures_are_those_of_the_files(made):
    counts = {}
    for split in SPLITS:
        lines = (DATA / "austen" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        words = [word for line in lines for word in line.split()]
        counts[split] = Counter(words)
        figures = made["splits"][split]
        assert figures["lines"] == len(lines)
        assert figures["tokens"] == len(words) + len(lines)
        assert figures["unknown"] == counts[split]["<unk>"]
    assert made["vocabulary"] == len(counts["train"]) + 1 == 10_000  # <eos> is not in the file
    assert not (counts["valid"].keys() | counts["test"].keys()) - counts["train"].keys()
    for split in SPLITS:
        tokens = sum(novel[split] for novel in made["documents"].values())
        assert made["splits"][split]["tokens"] == tokens
    total = sum(made["splits"][split]["lines"] for split in SPLITS)
    shares = [made["splits"][split]["lines"] / total for split in SPLITS]
    assert shares == pytest.approx([0.84, 0.08, 0.08], abs=0.001)


def test_the_files_hold_words_and_punctuation_only():
    token = re.compile(r"N|<unk>|'?[a-z]+[a-z'.-]*|[.,;:!?()&£*'“”]|\.{2,4}|--|[\da-z-]+")
    for split in SPLITS:
        text = (DATA / "austen" / f"{split}.txt").read_text(encoding="utf-8")
        assert text.endswith("\n")
        assert "\n\n" not in text
        assert [w for w in set(text.split()) if not token.fullmatch(w)] == []
        opened, closed = text.count("“"), text.count("”")
        assert closed == pytest.approx(opened, rel=0.02)  # speech of several paragraphs closes once


def test_the_readme_has_the_figures(made):
    corpus = load_corpus("austen")
    assert f"{made['types']:,} types" in README
    for split in SPLITS:
        row = made["splits"][split]
        cells = [f"{row[key]:,}" for key in ("lines", "tokens", "unknown")]
        cells.append(f"{row['unknown_percent']:.2f} %")
        if split != "train":
            ids = getattr(corpus, split)
            perplexity = kneser_ney_perplexity(corpus.train, ids, len(corpus.dictionary))
            cells.append(f"{perplexity:.2f}")
        assert f"| {split} | {' | '.join(cells)} |" in README
    for title, tokens in made["documents"].items():
        title = title.title().replace(" And ", " and ")
        assert f"| *{title}* | {sum(tokens.values()):,} |" in README
    assert made["sources"][0]["sha256"] in README
