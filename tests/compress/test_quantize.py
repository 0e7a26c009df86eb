"""Quantized models: what a file holds, that integers are multiplied exactly, and that every command
takes them."""

import json
import math
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from scripts import ROOT, load_script

import gluonlm
from gluonlm import evaluate, export, quantize, train
from gluonlm.compress import calibrate
from gluonlm.compress import compare as quantize_table
from gluonlm.compress.calibrate import Statistics, kl_threshold, ranges_of, read_statistics
from gluonlm.compress.quantization import (
    ACTIVATIONS,
    grid_of,
    parts_of,
    quantize_model,
    scale_and_zero,
    to_integers,
)
from gluonlm.config import Config
from gluonlm.generate import main as generate_text
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import (
    MODEL_FORMAT,
    Trained,
    build_model,
    computes_in_half,
    load_model,
    save_model,
)
from gluonlm.model.quantized import Integers, Quantized, Scheme, parse_scheme
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.model.weights import named_arrays
from gluonlm.onnx.load import integers
from gluonlm.onnx.session import cross_entropy
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Dictionary
from gluonlm.text.vocabulary import EOS, UNK

V = 29
RANGE = dict.fromkeys(calibrate.CLIPS, (-1.0, 1.0))
SCHEMES = [
    Scheme(),
    Scheme(per="tensor"),
    Scheme(mode="asymmetric"),
    Scheme(mode="asymmetric", per="tensor"),
    Scheme(activations="averaged"),
    Scheme(mode="asymmetric", activations="extremes"),
    Scheme(mode="asymmetric", per="tensor", activations="kl"),
    Scheme(per="tensor", activations="kl"),
    Scheme(activations="float"),
    Scheme("fp16"),
]
by_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def untrained(path, **settings) -> Trained:
    """A model with weights large enough that a mistake in any of them shows."""
    mx.random.seed(3)
    config = Config(**{"data": "not-here", "emsize": 12, "nhid": 12, **settings})
    model = build_model(config, V)
    for parameter in model.trainables().values():  # biases too
        parameter.set_data(mx.nd.random.uniform(-0.6, 0.6, parameter.shape))
    words = [UNK, EOS, *(f"w{number}" for number in range(V - 2))]
    return Trained(model, Dictionary(words), config, "word", path)


def statistics_of(trained: Trained) -> Statistics:
    signals = [
        "embedding",
        *(f"layer{index}" for index in range(trained.config.nlayers)),
        "projection",
    ]
    return Statistics(
        calibrate.fingerprint(trained.model), "made up", 1, dict.fromkeys(signals, RANGE)
    )


