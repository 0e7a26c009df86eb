"""Text from a model.

    >>> predictor = Predictor(model)                        # gluonlm.inference.predictor
    >>> generate(predictor, dictionary, length=20, strategy=Strategy(temperature=0.8, top_k=50), seed=1, samples=3)
    >>> beam_search(predictor, dictionary, width=5, length=20)

A predictor is anything with ``begin_state(N) -> state`` and ``predict(ids (T, N), state) -> (logits (T, N, V),
state)``, logits a NumPy array and state a list of arrays (layers, N, H). Everything here is NumPy.

gluonnlp 0.10 has a SequenceSampler and a BeamSearchSampler. The first takes its ``top_k`` from ``argsort``, which gives
the places of the best words where it needs the ranks of all, and so keeps k arbitrary words (a test shows it); it knows
neither top-p nor a random stream per sample, and cannot write past an ``<eos>``. The second is right (a test compares
ours with it), but holds places among width x V as float32, exact only up to 2^24, needs an ``<eos>``, and has no way
to forbid words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import Dictionary

LOWEST_TEMPERATURE = 0.001
FINISHED = -1  # stands for a token in a sample that has ended
NUCLEUS_GUESS = 256  # top-p looks at so many of the best words first
PROMPT_STEPS = 32  # tokens of a prompt read at once: their logits are an array of 32 x V


@dataclass(frozen=True)
class Strategy:
    """How the next token is chosen from the model's distribution p = softmax(logits).

    :param temperature: draw from softmax(logits / temperature): below 1 safer, above 1 more adventurous.
    :param top_k: draw among the k most probable tokens only.
    :param top_p: draw among the fewest most probable tokens that together have probability p, after ``top_k``
        (the "nucleus", Holtzman et al. 2020, arXiv:1904.09751).
    :param greedy: take the most probable token; nothing is drawn.
    :param forbidden: ids that are never chosen.
    :raises UserError: when a value is out of range, or greedy is combined with the others.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    forbidden: tuple[int, ...] = ()

    def __post_init__(self):
        if not LOWEST_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"temperature {self.temperature}: must be at least {LOWEST_TEMPERATURE}; "
                "for the most probable word use greedy (--greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p}: must be above 0 and at most 1")
        if self.greedy and (
            self.temperature != 1 or self.top_k is not None or self.top_p is not None
        ):
            raise UserError(
                "greedy always takes the most probable word: leave out temperature, top-k and top-p"
            )


PLAIN = Strategy()  # drawn from the model's own distribution


def weights(logits: np.ndarray, strategy: Strategy) -> np.ndarray:
    """What the next tokens are drawn from: numbers in proportion to their probabilities, 0 for those left out.

    :param logits: (N, V). :return: float32 (N, V), not negative; each row has one that is 1.
    """
    logits = np.array(logits)
    logits[:, strategy.forbidden] = -np.inf
    if strategy.top_k is not None and strategy.top_k < logits.shape[1]:
        left_out = np.argpartition(logits, -strategy.top_k, axis=1)[:, : -strategy.top_k]
        np.put_along_axis(logits, left_out, -np.inf, axis=1)
    logits -= logits.max(axis=1, keepdims=True)
    logits /= np.float32(strategy.temperature)
    result = np.exp(logits, out=logits)
    if strategy.top_p is not None and strategy.top_p < 1:
        for row in result:
            outside = np.ones(len(row), bool)
            outside[nucleus(row, strategy.top_p)] = False
            row[outside] = 0
    return result


def nucleus(row: np.ndarray, top_p: float) -> np.ndarray:
    """The places of the fewest largest weights of a row (V,) whose sum reaches ``top_p`` of the total."""
    wanted, guess = top_p * row.sum(dtype=np.float64), min(NUCLEUS_GUESS, len(row))
    while True:
        best = np.argpartition(row, -guess)[-guess:]
        best = best[np.argsort(-row[best], kind="stable")]
        mass = np.cumsum(row[best], dtype=np.float64)
        if mass[-1] >= wanted or guess == len(row):
            return best[: np.searchsorted(mass, wanted) + 1]
        guess = min(4 * guess, len(row))


