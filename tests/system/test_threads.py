"""The number of threads follows the machine's load, and no result follows it."""

import gc
import math
import os

import mxnet as mx
import numpy as np
import pytest

from gluonlm.config import Config
from gluonlm.inference import predictor
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import stream
from gluonlm.model.checkpoint import build_model
from gluonlm.model.softmax import SampledSoftmax, decoder_loss
from gluonlm.system import machine as machine_facts
from gluonlm.system import threads
from gluonlm.system.machine import cpu_flags, others_seconds
from gluonlm.system.threads import Threads, candidates, set_threads
from gluonlm.text.vocabulary import Dictionary
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, train_step


class Machine:
    """A clock, and work whose time depends on the number of threads: tests change ``times``."""

    def __init__(self, times):
        self.times, self.now, self.number, self.history = times, 0.0, 0, []
        self.others_cores, self.others = 0, 0.0

    def change(self, number):
        self.number = number

    def work(self, chooser, pieces):
        for _ in range(pieces):
            with chooser.timed(1):
                self.now += self.times[self.number]
                self.others += self.times[self.number] * self.others_cores
                self.history.append(self.number)
        return chooser.number


@pytest.fixture
def machine():
    return Machine({2: 0.6, 1: 1.0})


def chooser_of(machine, most=2):
    return Threads(most, machine.change, lambda: machine.now, lambda: machine.others)


def test_a_quiet_machine_uses_all_cores(machine):
    chooser = chooser_of(machine)
    assert machine.work(chooser, 200) == 2
    assert machine.history.count(1) == 3  # the first piece, then measured once, and hopeless


@pytest.mark.parametrize(("seconds", "pieces"), [(0.12, threads.TRIAL), (1.0, 2)])
def test_a_number_that_is_nearly_as_fast_is_measured_well(machine, seconds, pieces):
    """By fewer pieces where they are long."""
    machine.times = {2: seconds, 1: 0.9 * seconds}
    assert machine.work(chooser_of(machine), 2 * pieces + 4) == 1
    assert machine.history == [1] + (pieces + 1) * [2] + (pieces + 2) * [1]


def test_a_busy_machine_uses_one_from_the_start(machine):
    machine.times = {2: 10.0, 1: 1.1}
    assert machine.work(chooser_of(machine), 30) == 1


def test_more_threads_that_gain_nothing_are_kept(machine):
    machine.times = {2: 1.0, 1: 0.98}
    assert machine.work(chooser_of(machine), 30) == 2


def test_fewer_threads_that_are_as_fast_are_kept_beside_another_program(machine):
    machine.times, machine.others_cores = {2: 0.98, 1: 1.0}, 1.0
    assert machine.work(chooser_of(machine), 30) == 1


def test_times_from_before_a_change_do_not_count(machine):
    """Of the five newest pieces two were before, and one was halfway."""
    machine.times = {2: 0.2, 1: 0.35}
    chooser = chooser_of(machine)
    machine.work(chooser, 60)
    for time in (0.3, 0.5):
        machine.times, machine.others_cores = {2: time, 1: 0.36}, 1.0
        machine.work(chooser, 1)
    assert machine.work(chooser, 8) == 1


def test_it_follows_the_load(machine):
    """Quiet, busy, quiet: each time the better number is found, and at most a tenth is lost."""
    chooser = chooser_of(machine)
    for times in ({2: 0.6, 1: 1.0}, {2: 5.0, 1: 1.1}, {2: 0.6, 1: 1.0}):
        machine.times, best = times, min(times, key=times.get)
        machine.work(chooser, 200)
        began = machine.now
        assert machine.work(chooser, 800) == best
        assert machine.now - began < 800 * times[best] / 0.9


def test_trying_more_threads_again_costs_little_of_long_steps(machine):
    """Steps of a second, which take ten on both cores."""
    machine.times = {2: 10.0, 1: 1.0}
    chooser = chooser_of(machine)
    machine.work(chooser, 20)
    began = machine.now
    machine.work(chooser, 1000)
    assert machine.history[20:].count(2) > 0
    assert machine.now - began < 1000 / 0.9


def test_a_load_that_ends_is_noticed(machine):
    machine.times = {2: 0.05, 1: 0.03}
    chooser = chooser_of(machine)
    machine.work(chooser, 20)
    machine.times = {2: 0.02, 1: 0.03}
    assert machine.work(chooser, 400) == 2  # within 12 seconds


