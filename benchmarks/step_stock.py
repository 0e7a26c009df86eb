"""Competitor of benchmarks/step.py: MXNet as it comes, in the plain Gluon formulation; nothing of
gluonlm."""

import os

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn
from step_worker import Work, serve


class Model(gluon.HybridBlock):
    """Embedding, LSTM and a tied decoder."""

    def __init__(self, work: Work):
        super().__init__()
        with self.name_scope():
            self.drop = nn.Dropout(work.dropout)
            self.encoder = nn.Embedding(
                work.vocab, work.units, weight_initializer=mx.init.Uniform(0.1)
            )
            self.rnn = rnn.LSTM(
                work.units, work.layers, dropout=work.dropout, input_size=work.units
            )
            self.decoder = nn.Dense(
                work.vocab, flatten=False, in_units=work.units, params=self.encoder.params
            )

    def hybrid_forward(self, F, inputs, hidden, cell):
        outputs, state = self.rnn(self.drop(self.encoder(inputs)), [hidden, cell])
        return self.decoder(self.drop(outputs)), *state


def set_up(work: Work):
    """One training step, or the evaluation of a short text."""
    mx.random.seed(1)
    model, loss_of = Model(work), gluon.loss.SoftmaxCrossEntropyLoss()
    model.initialize()
    model.hybridize(static_alloc=True)
    loss_of.hybridize(static_alloc=True)
    facts = {
        "mxnet": mx.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", "as MXNet chooses"),
    }
    length = work.bptt * (work.eval_segments if work.mode == "evaluate" else 1) + 1
    ids = nd.array(np.random.default_rng(1).integers(0, work.vocab, (length, work.batch)))
    trainer = gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": work.lr})
    state = model.rnn.begin_state(work.batch)

    def step():
        nonlocal state
        with autograd.record():
            logits, *after = model(ids[:-1], *state)
            loss = loss_of(logits.reshape((-1, work.vocab)), ids[1:].reshape((-1,))).mean()
        loss.backward()
        gradients = [parameter.grad() for parameter in model.collect_params().values()]
        gluon.utils.clip_global_norm(gradients, work.clip)
        trainer.step(1)
        state = [array.detach() for array in after]
        return work.bptt * work.batch, float(loss.asscalar())

    def evaluate():
        state, total = model.rnn.begin_state(work.batch), 0.0
        for start in range(0, length - 1, work.bptt):
            logits, *state = model(ids[start : start + work.bptt], *state)
            targets = ids[start + 1 : start + 1 + work.bptt]
            total += float(
                loss_of(logits.reshape((-1, work.vocab)), targets.reshape((-1,))).sum().asscalar()
            )
        tokens = (length - 1) * work.batch
        return tokens, total / tokens

    return (evaluate if work.mode == "evaluate" else step), facts


if __name__ == "__main__":
    serve(set_up)
