"""Lifelines, root and launcher: a clear end whatever happens, with small processes in the place of
those of MXNet."""

import asyncio
import contextlib
import json
import math
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gluonlm import launch
from gluonlm.parallel import supervisor
from gluonlm.parallel.supervisor import Lifeline, Root, World
from gluonlm.system import runtime
from gluonlm.system.errors import UserError
from gluonlm.system.network import connect, free_port


def marked(mark):
    """Command lines of the processes that have ``mark`` in their environment, by process number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "environ").read_text() + (
                    folder / "cmdline"
                ).read_text()
    return found


def assert_gone(mark, seconds=60):
    end = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == {}


def world(workers=1, servers=1):
    return World("127.0.0.1", free_port("127.0.0.1"), workers, servers)


PATIENCE = 60.0  # of processes that all come, however busy the machine is
WAITS = "import time; time.sleep(100)"
EARLY = "import sys; "
SMALL = """
import os
from gluonlm.parallel.supervisor import Lifeline, World
with Lifeline(World.of(os.environ), {role!r}, {patience}):
    {program}
"""


def until(path):
    """A line of Python that waits for a file."""
    found = f"os.path.exists({str(path)!r})"
    return f"import time; [time.sleep(0.02) for _ in iter(lambda: {found}, True)]"


def small(here, role, program, patience=PATIENCE):
    """The command of a process that does not import mxnet: it runs a line of Python, early ones
    without a lifeline."""
    line = SMALL.format(role=role, program=program, patience=patience)
    line = program if program.startswith(EARLY) else line
    return supervisor.with_variables([sys.executable, "-c", line], here, role)


def set_scheduler(monkeypatch, program, patience=PATIENCE):
    """Run a line of Python in the place of ps-lite's scheduler, and do not wait long for the
    end."""
    line = SMALL.format(role="scheduler", program=program, patience=patience)
    monkeypatch.setattr(supervisor, "SCHEDULER", line.replace("{", "{{").replace("}", "}}"))
    monkeypatch.setattr(supervisor, "GRACE", 1.0)


@dataclass
class Ended:
    """What the root raised, and what the processes said that it did not start."""

    error: BaseException | None
    others: list[tuple[int, str]]


def together(
    monkeypatch, here, workers, server=WAITS, patience=PATIENCE, launched=True, scheduler=WAITS
):
    """A training by small processes, which the root has started, or a job scheduler."""
    set_scheduler(monkeypatch, scheduler, patience)
    starts = {
        ("worker", i): (None, small(here, "worker", p, patience)) for i, p in enumerate(workers)
    }
    for rank in range(here.servers):
        starts["server", rank] = None, small(here, "server", server, patience)
    own = [] if launched else [subprocess.Popen(line, **PIPES) for _, line in starts.values()]
    try:
        asyncio.run(supervisor.lead(here, patience, starts if launched else {}))
        error = None
    except UserError as raised:
        error = raised
    said = [process.communicate(timeout=60)[1] for process in own]
    codes = [process.returncode for process in own]
    return Ended(error, list(zip(codes, said, strict=True)))


PIPES = {"stderr": subprocess.PIPE, "text": True}


@pytest.mark.parametrize("launched", [True, False])
def test_all_end_well(monkeypatch, launched):
    ends = together(
        monkeypatch, world(2), ["pass"] * 2, "pass", launched=launched, scheduler="pass"
    )
    assert ends == Ended(None, [] if launched else [(0, "")] * 3)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL: all others were stopped; go on"),
        (EARLY + "sys.exit('error: no such word')", ": no such word$|^no such word$"),
        (EARLY + "print('error: no such word', file=sys.stderr); sys.exit(2)", "no such word$"),
        (
            "from gluonlm.system.errors import UserError; raise UserError('no such word')",
            "^worker 1 on 127.0.0.1: no such word$|^no such word$",
        ),
        (
            "1/0",
            r"ended with code 1 \(ZeroDivisionError: division by zero\): all others were stopped",
        ),
    ],
)
def test_one_that_fails_ends_all(monkeypatch, capfd, program, sentence):
    began, here = time.monotonic(), world(2)
    monkeypatch.setenv("GLUONLM_TEST", str(here.port))
    ends = together(monkeypatch, here, [WAITS, program])
    assert time.monotonic() - began < supervisor.SILENCE  # not only when it has been silent
    assert isinstance(ends.error, UserError)
    assert re.search(sentence, str(ends.error))
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (program == "1/0")
    assert_gone(f"GLUONLM_TEST={here.port}")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "has died or lost its connection: all others were stopped"),
        (
            "from gluonlm.system.errors import UserError; raise UserError('no such word')",
            "no such word$",
        ),
        ("1/0", r"ended with code 1 \(ZeroDivisionError: division by zero\): all others were"),
    ],
)
def test_one_of_a_job_scheduler_that_fails_ends_all(monkeypatch, program, sentence):
    """The root has not started it, so it knows what the process has said itself, or that it is
    gone."""
    here = world(2)
    monkeypatch.setenv("GLUONLM_TEST", str(here.port))
    ends = together(monkeypatch, here, [WAITS, program], launched=False)
    assert re.search(sentence, str(ends.error))
    assert [code for code, _ in ends.others][::2] == [2, 2]
    for _, said in ends.others[::2]:  # the other worker and the server
        assert said == f"error: {ends.error}\n"
    assert_gone(f"GLUONLM_TEST={here.port}")


def test_a_server_that_dies(monkeypatch):
    ends = together(monkeypatch, world(1), [WAITS], server="os.abort()")
    assert "server 0 on 127.0.0.1 was killed by SIGABRT" in str(ends.error)


def test_one_that_never_comes(monkeypatch):
    for patience in (2, 20, 90):  # on a busy machine those that come may need more
        ends = together(monkeypatch, world(3), [WAITS], patience=patience, launched=False)
        if str(ends.error).startswith("worker 1, "):
            break
    late = f"worker 1, worker 2 did not come within {patience} s: check that their machines"
    assert str(ends.error).startswith(late)
    assert all(str(ends.error) in said for _, said in ends.others)


def test_one_too_many_has_no_place(monkeypatch, tmp_path):
    """The other one works until then."""
    send, refused = supervisor.send, tmp_path / "refused"

    def sent(writer, **message):
        send(writer, **message)
        if "stop" in message:
            refused.touch()

    monkeypatch.setattr(supervisor, "send", sent)
    ends = together(monkeypatch, world(1), [until(refused)] * 2, "pass", launched=False)
    assert sorted("there is no place for this worker" in said for _, said in ends.others) == [
        False,
        False,
        True,
    ]


def test_one_may_wait_for_ever(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as root:
        connect("127.0.0.1", root.getsockname()[1], math.inf).close()
    calls = []
    monkeypatch.setattr(supervisor, "serve", lambda *call: calls.append(call))
    exec(supervisor.SCHEDULER.format(math.inf))
    assert calls == [("scheduler", math.inf)]


def test_a_root_that_is_not_there():
    with pytest.raises(
        UserError, match="cannot reach the root of the training at 127.0.0.1, port .* within 0.3 s"
    ):
        Lifeline(world(), "worker", 0.3).__enter__()


def test_a_root_that_dies_takes_the_processes_with_it():
    here = world()
    with socket.create_server((here.root, here.port + 1)) as listening:
        process = subprocess.Popen(small(here, "worker", WAITS), **PIPES)
        connection, _ = listening.accept()
        connection.recv(1000)
        connection.sendall(b'{"rank": 0}\n')
        time.sleep(0.3)
        assert process.poll() is None
        connection.close()
        _, said = process.communicate(timeout=60)
    assert said.startswith(
        "error: lost the connection to the root of the training at 127.0.0.1; go"
    )
    assert process.returncode == 2


@pytest.mark.parametrize("all_are_there", [False, True])
def test_ctrl_c_is_passed_on_and_the_second_time_ends_all(all_are_there):
    sent, here = [], world(1, 1)

    async def interrupted_twice():
        root = Root(here)
        await root.start(10)
        if all_are_there:
            writer = SimpleNamespace(write=sent.append)
            root.members, root.missing = dict.fromkeys(root.missing, writer), set()
        root.interrupt()
        at_once = root.outcome.done()
        root.interrupt()
        return at_once, await root.outcome

    at_once, sentence = asyncio.run(interrupted_twice())
    assert at_once != all_are_there
    assert sentence.startswith(
        "interrupted: all were stopped; go on from the last checkpoint with --resume"
    )
    told = [next(iter(json.loads(message))) for message in sent]
    assert told == (["interrupt", "stop", "stop", "stop"] if all_are_there else [])


def test_a_worker_is_interrupted_and_a_server_is_not(monkeypatch):
    """What the root passes on, as the process sees it."""
    caught = "import signal, time; signal.signal(2, lambda *_: os._exit(0))"
    caught += "; os.kill(os.getppid(), 2); time.sleep(100)"  # Ctrl-C, once all are there
    here, programs = world(), {"worker": caught, "server": WAITS}
    starts = {(role, 0): (None, small(here, role, line)) for role, line in programs.items()}
    set_scheduler(monkeypatch, WAITS)
    with pytest.raises(UserError, match="^worker 0 on 127.0.0.1 has died or lost its connection"):
        asyncio.run(supervisor.lead(here, PATIENCE, starts))


def test_what_else_knocks_at_the_port_does_no_harm(monkeypatch, tmp_path):
    here, quiet = world(1), tmp_path / "quiet"

    def noise():
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"role": "worker"}\n', b"", b"2\n"):
            time.sleep(0.1)
            with connect(here.root, here.port + 1, PATIENCE) as connection:
                connection.sendall(line)
        quiet.touch()

    def lead(*arguments):
        async def both():
            await asyncio.gather(leading(*arguments), asyncio.to_thread(noise))

        return both()

    leading = supervisor.lead
    monkeypatch.setattr(supervisor, "lead", lead)
    program = until(quiet)
    ends = together(monkeypatch, here, [program], program, scheduler=program)
    assert ends.error is None


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^port {port} is taken: choose another with --port$"):
            launch.main(["-n", "1", "--local", "--port", str(port), "--", "--tiny"])


@pytest.mark.parametrize(
    ("code", "reason", "sentence"),
    [
        (
            255,
            "ssh: connect to host b port 22: Connection timed out",
            "b cannot be reached by ssh ({}): check `ssh b true`",
        ),
        (
            2,
            "sh: 1: cd: can't cd to /here",
            "worker 0 on b ended with code 2 ({}): all others were stopped; go on from ",
        ),
    ],
)
def test_a_host_that_cannot_be_reached_or_lacks_the_folder(
    tmp_path, monkeypatch, code, reason, sentence
):
    """Every process fails in the same way: it is the worker's that is looked at."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\ncase $2 in *=server*) sleep 9;; esac\nprintf "{reason}\\r\\n" >&2\nexit '
        f"{code}\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setattr(supervisor, "GRACE", 1.0)
    with pytest.raises(UserError) as raised:
        launch.main(["-n", "1", "-H", "b", f"--ssh={ssh}", "--root=127.0.0.1", "--", "--tiny"])
    assert str(raised.value).startswith(sentence.format(reason))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-n", "2", "-H", "localhost", "--ssh", "no-such-ssh"],
            "there is no no-such-ssh on this machine: install an",
        ),
        (["-n", "2"], "say how many workers and where"),
        (["-n", "0", "--local"], "argument -n/--workers: must be at least 1, not 0"),
        (["-n", "1", "-s", "0", "--local"], "argument -s/--servers: must be at least 1, not 0"),
        (
            ["-n", "1", "-H", "x" * 70],
            "cannot find a way to xxx.*: check its name",
        ),  # no name is that long
        (["-n", "1", "-H", ","], "names no machine"),
        (["-n", "1", "--local", "--port", "65535"], "port 65535: must be from 1 to 65534"),
        (["-n", "1", "-H", "localhost", "--ssh", ""], "there is no command in --ssh"),
        (["-n", "1", "-H", "localhost", "--ssh", "ssh -o 'x"], "--ssh ssh -o 'x: is no command"),
        (
            ["-n", "1", "-H", "localhost", "--root", "192.0.2.1"],
            "cannot listen at 192.0.2.1 .*the root must be an",
        ),
    ],
)
def test_contradictory_launches(monkeypatch, arguments, sentence):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(UserError, match=sentence):
        launch.main([*arguments, "--", "--tiny"])


