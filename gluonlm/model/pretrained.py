"""Word vectors of others as a start: the text formats of word2vec and GloVe, read by GluonNLP.

    python -m gluonlm.train --embeddings glove.6B.200d.txt --emsize 200 [--freeze-embeddings]

A line of the file is a word and its numbers; a first line with their counts may be there.
"""

import warnings
from pathlib import Path

import numpy as np
from mxnet import nd

from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import Dictionary

ENCODER = "body.encoder.weight"  # its name in RNNModel.trainables()


def start_from_vectors(path: str, model: RNNModel, dictionary: Dictionary) -> int:
    """Set the embeddings of the words that a file has; the others stay as they are.

    :return: how many words it has.
    :raises UserError: when it cannot be read, is no such file, or has vectors of another size.
    """
    vectors = read_vectors(path)
    parameter = model.trainables()[ENCODER]
    size, theirs = parameter.shape[1], vectors.idx_to_vec.shape[1]
    if theirs != size:
        other = f"--embeddings {path} has vectors of {theirs} numbers"
        raise UserError(f"{other}: add --emsize {theirs}")
    found = [word for word in dictionary.idx2word if word in vectors.token_to_idx]
    if not found:
        none = f"--embeddings {path} has none of the {len(dictionary)} words of the vocabulary"
        raise UserError(f"{none}: give vectors of the same language and spelling")
    weight = parameter.list_data()[0].asnumpy()
    weight[dictionary.encode(found)] = vectors[found].asnumpy()
    if not np.isfinite(weight).all():
        odd = f"--embeddings {path} has numbers that are not finite"
        raise UserError(f"{odd}: take the lines with inf or nan out")
    parameter.set_data(nd.array(weight))
    return len(found)


def read_vectors(path: str):
    """The file as a ``gluonnlp.embedding.TokenEmbedding``."""
    from gluonnlp.embedding import TokenEmbedding

    if not Path(path).is_file():
        raise UserError(f"--embeddings {path}: there is no such file; check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return TokenEmbedding.from_file(path, unknown_token=None)
        except (AssertionError, ValueError, TypeError, AttributeError):
            other = f"--embeddings {path} is not in word2vec's or GloVe's text format"
            advice = "give a file of lines with a word and its numbers, separated by blanks"
            raise UserError(f"{other}: {advice}") from None
