"""From prose to tokens, checked against what a reader would say."""

import html

import pytest
from gluonnlp.data import SacreMosesTokenizer

from gluonlm.text.tokenizer import direct_quotes, sentences, tokenize


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("Mr. Weston came. He sat down.", ["mr. weston came .", "he sat down ."]),
        (
            '"Poor Emma!--I wish it." "Oh!" said he.',
            ["“ poor emma ! --", "i wish it . ”", "“ oh ! ” said he ."],
        ),
        ('"Is mama coming?--"', ["“ is mama coming ? -- ”"]),
        (
            "Dear Mrs. F. C. Weston Churchill. It was I. Why?",
            ["dear mrs. f. c. weston churchill .", "it was i .", "why ?"],
        ),
        ("My good-natured girl, at four o'clock--", ["my good-natured girl , at four o 'clock --"]),
        ("He had £20,000 on the 28th, and 3 more.", ["he had £ N on the N , and N more ."]),
        (
            "\"'Tis you.\" Then No. 6. No. Never.",
            ["“ ' tis you . ”", "then no. N .", "no .", "never ."],
        ),
        ("我来了。“你好吗？”他说。", ["我 来 了 。", "“ 你 好 吗 ？ ”", "他 说 。"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_and_tokens(paragraph, expected):
    found = [tokenize(s, lowercase=True, numbers=True) for s in sentences(paragraph)]
    assert [" ".join(tokens) for tokens in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("한국어 문장입니다.", "한국어 문장입니다 ."),
        ("می\u200cخواهم بروم", "می\u200cخواهم بروم"),
        ("за\u0301мок и замо\u0301к", "за\u0301мок и замо\u0301к"),
        ("Gro\u0308\u00dfe, e\u0301te\u0301", "Größe , été"),  # as macOS writes it
        ("so\u00adft \u200e[10:30] \u2068Anna\u2069", "soft [ 10 : 30 ] Anna"),
    ],
)
def test_words_of_any_script_stay_whole(text, expected):
    """Before, Moses cut them: it counts what is within a word here as punctuation."""
    assert " ".join(tokenize(text)) == expected


def test_quotation_marks_get_their_direction():
    text = 'He--"I do," said ("yes") \'"Oh"\' "--and".'
    assert direct_quotes(text) == "He--“I do,” said (“yes”) '“Oh”' “--and”."
    assert direct_quotes("“yes”") == "“yes”"


def test_words_are_those_of_gluonnlp():
    text = 'Gluon NLP & MXNet aren\'t "dead": 3 <b>users</b> said so [in 2019].'
    moses = [html.unescape(token) for token in SacreMosesTokenizer()(direct_quotes(text))]
    assert tokenize(text) == moses
    assert "".join(moses) == direct_quotes(text).replace(" ", "")  # nothing is lost
