"""A run's folder: one process owns it, nothing of it is lost or taken for a beginning."""

import errno
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace

import mxnet as mx
import pytest
from small import SMALL, fit

import gluonlm
from gluonlm import evaluate, generate, train
from gluonlm.config import OPTIMIZERS, Config, Optimizer
from gluonlm.model import precision
from gluonlm.model.checkpoint import load_model, save_model
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.model.weights import model_bytes
from gluonlm.system.errors import UserError
from gluonlm.system.files import Lock
from gluonlm.text.corpus import load_corpus
from gluonlm.training.fit import memory_need
from gluonlm.training.optim import tensors
from gluonlm.training.progress import Display
from gluonlm.training.resume import StopRequest
from gluonlm.training.run import Run, read_log

LAST = "last.safetensors"


@pytest.fixture(scope="module")
def done(cats, tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(cats, folder, "--epochs", "2")
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """A copy of that run."""
    return shutil.copytree(done, tmp_path / "copied")


def state(folder):
    arrays, metadata = read_arrays(folder / LAST, "gluonlm training state")
    return {name: array.tobytes() for name, array in arrays.items()}, json.loads(
        metadata["progress"]
    )


def interrupted_after(monkeypatch, steps):
    """Ctrl-C after so many steps of training."""
    from gluonlm.training import loop

    step, taken = loop.train_step, []

    def counted(*arguments):
        taken.append(None)
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", counted)


def test_fit_from_python(cats, tmp_path, done, capsys):
    """The weights are those of the command with the same settings."""
    config = Config(data=str(cats), emsize=8, nhid=8, batch_size=4, bptt=5, epochs=2)
    run = gluonlm.fit(config, load_corpus(str(cats)), tmp_path / "run")
    assert state(run.folder)[0] == state(done)[0]
    assert [record["epoch"] for record in run.records("epoch")] == [1, 2]
    assert load_model(run.folder).config == config
    with pytest.raises(UserError, match="holds a trained run already"):
        gluonlm.fit(config, load_corpus(str(cats)), tmp_path / "run")
    with pytest.raises(UserError, match="the config has finetune"):
        gluonlm.fit(replace(config, finetune=str(done)), load_corpus(str(cats)), tmp_path / "new")


def test_the_run_of_fit_is_on_its_corpus(cats, tmp_path):
    """Before, it was said to be on the config's data: ptb, if none was given."""
    config = Config(emsize=8, nhid=8, batch_size=4, bptt=5, epochs=1)
    run = gluonlm.fit(config, load_corpus(str(cats)), tmp_path / "run")
    assert load_model(run.folder).config.data == str(cats)
    assert train.main(["--resume", str(run.folder), "--epochs", "2"]).finished


def test_fit_prunes_too(cats, tmp_path):
    config = Config(data=str(cats), emsize=8, nhid=8, batch_size=4, bptt=5, prune=0.5, epochs=2)
    run = gluonlm.fit(config, load_corpus(str(cats)), tmp_path / "run")
    assert run.records("epoch")[-1]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert "encoder.weight" in load_model(run.folder).pruned


def test_a_folder_has_one_owner(cats, tmp_path, copied):
    """The second is told who has it, whether it wants to begin there or to go on."""
    with Run.new(tmp_path / "new"), Run.open(copied)[0]:
        before = state(copied)
        for folder, work in (
            (tmp_path / "new", lambda: fit(cats, tmp_path / "new")),
            (copied, lambda: train.main(["--resume", str(copied), "--epochs", "9"])),
        ):
            with pytest.raises(
                UserError, match=rf"{folder} is being written by process {os.getpid()}"
            ):
                work()
        assert state(copied) == before
    assert not (tmp_path / "new").exists()  # nothing was written
    assert train.main(["--resume", str(copied), "--epochs", "3"]).finished
    assert not (copied / ".lock").exists()


def test_a_resumed_run_that_is_complete_says_so(copied, capsys):
    train.main(["--resume", str(copied)])
    said = capsys.readouterr().out
    assert "\ntraining is complete, at epoch 2 of 2: --epochs N goes on to epoch N\n" in said
    train.main(["--resume", str(copied), "--epochs", "3"])
    said = capsys.readouterr().out
    assert "complete" not in said
    assert re.search(r"^epoch   3 \| +\d+ s in all \| ", said, re.MULTILINE)


def test_a_lock_ends_with_its_process(tmp_path):
    program = f"import sys, time; sys.path.insert(0, {str(tmp_path)!r})\n"
    program += "from pathlib import Path; from gluonlm.system.files import Lock\n"
    program += f"lock = Lock(Path({str(tmp_path)!r})); print('locked', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=f"written by process {process.pid} on "):
        Lock(tmp_path)
    process.kill()
    process.wait()
    lock = Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_processes_that_begin_at_once_get_folders_of_their_own(cats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "default_folder", lambda config: train.Path("runs/now"))
    command = ["--data", str(cats), *SMALL, "--epochs", "1"]
    results = [train.main(command) for _ in range(3)]
    names = [result.folder.name for result in results]
    assert names == ["now", "now-2", "now-3"]
    assert all((tmp_path / "runs" / name / "result.json").exists() for name in names)


@pytest.mark.parametrize(
    ("save", "folder", "best"),
    [
        ("exp_lr0.5", "exp_lr0.5", "exp_lr0.5/best.safetensors"),
        ("v1.2/", "v1.2", "v1.2/best.safetensors"),
        ("dir.pt/", "dir.pt", "dir.pt/best.safetensors"),
        ("PTB.pt", "PTB", "PTB.pt"),
        ("WT103.12hr.QRNN.pt", "WT103.12hr.QRNN", "WT103.12hr.QRNN.pt"),
        ("a.params", "a", "a.params"),
    ],
)
def test_which_names_are_files(tmp_path, save, folder, best):
    with Run.new(f"{tmp_path}/{save}") as run:
        assert run.folder == tmp_path / folder
        assert run.best == tmp_path / best


def test_a_run_is_found_by_its_model_file(cats, tmp_path):
    fit(cats, tmp_path / "PTB.pt", "--epochs", "1")
    result = train.main(["--resume", str(tmp_path / "PTB.pt"), "--epochs", "2"])
    assert result.folder == tmp_path / "PTB"
    again = train.main(["--resume", str(tmp_path / "PTB" / LAST).replace(LAST, "")])
    assert again.valid_loss == result.valid_loss
    (tmp_path / "disk").mkdir()
    (tmp_path / "PTB").rename(tmp_path / "disk" / "PTB")  # which has more room
    (tmp_path / "PTB").symlink_to("disk/PTB")
    assert train.main(["--resume", str(tmp_path / "PTB")]).valid_loss == result.valid_loss
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(UserError, match="is not the best model of a run"):
        train.main(["--resume", str(tmp_path / "other.pt")])


def test_a_missing_state_is_no_beginning(copied):
    best = (copied / "best.safetensors").read_bytes()
    (copied / LAST).unlink()
    with pytest.raises(UserError, match=rf"{LAST} is missing.*--finetune {copied}"):
        train.main(["--resume", str(copied), "--epochs", "60"])
    assert (copied / "best.safetensors").read_bytes() == best


def test_a_missing_or_damaged_best_model_is_told_before_anything_is_trained(copied):
    best, before = copied / "best.safetensors", (copied / LAST).read_bytes()
    whole = best.read_bytes()
    for content in (None, whole[:-1] + b"x"):
        best.unlink() if content is None else best.write_bytes(content)
        with pytest.raises(UserError, match="best.safetensors"):
            train.main(["--resume", str(copied), "--epochs", "3"])
        assert (copied / LAST).read_bytes() == before


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("schedule", {"plateau_scale": []}),
        ("schedule", {"plateau": 1.0}),
        ("progress", {"step": "x"}),
        ("progress", {"epoch": -1}),
        ("progress", {"colour": 1}),
        ("progress", None),
    ],
)
def test_a_state_that_says_what_cannot_be_is_told(copied, part, wrong):
    arrays, metadata = read_arrays(copied / LAST, "gluonlm training state")
    metadata[part] = json.dumps(json.loads(metadata[part]) | wrong) if wrong else "{"
    write_arrays(copied / LAST, "gluonlm training state", arrays, metadata)
    with pytest.raises(UserError, match="last.safetensors is damaged"):
        train.main(["--resume", str(copied), "--epochs", "3"])