def written(trained: Trained, schemes, path) -> Trained:
    """The model quantized, written and read back."""
    schemes = (
        schemes if isinstance(schemes, dict) else dict.fromkeys(parts_of(trained.model), schemes)
    )
    quantized = quantize_model(trained.model, schemes, statistics_of(trained).ranges)
    save_model(replace(trained, path=path, quantized=quantized))
    return load_model(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run on a data set in a folder."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("the cat sat on the mat\nthe dog ran to a cat\n" * 40)
    small = [
        "--emsize=16",
        "--nhid=16",
        "--batch-size=4",
        "--bptt=5",
        "--epochs=2",
        "--lr=5",
        "--tied",
    ]
    train.main(["--data", str(folder), "--save", str(folder / "run"), *small])
    return folder / "run"


# --- the file


@by_scheme
@pytest.mark.parametrize(
    "settings",
    [
        {"tied": True},
        {"tied": True, "nhid": 8},
        {"nlayers": 3},
        {"model": "GRU"},
        {"model": "QRNN"},
    ],
)
def test_what_is_written_is_read(tmp_path, scheme, settings):
    trained = untrained(tmp_path / "best.safetensors", **settings)
    again = written(trained, scheme, tmp_path / "q.safetensors")
    quantized = quantize_model(
        trained.model, again.quantized.schemes, statistics_of(trained).ranges
    )
    assert again.quantized.schemes == dict.fromkeys(parts_of(trained.model), scheme)
    assert again.quantized.ranges == quantized.ranges
    for name, array in quantized.arrays().items():
        np.testing.assert_array_equal(again.quantized.arrays()[name], array)
    floats, exact = quantized.floats(), named_arrays(trained.model)
    for name, array in named_arrays(again.model).items():
        np.testing.assert_array_equal(array, floats[name])
        assert np.abs(array - exact[name]).max() < (0.0003 if scheme.kind == "fp16" else 0.005)


def test_the_parts_of_a_model(tmp_path):
    assert parts_of(untrained(tmp_path, nlayers=3).model) == [
        "embedding",
        "layer0",
        "layer1",
        "layer2",
        "decoder",
    ]
    tied = untrained(tmp_path, tied=True, nhid=8).model
    assert parts_of(tied) == ["layer0", "layer1", "projection", "decoder"]


def test_only_matrices_become_integers_and_a_shared_one_is_stored_once(tmp_path):
    trained = untrained(tmp_path, tied=True)
    arrays = quantize_model(
        trained.model, dict.fromkeys(parts_of(trained.model), Scheme())
    ).arrays()
    matrices = {name for name, array in arrays.items() if array.dtype == np.int8}
    layers = {f"layers.{index}.{part}_weight" for index in (0, 1) for part in ("i2h", "h2h")}
    assert matrices == {"encoder.weight"} | layers
    assert arrays["layers.0.h2h_bias"].dtype == np.float32
    assert not any(name.endswith(".zero") for name in arrays)  # symmetric: 0 everywhere


def test_other_schemes_for_single_parts(tmp_path):
    trained = untrained(tmp_path / "x")
    schemes = {
        "embedding": Scheme("fp16"),
        "layer1": Scheme(),
        "decoder": Scheme(mode="asymmetric"),
    }
    weights = written(trained, schemes, tmp_path / "q.safetensors").quantized.weights
    assert weights["encoder.weight"].dtype == np.float16
    assert weights["layers.0.i2h_weight"].dtype == np.float32
    assert isinstance(weights["layers.1.h2h_weight"], Integers)
    assert weights["decoder.weight"].zero.any()


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("int8", Scheme()),
        ("fp16", Scheme("fp16")),
        ("kl,tensor", Scheme(per="tensor", activations="kl")),
        ("asymmetric", Scheme(mode="asymmetric")),
    ],
)
def test_schemes_as_words(text, scheme):
    assert parse_scheme(text) == scheme
    assert parse_scheme(str(scheme)) == scheme


def damage(arrays, metadata, how):
    weight, settings = "layers.0.i2h_weight", json.loads(metadata["quantized"])
    if how == "no scale":
        del arrays[weight + ".scale"]
    elif how == "short scale":
        arrays[weight + ".scale"] = arrays[weight + ".scale"][:-1]
    elif how == "other shape":
        arrays[weight] = arrays[weight][:-1]
    elif how == "missing":
        arrays = {name: array for name, array in arrays.items() if not name.startswith(weight)}
    elif how == "unknown scheme":
        settings["schemes"]["layer0"] = "int4"
    elif how == "no schemes":
        del settings["schemes"]
    elif how == "a range of one number":
        settings["ranges"] = {"layer0": {"embedding": [1.0]}}
    metadata["quantized"] = "{" if how == "no JSON" else json.dumps(settings)
    return arrays


@pytest.mark.parametrize(
    "how",
    [
        "no scale",
        "short scale",
        "other shape",
        "missing",
        "unknown scheme",
        "no schemes",
        "a range of one number",
        "no JSON",
    ],
)
def test_a_damaged_file_gets_one_sentence(tmp_path, how):
    path = tmp_path / "q.safetensors"
    written(untrained(tmp_path / "x"), Scheme(), path)
    arrays, metadata = read_arrays(path, MODEL_FORMAT)
    arrays = damage(arrays, metadata, how)
    write_arrays(path, MODEL_FORMAT, arrays, metadata)
    with pytest.raises(UserError, match="damaged|says nothing about storing"):
        load_model(path)


