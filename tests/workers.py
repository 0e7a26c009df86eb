"""Small trainings by several processes: for the tests of workers here, over ssh and with
Horovod."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from test_launch import assert_gone, marked

from gluonlm.model.checkpoint import LAST, STATE_FORMAT
from gluonlm.model.storage import read_arrays

WORDS = [f"w{number}" for number in range(30)]
SMALL = ["--emsize", "8", "--nhid", "8", "--batch-size", "8", "--bptt", "5", "--dropout", "0"]
SMALL += [
    "--lr",
    "2",
    "--wd",
    "0.001",
    "--epochs",
    "2",
    "--max-batches",
    "12",
    "--schedule",
    "constant",
]


def write_text(folder: Path) -> Path:
    """A folder with a small text in which each word all but tells the next."""
    words = random.Random(5)
    for split, lines in (("train", 100), ("valid", 15), ("test", 15)):
        starts = [words.randrange(30) for _ in range(lines)]
        sentences = (
            " ".join(WORDS[(start + 7 * step) % 30] for step in range(8)) for start in starts
        )
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


def command(text, save, *launching, more=(), resume=False):
    where = (
        ["--resume", str(save)] if resume else ["--data", str(text), "--save", str(save), *SMALL]
    )
    return [sys.executable, "-m", "gluonlm.launch", *launching, "--", *where, *more]


def launched(*arguments, **options):
    return subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, timeout=300
    )


def last(folder):
    arrays, metadata = read_arrays(folder / LAST, STATE_FORMAT)
    return arrays, json.loads(metadata["progress"])


def assert_close(folder, other, tolerance=1e-5):
    """The same weights, validation losses and place in the text."""
    (arrays, progress), (others, expected) = last(folder), last(other)
    for name in arrays:
        if not name.startswith("hidden"):
            np.testing.assert_allclose(
                arrays[name], others[name], atol=tolerance, rtol=0, err_msg=name
            )
    np.testing.assert_allclose(progress["valid_losses"], expected["valid_losses"], atol=tolerance)
    assert (progress["epoch"], progress["step"]) == (expected["epoch"], expected["step"])


def kill_worker(launcher, worker):
    os.kill(worker, signal.SIGKILL)


def disturbed(line, mark, disturb=kill_worker):
    """Run a training that would go on for long, and disturb it; all must end soon, and leave
    nothing behind.

    :param disturb: gets the numbers of the launcher's process and of that of worker 1.
    :return: the exit code, what is said on stdout and stderr, and how many processes there were.
    """
    environment = {**os.environ, "GLUONLM_TEST": mark}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            while "epoch   2" not in started.stdout.readline():
                assert started.poll() is None, started.stderr.read()
            processes = marked(mark)
            roles = ("DMLC_ROLE=worker\0", "HOROVOD_RANK=")
            training = {
                one: text for one, text in processes.items() if any(role in text for role in roles)
            }
            first, second = (
                [
                    one
                    for one, text in training.items()
                    if re.search(f"(DMLC_WORKER_ID|HOROVOD_RANK)={number}\0", text)
                ]
                for number in range(2)
            )
            assert (len(first), len(second)) == (1, 1)
            began = time.monotonic()
            disturb(started.pid, *second)
            output, errors = started.communicate(timeout=120)
        finally:
            started.kill()
    assert time.monotonic() - began < 30
    assert_gone(mark)
    return started.returncode, output, errors, len(processes)
