"""The adaptive softmax: a distribution, the same in training and evaluation, tied or not, with
exact gradients."""

import shlex

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

import gluonlm
from gluonlm import train
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, generate
from gluonlm.model import softmax
from gluonlm.model.adaptive import check_splits, usual_splits
from gluonlm.model.checkpoint import build_model, load_model
from gluonlm.model.softmax import decoder_loss
from gluonlm.onnx.export import export_onnx
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Dictionary
from gluonlm.training.loop import evaluate

V, T, N = 40, 6, 5
SPLITS = (8, 9, 25)  # one cluster is a single word


def make(tied=True, hybrid=True, **settings):
    mx.random.seed(1)
    model = build_model(
        Config(emsize=12, nhid=12, dropout=0.0, tied=tied, splits=SPLITS, **settings), V
    )
    for index, (name, parameter) in enumerate(model.trainables().items()):
        if "body" not in name or "encoder" in name:
            parameter.set_data(np.random.default_rng(index).normal(size=parameter.shape))
    if not hybrid:
        model.hybridize(False)
    return model


def ids(seed, high=V):
    return nd.array(np.random.default_rng(seed).integers(high, size=(T, N)))


def by_hand(model, features):
    """p(word) from the two softmaxes, in float64: (B, V)."""
    decoder = model.decoder
    names = ("weight", "bias", "cluster_weight", "cluster_bias")
    weight, bias, cluster_weight, cluster_bias = (
        getattr(decoder, n).data().asnumpy().astype(float) for n in names
    )

    def softmax(scores):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    x = features.asnumpy().reshape(-1, features.shape[-1]).astype(float)
    first = SPLITS[0]
    head = softmax(
        np.concatenate(
            [x @ weight[:first].T + bias[:first], x @ cluster_weight.T + cluster_bias], axis=1
        )
    )
    parts = [head[:, :first]]
    for k, (begin, end) in enumerate(zip(SPLITS, (*SPLITS[1:], V), strict=True)):
        parts.append(head[:, first + k, None] * softmax(x @ weight[begin:end].T + bias[begin:end]))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_is_a_distribution_and_the_loss_is_its_logarithm(tied, hybrid):
    model, inputs, targets = make(tied, hybrid), ids(0), ids(1)
    state = model.begin_state(N)
    features, _ = model.body(inputs, state)
    expected = by_hand(model, features)
    logits = model(inputs, state)[0].asnumpy().reshape(-1, V)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(np.exp(logits.astype(float)).sum(axis=1), 1, rtol=1e-5)
    words = targets.asnumpy().astype(int).ravel()
    loss = decoder_loss(model, features, targets).asnumpy()
    np.testing.assert_allclose(
        loss, -np.log(expected[np.arange(T * N), words]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("high", [V, 20, 5])  # with 20 a cluster has no target, with 5 none has
def test_gradients_are_those_of_the_log_probabilities(tied, high):
    model, inputs, targets = make(tied, hybrid=False), ids(0), ids(1, high)
    head = nd.array(np.random.default_rng(2).normal(size=T * N))

    def gradients(of):
        with autograd.record():
            losses = of()
        losses.backward(head)
        return {
            name: parameter.grad().asnumpy().copy()
            for name, parameter in model.trainables().items()
        }

    def through_all():
        logits = model(inputs, model.begin_state(N))[0].reshape((-1, V))
        return -nd.pick(logits, targets.reshape(-1))

    ours = gradients(
        lambda: decoder_loss(model, model.body(inputs, model.begin_state(N))[0], targets)
    )
    theirs = gradients(through_all)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_evaluation_prepares_no_gradients_and_has_the_same_losses(monkeypatch):
    model, targets, kept = make(), ids(1), []

    def losses_of(*arguments, **options):
        losses, saved = softmax.losses_of(*arguments, **options)
        kept.append(saved)
        return losses, saved

    monkeypatch.setattr("gluonlm.model.adaptive.losses_of", losses_of)
    features, _ = model.body(ids(0), model.begin_state(N))
    losses = decoder_loss(model, features, targets).asnumpy()
    assert len(kept) > 1
    assert set(kept) == {None}
    kept.clear()
    with autograd.record():
        recorded = decoder_loss(model, features, targets)
    assert None not in kept
    np.testing.assert_array_equal(losses, recorded.asnumpy())


@pytest.mark.parametrize("rows", [1, N])
def test_the_predictor_of_generation_gives_the_same(rows):
    model = make()
    inputs = ids(0)[:, :rows]
    logits, _ = Predictor(model).predict(inputs.asnumpy(), model.begin_state(rows))
    np.testing.assert_allclose(
        logits, model(inputs, model.begin_state(rows))[0].asnumpy(), rtol=1e-4, atol=1e-5
    )


def test_tied_rows_are_the_embeddings():
    model = make(tied=True)
    assert model.decoder.weight is model.body.encoder.weight
    assert model.decoder.cluster_weight.shape == (3, 12)
    names = set(model.trainables())
    assert names >= {"decoder.bias", "decoder.cluster_weight", "decoder.cluster_bias"}


def test_the_usual_splits():
    assert usual_splits(75_000) == ()
    assert usual_splits(267_735) == (2800, 20_000, 76_000)
    assert usual_splits(800_000) == (4200, 35_000, 180_000)
    assert usual_splits(75_900) == (2800, 20_000)  # no empty cluster
    assert (
        type(build_model(Config(emsize=2, nhid=2, adaptive=True), 75_001).decoder).__name__
        == "SplitDecoder"
    )
    assert (
        type(build_model(Config(emsize=2, nhid=2, adaptive=True), 75_000).decoder).__name__
        == "Dense"
    )


@pytest.mark.parametrize("splits", [(40,), (50,), (9, 9), (20, 10), (0, 5)])
def test_impossible_splits_are_refused(splits):
    with pytest.raises(UserError, match="from 1 to 39"):
        check_splits(splits, V)


def test_sampling_the_softmax_and_splitting_it_exclude_each_other():
    for splitting in ({"splits": (5,)}, {"adaptive": True}):
        with pytest.raises(UserError, match="--softmax-samples .* --no-adaptive and --splits none"):
            Config(softmax_samples=10, **splitting)


def test_training_evaluation_and_generation(tmp_path):
    draw = np.random.default_rng(0)
    for split, lines in (("train", 60), ("valid", 10), ("test", 10)):
        starts = draw.integers(30, size=lines)
        text = "\n".join(
            " ".join(f"w{(start + 7 * step) % 30}" for step in range(8)) for start in starts
        )
        (tmp_path / f"{split}.txt").write_text(text + "\n")
    line = (
        f"--data '{tmp_path}' --save '{tmp_path / 'run'}' --emsize 24 --nhid 24 --tied --dropout 0 "
        f"--batch-size 4 --bptt 8"
    )
    result = train.main(
        [
            *shlex.split(line),
            *["--optimizer", "adam", "--lr", "0.02", "--epochs", "12", "--splits", "5", "12"],
        ]
    )
    assert result.test_perplexity < 3.5  # exp(ln 30 / 9) = 1.46 is the best there is
    trained = load_model(tmp_path / "run")
    assert trained.config.splits == (5, 12)
    test = trained.dictionary.encode(["w1", "w8", "w15", "w22", "w29", "w6", "w13", "w20", "<eos>"])
    assert evaluate(trained.model, test, trained.dictionary, 1) < 1.5
    prompt = trained.dictionary.encode(["<eos>", "w3"]).tolist()
    (written,) = generate(
        Predictor(trained.model), trained.dictionary, prompt, 5, Strategy(greedy=True)
    )
    assert trained.dictionary.decode(written) == ["w10", "w17", "w24", "w1", "w8"]
    exported = export_onnx(trained, tmp_path / "model.onnx")
    assert exported.difference < 1e-4
    model = gluonlm.load(exported.path)
    assert model.evaluate(test, 1) == pytest.approx(
        evaluate(trained.model, test, trained.dictionary, 1), rel=1e-5
    )
    with pytest.raises(UserError, match="from 1 to 31"):
        train.main([*shlex.split(line.replace("run", "other")), "--splits", "99"])


def test_a_dictionary_is_in_the_order_that_splits_need():
    assert Dictionary.from_counts({"rare": 1, "often": 9, "more": 4}).idx2word == [
        "often",
        "more",
        "rare",
    ]