@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("per", ["row", "tensor"])
def test_what_was_pruned_stays_pruned_and_its_file_is_smaller(tmp_path, mode, per):
    trained = untrained(tmp_path / "x", emsize=40, nhid=40)
    scheme = Scheme(mode=mode, per=per)
    dense = written(trained, scheme, tmp_path / "dense.safetensors").path.stat().st_size
    weight = trained.model.body.encoder.weight
    kept = mx.nd.array(np.random.default_rng(1).uniform(size=weight.shape) < 0.1)
    weight.set_data(weight.data() * kept)
    sparse = written(trained, scheme, tmp_path / "sparse.safetensors")
    stored = sparse.model.body.encoder.weight.data().asnumpy()
    assert (
        (stored != 0) == kept.asnumpy().astype(bool)
    ).mean() > 0.99  # the smallest of what is kept may round to 0
    assert (stored[kept.asnumpy() == 0] == 0).all()
    assert sparse.path.stat().st_size < dense - 0.6 * weight.data().size


# --- the arithmetic


def integers_of(inputs: np.ndarray, grid) -> tuple[np.ndarray, np.float32]:
    """Inputs as integers less their zero point, and the scale; measured here if ``grid`` is
    None."""
    scale, zero = grid or scale_and_zero(inputs.min(), inputs.max(), False, ACTIVATIONS)
    return to_integers(inputs, scale, zero).astype(np.int64) - int(zero), scale


