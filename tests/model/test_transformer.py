"""The Transformer's layer: attention by hand, PyTorch's numbers, a memory that makes cuts unseen,
and the commands."""

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from mxnet import autograd, nd

import gluonlm
from gluonlm import evaluate, export, generate, prune, quantize, score, train
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.rnn import RNNModel, detach
from gluonlm.model.softmax import decoder_loss
from gluonlm.model.transformer import TransformerLayer
from gluonlm.system.errors import UserError

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "transformer.npz")
V, N, LAYERS, HEADS, MEMORY = 17, 3, 2, 2, 4


def make(**settings):
    sizes = {"emsize": 6, "nhid": 9, "nlayers": LAYERS, "nhead": HEADS, "memory": MEMORY}
    model = RNNModel(V, "Transformer", **sizes | settings)
    model.initialize()
    model.hybridize(static_alloc=True)
    random = np.random.default_rng(0)
    for parameter in model.trainables().values():
        parameter.set_data(nd.array(random.uniform(-0.7, 0.7, parameter.shape)))
    return model


def words(steps, seed=1):
    return nd.array(np.random.default_rng(seed).integers(V, size=(steps, N)))


def read(model, text, cuts):
    """Logits of a text read in segments that end at the cuts, and the state after it."""
    state, logits = model.begin_state(text.shape[1]), []
    for begin, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        part, state = model(text[begin:end], detach(state))
        logits.append(part.asnumpy())
    return np.concatenate(logits), state


def from_torch(kind, what):
    """PyTorch's weights or gradients by our names."""

    def torch(name):
        return FIXTURE[f"{kind}/{what}/{name}"]

    arrays = {"encoder.weight": torch("encoder.weight"), "decoder.bias": torch("decoder.bias")}
    if kind == "free":
        arrays["decoder.weight"] = torch("decoder.weight")
    for layer in range(LAYERS):
        block = f"layers.{layer}"
        for part in ("weight", "bias"):
            for name in ("query", "output", "inner", "outer"):
                arrays[f"{block}.{name}_{part}"] = torch(f"{block}.{name}.{part}")
            key, value = (  # head by head
                np.split(torch(f"{block}.{name}.{part}"), HEADS) for name in ("key", "value")
            )
            pairs = [half for head in zip(key, value, strict=True) for half in head]
            arrays[f"{block}.key_value_{part}"] = np.concatenate(pairs)
        arrays[f"{block}.position_bias"] = torch(f"{block}.position").ravel()
    return arrays


@pytest.mark.parametrize("kind", ["free", "tied"])
def test_agrees_with_pytorch_where_there_is_no_memory(kind):
    model = make(tied=kind == "tied")
    parameters = model.trainables()
    weights = from_torch(kind, "weight")
    assert weights.keys() == model.layout.keys()
    for name, weight in model.layout.items():
        parameters[weight.parameter].set_data(nd.array(weights[name]))
    inputs, targets = (nd.array(FIXTURE[f"{kind}/{name}"]) for name in ("inputs", "targets"))
    with autograd.record():
        features, _ = model.body(inputs, model.begin_state(N))
        loss = decoder_loss(model, features, targets).mean()
    loss.backward()
    logits, _ = model(inputs, model.begin_state(N))
    np.testing.assert_allclose(logits.asnumpy(), FIXTURE[f"{kind}/logits"], rtol=1e-4, atol=1e-5)
    assert loss.asscalar() == pytest.approx(float(FIXTURE[f"{kind}/loss"]), rel=1e-5)
    for name, gradient in from_torch(kind, "gradient").items():
        ours = parameters[model.layout[name].parameter].grad().asnumpy()
        np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_attention_by_hand_on_three_words():
    """One head of one unit: a = softmax(q k + b), nothing but numbers."""
    config = Config(model="Transformer", emsize=1, nhead=1, memory=1, nlayers=1, nhid=1)
    layer = TransformerLayer(config, 0)
    layer.initialize()
    weights = {name: parameter.data() for name, parameter in layer._reg_params.items()}
    weights["query_weight"][:], weights["query_bias"][:] = 2, 0
    weights["position_bias"][:] = nd.array([0.5, -0.5])  # of the word itself, of the one before
    pairs = nd.array([[1, 10], [3, 30], [2, 20]]).reshape((3, 1, 2))  # keys and values
    memory, seen = nd.array([[[9, 90]]]), nd.zeros((1, 1, 1))  # nothing was read before
    pairs, seen = nd.concat(memory, pairs, dim=0), nd.concat(seen, nd.ones((3, 1, 1)), dim=0)
    queries = nd.array([1, -1, 0.25]).reshape((3, 1, 1))
    (attention,) = layer.look(nd, queries, pairs, seen, weights).asnumpy()

    def two(before, itself):
        return np.exp([before, itself]) / np.exp([before, itself]).sum()

    first = two(2 * -1 * 1 - 0.5, 2 * -1 * 3 + 0.5)  # the second word, and the one before it
    second = two(2 * 0.25 * 3 - 0.5, 2 * 0.25 * 2 + 0.5)
    by_hand = [[0, 1, 0, 0], [0, *first, 0], [0, 0, *second]]  # in the columns: nothing, 1, 2, 3
    np.testing.assert_allclose(attention, by_hand, rtol=1e-6)