ROOT = {"DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"}


def test_a_file_of_hosts_that_is_no_text(tmp_path):
    (tmp_path / "hosts").write_bytes("maschine_ä\n".encode("latin-1"))
    with pytest.raises(UserError, match="hosts: cannot be read .*: give names, or a text file"):
        launch.host_names(str(tmp_path / "hosts"))


def test_more_machines_than_a_file_name_has_letters():
    machines = [f"machine-{number}" for number in range(99)]
    assert launch.host_names(",".join(machines)) == machines


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "DMLC_PS_ROOT_PORT=: set it to a number"),
        (
            {"DMLC_PS_ROOT_PORT": "9091", "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "x"},
            "DMLC_NUM_SERVER=x",
        ),
        (
            {"DMLC_PS_ROOT_PORT": "1", "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1"},
            "DMLC_PS_ROOT_URI is not set",
        ),
        ({**ROOT, "DMLC_PS_ROOT_PORT": "70000"}, "port 70000: must be from 1 to 65534"),
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
    options = launch.parse(
        ["-n", "3", "-H", str(hosts), "--ssh", "sh -x", "--", "--data", "my text"]
    )
    assert options.arguments == ["--data", "my text", "--kvstore", "dist_sync"]
    here, names = World("10.0.0.1", 9091, 3, 2), launch.host_names(str(hosts))
    command = ["train", *options.arguments]
    starts = supervisor.starts(here, names, launch.ssh_command(options.ssh), command)
    assert [(*seat, host) for seat, (host, _) in starts.items()] == [
        ("server", 0, "a"),
        ("server", 1, "me@b"),
        ("worker", 0, "a"),
        ("worker", 1, "me@b"),
        ("worker", 2, "a"),
    ]
    _, worker = starts["worker", 0]
    assert worker[:3] == ["sh", "-x", "a"]
    shell, option, line = shlex.split(worker[3])
    assert (shell, option) == ("sh", "-c")
    assert line.startswith(f"cd {Path.cwd()} && env -u OMP_NUM_THREADS ")
    for part in (
        "DMLC_ROLE=worker",
        "DMLC_WORKER_ID=0",
        "GLUONLM_WORKERS_HERE=2",
        "DMLC_NUM_WORKER=3",
        "'my text'",
    ):
        assert part in line
    assert "GLUONLM_WORKERS_HERE=1" in starts["worker", 1][1][3]
    twice = supervisor.starts(World("10.0.0.1", 9091, 3, 1), ["a", "a"], ["ssh"], command)
    assert all("GLUONLM_WORKERS_HERE=3" in line[2] for _, line in twice.values())


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(runtime, "usable_cores", lambda: 8)
    monkeypatch.setenv("GLUONLM_WORKERS_HERE", "2")
    for role, threads in (("worker", 4), ("server", 1), ("scheduler", 1)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("DMLC_ROLE", role)
        assert runtime.set_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("DMLC_ROLE", "worker")
    assert runtime.set_threads() == 3


@pytest.mark.parametrize("given", [True, False])
def test_threads_that_the_user_has_set_are_passed_on(monkeypatch, given):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(supervisor, "RUNTIME", replace(supervisor.RUNTIME, threads_given=given))
    for host in (None, "a"):
        for _, line in supervisor.starts(world(), [host], ["ssh"], ["train"]).values():
            assert "-u OMP_NUM_THREADS" in " ".join(line)
            assert ("OMP_NUM_THREADS=3" in " ".join(line)) == given


@pytest.mark.parametrize("wait", ["-5", "0", "nan"])
def test_a_time_to_wait_that_makes_no_sense_is_told(wait):
    with pytest.raises(UserError, match=f"--wait: must be at least 1, not {wait}"):
        launch.main(["-n", "1", "--local", "--wait", wait])
