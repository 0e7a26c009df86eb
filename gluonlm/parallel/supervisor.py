"""Starts the processes of one training and sees to it that they end together.

MXNet's parameter server waits for ever for a process that has died. So every process of a training keeps a connection,
its :class:`Lifeline`, to the :class:`Root`, which stands beside ps-lite's scheduler:

    root and scheduler  <-- TCP, lines of JSON -->  workers and servers

Whoever dies, its connection is closed at once (of a machine that has gone silent after ``SILENCE`` seconds), and the
root tells all others to end. Like ps-lite's, these connections are for a network that you trust.

>>> asyncio.run(lead(world, patience=60, starts=[...]))         # the root; starts processes here and by ssh
>>> with Lifeline(world, "worker", patience=60) as rank: ...    # in each of them
"""

import asyncio
import contextlib
import errno
import json
import os
import random
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from gluonlm import RUNTIME
from gluonlm.system.errors import UserError

SILENCE = 30  # seconds after which the connection to a silent machine counts as lost
GRACE = 20.0  # seconds for servers to end after the workers
TAIL = 30  # lines of stderr that are kept to explain a failure
LINE = 1 << 26  # longest line in bytes
RESUME = "go on from the last checkpoint with --resume"
STOPPED = f"all others were stopped; {RESUME}"
PASSED_ON = ("DMLC_", "GLUONLM_", "MXNET_", "PS_", "PYTHONPATH", "KMP_", "OMP_")  # by ssh


@dataclass(frozen=True)
class World:
    """Where the root is and how many processes there are, as ps-lite's environment variables say it."""

    root: str
    port: int  # of ps-lite's scheduler; the root's own is the next one
    workers: int
    servers: int

    def __post_init__(self):
        if not 1 <= self.port <= 65534:
            raise UserError(
                f"port {self.port}: must be from 1 to 65534, as the next one is needed, too"
            )

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "World":
        """Read the variables.

        :raises UserError: when one is missing or no number.
        """
        numbers = []
        for name in ("DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER"):
            text = environment.get(name, "")
            if not text.isdigit() or not int(text):
                raise UserError(
                    f"{name}={text}: set it to a number in every process of the training"
                )
            numbers.append(int(text))
        if not environment.get("DMLC_PS_ROOT_URI"):
            raise UserError(
                "DMLC_PS_ROOT_URI is not set: set it to the address of the machine with the scheduler"
            )
        return cls(environment["DMLC_PS_ROOT_URI"], *numbers)

    def variables(self) -> dict[str, str]:
        """The variables that :meth:`of` reads."""
        return {
            "DMLC_PS_ROOT_URI": self.root,
            "DMLC_PS_ROOT_PORT": str(self.port),
            "DMLC_NUM_WORKER": str(self.workers),
            "DMLC_NUM_SERVER": str(self.servers),
        }


