"""Competitor of benchmarks/step.py: gluonlm's own training step and evaluation."""

import tempfile
import time
from pathlib import Path

import gluonlm  # isort: skip
import mxnet as mx
import numpy as np
from step_worker import Work, serve

from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, generate
from gluonlm.model.checkpoint import Trained, build_model
from gluonlm.model.softmax import SampledSoftmax, decoder_loss
from gluonlm.onnx.export import export_onnx
from gluonlm.onnx.session import OnnxModel
from gluonlm.text.corpus import Dictionary
from gluonlm.training.fit import changes_few_rows
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, evaluate, train_step

SAMPLES, WORDS = 1000, 200
SIDE = 1024  # of the square matrices whose product shows what the processor can do


def set_up(work: Work):
    """One training step, or the evaluation of a short text."""
    mx.random.seed(1)
    config = Config(
        emsize=work.units,
        nhid=work.units,
        nlayers=work.layers,
        dropout=work.dropout,
        tied=True,
        batch_size=work.batch,
        bptt=work.bptt,
        precision=work.precision,
        softmax_samples=SAMPLES if work.mode == "sampled" else 0,
    )
    how = {"gradients": work.mode in ("train", "sampled"), "sparse": changes_few_rows(config)}
    model = build_model(config, work.vocab, **how)
    random = np.random.default_rng(1)
    facts = {"mxnet": mx.__version__, "threads": gluonlm.RUNTIME.threads}
    if work.mode == "evaluate":
        dictionary = Dictionary(str(word) for word in range(work.vocab))
        ids = random.integers(0, work.vocab, work.batch * work.bptt * work.eval_segments).astype(
            np.int32
        )
        return lambda: (len(ids), evaluate(model, ids, dictionary, work.batch)), facts
    if work.mode in ("generate", "onnx"):
        return generation(model, config, work), facts
    updater = Updater(model.trainables(), config.optimizer, config.wdecay)
    ids = random.integers(0, work.vocab, (work.bptt + 1, work.batch)).astype(np.int32)
    states = [model.begin_state(work.batch)]
    loss_of = (
        SampledSoftmax(np.ones(work.vocab), SAMPLES) if work.mode == "sampled" else decoder_loss
    )

    def step():
        nonlocal states
        loss, states = train_step(
            model, updater, ids[:-1], ids[1:], states, work.lr, work.clip, Objective(loss_of)
        )
        return ids[1:].size, loss

    return step, facts


def generation(model, config: Config, work: Work):
    """Texts that are written word by word, by MXNet or by ONNX Runtime."""
    dictionary = Dictionary(str(word) for word in range(work.vocab))
    computes = Predictor(model)
    if work.mode == "onnx":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(Trained(model, dictionary, config, "word", path), path)
            computes = OnnxModel(path)
    greedy = Strategy(greedy=True)

    def write():
        (text,) = generate(computes, dictionary, length=WORDS, strategy=greedy)
        return len(text), float(text[-1])

    return write


def product_rate(work: Work) -> float:
    """Multiplications and additions per second in the fastest product of large matrices that any
    library at hand makes: BLAS, oneDNN, and in bfloat16 our own."""
    matrix, seconds = mx.nd.ones((SIDE, SIDE)), []
    products = [mx.nd.dot, one_dnn]
    if work.precision == "bfloat16":
        products.append(mx.nd.gluonlm_dot)
    for _ in range(4):
        for product in products:
            started = time.perf_counter()
            product(matrix, matrix).wait_to_read()
            seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds)


def one_dnn(a: mx.nd.NDArray, b: mx.nd.NDArray) -> mx.nd.NDArray:
    """The product of a and b' by oneDNN."""
    return mx.nd.FullyConnected(a, b, num_hidden=len(b), no_bias=True)


if __name__ == "__main__":
    serve(set_up, product_rate)
