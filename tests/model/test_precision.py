"""Products in bfloat16: the values of rounded factors, gradients within the rounding, float32 in
files."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from small import gradients

import gluonlm
from gluonlm import evaluate, quantize, score, train
from gluonlm.model import precision, softmax
from gluonlm.model.checkpoint import load_model
from gluonlm.system import native, threads
from gluonlm.system.errors import UserError
from gluonlm.system.machine import cpu_flags

pytestmark = pytest.mark.skipif(
    "avx512_bf16" not in cpu_flags(), reason="this processor has no AVX512_BF16"
)
ROUNDING = 2**-8  # relative, of a factor


@pytest.fixture(scope="module", autouse=True)
def _operators():
    if "avx512_bf16" in cpu_flags():
        native.load_operators("bfloat16")


def rounded(array):
    """Float32 numbers that bfloat16 holds: their upper 16 bits, to nearest."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


SHAPES = [
    (1, 1, 1),
    (10, 32, 2),
    (11, 33, 3),
    (700, 5, 301),
    (130, 47, 1600),
    (23, 17, 9),
    (5, 700, 64),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_the_product_of_the_rounded_factors(shape, transpose_a, transpose_b):
    m, n, k = shape
    random = np.random.default_rng(m)
    a, b, bias = (random.normal(size=size).astype("f") for size in ((m, k), (k, n), n))
    given = [nd.array(a.T if transpose_a else a), nd.array(b.T if transpose_b else b)]
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    exact = rounded(a).astype(float) @ rounded(b).astype(float)
    tolerance = 1e-6 * np.sqrt(k) * 10
    product = nd.gluonlm_dot(*given, **options)
    np.testing.assert_allclose(product.asnumpy(), exact, atol=tolerance)
    with_bias = nd.gluonlm_dot(*given, nd.array(bias), bias=True, **options)
    np.testing.assert_allclose(with_bias.asnumpy(), exact + bias, atol=tolerance)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (11, 33, 3), (23, 31, 9), (64, 501, 40), (9, 40, 1700)]
)
@pytest.mark.parametrize("size", [1, 300], ids=["usual logits", "beyond the range of exp"])
def test_the_softmax_and_its_gradients(shape, size):
    """Losses as exact as float32, gradients within the rounding; even numbers of words and odd
    ones, more features than a product takes at a time, and rows of which each e^x would be 0."""
    m, n, k = shape
    random = np.random.default_rng(n)
    x, weight = random.normal(size=(m, k)), random.normal(size=(n, k)) * size / k**0.5
    x, weight, bias = (a.astype("f") for a in (x, weight, random.normal(size=n) - size + 1))
    targets = random.integers(n, size=m)
    logits = rounded(x).astype(float) @ rounded(weight).astype(float).T + bias
    exact = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    p = np.exp(logits - exact[:, None])
    losses, saved = softmax.losses_of(*map(nd.array, (x, weight, bias, targets)), "bfloat16")
    expected = exact - logits[range(m), targets]
    np.testing.assert_allclose(losses.asnumpy(), expected, atol=1e-5 * size)
    alone = softmax.cross_entropy(*map(nd.array, (x, weight, bias, targets)), "bfloat16")
    np.testing.assert_array_equal(alone.asnumpy(), losses.asnumpy())  # without what gradients need
    head = random.uniform(1, 2, size=m)
    ours = [a.asnumpy() for a in softmax.gradients_of(saved, nd.array(head))]
    p[range(m), targets] -= 1
    p *= head[:, None]
    for got, left, right in zip(ours, (p, p.T, p.T), (weight, x, np.ones(m)), strict=True):
        bound = 2 * ROUNDING * (abs(left) @ abs(right)) + 1e-6
        assert (abs(got - left @ right) <= bound).all()


