"""A training by two workers on this machine, the first of which may be killed in the middle.

All processes are forks of the harness, started as a job scheduler would: a root, ps-lite's
scheduler, a server and the workers. Only the first worker writes files.
"""

import asyncio
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from robustness_process import SECONDS, Outcome, Place, kill_before

from gluonlm import launch
from gluonlm.cli import run
from gluonlm.parallel.supervisor import Lifeline, Root, World
from gluonlm.system.errors import UserError
from gluonlm.system.network import free_port

WORKERS = 2


def call_workers(argv: list[str], place: Place) -> Outcome:
    """Run ``python -m gluonlm.launch -n 2 --local -- OPTIONS`` and wait until all have ended.

    :param argv: "train" and its options.
    """
    world = World("127.0.0.1", free_port("127.0.0.1"), WORKERS, 1)
    works = {
        "root": lambda: asyncio.run(lead(world)),
        "scheduler": lambda: serve(world, "scheduler"),
        "server": lambda: serve(world, "server"),
        "worker 0": lambda: work(argv, 0, place),
        "worker 1": lambda: work(argv, 1, Place(place.folder)),
    }
    processes = {name: fork(name, one, world, place.folder) for name, one in works.items()}
    codes = wait_for(processes)
    said = {name: (place.folder / f"{name}.txt").read_text() for name in works}
    if None in codes.values():
        return Outcome("hang", str(codes))
    if any("Traceback" in text for text in said.values()):
        return Outcome("traceback", "\n".join(said.values()))
    if codes["worker 0"] == -signal.SIGKILL:
        return Outcome("killed", said["root"])
    if not any(codes.values()):
        return Outcome("fine", said["worker 0"])
    ended = "sentence" if set(codes.values()) <= {0, 2} else "traceback"
    return Outcome(ended, f"{codes} {said}")


def fork(name: str, work: Callable[[], None], world: World, folder: Path) -> int:
    """Do a work in a new process, as a command: what it says goes to a file."""
    if process := os.fork():
        return process
    try:
        os.chdir(folder)
        file = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(world.variables(), DMLC_ROLE=name.partition(" ")[0])
        run(lambda _: work())
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code or 0)
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)


async def lead(world: World) -> None:
    """Be the root until all have ended."""
    root = Root(world)
    await root.start(SECONDS)
    if sentence := await root.outcome:
        raise UserError(sentence)


def serve(world: World, role: str) -> None:
    """Be ps-lite's scheduler or its server, as what imports mxnet in such a role."""
    with Lifeline(world, role, SECONDS):
        importlib.reload(importlib.import_module("mxnet.kvstore.kvstore_server"))


def work(argv: list[str], rank: int, place: Place) -> None:
    """Be a worker."""
    os.environ["DMLC_WORKER_ID"] = str(rank)
    if place.kill_at:
        kill_before(place.kill_at, place.folder)
    launch.main([f"--wait={SECONDS}", "--", *argv[1:]])


def wait_for(processes: dict[str, int]) -> dict[str, int | None]:
    """The exit codes of processes, negative for signals; None for those that had to be killed."""
    codes: dict[str, int | None] = dict.fromkeys(processes)
    deadline = time.monotonic() + SECONDS
    while None in codes.values() and time.monotonic() < deadline:
        for name in [name for name, code in codes.items() if code is None]:
            process, status = os.waitpid(processes[name], os.WNOHANG)
            if process:
                codes[name] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    for name in [name for name, code in codes.items() if code is None]:
        os.kill(processes[name], signal.SIGKILL)
        os.waitpid(processes[name], 0)
    return codes
