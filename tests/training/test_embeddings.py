"""Training that starts from word vectors in a file, trained further or frozen."""

import numpy as np
import pytest
from small import fit

from gluonlm import train
from gluonlm.model.checkpoint import load_model
from gluonlm.model.storage import read_arrays
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import load_corpus

SIZE = 8
ENCODER = "body.encoder.weight"


@pytest.fixture
def vectors(cats, tmp_path):
    """Vectors of two of the words, and of one that the text does not have."""
    known = load_corpus(str(cats)).dictionary.idx2word[:4:2]
    path = tmp_path / "vectors.txt"
    lines = [f"{word} {' '.join(['0.25'] * SIZE)}\n" for word in [*known, "zebra"]]
    path.write_text(f"3 {SIZE}\n" + "".join(lines))
    return path


def encoder(folder):
    return load_model(folder).model.trainables()[ENCODER].data().asnumpy()


@pytest.mark.parametrize("tied", ["--tied", "--no-tied"])
def test_frozen_embeddings_stay_and_the_others_keep_their_beginning(cats, tmp_path, vectors, tied):
    sizes = ["--emsize", str(SIZE), "--nhid", str(SIZE), tied, "--epochs", "1"]
    start = ["--embeddings", str(vectors), "--freeze-embeddings"]
    fit(cats, tmp_path / "frozen", *sizes, *start)
    fit(cats, tmp_path / "still", *sizes, "--lr", "1e-30")
    frozen, still = encoder(tmp_path / "frozen"), encoder(tmp_path / "still")
    assert (frozen[[0, 2]] == 0.25).all()
    np.testing.assert_array_equal(np.delete(frozen, [0, 2], 0), np.delete(still, [0, 2], 0))


def test_resuming_does_not_read_the_vectors_again(cats, tmp_path, vectors, capsys):
    sizes = ["--emsize", str(SIZE), "--nhid", str(SIZE), "--epochs", "1"]
    fit(cats, tmp_path / "run", *sizes, "--embeddings", str(vectors))
    assert f"{vectors}: vectors of 2 of" in capsys.readouterr().out
    assert (encoder(tmp_path / "run")[0] != 0.25).any()  # it was trained
    vectors.unlink()
    train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    assert "vectors of" not in capsys.readouterr().out
    train.main(["--finetune", str(tmp_path / "run"), "--save", str(tmp_path / "again")])
    assert read_arrays(tmp_path / "again" / "best.safetensors", "gluonlm model")[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "text format"),
        (bytes(range(256)) * 40, "text format"),
        (b"one two three\nfour five six\n", "text format"),
        (b"cats 1 2 3\n", "vectors of 3 numbers: add --emsize 3"),
        (b"zebra 1 2 3 4 5 6 7 8\n", "none of the"),
        (b"cat 1 2 3 4 5 6 7 nan\n", "not finite"),
        (b"cat 1 2 3 4 5 6 7 1e39\n", "not finite"),
        (None, "no such file"),
    ],
)
def test_what_is_no_file_of_vectors_is_said(cats, tmp_path, content, complaint):
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        fit(cats, tmp_path / "run", "--emsize", "8", "--nhid", "8", "--embeddings", str(path))


def test_frozen_embeddings_and_pruning(cats, tmp_path, vectors):
    """A pruned model's can be frozen; frozen ones are not pruned."""
    pruned, frozen = str(tmp_path / "pruned"), str(tmp_path / "frozen")
    fit(cats, pruned, "--epochs", "2", "--prune", "0.5")
    more = ["--finetune", pruned, "--epochs", "1"]
    train.main([*more, "--save", frozen, "--freeze-embeddings"])
    assert load_model(frozen).pruned == load_model(pruned).pruned
    np.testing.assert_array_equal(encoder(frozen), encoder(pruned))
    train.main(["--resume", frozen, "--epochs", "2"])
    np.testing.assert_array_equal(encoder(frozen), encoder(pruned))
    with pytest.raises(UserError, match="add --no-freeze-embeddings"):
        train.main(["--finetune", frozen, "--prune", "0.8"])
    train.main(["--finetune", frozen, "--prune", "0.8", "--no-freeze-embeddings", "--epochs", "2"])
