"""Workers of Horovod: the logic with a stand-in, whose workers are threads; and with Horovod
itself, if it is here."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from workers import SMALL, assert_close, disturbed, last

from gluonlm import train
from gluonlm.config import Config
from gluonlm.model.checkpoint import build_model
from gluonlm.parallel import group as distributed
from gluonlm.parallel.agreement import check_equal
from gluonlm.system import runtime
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import load_corpus
from gluonlm.training import loop as training
from gluonlm.training.resume import load_training
from gluonlm.training.run import ReadOnlyRun, Run
from gluonlm.training.session import Session


class StandIn:
    """What is used of the module horovod.mxnet, for one of several threads."""

    def __init__(self, number, workers, table, barrier):
        self.number, self.workers, self.table, self.barrier = number, workers, table, barrier
        self.began = self.ended = False

    def init(self):
        self.began = True

    def shutdown(self):
        self.ended = True

    def rank(self):
        return self.number

    def size(self):
        return self.workers

    def allreduce_(self, tensor, average=True, name=None):
        assert self.began
        self.table[self.number] = name, tensor.asnumpy()
        self.barrier.wait(20)
        names, arrays = zip(*(self.table[worker] for worker in range(self.workers)))
        self.barrier.wait(20)
        if len(set(names)) > 1 or len({array.shape for array in arrays}) > 1:
            raise mx.MXNetError(f"Traceback\nMismatched tensors: {names}")
        tensor[:] = nd.array(sum(arrays) / (self.workers if average else 1))
        return tensor


def stand_ins(workers):
    table, barrier = {}, threading.Barrier(workers)
    return [StandIn(number, workers, table, barrier) for number in range(workers)]


def by_all(function, workers=2):
    """What the function gives, or raises, for the group of each worker."""

    def work(horovod):
        try:
            return function(distributed.HorovodGroup(horovod))
        except UserError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, stand_ins(workers)))


def test_what_each_says_is_told_to_all():
    said = ["a", None, {"perplexity": 87.17, "où": ["€"] * 50}]
    assert by_all(lambda group: group.all_gather_object("words", said[group.rank]), 3) == [said] * 3


def test_a_worker_at_another_place():
    errors = by_all(lambda group: group.all_gather_object("settings" if group.rank else "run", 1))
    assert str(errors[0]).startswith(
        "worker 1 tells its settings when others tell their run: start all workers with"
    )
    assert str(errors[1]).startswith("worker 0 tells its run when others tell their settings")


def test_sums_means_and_copies_for_all():
    def work(group):
        gradient = nd.array([1.0, 2.0]) * (group.rank + 1)
        group.wishes = (group.rank == 2, False)
        group.all_reduce([gradient])
        state = {"weight": np.full((2, 3), 7.0)} if group.rank == 0 else None
        arrays, epoch = group.broadcast(state, 5 if group.rank == 0 else None)
        hidden = group.all_gather([nd.array([[group.rank]])])
        return (
            gradient.asnumpy().tolist(),
            group.all_reduce_flags(False, True),
            arrays["weight"].tolist(),
            epoch,
            [array.asscalar() for array in hidden],
            group.synchronize(nd.array([group.rank + 3.0])).asscalar(),
        )

    assert (
        by_all(work, 3)
        == [([2.0, 4.0], (True, False), [[7.0] * 3] * 2, 5, [0.0, 1.0, 2.0], 3.0)] * 3
    )


def test_two_workers_of_half_the_batch_make_the_weights_of_one(text, alone, tmp_path, monkeypatch):
    """Whole runs, begun and resumed, in two threads; with everything but the command line."""

    class Never:  # signals cannot be caught in threads
        asked = False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(training, "StopRequest", Never)
    given = train.parser().parse_args(["--data", str(text), *SMALL])
    corpus = load_corpus(str(text))

    def run(epochs, resume):
        config = train.settings({**vars(given), "epochs": epochs})
        models = []
        for _ in range(2):
            np.random.seed(config.seed)
            mx.random.seed(config.seed)
            models.append(build_model(config, len(corpus.dictionary)))

        def work(group):
            with group:
                place = (ReadOnlyRun if group.rank else Run)(tmp_path / "run")
                check_equal(group, config, corpus, 1, "horovod")
                here = training.Training(
                    models[group.rank],
                    corpus,
                    config,
                    place,
                    Session(kvstore="horovod", group=group),
                )
                if resume:
                    load_training(here)
                else:
                    place.begin(config, "")
                return here.fit(), group.horovod

        for finished, horovod in by_all(work):
            assert (finished, horovod.ended) == (True, True)

    run(1, resume=False)
    run(2, resume=True)
    assert_close(tmp_path / "run", alone[0])


def test_settings_that_differ_are_told_on_both(text):
    corpus = load_corpus(str(text))
    errors = by_all(
        lambda group: check_equal(group, Config(lr=2.0 + group.rank), corpus, 1, "horovod")
    )
    assert len({str(error) for error in errors}) == 1
    assert "differ in --lr (2.0 and 3.0): it must be the same on all machines" in str(errors[0])


def test_workers_that_are_gone(monkeypatch):
    (horovod,) = stand_ins(1)

    def broken(tensor, average, name):
        raise mx.MXNetError(
            "Traceback (most recent call last):\n  File x\nHorovod has been shut down. This was "
            "caused"
        )

    monkeypatch.setattr(horovod, "allreduce_", broken)
    with pytest.raises(
        UserError, match=r"another worker is gone .* \(Horovod has been shut down\): go on from"
    ):
        distributed.HorovodGroup(horovod).all_gather_object("words", 1)


def test_only_the_first_speaks_until_there_is_an_error(capsys, monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    first, second = stand_ins(2)
    for horovod in (second, first):
        with distributed.HorovodGroup(horovod):
            print(f"worker {horovod.number}")
            print(f"progress of {horovod.number}", file=sys.stderr)
        assert horovod.ended
    assert capsys.readouterr() == ("worker 0\n", "progress of 0\n")
    with pytest.raises(UserError), distributed.HorovodGroup(second):
        raise UserError("no such word")
    assert (ends, capsys.readouterr().err) == ([2], "error: no such word\n")


@pytest.fixture
def installed(monkeypatch):
    """The stand-in in Horovod's place, for one worker."""
    (horovod,) = stand_ins(1)
    package = types.ModuleType("horovod")
    package.mxnet = horovod
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.mxnet", horovod)
    monkeypatch.delenv("HOROVOD_SIZE", raising=False)
    return horovod