def choose(
    logits: np.ndarray, strategy: Strategy, streams: Sequence[np.random.Generator]
) -> np.ndarray:
    """The next token of each sample: ids (N,) from logits (N, V), one number of each sample's own random stream.

    A token is where a uniform random number falls on the line on which the weights stand one after another.
    """
    if strategy.greedy:
        logits = np.array(logits)
        logits[:, strategy.forbidden] = -np.inf
        return logits.argmax(axis=1)
    ends = np.cumsum(weights(logits, strategy), axis=1, dtype=np.float64)  # (N, V)
    points = [stream.random() * row[-1] for stream, row in zip(streams, ends, strict=True)]
    return np.array(
        [row.searchsorted(point, side="right") for row, point in zip(ends, points, strict=True)]
    )


def read(predictor, prompt: Sequence[int], start_id: int, samples: int) -> tuple[np.ndarray, list]:
    """Logits (N, V) of what follows ``start_id`` and the prompt, and the state there, the same for all N samples."""
    ids = np.repeat(
        np.array([[start_id], *([token] for token in prompt)]), samples, axis=1
    )  # (T, N)
    state = predictor.begin_state(samples)
    for i in range(0, len(ids), PROMPT_STEPS):
        logits, state = predictor.predict(ids[i : i + PROMPT_STEPS], state)
    return logits[-1], state


def stream(
    predictor,
    dictionary: Dictionary,
    prompt: Sequence[int] = (),
    length: int = 100,
    strategy: Strategy = PLAIN,
    seed: int = 0,
    samples: int = 1,
    sentences: int | None = None,
) -> Iterator[np.ndarray]:
    """Write ``samples`` texts at once, a token of each at a time; see :func:`generate`.

    :return: yields ids (N,), :data:`FINISHED` for a sample that has its sentences.
    :raises UserError: when a number is below 1, or sentences are wanted of a vocabulary that cannot end one.
    """
    end = check_lengths(dictionary, length, samples, sentences, strategy.forbidden)
    streams = [np.random.default_rng([seed, sample]) for sample in range(samples)]
    logits, state = read(predictor, prompt, dictionary.start_id, samples)
    left = np.full(samples, sentences or length + 1)  # sentences still to be written
    for step in range(length):
        tokens = choose(logits, strategy, streams)  # (N,)
        yield np.where(left > 0, tokens, FINISHED)
        left -= tokens == end
        if step == length - 1 or (sentences and not (left > 0).any()):
            return
        logits, state = predictor.predict(tokens[None], state)
        logits = logits[0]  # (N, V)


def generate(
    predictor,
    dictionary: Dictionary,
    prompt: Sequence[int] = (),
    length: int = 100,
    strategy: Strategy = PLAIN,
    seed: int = 0,
    samples: int = 1,
    sentences: int | None = None,
) -> list[np.ndarray]:
    """Continue a text.

    Sample i draws from a random stream of its own, made of ``seed`` and i: but for the rounding of the logits it does
    not depend on how many samples are written beside it.

    :param prompt: ids to read first; the text begins at the beginning of a sentence if it is empty.
    :param length: tokens to write, or if ``sentences`` is given, at most to write. An ``<eos>`` is a token.
    :param sentences: end a sample with so many sentences (lines, at character level).
    :return: the ids of each sample, without the prompt.
    """
    rows = list(stream(predictor, dictionary, prompt, length, strategy, seed, samples, sentences))
    return [column[column != FINISHED] for column in np.stack(rows, axis=1)]


def end_id(dictionary: Dictionary) -> int | None:
    """The id that ends a sentence: ``<eos>``, at character level the line end; None if there is neither."""
    return dictionary.word2idx.get("\n") if dictionary.eos_id is None else dictionary.eos_id


