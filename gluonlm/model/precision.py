"""Products of matrices in fewer bits: factors in bfloat16 or float16, all else in float32.

    python -m gluonlm.train --precision bfloat16           # on a processor
    python -m gluonlm.train --precision float16 --gpu 0    # on a GPU, with MXNet's loss scale
    python -m gluonlm.score runs/NAME sentences.txt --precision bfloat16

A bfloat16 number has the range of a float32 and 8 of its 24 digits, and a processor with
AVX512_BF16 multiplies twice as many of them at a time. The decoder and LSTM layers round. What is
saved is float32, and whatever loads it computes in float32 unless it is told otherwise.

A float16 number has 11 digits and a small range: gradients are scaled
(:mod:`gluonlm.training.loss_scale`). MXNet multiplies it on GPUs only. That path has been tested
with other numbers on a CPU, and never run on a GPU.
"""

from typing import Any

from mxnet import nd

from gluonlm.system import native
from gluonlm.system.errors import UserError
from gluonlm.system.machine import cpu_flags

HALF = "float16"  # what a GPU multiplies; tests on a CPU, where MXNet cannot, put float64 here


def check_precision(precision: str, on_gpu: bool | None = None, advice: str = "") -> None:
    """Get ready for a run's precision.

    :param on_gpu: None where the device is not known yet.
    :param advice: what to do where the device cannot, if not to give another option.
    :raises UserError: when the device cannot, or the operator for it cannot be compiled.
    """
    if precision == "float16" and on_gpu is False:
        advice = advice or "add --gpu 0, or choose bfloat16 or float32"
        raise UserError(f"--precision float16 is for GPUs: {advice}")
    if precision != "bfloat16":
        return
    if on_gpu:
        advice = advice or "leave it out on a GPU"
        raise UserError(f"--precision bfloat16 is for processors: {advice}")
    if not {"avx512_bf16", "avx512bw"} <= cpu_flags():
        lacking = "this processor cannot multiply bfloat16 (no AVX512_BF16), and imitating it"
        advice = advice or "leave the option out"
        raise UserError(f"--precision bfloat16: {lacking} would be slower: {advice}")
    native.load_operators("bfloat16")


def cast(F: Any, dtype: str, *arrays: Any) -> list:
    """Arrays in other numbers, whose gradients are in their own; F is ``mx.nd`` or ``mx.sym``."""
    return [F.cast(array, dtype=dtype) for array in arrays]


def dot(
    a: nd.NDArray,
    b: nd.NDArray,
    precision: str,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bfloat16_b: int = 0,
) -> nd.NDArray:
    """The product of two float32 matrices, transposed or not, as float32.

    :param bfloat16_b: b has so many columns in bfloat16, two in the bits of a float32; 0: it has
        not, and is rounded where the precision says so.
    """
    if precision == "bfloat16":
        options = {"transpose_a": transpose_a, "transpose_b": transpose_b, "bfloat16_b": bfloat16_b}
        return nd.gluonlm_dot(a, b, **options)
    if precision == "float16":
        a, b = cast(nd, HALF, a, b)
    return nd.dot(a, b, transpose_a, transpose_b).astype("float32", copy=False)


def linear(x: nd.NDArray, weight: nd.NDArray, bias: nd.NDArray, precision: str) -> nd.NDArray:
    """x (B, C), weight (V, C), bias (V,) -> x weight' + bias (B, V)."""
    if precision == "bfloat16":
        return nd.gluonlm_dot(x, weight, bias, transpose_b=True, bias=True)
    if precision == "float16":
        x, weight, bias = cast(nd, HALF, x, weight, bias)
    return nd.FullyConnected(x, weight, bias, num_hidden=weight.shape[0])
