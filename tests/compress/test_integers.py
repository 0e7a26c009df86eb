"""Scales, zero points and rounding: by hand, at the bounds, and for what has no range."""

import numpy as np
import pytest

from gluonlm.compress.quantization import (
    ACTIVATIONS,
    WEIGHTS,
    Integers,
    quantize_matrix,
    scale_and_zero,
    to_integers,
)

MODES = pytest.mark.parametrize("symmetric", [True, False])


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "kind", "scale", "zero"),
    [
        (-1.27, 0.5, True, WEIGHTS, 0.01, 0),  # 1.27 / 127
        (-1.27, 0.5, True, ACTIVATIONS, 0.01, 128),
        (-1.0, 1.55, False, ACTIVATIONS, 0.01, 100),  # 2.55 / 255; 1.0 / 0.01 steps below zero
        (-1.0, 1.55, False, WEIGHTS, 0.01, -28),
        (0.5, 5.1, False, ACTIVATIONS, 0.02, 0),  # widened to hold zero
        (-5.1, -0.5, False, WEIGHTS, 0.02, 127),
        (0.0, 0.0, False, ACTIVATIONS, 1.0, 0),  # of zeros any scale will do
        (0.0, 0.0, True, WEIGHTS, 1.0, 0),
    ],
)
def test_scale_and_zero_point_by_hand(low, high, symmetric, kind, scale, zero):
    got_scale, got_zero = scale_and_zero(low, high, symmetric, kind)
    assert got_scale == pytest.approx(scale, rel=1e-6)
    assert got_zero == zero
    assert (got_scale.dtype, got_zero.dtype) == (np.float32, kind)


def test_the_matrix_of_the_module():
    integers = quantize_matrix(
        np.array([[-1.0, 0.0, 0.5], [0.0, 1.0, 4.0]], np.float32), symmetric=False, rows=True
    )
    assert integers.values.tolist() == [[-128, 42, 127], [-128, -64, 127]]
    np.testing.assert_allclose(integers.scale, [1.5 / 255, 4 / 255], rtol=1e-6)
    assert integers.zero.tolist() == [42, -128]


@MODES
@pytest.mark.parametrize("rows", [True, False])
def test_a_round_trip_is_off_by_half_a_step_at_most(symmetric, rows):
    random = np.random.default_rng(1)
    matrix = (random.normal(size=(40, 30)) * random.uniform(0.01, 3, size=(40, 1)) + 0.1).astype(
        np.float32
    )
    integers = quantize_matrix(matrix, symmetric, rows)
    assert integers.fits()
    assert integers.scale.shape == ((40,) if rows else ())
    error = np.abs(integers.floats() - matrix)
    limit = integers.scale[..., None] * (
        0.5 if symmetric else 1.0
    )  # asymmetric: the zero point is rounded too
    assert (error <= limit * (1 + 1e-5)).all()
    assert error.max() > 0


@MODES
def test_a_scale_per_row_is_never_worse_and_much_better_for_rows_of_different_size(symmetric):
    random = np.random.default_rng(2)
    matrix = (random.normal(size=(20, 50)) * np.logspace(-2, 1, 20)[:, None]).astype(np.float32)
    row, tensor = (
        float(np.square(quantize_matrix(matrix, symmetric, rows).floats() - matrix).mean())
        for rows in (True, False)
    )
    assert row < tensor / 3


@MODES
def test_zeros_stay_zeros(symmetric):
    """What has been pruned stays pruned."""
    random = np.random.default_rng(3)
    matrix = random.uniform(-0.3, 1, size=(30, 40)).astype(np.float32)
    matrix[random.uniform(size=matrix.shape) < 0.7] = 0
    matrix[5] = 0
    assert (quantize_matrix(matrix, symmetric, rows=True).floats()[matrix == 0] == 0).all()


def test_what_is_out_of_range_becomes_the_nearest_there_is():
    scale, zero = scale_and_zero(-1.0, 1.55, False, ACTIVATIONS)
    assert to_integers(np.array([-9.0, -1.0, 0.0, 0.004, 1.55, 7.0]), scale, zero).tolist() == [
        0,
        0,
        100,
        100,
        255,
        255,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"values": np.zeros((3, 2), np.int16)},
        {"values": np.zeros(3, np.int8)},
        {"scale": np.ones(3)},  # float64
        {"scale": np.ones(2, np.float32), "zero": np.zeros(2, np.int8)},
        {"zero": np.zeros((), np.int8)},
        {"scale": np.array([1, np.nan, 1], np.float32)},
    ],
)
def test_parts_that_do_not_fit_are_noticed(change):
    parts = {
        "values": np.zeros((3, 2), np.int8),
        "scale": np.ones(3, np.float32),
        "zero": np.zeros(3, np.int8),
    }
    assert Integers(**parts).fits()
    assert not Integers(**parts | change).fits()
