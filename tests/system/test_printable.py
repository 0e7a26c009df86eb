"""What is printed of a text that others wrote: nothing in it steers a terminal, and every script
stays readable."""

import pytest

from gluonlm.system.streams import counted, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\u202eb\u2066c\u200e", r"a\u202eb\u2066c\u200e"),
        ("\r\x9b\u2028\ufeff\x7f", r"\r\x9b\u2028\ufeff\x7f"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "two lines\n\tand a tab",
        "naïve\u00a0“quotes” …",
        "می\u200cخواهم",
        "日本\u3000語",
        "😀\u200d🔧",
    ],
)
def test_texts_stay_as_they_are(text):
    assert printable(text) == text


def test_a_number_of_things():
    assert [counted(n, "line") for n in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