@pytest.mark.parametrize(
    ("setting", "value"), [("lr", 5.0), ("nhid", 9), ("bptt", 7), ("dropout", 0.1), ("seed", 3)]
)
def test_settings_that_were_edited_are_told(copied, setting, value):
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {setting: value}))
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.name != ".lock"}
    told = f"config.json has --{setting} {value}, and .* is trained with {settings[setting]}: put"
    with pytest.raises(UserError, match=told):
        train.main(["--resume", str(copied), "--epochs", "3"])
    for name, old in before.items():
        assert (copied / name).read_bytes() == old


def test_the_text_may_move_and_the_epochs_may_be_more(copied, cats, tmp_path):
    settings = json.loads((copied / "config.json").read_text())
    moved = shutil.copytree(cats, tmp_path / "moved")
    changed = settings | {"data": str(moved), "epochs": 3}
    (copied / "config.json").write_text(json.dumps(changed))
    assert train.main(["--resume", str(copied)]).finished
    assert state(copied)[1]["epoch"] == 3


def test_resuming_is_told_where_the_text_lies_now(copied, cats, tmp_path):
    settings = json.loads((copied / "config.json").read_text())
    gone = json.dumps(settings | {"data": str(tmp_path / "gone")})
    (copied / "config.json").write_text(gone)
    with pytest.raises(UserError, match="put it back, or give another --data"):
        train.main(["--resume", str(copied)])
    shutil.copytree(cats, tmp_path / "other")
    (tmp_path / "other" / "train.txt").write_text("another text\n" * 50)
    with pytest.raises(UserError, match="is no longer what .* was trained on"):
        train.main(["--resume", str(copied), "--data", str(tmp_path / "other"), "--epochs", "3"])
    assert (copied / "config.json").read_text() == gone
    moved = shutil.copytree(cats, tmp_path / "moved")
    assert train.main(["--resume", str(copied), "--data", str(moved), "--epochs", "3"]).finished
    assert json.loads((copied / "config.json").read_text())["data"] == str(moved)