@pytest.mark.parametrize("memory", [1, 4, 12, 40])
@pytest.mark.parametrize("cuts", [(5,), (1, 2, 9), range(1, 12)], ids=str)
def test_however_a_text_is_cut_it_is_read_the_same(memory, cuts):
    model, text = make(memory=memory), words(12)
    (whole, end), (pieces, state) = read(model, text, ()), read(model, text, tuple(cuts))
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-5)
    for one, other in zip(state, end, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-5, atol=1e-5)


def test_a_word_sees_as_far_back_as_memory_says_and_never_ahead():
    model, text = make(nlayers=1), words(12)
    changed = text.copy()
    changed[3] = (changed[3] + 1) % V
    before, after = (read(model, one, ())[0] for one in (text, changed))
    differs = [bool(np.abs(one - other).max() > 1e-5) for one, other in zip(before, after)]
    assert differs == [3 <= step <= 3 + MEMORY for step in range(12)]


def test_columns_do_not_see_each_other():
    model, text = make(), words(9)
    whole, _ = read(model, text, ())
    alone, _ = read(model, text[:, 1:2], (4,))
    np.testing.assert_allclose(alone[:, 0], whole[:, 1], rtol=1e-5, atol=1e-5)


def test_one_step_at_a_time_gives_the_probabilities_of_the_whole_text():
    model = make(tied=True)
    text = np.random.default_rng(3).integers(V, size=20)
    whole, _ = read(model, nd.array(text[:, None]), ())
    predictor = Predictor(model)
    state, rows = predictor.begin_state(1), []
    for token in text:
        logits, state = predictor.predict([[token]], state)
        rows.append(logits[0])
    np.testing.assert_allclose(np.array(rows), whole, rtol=0, atol=1e-5)


def test_initial_weights():
    model = RNNModel(V, "Transformer", emsize=16, nhid=64, nlayers=2)
    model.initialize()
    arrays = {name: p.data().asnumpy() for name, p in model.trainables().items()}
    assert np.abs(arrays["body.layers.1.query_weight"]).max() <= 1 / 4
    assert np.abs(arrays["body.layers.1.outer_weight"]).max() <= 1 / 8
    near = arrays["body.layers.0.position_bias"].reshape(2, 71)
    assert near[:, :3].tolist() == [[0, -1, -2], [0, -0.5, -1]]


@pytest.mark.parametrize("locked", [False, True])
def test_dropout_is_on_what_a_layer_adds(locked):
    settings = {"dropout": 0.0, "dropouti": 0.0, "dropouth": 0.5, "locked": locked}
    model, plain = make(**settings), make()
    text = words(6)
    np.testing.assert_array_equal(read(model, text, ())[0], read(plain, text, ())[0])
    with autograd.train_mode():
        assert not np.allclose(read(model, text, ())[0], read(plain, text, ())[0])
        kept = model.body.layers[0].dropout(nd.ones((6, 2, 200))).asnumpy()
    assert set(np.unique(kept)) == {0, 2}
    assert (kept == kept[:1]).all() == locked


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(list("abcdefgh"), 7)) for _ in range(120)]
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = (
    "--model Transformer --emsize 8 --nhid 12 --memory 9 --bptt 7 --batch-size 4 --lr 1 --epochs 2"
)


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main([*shlex.split(SMALL), "--data", str(text), "--tied", "--save", str(folder)])
    return folder


