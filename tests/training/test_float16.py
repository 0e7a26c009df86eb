"""Float16 with loss scaling, on a CPU, where MXNet cannot multiply it: float64 stands in for it."""

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from small import fit, gradients

from gluonlm import train
from gluonlm.model import precision
from gluonlm.model.rnn import RNNModel
from gluonlm.model.storage import read_arrays
from gluonlm.system.errors import UserError
from gluonlm.training import loop
from gluonlm.training.loss_scale import LossScale


@pytest.fixture
def _on_a_cpu(monkeypatch):
    monkeypatch.setattr(precision, "HALF", "float64")
    for module in ("training.fit", "train"):
        monkeypatch.setattr(f"gluonlm.{module}.check_precision", lambda *_: None)


def trained(cats, save, *more):
    """A run; its last checkpoint's arrays."""
    fit(cats, save, *more)
    return read_arrays(save / "last.safetensors", "gluonlm training state")[0]


def starting_at(monkeypatch, scale):
    class Other(LossScale):
        def __init__(self):
            super().__init__()
            self._loss_scale = scale

    monkeypatch.setattr(loop, "LossScale", Other)


@pytest.mark.usefixtures("_on_a_cpu")
@pytest.mark.parametrize("way", ["full", "sampled", "adaptive"])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "QRNN"])
def test_gradients_reach_the_float32_weights(mode, way):
    results = [gradients(kind, way, mode) for kind in ("float32", "float16")]
    for exact, ours in zip(*results, strict=True):
        assert exact.dtype == ours.dtype == np.float32
        np.testing.assert_allclose(ours.asnumpy(), exact.asnumpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "QRNN"])
def test_the_layers_graph_multiplies_float16(mode):
    """Only its types are asked: a CPU cannot run it."""
    model = RNNModel(50, mode, emsize=8, nhid=8, nlayers=1, precision="float16")
    state = [mx.sym.var(f"state{i}", dtype="float32") for i in range(len(model.begin_state(1)))]
    features, _ = model.body(mx.sym.var("words", dtype="float32"), state)
    inside = features.get_internals()
    kinds = dict(zip(inside.list_outputs(), inside.infer_type()[1], strict=True))
    product = "fullyconnected" if mode == "QRNN" else "rnn"
    made = [kind for name, kind in kinds.items() if f"{product}0_output" in name]
    assert made
    assert set(made) == {np.float16}
    assert features.infer_type()[1] == [np.float32]


@pytest.mark.usefixtures("_on_a_cpu")
def test_the_scale_changes_no_bit(cats, tmp_path, monkeypatch):
    runs = []
    for scale in (1.0, 2.0**10):
        starting_at(monkeypatch, scale)
        more = ["--precision", "float16", "--epochs", "1"]
        runs.append(trained(cats, tmp_path / f"{scale}", *more))
    for name in (name for name in runs[0] if name.startswith("weight")):
        np.testing.assert_array_equal(runs[0][name], runs[1][name])


@pytest.mark.usefixtures("_on_a_cpu")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_scales_and_skips_as_one_that_never_stopped(
    cats, tmp_path, monkeypatch, optimizer
):
    """At 2^70 the norm's squares leave float32: some steps are skipped first."""
    starting_at(monkeypatch, 2.0**70)
    more = ["--precision", "float16", "--optimizer", optimizer]
    whole = trained(cats, tmp_path / "whole", *more, "--epochs", "2")
    parts = trained(cats, tmp_path / "parts", *more, "--epochs", "1", "--schedule", "constant")
    scale, unskipped, skipped = parts["optimizer.loss_scale"]
    assert scale == 2.0 ** (70 - skipped)
    assert skipped > 2
    assert unskipped > 2
    train.main(["--resume", str(tmp_path / "parts"), "--epochs", "2"])
    parts = read_arrays(tmp_path / "parts" / "last.safetensors", "gluonlm training state")[0]
    assert parts["optimizer.loss_scale"][1] > unskipped
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    scale = LossScale()
    assert scale.loss_scale == 2**16
    assert scale.adapt(overflow=True)
    assert scale.loss_scale == 2**15
    for _ in range(1999):
        assert not scale.adapt(overflow=False)
    assert scale.loss_scale == 2**15
    assert not scale.adapt(overflow=False)
    assert scale.loss_scale == 2**16
    assert scale.state() == [2**16, 0, 1]


def test_what_overflows_without_a_scale_has_diverged():
    scale = LossScale()
    assert all(scale.adapt(overflow=True) for _ in range(16))
    assert scale.loss_scale == 1
    assert not scale.adapt(overflow=True)


@pytest.mark.usefixtures("_on_a_cpu")
def test_training_that_diverges_stops(cats, tmp_path, monkeypatch):
    starting_at(monkeypatch, 4.0)

    def not_finite(gradients):
        nd.waitall()
        return math.nan

    monkeypatch.setattr("gluonlm.training.optim.global_norm", not_finite)
    with pytest.raises(UserError, match="diverged"):
        trained(cats, tmp_path / "run", "--precision", "float16", "--epochs", "1")


def test_without_a_gpu_it_is_said(cats, tmp_path):
    with pytest.raises(UserError, match="float16 is for GPUs: add --gpu 0"):
        trained(cats, tmp_path / "run", "--precision", "float16")
    assert not (tmp_path / "run" / "config.json").exists()
