"""Training by several processes: the weights of one, and a clear end whatever happens.

The tests with real workers are few, because each process imports mxnet; what only the nodes do is tested with small
processes in the workers' place.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gluonlm import launch, node, train
from gluonlm.agreement import check_asynchronous, check_equal
from gluonlm.checkpoint import LAST, STATE_FORMAT, build_model, read_arrays
from gluonlm.config import Config
from gluonlm.control import World
from gluonlm.corpus import load_corpus
from gluonlm.distributed import Alone
from gluonlm.errors import UserError
from gluonlm.resume import load_training, save_training
from gluonlm.runs import Run
from gluonlm.training import Training, training_columns

WORDS = [f"w{number}" for number in range(30)]
SMALL = ["--emsize", "8", "--nhid", "8", "--batch-size", "8", "--bptt", "5", "--dropout", "0"]
SMALL += ["--lr", "2", "--wd", "0.001", "--epochs", "2", "--max-batches", "12", "--schedule", "constant"]


@pytest.fixture
def text(tmp_path):
    """A folder with a small text in which each word all but tells the next."""
    words, folder = random.Random(5), tmp_path / "text"
    folder.mkdir()
    for split, lines in (("train", 100), ("valid", 15), ("test", 15)):
        starts = [words.randrange(30) for _ in range(lines)]
        sentences = (" ".join(WORDS[(start + 7 * step) % 30] for step in range(8)) for start in starts)
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


def command(text, save, *launching, more=(), resume=False):
    where = ["--resume", str(save)] if resume else ["--data", str(text), "--save", str(save), *SMALL]
    return [sys.executable, "-m", "gluonlm.launch", *launching, "--", *where, *more]


def launched(*arguments, **options):
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=120)


def last(folder):
    arrays, metadata = read_arrays(folder / LAST, STATE_FORMAT)
    return arrays, json.loads(metadata["progress"])


def assert_close(folder, other, tolerance=1e-5):
    """The same weights, validation losses and place in the text."""
    (arrays, progress), (others, expected) = last(folder), last(other)
    for name in arrays:
        if not name.startswith("hidden"):
            np.testing.assert_allclose(arrays[name], others[name], atol=tolerance, rtol=0, err_msg=name)
    np.testing.assert_allclose(progress["valid_losses"], expected["valid_losses"], atol=tolerance)
    assert (progress["epoch"], progress["step"]) == (expected["epoch"], expected["step"])


def marked(mark):
    """Command lines of the processes that have ``mark`` in their environment, by process number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "environ").read_text() + (folder / "cmdline").read_text()
    return found


def assert_gone(mark, seconds=10):
    end = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == {}


def test_four_workers_of_a_quarter_make_the_weights_of_one(text, tmp_path):
    alone = train.main(["--data", str(text), "--save", str(tmp_path / "one"), *SMALL])
    ended = launched(text, tmp_path / "four", "-n", "4", "-s", "2", "--local")
    assert ended.returncode == 0, ended.stderr
    assert "on cpu(0) of each of 4 workers" in ended.stdout
    assert ended.stdout.count("valid loss") == 2  # only one of them speaks
    assert_close(tmp_path / "four", tmp_path / "one")
    result = json.loads((tmp_path / "four" / "result.json").read_text())
    assert result["test_loss"] == pytest.approx(alone.test_loss, abs=1e-5)


