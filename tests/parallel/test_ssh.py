"""Training on "several machines" by real ssh: a server of its own on two loopback addresses, with
keys of its own."""

import getpass
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_launch import assert_gone
from workers import assert_close, command, disturbed

from gluonlm import launch
from gluonlm.system.network import free_port

HOSTS = ["127.0.0.1", "127.0.0.2"]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
SERVER = """
Port {port}
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
CLIENT = """
Port {port}
User {user}
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
"""


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """The options of the launcher that make it use this file's own ssh server."""
    missing = [name for name, path in (("sshd", SSHD), ("ssh", shutil.which("ssh"))) if not path]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not installed (Debian: openssh-server, openssh-client)"
        )
    folder, port = tmp_path_factory.mktemp("ssh"), free_port("127.0.0.1")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    key = (folder / "host.pub").read_text()
    (folder / "known").write_text("".join(f"[{host}]:{port} {key}" for host in HOSTS))
    for name, text in (("server", SERVER), ("client", CLIENT)):
        (folder / name).write_text(text.format(folder=folder, port=port, user=getpass.getuser()))
    privileges = Path(
        "/run/sshd"
    )  # where sshd locks itself in when it runs as root; made by its service, if started
    made = getpass.getuser() == "root" and not privileges.exists()
    if made:
        privileges.mkdir(mode=0o755)
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", folder / "server"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(port, server)
        probe = ["ssh", "-F", folder / "client", "-o", "BatchMode=yes", HOSTS[1], "true"]
        if (tried := subprocess.run(probe, capture_output=True, text=True, timeout=60)).returncode:
            pytest.skip(f"one cannot log in to this machine by ssh: {tried.stderr.strip()}")
        yield ["--ssh", f"{launch.SSH} -F {folder / 'client'}"]
    finally:
        server.kill()
        server.communicate()
        if made:
            privileges.rmdir()


def wait_for(port, server):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.poll() is not None:
            pytest.skip(f"sshd does not run here: {server.stderr.read().strip()}")
        with suppress(OSError), socket.create_connection((HOSTS[1], port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail("sshd does not answer")


@pytest.fixture
def hosts(tmp_path):
    """A file that names the machines."""
    (tmp_path / "hosts").write_text("\n".join(HOSTS) + "\n")
    return str(tmp_path / "hosts")


def test_two_workers_by_ssh_make_the_weights_of_one(text, alone, tmp_path, ssh, hosts, monkeypatch):
    monkeypatch.setenv("GLUONLM_TEST", str(tmp_path))
    line = command(text, tmp_path / "two words", "-n", "2", "-s", "1", "-H", hosts, *ssh)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "of each of 2 workers" in ended.stdout
    assert_close(tmp_path / "two words", alone[0])
    assert_gone(str(tmp_path))


def test_a_worker_that_is_killed_on_another_machine(text, tmp_path, ssh, hosts):
    more = ["--checkpoint-seconds", "0", "--epochs", "2000"]
    line = command(text, tmp_path / "run", "-n", "2", "-s", "1", "-H", hosts, *ssh, more=more)
    code, _, said, processes = disturbed(line, str(tmp_path))
    assert code == 2
    sentence = (
        "error: worker 1 on 127.0.0.2 was killed by SIGKILL: all others were stopped; go "
        "on from the last"
    )
    assert said.splitlines()[-1].startswith(sentence)
    assert processes == 1 + 1 + 3 * 2  # launcher, scheduler, and three times ssh and the process


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (
            "127.0.0.3",
            "127.0.0.3 cannot be reached by ssh (ssh: connect to host 127.0.0.3 port ",
        ),  # nobody listens
        (
            "nobody@127.0.0.2",
            "nobody@127.0.0.2 cannot be reached by ssh (nobody@127.0.0.2: Permission denied",
        ),
    ],
)
def test_a_machine_that_cannot_be_reached_or_entered(
    text, tmp_path, ssh, monkeypatch, host, sentence
):
    monkeypatch.setenv("GLUONLM_TEST", str(tmp_path))
    began = time.monotonic()
    line = command(text, tmp_path / "run", "-n", "2", "-s", "1", "-H", f"127.0.0.1,{host}", *ssh)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 30
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: {sentence}")
    assert ended.stderr.splitlines()[-1].endswith(f": check `ssh {host} true`")
    assert not (tmp_path / "run").exists()
    assert_gone(str(tmp_path))