def test_the_softmax_of_any_number_of_threads_is_the_same():
    random = np.random.default_rng(1)
    arrays = [random.normal(size=size) for size in ((70, 20), (3001, 20), 3001)]
    arrays = [*map(nd.array, arrays), nd.array(random.integers(3001, size=70))]
    results, before = [], gluonlm.RUNTIME.threads
    try:
        for number in (1, 2, 3):
            threads.set_threads(number)
            losses, saved = softmax.losses_of(*arrays, "bfloat16")
            results.append([a.asnumpy() for a in (losses, *softmax.gradients_of(saved, losses))])
    finally:
        threads.set_threads(before)
    for one in results[1:]:
        for a, b in zip(results[0], one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_not_finite_stays_so():
    a = nd.array([[np.nan, 1], [np.inf, 1], [1, 1]])
    np.testing.assert_array_equal(
        precision.dot(a, nd.ones((2, 1)), "bfloat16").asnumpy().ravel(), [np.nan, np.inf, 2]
    )


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(mx.MXNetError):
        precision.dot(nd.ones((2, 3)), nd.ones((2, 3)), "bfloat16").wait_to_read()
    with pytest.raises(mx.MXNetError):
        nd.gluonlm_softmax(nd.ones((2, 3)), nd.ones((5, 4)), nd.ones(5), nd.ones(2)).wait_to_read()


@pytest.mark.parametrize("way", ["full", "sampled", "adaptive"])
def test_gradients_are_those_of_float32_within_the_rounding(way):
    results = [
        [array.asnumpy() for array in gradients(kind, way, units=64, shape=(10, 8))]
        for kind in ("float32", "bfloat16")
    ]
    for exact, ours in zip(*results, strict=True):
        error = np.linalg.norm(exact - ours) / np.linalg.norm(exact)
        assert error < 6 * ROUNDING
    assert any((a != b).any() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "shape",
    [
        (3, 4, 5, 7),
        (1, 1, 1, 1),
        (2, 5, 16, 16),
        (9, 20, 33, 48),
        (7, 23, 17, 31),
        (4, 20, 200, 200),
    ],
)
def test_an_lstm_is_mxnets_within_the_rounding(shape):
    """Values, new state and all gradients, from a state that is not zero and with gradients of the
    new state."""
    steps, columns, inputs, units = shape
    random = np.random.default_rng(steps)
    sizes = [
        (steps, columns, inputs),
        (4 * units * (inputs + units + 2),),
        (1, columns, units),
        (1, columns, units),
    ]
    arrays = [nd.array(random.normal(size=size)) for size in sizes]
    arrays[1] *= units**-0.5  # as large as at initialization
    heads = [nd.array(random.normal(size=size)) for size in ((steps, columns, units), *sizes[2:])]
    options = {"state_size": units, "num_layers": 1, "mode": "lstm", "state_outputs": True}
    results = []
    for layer in (lambda: nd.RNN(*arrays, **options), lambda: nd.gluonlm_lstm(*arrays)[:3]):
        for array in arrays:
            array.attach_grad()
        with autograd.record():
            outputs = layer()
        autograd.backward(list(outputs), heads)
        results.append([array.asnumpy() for array in (*outputs, *(array.grad for array in arrays))])
    for exact, ours in zip(*results, strict=True):
        assert np.linalg.norm(exact - ours) / np.linalg.norm(exact) < 6 * ROUNDING


def test_a_state_that_is_not_finite_shows():
    weights, state = nd.ones(4 * 3 * (2 + 3 + 2)), nd.zeros((1, 1, 3))
    outputs = nd.gluonlm_lstm(nd.array([[[np.nan, 1]]]), weights, state, state)
    assert np.isnan(outputs[0].asnumpy()).all()


def test_a_run_trains_and_its_model_is_float32_unless_asked(tmp_path):
    letters = np.random.default_rng(1).choice([*"abcdefgh\n"], 4000)
    (tmp_path / "text.txt").write_text(" ".join(letters))
    options = [
        "--tiny",
        "--epochs",
        "2",
        "--data",
        str(tmp_path / "text.txt"),
        "--precision",
        "bfloat16",
    ]
    result = train.main([*options, "--save", str(tmp_path / "run")])
    assert result.finished
    run = str(tmp_path / "run")
    loaded = load_model(run)
    assert loaded.model.precision == "float32"
    assert loaded.config.precision == "bfloat16"
    assert {one.dtype for one in loaded.model.trainables().values()} <= {"float32", np.float32}
    # asked for it, evaluate and score agree with each other, and nearly with float32
    text, half = str(tmp_path / "text.txt"), ["--precision", "bfloat16"]
    exact, ours = (
        evaluate.main([run, "--data", text, "--batch-size", "1", *options])
        for options in ([], half)
    )
    assert exact.loss != ours.loss == pytest.approx(exact.loss, rel=1e-3)
    scored = score.main([run, text, "--carry", *half])
    assert scored["log_probability"] == pytest.approx(-ours.loss * ours.tokens, rel=1e-6)
    quantize.main([run, "--int8"])
    with pytest.raises(UserError, match="leave out --precision"):
        score.main([f"{run}/int8.safetensors", text, *half])


def test_what_cannot_be_is_said(monkeypatch):
    with pytest.raises(UserError, match="is for processors"):
        precision.check_precision("bfloat16", on_gpu=True)
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512f"})
    with pytest.raises(UserError, match="no AVX512_BF16"):
        precision.check_precision("bfloat16", on_gpu=False)
