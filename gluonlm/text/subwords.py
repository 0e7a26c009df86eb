"""Subwords: pieces of words that a training text teaches, by the sentencepiece library.

    >>> subwords = Subwords.learn(sentences, 8000)
    >>> subwords.encode("she was unhappily married")
    ['▁she', '▁was', '▁un', 'happ', 'ily', '▁married']

``▁`` stands for a blank, also for the one that is imagined before a line. The model is a string in
base64, which is stored in the data set and, with the vocabulary, in every checkpoint.
"""

import base64
import io
from collections.abc import Iterable
from functools import cached_property

from gluonlm.system.errors import UserError

BLANK = "▁"
LEARNED_FROM = 1_000_000  # sentences at the beginning of the training text


class Subwords:
    """A model of subwords; ``text`` is the model in base64."""

    def __init__(self, text: str):
        self.text = text

    @classmethod
    def learn(cls, sentences: Iterable[str], vocab_size: int) -> "Subwords":
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
        except RuntimeError as error:
            reason = str(error).rsplit("] ", 1)[-1].strip()
            raise UserError(
                f"no {vocab_size} subwords can be learned from this text ({reason}): change "
                f"--vocab-size"
            ) from None
        return cls(base64.b64encode(model.getvalue()).decode())

    @cached_property
    def processor(self):
        """The model at work."""
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=base64.b64decode(self.text))

    def encode(self, sentence: str) -> list[str]:
        """The pieces of a sentence; a character that the model does not know is a piece of its
        own."""
        return self.processor.encode(sentence, out_type=str)

    @staticmethod
    def decode(pieces: Iterable[str]) -> str:
        """The sentence of pieces, with a blank before its first word."""
        return "".join(pieces).replace(BLANK, " ")
