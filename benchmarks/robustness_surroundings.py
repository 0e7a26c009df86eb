"""Odd surroundings: variables, streams, signals, users, little memory, a broken operator."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from robustness_cases import EVALUATE, TRAIN, Ending, full_device
from robustness_disk import LIBC
from robustness_files import SIZES, checked
from robustness_process import SECONDS, Outcome, Place, call

Trials = Iterator[tuple[str, Callable[[Path], Ending]]]
SCORE = ["score", "run", "text/test.txt", "--words"]
EVALUATE_QRNN = ["evaluate", "qrnn", "--data", "text/test.txt"]
GENERATE = ["generate", "run", "--words", "9"]
MILESTONES = (  # modules that are imported one after the other, once we can answer to signals
    "gluonlm/system/gpu",
    "numpy/core",
    "mxnet/base",
    "mxnet/gluon",
    "gluonlm/model",
    "gluonlm/training",
)
NEW_USERS = 0x10000000  # CLONE_NEWUSER
NOBODY = 12345  # a user of whom /etc/passwd does not know


def surroundings(home: Path) -> Trials:
    """Each for a new Python: variables, users, limits, streams and signals."""
    lines = (
        ("OMP_NUM_THREADS=2,3", "", 0),
        ("OMP_NUM_THREADS=100000", "", 0),
        ("OMP_NUM_THREADS=x", "", 0),
        ("HOROVOD_LOCAL_SIZE=abc", "", None),
        ("HOME=/nowhere", "", 0),
        ("env -u HOME", "", 0),
        ("MPLBACKEND=nothing", "", 0),
        ("PYTHONIOENCODING=latin-1", "", 0),
        ("TMPDIR=/nowhere", "", 0),
        ("", "| head -1", None),
        ("", "> full", None),
        ("", "2>&-", 0),
        ("", ">&-", None),
    )
    for argv in (TRAIN, EVALUATE, GENERATE, SCORE):
        for before, after, code in lines:
            yield "surroundings", partial(surrounded, home, argv, before, after, code)
        for megabytes in (200, 400, 600, 800, 1000, 2000):
            limit = f"ulimit -c 0; ulimit -v {1024 * megabytes};"
            yield "surroundings", partial(surrounded, home, argv, limit, "", None)
    for number in (signal.SIGINT, signal.SIGTERM):
        for milestone in MILESTONES:
            yield "signals while importing", partial(ended, home, TRAIN, number, milestone)


def shell_line(home: Path, argv: list[str], folder: Path) -> str:
    """A command as one types it, in a folder with a run and a text."""
    for name in ("run", "text"):
        shutil.copytree(home / name, folder / name)
    full_device(folder)
    return f"{sys.executable} -m gluonlm.{' '.join(argv)}"


def surrounded(
    home: Path, argv: list[str], before: str, after: str, code: int | None, folder: Path
) -> Ending:
    """Run a command in a shell: it ends with that code, or any that is told, without a trace."""
    line = f"{before} {shell_line(home, argv, folder)} {after}"
    unknown = as_unknown_user if "-u HOME" in before else None
    try:
        done = subprocess.run(
            line, shell=True, cwd=folder, capture_output=True, timeout=SECONDS, preexec_fn=unknown
        )
    except subprocess.TimeoutExpired:
        return "hang", "", line
    said = (done.stdout + done.stderr).decode(errors="replace")  # it may be told to be latin-1
    short = f"{before} {argv[0]} {after}"
    if "Traceback" in said or done.returncode < 0 or done.returncode in (134, 139):
        return "traceback", said, short
    if done.returncode == 0:
        return "fine", said, short
    return ("sentence" if code is None and done.returncode != 1 else "other"), said, short


def as_unknown_user() -> None:
    """Be a user without an entry in /etc/passwd, with the same rights, where that is permitted."""
    user, group = os.getuid(), os.getgid()
    if hasattr(LIBC, "unshare") and not LIBC.unshare(NEW_USERS):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def ended(home: Path, argv: list[str], number: int, milestone: str, folder: Path) -> Ending:
    """Send a signal to a command when it begins to import something: a line says that it ended."""
    trial = f"{signal.Signals(number).name} to {argv[0]} at {milestone}"
    line = shell_line(home, argv, folder).replace(" -m ", " -v -m ", 1)  # -v says what is imported
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line.split(), cwd=folder, **streams) as process:
        for said in process.stderr:
            if f"/{milestone}" in said:
                break
        time.sleep(0.02)
        process.send_signal(number)
        said = process.stderr.read()
    if "Traceback" in said or process.returncode in (-number, 1):
        return "traceback", said, trial
    if process.returncode == 0:  # it had begun, and a training that is stopped saves
        return "fine", said, trial
    told = said.endswith(("interrupted\n", "terminated\n"))  # in the middle of a line of -v's, too
    return ("sentence" if told else "other"), said, trial


def little_memory(
    home: Path, gone_on: Callable[[Path, list[str], dict], tuple[str, str]], final: Callable
) -> Trials:
    """Trainings whose memory runs out somewhere, from the first array to the last epoch."""
    sizes = [one.replace("8", "400") if one == "8" else one for one in SIZES]
    argv = ["train", "--save", "run", "--data", str(home / "text"), *sizes, "--epochs", "1"]
    checked(argv, home / "trial")
    undisturbed = final(home / "trial/run")
    for megabytes in (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 200, 300):
        yield "little memory", partial(limited, argv, megabytes, gone_on, undisturbed)


def limited(
    argv: list[str], megabytes: int, gone_on: Callable, undisturbed: dict, folder: Path
) -> Ending:
    """Train with so much memory beyond what the process has, and then go on with enough."""

    def prepare():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    outcome = call(argv, Place(folder, prepare=prepare))
    trial = f"{megabytes} MB"
    if outcome.kind not in ("sentence", "fine"):
        return outcome.kind, outcome.said, trial
    again, said = gone_on(folder, argv, undisturbed)
    return (outcome.kind, outcome.said, trial) if again == "fine" else (again, said, trial)


def operators(home: Path) -> Trials:
    """The compiled operator, when what is in the cache is damaged or others' work."""
    argv = ["train", "--data", "text", "--model", "QRNN", "--save", "qrnn", *SIZES, "--epochs", "1"]
    for one in (argv, EVALUATE_QRNN):
        outcome = call(one, Place(home, prepare=partial(cached, home)))
        if outcome.kind != "fine":
            raise RuntimeError(outcome.said)
    for damage in (cut_off, emptied, flipped, replaced_by_text, writable_by_all, linked, removed):
        yield "compiled operator", partial(broken_operator, home, damage, outcome)


