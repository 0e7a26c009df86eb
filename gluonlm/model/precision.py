"""Products of matrices in fewer bits: factors in bfloat16, sums, weights and everything else in float32.

    python -m gluonlm.train --precision bfloat16

A bfloat16 number has the range of a float32 and 8 of its 24 digits, and a processor with AVX512_BF16 multiplies twice
as many of them at a time. The decoder and LSTM layers round, while a run trains; what is saved is float32, and whatever
loads it computes in float32.
"""

from mxnet import nd

from gluonlm.system import native
from gluonlm.system.errors import UserError
from gluonlm.system.machine import cpu_flags


def check_precision(precision: str, on_gpu: bool = False) -> None:
    """Get ready for a run's precision.

    :raises UserError: when this processor has no instructions for it, or their operator cannot be compiled.
    """
    if precision == "float32":
        return
    if on_gpu:
        raise UserError("--precision bfloat16 is for processors: leave it out on a GPU")
    if not {"avx512_bf16", "avx512bw"} <= cpu_flags():
        raise UserError(
            "--precision bfloat16: this processor cannot multiply bfloat16 (no AVX512_BF16), and imitating it would "
            "be slower: leave the option out"
        )
    native.load_operators("bfloat16")


def dot(
    a: nd.NDArray,
    b: nd.NDArray,
    precision: str,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> nd.NDArray:
    """The product of two float32 matrices, each maybe transposed, as float32."""
    if precision == "bfloat16":
        return nd.gluonlm_dot(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    return nd.dot(a, b, transpose_a, transpose_b)


def linear(x: nd.NDArray, weight: nd.NDArray, bias: nd.NDArray, precision: str) -> nd.NDArray:
    """x (B, C), weight (V, C), bias (V,) -> x weight' + bias (B, V)."""
    if precision == "bfloat16":
        return nd.gluonlm_dot(x, weight, bias, transpose_b=True, bias=True)
    return nd.FullyConnected(x, weight, bias, num_hidden=weight.shape[0])