@pytest.mark.parametrize("busy", [True, False])
def test_a_program_that_ends_is_noticed_at_once(machine, busy):
    """After long work beside it, when trials have become rare."""
    machine.times, machine.others_cores = {2: 2.0, 1: 0.2}, 0.9
    chooser = chooser_of(machine)
    machine.work(chooser, 2000)
    machine.times, machine.others_cores = {2: 0.12, 1: 0.2}, 0.9 * busy
    assert machine.work(chooser, 12) == 2 - busy


def test_a_load_that_becomes_lighter_at_the_same_speed_is_noticed(machine):
    """Both cores are shared with two programs, then one: two threads are as fast, one is faster."""
    machine.times, machine.others_cores = {2: 0.08, 1: 0.1}, 1.1
    chooser = chooser_of(machine)
    assert machine.work(chooser, 30) == 2
    machine.times, machine.others_cores = {2: 0.08, 1: 0.05}, 0.8
    assert machine.work(chooser, 80) == 1


def test_more_threads_that_bring_nothing_are_not_tried_again_and_again(machine):
    machine.times = {2: 0.3, 1: 0.2}
    machine.work(chooser_of(machine), 5000)
    assert machine.history.count(2) < 40


def test_a_load_that_becomes_lighter_is_noticed_on_all_cores_too(machine):
    machine.times = {2: 0.11, 1: 0.13}
    chooser = chooser_of(machine)
    assert machine.work(chooser, 20) == 2
    machine.times = {2: 0.06, 1: 0.03}
    assert machine.work(chooser, 80) == 1


def test_a_small_dip_changes_nothing(machine):
    chooser = chooser_of(machine)
    machine.work(chooser, 50)
    machine.times = {2: 0.7, 1: 1.2}
    del machine.history[:]
    assert machine.work(chooser, 100) == 2
    assert 1 not in machine.history


def test_a_load_that_comes_and_goes_does_not_keep_it_measuring(machine):
    chooser = chooser_of(machine)
    for turn in range(40):
        machine.times = {2: 0.6, 1: 1.0} if turn % 2 else {2: 1.3, 1: 2.0}
        machine.work(chooser, 20)
    assert machine.history.count(1) < 0.15 * len(machine.history)


def test_rare_stalls_count_where_pieces_are_short(machine):
    """Words of 0.3 ms, of which one in twenty waits 20 ms for a busy core."""
    chooser = chooser_of(machine)
    for _ in range(200):
        machine.times = {2: 0.0003, 1: 0.0005}
        machine.work(chooser, 19)
        machine.times = {2: 0.02, 1: 0.0005}
        machine.work(chooser, 1)
    assert chooser.number == 1


def test_numbers_worth_trying():
    assert candidates(2) == [2, 1]
    assert candidates(8) == [8, 7, 4, 1]


def test_a_number_that_the_user_has_set_stays(monkeypatch, machine):
    monkeypatch.setattr(threads, "may_choose", lambda: False)
    assert Threads().most == 1
    chooser = Threads(1, machine.change, lambda: machine.now)
    machine.times = {0: 1.0}  # never told another
    machine.work(chooser, 20)
    assert machine.number == 0


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "GRU"},
        {"locked": True, "wdrop": 0.5, "dropoute": 0.1},
        {"precision": "bfloat16"},
    ],
    ids=["LSTM", "GRU", "AWD", "bfloat16"],
)
def test_no_weight_depends_on_the_number_of_threads(settings, sampled):
    """The very bits after some steps, dropout included, even if the number changes on the way."""
    if not threads.may_choose():
        pytest.skip("the number is the user's, or MXNet's own BLAS serves")
    if settings.get("precision") and "avx512_bf16" not in cpu_flags():
        pytest.skip("this processor has no AVX512_BF16")
    results = []
    for numbers in ((1, 1, 1), (2, 2, 2), (3, 1, 4)):
        mx.random.seed(1)
        np.random.seed(1)
        config = Config(emsize=130, nhid=130, tied=True, **settings)
        model = build_model(config, 3000, sparse=sampled)
        updater = Updater(model.trainables(), "sgd", 0.0)
        random, states = np.random.default_rng(1), [model.begin_state(20)]
        loss_of = SampledSoftmax(np.ones(3000), 300) if sampled else decoder_loss
        for number in numbers:
            set_threads(number)
            updater.threads = Threads(1)
            ids = random.integers(0, 3000, (21, 20)).astype(np.int32)
            loss, states = train_step(
                model, updater, ids[:-1], ids[1:], states, 1.0, 0.25, Objective(loss_of)
            )
        results.append([loss, *(p.data().asnumpy() for p in model.trainables().values())])
    for same in zip(*results, strict=True):
        np.testing.assert_array_equal(same[0], same[1])
        np.testing.assert_array_equal(same[0], same[2])


