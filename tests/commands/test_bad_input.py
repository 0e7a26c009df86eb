"""Each mistake gets one clear sentence that says what to do, exit code 2 and no traceback; nothing
trained is lost."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import mxnet as mx
import pytest
from safetensors.numpy import save_file
from small import ONCE

from gluonlm import cli, evaluate, export, generate, prune, quantize, score, train
from gluonlm.model import checkpoint
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.system import gpu
from gluonlm.system.errors import UserError
from gluonlm.system.gpu import Gpu, contexts
from gluonlm.training.run import read_log


@pytest.fixture(scope="module")
def trained(cats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(["--data", str(cats), "--save", str(folder), *ONCE])
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
        (["--tiny", "--preset", "austen"], "argument --preset: not allowed with argument --tiny"),
        (["--log-interval", "0"], "argument --log-interval: must be at least 1, not 0"),
        (["--gpu", ""], "--gpu '': give GPU numbers"),
        (["--seed", str(2**32)], "--seed 4294967296: must be at most 4294967295"),
        (["--decay", "1e200"], "--decay 1e\\+200: must be at most 1"),
    ],
)
def test_impossible_settings(cats, tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        train.main(["--data", str(cats), "--save", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_preset_for_texts_of_ones_own_wants_one(tmp_path):
    """Before, it looked for Penn Treebank."""
    with pytest.raises(UserError, match="--preset small-text is for a text of your own"):
        train.main(["--preset", "small-text", "--save", str(tmp_path / "run")])


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
    monkeypatch.setattr(
        gpu, "list_gpus", lambda: [Gpu(number, "Ampere", (8, 6)) for number in range(2)]
    )
    assert contexts("1,0") == [mx.gpu(1), mx.gpu(0)]
    with pytest.raises(UserError, match="no GPU 2, the driver sees 2"):
        contexts("0,2")


def test_columns_that_cannot_be_divided_over_the_devices(cats, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "contexts", lambda gpu: [mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    with pytest.raises(UserError, match="--batch-size 4 cannot be divided over 3 devices"):
        train.main(["--data", str(cats), "--save", str(tmp_path / "run"), *ONCE])


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


@pytest.mark.parametrize("content", ["Die Tür war zu.\n", "un café, s'il vous plaît\n" * 999])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_text_in_the_place_of_the_model_is_told(trained, tmp_path, content, encoding):
    """Before, it was a damaged model."""
    text = tmp_path / "sentences.txt"
    text.write_bytes(content.encode(encoding))
    for command, *more in (
        (score, str(trained)),
        (evaluate, "--data", str(trained)),
        (generate,),
        (quantize,),
        (prune, "--sparsity", "0.5"),
        (export, str(tmp_path / "page.html")),
    ):
        with pytest.raises(UserError, match="txt is a text, not a model: the model comes first"):
            command.main([str(text), *more])


def test_arrays_that_do_not_fit_the_settings(trained, tmp_path):
    arrays, metadata = read_arrays(trained / "best.safetensors", checkpoint.MODEL_FORMAT)
    arrays["decoder.bias"] = arrays["decoder.bias"][:-1]
    write_arrays(tmp_path / "odd.safetensors", checkpoint.MODEL_FORMAT, arrays, metadata)
    with pytest.raises(UserError, match=r"decoder\.bias is missing or does not fit"):
        evaluate.main([str(tmp_path / "odd.safetensors")])


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="there is no file .*best.safetensors"):
        evaluate.main([str(tmp_path)])
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            UserError,
            match=r"cannot read .*config\.json \(No such file or directory\): give the fold",
        ):
            train.main(["--resume", str(folder)])


def test_resume_keeps_its_settings(trained):
    with pytest.raises(UserError, match="leave out --nhid"):
        train.main(["--resume", str(trained), "--nhid", "16"])


def test_resume_on_another_number_of_devices(trained, tmp_path, monkeypatch, capsys):
    """A warning, and it goes on."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(train, "contexts", lambda gpu: [mx.cpu(0), mx.cpu(1)])
    assert train.main(["--resume", str(tmp_path / "run")]).finished
    assert re.search("trained on 1 device .* and these are 2: ", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"nhid": ', r"cannot read .*config\.json"),
        ("[]", r"cannot read .*config\.json \(its text must be a mapping\)"),
        ('{"lr": "0.5"}', "--lr must be a number or null"),
        ('{"epochs": null}', "--epochs must be a whole number"),
        ('{"when": 3}', "--when must be a list"),
    ],
)
def test_a_damaged_configuration(trained, tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=complaint):
        train.main(["--resume", str(tmp_path)])


