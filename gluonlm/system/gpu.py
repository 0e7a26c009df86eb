"""GPUs for MXNet's CUDA build: its libraries out of the nvidia-*-cu11 wheels, and which GPUs it can
run on.

Nothing but the last function needs mxnet: the libraries are loaded before it, and the GPUs are
asked through the driver.
"""

import ctypes
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from gluonlm.system.errors import UserError

DRIVER = "libcuda.so.1"
# what libmxnet.so of mxnet-cu112 1.9.1 links to, with the folder of its wheel, in an order that loads
LIBRARIES = {
    "libcudart.so.11.0": "cuda_runtime",
    "libcublasLt.so.11": "cublas",
    "libcublas.so.11": "cublas",
    "libcurand.so.10": "curand",
    "libcufft.so.10": "cufft",
    "libcusolver.so.11": "cusolver",
    "libnvrtc.so.11.2": "cuda_nvrtc",
    "libnvToolsExt.so.1": "nvtx",
    "libnccl.so.2": "nccl",
    "libcudnn.so.8": "cudnn",
}
# machine code for 5.0, 6.0, 7.0, 8.0 and 8.6 is what the wheel holds; code for x.y runs on x.z from z = y on
GENERATIONS = (5, 6, 7, 8)
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class CudaLibraries:
    """Where the libraries of the CUDA build came from."""

    from_system: tuple[str, ...]
    from_wheels: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it."""

    number: int
    name: str
    capability: tuple[int, int]

    @property
    def problem(self) -> str | None:
        """Why MXNet cannot run on it and what to do, as one sentence; None if it can."""
        major, minor = self.capability
        if major in GENERATIONS:
            return None
        return (
            f"GPU {self.number} ({self.name}) has compute capability {major}.{minor}: MXNet 1.9.1 holds machine code "
            "for 5.0 to 8.6 only (Maxwell to Ada) and no PTX that the driver could compile for "
            f"{'a newer' if major > max(GENERATIONS) else 'an older'} one, so no kernel would start; use the CPU "
            "(leave out --gpu) or a GPU between these"
        )


def load_libraries() -> CudaLibraries | None:
    """Load the CUDA libraries for the whole process, each from the wheels if the system has none.

    Does nothing and returns None unless MXNet's CUDA 11.2 build is installed.
    """
    try:
        importlib.metadata.version("mxnet-cu112")
    except importlib.metadata.PackageNotFoundError:
        return None
    found: dict[str, list[str]] = {"system": [], "wheels": [], "missing": []}
    for name, wheel in LIBRARIES.items():
        candidates = {name: "system"} | {str(path): "wheels" for path in wheel_files(wheel, name)}
        origin = next((origin for path, origin in candidates.items() if loads(path)), "missing")
        found[origin].append(name)
    return CudaLibraries(*map(tuple, found.values()))


def wheel_files(wheel: str, name: str) -> list[Path]:
    """Where the nvidia wheels have a library; they share the namespace package ``nvidia``."""
    namespace = importlib.util.find_spec("nvidia")
    folders = namespace.submodule_search_locations or () if namespace else ()
    return [path for folder in folders if (path := Path(folder, wheel, "lib", name)).is_file()]


def loads(path: str) -> bool:
    """Load a library for the whole process; False if it is not there."""
    try:
        ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def list_gpus() -> list[Gpu]:
    """The GPUs that this process may use, numbered as MXNet numbers them; no kernel is run.

    :raises UserError: when there is no driver or it does not work.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise UserError(
            f"there is no NVIDIA driver here ({DRIVER} cannot be loaded): install one, or use the CPU"
        ) from None
    try:
        ask(driver.cuInit, 0)
        ask(driver.cuDeviceGetCount, ctypes.byref(count := ctypes.c_int()))
    except NoGpu:
        return []
    return [describe(driver, number) for number in range(count.value)]


class NoGpu(Exception):
    """The driver works and has no GPU for this process, because CUDA_VISIBLE_DEVICES hides all, for example."""


def ask(function, *arguments) -> None:
    """Call a function of the driver.

    :raises UserError: when it fails.
    """
    status = function(*arguments)
    if status == 100:  # CUDA_ERROR_NO_DEVICE
        raise NoGpu
    if status:
        raise UserError(
            f"the NVIDIA driver does not work ({function.__name__} returned {status}): see whether nvidia-smi runs, "
            "reinstall the driver or restart the machine"
        )


def describe(driver: ctypes.CDLL, number: int) -> Gpu:
    """Ask the driver for one GPU's name and compute capability."""
    device, major, minor, name = (
        ctypes.c_int(),
        ctypes.c_int(),
        ctypes.c_int(),
        ctypes.create_string_buffer(100),
    )
    ask(driver.cuDeviceGet, ctypes.byref(device), number)
    ask(driver.cuDeviceGetName, name, len(name), device)
    ask(driver.cuDeviceGetAttribute, ctypes.byref(major), MAJOR, device)
    ask(driver.cuDeviceGetAttribute, ctypes.byref(minor), MINOR, device)
    return Gpu(number, name.value.decode(errors="replace"), (major.value, minor.value))


def contexts(gpu: str | None) -> list:
    """The MXNet contexts to compute on.

    :param gpu: comma-separated GPU numbers such as ``"0"`` or ``"0,1"``; None for the CPU.
    :raises UserError: when a number is malformed, or there is no such GPU, or MXNet cannot run on
        it.
    """
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
        raise UserError(
            f"--gpu {gpu}: the installed mxnet is built for the CPU: install the GPU build with "
            "`make env MXNET=cu112`, or leave the option out"
        )
    present = list_gpus()
    for number in numbers:
        if not 0 <= number < len(present):
            raise UserError(
                f"--gpu {gpu}: there is no GPU {number}, the driver sees {len(present)}"
            )
        if problem := present[number].problem:
            raise UserError(f"--gpu {gpu}: {problem}")
    return [mx.gpu(number) for number in numbers]
