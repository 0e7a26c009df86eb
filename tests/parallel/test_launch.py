"""Nodes, root and launcher: a clear end whatever happens, with small processes in the place of
those of MXNet."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gluonlm import launch
from gluonlm.parallel import node
from gluonlm.parallel.control import Node, Root, World
from gluonlm.system.errors import UserError


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


def assert_gone(mark, seconds=10):
    end = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == {}


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
        (
            "import os; os.kill(os.getpid(), 9)",
            "was killed by SIGKILL: all others were stopped; go on",
        ),
        ("import sys; sys.exit('error: no such word')", ": no such word$|^no such word$"),
        ("import sys; print('error: no such word', file=sys.stderr); sys.exit(2)", "no such word$"),
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
    assert "worker 1, worker 2 did not come within 1 seconds: check that their machines" in str(
        ends[0]
    )


def test_a_root_that_is_not_there():
    with pytest.raises(
        UserError,
        match="cannot reach the root of the training at 127.0.0.1, port .* within 0.3 seconds",
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

    monkeypatch.setattr(
        node, "command", lambda role, arguments: [sys.executable, "-S", "-c", *arguments]
    )
    with pytest.raises(UserError, match="lost the connection to the root of the training"):
        asyncio.run(both(world()))


def test_a_machine_that_falls_silent(monkeypatch):
    """A node that is connected and says nothing, as after a power cut."""
    monkeypatch.setattr("gluonlm.parallel.control.SILENCE", 1.0)
    here = world(1, 1)

    async def silent():
        await asyncio.sleep(0.5)
        _, writer = await asyncio.open_connection(here.root, here.port + 1)
        writer.write(b'{"kind": "node", "role": "worker", "number": 0, "host": "b"}\n')
        await asyncio.sleep(3)
        writer.close()

    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-S", "-c", WAITS])
    monkeypatch.setattr(launch, "GRACE", 1.0)

    async def both():
        return await asyncio.gather(launch.lead(here, 10, []), silent(), return_exceptions=True)

    assert str(asyncio.run(both())[0]).startswith("worker 0 on b has died or lost its connection")


@pytest.mark.parametrize("all_are_there", [False, True])
def test_ctrl_c_is_passed_on_and_the_second_time_ends_all(all_are_there):
    sent, here = [], world(1, 1)

    async def interrupted_twice():
        root = Root(here, 10)
        await root.start()
        if all_are_there:
            root.nodes = {
                seat: Node(*seat, "a", SimpleNamespace(write=sent.append)) for seat in root.expected
            }
        root.interrupt()
        at_once = root.outcome.done()
        root.interrupt()
        return at_once, await root.outcome

    at_once, sentence = asyncio.run(interrupted_twice())
    assert at_once != all_are_there
    assert sentence.startswith(
        "interrupted: all were stopped; go on from the last checkpoint with --resume"
    )
    assert [json.loads(message)["kind"] for message in sent[:4]] == [
        "interrupt",
        "interrupt",
        "stop",
        "stop",
    ][: len(sent)]
    assert (len(sent) > 0) == all_are_there


def test_what_else_knocks_at_the_port_does_no_harm(monkeypatch):
    here = world(1)

    async def noise():
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"kind": "node"}\n', b""):
            await asyncio.sleep(0.1)
            _, writer = await asyncio.open_connection(here.root, here.port + 1)
            writer.write(line)
            writer.close()

    monkeypatch.setattr(
        node,
        "command",
        lambda role, arguments: [sys.executable, "-S", "-c", "import time; time.sleep(1)"],
    )
    monkeypatch.setattr(launch, "command", node.command)

    async def all_of_them():
        nodes = [node.follow(here, role, [], 5) for role in ("worker", "server")]
        return await asyncio.gather(
            launch.lead(here, 10, []), noise(), *nodes, return_exceptions=True
        )

    assert asyncio.run(all_of_them()) == [None] * 4


def refused(*arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "gluonlm.launch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
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
def test_a_host_that_cannot_be_reached_or_lacks_the_folder(tmp_path, code, reason, sentence):
    """Every node fails in the same way: it is the worker's that is looked at."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\ncase $2 in *=server*) sleep 9;; esac\nprintf "{reason}\\r\\n" >&2\nexit '
        f"{code}\n"
    )
    ssh.chmod(0o755)
    said = refused("-n", "1", "-H", "b", "--ssh", str(ssh), "--root", "127.0.0.1", "--", "--tiny")
    assert said.startswith(f"error: {sentence.format(reason)}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-n", "2", "-H", "localhost", "--ssh", "no-such-ssh"],
            "there is no no-such-ssh on this machine: install an",
        ),
        (["-n", "2"], "say how many workers and where"),
        (["-n", "0", "--local"], "say how many workers and where"),
        (["-n", "1", "-s", "0", "--local"], "at least one server"),
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
    for part in (
        "DMLC_ROLE=worker",
        "DMLC_WORKER_ID=0",
        "GLUONLM_WORKERS_HERE=2",
        "DMLC_NUM_WORKER=3",
        "'my text'",
    ):
        assert part in worker[3]
    assert "GLUONLM_WORKERS_HERE=1" in nodes[3].command[3]
    twice = launch.starts(World("10.0.0.1", 9091, 3, 1), ["a", "a"], options)
    assert all("GLUONLM_WORKERS_HERE=3" in one.command[3] for one in twice)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setenv("GLUONLM_WORKERS_HERE", "2")
    monkeypatch.setattr(
        node, "RUNTIME", node.RUNTIME.__class__(*[8, None, None, False, None, False, False])
    )
    assert node.environment(world(), "worker", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "4"
    assert node.environment(world(), "server", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "1"
    assert node.environment(world(), "server", 0, "10.0.0.1")["DMLC_NODE_HOST"] == "10.0.0.1"
    monkeypatch.setattr(
        node, "RUNTIME", node.RUNTIME.__class__(*[3, None, None, False, None, False, True])
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert node.environment(world(), "worker", 0, "10.0.0.1")["OMP_NUM_THREADS"] == "3"
