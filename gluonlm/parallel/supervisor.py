"""Starts the processes of one training and sees to it that they end together.

MXNet's parameter server waits for ever for a process that has died. So every process of a training
keeps a connection, its :class:`Lifeline`, to the :class:`Root`, which stands beside the scheduler:

    root and scheduler  <-- TCP, lines of JSON -->  workers and servers

When one dies, its connection closes at once (of a silent machine after ``SILENCE`` seconds), and
the root ends all others. Like ps-lite's, these connections are for a network that you trust.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from gluonlm import RUNTIME
from gluonlm.system.errors import UserError, exit_now
from gluonlm.system.network import connect, is_free, keep_alive

SILENCE = 30  # seconds after which the connection to a silent machine counts as lost
GRACE = 20.0  # seconds for servers to end after the workers
TAIL, LINE = 30, 1 << 26  # lines of stderr that explain a failure, bytes of the longest line
VARIABLES = ("DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
PASSED_ON = ("DMLC_", "GLUONLM_", "MXNET_", "PS_", "PYTHONPATH", "KMP_", "OMP_")  # by ssh
SCHEDULER = "from gluonlm.parallel.supervisor import serve; serve('scheduler', float('{}'))"
THREADS = "OMP_NUM_THREADS"
RESUME = "go on from the last checkpoint with --resume"
STOPPED = f"all others were stopped; {RESUME}"
Seat = tuple[str, int]  # role and rank
FIRST = ("worker", 0)  # it speaks for all


@dataclass(frozen=True)
class World:
    """Where the root is and how many processes there are: ps-lite's environment variables."""

    root: str
    port: int  # of ps-lite's scheduler; the root's own is the next one
    workers: int
    servers: int

    def __post_init__(self):
        if not 1 <= self.port <= 65534:
            raise UserError(f"port {self.port}: must be from 1 to 65534, the next is needed, too")

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "World":
        """Read the variables; raises a UserError when one is missing or no number."""
        root, *numbers = (environment.get(name, "") for name in VARIABLES)
        for name, text in zip(VARIABLES[1:], numbers, strict=True):
            if not text.isdigit() or not int(text):
                raise UserError(f"{name}={text}: set it to a number in all of the processes")
        if not root:
            raise UserError(f"{VARIABLES[0]} is not set: set it to the address of the scheduler")
        return cls(root, *map(int, numbers))

    def variables(self) -> dict[str, str]:
        """The variables that :meth:`of` reads."""
        return dict(zip(VARIABLES, map(str, astuple(self)), strict=True))


