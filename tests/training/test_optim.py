"""Clipping, optimizers on one and several devices, schedules."""

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from gluonlm.config import OPTIMIZERS, SCHEDULES, Config, Optimizer
from gluonlm.system.errors import UserError
from gluonlm.training.optim import Schedule, Updater, clip_scale, global_norm


def parameter(values, contexts=None):
    made = gluon.Parameter("weight", shape=np.shape(values))
    made.initialize(ctx=contexts or mx.cpu())
    made.set_data(nd.array(values))
    return made


def set_gradient(param, *values):
    for gradient, value in zip(param.list_grad(), values, strict=True):
        gradient[:] = nd.array(value)


def test_norm_and_scale_are_those_of_clip_global_norm():
    arrays = [nd.random.normal(shape=(40, 30)), nd.random.normal(shape=(7,))]
    norm, scale = global_norm(arrays), clip_scale(global_norm(arrays), 0.25)
    expected = [array.asnumpy() * scale for array in arrays]
    assert gluon.utils.clip_global_norm(arrays, 0.25) == pytest.approx(norm, rel=1e-5)
    for array, values in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(array.asnumpy(), values, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "limit", "scale"), [(0.1, 0.25, 1.0), (1.0, 0.25, 0.25), (9.0, 0.0, 1.0)]
)
def test_clip_scale(norm, limit, scale):
    assert clip_scale(norm, limit) == pytest.approx(scale, rel=1e-6)


def test_sgd_by_hand():
    weight = parameter([1.0, 2.0])
    set_gradient(weight, [3.0, 4.0])  # norm 5
    norm = Updater({"w": weight}, "sgd", wdecay=0.1).step(lr=0.5, clip=1.0)
    assert norm == pytest.approx(5)
    # gradient 1/5 of itself, plus 0.1 w
    np.testing.assert_allclose(
        weight.data().asnumpy(), [1 - 0.5 * (0.6 + 0.1), 2 - 0.5 * (0.8 + 0.2)], rtol=1e-5
    )


