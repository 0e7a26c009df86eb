"""Competitor of benchmarks/memory.py: AWD-LSTM and AWD-QRNN in PyTorch, as their toolkit has them,
trained by SGD."""

import json
import sys

import torch
from memory_worker import report
from torch import nn
from torch.nn.functional import cross_entropy, dropout, embedding


class LSTM(nn.Module):
    """A layer whose recurrent weights are dropped for a whole segment."""

    def __init__(self, inputs: int, units: int, wdrop: float):
        super().__init__()
        self.units, self.wdrop = units, wdrop
        self.rnn = nn.LSTM(inputs, units)

    def forward(self, x, state):
        rnn = self.rnn
        dropped = dropout(rnn.weight_hh_l0, self.wdrop)
        weights = [rnn.weight_ih_l0, dropped, rnn.bias_ih_l0, rnn.bias_hh_l0]
        # input, state, weights, biases, layers, dropout, train, bidirectional, batch first
        out, *state = torch._VF.lstm(x, state, weights, True, 1, 0.0, True, False, False)
        return out, tuple(state)

    def begin_state(self, batch: int):
        return tuple(torch.zeros(1, batch, self.units) for _ in range(2))


class QRNN(nn.Module):
    """A quasi-recurrent layer, all of whose weights are dropped; its state is c, and x for a window
    of two."""

    def __init__(self, inputs: int, units: int, wdrop: float, window: int):
        super().__init__()
        self.inputs, self.units, self.wdrop, self.window = inputs, units, wdrop, window
        self.linear = nn.Linear(window * inputs, 3 * units)

    def forward(self, x, state):
        c, previous = state
        seen = x
        if self.window == 2:
            seen = torch.cat([x, torch.cat([previous, x[:-1]])], dim=2)
        gates = nn.functional.linear(
            seen, dropout(self.linear.weight, self.wdrop), self.linear.bias
        )
        z, f, o = gates.split(self.units, dim=2)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        cells, new = [], (1 - f) * z
        for forget, one in zip(f, new):  # (N, H) each
            c = forget * c + one
            cells.append(c)
        return o * torch.stack(cells), (c, x[-1:].detach())

    def begin_state(self, batch: int):
        return torch.zeros(batch, self.units), torch.zeros(1, batch, self.inputs)


class Model(nn.Module):
    """The toolkit's model: dropout of words, locked dropout, tied embedding."""

    def __init__(self, settings: dict, vocab: int):
        super().__init__()
        self.settings = settings
        emsize, nhid, count = (settings[name] for name in ("emsize", "nhid", "nlayers"))
        sizes = [emsize, *[nhid] * (count - 1), emsize]
        layers = []
        for index, (inputs, units) in enumerate(zip(sizes, sizes[1:])):
            if settings["model"] == "QRNN":
                layers.append(QRNN(inputs, units, settings["wdrop"], 1 if index else 2))
            else:
                layers.append(LSTM(inputs, units, settings["wdrop"]))
        self.layers = nn.ModuleList(layers)
        self.decoder = nn.Linear(emsize, vocab)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, words, states):
        """Logits, new states, and the last layer's outputs before and after dropout."""
        rate, vocab = self.settings["dropoute"], self.decoder.out_features
        x = embedding(words, dropout(torch.ones(vocab, 1), rate) * self.decoder.weight)
        x = locked(x, self.settings["dropouti"])
        between = [self.settings["dropouth"]] * (len(self.layers) - 1)
        after = []
        for layer, state, rate in zip(self.layers, states, [*between, self.settings["dropout"]]):
            raw, state = layer(x, state)
            x = locked(raw, rate)
            after.append(state)
        return self.decoder(x), after, raw, x


def locked(x, rate: float):
    """Dropout with one mask for all steps."""
    return x * dropout(torch.ones(1, *x.shape[1:]), rate)


def main(settings: dict, vocab: int, epochs: list[list[int]]) -> None:
    """Steps on segments of these lengths, with a report after each epoch."""
    torch.manual_seed(1)
    model, batch = Model(settings, vocab), settings["batch_size"]
    optimizer = torch.optim.SGD(model.parameters(), settings["lr"] / 100, weight_decay=1.2e-6)
    states = [layer.begin_state(batch) for layer in model.layers]
    for lengths in epochs:
        for steps in lengths:
            ids = torch.randint(vocab, (steps + 1, batch))
            optimizer.zero_grad()
            states = [tuple(array.detach() for array in state) for state in states]
            logits, states, raw, dropped = model(ids[:-1], states)
            loss = cross_entropy(logits.view(-1, vocab), ids[1:].reshape(-1))
            penalty = settings["alpha"] * dropped.pow(2).mean()
            penalty = penalty + settings["beta"] * (raw[1:] - raw[:-1]).pow(2).mean()
            (loss + penalty).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            optimizer.step()
        report(loss.item())


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
