"""Lines scored one by one: the same figures however they are batched, in order, and in memory that
is bounded."""

import io
import itertools
import json
import math
import os
import sys
import tracemalloc

import numpy as np
import pytest

from gluonlm import evaluate, quantize
from gluonlm.config import Config
from gluonlm.inference import lines as scoring
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.lines import score_lines
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.scoring import per_unit, surprise, units_shown
from gluonlm.model.checkpoint import Trained, build_model, save_model
from gluonlm.onnx.load import load
from gluonlm.score import main
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import encode_file
from gluonlm.text.vocabulary import EOS, UNK, Dictionary

WORDS = [EOS, UNK, *"abcdefgh"]
TEXT = ["a b c", "", "h g f e d c b a", "a zebra b", "b", "c d e f g h a b c d e f"] * 5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("score") / "model.safetensors"
    config, dictionary = Config(emsize=8, nhid=8, nlayers=2), Dictionary(WORDS)
    save_model(Trained(build_model(config, len(WORDS)), dictionary, config, "word", path))
    (path.parent / "text.txt").write_text("\n".join(TEXT) + "\n")
    return path


@pytest.fixture(scope="module")
def model():
    config, dictionary = Config(emsize=8, nhid=8, nlayers=2), Dictionary(WORDS)
    arithmetic = Predictor(build_model(config, len(WORDS)))
    return LanguageModel(arithmetic, dictionary, config, "word", None)


@pytest.mark.parametrize("columns", [1, 4, 64])
def test_each_line_is_scored_as_if_it_were_alone(model, columns, monkeypatch):
    monkeypatch.setattr(scoring, "ROWS", 16)  # long lines come in several segments
    lines = list(score_lines(model, TEXT, columns))
    assert [line.text for line in lines] == TEXT
    for line in lines:
        alone = surprise(model, line.ids, model.dictionary.start_id)
        np.testing.assert_allclose(line.nats, alone, rtol=1e-4, atol=1e-5)
    assert [line.unknown for line in lines[:6]] == [0, 0, 0, 1, 0, 0]
    assert [len(line.ids) for line in lines[:6]] == [4, 1, 9, 4, 2, 13]


def test_batches_hold_lines_of_like_length_up_to_a_number_of_tokens(model, monkeypatch):
    monkeypatch.setattr(scoring, "ROWS", 20)
    lines = list(score_lines(model, TEXT))
    cut = list(scoring.batches(lines, 8))
    lengths = [[len(line.ids) for line in batch] for batch in cut]
    assert sum(lengths, []) == sorted((len(line.ids) for line in lines), reverse=True)
    assert [len(batch) for batch in lengths[:6]] == [1] * 5 + [2]  # 5 of 13 tokens, 5 of 9
    assert all(len(batch) * max(batch) <= 20 for batch in lengths)
    assert max(map(len, lengths)) == 8


def test_a_line_without_any_token_has_a_score_of_nothing():
    config, dictionary = Config(emsize=4, nhid=4, nlayers=1), Dictionary("ab")
    arithmetic = Predictor(build_model(config, 2))
    model = LanguageModel(arithmetic, dictionary, config, "char", None)
    for carry in (False, True):
        empty, other = score_lines(model, ["", "ab"], carry=carry)
        assert (empty.log_probability, empty.perplexity, len(empty.ids)) == (0.0, 1.0, 0)
        assert len(other.nats) == 2


def test_neighbours_do_not_change_what_an_8_bit_model_says(path, tmp_path):
    quantize.main([str(path), "--out", str(tmp_path / "int8.safetensors")])
    model = load(tmp_path / "int8.safetensors")
    assert not model.arithmetic.independent
    together = [line.log_probability for line in score_lines(model, TEXT)]
    alone = [line.log_probability for text in TEXT for line in score_lines(model, [text])]
    assert together == alone


def test_carried_over_the_sum_is_that_of_the_whole_text(model, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXT) + "\n")
    ids = encode_file(tmp_path / "text.txt", model.dictionary, "word")
    total = sum(line.log_probability for line in score_lines(model, TEXT, carry=True))
    assert -total / len(ids) == pytest.approx(model.evaluate(ids, 1), rel=1e-6)


def test_a_short_file_is_evaluated_as_a_whole(path):
    """Before, it was cut in as many columns as a long one, most of them within sentences."""
    short = path.parent / "short.txt"
    short.write_text("\n".join(TEXT[:6]) + "\n")
    options = [str(path), "--data", str(short)]
    whole, cut = (evaluate.main([*options, "--batch-size", size]) for size in ("1", "10"))
    assert evaluate.main(options).loss == whole.loss != cut.loss
    carried = -main([str(path), str(short), "--carry"])["log_probability"]
    assert carried == pytest.approx(whole.loss * whole.tokens, rel=1e-6)


def test_a_short_file_of_characters_is_evaluated_as_a_whole(tmp_path):
    config, dictionary, file = Config(emsize=8, nhid=8), Dictionary("acgt"), tmp_path / "dna.txt"
    path = tmp_path / "model.safetensors"
    save_model(Trained(build_model(config, len(dictionary)), dictionary, config, "char", path))
    file.write_text("acgttaccga" * 30)
    options = [str(path), "--data", str(file)]
    whole, cut = (evaluate.main([*options, "--batch-size", size]) for size in ("1", "7"))
    assert evaluate.main(options).loss == whole.loss != cut.loss


