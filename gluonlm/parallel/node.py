"""One process of a training and the node that watches it (see :mod:`gluonlm.parallel.control`).

>>> asyncio.run(follow(World.of(os.environ), "worker", ["--data", "ptb"], patience=60))
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence

from gluonlm import RUNTIME
from gluonlm.parallel.control import LINE, RESUME, SILENCE, World, beat, connect, receive, send
from gluonlm.system.errors import UserError

PR_SET_PDEATHSIG = 1  # of prctl(2)
TAIL = 30  # lines of stderr that are kept to explain a failure


class Child:
    """A process that is watched: what it writes to stderr last is kept, and it does not survive this one.

    :param show: pass its output on; otherwise it is only shown if it fails.
    """

    def __init__(self, process: asyncio.subprocess.Process, show: bool):
        self.process, self.show, self.tail = process, show, deque(maxlen=TAIL)
        self.interrupted = False

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: dict[str, str], show: bool = True
    ) -> "Child":
        """Start it in a session of its own, which Ctrl-C in a terminal does not reach."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=None if show else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        return cls(process, show)

    async def wait(self) -> int:
        """Pass its stderr on until it has ended; the exit code, negative for a signal."""
        async for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip("\r\n")  # ssh ends its lines with both
            self.tail.append(text)
            if self.show and not text.startswith("error: "):
                print(text, file=sys.stderr, flush=True)
        return await self.process.wait()

    def why(self, name: str, code: int) -> str:
        """What has happened to the process called ``name``: its own sentence, or what is known of the code."""
        for line in self.tail:
            if line.startswith("error: "):
                return f"{name}: {line.removeprefix('error: ')}".removeprefix(": ")
        if not self.show:
            print("\n".join(self.tail), file=sys.stderr, flush=True)
        last = f" ({self.tail[-1]})" if self.tail else ""
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with code {code}{last}"
        )
        return f"{name or 'worker 0'} {how}: all others were stopped; {RESUME}"

    def interrupt(self) -> None:
        """Ask it to stop in good order: once, since it takes a second time for impatience."""
        if not self.interrupted:
            self.interrupted = True
            self.signal(signal.SIGINT)

    async def kill(self) -> None:
        """End it at once, if it has not ended."""
        self.signal(signal.SIGKILL)
        await self.process.communicate()

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def command(role: str, arguments: Sequence[str]) -> list[str]:
    """What a process of the role runs; importing mxnet is all that a server or scheduler needs."""
    if role == "worker":
        return [sys.executable, "-m", "gluonlm.train", *arguments]
    return [sys.executable, "-c", "import gluonlm, mxnet"]


def environment(world: World, role: str, number: int, host: str) -> dict[str, str]:
    """The environment variables of a process: what ps-lite needs, and a share of this machine's cores.

    :param host: the address by which this machine reaches the root, and by which the others reach it.
    """
    own = {
        **world.variables(),
        "DMLC_ROLE": role,
        "GLUONLM_WORKER": str(number),
        "GLUONLM_HOST": f"{socket.gethostname()} ({host})",
    }
    if not RUNTIME.threads_given:
        workers = (
            int(os.environ.get("GLUONLM_WORKERS_HERE", "1"))
            if role == "worker"
            else RUNTIME.threads
        )
        own["OMP_NUM_THREADS"] = str(max(1, RUNTIME.threads // workers))
    return {"DMLC_NODE_HOST": host, **os.environ, **own}


async def follow(world: World, role: str, arguments: Sequence[str], patience: float) -> None:
    """Run a worker or a server until it ends, or until another process of the training fails.

    :param arguments: of gluonlm.train.
    :raises UserError: when this or another one fails.
    """
    reader, writer = await connect(world, patience)
    host = writer.get_extra_info("sockname")[0]
    number = await take_seat(world, role, host, reader, writer, patience)
    first = role == "worker" and number == 0
    child = await Child.start(
        command(role, arguments), environment(world, role, number, host), first
    )
    for signals in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signals, pass_on, child, role)
    tasks = [
        asyncio.create_task(one)
        for one in (child.wait(), obey(reader, child, role, world), beat(writer))
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ending, obeying, _ = tasks
        if obeying.done():
            obeying.result()  # raises what the root has said
        name = "" if first else f"{role} {number} on {host}"  # the first worker speaks for all
        sentence = child.why(name, ending.result()) if ending.result() else None
        send(writer, kind="end", sentence=sentence)
        await writer.drain()
        if sentence:
            raise UserError(sentence)
    finally:
        writer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await child.kill()


async def take_seat(world, role, host, reader, writer, patience: float) -> int:
    """Tell the root that a worker or server is here; its number."""
    wanted = os.environ.get(f"DMLC_{role.upper()}_ID", "")
    send(
        writer, kind="node", role=role, number=int(wanted) if wanted.isdigit() else None, host=host
    )
    with lost(world):
        answer = await receive(reader, patience)
    if answer["kind"] == "stop":
        raise UserError(answer["sentence"])
    return answer["number"]


def pass_on(child: Child, role: str) -> None:
    """Let a worker stop in good order; the servers end when the workers have ended."""
    if role == "worker":
        child.interrupt()


@contextlib.contextmanager
def lost(world: World) -> Iterator[None]:
    """A block in which a broken connection to the root is told in a sentence."""
    try:
        yield
    except ConnectionError:
        raise UserError(
            f"lost the connection to the root of the training at {world.root}; {RESUME}"
        ) from None


async def obey(reader: asyncio.StreamReader, child: Child, role: str, world: World) -> None:
    """Do what the root says.

    :raises UserError: when it says that something has failed, or is gone.
    """
    with lost(world):
        while True:
            message = await receive(reader, SILENCE)
            if message["kind"] == "interrupt":
                pass_on(child, role)
            elif message["kind"] == "stop":
                raise UserError(message["sentence"])
