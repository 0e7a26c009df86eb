"""The smallest trainings: a text of two lines again and again, and options that take a second."""

from pathlib import Path

import numpy as np
from mxnet import autograd, nd

from gluonlm import train
from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import SampledSoftmax, decoder_loss

SMALL = ["--emsize", "8", "--nhid", "8", "--batch-size", "4", "--bptt", "5"]
ONCE = [*SMALL, "--epochs", "1"]


def write_cats(folder: Path) -> Path:
    """The three texts in a folder."""
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("the cat sat on the mat\nthe dog ran\n" * 20)
    return folder


def fit(text, save, *more):
    """Train a small model."""
    return train.main(["--data", str(text), "--save", str(save), *SMALL, *more])


def gradients(precision, way, mode="LSTM", units=16, shape=(5, 4)):
    """A step of a model with random weights: loss, features, new states and gradients.

    :param way: its softmax, "full", "sampled" or "adaptive". :param shape: of the words (T, N).
    """
    options = {"emsize": units, "nhid": units, "tied": True, "wdrop": 0}
    splits = (100, 200) if way == "adaptive" else ()
    model = RNNModel(500, mode, precision=precision, splits=splits, **options)
    model.initialize()
    random = np.random.default_rng(0)
    for parameter in model.trainables().values():
        parameter.set_data(nd.array(random.normal(size=parameter.shape, scale=0.1)))
    words = nd.array(random.integers(500, size=shape))
    np.random.seed(0)
    loss_of = SampledSoftmax(np.ones(500), 50) if way == "sampled" else decoder_loss
    with autograd.record():
        features, state = model.body(words, model.begin_state(shape[1]))
        loss = loss_of(model, features, words)
    loss.backward()
    return [loss, features, *state, *(p.grad() for p in model.trainables().values())]