def test_evaluating_finds_a_text_that_has_moved_without_a_better_model(cats, tmp_path):
    """Before, the best model knew the old place until there was a better one."""
    shutil.copytree(cats, tmp_path / "old")
    fit(tmp_path / "old", tmp_path / "run", "--epochs", "1")
    score = evaluate.main([str(tmp_path / "run")])
    (tmp_path / "old").rename(tmp_path / "new")
    train.main(["--resume", str(tmp_path / "run"), "--data", str(tmp_path / "new")])
    assert evaluate.main([str(tmp_path / "run")]) == score
    (tmp_path / "new" / "test.txt").write_text("another text\n" * 50)
    with pytest.raises(UserError, match="is no longer what the model was trained with"):
        evaluate.main([str(tmp_path / "run")])


def test_a_run_that_was_stopped_before_its_first_state_begins(cats, tmp_path, done):
    fit(cats, tmp_path / "run", "--epochs", "2", "--max-batches", "1")
    for name in (LAST, "best.safetensors", "log.jsonl"):
        (tmp_path / "run" / name).unlink()
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**settings, "max_batches": 0}))
    train.main(["--resume", str(tmp_path / "run")])
    assert state(tmp_path / "run")[0] == state(done)[0]


def test_a_finetuned_run_resumes_from_before_its_first_step(done, tmp_path, monkeypatch):
    """Stopped before its first epoch, it goes on from what it began with."""
    command = ["--finetune", str(done), "--epochs", "2"]
    train.main([*command, "--save", str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "fit", lambda self: os._exit)  # the state is that of step 0
        train.main([*command, "--save", str(tmp_path / "parts")])
    assert state(tmp_path / "parts")[1]["step"] == 0
    assert train.main(["--resume", str(tmp_path / "parts")]).finished
    assert state(tmp_path / "parts")[0] == state(tmp_path / "whole")[0]
    assert [
        record["valid_loss"] for record in read_log(tmp_path / "parts" / "log.jsonl", "epoch")
    ] == [record["valid_loss"] for record in read_log(tmp_path / "whole" / "log.jsonl", "epoch")]


def test_a_processor_that_cannot_go_on_as_the_run_began(copied, monkeypatch):
    """Before, the option was to be left out that nobody had given."""
    trained = load_model(copied)
    rounded = replace(trained.config, precision="bfloat16")
    save_model(replace(trained, config=rounded))
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {"precision": "bfloat16"}))
    monkeypatch.setattr(precision, "cpu_flags", set)
    reason = f"imitating it would be slower: {copied} was trained with it:"
    with pytest.raises(UserError, match=f"{reason} start .* --finetune {copied} --precision fl"):
        train.main(["--resume", str(copied), "--epochs", "3"])
    again = ["--finetune", str(copied), "--epochs", "1", "--save", f"{copied}-finetuned"]
    with pytest.raises(UserError, match=f"{reason} add --precision float32"):
        train.main(again)
    assert train.main([*again, "--precision", "float32"]).finished