def test_training_stopped_and_resumed_has_the_same_weights(text, tmp_path):
    line = [*shlex.split(SMALL), "--data", str(text)]
    train.main([*line, "--save", str(tmp_path / "whole")])
    train.main([*line, "--epochs", "1", "--save", str(tmp_path / "parts")])
    train.main(["--resume", str(tmp_path / "parts"), "--epochs", "2"])
    one, other = (
        gluonlm.model.checkpoint.load_model(tmp_path / name) for name in ("whole", "parts")
    )
    for name, parameter in one.model.trainables().items():
        np.testing.assert_array_equal(
            parameter.data().asnumpy(), other.model.trainables()[name].data().asnumpy()
        )


@pytest.mark.parametrize("line", ["--lr 5", "--use-optimizer --lr 0.001"])
def test_the_lines_of_pytorchs_example(text, tmp_path, line):
    """Its sizes, 200 units and 2 heads, as typed but for the data and one batch."""
    result = train.main(
        [*shlex.split(f"--model Transformer {line} --dry-run"), "--data", str(text)]
        + ["--save", str(tmp_path / "run")]
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["nhead"], config["emsize"], config["optimizer"]) == (
        2,
        200,
        "adamw" if "--use" in line else "sgd",
    )
    assert math.isfinite(result.test_loss)


def test_every_command_takes_it(text, run, tmp_path, capsys):
    loss = evaluate.main([str(run)]).loss
    assert 0 < loss < math.log(12)
    for options in (["--cache", "--theta", "1", "--lambdasm", "0.1", "--window", "50"],):
        assert evaluate.main([str(run), *options]).loss > 0
    assert len(generate.main([str(run), "--words", "5", "--seed", "1"])[0]) >= 5
    generate.main([str(run), "--words", "5", "--beam", "3"])
    (tmp_path / "lines.txt").write_text("a b c\nb\n")
    score.main([str(run), str(tmp_path / "lines.txt"), "--next", "2"])
    small = tmp_path / "small.safetensors"
    prune.main([str(run), "--sparsity", "0.5", "--save", str(small)])
    assert "layers.1.key_value_weight" in capsys.readouterr().out
    for command in (
        f"--finetune '{small}' --epochs 1",
        f"--finetune '{run}' --prune 0.5 --epochs 2",
    ):
        train.main([*shlex.split(command), "--save", str(tmp_path / f"more{len(command)}")])


@pytest.mark.parametrize("scheme", ["--fp16", "--int8", "--int8 asymmetric", "--int8 float"])
def test_quantized_it_is_nearly_the_same(run, tmp_path, scheme):
    path = tmp_path / "quantized.safetensors"
    quantize.main([str(run), *scheme.split(), "--out", str(path)])
    assert evaluate.main([str(path)]).loss == pytest.approx(
        evaluate.main([str(run)]).loss, abs=0.01
    )


def test_onnx_agrees(text, run, tmp_path):
    exported = export.main([str(run), str(tmp_path / "model.onnx")])
    assert exported.difference < 1e-4
    losses = [evaluate.main([str(one), "--data", str(text)]).loss for one in (exported.path, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("quantize RUN --int8 kl", "no ranges are measured: quantize with dynamic or float"),
        ("quantize RUN --table", "no ranges are measured"),
        ("export RUN page.html --format web", "not Transformer: export to ONNX"),
        ("export RUN there.safetensors --format torch", "has no Transformer layers"),
        ("train --model Transformer --emsize 200 --nhead 3", "--nhead 3: --emsize 200 cannot be"),
        ("train --model LSTM --nhead 4", "--nhead has no effect without --model Transformer"),
        ("train --memory 4", "--memory has no effect without --model Transformer"),
        ("train --model Transformer --wdrop 0.5", "--wdrop has no effect without a recurrent"),
        ("train --model Transformer --tied --nhid 4 --narrow", "--narrow has no effect without"),
        ("train --model Transformer --zoneout 0.1", "--zoneout has no effect without --model QRNN"),
        ("train --model Transformer --memory 0", "--memory 0: must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    run, tmp_path, monkeypatch, command, sentence
):
    monkeypatch.chdir(tmp_path)
    module, *line = shlex.split(command.replace("RUN", shlex.quote(str(run))))
    with pytest.raises(UserError, match=sentence):
        getattr(gluonlm, module).main(line)