def times(inputs: np.ndarray, weight: Integers, grid) -> np.ndarray:
    """Inputs (M, C) times weight (R, C), in 64-bit integers, exactly."""
    integers, scale = integers_of(inputs, grid)
    steps = weight.values.astype(np.int64) - weight.zero.astype(np.int64)[..., None]
    return (integers @ steps.T) * (scale * weight.scale)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(stored: Quantized, ids: np.ndarray, layers: int) -> np.ndarray:
    """What a quantized LSTM computes from a zero state, by its definition: logits (T, N, V)."""
    weights, hidden, signal = (
        stored.weights,
        stored.weights["encoder.weight"].floats()[ids],
        "embedding",
    )
    for index in range(layers):
        part = f"layer{index}"
        i2h, h2h, b1, b2 = (
            weights[f"layers.{index}.{name}"]
            for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
        )
        share = times(hidden.reshape(-1, hidden.shape[-1]), i2h, grid_of(stored, part, signal))
        share = share.reshape(*hidden.shape[:2], -1) + b1 + b2
        h = c = np.zeros((ids.shape[1], len(b1) // 4))
        outputs = []
        for step in share:
            i, f, g, o = np.split(step + times(h, h2h, grid_of(stored, part, part)), 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        hidden, signal = np.array(outputs), part
    decoder = weights.get("decoder.weight", weights["encoder.weight"])
    logits = times(
        hidden.reshape(-1, hidden.shape[-1]), decoder, grid_of(stored, "decoder", signal)
    )
    return logits.reshape(*ids.shape, -1) + weights["decoder.bias"]


@pytest.mark.parametrize("scheme", [one for one in SCHEMES if one.multiplies_integers], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_integers_are_multiplied_exactly(tmp_path, scheme, tied):
    quantized = written(untrained(tmp_path / "x", tied=tied), scheme, tmp_path / "q.safetensors")
    model = integers(quantized)
    # ONNX Runtime divides columns over threads, and finds a dynamic range for the columns of each
    # thread
    columns = 1 if scheme.activations == "dynamic" else 3
    ids = np.random.default_rng(1).integers(V, size=(6, columns))
    logits, state = model.predict(ids, model.begin_state(columns))
    expected = reference(quantized.quantized, ids, 2)
    difference = np.abs(logits - expected)
    # a gate that differs in its last bit may be rounded to the next integer, which then is one step
    # off
    assert np.quantile(difference, 0.9) < 1e-5
    assert difference.max() < 0.02
    assert [array.shape for array in state] == [(1, columns, 12)] * 4
    float_logits, _ = quantized.model(mx.nd.array(ids), quantized.model.begin_state(columns))
    assert np.abs(float_logits.asnumpy() - logits).max() > 1e-4  # which are not rounded


def test_a_loop_over_steps_and_the_operator_for_a_whole_layer_pass_on_their_states(tmp_path):
    for number, scheme in enumerate(
        (Scheme(activations="kl"), Scheme(mode="asymmetric"), Scheme(per="tensor"))
    ):
        quantized = written(untrained(tmp_path / "x"), scheme, tmp_path / f"{number}.safetensors")
        model = integers(quantized)
        ids = np.random.default_rng(2).integers(V, size=(5, 1))
        whole, _ = model.predict(ids, model.begin_state(1))
        state, pieces = model.begin_state(1), []
        for word in ids:
            logits, state = model.predict(word[None], state)
            pieces.append(logits)
        # dynamic ranges are those of a call, so that the calls differ by a step of these integers
        assert np.abs(np.concatenate(pieces) - whole).max() < (1e-5 if scheme.clip else 0.05)


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(mode="asymmetric", activations="kl")], ids=str)
def test_a_quasi_recurrent_model_multiplies_integers_too(tmp_path, scheme, capsys):
    quantized = written(untrained(tmp_path / "x", model="QRNN"), scheme, tmp_path / "q.safetensors")
    model = integers(quantized)
    assert capsys.readouterr().err == ""
    ids = np.random.default_rng(1).integers(V, size=(6, 3))
    logits, _ = model.predict(ids, model.begin_state(3))
    floats, _ = quantized.model(mx.nd.array(ids), quantized.model.begin_state(3))
    assert 1e-4 < np.abs(floats.asnumpy() - logits).max() < 0.1


def test_losses_are_those_of_the_logits(tmp_path):
    quantized = written(
        untrained(tmp_path / "x"), Scheme(activations="kl"), tmp_path / "q.safetensors"
    )
    model = integers(quantized)
    random = np.random.default_rng(4)
    ids, targets = random.integers(V, size=(2, 7, 3))
    by_graph, state = model.losses(ids, targets, model.begin_state(3))
    logits, same_state = model.predict(ids, model.begin_state(3))
    by_logits = cross_entropy(logits, targets)
    assert by_graph.shape == (7, 3)
    np.testing.assert_array_equal(state, same_state)
    np.testing.assert_allclose(by_graph, by_logits, rtol=1e-5)


def test_where_there_is_no_integer_arithmetic_it_is_said(tmp_path, capsys):
    gru = written(untrained(tmp_path / "x", model="GRU"), Scheme(), tmp_path / "gru.safetensors")
    assert integers(gru) is not None  # the decoder's
    assert "no integer arithmetic for GRU" in capsys.readouterr().err
    assert integers(gru, mx.gpu(0)) is None
    assert "no integer arithmetic on a GPU" in capsys.readouterr().err
    half = written(untrained(tmp_path / "x"), Scheme("fp16"), tmp_path / "half.safetensors")
    assert integers(half) is None
    assert capsys.readouterr().err == ""


def test_no_model_in_mxnet_is_made_for_integers(tmp_path, monkeypatch):
    written(untrained(tmp_path / "x"), Scheme(), tmp_path / "q.safetensors")
    monkeypatch.setattr("gluonlm.model.checkpoint.build_model", None)
    model = gluonlm.load(tmp_path / "q.safetensors")
    assert model.predict([[1]], model.begin_state(1))[0].shape == (1, 1, V)


def test_an_adaptive_softmax_multiplies_integers_too(tmp_path, capsys):
    source = untrained(tmp_path / "x", splits=(10, 20), tied=True)
    exact = Predictor(source.model)
    ids, targets = np.random.default_rng(1).integers(V, size=(2, 6, 1))
    expected, _ = exact.losses(ids, targets, exact.begin_state(1))
    for number, scheme in enumerate((Scheme(), Scheme(activations="kl"))):
        quantized = written(source, scheme, tmp_path / f"{number}.safetensors")
        model = integers(quantized)
        assert capsys.readouterr().err == ""
        logits, state = model.predict(ids, model.begin_state(1))
        np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)  # log-probabilities
        losses, _ = model.losses(ids, targets, model.begin_state(1))
        assert 1e-5 < np.abs(losses - expected).max() < 0.2


def test_float16_arithmetic_is_for_gpus(tmp_path):
    """As far as that can be tested without one: MXNet has no float16 products for CPUs."""
    half, whole = (
        written(untrained(tmp_path / "x"), Scheme(kind), tmp_path / f"{kind}.safetensors")
        for kind in ("fp16", "int8")
    )
    assert computes_in_half(half.quantized, [mx.gpu(0), mx.gpu(1)])
    assert not computes_in_half(half.quantized, [mx.cpu()])
    assert not computes_in_half(half.quantized, None)
    assert not computes_in_half(whole.quantized, [mx.gpu(0)])
    assert half.model.begin_state(2)[0].dtype == np.float32
    half.model.cast("float16")
    assert {array.dtype for array in half.model.begin_state(2)} == {np.float16}
    predictor = Predictor(half.model)
    assert {array.dtype for array in predictor.decoder} == {np.dtype(np.float32)}


# --- statistics


def test_ranges_by_hand():
    segments = [
        np.array([[[-1.0, 2.0], [0.0, 4.0]]]),
        np.array([[[-3.0, 1.0], [-2.0, 0.0]]]),
    ]  # (T=1, N=2, C=2) each
    ranges = ranges_of([segment.astype(np.float32) for segment in segments])
    assert ranges["extremes"] == (-3, 4)
    assert ranges["averaged"] == ((-1 + 0 - 3 - 2) / 4, (2 + 4 + 1 + 0) / 4)


def test_kl_clips_rare_large_values():
    random = np.random.default_rng(5)
    values = random.normal(size=200_000).astype(np.float32)
    assert kl_threshold(np.append(values, 40).astype(np.float32)) < 8
    assert kl_threshold(np.zeros(10, np.float32)) == 0


def test_calibration_reads_the_training_text_only(run):
    trained, before = load_model(run), calibrate.calibrate(load_model(run))
    texts = {split: run.parent / f"{split}.txt" for split in ("train", "valid", "test")}
    original = texts["test"].read_text()
    try:
        for split in ("valid", "test"):
            texts[split].write_text("ran ran ran\n" * 200)
        assert calibrate.calibrate(trained) == before
        texts["train"].write_text("ran ran ran\n" * 200)
        with pytest.raises(UserError, match="the train text in .* is no longer what"):
            calibrate.calibrate(trained)
    finally:
        for path in texts.values():
            path.write_text(original)


def test_statistics_are_used_again_and_belong_to_one_model(run, tmp_path, capsys):
    first = quantize.main(
        [str(run), "--int8", "averaged", "--out", str(tmp_path / "a.safetensors")]
    )
    printed = capsys.readouterr().out
    assert "tokens of the training text (data" in printed
    (run / "statistics.json").rename(tmp_path / "statistics.json")
    options = [
        "--statistics",
        str(tmp_path / "statistics.json"),
        "--out",
        str(tmp_path / "b.safetensors"),
    ]
    second = quantize.main([str(run), "--int8", "averaged", *options])
    assert first.quantized.ranges == second.quantized.ranges != {}
    assert first.quantized.schemes == second.quantized.schemes
    other = untrained(tmp_path / "x").model
    with pytest.raises(UserError, match="other weights"):
        read_statistics(tmp_path / "statistics.json", other)
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(UserError, match="no statistics"):
        read_statistics(tmp_path / "statistics.json", other)


# --- the commands


@pytest.mark.parametrize("words", ["int8", "asymmetric,row,averaged", "fp16", "tensor,kl"])
def test_every_command_takes_a_quantized_model(run, tmp_path, words, capsys):
    path = tmp_path / "small.safetensors"
    written = quantize.main(
        [str(run), *(["--fp16"] if words == "fp16" else ["--int8", words]), "--out", str(path)]
    )
    assert capsys.readouterr().out.count(words) == 1  # once for all parts
    size, before = written.path.stat().st_size, load_model(run).path.stat().st_size
    assert size < 0.8 * before  # the vocabulary and the header are most of so small a model
    exact, score = evaluate.main([str(run)]), evaluate.main([str(path)])
    assert score.tokens == exact.tokens
    assert score.perplexity == pytest.approx(exact.perplexity, rel=0.05)
    assert score.perplexity != exact.perplexity
    (text,) = generate_text([str(path), "--words", "12", "--seed-text", "the"])
    assert text.startswith("the")
    exported = export.main([str(path), str(tmp_path / "model.onnx")])
    by_onnx = evaluate.main(["--onnx", str(exported.path)])
    assert by_onnx.perplexity == pytest.approx(score.perplexity, rel=1e-3)
    assert gluonlm.load(exported.path).level == "word"
    if words != "fp16":
        float_size = export.main([str(run), str(tmp_path / "float.onnx")]).path.stat().st_size
        assert exported.path.stat().st_size < 0.9 * float_size


def test_what_computes_with_float32_says_so(run, tmp_path, capsys):
    quantize.main([str(run), "--out", str(tmp_path / "q.safetensors")])
    assert (
        evaluate.main([str(tmp_path / "q.safetensors"), "--cache", "--window", "5"]).perplexity > 1
    )
    assert "no integer arithmetic with a cache" in capsys.readouterr().err
    export.main([str(tmp_path / "q.safetensors"), str(tmp_path / "gluon"), "--format", "gluon"])
    assert "no integer arithmetic in Gluon's format" in capsys.readouterr().err


def test_an_export_that_integers_have_spoilt_is_not_written(tmp_path, monkeypatch):
    written(untrained(tmp_path / "x"), Scheme(), tmp_path / "q.safetensors")
    monkeypatch.setattr("gluonlm.onnx.export.INTEGER_TOLERANCE", 1e-9)
    with pytest.raises(UserError, match="quantize with other settings"):
        export.main([str(tmp_path / "q.safetensors"), str(tmp_path / "model.onnx")])
    assert not (tmp_path / "model.onnx").exists()


def test_the_table(run, capsys, monkeypatch):
    monkeypatch.setattr(quantize_table, "ROUNDS", 1)
    monkeypatch.setattr(quantize_table, "WORDS", 5)
    rows = quantize.main([str(run), "--table", "--tokens", "200", "--calibration-tokens", "400"])
    table = capsys.readouterr().out
    assert [row.name for row in rows[: len(quantize_table.VARIANTS)]] == list(
        quantize_table.VARIANTS
    )
    assert rows[-1].name.startswith("mixed: INT8 averaged, ")
    assert sorted(rows[-1].schemes.values())[0] == "fp16"
    assert len({row.valid for row in rows}) > 5
    assert all(row.bytes < rows[0].bytes for row in rows[1:])
    assert all(row.evaluated > 0 and row.generated > 0 for row in rows)
    assert table.count("\n| ") == len(rows) + 1
    assert "| validation perplexity | test | words/s" in table
    of_characters = quantize_table.markdown(rows, "char")
    assert "| validation bits per character | test | characters/s" in of_characters
    assert f"| {math.log2(rows[1].valid):.4f} | {math.log2(rows[1].test):.4f} |" in of_characters
    written = json.loads((run / "quantized.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert written["command"].startswith("python -m gluonlm.quantize")


def test_the_picture_of_tables(tmp_path):
    tradeoff = load_script("benchmarks/tradeoff.py")
    tables = sorted((ROOT / "results").glob("quantized-ptb-lstm-400-tied-pruned-9*.json"))
    picture = tmp_path / "pictures" / "tradeoff.png"
    series = tradeoff.main([*map(str, tables), "--out", str(picture)])
    assert [one.name for one in series] == [path.stem.removeprefix("quantized-") for path in tables]
    assert picture.stat().st_size > 10_000
    for name in ("picture", "picture.foo"):
        with pytest.raises(UserError, match="give a name that ends in .png"):
            tradeoff.main([str(tables[0]), "--out", str(tmp_path / name)])
    with pytest.raises(UserError, match="no table of quantized models"):
        tradeoff.main([str(ROOT / "results" / "step.json")])
    with pytest.raises(UserError, match="there is no table"):
        tradeoff.main([str(tmp_path)])


def test_a_run_may_follow_int8(run, tmp_path):
    out = ["--out", str(tmp_path / "q.safetensors")]
    written = quantize.main(["--int8", str(run), *out])
    assert set(written.quantized.schemes.values()) == {Scheme()}
    for arguments in (["--int8"], [], ["--fp16"]):
        with pytest.raises(UserError, match="name a run or a model file"):
            quantize.main([*arguments, *out])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8", "int4"], "'int4' says nothing"),
        (["--int8", "row", "--fp16"], "argument --fp16: not allowed with argument --int8"),
        (["--part", "decoder"], "NAME=SCHEME"),
        (["--part", "layer7=fp16"], "the model's parts are layer0"),
        (["--int8", "kl", "--statistics", "missing.json"], "cannot read missing.json"),
        (["--int8", "kl", "--calibration-tokens", "5"], "must be at least 10"),
        (["--int8", "row", "--calibration-tokens", "500"], "no part needs ranges"),
        (
            ["--int8", "kl", "--calibration-tokens", "500", "--statistics", "s.json"],
            "argument --statistics: not allowed with argument --calibration-tokens",
        ),
        (["--int8", "symmetric,asymmetric"], "'symmetric' and 'asymmetric' exclude each other"),
        (["--table", "--fp16"], "--table compares schemes of its own"),
        (["--table", "--tokens", "0"], "argument --tokens: must be at least 1, not 0"),
        (["--tokens", "5"], "--tokens is for --table"),
    ],
)
def test_mistakes_get_one_sentence(run, arguments, message):
    with pytest.raises(UserError, match=message):
        quantize.main([str(run), *arguments])


def test_a_model_is_quantized_once_and_never_overwritten(run, tmp_path):
    for name in ("best.safetensors", "last.safetensors"):
        before = (run / name).read_bytes()
        for module, arguments in (
            (quantize, ["--out"]),
            (quantize, ["--table", "--out"]),
            (export, []),
        ):
            with pytest.raises(
                UserError, match=f"{name} is what a training has made, and would be lost"
            ):
                module.main([str(run), *arguments, str(run / name)])
        assert (run / name).read_bytes() == before
    quantize.main([str(run), "--out", str(tmp_path / "q.safetensors")])
    with pytest.raises(UserError, match="quantized already"):
        quantize.main([str(tmp_path / "q.safetensors")])


def test_the_benchmark_compares_pairs(tmp_path, monkeypatch):
    bench = load_script("benchmarks/quantize.py")
    monkeypatch.setattr(bench, "V", 40)
    monkeypatch.setattr(bench, "mxnet_kernels", dict)
    options = [
        "--sizes",
        "8",
        "--rounds",
        "2",
        "--tokens",
        "60",
        "--words",
        "3",
        "--out",
        str(tmp_path / "q.json"),
    ]
    figures = bench.main(options)["models"]["untrained, 8 units"]
    assert figures["bytes_of_float32"]["float32"] == 1
    for work in ("evaluating", "writing"):
        assert set(figures[f"{work}_words_per_second"]) == {*bench.VARIANTS, "float32 onnx"}
        for ratio in figures[f"{work}_times_float32"].values():
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert json.loads((tmp_path / "q.json").read_text())["models"]["untrained, 8 units"] == figures
