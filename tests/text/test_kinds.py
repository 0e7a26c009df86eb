"""The page of kinds of text: what it shows is what its commands print."""

import re

import kinds
import pytest
from scripts import ROOT

from gluonlm.system.errors import UserError

SECTIONS = [one[0] for one in kinds.SECTION.finditer((ROOT / "docs/guide/kinds.md").read_text())]
PAGE = """# Kinds

## DNA

```sh
python -m gluonlm.prepare bases.txt --out data/bases \\
    --level char
python -m gluonlm.datasets
```

```text
before
```

## Other

Not run.
"""


def test_what_the_commands_print_is_put_after_them(tmp_path):
    (tmp_path / "bases.txt").write_text("ACGT" * 5_000)
    dna, other = kinds.SECTION.finditer(PAGE)
    assert (dna[1], other[1]) == ("DNA", "Other")
    filled = kinds.filled(dna[0], tmp_path)
    assert filled.startswith(dna[0].partition("```text")[0])
    assert "data/bases: 6 entries in the vocabulary, of 5 types\nsplit  " in filled
    assert "before" not in filled
    assert "the longest lines" not in filled
    assert "\n  austen " in filled
    assert kinds.filled(other[0], tmp_path) == other[0]


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match="score nothing ended with 2: "):
        kinds.typed("python -m gluonlm.score nothing", tmp_path)


def test_the_page_has_eight_kinds_of_four_commands():
    assert len(SECTIONS) == 8


@pytest.mark.parametrize("section", SECTIONS)
def test_each_kind_goes_from_raw_text_to_a_scored_line(section):
    programs = re.findall(r"^(?:printf .* )?python -m gluonlm\.(\w+)", section, re.MULTILINE)
    assert programs == ["prepare", "train", "generate", "score"]
    assert float(re.search(r"^test .* ([\d.]+) %$", section, re.MULTILINE)[1]) <= 3
    assert re.search(r"^test loss [\d.]+ \|", section, re.MULTILINE)
    assert "log_probability" in section


@pytest.mark.parametrize("section", SECTIONS)
def test_each_model_is_ahead_of_kneser_ney_on_its_own_text(section):
    assert float(kinds.TEST.search(section)[2]) < float(kinds.TRIGRAM.search(section)[1])
