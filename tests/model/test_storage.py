"""Storage: what is read is what was written, with many zeros in fewer bytes, and damage is
noticed."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gluonlm.model.storage import digest, pack, read_arrays, unpack, write_arrays
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


def write(path, arrays, **metadata):
    write_arrays(path, "gluonlm model", arrays, metadata)
    return path


def read(path):
    return read_arrays(path, "gluonlm model")


def test_a_file_whose_parts_do_not_fit_is_damaged(tmp_path):
    array = random_array(0.9)
    path = write(tmp_path / "model.safetensors", {"a": array}, level="word")
    np.testing.assert_array_equal(read(path)[0]["a"], array)
    assert read(path)[1] == {"level": "word"}
    parts = load_file(path)
    for damaged, shape in (
        ({**parts, "a": parts["a"][:-1]}, "[37, 11]"),
        ({"a": parts["a"]}, "[37, 11]"),
        (parts, "[-37, -11]"),
        (parts, "[37, 12]"),
        (parts, "[100000, 250000]"),  # 93 GiB
        (parts, '["37", 11]'),
        (parts, "37"),
        (parts, "[" * 100_000),
    ):
        metadata = {"format": "gluonlm model 2", "sparse": f'{{"a": {shape}}}'}
        save_file(damaged, path, {**metadata, "digest": digest(damaged, metadata)})
        with pytest.raises(UserError, match="damaged"):
            read(path)


def test_no_byte_changes_unseen(tmp_path):
    """Whatever is changed anywhere in a file, it is told, or it is not part of the content."""
    arrays = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a": random_array(0.9, (9, 5)),
        "scale": np.array(0.5, np.float32),
        "bits": np.arange(5, dtype=np.uint8),
    }
    path = write(tmp_path / "model.safetensors", arrays, level="word", config='{"nhid": 3}')
    content, (_, metadata) = path.read_bytes(), read(path)
    random = np.random.default_rng(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        try:
            again, said = read(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:  # white space of the header
            assert said == metadata
            assert {name: array.tobytes() for name, array in again.items()} == {
                name: array.tobytes() for name, array in arrays.items()
            }


def test_a_file_of_another_version_or_without_a_digest_is_refused(tmp_path):
    path, array = tmp_path / "model.safetensors", random_array(0.0)
    save_file({"a": array}, path, {"format": "gluonlm model 1", "level": "word"})
    with pytest.raises(UserError, match="it is not a gluonlm model of this version"):
        read(path)
    save_file({"a": array}, path, {"format": "gluonlm model 2", "level": "word"})
    with pytest.raises(UserError, match="does not fit its digest"):
        read(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, number):
    array = random_array(0.0)
    array[3, 4] = number
    path = write(tmp_path / "model.safetensors", {"a": array})
    with pytest.raises(UserError, match="array a has numbers that are not finite"):
        read(path)


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E5M2", 1), ("I64", 8), ("BOOL", 1)])
def test_arrays_of_other_kinds_are_refused(tmp_path, kind, size):
    path, array = tmp_path / "model.safetensors", {"dtype": kind, "shape": [3]}
    array["data_offsets"] = [0, 3 * size]
    header = json.dumps({"__metadata__": {"format": "gluonlm model 2"}, "a": array}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(3 * size))
    with pytest.raises(UserError, match=f"it has arrays of the kind {kind}"):
        read(path)
