"""Keeps the processes of one training together: they come together, agree, and end together.

MXNet's parameter server waits for ever for a process that has died. So each process runs under a *node*, a small
process without MXNet that holds a connection to the *root*. Whoever dies, the root hears of it at once (of a machine
that has gone silent after ``SILENCE`` seconds) and every node ends its own process.

    root (beside ps-lite's scheduler)  <-- TCP, lines of JSON -->  node of each worker or server  -->  its process

The processes of the workers talk to the root too, see :class:`gluonlm.parallel.group.Channel`: what one says there, all
are told. Like ps-lite's, these connections are for a network that you trust.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gluonlm.system.errors import UserError

BEAT, SILENCE = (
    2.0,
    30.0,
)  # seconds between two signs of life, and without one until a connection counts as lost
LINE = 1 << 26  # longest message in bytes
RESUME = "go on from the last checkpoint with --resume"


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
        numbers = {}
        for name in ("DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER"):
            text = environment.get(name, "")
            if not text.isdigit() or not int(text):
                raise UserError(
                    f"{name}={text}: set it to a number in every process of the training"
                )
            numbers[name] = int(text)
        if not environment.get("DMLC_PS_ROOT_URI"):
            raise UserError(
                "DMLC_PS_ROOT_URI is not set: set it to the address of the machine with the scheduler"
            )
        return cls(environment["DMLC_PS_ROOT_URI"], *numbers.values())

    def variables(self) -> dict[str, str]:
        """The variables that :meth:`of` reads."""
        return {
            "DMLC_PS_ROOT_URI": self.root,
            "DMLC_PS_ROOT_PORT": str(self.port),
            "DMLC_NUM_WORKER": str(self.workers),
            "DMLC_NUM_SERVER": str(self.servers),
        }

    def check_ports(self) -> None:
        """Raise a UserError when the scheduler's or the root's port cannot be had on this machine."""
        for port in (self.port, self.port + 1):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.root, port))
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise UserError(
                            f"port {port} is taken: choose another with --port"
                        ) from None
                    raise no_address(self.root, error) from None


def no_address(root: str, error: OSError) -> UserError:
    """Why nobody can listen at that address."""
    whose = "the root must be an address of the machine that starts the training"
    return UserError(f"cannot listen at {root} ({error.strerror}): {whose}")


def send(writer: asyncio.StreamWriter, **message: Any) -> None:
    """Send a message; a connection that is gone is noticed by its reader."""
    with contextlib.suppress(OSError):
        writer.write(json.dumps(message).encode() + b"\n")


async def receive(reader: asyncio.StreamReader, timeout: float | None = None) -> dict:
    """The next message.

    :raises ConnectionError: when the connection is lost or silent for ``timeout`` seconds.
    """
    try:
        line = await asyncio.wait_for(reader.readline(), timeout)
        return json.loads(line)
    except (
        asyncio.TimeoutError,
        OSError,
        ValueError,
    ):  # an empty line is the end of the connection
        raise ConnectionError from None


async def beat(writer: asyncio.StreamWriter) -> None:
    """Send a sign of life now and then, for ever."""
    while True:
        send(writer, kind="beat")
        await asyncio.sleep(BEAT)


@dataclass
class Node:
    """What the root knows of a node."""

    role: str
    number: int
    host: str
    writer: asyncio.StreamWriter
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.role} {self.number} on {self.host}"


class Root:
    """The one that all nodes are connected to. :attr:`outcome` is None when all went well, else what went wrong.

    :param patience: seconds within which all nodes must come.
    """

    def __init__(self, world: World, patience: float):
        self.world, self.patience = world, patience
        self.expected = {("worker", i) for i in range(world.workers)} | {
            ("server", i) for i in range(world.servers)
        }
        self.nodes: dict[tuple[str, int], Node] = {}
        self.interrupted = False
        self.rounds: dict[int, tuple[dict[int, Any], asyncio.Event]] = {}

    async def start(self) -> None:
        """Listen. Call once in the event loop."""
        self.outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.world.check_ports()
        server = await asyncio.start_server(
            self._serve, self.world.root, self.world.port + 1, limit=LINE
        )
        self.tasks = [
            asyncio.create_task(server.serve_forever()),
            asyncio.create_task(self._wait_for_all()),
        ]

    async def _wait_for_all(self) -> None:
        await asyncio.sleep(self.patience)
        missing = [f"{role} {number}" for role, number in sorted(self.expected - set(self.nodes))]
        if missing:
            self.fail(
                f"{', '.join(missing)} did not come within {self.patience:g} seconds: check that their machines are "
                f"up and reach {self.world.root}, port {self.world.port + 1}"
            )

    def fail(self, sentence: str) -> None:
        """End all nodes, unless the outcome is known already."""
        if not self.outcome.done():
            self.outcome.set_result(sentence)
            for node in self.nodes.values():
                send(node.writer, kind="stop", sentence=sentence)

    def interrupt(self) -> None:
        """Let all workers stop in good order, as Ctrl-C does with a single one; the second time at once."""
        if self.interrupted or len(self.nodes) < len(self.expected):
            self.fail(f"interrupted: all were stopped; {RESUME}")
        self.interrupted = True
        for node in self.nodes.values():
            send(node.writer, kind="interrupt")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await receive(reader, SILENCE)
            kind, role, number, host = (hello[name] for name in ("kind", "role", "number", "host"))
        except (ConnectionError, KeyError, TypeError):  # whatever else knocks at this port
            writer.close()
            return
        with contextlib.suppress(ConnectionError):
            if kind == "node":
                await self._stay_with(self._seat(role, number, host, writer), reader)
            else:
                await self._pass_on(number, reader, writer)
        writer.close()

    def _seat(self, role: str, number: int | None, host: str, writer: asyncio.StreamWriter) -> Node:
        free = sorted(seat for seat in self.expected - set(self.nodes) if seat[0] == role)
        seat = (role, number) if number is not None else next(iter(free), None)
        if seat not in free or self.outcome.done():
            send(
                writer,
                kind="stop",
                sentence=f"there is no place for this {role}: start as many as DMLC_NUM_* say",
            )
            raise ConnectionError
        node = self.nodes[seat] = Node(*seat, host, writer)
        send(writer, kind="seat", number=node.number)
        return node

    async def _stay_with(self, node: Node, reader: asyncio.StreamReader) -> None:
        beating = asyncio.create_task(beat(node.writer))
        try:
            while True:
                message = await receive(reader, SILENCE)
                if message["kind"] == "end":
                    node.ended = True
                    self._ended(node, message["sentence"])
        except ConnectionError:
            if not node.ended:
                self.fail(
                    f"{node} has died or lost its connection: all others were stopped; {RESUME}"
                )
        finally:
            beating.cancel()

    def _ended(self, node: Node, sentence: str | None) -> None:
        if sentence:
            self.fail(sentence)
        workers = [self.nodes.get(("worker", number)) for number in range(self.world.workers)]
        if all(worker and worker.ended for worker in workers) and not self.outcome.done():
            self.outcome.set_result(None)

    async def _pass_on(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Give each worker what all of them have said in the same round."""
        turn = 0
        while True:
            message = await receive(reader)
            values, complete = self.rounds.setdefault(turn, ({}, asyncio.Event()))
            values[number] = message["value"]
            if len(values) == self.world.workers:
                self.rounds.pop(turn - 1, None)
                complete.set()
            await complete.wait()
            send(writer, values=[values[worker] for worker in range(self.world.workers)])
            turn += 1


async def connect(
    world: World, patience: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a node to the root, trying for ``patience`` seconds.

    :raises UserError: when there is no root.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience
    while True:
        try:
            connecting = asyncio.open_connection(world.root, world.port + 1, limit=LINE)
            return await asyncio.wait_for(connecting, max(0.1, give_up - loop.time()))
        except (OSError, asyncio.TimeoutError) as error:
            if loop.time() > give_up:
                reason = os.strerror(error.errno) if getattr(error, "errno", None) else "no answer"
                raise UserError(
                    f"cannot reach the root of the training at {world.root}, port {world.port + 1}, within "
                    f"{patience:g} seconds ({reason}): check that the scheduler's machine is up and that no firewall "
                    "is between"
                ) from None
            await asyncio.sleep(0.2)
