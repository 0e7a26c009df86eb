"""A trained language model as one type, whatever file it came from and whatever computes it.

    >>> model = gluonlm.load("runs/ptb")      # or best.safetensors, int8.safetensors, model.onnx
    >>> model.generate("she was", words=20, temperature=0.8)
    >>> model.perplexity("she was in the room")
    >>> model.next_words("she was", 3)
    [('not', 0.08), ('a', 0.06), ('so', 0.05)]
    >>> logits, state = model.predict([[4], [7]], model.begin_state(1))  # (2, 1, V)

Needs numpy only: what computes is chosen in :mod:`gluonlm.onnx.load`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gluonlm.config import Config
from gluonlm.inference.sampling import (
    Strategy,
    check_least,
    generate,
    log_softmax,
    most_probable,
    read,
)
from gluonlm.inference.scoring import evaluate, perplexity
from gluonlm.text.detokenize import to_text, tokens_of
from gluonlm.text.vocabulary import EOS, Dictionary

State = list[Any]  # arrays (layers, N, H) of the library that computes


@dataclass(frozen=True)
class LanguageModel:
    """A model with its vocabulary and settings.

    :param arithmetic: what computes it, with ``begin_state``, ``predict`` and ``losses`` as here
        and both of these in one pass (``losses_and_logits``): a
        :class:`gluonlm.inference.predictor.Predictor` or :class:`gluonlm.onnx.session.OnnxModel`.
        Its ``steps`` says how many steps of a text to score at once, ``independent`` whether a
        column's figures are the same beside any others.
    """

    arithmetic: Any
    dictionary: Dictionary
    config: Config
    level: str  # what its tokens are: "word", "char" or "subword"
    path: Path

    def __repr__(self) -> str:
        layers = f"{self.config.nlayers} x {self.config.nhid} units, {len(self.dictionary)} tokens"
        return f"LanguageModel({self.config.data!r}, {self.level}: {self.config.model}, {layers})"

    def begin_state(self, batch_size: int) -> State:
        """A state of zeros for so many columns."""
        return self.arithmetic.begin_state(batch_size)

    def predict(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Token ids (T, N) and a state -> logits (T, N, V) float32 and the new state."""
        self.dictionary.check_ids(ids)
        return self.arithmetic.predict(ids, state)

    def losses(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """Ids and targets (T, N) and a state -> -ln p of the targets (T, N) and the new state."""
        self.dictionary.check_ids(ids)
        self.dictionary.check_ids(targets)
        return self.arithmetic.losses(ids, targets, state)

    def generate(self, prompt: str = "", words: int = 100, **strategy: Any) -> str:
        """The prompt and what the model writes after it, without ``<unk>``.

        :param words: tokens to write, with ``sentences`` at most to write. :param strategy: such as
            ``temperature=0.8, sentences=3``, see :class:`gluonlm.inference.sampling.Strategy`.
        """
        opening = tokens_of(prompt, self.dictionary, self.level)
        unknown = () if self.dictionary.unk_id is None else (self.dictionary.unk_id,)
        chosen = Strategy(**{"forbidden": unknown, "seed": 1111, **strategy}, samples=1)
        start = self.dictionary.encode(opening)
        (ids,) = generate(self.arithmetic, self.dictionary, start, words, chosen)
        return to_text([*opening, *self.dictionary.decode(ids)], self.level)

    def next_words(self, text: str, count: int = 10) -> list[tuple[str, float]]:
        """The most probable next tokens after a text, each with its probability."""
        check_least("count", count, 1)
        prompt = self.dictionary.encode(tokens_of(text, self.dictionary, self.level))
        logits, _ = read(self.arithmetic, prompt, self.dictionary.start_id, 1)
        return most_probable(log_softmax(logits[0]), self.dictionary, count)

    def encode(self, text: str) -> np.ndarray:
        """The ids (tokens,) int32 of a text that a person wrote, cut as the data set was."""
        if self.level == "char" or not text:
            return self.dictionary.encode(tokens_of(text, self.dictionary, self.level))
        tokens = tokens_of(text.removesuffix("\n"), self.dictionary, self.level)
        return self.dictionary.encode([*tokens, EOS])

    def perplexity(self, text: str) -> float:
        """exp of the mean loss per token of a text."""
        return perplexity(self.evaluate(self.encode(text), 1))

    def evaluate(self, ids: np.ndarray, batch_size: int | None = None) -> float:
        """Mean loss in nats per token of a text (tokens,) that is cut in ``batch_size`` columns;
        None for as many as training evaluates its test text in."""
        self.dictionary.check_ids(ids)
        columns = self.columns("test") if batch_size is None else batch_size
        return evaluate(self.arithmetic, ids, self.dictionary, columns)

    def columns(self, split: str | None) -> int:
        """In how many columns training evaluated a split: as many bring the same result."""
        own = self.config.test_batch_size if split == "test" else None
        return own or self.config.eval_batch_size
