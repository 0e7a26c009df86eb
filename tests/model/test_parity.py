"""The same as PyTorch for the same weights: logits, loss, state and all gradients; SGD and averaged
SGD.

The reference values were made by tests/fixtures/make_parity.py and make_asgd.py.
"""

from pathlib import Path

import numpy as np
import pytest
from mxnet import autograd, nd

from gluonlm.config import MODELS
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import decoder_loss
from gluonlm.training.loop import train_step
from gluonlm.training.optim import Average, Updater

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "parity.npz")
TRAJECTORY = np.load(Path(__file__).parents[1] / "fixtures" / "asgd.npz")
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
        if isinstance(layer, QRNNLayer):
            yield read(layer.weight), f"rnn.{index}.linear.weight"
            yield read(layer.bias), f"rnn.{index}.linear.bias"
        else:
            for name, part in layer.parts(read(layer.weights)).items():
                yield part, f"rnn.{TORCH_NAMES[name]}_l{index}"


@pytest.mark.parametrize("tie", ["free", "tied"])
@pytest.mark.parametrize("mode", [mode for mode in MODELS if mode != "Transformer"])
def test_agrees_with_pytorch(mode, tie):
    def torch(name):
        return FIXTURE[f"{mode}-{tie}/{name}"]

    vocab_size, emsize = torch("weight/encoder.weight").shape
    model = RNNModel(vocab_size, mode, emsize=emsize, nhid=5, nlayers=LAYERS, tied=tie == "tied")
    model.initialize()
    model.hybridize(static_alloc=True)
    for array, name in pairs(model, "weight"):
        array[:] = nd.array(torch(f"weight/{name}"))
    starts = [
        nd.array(FIXTURE[name])
        for name in sorted(FIXTURE)
        if name.startswith(f"{mode}-{tie}/start/")
    ]
    if mode == "QRNN":  # c of both layers and the first one's x, which ours has after its c
        state = [starts[0][:1], starts[1], starts[0][1:]]
    else:
        state = [
            array[layer : layer + 1] for layer in range(LAYERS) for array in starts
        ]  # ours: layer by layer

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
        ours = nd.concat(*end[index :: len(starts)], dim=0)  # (layers, N, H), and (1, N, E) for x
        close(ours, f"end/{index}")
    checked = 0
    for gradient, name in pairs(model, "gradient"):
        close(gradient, f"gradient/{name}")
        checked += 1
    assert checked == (2 if mode == "QRNN" else 4) * LAYERS + (2 if tie == "tied" else 3)


def test_the_trajectory_of_averaged_sgd_is_that_of_pytorch():
    """50 steps of a tied LSTM, averaged from step 10 on; ``ASGD(t0=0)`` leaves its first iterate
    out of the mean."""
    vocab_size, emsize = TRAJECTORY["start/encoder.weight"].shape
    model = RNNModel(vocab_size, "LSTM", emsize=emsize, nhid=5, nlayers=LAYERS, tied=True)
    model.initialize()
    for array, name in pairs(model, "weight"):
        array[:] = nd.array(TRAJECTORY[f"start/{name}"])
    updater, average, without_first = Updater(model.trainables(), "sgd", wdecay=1e-3), None, None
    text, plain_steps, losses = TRAJECTORY["text"], int(TRAJECTORY["plain_steps"]), []
    states = [model.begin_state(text.shape[-1])]
    for step, segment in enumerate(text):
        if step == plain_steps:
            average = Average(model.trainables())
        if step == plain_steps + 1:
            without_first = Average(model.trainables())
        loss, states = train_step(
            model, updater, segment[:-1], segment[1:], states, lr=5.0, clip=0.25
        )
        losses.append(loss)
        for mean in (average, without_first):
            if mean:
                mean.update()

    def close(kind):
        checked = 0
        for array, name in pairs(model, "weight"):
            np.testing.assert_allclose(
                array.asnumpy(), TRAJECTORY[f"{kind}/{name}"], rtol=0, atol=1e-5, err_msg=name
            )
            checked += 1
        assert checked == 4 * LAYERS + 2

    np.testing.assert_allclose(losses, TRAJECTORY["losses"], rtol=1e-5)
    close("end")
    with average.in_place():
        close("all")
    with without_first.in_place():
        close("average")
    apart = max(
        np.abs(TRAJECTORY[f"end/{name}"] - TRAJECTORY[f"average/{name}"]).max()
        for _, name in pairs(model, "weight")
    )
    assert apart > 0.1  # the mean is another model than the last iterate
