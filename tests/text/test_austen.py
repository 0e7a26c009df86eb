"""The bundled corpus: the committed files are what the committed script makes of the committed raw text."""

import json
import lzma
import re
from collections import Counter
from pathlib import Path

import pytest
from scripts import load_script

DATA = Path(__file__).parents[2] / "data"
build_austen = load_script("data/build_austen.py")


def test_rebuilding_gives_the_committed_bytes(tmp_path, capsys):
    stats = build_austen.main(["--out", str(tmp_path)])
    for name in ("train.txt", "valid.txt", "test.txt", "stats.json"):
        assert (tmp_path / name).read_bytes() == (DATA / "austen" / name).read_bytes(), name
    assert json.loads(capsys.readouterr().out) == stats


def test_a_changed_raw_text_is_refused(tmp_path):
    changed = tmp_path / "austen.txt.xz"
    changed.write_bytes(lzma.compress(b"Call me Ishmael."))
    with pytest.raises(ValueError, match="sha256"):
        build_austen.build(tmp_path, changed)


def test_statistics_are_those_of_the_files():
    stats = json.loads((DATA / "austen" / "stats.json").read_text())
    counts = {}
    for split in ("train", "valid", "test"):
        lines = (DATA / "austen" / f"{split}.txt").read_text(encoding="ascii").splitlines()
        words = [word for line in lines for word in line.split()]
        counts[split] = Counter(words)
        assert stats[split]["sentences"] == len(lines)
        assert stats[split]["tokens"] == len(words) + len(lines)
        assert stats[split]["unknown"] == counts[split]["<unk>"]
    assert stats["vocabulary"] == len(counts["train"]) + 1 == 10_000  # <eos> is not in the file
    assert not (counts["valid"].keys() | counts["test"].keys()) - counts["train"].keys()
    assert (
        stats["tokens"]
        == sum(stats[split]["tokens"] for split in counts)
        == sum(stats["novels"].values())
    )
    shares = [
        stats[split]["sentences"] / sum(stats[s]["sentences"] for s in counts) for split in counts
    ]
    assert shares == pytest.approx([0.84, 0.08, 0.08], abs=0.001)


def test_the_files_hold_words_only():
    word = re.compile(r"(?:N|<unk>|[a-z]+(?:['-][a-z]+)*)")
    for split in ("train", "valid", "test"):
        text = (DATA / "austen" / f"{split}.txt").read_text(encoding="ascii")
        assert text.endswith("\n")
        assert "\n\n" not in text
        assert [w for w in set(text.split()) if not word.fullmatch(w)] == []
        assert not re.search(
            r"^(chapter|volume) [ivxlcN]+$|edinburgh university press|signet", text, re.MULTILINE
        )


def test_the_readme_has_the_figures_of_the_script():
    stats = json.loads((DATA / "austen" / "stats.json").read_text())
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for split in ("train", "valid", "test"):
        row = stats[split]
        cells = [f"{row[key]:,}" for key in ("sentences", "tokens", "unknown")]
        assert f"| {split} | {' | '.join(cells)} | {row['unknown_percent']:.2f} % |" in readme
    for key in ("tokens", "types", "types_seen_twice", "vocabulary"):
        assert f"{stats[key]:,}" in readme, key
    for title, tokens in stats["novels"].items():
        assert f"| *{title}* | {tokens:,} |" in readme
    assert stats["raw_sha256"] in readme


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("Mr. Weston came. He sat down.", ["mr weston came", "he sat down"]),
        ('"Poor Emma!--I wish it." "Oh!" said he.', ["poor emma", "i wish it", "oh said he"]),
        (
            "Dear Mrs. F. C. Weston Churchill. It was I. Why?",
            ["dear mrs f c weston churchill", "it was i", "why"],
        ),
        ("_My_ good-natured girl, at four o'clock--", ["my good-natured girl at four o'clock"]),
        (
            "He had £20,000 on the 28th, &c. or 7000L per annum.",
            ["he had N on the N etc or N l per annum"],
        ),
        ("* * * * *", []),
    ],
)
def test_sentences(paragraph, sentences):
    assert [" ".join(words) for words in build_austen.novel_sentences(paragraph)] == sentences


def test_headings_notes_and_front_matter_are_dropped():
    text = (
        "EMMA\n\nBy Jane Austen\n\nVOLUME I\n\nCHAPTER I\n\nOne\n[To Mrs. Weston.]\n\n"
        "CHAPTER II\n\nTwo.\n\n*Vide a\nFINIS\n"
        "Persuasion\n\nby\n\nChapter 1\n\nThree.\n\nA NOTE ON THE TEXT\n\nSignet\n"
    )
    novels = {
        title: build_austen.novel_sentences(prose)
        for title, prose in build_austen.split_novels(text).items()
    }
    assert novels == {"EMMA": [["one"], ["two"]], "Persuasion": [["three"]]}
