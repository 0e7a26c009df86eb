"""What works on this machine, and what to do about what does not.

    python -m gluonlm.doctor                 # takes ten seconds, five of them for the speed check
    python -m gluonlm.doctor --seconds 0     # without the speed check

Exit code 0 when all is well, 2 when something needs mending.
"""

import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import gluonlm
from gluonlm.cli import Parser, run
from gluonlm.system import blas, gpu, machine, runtime
from gluonlm.system.errors import UserError
from gluonlm.text import sources

FEATURES = (
    "CUDA",
    "CUDNN",
    "NCCL",
    "MKLDNN",
    "BLAS_OPEN",
    "BLAS_MKL",
    "OPENMP",
    "DIST_KVSTORE",
    "INT64_TENSOR_SIZE",
)
OPENMP_NAMES = ("libgomp", "libiomp5", "libomp.", "libomp-")


@dataclass
class Report:
    """What was found: lines of (subject, finding), and one sentence per problem, which says what to do."""

    findings: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    tokens_per_second: float | None = None  # of the speed check, None if it was not made

    def text(self) -> str:
        """The report as it is printed."""
        width = max(map(len, self.findings))
        lines = [f"{subject:<{width}}  {finding}" for subject, finding in self.findings.items()]
        lines += [f"problem: {problem}" for problem in self.problems] or ["all is well"]
        return "\n".join(lines)


def check_python(report: Report) -> None:
    """The interpreter and NumPy."""
    numpy = machine.version("numpy")
    report.findings["python"] = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    report.findings["numpy"] = numpy or "not installed"
    if sys.version_info[:2] != (3, 10):
        report.problems.append(
            "gluonlm is made for Python 3.10: build its environment with `make env`"
        )
    if numpy is None or tuple(map(int, numpy.split(".")[:2])) >= (1, 24):
        report.problems.append(
            "MXNet 1.9.1 needs numpy before 1.24: build the environment with `make env`"
        )


def check_mxnet(report: Report) -> bool:
    """Whether MXNet can be imported, which build it is and what that can do."""
    builds = [build for build in ("mxnet", "mxnet-cu112") if machine.version(build)]
    report.findings["mxnet"] = (
        " and ".join(f"{build} {machine.version(build)}" for build in builds) or "not installed"
    )
    if len(builds) > 1:
        report.problems.append(
            "two builds of mxnet overwrite each other: delete .venv and run `make env`"
        )
    try:
        import mxnet as mx
    except (ImportError, OSError, AttributeError) as error:
        missing = ", ".join(gluonlm.RUNTIME.cuda.missing) if gluonlm.RUNTIME.cuda else ""
        wanted = (
            f"; its CUDA build lacks {missing}, which `make env MXNET=cu112` installs"
            if missing
            else ""
        )
        advice = (
            "see that the NVIDIA driver is installed"
            if "libcuda" in str(error)
            else "build it with `make env`"
        )
        report.problems.append(f"mxnet cannot be imported ({error}){wanted}: {advice}")
        return False
    features = mx.runtime.Features()
    report.findings["features"] = ", ".join(
        name for name in FEATURES if name in features and features[name].enabled
    )
    return True


def check_compiler(report: Report) -> None:
    """The C compiler, which makes the operator of a QRNN."""
    from gluonlm.system.native import find_compiler

    try:
        report.findings["C compiler"] = find_compiler()
    except UserError as error:
        report.findings["C compiler"] = f"none: {error}"


def check_speed_settings(report: Report, mxnet_works: bool) -> None:
    """Processor, BLAS kernels, threads, OpenMP, memory."""
    cores, prepared = runtime.usable_cores(), gluonlm.RUNTIME
    report.findings["processor"] = f"{machine.cpu_model()}, {cores} usable cores"
    report.findings["threads"] = (
        f"{prepared.threads} (KMP_BLOCKTIME={os.environ.get('KMP_BLOCKTIME')})"
    )
    if prepared.threads > cores:
        report.problems.append(
            f"OMP_NUM_THREADS asks for {prepared.threads} threads on {cores} cores, which then wait for each other: "
            "unset it"
        )
    check_openmp(report, mxnet_works)
    report.findings["memory"] = (
        "kept between steps" if prepared.pooled_memory else "as the C library handles it"
    )
    check_blas(report, mxnet_works)


def check_blas(report: Report, mxnet_works: bool) -> None:
    """Which OpenBLAS makes MXNet's matrix products, with which kernels, and what it reaches."""
    core, rates = blas_kernel() if mxnet_works else None, gluonlm.RUNTIME.blas
    own, theirs = f"MXNet's own for {core or 'an unknown processor'}", f"of {blas.WHEEL}"
    report.findings["BLAS kernels"] = own if core else "unknown"
    if rates and rates.preferred:
        report.findings["BLAS kernels"] = (
            f"{theirs}, {rates.wheel:.0f} GFLOP/s; {own}: {rates.mxnet:.0f}"
        )
    elif rates:
        report.findings["BLAS kernels"] = (
            f"{own}, {rates.mxnet:.0f} GFLOP/s; {theirs}: {rates.wheel:.0f}"
        )
    known = ("SkylakeX", "Haswell", "Zen", "Cooperlake", "SapphireRapids")
    if core and runtime.blas_core() and core not in known:
        report.problems.append(
            f"BLAS uses its kernels for {core} on a processor that has AVX2: unset OPENBLAS_CORETYPE "
            f"(now {os.environ.get('OPENBLAS_CORETYPE')})"
        )


