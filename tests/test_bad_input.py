"""Each mistake gets one clear sentence that says what to do, exit code 2 and no traceback; nothing trained is lost."""

import errno
import os
import subprocess
import sys

import mxnet as mx
import pytest
from safetensors.numpy import save_file

from gluonlm import checkpoint, cli, evaluate, train
from gluonlm.cli import contexts
from gluonlm.errors import UserError
from gluonlm.gpu import Gpu

SMALL = ["--emsize", "8", "--nhid", "8", "--batch-size", "4", "--bptt", "5", "--epochs", "1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("the cat sat on the mat\nthe dog ran\n" * 20)
    return folder


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(["--data", str(text), "--save", str(folder), *SMALL])
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nhid", "0"], "--nhid 0: must be at least 1"),
        (["--dropout", "1"], "--dropout 1.0: must be at most 0.99"),
        (["--dropout", "nan"], "--dropout nan"),
        (["--lr", "inf"], "--lr inf"),
        (["--epochs", "-3"], "--epochs -3"),
        (["--model", "TRANSFORMER"], "--model TRANSFORMER: choose one of"),
        (["--preset", "huge"], "--preset huge: choose one of"),
        (["--optimizer", "lbfgs"], "--optimizer lbfgs"),
        (["--batch-size", "1000"], "too few for --batch-size 1000"),
        (["--gpu", "zero"], "--gpu zero: give GPU numbers"),
        (["--tiny", "--preset", "austen"], "--tiny is a preset itself"),
        (["--log-interval", "0"], "--log-interval 0"),
    ],
)
def test_impossible_settings(text, tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        train.main(["--data", str(text), "--save", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_command_ends_with_2_one_sentence_and_no_traceback(tmp_path):
    command = [
        sys.executable,
        "-m",
        "gluonlm.train",
        "--data",
        str(tmp_path / "nowhere"),
        "--save",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr
    assert not (tmp_path / "run").exists()  # nothing is left behind by a mistake


def test_no_gpu():
    with pytest.raises(UserError, match="built for the CPU"):
        contexts("0")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(mx.runtime.Features, "is_enabled", lambda *_: True)
    monkeypatch.setattr(cli, "list_gpus", lambda: [Gpu(number, "Ampere", (8, 6)) for number in range(2)])
    assert contexts("1,0") == [mx.gpu(1), mx.gpu(0)]
    with pytest.raises(UserError, match="no GPU 2, the driver sees 2"):
        contexts("0,2")


def test_columns_that_cannot_be_divided_over_the_devices(text, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "contexts", lambda gpu: [mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    with pytest.raises(UserError, match="--batch-size 4 cannot be divided over 3 devices"):
        train.main(["--data", str(text), "--save", str(tmp_path / "run"), *SMALL])


@pytest.mark.parametrize("size", [0, 5, 100, 2000])
def test_a_truncated_checkpoint(trained, tmp_path, size):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((trained / "best.safetensors").read_bytes()[:size])
    with pytest.raises(UserError, match="damaged"):
        evaluate.main([str(broken)])


def test_a_foreign_checkpoint(trained, tmp_path):
    save_file({"weight": mx.nd.zeros(3).asnumpy()}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a gluonlm model"):
        evaluate.main([str(tmp_path / "other.safetensors")])
    with pytest.raises(UserError, match="not a gluonlm model"):
        evaluate.main([str(trained / "last.safetensors")])  # a training state is no model
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04\x95" + b"x" * 500)
    with pytest.raises(UserError, match="damaged or not a gluonlm file"):
        evaluate.main([str(tmp_path / "pickle.pt")])


def test_arrays_that_do_not_fit_the_settings(trained, tmp_path):
    arrays, metadata = checkpoint.read_arrays(trained / "best.safetensors", checkpoint.MODEL_FORMAT)
    arrays["decoder.bias"] = arrays["decoder.bias"][:-1]
    save_file(arrays, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(UserError, match=r"decoder\.bias is missing or does not fit"):
        evaluate.main([str(tmp_path / "odd.safetensors")])


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="there is no file .*best.safetensors"):
        evaluate.main([str(tmp_path)])
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"cannot read .*config\.json \(No such file or directory\): give the fold"):
            train.main(["--resume", str(folder)])


def test_resume_keeps_its_settings(trained):
    with pytest.raises(UserError, match="leave out --nhid"):
        train.main(["--resume", str(trained), "--nhid", "16"])


def test_resume_on_another_number_of_devices(trained, monkeypatch):
    monkeypatch.setattr(train, "contexts", lambda gpu: [mx.cpu(0), mx.cpu(1)])
    with pytest.raises(UserError, match="trained on 1 device.* and these are 2: resume it on as many"):
        train.main(["--resume", str(trained)])


def test_a_damaged_configuration(trained, tmp_path):
    (tmp_path / "config.json").write_text('{"nhid": ')
    with pytest.raises(UserError, match="config.json"):
        train.main(["--resume", str(tmp_path)])


def test_a_full_disk_is_said_and_the_run_can_go_on(text, tmp_path, monkeypatch):
    """The disk fills while the second checkpoint is written: the first stays whole, and the run resumes from it."""
    calls = 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device.*free some space"):
            train.main(["--data", str(text), "--save", str(tmp_path / "run"), *SMALL, "--epochs", "3"])
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert train.main(["--resume", str(tmp_path / "run")]).finished


def test_a_folder_that_cannot_be_made(text, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"):
        train.main(["--data", str(text), "--save", str(tmp_path / "file" / "run"), *SMALL])


def test_nothing_to_evaluate(trained, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="empty"):
        evaluate.main([str(trained), "--data", str(tmp_path / "empty.txt")])
    with pytest.raises(UserError, match="--batch-size 0"):
        evaluate.main([str(trained), "--batch-size", "0"])


def test_evaluate_any_text(trained, tmp_path, capsys):
    """Unknown words count as <unk>; a text shorter than the number of columns is read all the same."""
    (tmp_path / "note.txt").write_text("the zebra sat\n")
    score = evaluate.main([str(trained), "--data", str(tmp_path / "note.txt")])
    assert (score.tokens, score.unknown) == (4, 1)
    output = capsys.readouterr().out
    assert "25.00% unknown" in output
    assert "caution: all unknown words count as one" in output
    splits = [evaluate.main([str(trained), "--split", split]) for split in ("valid", "test")]
    assert splits[0].perplexity == pytest.approx(splits[1].perplexity)  # the same text here
    assert "caution" not in capsys.readouterr().out