def test_the_most_probable_next_tokens(model, monkeypatch):
    plain = list(score_lines(model, TEXT))
    with monkeypatch.context() as context:  # the layers are computed once, for both
        context.setattr(Predictor, "predict", None)
        lines = list(score_lines(model, TEXT, following=3))
    for line, other in zip(lines, plain):
        np.testing.assert_array_equal(line.nats, other.nats)
        expected = model.next_words(line.text, 3)
        assert [token for token, _ in line.next] == [token for token, _ in expected]
        assert [p for _, p in line.next] == pytest.approx([p for _, p in expected], rel=1e-4)


@pytest.mark.parametrize("kind", [{}, {"splits": (4, 7)}, {"model": "QRNN"}])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 5)])
def test_losses_and_logits_of_one_pass(kind, shape):
    predictor = Predictor(build_model(Config(emsize=8, nhid=8, **kind), len(WORDS)))
    state = predictor.begin_state(shape[1])
    ids, targets = np.random.default_rng(1).integers(0, len(WORDS), (2, *shape))
    losses, logits, after = predictor.losses_and_logits(ids, targets, state)
    np.testing.assert_array_equal(losses, predictor.losses(ids, targets, state)[0])
    expected, other = predictor.predict(ids, state)
    np.testing.assert_array_equal(logits, expected)
    for one, two in zip(after, other, strict=True):
        np.testing.assert_array_equal(one.asnumpy(), two.asnumpy())


def test_any_number_of_lines_in_bounded_memory(model, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK_LINES", 64)
    given = itertools.count()
    endless = (f"a b c {next(given)}" for _ in itertools.repeat(None))
    scored = score_lines(model, endless)
    next(scored)
    assert next(given) <= 65  # no more than a block was read
    tracemalloc.start()
    for _ in itertools.islice(scored, 2000):
        pass
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_table_and_json_lines(path, capsys, monkeypatch):
    text = str(path.parent / "text.txt")
    totals = main([str(path), text])
    table, said = capsys.readouterr()
    head, *rows = [line.split("\t") for line in table.splitlines()]
    assert head == ["log_probability", "tokens", "unknown", "perplexity", "text"]
    assert [row[-1] for row in rows] == TEXT
    assert f"{len(TEXT)} lines, {totals['tokens']} tokens" in said
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("\r\n".join(TEXT).encode() + b"\r\n"))
    )
    main([str(path), "--json", "--words", "--next", "2"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, values in zip(rows, objects, strict=True):
        assert float(row[0]) == pytest.approx(values["log_probability"], abs=1e-3)
        nats = math.log(2) * sum(bits for _, bits in values["words_bits"])
        assert nats == pytest.approx(-float(row[0]), abs=1e-2)
        assert [int(row[1]), int(row[2])] == [values["tokens"], values["unknown"]]
        assert len(values["next"]) == 2
    token, bits = objects[3]["words_bits"][1]
    main([str(path), text, "--words", "--next", "1"])
    table = capsys.readouterr().out
    assert "\twords (bits)\t" in table
    assert f" zebra={UNK}:{bits:.2f} " in table
    assert "\tnext (probability)\t" in table
    assert [token] == objects[3]["unknown_words"] == ["zebra"]
    assert objects[0]["unknown_words"] == []


@pytest.mark.parametrize(
    ("lines", "said"), [(1, "1 line, 4 tokens"), (2, "2 lines,"), (200, " lines/s\n")]
)
def test_the_totals_tell_a_speed_of_many_lines_only(path, tmp_path, capsys, lines, said):
    (tmp_path / "text.txt").write_text("a b c\n" * lines)
    main([str(path), str(tmp_path / "text.txt")])
    totals = capsys.readouterr().err
    assert said in totals
    assert ("lines/s" in totals) == (lines >= 100)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch-size", "0"], "argument --batch-size: must be at least 1, not 0"),
        (["/nowhere/text.txt"], "there is no file"),
        ([os.devnull], f"{os.devnull} is empty: give text, a sentence a line"),
    ],
)
def test_impossible_requests_are_said_before_anything_else(path, arguments, complaint, capsys):
    with pytest.raises(UserError, match=complaint):
        main([str(path), *arguments])
    assert not capsys.readouterr().out


def test_words_of_thousands_of_characters_have_no_perplexity():
    """A line of DNA is one: exp(1500) is no number that JSON has."""
    dna = Dictionary("acgt", about={"sizes": {"test": {"words": 2, "characters": 2000}}})
    assert list(per_unit(dna, "test", 3000.0)) == ["bits_per_character"]
    prose = Dictionary("acgt", about={"sizes": {"test": {"words": 400, "characters": 2000}}})
    assert per_unit(prose, "test", 3000.0)["perplexity_per_word"] == pytest.approx(math.exp(7.5))
    assert "bits per character" in units_shown({"bits_per_character": 2.0}, 800.0)


def test_next_tokens_and_the_state_where_nothing_ends_a_line():
    """Before, they were those of the place of the line's last character."""
    config, dictionary = Config(emsize=8, nhid=8, nlayers=2), Dictionary("acgt")
    arithmetic = Predictor(build_model(config, len(dictionary)))
    model = LanguageModel(arithmetic, dictionary, config, "char", None)
    text = ["acgt", "", "g", "ttacg"]
    for line in score_lines(model, text, following=2):
        assert dict(line.next) == pytest.approx(dict(model.next_words(line.text, 2)))
    whole = model.evaluate(model.encode("".join(text)), 1) * 10
    carried = list(score_lines(model, text, carry=True, following=2))
    assert -sum(line.log_probability for line in carried) == pytest.approx(whole)
    for number, line in enumerate(carried, 1):
        expected = model.next_words("".join(text[:number]), 2)
        assert dict(line.next) == pytest.approx(dict(expected))
