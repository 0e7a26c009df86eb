"""Lines as they are typed for pointer.py and finetune.py of the AWD-LSTM toolkit."""

import shlex
import shutil

import pytest
from small import ONCE, fit

from gluonlm import evaluate, train
from gluonlm.model.checkpoint import load_model
from gluonlm.system.errors import UserError


@pytest.fixture(scope="module")
def saved(cats, tmp_path_factory):
    """The model in a file, as ``--save PTB.pt`` writes it."""
    path = tmp_path_factory.mktemp("toolkit") / "PTB.pt"
    fit(cats, path, *ONCE)
    return path


def test_a_line_of_pointer_py(cats, saved, capsys):
    cache = shlex.split("--lambdasm 0.1 --theta 1.0 --window 500")
    line = ["--save", str(saved), "--model", "LSTM", *cache, "--bptt", "5000", "--data", str(cats)]
    theirs = evaluate.main(line)
    assert "cache: --theta 1 --lambdasm 0.1 --window 500" in capsys.readouterr().out
    assert theirs == evaluate.main([str(saved), "--cache", *cache, "--data", str(cats)])
    with pytest.raises(UserError, match="argument --save: not allowed with argument checkpoint"):
        evaluate.main([str(saved), "--save", str(saved)])


def test_a_line_of_finetune_py(cats, saved, tmp_path):
    folder = shutil.copytree(saved.parent, tmp_path / "runs")
    line = shlex.split(
        "--batch_size 4 --dropouti 0.4 --dropouth 0.25 --seed 141 --epoch 1 --nhid 8"
    )
    line += ["--data", str(cats), "--save", str(folder / "PTB.pt")]
    before = (folder / "PTB.pt").read_bytes()
    train.main(["--finetune", *line])
    finetuned = load_model(folder / "PTB-finetuned.pt").config
    assert finetuned.finetune == str(folder / "PTB.pt")
    assert (finetuned.dropouti, finetuned.dropouth, finetuned.seed) == (0.4, 0.25, 141)
    assert (folder / "PTB.pt").read_bytes() == before
    with pytest.raises(UserError, match="takes the model as it is: leave out --nhid"):
        train.main(["--finetune", *line, "--nhid", "9"])
    with pytest.raises(UserError, match="name the run to finetune"):
        train.main(["--finetune", "--epochs", "1"])