def test_a_killed_worker_ends_all_and_the_run_resumes(text, tmp_path):
    train.main(["--data", str(text), "--save", str(tmp_path / "one"), *SMALL])
    more = ["--checkpoint-seconds", "0", "--epochs", "2000"]
    started = subprocess.Popen(
        command(text, tmp_path / "two", "-n", "2", "--local", more=more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLUONLM_TEST": str(tmp_path)},
    )
    while not started.stdout.readline().startswith("epoch   2"):
        assert started.poll() is None
    workers = [process for process, text in marked(str(tmp_path)).items() if "gluonlm.train\0" in text]
    (victim,) = [process for process in workers if "GLUONLM_WORKER=1\0" in marked(str(tmp_path))[process]]
    assert len(workers) == 2
    assert len(marked(str(tmp_path))) == 1 + 1 + 3 * 2  # launcher, scheduler, three nodes with a process each
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _, errors = started.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert started.returncode == 2
    sentence = "error: worker 1 on 127.0.0.1 was killed by SIGKILL: all others were stopped; go on from the last"
    assert errors.splitlines()[-1].startswith(sentence)
    assert_gone(str(tmp_path))
    arrays, progress = last(tmp_path / "two")
    assert progress["step"] >= 12
    assert arrays["hidden.0.0"].shape == (1, 4, 8)  # of worker 0, and beside it:
    assert np.abs(arrays["hidden.1.0"]).max() > 0 or progress["batch"] == 0
    # as if it had never happened: the same epochs by one worker that was never stopped
    epochs = progress["epoch"] + 2
    ended = launched(text, tmp_path / "two", "-n", "2", "--local", more=["--epochs", str(epochs)], resume=True)
    assert ended.returncode == 0, ended.stderr
    train.main(["--resume", str(tmp_path / "one"), "--epochs", str(epochs)])
    assert_close(tmp_path / "two", tmp_path / "one", 1e-4)


def test_workers_that_do_not_wait_for_each_other_learn_too(text, tmp_path):
    ended = launched(text, tmp_path / "run", "-n", "2", "--local", more=["--kvstore", "dist_async"])
    assert ended.returncode == 0, ended.stderr
    _, progress = last(tmp_path / "run")
    assert progress["step"] == 24
    assert progress["valid_losses"][1] < progress["valid_losses"][0] < 3.5


NAMESPACES = ("gluonlm-a", "gluonlm-b")


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@pytest.fixture
def two_machines():
    """Two network namespaces joined by a wire, without a way to anywhere else."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")
    if "error" in (made := ip("netns", "add", NAMESPACES[0], check=False)).stderr.lower() or made.returncode:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    try:
        ip("netns", "add", NAMESPACES[1])
        wire = ip(
            "-n", NAMESPACES[0], "link", "add", "w0", "type", "veth", "peer", "w1", "netns", NAMESPACES[1], check=False
        )
        if wire.returncode:
            pytest.skip(f"there are no virtual wires here: {wire.stderr.strip()}")
        for name, device, address in ((NAMESPACES[0], "w0", "10.77.0.1/24"), (NAMESPACES[1], "w1", "10.77.0.2/24")):
            ip("-n", name, "addr", "add", address, "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield {"10.77.0.1": NAMESPACES[0], "10.77.0.2": NAMESPACES[1]}
    finally:
        for name in NAMESPACES:
            ip("netns", "del", name, check=False)


def test_two_machines_with_addresses_of_their_own(text, tmp_path, two_machines):
    """Launched on the first; in the place of ssh is a command that enters the namespace of an address."""
    remote = tmp_path / "remote"
    cases = "\n".join(f'{address}) exec ip netns exec {name} sh -c "$2";;' for address, name in two_machines.items())
    remote.write_text(f"#!/bin/sh\ncase $1 in\n{cases}\nesac\n")
    remote.chmod(0o755)
    launching = ["-n", "2", "-s", "2", "-H", ",".join(two_machines), "--ssh", str(remote)]
    ended = subprocess.run(
        ["ip", "netns", "exec", NAMESPACES[0], *command(text, tmp_path / "two", *launching)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    train.main(["--data", str(text), "--save", str(tmp_path / "one"), *SMALL])
    assert_close(tmp_path / "two", tmp_path / "one")


def test_a_full_disk_on_the_writer(text, tmp_path):
    """In a mount namespace of its own, with a file system of 200 kB for the run."""
    (tmp_path / "small").mkdir()
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a small file system needs root and mount namespaces")
    line = command(text, tmp_path / "small" / "run", "-n", "1", "--local", more=["--emsize", "400", "--nhid", "400"])
    mount = f'mount -t tmpfs -o size=200k none {tmp_path / "small"} && exec "$@"'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *line], capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 2
    assert re.fullmatch(
        r"error: cannot write .* \(No space left on device\): free some space, then .*resume the run",
        ended.stderr.splitlines()[-1],
    )


class Two(Alone):
    """Worker 0 of two, of which the other is only claimed."""

    size = 2

    def __init__(self, other=lambda value: value):
        self.other = other

    def exchange(self, what, value):
        return [value, self.other(value)]

    def gather(self, arrays):
        return [*arrays, *arrays]


@pytest.mark.parametrize(
    ("name", "other", "sentence"),
    [
        ("gluonlm's code", "abc", r"differ in gluonlm's code \(\w{12} and abc\): it must be the same on all machines"),
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


def test_another_number_of_workers_on_resume(text, tmp_path):
    config, corpus = Config(data=str(text), emsize=4, nhid=4, batch_size=4), load_corpus(str(text))

    def training(group):
        run = Run(tmp_path / "run")
        run.begin(config, "")
        return Training(build_model(config, len(corpus.dictionary)), corpus, config, run, group=group)

    save_training(training(Two()))
    load_training(training(Two()))
    with pytest.raises(UserError, match="trained on 2 devices .* and these are 1: resume it on as"):
        load_training(training(Alone()))


def test_each_worker_has_its_columns(text):
    class Second(Two):
        rank = 1

    config, corpus = Config(batch_size=6), load_corpus(str(text))
    whole, first, second = (training_columns(corpus, config, 1, group) for group in (Alone(), Two(), Second()))
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    with pytest.raises(UserError, match="--batch-size 5 cannot be divided over 2 workers of 1 devices"):
        training_columns(corpus, Config(batch_size=5), 1, Two())


@pytest.mark.parametrize(
    "setting", [{"optimizer": "adam"}, {"nonmono": 5}, {"restore_best": True}, {"finetune": "runs/x"}]
)
def test_what_cannot_be_asynchronous(setting):
    with pytest.raises(UserError, match=f"--{next(iter(setting)).replace('_', '-')}.*dist_sync"):
        check_asynchronous(Config(**setting))


@pytest.mark.parametrize(
    ("kvstore", "sentence"), [("dist_sync", "start them with `python -m gluonlm.launch"), ("nccl", "without NCCL")]
)
def test_stores_that_are_not_here(text, tmp_path, kvstore, sentence):
    with pytest.raises(UserError, match=sentence):
        train.main(["--data", str(text), "--save", str(tmp_path / "run"), *SMALL, "--kvstore", kvstore])
    assert not (tmp_path / "run").exists()


# --- the nodes, with small processes in the place of those that import mxnet


def world(workers=1, servers=1):
    return World("127.0.0.1", launch.free_port("127.0.0.1"), workers, servers)


WAITS = "import time; time.sleep(100)"


def together(monkeypatch, here, workers, server=WAITS, patience=10.0):
    """Root and nodes in this process: what each of them raised."""
    programs = {"scheduler": WAITS, "server": server}

    def small(role, arguments):
        return [sys.executable, "-S", "-c", programs.get(role) or arguments[0]]

    monkeypatch.setattr(node, "command", small)
    monkeypatch.setattr(launch, "command", small)
    monkeypatch.setattr(launch, "GRACE", 1.0)

    async def all_of_them():
        nodes = [node.follow(here, "worker", [program], patience) for program in workers]
        nodes += [node.follow(here, "server", [], patience) for _ in range(here.servers)]
        return await asyncio.gather(launch.lead(here, patience, []), *nodes, return_exceptions=True)

    return asyncio.run(all_of_them())


def test_all_end_well(monkeypatch):
    ends = together(monkeypatch, world(2), ["pass", "pass"], server="pass")
    assert ends == [None] * 4


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL: all others were stopped; go on"),
        ("import sys; sys.exit('error: no such word')", ": no such word$|^no such word$"),
        ("import sys; print('error: no such word', file=sys.stderr); sys.exit(2)", "no such word$"),
        ("1/0", "ended with code 1: all others were stopped"),
    ],
)
def test_one_that_fails_ends_all(monkeypatch, capfd, program, sentence):
    began, here = time.monotonic(), world(2)
    monkeypatch.setenv("GLUONLM_TEST", str(here.port))
    ends = together(monkeypatch, here, [WAITS, program])
    assert time.monotonic() - began < 8
    assert all(isinstance(end, UserError) for end in ends)
    assert len({str(end) for end in ends}) == 1
    assert re.search(sentence, str(ends[0]))
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (program == "1/0")
    assert_gone(f"GLUONLM_TEST={here.port}")


def test_a_server_that_dies(monkeypatch):
    ends = together(monkeypatch, world(1), [WAITS], server="import os; os.abort()")
    assert "server 0 on 127.0.0.1 was killed by SIGABRT" in str(ends[0])
    assert str(ends[1]) == str(ends[0])


def test_one_that_never_comes(monkeypatch):
    ends = together(monkeypatch, world(3), [WAITS], patience=1.0)
    assert "worker 1, worker 2 did not come within 1 seconds: check that their machines" in str(ends[0])


def test_a_root_that_is_not_there():
    with pytest.raises(
        UserError, match="cannot reach the root of the training at 127.0.0.1, port .* within 0.3 seconds"
    ):
        asyncio.run(node.follow(world(), "worker", [], 0.3))


def test_a_root_that_dies_takes_its_nodes_with_it(monkeypatch):
    async def root_for_a_moment(reader, writer):
        await reader.readline()
        writer.write(b'{"kind": "seat", "number": 0}\n')
        await asyncio.sleep(0.5)
        writer.close()

    async def both(here):
        server = await asyncio.start_server(root_for_a_moment, here.root, here.port + 1)
        async with server:
            await node.follow(here, "worker", [WAITS], 5)

    monkeypatch.setattr(node, "command", lambda role, arguments: [sys.executable, "-S", "-c", *arguments])
    with pytest.raises(UserError, match="lost the connection to the root of the training"):
        asyncio.run(both(world()))


def test_a_machine_that_falls_silent(monkeypatch):
    """A node that is connected and says nothing, as after a power cut."""
    monkeypatch.setattr("gluonlm.control.SILENCE", 1.0)
    here = world(1, 1)

    async def silent():
        await asyncio.sleep(0.5)
        _, writer = await asyncio.open_connection(here.root, here.port + 1)
        writer.write(b'{"kind": "node", "role": "worker", "number": 0, "host": "b"}\n')
        await asyncio.sleep(3)

    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-S", "-c", WAITS])
    monkeypatch.setattr(launch, "GRACE", 1.0)

    async def both():
        return await asyncio.gather(launch.lead(here, 10, []), silent(), return_exceptions=True)

    assert str(asyncio.run(both())[0]).startswith("worker 0 on b has died or lost its connection")


def test_what_else_knocks_at_the_port_does_no_harm(monkeypatch):
    here = world(1)

    async def noise():
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"kind": "node"}\n', b""):
            await asyncio.sleep(0.1)
            _, writer = await asyncio.open_connection(here.root, here.port + 1)
            writer.write(line)
            writer.close()

    monkeypatch.setattr(
        node, "command", lambda role, arguments: [sys.executable, "-S", "-c", "import time; time.sleep(1)"]
    )
    monkeypatch.setattr(launch, "command", node.command)

    async def all_of_them():
        nodes = [node.follow(here, role, [], 5) for role in ("worker", "server")]
        return await asyncio.gather(launch.lead(here, 10, []), noise(), *nodes, return_exceptions=True)

    assert asyncio.run(all_of_them()) == [None] * 4


# --- the command


def refused(*arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "gluonlm.launch", *arguments], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    return ended.stderr.splitlines()[-1]


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("-n", "1", "--local", "--port", str(port), "--", "--tiny")
    assert said == f"error: port {port} is taken: choose another with --port"


def test_a_host_that_cannot_be_reached(tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host b port 22: Connection timed out' >&2\nexit 255\n")
    ssh.chmod(0o755)
    said = refused("-n", "1", "-H", "b", "--ssh", str(ssh), "--root", "127.0.0.1", "--", "--tiny")
    reason = "ssh: connect to host b port 22: Connection timed out"
    assert said == f"error: b cannot be reached by ssh ({reason}): check `ssh b true`"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-n", "2", "-H", "localhost", "--ssh", "no-such-ssh"], "there is no no-such-ssh on this machine: install an"),
        (["-n", "2"], "say how many workers and where"),
        (["-n", "0", "--local"], "say how many workers and where"),
        (["-n", "1", "-s", "0", "--local"], "at least one server"),
        (["-n", "1", "-H", "x" * 70], "cannot find a way to xxx.*: check its name"),  # no name is that long
        (["-n", "1", "-H", ","], "names no machine"),
    ],
)
def test_contradictory_launches(monkeypatch, arguments, sentence):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(UserError, match=sentence):
        launch.main([*arguments, "--", "--tiny"])


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "DMLC_PS_ROOT_PORT=: set it to a number"),
        ({"DMLC_PS_ROOT_PORT": "9091", "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "x"}, "DMLC_NUM_SERVER=x"),
        ({"DMLC_PS_ROOT_PORT": "1", "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"}, "DMLC_PS_ROOT_URI is not set"),
    ],
)
def test_an_environment_that_says_too_little(variables, sentence):
    with pytest.raises(UserError, match=sentence):
        World.of(variables)


def test_a_role_that_is_none(monkeypatch):
    for name, value in {**world().variables(), "DMLC_ROLE": "king"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="DMLC_ROLE=king: set it to scheduler, server or worker"):
        launch.main([])


def test_what_is_started_where(monkeypatch, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a  # the first\nme@b\n")
    options = launch.parse(["-n", "3", "-H", str(hosts), "--ssh", "sh -x", "--", "--data", "my text"])
    assert options.arguments == ["--data", "my text", "--kvstore", "dist_sync"]
    here = World("10.0.0.1", 9091, 3, 2)
    nodes = launch.starts(here, launch.host_names(str(hosts)), options)
    assert [(one.name, one.host) for one in nodes] == [
        ("server 0", "a"),
        ("server 1", "me@b"),
        ("worker 0", "a"),
        ("worker 1", "me@b"),
        ("worker 2", "a"),
    ]
    worker = nodes[2].command
    assert worker[:3] == ["sh", "-x", "a"]
    assert worker[3].startswith(f"cd {Path.cwd()} && exec env ")
    for part in ("DMLC_ROLE=worker", "DMLC_WORKER_ID=0", "GLUONLM_WORKERS_HERE=2", "DMLC_NUM_WORKER=3", "'my text'"):
        assert part in worker[3]
    assert "GLUONLM_WORKERS_HERE=1" in nodes[3].command[3]


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setenv("GLUONLM_WORKERS_HERE", "2")
    monkeypatch.setattr(node, "RUNTIME", node.RUNTIME.__class__(*[8, None, None, False, None, False, False]))
    assert node.environment(world(), "worker", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "4"
    assert node.environment(world(), "server", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "1"
    assert node.environment(world(), "server", 0, "10.0.0.1")["DMLC_NODE_HOST"] == "10.0.0.1"
    monkeypatch.setattr(node, "RUNTIME", node.RUNTIME.__class__(*[3, None, None, False, None, False, True]))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert node.environment(world(), "worker", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "3"
