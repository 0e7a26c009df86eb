"""Logits, loss, state and all gradients agree with PyTorch's for the same weights (tests/fixtures/make_parity.py)."""

from pathlib import Path

import numpy as np
import pytest
from mxnet import autograd, nd

from gluonlm.model import GATES, RNNModel
from gluonlm.softmax import decoder_loss

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "parity.npz")
LAYERS = 2
TORCH_NAMES = {
    "i2h_weight": "weight_ih",
    "h2h_weight": "weight_hh",
    "i2h_bias": "bias_ih",
    "h2h_bias": "bias_hh",
}


def pairs(model, kind):
    """Our arrays (weights or gradients) beside PyTorch's names of them."""
    read = (lambda p: p.data()) if kind == "weight" else (lambda p: p.grad())
    yield read(model.body.encoder.weight), "encoder.weight"
    if model.decoder.weight is not model.body.encoder.weight:
        yield read(model.decoder.weight), "decoder.weight"
    yield read(model.decoder.bias), "decoder.bias"
    for index, layer in enumerate(model.body.layers):
        for name, part in layer.parts(read(layer.weights)).items():
            yield part, f"rnn.{TORCH_NAMES[name]}_l{index}"


@pytest.mark.parametrize("tie", ["free", "tied"])
@pytest.mark.parametrize("mode", GATES)
def test_agrees_with_pytorch(mode, tie):
    def torch(name):
        return FIXTURE[f"{mode}-{tie}/{name}"]

    vocab_size, emsize = torch("weight/encoder.weight").shape
    model = RNNModel(vocab_size, mode, emsize, nhid=5, nlayers=LAYERS, tied=tie == "tied")
    model.initialize()
    model.hybridize(static_alloc=True)
    for array, name in pairs(model, "weight"):
        array[:] = nd.array(torch(f"weight/{name}"))
    starts = [nd.array(torch(f"start/{index}")) for index in range(2 if mode == "LSTM" else 1)]
    state = [array[layer : layer + 1] for layer in range(LAYERS) for array in starts]  # ours: layer by layer

    with autograd.record():
        features, end = model.body(nd.array(torch("inputs")), state)
        loss = decoder_loss(model, features, nd.array(torch("targets"))).mean()
    loss.backward()
    logits, _ = model(nd.array(torch("inputs")), state)

    def close(ours, name):
        np.testing.assert_allclose(ours.asnumpy(), torch(name), rtol=1e-4, atol=1e-6, err_msg=name)

    close(logits, "logits")
    assert loss.asscalar() == pytest.approx(float(torch("loss")), rel=1e-5)
    for index in range(len(starts)):
        ours = nd.concat(*end[index :: len(starts)], dim=0)  # (layers, N, H)
        close(ours, f"end/{index}")
    checked = 0
    for gradient, name in pairs(model, "gradient"):
        close(gradient, f"gradient/{name}")
        checked += 1
    assert checked == 4 * LAYERS + (2 if tie == "tied" else 3)
