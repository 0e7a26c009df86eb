"""Competitor of benchmarks/quality.py: PyTorch's word-level example with its own settings, tied,
trained on a text.

    torch-env/bin/python benchmarks/quality_torch.py TRAIN VALID TEST --epochs 6

Prints a line per epoch and, as its last line, a JSON object with the test perplexity of the best
epoch. Less than one epoch is trained and not evaluated, to measure time alone. PyTorch and the
standard library only; the model is that of benchmarks/step_torch.py.
"""

import argparse
import copy
import json
import math

import torch
from step_torch import Model
from step_worker import Work
from torch import nn

EVAL_BATCH = 10
LR, CLIP = 20.0, 0.25


def encode(paths: list[str]) -> tuple[list[torch.Tensor], int]:
    """Word ids of each file, ``<eos>`` at each line's end, and the size of their vocabulary."""
    numbers: dict[str, int] = {}
    texts = []
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            words = (word for line in lines for word in [*line.split(), "<eos>"])
            texts.append(torch.tensor([numbers.setdefault(word, len(numbers)) for word in words]))
    return texts, len(numbers)


def columns(ids: torch.Tensor, batch: int) -> torch.Tensor:
    """(L, N) without the remainder."""
    length = len(ids) // batch
    return ids[: length * batch].view(batch, length).t().contiguous()


def pairs(source: torch.Tensor, bptt: int):
    """Inputs (T, N) and targets (T*N,) of each segment."""
    for start in range(0, len(source) - 1, bptt):
        steps = min(bptt, len(source) - 1 - start)
        yield source[start : start + steps], source[start + 1 : start + 1 + steps].reshape(-1)


def zero_state(work: Work, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(work.layers, batch, work.units), torch.zeros(work.layers, batch, work.units)


def train_epoch(
    model: Model, source: torch.Tensor, work: Work, lr: float, part: float = 1.0
) -> None:
    """Plain stochastic gradient descent on that part of the text, the state carried over."""
    model.train()
    loss_of, state = nn.NLLLoss(), zero_state(work, work.batch)
    for inputs, targets in pairs(source[: int(part * len(source))], work.bptt):
        model.zero_grad()
        output, state = model(inputs, tuple(array.detach() for array in state))
        loss_of(output, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), work.clip)
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-lr)


def evaluate(model: Model, source: torch.Tensor, work: Work) -> float:
    """Mean loss in nats per token."""
    model.eval()
    loss_of, state, total, count = nn.NLLLoss(), zero_state(work, EVAL_BATCH), 0.0, 0
    with torch.no_grad():
        for inputs, targets in pairs(source, work.bptt):
            output, state = model(inputs, state)
            total += len(targets) * loss_of(output, targets).item()
            count += len(targets)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("texts", nargs=3, metavar="TEXT", help="training, validation and test text")
    parser.add_argument("--epochs", type=float, default=6, help="a whole number, or less than 1")
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1111)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    (train, valid, test), vocab = encode(options.texts)
    work = Work("train", vocab, options.units, layers=2, batch=20, bptt=35, clip=CLIP)
    model, lr, best, kept = Model(work), LR, math.inf, None
    source, valid, test = (
        columns(train, work.batch),
        columns(valid, EVAL_BATCH),
        columns(test, EVAL_BATCH),
    )
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if options.epochs < 1:
        train_epoch(model, source, work, lr, options.epochs)
        print(json.dumps(versions), flush=True)
        return
    for epoch in range(int(options.epochs)):
        train_epoch(model, source, work, lr)
        loss = evaluate(model, valid, work)
        print(f"epoch {epoch + 1} | lr {lr} | valid ppl {math.exp(loss):.2f}", flush=True)
        if loss < best:
            best, kept = loss, copy.deepcopy(model.state_dict())
        else:
            lr /= 4
    model.load_state_dict(kept)
    facts = {
        "valid_perplexity": math.exp(best),
        "test_perplexity": math.exp(evaluate(model, test, work)),
    }
    print(json.dumps(facts | versions), flush=True)


if __name__ == "__main__":
    main()
