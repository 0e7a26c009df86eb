"""GPUs for MXNet's CUDA build: which can run it, and its libraries from the nvidia-*-cu11 wheels.

Only the last function needs mxnet: the libraries are loaded before it, and the driver is asked.
"""

import ctypes
from dataclasses import dataclass

from gluonlm.system.errors import UserError
from gluonlm.system.machine import loads, version, wheel_file

DRIVER = "libcuda.so.1"
# what libmxnet.so of mxnet-cu112 1.9.1 links to: part of its wheel's name, in an order that loads
LIBRARIES = {
    "libcudart.so.11.0": "cuda-runtime",
    "libcublasLt.so.11": "cublas",
    "libcublas.so.11": "cublas",
    "libcurand.so.10": "curand",
    "libcufft.so.10": "cufft",
    "libcusolver.so.11": "cusolver",
    "libnvrtc.so.11.2": "cuda-nvrtc",
    "libnvToolsExt.so.1": "nvtx",
    "libnccl.so.2": "nccl",
    "libcudnn.so.8": "cudnn",
}
# the wheel holds machine code for 5.0, 6.0, 7.0, 8.0 and 8.6, which runs on later minor versions
GENERATIONS = (5, 6, 7, 8)
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it."""

    number: int
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return "{} {}, compute capability {}.{}".format(self.number, self.name, *self.capability)

    @property
    def problem(self) -> str | None:
        """Why MXNet cannot run on it and what to do, as one sentence; None if it can."""
        major, minor = self.capability
        if major in GENERATIONS:
            return None
        age = "a newer" if major > max(GENERATIONS) else "an older"
        return (
            f"GPU {self.number} ({self.name}) has compute capability {major}.{minor}: MXNet 1.9.1 "
            "holds machine code for 5.0 to 8.6 only (Maxwell to Ada) and no PTX that the driver "
            f"could compile for {age} one, so no kernel would start; use the CPU (leave out --gpu) "
            "or a GPU between these"
        )


def load_libraries() -> tuple[str, ...] | None:
    """Load the CUDA libraries for the whole process, each from the wheels if the system has none;
    returns which are missing, None without MXNet's CUDA 11.2 build, for which none are loaded."""
    if version("mxnet-cu112") is None:
        return None
    return tuple(
        name
        for name, wheel in LIBRARIES.items()
        if not (loads(name) or loads(wheel_file(f"nvidia-{wheel}-cu11", name)))
    )


def list_gpus() -> list[Gpu]:
    """The GPUs that this process may use, numbered as MXNet numbers them; no kernel is run. A
    UserError when there is no driver or it does not work."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        lacking = f"there is no NVIDIA driver here ({DRIVER} cannot be loaded)"
        raise UserError(f"{lacking}: install one, or use the CPU") from None
    count = ctypes.c_int()
    if ask(driver.cuInit, 0) and ask(driver.cuDeviceGetCount, ctypes.byref(count)):
        return [describe(driver, number) for number in range(count.value)]
    return []


def ask(function, *arguments) -> bool:
    """Call a function of the driver; False without a GPU for this process, which may be hidden. A
    UserError when it fails."""
    status = function(*arguments)
    if status not in (0, NO_DEVICE):
        advice = "see whether nvidia-smi runs, reinstall the driver or restart the machine"
        said = f"{function.__name__} returned {status}"
        raise UserError(f"the NVIDIA driver does not work ({said}): {advice}")
    return status != NO_DEVICE


def describe(driver: ctypes.CDLL, number: int) -> Gpu:
    """Ask the driver for one GPU's name and compute capability."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(100)
    ask(driver.cuDeviceGet, ctypes.byref(device), number)
    ask(driver.cuDeviceGetName, name, len(name), device)
    ask(driver.cuDeviceGetAttribute, ctypes.byref(major), MAJOR, device)
    ask(driver.cuDeviceGetAttribute, ctypes.byref(minor), MINOR, device)
    return Gpu(number, name.value.decode(errors="replace"), (major.value, minor.value))


def contexts(gpu: str | None) -> list:
    """The MXNet contexts to compute on: GPUs such as ``"0"`` or ``"0,1"``, the CPU if None; a
    UserError when a number is malformed, or there is no such GPU that can run MXNet."""
    import mxnet as mx

    if gpu is None:
        return [mx.cpu()]
    try:
        numbers = [int(number) for number in gpu.split(",")]
    except ValueError:
        raise UserError(f"--gpu {gpu or repr(gpu)}: give GPU numbers such as 0 or 0,1") from None
    if len(set(numbers)) < len(numbers):  # each would add its gradient twice
        raise UserError(f"--gpu {gpu}: a GPU is named twice, give each number once")
    if not mx.runtime.Features().is_enabled("CUDA"):
        advice = "install the GPU build with `make env MXNET=cu112`, or leave the option out"
        raise UserError(f"--gpu {gpu}: the installed mxnet is built for the CPU: {advice}")
    present = list_gpus()
    for number in numbers:
        known = 0 <= number < len(present)
        unknown = f"there is no GPU {number}, the driver sees {len(present)}"
        if problem := present[number].problem if known else unknown:
            raise UserError(f"--gpu {gpu}: {problem}")
    return [mx.gpu(number) for number in numbers]