def test_what_is_known_of_a_model_outlives_a_predictor():
    model, other = (build_model(Config(emsize=8, nhid=8), 30) for _ in range(2))
    assert Predictor(model).threads is Predictor(model).threads
    assert Predictor(model).threads is not Predictor(other).threads
    del model
    gc.collect()
    assert len(predictor.CHOSEN) == 1


def test_few_words_are_computed_on_one_thread_by_a_plan_of_its_own():
    """A plan of MXNet keeps the number of threads that it was made with, whatever is set later."""
    if not threads.may_choose():
        pytest.skip("the number is the user's, or MXNet's own BLAS serves")
    model = Predictor(build_model(Config(emsize=8, nhid=8), 30))
    model.threads["predict"] = Threads(2)
    model.predict(np.zeros((1, 40)), model.begin_state(40))  # the first piece of work is for one
    for columns in (40, 1, 40, 2):
        model.predict(np.zeros((1, columns)), model.begin_state(columns))
        assert threads.current == [2]  # again, for what the user computes next
    assert set(model.plans) == {(1,), (2,)}
    words = stream(model, Dictionary(["<unk>", *map(str, range(29))]), length=3)
    next(words)
    assert threads.current == [1]
    words.close()
    assert threads.current == [2]


@pytest.mark.parametrize("columns", [1, 2, 3, 40])
def test_no_prediction_depends_on_the_number_of_threads(columns):
    if not threads.may_choose():
        pytest.skip("the number is the user's, or MXNet's own BLAS serves")
    model = Predictor(build_model(Config(emsize=130, nhid=130), 3000))
    model.threads["predict"] = Threads(1)
    ids, results = np.arange(columns)[None], []
    for number in (1, 2, 3):
        set_threads(number)
        results.append(model.predict(ids, model.begin_state(columns))[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    weight, bias = model.decoder
    features, _ = model.model.body(mx.nd.array(ids), model.begin_state(columns))
    exact = features.asnumpy().astype(float) @ weight.T + bias
    np.testing.assert_allclose(results[0], exact, atol=1e-5)


def test_numpy_multiplies_a_vector_on_one_thread(monkeypatch):
    blas, seen = threads.numpy_blas(), []
    if blas is None:
        pytest.skip("NumPy has another BLAS")
    product = np.matmul

    def matmul(*arrays):
        seen.append(blas.openblas_get_num_threads64_())
        return product(*arrays)

    before = blas.openblas_get_num_threads64_()
    monkeypatch.setattr(predictor.np, "matmul", matmul)
    model = Predictor(build_model(Config(emsize=8, nhid=8), 20))
    model.predict(np.array([[1]]), model.begin_state(1))
    assert seen == [1]
    assert blas.openblas_get_num_threads64_() == before


def test_the_seconds_of_other_programs_are_those_on_our_processors(monkeypatch):
    text = "cpu 9 9 9 99 9 9 9 9\ncpu0 1 20 300 4000 5 6 7 8 0\ncpu1 2 0 1 9 9 1 0 0\n"
    text += "cpu10 3 3 3 8 0 0 0 0\nintr 5 5"
    monkeypatch.setattr(machine_facts, "read", lambda path: text)
    monkeypatch.setattr(machine_facts.time, "process_time", lambda: 0.01)
    for cpus, ticks in (({0}, 342), ({0, 1}, 346)):
        monkeypatch.setattr(machine_facts, "usable_cpus", lambda cpus=cpus: cpus)
        assert others_seconds() == pytest.approx(ticks / os.sysconf("SC_CLK_TCK") - 0.01)
    monkeypatch.setattr(machine_facts, "read", lambda path: "")  # no Linux
    assert math.isnan(others_seconds())
