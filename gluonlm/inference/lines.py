"""The probability of many lines, each on its own: batched by length, returned in order.

    >>> for line in score_lines(model, ["She was here.", "Here she was."]):
    ...     print(line.log_probability, line.perplexity)

Lines come in blocks of bounded size, so that there may be any number of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from gluonlm.inference.sampling import end_id, log_softmax, most_probable
from gluonlm.inference.scoring import perplexity
from gluonlm.text.detokenize import tokens_of
from gluonlm.text.vocabulary import EOS, Dictionary

BLOCK_LINES, BLOCK_TOKENS = 4096, 1 << 18  # of lines that are sorted by length together
ROWS = 2048  # tokens that are scored at once: their logits are an array of ROWS x V
COLUMNS = 256  # lines side by side, more are not faster (benchmarks/scoring.py)


@dataclass
class Line:
    """A line with its score; ``next``: the most probable tokens after it, with probabilities."""

    text: str
    tokens: list[str]  # with the end of the line
    ids: np.ndarray  # (tokens,) int32
    missing: np.ndarray  # (tokens,) bool: those that the vocabulary lacks, read as <unk>
    nats: np.ndarray = field(default_factory=lambda: np.empty(0))  # (tokens,) -ln p of each
    next: list[tuple[str, float]] = field(default_factory=list)

    @property
    def unknown(self) -> int:
        """How many tokens the vocabulary lacks."""
        return int(self.missing.sum())

    @property
    def log_probability(self) -> float:
        """ln p of the line, its end included."""
        return -float(self.nats.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token."""
        return perplexity(-self.log_probability / max(len(self.ids), 1))


def read_line(text: str, dictionary: Dictionary, level: str) -> Line:
    """A line as tokens: cut as a seed phrase is, with the line's end."""
    tokens = tokens_of(text, dictionary, level)
    end = EOS if dictionary.eos_id is not None else "\n"
    tokens += [end] if end in dictionary else []
    ids = dictionary.encode(tokens)
    return Line(text, tokens, ids, ids == dictionary.unk_id)


def score_lines(
    model, texts: Iterable[str], columns: int = COLUMNS, carry: bool = False, following: int = 0
) -> Iterator[Line]:
    """Score lines, each from a zero state after a line end, whatever lines stand beside it.

    :param columns: lines side by side at most; one where they would disturb each other.
    :param carry: one line after the other instead, the state carried over: the loss is of one text.
    :param following: how many of the most probable next tokens each line is to have.
    """
    ends = end_id(model.dictionary) is not None  # else what follows is asked for line by line
    if not model.arithmetic.independent or (following and not ends):
        columns = 1
    lines = (read_line(text, model.dictionary, model.level) for text in texts)
    state = model.begin_state(1) if carry else None
    last = model.dictionary.start_id
    while block := take_block(lines, 1 if carry else BLOCK_LINES):
        if carry:
            after = score_batch(model, block, state, last, following)
            if ids := block[0].ids.tolist():  # where nothing ends a line, one may have no token
                state, last = after, ids[-1]
        else:
            for batch in batches(block, columns):
                score_batch(model, batch, model.begin_state(len(batch)), last, following)
        yield from block


def take_block(lines: Iterator[Line], most: int) -> list[Line]:
    """The next lines, not many more than ``BLOCK_TOKENS`` tokens of them."""
    block, tokens = [], 0
    for line in islice(lines, most):
        block.append(line)
        tokens += len(line.ids)
        if tokens >= BLOCK_TOKENS:
            break
    return block


def batches(block: list[Line], columns: int) -> Iterator[list[Line]]:
    """Lines of like length together, the longest first, about ``ROWS`` tokens of them."""
    ordered = sorted(block, key=lambda line: -len(line.ids))
    start = 0
    while start < len(ordered):
        fitting = max(1, min(columns, ROWS // max(len(ordered[start].ids), 1)))
        yield ordered[start : start + fitting]
        start += fitting


def score_batch(model, batch: list[Line], state: list, first_id: int, following: int) -> list:
    """Fill in the nats of lines that are read side by side; returns the state after them."""
    ends, before = end_id(model.dictionary) is not None, state
    longest = max([1, *(len(line.ids) for line in batch)])
    targets = np.full((longest, len(batch)), first_id, np.int32)  # (T, N)
    for column, line in enumerate(batch):
        targets[: len(line.ids), column] = line.ids
    inputs = np.concatenate([np.full((1, len(batch)), first_id, np.int32), targets[:-1]])
    steps, nats = max(1, min(model.arithmetic.steps, ROWS // len(batch))), []
    for start in range(0, longest, steps):
        part = slice(start, start + steps)
        texts = inputs[part], targets[part]
        if following and ends:
            losses, logits, state = model.arithmetic.losses_and_logits(*texts, state)
            add_next(model.dictionary, batch, logits, start, following)
        else:
            losses, state = model.losses(*texts, state)
        nats.append(losses)
    together = np.concatenate(nats).astype(np.float64)  # (T, N)
    for column, line in enumerate(batch):
        line.nats = together[: len(line.ids), column]
    if following and not ends:  # the line, a single one, has none either
        ids = batch[0].ids.tolist()
        logits, _ = model.predict([ids[-1:] or [first_id]], state if ids else before)
        batch[0].next = most_probable(log_softmax(logits[0, 0]), model.dictionary, following)
    return state


def add_next(
    dictionary: Dictionary, batch: list[Line], logits: np.ndarray, start: int, count: int
) -> None:
    """Note the most probable tokens where a line ends within these steps; ``logits``: (T, N, V)."""
    for column, line in enumerate(batch):
        step = len(line.ids) - 1 - start  # where the end of the line is predicted
        if 0 <= step < len(logits):
            line.next = most_probable(log_softmax(logits[step, column]), dictionary, count)