class Root:
    """Holds the other ends of all lifelines; its future ``outcome`` is what went wrong, or None."""

    def __init__(self, world: World):
        self.world = world
        counts = {"scheduler": 1, "server": world.servers, "worker": world.workers}
        self.missing = {(role, rank) for role, count in counts.items() for rank in range(count)}
        self.running = set(self.missing)
        self.members: dict[Seat, asyncio.StreamWriter] = {}
        self.interrupted = False

    async def start(self, patience: float) -> None:
        """Listen; all processes must come within ``patience`` seconds."""
        loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[str | None] = loop.create_future()
        address, port = self.world.root, self.world.port
        for needed in (port, port + 1):
            if not is_free(address, needed):
                raise UserError(f"port {needed} is taken: choose another with --port")
        self.server = await asyncio.start_server(self._serve, address, port + 1, limit=LINE)
        loop.call_later(patience, self._check_all_came, patience)

    def _check_all_came(self, patience: float) -> None:
        if self.missing:
            names = ", ".join(f"{role} {rank}" for role, rank in sorted(self.missing))
            late = f"{names} did not come within {patience:g} s"
            root = f"{self.world.root}, port {self.world.port + 1}"
            self.end(f"{late}: check that their machines are up and reach {root}")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stay with one process from its first line to its last."""
        keep_alive(writer.get_extra_info("socket"), SILENCE)
        seat = None
        # whatever else knocks at this port does no harm
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
            hello = json.loads(await asyncio.wait_for(reader.readline(), SILENCE))
            seat = self._take_seat(hello["role"], hello["rank"], writer)
        if seat:
            await self._wait_for_end(seat, reader)
        writer.close()

    def _take_seat(self, role: str, rank: int | None, writer: asyncio.StreamWriter) -> Seat | None:
        """Note who has come; when all are there, tell each its rank."""
        free = sorted(seat for seat in self.missing if seat[0] == role and rank in (None, seat[1]))
        if not free or self.outcome.done():
            send(writer, stop=f"there is no place for this {role}: start as many as DMLC_NUM_* say")
            return None
        self.missing.remove(free[0])
        self.members[free[0]] = writer
        if not self.missing:
            for (_, number), member in self.members.items():
                send(member, rank=number)
        return free[0]

    async def _wait_for_end(self, seat: Seat, reader: asyncio.StreamReader) -> None:
        later = asyncio.get_running_loop().call_later
        try:
            sentence = json.loads(await reader.readline())["end"]
        except (OSError, ValueError):  # lost: what has started it knows more, and has a second
            name = f"{seat[0]} {seat[1]} on {self.members[seat].get_extra_info('peername')[0]}"
            later(1.0, self.end, f"{name} has died or lost its connection: {STOPPED}")
            return
        self.running.remove(seat)
        if sentence or not self.running:
            self.end(sentence)
        elif all(role != "worker" for role, _ in self.running):
            later(GRACE, self.end, None)

    def end(self, sentence: str | None) -> None:
        """Set the outcome, unless it is known already, and end all processes if it is a bad one."""
        if not self.outcome.done():
            self.outcome.set_result(sentence)
            for member in self.members.values() if sentence else ():
                send(member, stop=sentence)

    def interrupt(self) -> None:
        """Let all workers stop in good order, as Ctrl-C does with one; the second time at once."""
        if self.interrupted or self.missing:
            self.end(f"interrupted: all were stopped; {RESUME}")
            return
        self.interrupted = True
        for rank in range(self.world.workers):  # the servers end when the workers have ended
            send(self.members["worker", rank], interrupt=True)


def send(writer: asyncio.StreamWriter, **message: object) -> None:
    """Send a line; that a connection is gone is noticed by its reader."""
    writer.write(json.dumps(message).encode() + b"\n")


class Lifeline:
    """A process's connection to the root, as a with-block around its work: entering waits for all
    processes, or raises a UserError, and gives the rank. The process ends when another one fails;
    an error in the block is told to all and ends it."""

    def __init__(self, world: World, role: str, patience: float):
        self.world, self.role, self.patience, self.ended = world, role, patience, False

    def __enter__(self) -> int:
        connection = connect(self.world.root, self.world.port + 1, self.patience)
        keep_alive(connection, SILENCE)
        self.file = connection.makefile("rwb")
        wanted = os.environ.get(f"DMLC_{self.role.upper()}_ID", "")
        self._send(role=self.role, rank=int(wanted) if wanted.isdigit() else None)
        answer = self._receive()
        if "stop" in answer:
            raise UserError(answer["stop"])
        host = os.environ.setdefault("DMLC_NODE_HOST", connection.getsockname()[0])  # for ps-lite
        self.seat = self.role, answer["rank"]
        self.name = f"{self.role} {answer['rank']} on {host}"
        threading.Thread(target=self._obey, daemon=True).start()
        return answer["rank"]

    def _send(self, **message: object) -> None:
        with contextlib.suppress(OSError):
            self.file.write(json.dumps(message).encode() + b"\n")
            self.file.flush()

    def _receive(self) -> dict:
        try:
            return json.loads(self.file.readline())
        except (OSError, ValueError):  # an empty line is the end of the connection
            where = f"the root of the training at {self.world.root}"
            return {"stop": f"lost the connection to {where}; {RESUME}"}

    def _obey(self) -> None:
        """Do what the root says."""
        while "interrupt" in (message := self._receive()):
            os.kill(os.getpid(), signal.SIGINT)
        if not self.ended:
            print(f"error: {message['stop']}", file=sys.__stderr__, flush=True)
            os._exit(2)

    def __exit__(self, kind, error, trace):
        self.ended, sentence = True, None
        if isinstance(error, UserError):
            sentence = str(error) if self.seat == FIRST else f"{self.name}: {error}"
        elif error is not None and not (isinstance(error, SystemExit) and not error.code):
            reason = traceback.format_exception_only(kind, error)[-1].strip()
            sentence = f"{self.name} ended with code 1 ({reason}): {STOPPED}"
        self._send(end=sentence)
        if sentence:
            exit_now(error)


def serve(role: str, patience: float) -> None:
    """Be ps-lite's scheduler or a server until the workers have ended: importing mxnet does it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with Lifeline(World.of(os.environ), role, patience):
        import mxnet  # noqa: F401