def test_a_damaged_line_of_the_log_stops_nothing(copied):
    lines = (copied / "log.jsonl").read_bytes().splitlines(keepends=True)
    lines[0] = b'{"kind": "inter\xff' + lines[0][16:]
    (copied / "log.jsonl").write_bytes(b"".join(lines))
    assert train.main(["--resume", str(copied), "--epochs", "3"]).finished
    assert [record["epoch"] for record in read_log(copied / "log.jsonl", "epoch")] == [1, 2, 3]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_changed_text_is_refused(cats, tmp_path, split):
    data = shutil.copytree(cats, tmp_path / "text")
    fit(data, tmp_path / "run", "--epochs", "1")
    (data / f"{split}.txt").write_text("the dog sat on the cat\nthe mat ran\n" * 20)
    with pytest.raises(UserError, match="is no longer what .* was trained on"):
        train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"])


def test_another_number_of_threads_is_told(copied, monkeypatch, capsys):
    train.main(["--resume", str(copied)])
    assert "OMP_NUM_THREADS" not in capsys.readouterr().err
    from gluonlm.training import resume

    class Other:
        threads = gluonlm.RUNTIME.threads + 1

    monkeypatch.setattr(resume, "prepare", lambda: Other)
    train.main(["--resume", str(copied)])
    assert f"OMP_NUM_THREADS={gluonlm.RUNTIME.threads}, and now" in capsys.readouterr().err


