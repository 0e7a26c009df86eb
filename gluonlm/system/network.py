"""Addresses, ports and connections of this machine."""

import errno
import random
import socket
import time

from gluonlm.system.errors import UserError

LONGEST = 600.0  # seconds of one attempt to connect: sockets know no infinity


def is_free(address: str, port: int) -> bool:
    """Whether one can listen at a port; a UserError when the machine has no such address."""
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
    """A free port whose successor is free too; errors are those of :func:`is_free`."""
    while True:
        port = random.randrange(20_000, 60_000)
        if is_free(address, port) and is_free(address, port + 1):
            return port


def own_address(hosts: list[str]) -> str:
    """The address at which the hosts reach this machine: asks the routing table, sends nothing."""
    addresses = []
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((host.rpartition("@")[2], 9))
            except (OSError, UnicodeError) as error:
                advice = "check its name, or give this machine's address with --root"
                raise UserError(f"cannot find a way to {host} ({error}): {advice}") from None
            addresses.append(probe.getsockname()[0])
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])


def connect(address: str, port: int, patience: float) -> socket.socket:
    """A connection to the root of a training, tried for ``patience`` seconds, else a UserError."""
    give_up = time.monotonic() + patience
    while True:
        try:
            left = min(max(0.1, give_up - time.monotonic()), LONGEST)
            connection = socket.create_connection((address, port), left)
        except OSError as error:
            if time.monotonic() > give_up:
                root = f"the root of the training at {address}, port {port}"
                limit = f"within {patience:g} s ({error.strerror or 'no answer'})"
                advice = "check that the scheduler's machine is up and that no firewall is between"
                raise UserError(f"cannot reach {root}, {limit}: {advice}") from None
            time.sleep(0.2)
        else:
            connection.settimeout(None)
            return connection


def keep_alive(connection: socket.socket, silence: int) -> None:
    """Let the kernel close a connection whose other end has been silent for so many seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"KEEPIDLE": silence // 3, "KEEPINTVL": silence // 6, "KEEPCNT": 4}
    for name, value in (options | {"USER_TIMEOUT": 1000 * silence}).items():
        if hasattr(socket, f"TCP_{name}"):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), max(1, value))
