"""Training by several processes: the weights of one.

The tests with real workers are few, because each process imports mxnet; see test_launch.py for the
rest.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from test_launch import assert_gone
from workers import SMALL, assert_close, command, disturbed, last, launched

import gluonlm
from gluonlm import train
from gluonlm.config import Config
from gluonlm.model.checkpoint import build_model
from gluonlm.parallel import agreement, supervisor
from gluonlm.parallel.agreement import check_asynchronous, check_equal
from gluonlm.parallel.group import KVStoreGroup
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import load_corpus
from gluonlm.training.loop import Training, training_columns
from gluonlm.training.optim import Updater
from gluonlm.training.resume import load_training, save_training
from gluonlm.training.run import Run
from gluonlm.training.session import Group, Session


def test_four_workers_of_a_quarter_make_the_weights_of_one(text, alone, tmp_path):
    ended = launched(text, tmp_path / "four", "-n", "4", "-s", "2", "--local")
    assert ended.returncode == 0, ended.stderr
    assert "on cpu(0) of each of 4 workers" in ended.stdout
    assert ended.stdout.count("valid loss") == 2  # only one of them speaks
    assert_close(tmp_path / "four", alone[0])
    result = json.loads((tmp_path / "four" / "result.json").read_text())
    assert result["test_loss"] == pytest.approx(alone[1].test_loss, abs=1e-5)


def test_a_killed_worker_ends_all_and_the_run_resumes(text, alone, tmp_path, capsys):
    line = command(
        text,
        tmp_path / "two",
        "-n",
        "2",
        "--local",
        more=["--checkpoint-seconds", "0", "--epochs", "2000"],
    )
    code, _, said, processes = disturbed(line, str(tmp_path))
    assert code == 2
    assert said.splitlines()[-1].startswith(
        "error: worker 1 on 127.0.0.1 was killed by SIGKILL: all others were stopped; go on from "
        "the last checkpoint"
    )
    assert processes == 1 + 1 + 3  # launcher, scheduler, server and two workers
    arrays, progress = last(tmp_path / "two")
    assert progress["step"] >= 12
    assert arrays["hidden.0.0"].shape == (1, 4, 8)  # of worker 0, and beside it:
    assert np.abs(arrays["hidden.1.0"]).max() > 0 or progress["batch"] == 0
    # as if it had never happened: the same epochs by one worker that was never stopped
    epochs = progress["epoch"] + 2
    shutil.copytree(tmp_path / "two", tmp_path / "fewer")
    ended = launched(
        text, tmp_path / "two", "-n", "2", "--local", more=["--epochs", str(epochs)], resume=True
    )
    assert ended.returncode == 0, ended.stderr
    shutil.copytree(alone[0], tmp_path / "one")
    train.main(["--resume", str(tmp_path / "one"), "--epochs", str(epochs)])
    assert_close(tmp_path / "two", tmp_path / "one", 1e-4)
    train.main(["--resume", str(tmp_path / "fewer"), "--epochs", str(epochs)])
    assert "fewer was trained on 2 devices" in capsys.readouterr().err
    assert_close(tmp_path / "fewer", tmp_path / "one", 1e-4)


def test_ctrl_c_stops_all_workers_in_good_order(text, tmp_path):
    more = ["--checkpoint-seconds", "1000", "--epochs", "2000"]
    line = command(text, tmp_path / "run", "-n", "2", "--local", more=more)
    code, said, errors, _ = disturbed(
        line, str(tmp_path), lambda launcher, _: os.kill(launcher, signal.SIGINT)
    )
    assert code == 0, errors
    assert said.endswith(f"stopped; go on with as many workers and --resume {tmp_path / 'run'}\n")
    assert last(tmp_path / "run")[1]["step"] >= 24
    assert "test perplexity" in said


def test_workers_that_do_not_wait_for_each_other_learn_too_and_go_on_after_a_death(text, tmp_path):
    store, run = ["--kvstore", "dist_async"], tmp_path / "run"
    more = [*store, "--checkpoint-seconds", "0", "--epochs", "2000"]
    code, _, said, _ = disturbed(command(text, run, "-n", "2", "--local", more=more), str(tmp_path))
    assert (code, "worker 1 on 127.0.0.1 was killed by SIGKILL" in said) == (2, True)
    _, before = last(run)
    more = [*store, "--epochs", str(before["epoch"] + 2)]
    ended = launched(text, run, "-n", "2", "--local", more=more, resume=True)
    assert ended.returncode == 0, ended.stderr
    _, progress = last(run)
    assert progress["step"] == 12 * progress["epoch"] == 12 * (before["epoch"] + 2)
    losses = progress["valid_losses"]
    assert losses[: before["epoch"]] == before["valid_losses"]
    assert losses[1] < losses[0] < 3.5
    assert max(losses[before["epoch"] :]) < losses[0]  # what was learned before is still known


NAMESPACES = tuple(f"gluonlm-{os.getpid()}-{name}" for name in "ab")


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@pytest.fixture
def two_machines():
    """Two network namespaces joined by a wire, without a way to anywhere else."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")
    if (
        "error" in (made := ip("netns", "add", NAMESPACES[0], check=False)).stderr.lower()
        or made.returncode
    ):
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    try:
        ip("netns", "add", NAMESPACES[1])
        wire = ip(
            "-n",
            NAMESPACES[0],
            "link",
            "add",
            "w0",
            "type",
            "veth",
            "peer",
            "w1",
            "netns",
            NAMESPACES[1],
            check=False,
        )
        if wire.returncode:
            pytest.skip(f"there are no virtual wires here: {wire.stderr.strip()}")
        for name, device, address in (
            (NAMESPACES[0], "w0", "10.77.0.1/24"),
            (NAMESPACES[1], "w1", "10.77.0.2/24"),
        ):
            ip("-n", name, "addr", "add", address, "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield {"10.77.0.1": NAMESPACES[0], "10.77.0.2": NAMESPACES[1]}
    finally:
        for name in NAMESPACES:
            ip("netns", "del", name, check=False)


def test_two_machines_with_addresses_of_their_own(text, alone, tmp_path, two_machines):
    """Launched on the first; in the place of ssh is a command that enters the namespace of an
    address."""
    remote = tmp_path / "remote"
    cases = "\n".join(
        f'{address}) exec ip netns exec {name} sh -c "$2";;'
        for address, name in two_machines.items()
    )
    remote.write_text(f"#!/bin/sh\ncase $1 in\n{cases}\nesac\n")
    remote.chmod(0o755)
    launching = ["-n", "2", "-s", "1", "-H", ",".join(two_machines), "--ssh", str(remote)]
    ended = subprocess.run(
        ["ip", "netns", "exec", NAMESPACES[0], *command(text, tmp_path / "two", *launching)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert_close(tmp_path / "two", alone[0])


def test_a_machine_that_falls_silent(two_machines):
    """Its wire is cut: no process can tell the other any more, as after a power cut."""
    here = supervisor.World("10.77.0.1", 9091, 1, 1)
    scheduler = waiting("scheduler")
    leading = (
        "import asyncio; from gluonlm.parallel import supervisor as s; s.SILENCE, s.GRACE = 3, "
        "1.0\n"
        f"s.SCHEDULER = {scheduler!r}; asyncio.run(s.lead(s.{here}, 20, {{}}))"
    )
    lines = {
        "root": (0, leading),
        "server": (0, waiting("server")),
        "worker": (1, waiting("worker")),
    }
    processes = [
        subprocess.Popen(
            [*IN_NAMESPACE, NAMESPACES[place], sys.executable, "-c", line],
            env={**os.environ, **here.variables(), "DMLC_ROLE": role},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role, (place, line) in lines.items()
    ]
    assert processes[2].stdout.readline() == "here\n"
    ip("-n", NAMESPACES[1], "link", "set", "w1", "down")
    said = [process.communicate(timeout=100)[1].splitlines()[-1] for process in processes]
    sentence = "worker 0 on 10.77.0.2 has died or lost its connection: all others were stopped"
    assert sentence in said[0]
    assert said[1].startswith(f"error: {sentence}")
    assert said[2].startswith("error: lost the connection to the root of the training at 10.77.0.1")


IN_NAMESPACE = ("ip", "netns", "exec")


def waiting(role):
    """A program that takes part in a training and waits for its end."""
    return (
        "import os, time; from gluonlm.parallel import supervisor as s; s.SILENCE = 3\n"
        f"with s.Lifeline(s.World.of(os.environ), {role!r}, 20):\n"
        "    print('here', flush=True); time.sleep(100)"
    )


@pytest.fixture
def mounts():
    """Skips where nothing can be mounted for a process alone."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a mount for a single process needs root and mount namespaces")


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_on_the_writer(text, tmp_path, monkeypatch):
    """In a mount namespace of its own, with a file system of 200 kB for the run."""
    monkeypatch.setenv("GLUONLM_TEST", str(tmp_path))
    (tmp_path / "small").mkdir()
    line = command(
        text,
        tmp_path / "small" / "run",
        "-n",
        "2",
        "--local",
        more=["--emsize", "400", "--nhid", "400"],
    )
    mount = f'mount -t tmpfs -o size=200k none {tmp_path / "small"} && exec "$@"'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *line],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    assert re.fullmatch(
        r"error: cannot write .* \(No space left on device\): free some space, then .*resume the "
        r"run",
        ended.stderr.splitlines()[-1],
    )
    assert_gone(str(tmp_path))


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("what", ["gluonlm's code", "vocabulary"])
def test_two_machines_with_other_code_or_another_text(text, tmp_path, monkeypatch, what):
    """In the place of ssh is a command that shows the second machine another folder in the place of
    its own."""
    monkeypatch.setenv("GLUONLM_TEST", str(tmp_path))
    own = Path(gluonlm.__file__).parent if what == "gluonlm's code" else text
    shutil.copytree(own, tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__"))
    with open(
        tmp_path / "other" / ("errors.py" if what == "gluonlm's code" else "train.txt"), "a"
    ) as file:
        file.write("# changed\n")
    remote = tmp_path / "remote"
    remote.write_text(
        '#!/bin/sh\n[ $1 = 127.0.0.1 ] && exec sh -c "$2"\n'
        f'exec unshare -m sh -c "mount --bind {tmp_path / "other"} {own} && $2"\n'
    )
    remote.chmod(0o755)
    ended = launched(
        text,
        tmp_path / "run",
        "-n",
        "2",
        "-s",
        "1",
        "-H",
        "127.0.0.1,127.0.0.2",
        "--ssh",
        str(remote),
    )
    assert ended.returncode == 2
    said = (
        rf"workers 0 on .* and 1 on .* differ in {what} \(\w{{12}} and \w{{12}}\): it must be "
        rf"the same on all"
    )
    assert re.search(said, ended.stderr.splitlines()[-1])
    assert not (tmp_path / "run").exists()
    assert_gone(str(tmp_path))


def test_the_launcher_of_mxnets_wheel(text, alone, tmp_path, monkeypatch):
    """It tells processes by their environment what they are, as job schedulers do; alias is what
    Python 3.9 dropped."""
    monkeypatch.setenv("GLUONLM_TEST", str(tmp_path))
    program = (
        "import runpy, threading, dmlc_tracker.tracker as tracker\n"
        "threading.Thread.isAlive = threading.Thread.is_alive\n"
        "tracker.get_host_ip = lambda *_: '127.0.0.1'\n"
        f"runpy.run_path({str(Path(mx.__file__).parent / 'tools' / 'launch.py')!r}, "
        f"run_name='__main__')\n"
    )
    each = shlex.join(command(text, tmp_path / "run"))
    line = [sys.executable, "-c", program, "-n", "2", "-s", "1", "--launcher", "local", each]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert_close(tmp_path / "run", alone[0])
    assert_gone(str(tmp_path))


class Two(Group):
    """Worker 0 of two, of which the other is only claimed."""

    world_size = 2

    def __init__(self, other=lambda value: value):
        self.other = other

    def all_gather_object(self, what, value):
        return [value, self.other(value)]

    def all_gather(self, arrays):
        return [*arrays, *arrays]


@pytest.mark.parametrize(
    ("name", "other", "sentence"),
    [
        (
            "gluonlm's code",
            "abc",
            r"differ in gluonlm's code \(\w{12} and abc\): it must be the same on all machines",
        ),
        ("--lr", 5.0, r"workers 0 on .* and 1 on b differ in --lr \(None and 5.0\)"),
        ("vocabulary", "abc", "differ in vocabulary"),
        ("text", "abc", "differ in text"),
        ("version of numpy", "2.0", "differ in version of numpy"),
    ],
)
def test_workers_that_differ(text, name, other, sentence):
    corpus, config = load_corpus(str(text)), Config(data=str(text))
    check_equal(Two(), config, corpus, 1, "dist_sync")
    group = Two(lambda value: [value[0] | {name: other}, "b"])
    with pytest.raises(UserError, match=sentence):
        check_equal(group, config, corpus, 1, "dist_sync")


@pytest.mark.parametrize(
    "name", ["train.py", "model/rnn.py", "model/fo_pool.c", "model/fo_pool_cuda.h"]
)
def test_the_hash_of_the_code_is_of_all_files(tmp_path, monkeypatch, name):
    package = tmp_path / "gluonlm"
    for file in ("train.py", "parallel/agreement.py", "model/rnn.py", "model/fo_pool.c"):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("")
    (package / "model/fo_pool_cuda.h").write_text("")
    monkeypatch.setattr(agreement, "__file__", str(package / "parallel/agreement.py"))
    before = agreement.code_hash()
    assert agreement.code_hash() == before
    (package / name).write_text("// changed\n")
    assert agreement.code_hash() != before


class WorkerOf(Group):
    """One of several workers, of which the others are only claimed."""

    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size

    def broadcast(self, arrays, *values):
        return Run(self.folder).load_state()


@pytest.mark.parametrize("model", ["LSTM", "QRNN"])
def test_another_number_of_workers_and_devices_on_resume(text, tmp_path, capsys, model):
    """The columns of the hidden states find their workers and devices."""
    config = Config(data=str(text), model=model, emsize=4, nhid=4, batch_size=8)
    corpus = load_corpus(str(text))

    def training(group, devices):
        run, group.folder = Run(tmp_path / "run"), tmp_path / "run"
        contexts = [mx.cpu(number) for number in range(devices)]
        network = build_model(config, len(corpus.dictionary), contexts)
        return Training(network, corpus, config, run, Session(contexts, group=group))

    def hidden(here):
        layers = zip(*here.states, strict=True)
        return [np.concatenate([a.asnumpy() for a in arrays], axis=1) for arrays in layers]

    first = training(Group(), 2)
    first.run.begin(config, "")
    for state in first.states:
        for array in state:
            array[:] = mx.nd.random.normal(shape=array.shape)
    save_training(first)
    for workers, devices in ((1, 2), (1, 1), (1, 4), (4, 1), (2, 2), (2, 1)):
        found = []
        for rank in range(workers):
            load_training(here := training(WorkerOf(rank, workers), devices))
            found.append(hidden(here))
        for whole, *parts in zip(hidden(first), *found, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        same = "the weights will not be exactly" not in capsys.readouterr().err
        assert same == (workers * devices == 2)


def test_what_is_shared_keeps_its_kind():
    """The masks of pruning are packed bits, which a checkpoint brings to all workers."""
    group = KVStoreGroup(0, 1, mx.kv.create("local"))
    sent = {
        "mask": np.arange(256, dtype=np.uint8),
        "weight": np.linspace(-1, 1, 5, dtype=np.float32),
    }
    received, step = group.broadcast(sent, 3)
    assert step == 3
    for name, array in sent.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array)


def test_each_worker_has_its_columns(text):
    class Second(Two):
        rank = 1

    config, corpus = Config(batch_size=6), load_corpus(str(text))
    whole, first, second = (
        training_columns(corpus, config, 1, group) for group in (Group(), Two(), Second())
    )
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    with pytest.raises(
        UserError, match="--batch-size 5 cannot be divided over 2 workers of 1 device:"
    ):
        training_columns(corpus, Config(batch_size=5), 1, Two())


def test_every_device_of_a_worker_gets_the_average():
    class Ones(Two):
        def all_reduce(self, arrays):
            for array in arrays:
                array[:] = 1

    weight = mx.gluon.Parameter("w", shape=(3,))
    weight.initialize(mx.init.Zero(), ctx=[mx.cpu(0), mx.cpu(1)])
    Updater({"w": weight}, "sgd", 0.0, group=Ones()).step(lr=0.5, clip=0)
    for array in weight.list_data():
        np.testing.assert_array_equal(array.asnumpy(), [-0.5] * 3)


@pytest.mark.parametrize(
    "setting",
    [
        {"optimizer": "adam"},
        {"nonmono": 5},
        {"nonmono": 0},
        {"restore_best": True},
        {"finetune": "runs/x"},
        {"prune": 0.8},
        {"prune": 0.0},
        {"compress": "a schedule"},
    ],
)
def test_what_cannot_be_asynchronous(setting):
    with pytest.raises(UserError, match=f"--{next(iter(setting)).replace('_', '-')}.*dist_sync"):
        check_asynchronous(Config(**setting))


@pytest.mark.parametrize(
    ("kvstore", "sentence"),
    [("dist_sync", "start them with `python -m gluonlm.launch"), ("nccl", "without NCCL")],
)
def test_stores_that_are_not_here(text, tmp_path, kvstore, sentence):
    with pytest.raises(UserError, match=sentence):
        train.main(
            ["--data", str(text), "--save", str(tmp_path / "run"), *SMALL, "--kvstore", kvstore]
        )
    assert not (tmp_path / "run").exists()
