"""Subwords: pieces of words that a training text teaches, by the sentencepiece library.

    >>> model = learn_subwords(sentences, 8000)
    >>> encoder(model)("she was unhappily married")
    ['▁she', '▁was', '▁un', 'happ', 'ily', '▁married']

``▁`` stands for a blank, also for the one that is imagined before a line. The model is a string in
base64, which is stored in the data set and, with the vocabulary, in every checkpoint.
"""

import base64
import io
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

from gluonlm.system.errors import UserError

BLANK = "▁"
LEARNED_FROM = 1_000_000  # sentences at the beginning of the training text


def learn_subwords(sentences: Iterable[str], vocab_size: int) -> str:
    """The model that fits the sentences, with at most ``vocab_size`` pieces."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            unk_piece="<unk>",
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            character_coverage=1.0,
            normalization_rule_name="identity",
            input_sentence_size=LEARNED_FROM,
            shuffle_input_sentence=False,
            max_sentence_length=1 << 16,
            num_threads=1,  # the same pieces on every machine
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:  # the latter for a number that is no int of C
        reason = str(error).rsplit("] ", 1)[-1].strip()
        failed = f"no {vocab_size} subwords can be learned from this text ({reason})"
        raise UserError(f"{failed}: change --vocab-size") from None
    return base64.b64encode(model.getvalue()).decode()


@lru_cache(maxsize=2)
def encoder(model: str) -> Callable[[str], list[str]]:
    """What cuts a sentence into a model's pieces; an unknown character is a piece of its own. A
    UserError when it is no model."""
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=base64.b64decode(model))
        processor.encode("a")  # an empty one is found out only now
    except (ValueError, RuntimeError):
        lacking = "the data set's model of subwords is missing or damaged"
        raise UserError(f"{lacking}: prepare the data set anew") from None
    return partial(processor.encode, out_type=str)