def check_lengths(
    dictionary: Dictionary,
    length: int,
    samples: int,
    sentences: int | None,
    forbidden: Sequence[int],
) -> int | None:
    """Raise a UserError for a number that makes no sense; return :func:`end_id`."""
    for name, number in (("words", length), ("samples", samples), ("sentences", sentences)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: must be at least 1")
    if len(set(forbidden)) >= len(dictionary):
        raise UserError("all tokens of the vocabulary are forbidden: allow some")
    end = end_id(dictionary)
    if sentences and (end is None or end in forbidden):
        why = "is forbidden" if end is not None else "is not in this vocabulary"
        raise UserError(
            f"sentences {sentences}: what ends a sentence {why}: give a number of words instead"
        )
    return end


class Hypothesis(NamedTuple):
    """A text that beam search has found."""

    ids: np.ndarray
    log_probability: float  # natural logarithm, of all its tokens


def beam_search(
    predictor,
    dictionary: Dictionary,
    prompt: Sequence[int] = (),
    length: int = 100,
    width: int = 5,
    forbidden: Sequence[int] = (),
    sentences: int | None = None,
) -> list[Hypothesis]:
    """Look for the most probable continuation, keeping the ``width`` most probable beginnings at each step.

    With ``width`` = V^length nothing is lost and the first result is the true best.

    :param forbidden: ids that are not written; the probabilities are those of the others among themselves.
    :param sentences: a text is complete with so many sentences; ``length`` tokens are the most in any case.
    :return: at most ``width`` texts, the most probable first.
    :raises UserError: when a number makes no sense.
    """
    end = check_lengths(dictionary, length, 1, sentences, forbidden)
    if width < 1:
        raise UserError(f"beam {width}: must be at least 1")
    done: list[Hypothesis] = []
    paths, scores, ended = (
        np.empty((1, 0), np.int64),
        np.zeros(1),
        np.zeros(1, np.int64),
    )  # (n, t), (n,), (n,)
    logits, state = read(predictor, prompt, dictionary.start_id, 1)
    for step in range(length):
        extended = scores[:, None] + log_softmax(logits, forbidden)  # (n, V)
        best = largest(extended.ravel(), width)
        parents, tokens = np.divmod(best, extended.shape[1])
        paths = np.concatenate([paths[parents], tokens[:, None]], axis=1)
        scores, ended = extended[parents, tokens], ended[parents] + (tokens == end)
        finished = ended >= sentences if sentences else np.zeros(len(best), bool)
        done += map(Hypothesis, paths[finished], scores[finished].tolist())
        done = sorted(done, key=lambda text: -text.log_probability)[:width]
        # a beginning that is behind `width` complete texts already will never come before them
        going = ~finished & (scores > done[-1].log_probability if len(done) == width else True)
        paths, scores, ended = paths[going], scores[going], ended[going]
        if step == length - 1 or not len(paths):
            break
        logits, state = predictor.predict(
            tokens[None, going], [array[:, parents[going]] for array in state]
        )
        logits = logits[0]
    done += map(Hypothesis, paths, scores.tolist())
    return sorted(done, key=lambda text: -text.log_probability)[:width]


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` largest finite numbers, the largest first, the earlier first where they are equal."""
    places = (
        np.flatnonzero(values >= np.partition(values, -count)[-count])
        if count < len(values)
        else slice(None)
    )
    places = np.arange(len(values))[places]
    places = places[np.argsort(-values[places], kind="stable")][:count]
    return places[np.isfinite(values[places])]


def log_softmax(logits: np.ndarray, forbidden: Sequence[int] = ()) -> np.ndarray:
    """Logarithms of the probabilities (..., V), float64, -infinity for what is forbidden."""
    logits = np.array(logits, np.float64)
    logits[..., list(forbidden)] = -np.inf
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
