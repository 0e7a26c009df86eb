"""Train on several machines, or with several processes on this one.

    python -m gluonlm.launch -n 2 --local -- --data ptb --tied              # two workers, one server, on this machine
    python -m gluonlm.launch -n 4 -s 2 -H a,b -- --data wikitext-103        # by ssh; -H takes a file of names too
    python -m gluonlm.launch -n 4 -s 2 -H a,b -- --resume runs/NAME

The second part is what gluonlm.train takes; ``--batch-size`` is the batch of all workers together. The machine that
launches runs ps-lite's scheduler; each machine needs gluonlm, its data and the working folder at the same paths. Only
worker 0 writes, on the first machine. A job scheduler starts the same command in each process instead, with
DMLC_ROLE (scheduler, server or worker), DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, DMLC_NUM_WORKER and DMLC_NUM_SERVER set,
and DMLC_WORKER_ID if it matters which worker is number 0:

    python -m gluonlm.launch -- --data wikitext-103

So does the launcher in MXNet's wheel, once it has the Thread.isAlive again that Python 3.9 dropped.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from gluonlm import RUNTIME
from gluonlm.cli import Parser, run
from gluonlm.parallel.control import Root, World, no_address
from gluonlm.parallel.node import Child, command, environment, follow
from gluonlm.system.errors import UserError

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10"
PASSED_ON = (
    "DMLC_",
    "GLUONLM_",
    "MXNET_",
    "PS_",
    "PYTHONPATH",
    "KMP_",
    "OMP_",
)  # to other machines
GRACE = 20.0  # seconds for servers to end after the workers, and for nodes to stop


@dataclass(frozen=True)
class Start:
    """A node to be started: where, how, and in which environment."""

    name: str
    host: str | None  # None for this machine
    command: list[str]
    environment: dict[str, str]


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings; ``arguments`` are those of gluonlm.train."""
    parser = Parser(
        prog="python -m gluonlm.launch",
        description="Train with several processes on one machine or many.",
        usage="%(prog)s [-n WORKERS] [-s SERVERS] [--local | -H HOSTS] [options] -- [options of gluonlm.train]",
    )
    parser.add_argument("-n", "--workers", type=int, help="number of workers")
    parser.add_argument(
        "-s", "--servers", type=int, help="number of servers (default: one per machine)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="all on this machine")
    where.add_argument(
        "-H", "--hosts", help="names of machines such as a,b, or a file with one per line"
    )
    parser.add_argument("--ssh", default=SSH, help=f"command for other machines (default: {SSH})")
    parser.add_argument("--root", help="this machine's address for the others (default: found out)")
    parser.add_argument(
        "--port", type=int, help="the first of two ports at that address (default: any free ones)"
    )
    parser.add_argument(
        "--wait", type=float, default=60.0, help="seconds for all to come (default: %(default)g)"
    )
    options, rest = parser.parse_known_args(argv[: argv.index("--")] if "--" in argv else argv)
    if rest:
        parser.error(f"unknown option {rest[0]}: options of gluonlm.train stand after --")
    options.arguments = argv[argv.index("--") + 1 :] if "--" in argv else []
    if not any(argument.partition("=")[0] == "--kvstore" for argument in options.arguments):
        options.arguments += ["--kvstore", "dist_sync"]
    return options


def main(argv: list[str]) -> None:
    """Start a training, or take part in one as the environment says."""
    options = parse(argv)
    if "DMLC_ROLE" in os.environ:
        take_part(os.environ["DMLC_ROLE"], options)
        return
    if not options.workers or options.workers < 1 or not (options.local or options.hosts):
        raise UserError("say how many workers and where, such as -n 2 --local, or -n 4 -H a,b")
    hosts = [None] if options.local else host_names(options.hosts)
    if options.servers is not None and options.servers < 1:
        raise UserError(f"-s {options.servers}: there must be at least one server")
    root = "127.0.0.1" if options.local else options.root or own_address(hosts)
    world = World(
        root, options.port or free_port(root), options.workers, options.servers or len(hosts)
    )
    asyncio.run(lead(world, options.wait, starts(world, hosts, options)))


def take_part(role: str, options: argparse.Namespace) -> None:
    """Be what a job scheduler, or the launcher, has made of this process."""
    world = World.of(os.environ)
    if role == "scheduler":
        asyncio.run(lead(world, options.wait, []))
    elif role in ("worker", "server"):
        asyncio.run(follow(world, role, options.arguments, options.wait))
    else:
        raise UserError(f"DMLC_ROLE={role}: set it to scheduler, server or worker")


def host_names(hosts: str) -> list[str]:
    """The machines of ``-H``."""
    try:
        text = Path(hosts).read_text() if Path(hosts).is_file() else hosts.replace(",", "\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"-H {hosts}: cannot be read ({error}): give names, or a text file with one per line"
        ) from None
    names = [line.split("#")[0].strip() for line in text.splitlines()]
    if not any(names):
        raise UserError(f"-H {hosts}: names no machine")
    return [name for name in names if name]


def own_address(hosts: list[str]) -> str:
    """The address of this machine that the others can reach; asks the routing table and sends nothing."""
    addresses = []
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((host.rpartition("@")[2], 9))
            except (OSError, UnicodeError) as error:
                raise UserError(
                    f"cannot find a way to {host} ({error}): check its name, or give this machine's address with --root"
                ) from None
            addresses.append(probe.getsockname()[0])
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])


