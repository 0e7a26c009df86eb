"""Text from a model.

    >>> predictor = Predictor(model)  # gluonlm.inference.predictor
    >>> strategy = Strategy(temperature=0.8, top_k=50, seed=1, samples=3)
    >>> generate(predictor, dictionary, length=20, strategy=strategy)

A predictor is anything with ``begin_state(N) -> state`` and ``predict(ids (T, N), state) ->
(logits (T, N, V), state)``, logits a NumPy array and state a list of arrays (layers, N, H).

gluonnlp 0.10 has a SequenceSampler. It takes its ``top_k`` from ``argsort``, which gives the places
of the best words where it needs the ranks of all, and so keeps k arbitrary words (a test shows it);
it knows neither top-p nor a random stream per sample, and cannot write past an ``<eos>``.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from gluonlm.system.errors import UserError
from gluonlm.system.threads import one_thread
from gluonlm.text.vocabulary import Dictionary

LOWEST_TEMPERATURE = 0.001
HIGHEST_TEMPERATURE = 1e30  # all words are equally probable long before, and float32 has no end
FINISHED = -1  # stands for a token in a sample that has ended
NUCLEUS_GUESS = 256  # top-p looks at so many of the best words first
PROMPT_STEPS = 32  # tokens of a prompt read at once: their logits are an array of 32 x V


@dataclass(frozen=True)
class Strategy:
    """How texts are written: how the next token is chosen from the model's distribution
    p = softmax(logits), how many texts, and where they end.

    :param top_p: after ``top_k`` (the "nucleus", Holtzman et al. 2020, arXiv:1904.09751).
    :param repetition_penalty: above 1, tokens that the text has already become less probable: ln p
        times this, whose exp is normalized again (after Keskar et al. 2019, arXiv:1909.05858, 4.1).
    :param no_repeat: so many tokens in a row are not written a second time (Paulus et al. 2017,
        arXiv:1705.04304, 2.5), unless a sentence ends among them or nothing else is left.
    :param seed: with its number, the seed of each sample's own random stream: but for the rounding
        of the logits, a sample does not depend on how many others are written beside it.
    :raises UserError: when a value is out of range, or greedy makes another one needless.
    """

    temperature: float = 1.0  # draw from softmax(logits / temperature): below 1 safer
    top_k: int | None = None  # draw among the k most probable tokens
    top_p: float | None = None  # draw among the fewest that together have this probability
    greedy: bool = False  # take the most probable token; nothing is drawn
    forbidden: tuple[int, ...] = ()  # ids that are never chosen
    repetition_penalty: float = 1.0
    no_repeat: int | None = None
    seed: int = 0
    samples: int = 1  # texts, written side by side
    sentences: int | None = None  # after which a text ends (lines, at character level)

    def __post_init__(self):
        if not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            raise UserError(
                f"temperature {self.temperature}: must be at least {LOWEST_TEMPERATURE} and at "
                f"most {HIGHEST_TEMPERATURE:g}; for the most probable word use greedy (--greedy)"
            )
        for name in ("top_k", "samples", "sentences"):
            check_least(name.replace("_", "-"), getattr(self, name), 1)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p}: must be above 0 and at most 1")
        if not 1 <= (penalty := self.repetition_penalty) < math.inf:
            raise UserError(f"repetition-penalty {penalty}: must be at least 1 and finite")
        check_least("no-repeat", self.no_repeat, 2)
        check_least("seed", self.seed, 0)
        if self.greedy and (self.temperature, self.top_k, self.top_p) != (1, None, None):
            advice = "leave out temperature, top-k and top-p"
            raise UserError(f"greedy always takes the most probable word: {advice}")

    @property
    def remembers(self) -> bool:
        """Whether what was written before plays a part."""
        return self.repetition_penalty != 1 or self.no_repeat is not None


def check_least(name: str, value: int | None, least: int) -> None:
    """Raise a UserError for a number that is given and too small."""
    if value is not None and value < least:
        raise UserError(f"{name} {value}: must be at least {least}")


PLAIN = Strategy()  # drawn from the model's own distribution
Ids = Sequence[int]


def weights(logits: np.ndarray, strategy: Strategy) -> np.ndarray:
    """What the next tokens are drawn from, of logits (N, V): float32 (N, V) in proportion to their
    probabilities, 0 if left out; each row has one that is 1."""
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
    """The places of the fewest largest weights of a row (V,) that are ``top_p`` of the total."""
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
    """The next token of each sample, ids (N,) from logits (N, V): where a uniform number of its
    random stream falls on the line on which the weights stand in a row."""
    if strategy.greedy:
        logits = np.array(logits)
        logits[:, strategy.forbidden] = -np.inf
        return logits.argmax(axis=1)
    ends = np.cumsum(weights(logits, strategy), axis=1, dtype=np.float64)  # (N, V)
    pairs = zip(ends, streams, strict=True)
    return np.array([row.searchsorted(one.random() * row[-1], side="right") for row, one in pairs])


def read(predictor, prompt: Sequence[int], start_id: int, samples: int) -> tuple[np.ndarray, list]:
    """Logits (N, V) of what follows ``start_id`` and the prompt, for N samples; and the state."""
    ids = np.repeat(np.array([start_id, *prompt])[:, None], samples, axis=1)  # (T, N)
    state = predictor.begin_state(samples)
    for i in range(0, len(ids), PROMPT_STEPS):
        logits, state = predictor.predict(ids[i : i + PROMPT_STEPS], state)
    return logits[-1], state


def discourage(
    logits: np.ndarray, texts: np.ndarray, strategy: Strategy, end: int | None
) -> np.ndarray:
    """Logits (N, V) changed by the rules against repetition, after the texts (N, t) so far."""
    if not strategy.remembers:
        return logits
    logits = log_softmax(logits, strategy.forbidden)
    for row, text in zip(logits, texts, strict=True):
        seen = np.unique(text)
        row[seen] *= strategy.repetition_penalty
        again = repeated(text, strategy.no_repeat, end)
        if np.isfinite(np.delete(row, again)).any():
            row[again] = -np.inf
    return logits


def repeated(text: np.ndarray, length: int | None, end: int | None) -> np.ndarray:
    """The tokens that would complete ``length`` in a row that a sentence of the text (t,) has."""
    if length is None or len(text) < length:
        return np.empty(0, np.int64)
    rows = np.lib.stride_tricks.sliding_window_view(text, length)  # (t - length + 1, length)
    same = (rows[:, :-1] == text[len(text) - length + 1 :]).all(axis=1) & (rows != end).all(axis=1)
    return np.unique(rows[same, -1])


def stream(
    predictor, dictionary: Dictionary, prompt: Ids = (), length: int = 100, strategy=PLAIN
) -> Iterator[np.ndarray]:
    """Write all samples at once, a token of each at a time: yields ids (N,), :data:`FINISHED` for a
    sample that has its sentences. See :func:`generate`; a UserError as :func:`check`."""
    end = check(dictionary, length, strategy)
    samples, sentences = strategy.samples, strategy.sentences
    streams = [np.random.default_rng([strategy.seed, sample]) for sample in range(samples)]
    logits, state = read(predictor, prompt, dictionary.start_id, samples)
    texts = np.empty((samples, len(prompt) + length), np.int64)  # what was read and written
    texts[:, : len(prompt)] = prompt
    left = np.full(samples, sentences or length + 1)  # sentences still to be written
    with one_thread() if samples == 1 else nullcontext():
        for place in range(len(prompt), len(prompt) + length):
            logits = discourage(logits, texts[:, :place], strategy, end)
            texts[:, place] = chosen = choose(logits, strategy, streams)  # (N,)
            yield np.where(left > 0, chosen, FINISHED)
            left -= chosen == end
            if place == texts.shape[1] - 1 or (sentences and not (left > 0).any()):
                return
            logits, state = predictor.predict(chosen[None], state)
            logits = logits[0]  # (N, V)


def generate(
    predictor, dictionary: Dictionary, prompt: Ids = (), length: int = 100, strategy=PLAIN
) -> list[np.ndarray]:
    """Continue a text; returns the ids of each sample, without the prompt.

    :param prompt: ids to read first; if it is empty, the text begins as a sentence does.
    :param length: tokens to write, ``<eos>`` too; with ``strategy.sentences`` at most to write.
    """
    rows = list(stream(predictor, dictionary, prompt, length, strategy))
    return [column[column != FINISHED] for column in np.stack(rows, axis=1)]


def end_id(dictionary: Dictionary) -> int | None:
    """The id that ends a sentence: ``<eos>``, at character level the line end; None without."""
    return dictionary.word2idx.get("\n") if dictionary.eos_id is None else dictionary.eos_id


def check(dictionary: Dictionary, length: int, strategy: Strategy) -> int | None:
    """Return :func:`end_id`; a UserError when ``length`` is below 1, all tokens are forbidden, or
    sentences are wanted of a vocabulary that cannot end one."""
    check_least("words", length, 1)
    if len(set(strategy.forbidden)) >= len(dictionary):
        raise UserError("all tokens of the vocabulary are forbidden: allow some")
    end = end_id(dictionary)
    if strategy.sentences and (end is None or end in strategy.forbidden):
        why = "is forbidden" if end is not None else "is not in this vocabulary"
        refused = f"sentences {strategy.sentences}: what ends a sentence {why}"
        raise UserError(f"{refused}: give a number of words instead")
    return end


def log_softmax(logits: np.ndarray, forbidden: Sequence[int] = ()) -> np.ndarray:
    """Logarithms of the probabilities (..., V), float64, -infinity for what is forbidden."""
    logits = np.array(logits, np.float64)
    logits[..., list(forbidden)] = -np.inf
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def most_probable(log_p: np.ndarray, dictionary: Dictionary, count: int) -> list[tuple[str, float]]:
    """The most probable tokens with their probabilities; ``log_p`` is (V,)."""
    best = np.argsort(-log_p, kind="stable")[:count]
    return [(dictionary.idx2word[i], float(np.exp(log_p[i]))) for i in best]
