"""A text's ids as columns that are read side by side, and as the segments that a step sees.

>>> columns = batchify(corpus.train, 20)        # (L, 20)
>>> data, target = get_batch(columns, 0, 35)    # (35, 20) each
"""

from collections.abc import Callable, Iterator

import numpy as np

from gluonlm.system.errors import UserError
from gluonlm.system.streams import counted


def batchify(ids: np.ndarray, batch_size: int) -> np.ndarray:
    """Cut a text (tokens,) into ``batch_size`` columns (L, N), dropping what does not fill a row.

    Column n is the n-th stretch of the text. Raises a UserError when it has fewer tokens than N.
    """
    length = len(ids) // checked(batch_size)
    if length == 0:
        short = f"a text of {counted(len(ids), 'token')} does not fill {batch_size} columns"
        raise UserError(f"{short}: lower the batch size")
    return np.ascontiguousarray(ids[: length * batch_size].reshape(batch_size, length).T)


def random_length(bptt: int, seed: int, step: int) -> int:
    """The length of the segment of a training step, a function of seed and step alone.

    Normal(bptt, 5), for one segment in twenty Normal(bptt / 2, 5) (Merity et al. 2018, section 5);
    at least 5 and, so that no segment needs much more memory than the others, at most bptt + 10.
    """
    random = np.random.default_rng((seed, step))
    center = bptt if random.random() < 0.95 else bptt / 2
    return min(max(5, int(random.normal(center, 5))), bptt + 10)


def segments(
    rows: int, bptt: int, length: Callable[[int], int] | None = None
) -> list[tuple[int, int]]:
    """Start and steps of each segment of a text of ``rows`` rows; the last row is only a target.
    ``length`` gives the steps of the i-th one, ``bptt`` if None; the last one has what is left."""
    plan, start = [], 0
    while start < rows - 1:
        steps = min(length(len(plan)) if length else bptt, rows - 1 - start)
        plan.append((start, steps))
        start += steps
    return plan


def get_batch(source: np.ndarray, i: int, bptt: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``i`` to ``i + T`` of a source (L, N) and, as targets, the rows one later: (T, N) each,
    with T = ``bptt`` or what is left; 0 <= i < L - 1."""
    steps = min(bptt, len(source) - 1 - i)
    return source[i : i + steps], source[i + 1 : i + 1 + steps]


def evaluation_columns(ids: np.ndarray, batch_size: int) -> int:
    """In how many columns to evaluate a text: ``batch_size``, or as many as it has tokens; a
    UserError when it has none."""
    if len(ids) == 0:
        raise UserError("there is no text to evaluate: it is empty")
    return min(checked(batch_size), len(ids))


def checked(batch_size: int) -> int:
    """The batch size; a UserError when it is none."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be at least 1")
    return batch_size


def evaluation_batches(
    ids: np.ndarray, start_id: int, batch_size: int, bptt: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Segments in which every token of a text is a target once, also the first and the last.

    The input of the first token is ``start_id``; the text is padded to fill ``batch_size`` columns.

    :returns: yields inputs (T, N) int32, targets (T, N) int32, mask (T, N) float32, 0 where padded.
    """
    length = -(-len(ids) // batch_size)  # rows, rounded up
    padding = (0, length * batch_size - len(ids))
    before = np.concatenate([np.array([start_id], np.int32), ids])[: len(ids)]
    inputs, targets, mask = (
        np.pad(tokens, padding).reshape(batch_size, length).T
        for tokens in (before, ids, np.ones(len(ids), np.float32))
    )
    for i in range(0, length, bptt):
        yield inputs[i : i + bptt], targets[i : i + bptt], mask[i : i + bptt]