def test_other_text_under_the_same_name_is_not_gone_on_with(cats, tmp_path):
    """As many words, in another order: the ids would be those of other words."""
    data, run = shutil.copytree(cats, tmp_path / "text"), tmp_path / "run"
    train.main(["--data", str(data), "--save", str(run), *ONCE])
    before = (run / "result.json").read_bytes()
    (data / "train.txt").write_text("the dog ran\n" * 60 + "the cat sat on the mat\n")
    with pytest.raises(
        UserError,
        match=r"the vocabulary of .*text is no longer what .*run was trained on: put the old",
    ):
        train.main(["--resume", str(run), "--epochs", "2"])
    assert (run / "result.json").read_bytes() == before
    shutil.copyfile(cats / "train.txt", data / "train.txt")
    (data / "valid.txt").write_text("the cat ran\n" * 20)
    with pytest.raises(UserError, match="the text of "):
        train.main(["--resume", str(run), "--epochs", "2"])
    shutil.copyfile(cats / "valid.txt", data / "valid.txt")
    assert train.main(["--resume", str(run), "--epochs", "2"]).finished


@pytest.mark.parametrize("left", [0, 30, None])
def test_a_log_that_a_power_cut_has_shortened(cats, tmp_path, left):
    run = tmp_path / "run"
    train.main(["--data", str(cats), "--save", str(run), *ONCE, "--log-interval", "1"])
    log = (run / "log.jsonl").read_bytes()
    if left is None:
        (run / "log.jsonl").unlink()
    else:
        (run / "log.jsonl").write_bytes(log[: len(log) - 30 if left else 0])
    assert train.main(["--resume", str(run), "--epochs", "2"]).finished
    assert [record["epoch"] for record in read_log(run / "log.jsonl", "epoch")] == [
        2
    ]  # the first one's is lost


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_a_model_without_its_settings_is_not_overwritten(trained, cats, tmp_path, name):
    shutil.copy(trained / name, tmp_path)
    with pytest.raises(UserError, match="holds a trained run already"):
        train.main(["--data", str(cats), "--save", str(tmp_path), *ONCE])
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (train, ["--data", "x" * 300]),
        (train, ["--tiny", "--data", "austen", "--save", "x" * 300]),
        (evaluate, ["x" * 300]),
        (generate, ["x" * 300]),
    ],
)
def test_a_path_that_cannot_be(module, arguments):
    with pytest.raises(OSError, match="File name too long") as raised:
        module.main(arguments)
    sentence = cli.sentence_of(raised.value)  # a command ends with 2 and that, see above
    assert sentence.endswith(" (File name too long): correct the path or its rights")
    assert sentence.startswith("cannot use xxx")


def test_a_mistake_of_ours_keeps_its_traceback():
    def main(argv):
        raise OSError("no file is to blame")

    with pytest.raises(OSError, match="no file is to blame"):
        cli.run(main)


def test_a_full_disk_is_said_and_the_run_can_go_on(cats, tmp_path, monkeypatch):
    """The disk fills while the second checkpoint is written: the first stays whole, and the run
    resumes from it."""
    calls = 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device.*free some space"):
            train.main(
                ["--data", str(cats), "--save", str(tmp_path / "run"), *ONCE, "--epochs", "3"]
            )
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert train.main(["--resume", str(tmp_path / "run")]).finished


def test_a_folder_that_cannot_be_made(cats, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"):
        train.main(["--data", str(cats), "--save", str(tmp_path / "file" / "run"), *ONCE])


def test_nothing_to_evaluate(trained, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="empty"):
        evaluate.main([str(trained), "--data", str(tmp_path / "empty.txt")])
    with pytest.raises(UserError, match="argument --batch-size: must be at least 1, not 0"):
        evaluate.main([str(trained), "--batch-size", "0"])


def test_a_single_file_has_no_splits(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "note.txt").write_text("the cat sat\n" * 9)
    with pytest.raises(UserError, match="which is read whole: leave out --split"):
        evaluate.main([str(trained), "--data", str(tmp_path / "note.txt"), "--split", "valid"])
    record = tmp_path / "score.json"
    assert (
        evaluate.main([str(trained), "--data=~/note.txt", "--record", str(record)]).tokens == 36
    )  # not its last tenth
    assert json.loads(record.read_text())["split"] is None
    evaluate.main([str(trained), "--record", str(record)])
    assert json.loads(record.read_text())["split"] == "test"
    for theta in ("inf", "1e39"):  # which is infinite in float32: then there was no cache
        with pytest.raises(UserError, match=r"--theta .*: must be at least 0 and at most 1e\+06"):
            evaluate.main([str(trained), "--cache", "--theta", theta])


def test_evaluate_any_text(trained, tmp_path, capsys):
    """Unknown words count as <unk>; a text shorter than the number of columns is read all the
    same."""
    (tmp_path / "note.txt").write_text("the zebra sat\n")
    score = evaluate.main([str(trained), "--data", str(tmp_path / "note.txt")])
    assert (score.tokens, score.unknown) == (4, 1)
    output = capsys.readouterr().out
    assert "25.00% unknown" in output
    assert "caution: all unknown words count as one" in output
    splits = [evaluate.main([str(trained), "--split", split]) for split in ("valid", "test")]
    assert splits[0].perplexity == pytest.approx(splits[1].perplexity)  # the same text here
    assert "caution" not in capsys.readouterr().out
