"""Competitor of benchmarks/step.py: the model and step of PyTorch's word-level example, with
nn.LSTM."""

import torch
from step_worker import Work, serve
from torch import nn


class Model(nn.Module):
    """Embedding, LSTM and a tied decoder."""

    def __init__(self, work: Work):
        super().__init__()
        self.drop = nn.Dropout(work.dropout)
        self.encoder = nn.Embedding(work.vocab, work.units)
        self.rnn = nn.LSTM(work.units, work.units, work.layers, dropout=work.dropout)
        self.decoder = nn.Linear(work.units, work.vocab)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, inputs, state):
        outputs, state = self.rnn(self.drop(self.encoder(inputs)), state)
        decoded = self.decoder(self.drop(outputs))
        return nn.functional.log_softmax(decoded.view(-1, decoded.shape[-1]), dim=1), state


def set_up(work: Work):
    """One training step, or the evaluation of a short text."""
    torch.manual_seed(1)
    model, loss_of = Model(work), nn.NLLLoss()
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    length = work.bptt * (work.eval_segments if work.mode == "evaluate" else 1) + 1
    ids = torch.randint(work.vocab, (length, work.batch))
    zeros = torch.zeros(work.layers, work.batch, work.units)
    state = (zeros, zeros)

    def step():
        nonlocal state
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bfloat16"):
            output, after = model(ids[:-1], tuple(array.detach() for array in state))
            loss = loss_of(output, ids[1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), work.clip)
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-work.lr)
        state = after
        return work.bptt * work.batch, loss.item()

    def evaluate():
        state, total = (zeros, zeros), 0.0
        with torch.no_grad():
            for start in range(0, length - 1, work.bptt):
                output, state = model(ids[start : start + work.bptt], state)
                targets = ids[start + 1 : start + 1 + work.bptt].reshape(-1)
                total += len(targets) * loss_of(output, targets).item()
        tokens = (length - 1) * work.batch
        return tokens, total / tokens

    model.train(work.mode != "evaluate")
    return (evaluate if work.mode == "evaluate" else step), facts


if __name__ == "__main__":
    serve(set_up)