def starts(
    world: World, hosts: list[str | None], ssh: list[str], command: list[str]
) -> dict[Seat, tuple[str | None, list[str]]]:
    """Host and command of each server and worker; they go around the hosts (None: this machine)."""
    found = {}
    for role, count in (("server", world.servers), ("worker", world.workers)):
        for rank in range(count):
            host = hosts[rank % len(hosts)]
            here = sum(hosts[i % len(hosts)] == host for i in range(world.workers))
            own = {f"DMLC_{role.upper()}_ID": rank, "GLUONLM_WORKERS_HERE": here}
            line = with_variables(command, world, role, **own)
            if host:  # the shell there stays, to tell which signal has killed the process
                line = f"cd {shlex.quote(os.getcwd())} && {shlex.join(line)}; exit $?"
                line = [*ssh, host, shlex.join(["sh", "-c", line])]
            found[role, rank] = host, line
    return found


def with_variables(command: list[str], world: World, role: str, **more: int) -> list[str]:
    """A command that sets its environment variables itself, here or on another machine."""
    values = {name: text for name, text in os.environ.items() if name.startswith(PASSED_ON)}
    if not RUNTIME.threads_given:
        values.pop(THREADS, None)  # ours, not the user's
    values |= {**world.variables(), "DMLC_ROLE": role, **more}
    return ["env", "-u", THREADS, *(f"{name}={text}" for name, text in values.items()), *command]


async def lead(world: World, patience: float, processes: dict) -> None:
    """Run the root and the scheduler, start what :func:`starts` gives, and wait until all ended; a
    UserError when something has failed, after all have been stopped."""
    root = Root(world)
    await root.start(patience)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, root.interrupt)
    program = [sys.executable, "-c", SCHEDULER.format(patience)]
    processes = {("scheduler", 0): (None, with_variables(program, world, "scheduler")), **processes}
    children = [asyncio.create_task(run_child(root, *one)) for one in processes.items()]
    sentence = await root.outcome
    await asyncio.wait(children, timeout=GRACE / 4 if sentence else GRACE)
    if sentence:  # what still runs is cancelled by asyncio.run
        raise UserError(sentence)


async def run_child(root: Root, seat: Seat, how: tuple[str | None, list[str]]) -> None:
    """Start a process, in a session that Ctrl-C does not reach, and tell the root if it fails. Only
    what the first worker writes is shown; of the others the last lines, if they fail."""
    (host, command), show, pipes = how, seat == FIRST, asyncio.subprocess
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=pipes.DEVNULL,
        stdout=None if show else pipes.DEVNULL,
        stderr=pipes.PIPE,
        limit=LINE,
        start_new_session=True,
    )
    tail = deque(maxlen=TAIL)
    try:
        async for line in process.stderr:
            tail.append(line.decode(errors="replace").rstrip("\r\n"))  # ssh ends lines with both
            if show and not tail[-1].startswith("error: "):
                print(tail[-1], file=sys.stderr, flush=True)
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
    if code:
        root.end(explain(seat, host, code, list(tail)))


def explain(seat: Seat, host: str | None, code: int, tail: list[str]) -> str:
    """What has happened to a process: its own sentence, or what is known of its exit code."""
    name = f"{seat[0]} {seat[1]} on {host or '127.0.0.1'}"
    for line in tail:
        if line.startswith("error: "):
            said = line.removeprefix("error: ")
            return said if seat == FIRST else f"{name}: {said}"
    last = f" ({tail[-1]})" if tail else ""
    if code == 255 and host:  # ssh's own
        return f"{host} cannot be reached by ssh{last}: check `ssh {host} true`"
    if tail and seat != FIRST:  # not yet shown
        print("\n".join(tail), file=sys.stderr, flush=True)
    how = f"ended with code {code}{last}"
    number = -code if code < 0 else code - 128 if host else 0  # as the shell there tells it
    if number > 0:
        how = f"was killed by {signal.Signals(number).name}"
    return f"{name} {how}: {STOPPED}"
