"""Sparse storage: what is read is what was written, in fewer bytes, and damage is noticed."""

import mxnet as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gluonlm.model.checkpoint import MODEL_FORMAT, read_arrays, write_arrays
from gluonlm.model.sparse import pack, unpack
from gluonlm.system.errors import UserError


def random_array(sparsity, shape=(37, 11)):
    random = np.random.RandomState(1)
    array = random.normal(size=shape).astype(np.float32)
    array[random.random_sample(shape) < sparsity] = 0
    return array


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9, 1])
def test_comes_back_bit_for_bit(sparsity):
    array = random_array(sparsity)
    array[3, 4], array[5, 6], array[7, 8] = -0.0, np.nan, np.inf
    packed, shapes = pack({"a": array, "b.bits": np.arange(3, dtype=np.uint8)})
    back = unpack(packed, shapes)
    assert list(back) == ["a", "b.bits"]
    assert back["a"].tobytes() == array.tobytes()
    assert back["a"].shape == (37, 11)


def test_size_follows_the_sparsity_and_never_grows():
    for sparsity, share in ((0.8, 0.2 + 1 / 32), (0.9, 0.1 + 1 / 32), (0.95, 0.05 + 1 / 32)):
        packed, _ = pack({"a": random_array(sparsity, (500, 400))})
        assert sum(part.nbytes for part in packed.values()) / (500 * 400 * 4) == pytest.approx(
            share, abs=0.002
        )
    packed, shapes = pack({"a": random_array(0.0), "ids": np.zeros(9, np.int32)})
    assert list(packed) == ["a", "ids"]
    assert shapes == {}


def test_the_example_of_the_module():
    packed, shapes = pack({"weight": np.array([0, 0, 0, 1.5, 0, 0, 0, 0, 0, 2.5], np.float32)})
    assert packed["weight"].tolist() == [1.5, 2.5]
    assert packed["weight.bits"].tolist() == [16, 64]
    assert shapes == {"weight": [10]}


def test_a_file_whose_parts_do_not_fit_is_damaged(tmp_path):
    path = tmp_path / "model.safetensors"
    array = random_array(0.9)
    write_arrays(path, MODEL_FORMAT, {"a": mx.nd.array(array)}, {})
    np.testing.assert_array_equal(read_arrays(path, MODEL_FORMAT)[0]["a"], array)
    parts = load_file(path)
    metadata = {"format": MODEL_FORMAT, "sparse": '{"a": [37, 11]}'}
    for damaged in ({**parts, "a": parts["a"][:-1]}, {"a": parts["a"]}):
        save_file(damaged, path, metadata)
        with pytest.raises(UserError, match="damaged"):
            read_arrays(path, MODEL_FORMAT)
