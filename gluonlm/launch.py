"""Train on several machines, or with several processes on this one.

    python -m gluonlm.launch -n 2 --local -- --data ptb --tied       # two workers, one server, here
    python -m gluonlm.launch -n 4 -s 2 -H a,b -- --data wikitext-103  # by ssh; -H takes a file, too
    python -m gluonlm.launch -n 4 -s 2 -H a,b -- --resume runs/NAME

What follows -- is what gluonlm.train takes; ``--batch-size`` is the batch of all workers together.
The machine that launches runs ps-lite's scheduler; each machine needs gluonlm, its data and the
working folder at the same paths. Only worker 0 writes, on the first machine. A job scheduler starts
the same command in each process instead, with DMLC_ROLE (scheduler, server or worker),
DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, DMLC_NUM_WORKER and DMLC_NUM_SERVER set, and DMLC_WORKER_ID if
it matters which worker is number 0:

    python -m gluonlm.launch -- --data wikitext-103

So does the launcher in MXNet's wheel, once it has the Thread.isAlive that Python 3.9 dropped.
"""

import argparse
import asyncio
import os
import shlex
import shutil
import sys
from pathlib import Path

from gluonlm.cli import Parser, at_least, run, sentence_of
from gluonlm.parallel import supervisor
from gluonlm.parallel.supervisor import World
from gluonlm.system.errors import UserError
from gluonlm.system.network import free_port, own_address

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings; ``arguments`` are those of gluonlm.train."""
    parser = Parser("launch", __doc__)
    add = parser.add_argument
    add("-n", "--workers", type=at_least(1), help="number of workers")
    add("-s", "--servers", type=at_least(1), help="number of servers (default: one per machine)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="all on this machine")
    hosts = "names of machines such as a,b, or a file with one per line"
    where.add_argument("-H", "--hosts", help=hosts)
    add("--ssh", default=SSH, help="command for other machines (default: %(default)s)")
    add("--root", help="this machine's address for the others (default: found out)")
    add("--port", type=int, help="the first of two ports at that address (default: any free ones)")
    wait = "seconds for all processes to come (default: %(default)g)"
    add("--wait", type=at_least(1.0), default=60.0, help=wait)
    add("arguments", nargs="*", metavar="-- OPTION", help="options of gluonlm.train")
    options = parser.parse_args(argv)
    if not any(argument.partition("=")[0] == "--kvstore" for argument in options.arguments):
        options.arguments += ["--kvstore", "dist_sync"]
    return options


def main(argv: list[str]) -> None:
    """Start a training, or take part in one as the environment says."""
    options = parse(argv)
    if "DMLC_ROLE" in os.environ:
        take_part(os.environ["DMLC_ROLE"], options)
        return
    if not options.workers or not (options.local or options.hosts):
        raise UserError("say how many workers and where, such as -n 2 --local, or -n 4 -H a,b")
    hosts = [None] if options.local else host_names(options.hosts)
    root = "127.0.0.1" if options.local else options.root or own_address(hosts)
    port = options.port or free_port(root)
    world = World(root, port, options.workers, options.servers or len(hosts))
    ssh = [] if options.local else ssh_command(options.ssh)
    command = [sys.executable, "-m", "gluonlm.launch", f"--wait={options.wait}"]
    processes = supervisor.starts(world, hosts, ssh, [*command, "--", *options.arguments])
    asyncio.run(supervisor.lead(world, options.wait, processes))


def take_part(role: str, options: argparse.Namespace) -> None:
    """Be what a job scheduler, or the launcher, has made of this process."""
    world = World.of(os.environ)
    if role == "scheduler":
        asyncio.run(supervisor.lead(world, options.wait, {}))
    elif role == "server":
        supervisor.serve(role, options.wait)
    elif role == "worker":
        with supervisor.Lifeline(world, role, options.wait) as rank:
            from gluonlm import train  # imports mxnet, which now finds what ps-lite needs

            os.environ["GLUONLM_WORKER"] = str(rank)
            try:
                train.main(options.arguments)
            except Exception as error:
                sentence = sentence_of(error)
                if sentence is None:
                    raise
                raise UserError(sentence) from None
    else:
        raise UserError(f"DMLC_ROLE={role}: set it to scheduler, server or worker")


def host_names(hosts: str) -> list[str]:
    """The machines of ``-H``."""
    try:
        text = Path(hosts).read_text() if os.path.isfile(hosts) else hosts.replace(",", "\n")
    except (OSError, ValueError) as error:
        wanted = "give names, or a text file with one per line"
        raise UserError(f"-H {hosts}: cannot be read ({error}): {wanted}") from None
    names = [line.split("#")[0].strip() for line in text.splitlines()]
    if not any(names):
        raise UserError(f"-H {hosts}: names no machine")
    return [name for name in names if name]


def ssh_command(ssh: str) -> list[str]:
    """The words of ``--ssh``; a UserError when it is no command of this machine."""
    try:
        words = shlex.split(ssh)
    except ValueError as error:
        raise UserError(f"--ssh {ssh}: is no command ({error})") from None
    if not words or not shutil.which(words[0]):
        missing = f"there is no {words[0] if words else 'command in --ssh'} on this machine"
        advice = "install an SSH client, use --local, or let a job scheduler start the processes"
        raise UserError(f"{missing}: {advice}")
    return words


if __name__ == "__main__":
    run(main)