def check_openmp(report: Report, mxnet_works: bool) -> None:
    """Which OpenMP runtimes are in the process, and which of them MXNet calls."""
    present = [
        path for path in runtime.loaded_libraries() if Path(path).name.startswith(OPENMP_NAMES)
    ]
    serving = runtime.serving_openmp() or (
        runtime.serving_openmp(mxnet_library()) if mxnet_works else None
    )
    idle = [path for path in present if path != serving]
    report.findings["OpenMP"] = (serving or "unknown") + (
        f"; loaded but not called: {', '.join(idle)}" if idle else ""
    )
    if sys.platform == "linux" and platform.machine() == "x86_64" and not gluonlm.RUNTIME.openmp:
        report.problems.append(
            "Intel's OpenMP is missing, training is slower without: `pip install intel-openmp`"
        )


def mxnet_library() -> str:
    """The path of the library that mxnet has loaded."""
    import mxnet as mx

    return mx.libinfo.find_lib_path()[0]


def blas_kernel() -> str | None:
    """The CPU kind whose kernels the OpenBLAS of MXNet uses; None where it cannot be asked.

    The symbol is looked up in libmxnet.so (where some builds embed OpenBLAS), then in what that links to.
    """
    try:
        function = ctypes.CDLL(mxnet_library()).openblas_get_corename
    except (AttributeError, OSError):
        return None
    function.restype = ctypes.c_char_p
    return function().decode()


def check_gpus(report: Report) -> None:
    """GPUs and whether MXNet can run on them."""
    libraries = gluonlm.RUNTIME.cuda
    try:
        gpus = gpu.list_gpus()
    except UserError as error:
        report.findings["GPUs"] = str(error)
        if libraries:
            report.problems.append(f"the GPU build of mxnet is installed, but {error}")
        return
    report.findings["GPUs"] = "; ".join(
        f"{one.number} {one.name}, compute capability {one.capability[0]}.{one.capability[1]}: "
        f"{'cannot be used' if one.problem else 'can be used'}{'' if libraries else ' with the GPU build'}"
        for one in gpus
    )
    report.findings["GPUs"] = report.findings["GPUs"] or "none"
    if libraries:
        report.findings["CUDA"] = (
            f"{len(libraries.from_system)} libraries from the system, {len(libraries.from_wheels)} from wheels"
        )
        report.problems += [one.problem for one in gpus if one.problem]
        if libraries.missing:
            report.problems.append(
                f"{', '.join(libraries.missing)} not found: run `make env MXNET=cu112`"
            )


def check_data(report: Report) -> None:
    """Which data sets are here."""
    report.findings["data sets"] = ", ".join(
        f"{name} ({sources.presence(dataset)})" for name, dataset in sources.DATASETS.items()
    )
    try:
        sources.bundled_folder("austen")
    except UserError as error:
        report.problems.append(str(error))


def check_speed(report: Report, seconds: float) -> None:
    """Train a small model on random words for some seconds."""
    report.tokens_per_second = speed = training_speed(seconds)
    report.findings["speed"] = (
        f"{speed:.0f} tokens/s training 2 x 200 units, tied, V = 10,000, batch 20 x 35"
    )
    load = os.getloadavg()[0]
    if load > runtime.usable_cores() + 0.5:
        report.findings["speed"] += f" (other programs are running, the load is {load:.1f})"


def training_speed(seconds: float) -> float:
    """Tokens per second of training steps."""
    import mxnet as mx
    import numpy as np

    from gluonlm.config import Config
    from gluonlm.model.checkpoint import build_model
    from gluonlm.training.optim import Updater
    from gluonlm.training.step import train_step

    mx.random.seed(1)
    config = Config(tied=True)
    model = build_model(config, 10_000)
    updater = Updater(model.trainables(), config.optimizer, config.wdecay)
    ids = (
        np.random.default_rng(1)
        .integers(0, 10_000, (config.bptt + 1, config.batch_size))
        .astype(np.int32)
    )
    states = [model.begin_state(config.batch_size)]
    steps, started = -3, time.perf_counter()  # the first ones allocate
    while time.perf_counter() - started < seconds or steps < 1:
        _, states = train_step(model, updater, ids[:-1], ids[1:], states, 1.0, config.clip)
        steps += 1
        if steps == 0:
            started = time.perf_counter()
    return steps * ids[1:].size / (time.perf_counter() - started)


def main(argv: list[str]) -> Report:
    """Examine this machine, print the findings, and return them."""
    parser = Parser(
        prog="python -m gluonlm.doctor",
        description="What works on this machine, and what to do about what does not.",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of the speed check (default: 5; 0: none)"
    )
    options = parser.parse_args(argv)
    report = Report()
    check_python(report)
    mxnet_works = check_mxnet(report)
    if mxnet_works:
        check_compiler(report)
    check_speed_settings(report, mxnet_works)
    check_gpus(report)
    check_data(report)
    if mxnet_works and options.seconds > 0:
        check_speed(report, options.seconds)
    print(report.text())
    return report


if __name__ == "__main__":
    run(lambda argv: sys.exit(2 if main(argv).problems else 0))