def adam(weight, gradients, lr, wdecay, decoupled):
    """Kingma & Ba 2015, algorithm 1, in NumPy; decoupled: Loshchilov & Hutter 2019, algorithm 2."""
    mean = square = np.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        if decoupled:
            weight = weight * (1 - lr * wdecay)
        else:
            gradient = gradient + wdecay * weight
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        corrected = lr * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight = weight - corrected * mean / (np.sqrt(square) + 1e-8)
    return weight


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_adam_equals_numpy_also_after_its_state_was_saved(optimizer, interrupted):
    random = np.random.default_rng(3)
    start, gradients = random.normal(size=5), random.normal(size=(6, 5))
    weight = parameter(start)
    updater = Updater({"w": weight}, optimizer, wdecay=0.1)
    for step, gradient in enumerate(gradients):
        if interrupted and step == 3:
            arrays = {name: array.copy() for name, array in updater.state_arrays().items()}
            updater = Updater({"w": weight}, optimizer, wdecay=0.1)
            updater.load_state(arrays, updates=3)
        set_gradient(weight, gradient)
        updater.step(lr=0.01, clip=0)
    expected = adam(start, gradients, 0.01, 0.1, optimizer == "adamw")
    np.testing.assert_allclose(weight.data().asnumpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rmsprop", "nag"])  # they remember one array, or a tuple
def test_an_optimizer_needs_an_entry_in_the_table_and_nothing_else(monkeypatch, name):
    monkeypatch.setitem(OPTIMIZERS, name, Optimizer(name, lr=0.01))
    assert Config(optimizer=name).learning_rate == 0.01
    start, gradient, mask = [1.0, 2.0], [3.0, 4.0], nd.array([1, 0])
    ours, theirs = parameter(start), nd.array(start)
    updater, optimizer = Updater({"w": ours}, name, wdecay=0.0), mx.optimizer.create(name)
    optimizer.set_learning_rate(0.5)
    updater.set_mask("w", mask)
    state = optimizer.create_state(0, theirs)
    for _ in range(2):
        set_gradient(ours, gradient)
        updater.step(lr=0.5, clip=0)
        optimizer.update(0, theirs, nd.array(gradient), state)
    assert ours.data().asnumpy()[0] == pytest.approx(theirs.asnumpy()[0], rel=1e-5)
    assert ours.data().asnumpy()[1] == 0
    again = Updater({"w": parameter(start)}, name, wdecay=0.0)
    again.load_state(updater.state_arrays(), 2)
    for array, kept in zip(again.state_arrays().values(), updater.state_arrays().values()):
        assert (array == kept).asnumpy().all()


def test_a_schedule_needs_an_entry_in_the_table_and_nothing_else(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "late", lambda progress: 1 - progress**4)
    made = Schedule(Config(schedule="late", lr=1.0, epochs=2))
    assert made.lr(1, 0.0) == 1 - 0.5**4
    assert not made.config.averages  # it falls to 0
    monkeypatch.delitem(SCHEDULES, "late")
    with pytest.raises(KeyError):
        made.lr(1, 0.0)


@pytest.mark.parametrize("kvstore", ["local", "device"])
def test_devices_are_summed_before_clipping(kvstore):
    contexts = [mx.cpu(0), mx.cpu(1)]
    weight = parameter([0.0, 0.0], contexts)
    set_gradient(weight, [3.0, 0.0], [0.0, 4.0])
    assert Updater({"w": weight}, "sgd", 0, kvstore).step(lr=1, clip=1) == pytest.approx(5)
    for ctx in contexts:
        np.testing.assert_allclose(weight.data(ctx).asnumpy(), [-0.6, -0.8], rtol=1e-5)


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    weight = parameter([1.0])
    set_gradient(weight, [math.nan])
    assert not math.isfinite(Updater({"w": weight}, "sgd", 0).step(lr=1, clip=1))
    assert weight.data().asscalar() == 1


def rates(losses, **settings):
    schedule = Schedule(Config(**settings))
    seen = []
    for epoch, loss in enumerate(losses):
        seen.append(schedule.lr(epoch, 0))
        schedule.end_epoch(loss)
    return seen


def test_a_quarter_whenever_validation_does_not_improve():
    assert rates([5, 4, 4, 3, 3.5, 3.2, 2]) == [20, 20, 20, 5, 5, 1.25, 0.3125]


def test_plateau_with_patience_and_threshold():
    settings = {
        "optimizer": "adam",
        "lr": 1.0,
        "lr_factor": 0.5,
        "lr_patience": 2,
        "lr_threshold": 0.01,
    }
    # 0.999 of the best is no improvement here; the third bad epoch halves the rate
    assert rates([10, 9.99, 9.98, 9.97, 9.96], **settings) == [1, 1, 1, 1, 0.5]


def test_when_and_decay():
    assert rates([1] * 4, schedule="constant", lr=1.0, when=(1, 3)) == pytest.approx(
        [1, 0.1, 0.1, 0.01]
    )
    assert rates([1] * 3, schedule="constant", lr=1.0, decay=0.5) == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("linear", {0: 1, 0.5: 0.5, 1: 0}),
        ("cosine", {0: 1, 0.5: 0.5, 1: 0}),
        ("onecycle", {0: 0.04, 0.3: 1, 1: 0}),
    ],
)
def test_shapes_over_the_run(schedule, points):
    made = Schedule(Config(schedule=schedule, lr=1.0, epochs=10))
    for progress, value in points.items():
        assert made.lr(int(progress * 10), progress * 10 % 1) == pytest.approx(value, abs=1e-12)


def test_default_rate_depends_on_the_optimizer():
    assert Config().learning_rate == 20
    assert Config(optimizer="adamw").learning_rate == 1e-3
    with pytest.raises(UserError, match="--lr -1"):
        Config(lr=-1)