def is_free(address: str, port: int) -> bool:
    """Whether one can listen at a port of this machine.

    :raises UserError: when the machine has no such address.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            whose = "the root must be an address of the machine that starts the training"
            raise UserError(f"cannot listen at {address} ({error.strerror}): {whose}") from None
    return True


def free_port(address: str) -> int:
    """A free port whose successor is free too.

    :raises UserError: when this machine has no such address.
    """
    while True:
        port = random.randrange(20_000, 60_000)
        if is_free(address, port) and is_free(address, port + 1):
            return port


def own_address(hosts: list[str]) -> str:
    """The address of this machine that the others reach; asks the routing table and sends nothing."""
    addresses = []
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((host.rpartition("@")[2], 9))
            except (OSError, UnicodeError) as error:
                raise UserError(
                    f"cannot find a way to {host} ({error}): check its name, or give this machine's "
                    "address with --root"
                ) from None
            addresses.append(probe.getsockname()[0])
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])


class Root:
    """Holds the other ends of all lifelines. :attr:`outcome` becomes None when all went well, else what went wrong.

    :param patience: seconds within which all processes must come.
    """

    def __init__(self, world: World, patience: float):
        self.world, self.patience = world, patience
        counts = {"scheduler": 1, "server": world.servers, "worker": world.workers}
        self.missing = {(role, rank) for role, count in counts.items() for rank in range(count)}
        self.members: dict[tuple[str, int], asyncio.StreamWriter] = {}  # by role and rank
        self.running = set(self.missing)
        self.interrupted = False

    async def start(self) -> None:
        """Listen. Call once in the event loop."""
        loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[str | None] = loop.create_future()
        for port in (self.world.port, self.world.port + 1):
            if not is_free(self.world.root, port):
                raise UserError(f"port {port} is taken: choose another with --port")
        self.server = await asyncio.start_server(
            self._serve, self.world.root, self.world.port + 1, limit=LINE
        )
        loop.call_later(self.patience, self._check_all_came)

    def _check_all_came(self) -> None:
        if self.missing:
            names = ", ".join(f"{role} {rank}" for role, rank in sorted(self.missing))
            self.end(
                f"{names} did not come within {self.patience:g} seconds: check that their machines "
                f"are up and reach {self.world.root}, port {self.world.port + 1}"
            )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stay with one process from its first line to its last."""
        keep_alive(writer.get_extra_info("socket"))
        seat = None
        # whatever else knocks at this port does no harm
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
            hello = json.loads(await asyncio.wait_for(reader.readline(), SILENCE))
            seat = self._take_seat(hello["role"], hello["rank"], writer)
        if seat:
            await self._wait_for_end(seat, reader)
        writer.close()

    def _take_seat(
        self, role: str, rank: int | None, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
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

    async def _wait_for_end(self, seat: tuple[str, int], reader: asyncio.StreamReader) -> None:
        try:
            sentence = json.loads(await reader.readline())["end"]
        except (OSError, ValueError):  # lost: what has started it knows more, and has a second
            died = f"{self.name(*seat)} has died or lost its connection: {STOPPED}"
            asyncio.get_running_loop().call_later(1.0, self.end, died)
            return
        self.running.remove(seat)
        if sentence or not self.running:
            self.end(sentence)
        elif all(role != "worker" for role, _ in self.running):
            asyncio.get_running_loop().call_later(GRACE, self.end, None)

    def name(self, role: str, rank: int, host: str | None = None) -> str:
        """What a process is called in sentences; ``host`` is where it was started."""
        member = self.members.get((role, rank))
        address = member.get_extra_info("peername")[0] if member else host or "this machine"
        return f"{role} {rank} on {address}"

    def end(self, sentence: str | None) -> None:
        """Set the outcome, unless it is known already, and end all processes if it is a bad one."""
        if not self.outcome.done():
            self.outcome.set_result(sentence)
            for member in self.members.values() if sentence else ():
                send(member, stop=sentence)

    def interrupt(self) -> None:
        """Let all workers stop in good order, as Ctrl-C does with a single one; the second time at once."""
        if self.interrupted or self.missing:
            self.end(f"interrupted: all were stopped; {RESUME}")
            return
        self.interrupted = True
        for (role, _), member in self.members.items():
            if role == "worker":  # the servers end when the workers have ended
                send(member, interrupt=True)


def send(writer: asyncio.StreamWriter, **message: object) -> None:
    """Send a line; that a connection is gone is noticed by its reader."""
    writer.write(json.dumps(message).encode() + b"\n")


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel close a connection whose other end has been silent for ``SILENCE`` seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"KEEPIDLE": SILENCE // 3, "KEEPINTVL": SILENCE // 6, "KEEPCNT": 4}
    for name, value in (options | {"USER_TIMEOUT": 1000 * SILENCE}).items():
        if hasattr(socket, f"TCP_{name}"):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), max(1, value))


class Lifeline:
    """A process's connection to the root, as a with-block around its work: it ends when another one fails.

    >>> with Lifeline(World.of(os.environ), "worker", patience=60) as rank: ...

    Entering waits for all processes of the training and sets ``DMLC_NODE_HOST`` for ps-lite. An error in the block is
    told to all, and ends this process at once.

    :raises UserError: when there is no root, no place for this process, or others do not come.
    """

    def __init__(self, world: World, role: str, patience: float):
        self.world, self.role, self.ended = world, role, False
        self.connection = connect(world, patience)
        self.file = self.connection.makefile("rwb")

    def __enter__(self) -> int:
        wanted = os.environ.get(f"DMLC_{self.role.upper()}_ID", "")
        self._send(role=self.role, rank=int(wanted) if wanted.isdigit() else None)
        answer = self._receive()
        if "stop" in answer:
            raise UserError(answer["stop"])
        host = os.environ.setdefault("DMLC_NODE_HOST", self.connection.getsockname()[0])
        self.rank, self.name = answer["rank"], f"{self.role} {answer['rank']} on {host}"
        threading.Thread(target=self._obey, daemon=True).start()
        return self.rank

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
        self.ended = True
        sentence = None
        if isinstance(error, UserError):
            first = (self.role, self.rank) == ("worker", 0)  # it speaks for all
            sentence = str(error) if first else f"{self.name}: {error}"
        elif error is not None and not (isinstance(error, SystemExit) and not error.code):
            reason = traceback.format_exception_only(kind, error)[-1].strip()
            sentence = f"{self.name} ended with code 1 ({reason}): {STOPPED}"
        self._send(end=sentence)
        if sentence:
            exit_now(error)


def connect(world: World, patience: float) -> socket.socket:
    """Connect to the root, trying for ``patience`` seconds.

    :raises UserError: when there is none.
    """
    give_up = time.monotonic() + patience
    while True:
        try:
            left = max(0.1, give_up - time.monotonic())
            connection = socket.create_connection((world.root, world.port + 1), left)
        except OSError as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"cannot reach the root of the training at {world.root}, port {world.port + 1}, "
                    f"within {patience:g} seconds ({error.strerror or 'no answer'}): check that the "
                    "scheduler's machine is up and that no firewall is between"
                ) from None
            time.sleep(0.2)
        else:
            connection.settimeout(None)
            keep_alive(connection)
            return connection