def test_a_single_worker_by_the_command(text, alone, tmp_path, monkeypatch, installed):
    monkeypatch.setenv("HOROVOD_SIZE", "1")
    train.main(
        ["--data", str(text), "--save", str(tmp_path / "run"), *SMALL, "--kvstore", "horovod"]
    )
    assert installed.ended
    assert_close(tmp_path / "run", alone[0], 0)


def refused(*arguments):
    with pytest.raises(UserError) as raised:
        train.main([*arguments, "--kvstore", "horovod"])
    return str(raised.value)


def test_one_that_horovodrun_has_not_started(tmp_path, installed):
    said = refused("--tiny", "--save", str(tmp_path / "run"))
    assert said.startswith(
        "--kvstore horovod: Horovod has found no other worker; start them all with `horovodrun "
        "-np 2"
    )
    assert not (tmp_path / "run").exists()


def test_no_horovod(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    said = refused("--tiny", "--save", str(tmp_path / "run"))
    assert said.startswith("--kvstore horovod: cannot load Horovod (")
    assert said.endswith("): build it with `make horovod`")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kvstore", ["horovod", "device"])
def test_stores_that_the_launcher_is_not_for(monkeypatch, kvstore):
    monkeypatch.setenv("GLUONLM_WORKER", "0")
    with pytest.raises(
        UserError, match=f"--kvstore {kvstore} is not for the workers of python -m gluonlm.launch"
    ):
        distributed.join(kvstore)


def test_workers_of_horovod_share_the_cores(monkeypatch):
    monkeypatch.setattr(runtime, "usable_cores", lambda: 8)
    for workers, threads in (("2", 4), ("16", 1)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("HOROVOD_LOCAL_SIZE", workers)
        assert runtime.set_threads() == threads


real = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None,
    reason="Horovod is not installed (`make horovod` builds it)",
)


def horovodrun(workers, text, save, *more, resume=False):
    where = (
        ["--resume", str(save)] if resume else ["--data", str(text), "--save", str(save), *SMALL]
    )
    start = [
        sys.executable,
        str(Path(sys.executable).with_name("horovodrun")),
        "--gloo",
        "-np",
        str(workers),
    ]
    return [*start, sys.executable, "-m", "gluonlm.train", "--kvstore", "horovod", *where, *more]


def finished(line):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        line, capture_output=True, text=True, timeout=300, env={**os.environ, "PATH": path}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@real
def test_horovod_makes_the_weights_of_one_worker(text, alone, tmp_path):
    finished(horovodrun(1, text, tmp_path / "one"))
    assert_close(tmp_path / "one", alone[0])
    said = finished(horovodrun(2, text, tmp_path / "two"))
    assert "of each of 2 workers" in said
    assert said.count("valid loss") == 2
    assert_close(tmp_path / "two", tmp_path / "one")


@real
def test_a_worker_of_horovod_that_is_killed(text, tmp_path):
    line = horovodrun(2, text, tmp_path / "run", "--checkpoint-seconds", "0", "--epochs", "2000")
    code, _, said, _ = disturbed(line, str(tmp_path))
    assert code
    ours = (
        r"error: another worker is gone or cannot be reached \(MXNetError: Horovod has been "
        r"shut down\): go on"
    )
    assert re.search(
        rf"{ours}|Process name: 1\s+Exit code: 137", said
    )  # whichever is the first to notice
    _, progress = last(tmp_path / "run")
    epochs = progress["epoch"] + 2
    finished(horovodrun(2, text, tmp_path / "run", "--epochs", str(epochs), resume=True))
    assert last(tmp_path / "run")[1]["epoch"] == epochs