def cached(folder: Path) -> None:
    """Keep compiled operators in that folder."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")


def broken_operator(
    home: Path, damage: Callable[[Path], None], expected: Outcome, folder: Path
) -> Ending:
    """It is compiled anew, and computes the same."""
    for name in ("cache", "qrnn", "text"):
        shutil.copytree(home / name, folder / name)
    (library,) = (folder / "cache").rglob("fo_pool-*.so")
    damage(library)
    outcome = call(EVALUATE_QRNN, Place(folder, prepare=partial(cached, folder)))
    same = outcome.kind != "fine" or outcome.said == expected.said
    return (outcome.kind if same else "other"), outcome.said, damage.__name__


def cut_off(library: Path) -> None:
    """Loading it would end the process."""
    os.truncate(library, 5000)


def emptied(library: Path) -> None:
    """After a power cut."""
    os.truncate(library, 0)


def flipped(library: Path) -> None:
    """One bit."""
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def replaced_by_text(library: Path) -> None:
    """No library at all."""
    library.write_text("the cat sat")


def writable_by_all(library: Path) -> None:
    """Anyone may have changed it."""
    library.chmod(0o777)


def linked(library: Path) -> None:
    """It lies in a place of somebody else."""
    library.rename(library.with_name("elsewhere"))
    library.symlink_to(library.with_name("elsewhere"))


def removed(library: Path) -> None:
    """There is none."""
    library.unlink()