@pytest.mark.usefixtures("_curves")
def test_a_picture_that_cannot_be_drawn_stops_nothing(cats, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ValueError("no backend")

    monkeypatch.setattr("gluonlm.training.run.draw_curve", broken)
    assert fit(cats, tmp_path / "run", "--epochs", "1").finished
    assert "caution: curve.png cannot be drawn (no backend)" in capsys.readouterr().err


class Full:
    """A stream on a full disk."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        pass

    def isatty(self):
        return False


@pytest.mark.parametrize("streams", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_training_goes_on_when_nothing_can_be_shown(cats, tmp_path, done, monkeypatch, streams):
    for name in streams:
        monkeypatch.setattr(sys, name, Full())
    assert fit(cats, tmp_path / "run", "--epochs", "2").finished
    assert state(tmp_path / "run")[0] == state(done)[0]
    assert (tmp_path / "run" / "result.json").exists()


def test_training_outside_of_the_main_thread(cats, tmp_path, done):
    """Signals are the main thread's."""
    results = []
    thread = threading.Thread(
        target=lambda: results.append(fit(cats, tmp_path / "run", "--epochs", "2"))
    )
    thread.start()
    thread.join(120)
    assert results[0].finished
    assert state(tmp_path / "run")[0] == state(done)[0]


def test_all_is_saved_before_it_is_shown(cats, tmp_path, monkeypatch):
    """A display that fails in a way that nobody thought of loses nothing."""

    def broken(*_, **__):
        raise RuntimeError("the display")

    with monkeypatch.context() as patch:
        patch.setattr("gluonlm.training.progress.Display.end_epoch", broken)
        with pytest.raises(RuntimeError, match="the display"):
            fit(cats, tmp_path / "run", "--epochs", "1")
    assert state(tmp_path / "run")[1]["epoch"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(train.LanguageModel, "generate", broken)
        with pytest.raises(RuntimeError, match="the display"):
            train.main(["--resume", str(tmp_path / "run")])
    assert (tmp_path / "run" / "result.json").exists()


def test_the_first_line_comes_early_and_the_log_stays_as_it_is(monkeypatch, capsys):
    seconds, logged = itertools.count(0, 2), []
    monkeypatch.setattr("gluonlm.training.progress.time.monotonic", lambda: next(seconds))
    display = Display(10, 4, logged.append)
    display.start_epoch(1, 0, 6)
    for step in range(1, 7):
        display.step(step, 1.0, 20, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["epoch   2/10", f"batch     {batch}/6"] for batch in (3, 4, 6)
    ]
    left = [
        "epoch 0:00:06, run 0:01:42",
        "epoch 0:00:04, run 0:01:40",
        "epoch 0:00:00, run 0:01:36",
    ]
    assert [line.partition("left: ")[2] for line in lines] == left  # eight epochs of 12 s follow
    assert [(record["step"], record["tokens_per_second"]) for record in logged] == [
        (4, 10),
        (6, 10),
    ]


@pytest.mark.parametrize(
    ("more", "told"), [([], True), (["--max-batches", "1"], False), (["--dry-run"], False)]
)
def test_a_run_of_few_steps_tells_so_at_its_beginning(cats, tmp_path, capsys, more, told):
    """Before, a text of 12 steps was trained in the usual batches without a word."""
    fit(cats, tmp_path / "run", "--epochs", "2", *more)
    said = re.search("this run has only (.*) steps: a smaller --batch", capsys.readouterr().err)
    steps = read_log(tmp_path / "run" / "log.jsonl", "epoch")[-1]["step"]
    assert (said and int(said[1])) == (steps if told else None)


def test_a_finished_run_tells_last_how_to_write_with_it(cats, tmp_path, capsys):
    fit(cats, tmp_path / "a run", "--epochs", "1")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("write with it: ")
    generate.main([*shlex.split(last.partition(" -m gluonlm.generate ")[2]), "--words", "3"])


def test_a_loss_far_above_guessing_ends_the_run(cats, tmp_path):
    more = ["--lr", "3000", "--clip", "0", "--epochs", "3"]
    with pytest.raises(UserError, match=r"diverged in epoch \d.* by guessing\): lower --lr"):
        fit(cats, tmp_path / "run", *more)
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_memory_that_does_not_suffice_is_told_before_any_is_taken(cats, tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"training needs at least .* GiB of memory, and there are"):
        train.main(["--data", str(cats), "--save", str(tmp_path / "run"), "--nhid", "900000"])
    assert time.monotonic() - started < 20
    assert not (tmp_path / "run").exists()


def test_memory_counts_what_the_optimizer_remembers(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "momentum", Optimizer("sgd", lr=1.0, moments=1))
    need = {name: memory_need(Config(optimizer=name), 100) for name in ("sgd", "momentum", "adam")}
    weights = model_bytes(Config(), 100)
    assert need["momentum"] - need["sgd"] == need["adam"] - need["momentum"] == weights
    assert memory_need(Config(nonmono=5), 100) - need["sgd"] == weights
    assert memory_need(Config(nonmono=5, schedule="linear"), 100) == need["sgd"]  # no average
    for name, kind in OPTIMIZERS.items():
        states = mx.optimizer.create(kind.name).create_state(0, mx.nd.zeros(1))
        assert name == "momentum" or len(tensors(states)) == kind.moments


def test_leftovers_of_a_killed_process_go(copied):
    (copied / ".gluonlm-1-0.tmp").write_bytes(b"half")
    train.main(["--resume", str(copied)])
    assert not list(copied.glob(".*"))


def read_events(path):
    """The events of a file: each has its length (8 bytes) and two checksums (4 bytes) around it."""
    from tensorboardX.proto.event_pb2 import Event

    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return events


def test_events_are_the_log_also_of_a_run_that_is_resumed(copied):
    assert not (copied / "tensorboard").exists()
    train.main(["--resume", str(copied), "--epochs", "3", "--tensorboard"])
    (path,) = (copied / "tensorboard").iterdir()
    _, start, *events = read_events(path)
    assert start.HasField("session_log")  # its start: earlier files do not count
    logged = read_log(copied / "log.jsonl", "epoch")
    assert len(logged) == 3
    for name in ("valid_loss", "train_loss", "lr"):
        shown = [
            (event.step, value.simple_value)
            for event in events
            for value in event.summary.value
            if value.tag == f"epoch/{name}"
        ]
        assert [step for step, _ in shown] == [record["step"] for record in logged]
        values = [record[name] for record in logged]
        assert [value for _, value in shown] == pytest.approx(values)


def test_training_goes_on_without_events(cats, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("in the way")
    assert fit(cats, run, "--epochs", "2", "--tensorboard").finished
    assert capsys.readouterr().err.count("caution: no more events for TensorBoard") == 1


def test_without_tensorboardx_nothing_is_trained(cats, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else found(name)
    )
    with pytest.raises(UserError, match="needs the package tensorboardX: install it with"):
        fit(cats, tmp_path / "run", "--tensorboard")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_curves")
def test_a_validation_loss_without_a_perplexity_is_a_result(cats, tmp_path, capsys, recwarn):
    """Weights may explode in the only step, whose own loss is that of guessing."""
    more = ["--epochs", "1", "--max-batches", "1", "--lr", "1e6", "--clip", "0"]
    result = fit(cats, tmp_path / "run", *more)
    assert result.test_loss > 700
    assert "perplexity inf" in capsys.readouterr().out
    written = (tmp_path / "run" / "result.json").read_text()
    assert json.loads(written, parse_constant=pytest.fail)["test_perplexity"] > 1e300
    assert gluonlm.load(tmp_path / "run").perplexity("the cat") > 1e300
    assert [str(one.message) for one in recwarn if one.category is RuntimeWarning] == []


def test_a_finetuned_run_does_not_take_its_masks_from_the_best_model(done, tmp_path, monkeypatch):
    """Killed between the best model, which is pruned already, and the state, which is not yet."""
    command = ["--finetune", str(done), "--epochs", "3", "--prune", "0.6", "--save"]
    train.main([*command, str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "_react", lambda self, loss: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception):
            train.main([*command, str(tmp_path / "parts")])
    assert state(tmp_path / "parts")[1]["step"] == 0
    assert load_model(tmp_path / "parts").pruned
    train.main(["--resume", str(tmp_path / "parts")])
    assert state(tmp_path / "parts")[0] == state(tmp_path / "whole")[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_is_stopped_in_good_order_when_nothing_can_be_said(monkeypatch, number):
    def full(descriptor, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.asked


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_two_ways_stops_in_good_order(first):
    """A job scheduler tells the worker, and the launcher, which passes it on as Ctrl-C."""
    numbers, ended = (signal.SIGINT, signal.SIGTERM), []
    before = [signal.signal(number, lambda number, _: ended.append(number)) for number in numbers]
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), sum(numbers) - first)
            assert stop.asked
            assert not ended
            os.kill(os.getpid(), first)
            assert ended == [first]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
