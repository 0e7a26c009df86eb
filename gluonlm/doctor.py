"""What works on this machine, and what to do about what does not.

    python -m gluonlm.doctor                 # takes ten seconds, five of them for the speed check
    python -m gluonlm.doctor --seconds 0     # without the speed check

Exit code 0 when all is well, 2 when something needs mending.
"""

import os
import platform
import sys
import time
from dataclasses import dataclass, field

import gluonlm
from gluonlm.cli import Parser, run
from gluonlm.system import gpu, machine, native, runtime
from gluonlm.system.errors import UserError
from gluonlm.system.streams import counted
from gluonlm.text import sources

FAST_CORES = ("SkylakeX", "Haswell", "Zen", "Cooperlake", "SapphireRapids")  # OpenBLAS's, with AVX2


@dataclass
class Report:
    """What was found, by subject, and one sentence per problem, which says what to do."""

    findings: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def problem_if(self, wrong: bool, sentence: str) -> None:
        self.problems += [sentence] if wrong else []

    def text(self) -> str:
        width = max(map(len, self.findings))
        lines = [f"{subject:<{width}}  {finding}" for subject, finding in self.findings.items()]
        lines += [f"problem: {problem}" for problem in self.problems] or ["all is well"]
        return "\n".join(lines)


def check_versions(report: Report) -> None:
    """The interpreter, NumPy, and the builds of MXNet."""
    numpy = machine.version("numpy")
    builds = [f"{name} {v}" for name in ("mxnet", "mxnet-cu112") if (v := machine.version(name))]
    system = f"{platform.system()} {platform.machine()}"
    report.findings |= {
        "python": f"{platform.python_version()} on {system}",
        "numpy": numpy or "not installed",
        "mxnet": " and ".join(builds) or "not installed",
    }
    note, other = report.problem_if, sys.version_info[:2] != (3, 10)
    note(other, "gluonlm is made for Python 3.10: build its environment with `make env`")
    new = numpy is None or tuple(map(int, numpy.split(".")[:2])) >= (1, 24)
    note(new, "MXNet 1.9.1 needs numpy before 1.24: build the environment with `make env`")
    twice = "two builds of mxnet overwrite each other: delete .venv and run `make env`"
    note(len(builds) > 1, twice)


def mxnet_works(report: Report) -> bool:
    try:
        import mxnet  # noqa: F401
    except (ImportError, OSError, AttributeError) as error:
        driver = "see that the NVIDIA driver is installed"
        advice = driver if "libcuda" in str(error) else "build it with `make env`"
        report.problems.append(f"mxnet cannot be imported ({error}): {advice}")
        return False
    return True


def check_speed_settings(report: Report) -> None:
    """Processor, threads, OpenMP, BLAS, the C compiler."""
    prepared, cores = gluonlm.RUNTIME, runtime.usable_cores()
    told = os.environ.get("OPENBLAS_CORETYPE")
    own_blas = f"MXNet's own for {told or 'what it takes this processor for'}"
    report.findings |= {
        "processor": f"{machine.cpu_model()}, {counted(cores, 'usable core')}",
        "threads": str(prepared.threads),
        "OpenMP": prepared.openmp or "MXNet's own",
        "BLAS": str(prepared.blas or own_blas),
    }
    try:
        report.findings["C compiler"] = native.find_compiler()
    except UserError as error:
        report.findings["C compiler"] = f"none: {error}"
    note, threads = report.problem_if, prepared.threads
    crowd = f"OMP_NUM_THREADS asks for {threads} threads where {cores} can run, which then wait"
    note(threads > cores, f"{crowd} for each other: unset it")
    lacking = sys.platform == "linux" and platform.machine() == "x86_64" and not prepared.openmp
    note(lacking, "Intel's OpenMP is missing, training is slower: `pip install intel-openmp`")
    slow = f"BLAS uses its kernels for {told} on a processor that has AVX2"
    wrong = bool(told and runtime.blas_core() and told not in FAST_CORES)
    note(wrong, f"{slow}: unset OPENBLAS_CORETYPE")


def check_gpus(report: Report) -> None:
    """Which GPUs there are, and whether MXNet can run on them."""
    missing = gluonlm.RUNTIME.cuda_missing
    gpu_build = missing is not None
    lacking = ", ".join(missing or ())
    report.problem_if(bool(missing), f"{lacking} not found: run `make env MXNET=cu112`")
    try:
        gpus = gpu.list_gpus()
    except UserError as error:
        report.findings["GPUs"] = str(error)
        report.problem_if(gpu_build, f"the GPU build of mxnet is installed, but {error}")
        return
    usable = "can be used" if gpu_build else "can be used with the GPU build"
    found = [f"{one}: {'cannot be used' if one.problem else usable}" for one in gpus]
    report.findings["GPUs"] = "; ".join(found) or "none"
    report.problems += [one.problem for one in gpus if one.problem and gpu_build]


def check_data(report: Report) -> None:
    report.findings["data sets"] = ", ".join(
        f"{name} ({sources.presence(dataset)})" for name, dataset in sources.DATASETS.items()
    )
    try:
        sources.bundled_folder("austen")
    except UserError as error:
        report.problems.append(str(error))


def check_speed(report: Report, seconds: float) -> None:
    """Train a small model on random words for some seconds."""
    speed = training_speed(seconds)
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
    size = config.bptt + 1, config.batch_size
    ids = np.random.default_rng(1).integers(0, 10_000, size, np.int32)
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
    parser = Parser("doctor", __doc__)
    words = "length of the speed check (default: 5; 0: none)"
    parser.add_argument("--seconds", type=float, default=5.0, help=words)
    options = parser.parse_args(argv)
    report = Report()
    for check in (check_versions, check_speed_settings, check_gpus, check_data):
        check(report)
    if mxnet_works(report) and options.seconds > 0:
        check_speed(report, options.seconds)
    print(report.text())
    return report


if __name__ == "__main__":
    run(lambda argv: sys.exit(2 if main(argv).problems else 0))