def free_port(address: str) -> int:
    """A free port whose successor is free too.

    :raises UserError: when this machine has no such address.
    """
    while True:
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind((address, 0))
            except OSError as error:
                raise no_address(address, error) from None
            port = first.getsockname()[1]
            with contextlib.suppress(
                OSError, OverflowError
            ):  # the next one is taken, or there is none
                second.bind((address, port + 1))
                return port


def ssh_command(ssh: str) -> list[str]:
    """The words of ``--ssh``.

    :raises UserError: when it is no command of this machine.
    """
    try:
        words = shlex.split(ssh)
    except ValueError as error:
        raise UserError(f"--ssh {ssh}: is no command ({error})") from None
    if not words or not shutil.which(words[0]):
        raise UserError(
            f"there is no {words[0] if words else 'command in --ssh'} on this machine: install an SSH client, use "
            "--local, or let a job scheduler start the processes"
        )
    return words


def starts(world: World, hosts: list[str | None], options: argparse.Namespace) -> list[Start]:
    """The nodes to be started: workers and servers go around the machines."""
    ssh = ssh_command(options.ssh) if hosts != [None] else []
    result = []
    for role, count in (("server", world.servers), ("worker", world.workers)):
        for number in range(count):
            host = hosts[number % len(hosts)]
            variables = {
                **{name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)},
                **world.variables(),
                "DMLC_ROLE": role,
                f"DMLC_{role.upper()}_ID": str(number),
                "GLUONLM_WORKERS_HERE": str(
                    sum(hosts[i % len(hosts)] == host for i in range(world.workers))
                ),
            }
            if not RUNTIME.threads_given:
                variables.pop("OMP_NUM_THREADS", None)  # ours, not the user's
            node = [
                sys.executable,
                "-m",
                "gluonlm.launch",
                f"--wait={options.wait}",
                "--",
                *options.arguments,
            ]
            if host:
                there = shlex.join(
                    [
                        "exec",
                        "env",
                        *(f"{name}={value}" for name, value in variables.items()),
                        *node,
                    ]
                )
                node = [*ssh, host, f"cd {shlex.quote(os.getcwd())} && {there}"]
            own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
            result.append(
                Start(f"{role} {number}", host, node, {**own, **(variables if not host else {})})
            )
    return result


async def lead(world: World, patience: float, nodes: list[Start]) -> None:
    """Run the root and ps-lite's scheduler, start the nodes, and see to it that all end.

    :raises UserError: when something fails, after all have been stopped.
    """
    root = Root(world, patience)
    await root.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, root.interrupt)
    scheduler = await Child.start(
        command("scheduler", []), environment(world, "scheduler", 0, world.root), show=False
    )
    children = [await Child.start(node.command, node.environment) for node in nodes]
    ends = [asyncio.create_task(watch(root, scheduler, "the scheduler"))]
    for child, node in zip(children, nodes, strict=True):
        ends.append(
            asyncio.create_task(
                watch(root, child, f"{node.name} on {node.host or 'this machine'}", node.host)
            )
        )
    sentence = await root.outcome
    if sentence:
        scheduler.signal(signal.SIGKILL)
    await asyncio.wait(ends, timeout=GRACE / 4 if sentence else GRACE)
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    for child in (scheduler, *children):
        await child.kill()
    if sentence:
        raise UserError(sentence)


async def watch(root: Root, child: Child, name: str, host: str | None = None) -> None:
    """Wait for the scheduler or for what has started a node; tell the root if it fails."""
    code = await child.wait()
    if code == 255 and host:  # ssh's own
        root.fail(
            f"{host} cannot be reached by ssh ({' '.join(list(child.tail)[-1:])}): check `ssh {host} true`"
        )
    elif code and not root.outcome.done():
        root.fail(child.why(name, code))


if __name__ == "__main__":
    run(main)
