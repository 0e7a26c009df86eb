"""Text from a trained model, one token at a time."""

import mxnet as mx
import numpy as np

from gluonlm.corpus import EOS, Dictionary
from gluonlm.model import RNNModel


def sample(
    model: RNNModel,
    dictionary: Dictionary,
    prompt: list[int],
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    ctx: mx.Context | None = None,
) -> list[int]:
    """Continue a text by ``length`` token ids drawn from softmax(logits / temperature), never ``<unk>``.

    :param prompt: ids to read first; the text begins after a sentence end if it is empty.
    """
    random, state = np.random.default_rng(seed), model.begin_state(1, ctx)
    logits, drawn = None, []
    for token in prompt or [dictionary.start_id]:
        logits, state = model(mx.nd.array([[token]], ctx), state)  # (1, 1, V)
    for _ in range(length):
        scores = logits.asnumpy().ravel().astype(np.float64) / temperature  # (V,)
        if dictionary.unk_id is not None:
            scores[dictionary.unk_id] = -np.inf
        # Gumbel's trick: the largest of score + Gumbel noise is a draw from the softmax
        drawn.append(int(np.argmax(scores + random.gumbel(size=scores.shape))))
        logits, state = model(mx.nd.array([[drawn[-1]]], ctx), state)
    return drawn


def to_text(dictionary: Dictionary, ids: list[int], level: str) -> str:
    """Token ids as readable text: words parted by blanks with a new line for each ``<eos>``, or plain characters."""
    tokens = dictionary.decode(ids)
    if level == "char":
        return "".join(tokens)
    return " ".join(tokens).replace(f" {EOS}", "\n").replace(f"{EOS} ", "\n").replace("\n ", "\n").strip()