def exit_now(error: BaseException) -> NoReturn:
    """Print an error as a command does and end at once: MXNet would wait for workers that no longer come."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


def serve(role: str, patience: float) -> None:
    """Be ps-lite's scheduler or a server until the workers have ended; importing mxnet is all that it takes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with Lifeline(World.of(os.environ), role, patience):
        import mxnet  # noqa: F401


@dataclass(frozen=True)
class Start:
    """A process to be started: where, how, and in which environment."""

    role: str
    rank: int
    host: str | None  # None for this machine
    command: list[str]
    environment: dict[str, str]


def starts(
    world: World, hosts: list[str | None], ssh: list[str], command: list[str]
) -> list[Start]:
    """The servers and workers to be started: they go around the machines.

    :param hosts: names of machines, or [None] for this one. :param command: what each runs.
    """
    inherited = dict(os.environ)
    if not RUNTIME.threads_given:
        inherited.pop("OMP_NUM_THREADS", None)  # ours, not the user's
    result = []
    for role, count in (("server", world.servers), ("worker", world.workers)):
        for rank in range(count):
            host = hosts[rank % len(hosts)]
            here = sum(hosts[i % len(hosts)] == host for i in range(world.workers))
            variables = {
                **{name: text for name, text in inherited.items() if name.startswith(PASSED_ON)},
                **world.variables(),
                "DMLC_ROLE": role,
                f"DMLC_{role.upper()}_ID": str(rank),
                "GLUONLM_WORKERS_HERE": str(here),
            }
            if host:
                line = [*ssh, host, remote_line(command, variables)]
                result.append(Start(role, rank, host, line, inherited))
            else:
                result.append(Start(role, rank, None, command, inherited | variables))
    return result


def remote_line(command: list[str], variables: dict[str, str]) -> str:
    """The command for the shell of another machine, which stays to tell which signal has killed it."""
    there = shlex.join(["env", *(f"{name}={text}" for name, text in variables.items()), *command])
    return shlex.join(["sh", "-c", f"cd {shlex.quote(os.getcwd())} && {there}; exit $?"])


async def lead(world: World, patience: float, processes: list[Start]) -> None:
    """Run the root and ps-lite's scheduler, start the processes, and see to it that all end.

    :raises UserError: when something fails, after all have been stopped.
    """
    root = Root(world, patience)
    await root.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, root.interrupt)
    children = [
        asyncio.create_task(run_child(root, one))
        for one in (scheduler(world, patience), *processes)
    ]
    sentence = await root.outcome
    await asyncio.wait(children, timeout=GRACE / 4 if sentence else GRACE)
    for child in children:
        child.cancel()
    await asyncio.gather(*children, return_exceptions=True)
    if sentence:
        raise UserError(sentence)


def scheduler(world: World, patience: float) -> Start:
    """ps-lite's scheduler, on this machine."""
    program = f"from gluonlm.parallel.supervisor import serve; serve('scheduler', {patience})"
    variables = {**world.variables(), "DMLC_ROLE": "scheduler"}
    return Start("scheduler", 0, None, [sys.executable, "-c", program], {**os.environ, **variables})


async def run_child(root: Root, start: Start) -> None:
    """Start a process, in a session that Ctrl-C in a terminal does not reach, and tell the root if it fails.

    Only what the first worker writes is shown; of the others the last lines, if they fail.
    """
    first = (start.role, start.rank) == ("worker", 0)
    process = await asyncio.create_subprocess_exec(
        *start.command,
        env=start.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=None if first else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE,
        start_new_session=True,
    )
    tail = deque(maxlen=TAIL)
    try:
        async for line in process.stderr:
            tail.append(line.decode(errors="replace").rstrip("\r\n"))  # ssh ends lines with both
            if first and not tail[-1].startswith("error: "):
                print(tail[-1], file=sys.stderr, flush=True)
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
    if code:
        root.end(explain(root.name(start.role, start.rank, start.host), start, code, list(tail)))


def explain(name: str, start: Start, code: int, tail: list[str]) -> str:
    """What has happened to a process: its own sentence, or what is known of its exit code."""
    first = (start.role, start.rank) == ("worker", 0)
    for line in tail:
        if line.startswith("error: "):
            said = line.removeprefix("error: ")
            return said if first else f"{name}: {said}"
    last = f" ({tail[-1]})" if tail else ""
    if code == 255 and start.host:  # ssh's own
        return f"{start.host} cannot be reached by ssh{last}: check `ssh {start.host} true`"
    if not first and tail:
        print("\n".join(tail), file=sys.stderr, flush=True)
    number = -code if code < 0 else code - 128 if start.host else 0  # as a shell tells it
    if number > 0:
        return f"{name} was killed by {signal.Signals(number).name}: {STOPPED}"
    return f"{name} ended with code {code}{last}: {STOPPED}"
