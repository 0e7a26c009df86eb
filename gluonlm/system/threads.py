"""How many threads compute: all cores on a quiet machine, fewer beside a busy program.

Every operator waits for the slowest of its threads: where another program takes a core, two threads
can be ten times slower than one. So the number is measured at the start, again when the speed
or the load changes, and from time to time while the machine is busy. One that the user has set
stays.

No result depends on it: sums are made in the same order by however many threads. Where that does
not hold, without the BLAS of :mod:`gluonlm.system.blas`, all cores compute.

>>> threads = Threads()
>>> with threads.timed(tokens): ...      # equal work each time, computed to its end
"""

import ctypes
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from gluonlm.system.machine import cpu_flags, others_seconds
from gluonlm.system.runtime import loaded_libraries, prepare

LEAST = 0.1  # seconds: shorter pieces of work count together, or a rare stall would not show
TRIAL = 4  # pieces of work by which a number is judged, after one to settle
ENOUGH = 0.8  # seconds after which two pieces do
HOPELESS = 1.3  # a number that is so many times slower than another is not tried on
WINDOW = 5  # pieces over which the speed is watched
CHANGE = 1.25  # of the speed, by this factor, up or down, calls for a new measurement
OTHERS = 0.3  # cores that other programs use; so many more or less call for a measurement, too
REST = 4  # a measurement is not followed by another for so many times its length
# seconds of work until more threads are tried again: doubled each time, up to the longest
PATIENCE, LONGEST = 4.0, 160.0
EQUAL = 1.08  # times that differ by less are about the same
current: list[int] = []  # the number that was set last


@cache
def on_worker(number: int) -> Callable:
    """What a thread of MXNet runs to have this number, which belongs to the thread that starts an
    operator; kept, for it must live until it has run."""
    openmp = ctypes.CDLL(None)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    return kind(lambda run_context, parameter: openmp.omp_set_num_threads(number))


def set_threads(number: int) -> None:
    """Let the operators of MXNet that are called from now on run on so many threads."""
    if current == [number]:
        return
    from mxnet.base import _LIB, check_call

    function, nothing = on_worker(number), (None, 0, None, 0, None, 0, None)
    cpu = (ctypes.c_int * 2)(1, 0)
    check_call(_LIB.MXEnginePushSyncND(function, None, None, ctypes.byref(cpu), *nothing))
    check_call(_LIB.MXNDArrayWaitAll())
    function(None, None)  # in this thread, too
    current[:] = [number]


@cache
def numpy_blas() -> ctypes.CDLL | None:
    """The OpenBLAS inside NumPy's wheel; None where NumPy has another BLAS."""
    paths = [path for path in loaded_libraries() if "numpy.libs/libopenblas" in path]
    library = ctypes.CDLL(paths[0]) if paths else None
    return library if hasattr(library, "openblas_set_num_threads64_") else None


@contextmanager
def one_thread() -> Iterator[None]:
    """A with-block in which MXNet, if its number is ours to choose, and NumPy use one thread.

    For a word at a time a second thread brings little, and beside other programs it costs ten times
    as much as the work; nor would NumPy's sums be the same with each number. One block around many
    words spares changing to and fro, which takes a quarter of a word's time.
    """
    before = current[0] if current else prepare().threads
    if changed := before != 1 and "mxnet" in sys.modules and may_choose():
        set_threads(1)
    blas = numpy_blas()
    numpy_before = blas and blas.openblas_get_num_threads64_()
    if blas:
        blas.openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        if blas:
            blas.openblas_set_num_threads64_(numpy_before)
        if changed:
            set_threads(before)


def candidates(most: int) -> list[int]:
    """Numbers worth trying: all cores, all but one, half of them, one; the largest first."""
    return sorted({most, max(1, most - 1), max(1, most // 2), 1}, reverse=True)


def may_choose() -> bool:
    """Whether the number of threads is ours to choose, and changes no result."""
    runtime = prepare()
    several_workers = os.environ.get("MXNET_CPU_WORKER_NTHREADS", "1") != "1"
    exact = bool(runtime.openmp and runtime.blas and runtime.blas.preferred)
    # oneDNN's products for AVX2 are summed in another order from three threads on
    exact = exact and (runtime.threads <= 2 or "avx512f" in cpu_flags())
    return exact and not runtime.threads_given and not several_workers


class Threads:
    """The number of threads for one kind of work, chosen by the time that it takes.

    :param most: the number on a quiet machine (default: the runtime's); with 1 none is measured.
    :param first: that of the first piece of work: oneDNN keeps small copies of weights on it, and
        two threads for them cost more beside a busy program than they gain without.
    """

    def __init__(
        self,
        most: int | None = None,
        change: Callable[[int], None] = set_threads,
        clock: Callable[[], float] = time.perf_counter,
        others: Callable[[], float] = others_seconds,
        first: int = 1,
    ):
        self.most = most or (prepare().threads if may_choose() else 1)
        self.change, self.clock, self.others, self.number = change, clock, others, self.most
        self.first, self.queue = first, candidates(self.most)  # the numbers still to be tried
        # of pieces of work: the time, and the cores that other programs used meanwhile
        self.trial: list[tuple[float, float]] = []  # of the number that is being tried
        self.results: dict[int, tuple[float, float]] = {}  # of those that were: medians
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self.usual, self.patience = (0.0, 0.0), PATIENCE
        self.worked = 0.0  # seconds, pauses not counted
        # the last measurement, and its trial of a number, in seconds of work
        self.started = self.ended = self.trial_started = 0.0
        self.seconds = self.amount = 0.0  # of the pieces since the last that counted
        self.since = (0.0, 0.0)  # the clock and the others' seconds when they started

    @contextmanager
    def timed(self, amount: float) -> Iterator[None]:
        """A with-block that does ``amount`` of work, such as tokens."""
        if self.most == 1:
            yield
            return
        self.number = self.queue[0] if self.queue else self.number
        begins = not self.worked
        self.change(self.first if begins else self.number)
        started = self.clock()
        if not self.amount:
            self.since = started, self.others()
        yield
        ended = self.clock()
        self.worked += ended - started
        if begins:
            return
        self.seconds, self.amount = self.seconds + ended - started, self.amount + amount
        if self.seconds < LEAST:
            return
        seconds = self.seconds / self.amount
        others = (self.others() - self.since[1]) / (ended - self.since[0])
        self.seconds = self.amount = 0.0
        if self.queue:
            self._try(seconds, others)
        else:
            self._watch(seconds, others)

    def _try(self, seconds: float, others: float) -> None:
        """Take account of a time while numbers are tried; the last one ends the measurement."""
        self.trial.append((seconds, others))
        least, _ = min(self.results.values(), default=(seconds, others))
        hopeless = len(self.trial) > 1 and seconds > HOPELESS * least
        most = TRIAL if self.worked - self.trial_started < ENOUGH else 2
        if len(self.trial) <= most and not hopeless:
            return
        self.results[self.queue.pop(0)] = medians(self.trial[1:])
        self.trial, self.trial_started = [], self.worked
        if not self.queue:
            self._choose()

    def _choose(self) -> None:
        """The fastest number, or of those that are about as fast the largest; beside other programs
        the smallest, which disturbs and is disturbed least."""
        best, others = min(self.results.values())
        fast = [number for number, (time, _) in self.results.items() if time < EQUAL * best]
        self.number = min(fast) if others > OTHERS else max(fast)
        self.patience = min(2 * self.patience, LONGEST) if self.number < self.most else PATIENCE
        self.usual, self.ended = self.results[self.number], self.worked
        self.results = {}
        self.recent.clear()

    def _watch(self, seconds: float, others: float) -> None:
        """Ask for a new measurement when the speed or the load changes, and after a while with
        fewer threads, or beside other programs, whose number may change unnoticed."""
        self.recent.append((seconds, others))
        if len(self.recent) < WINDOW:
            return
        (now, others), (before, others_before) = medians(self.recent), self.usual
        since, length = self.worked - self.ended, self.ended - self.started
        changed = not before / CHANGE < now < before * CHANGE
        changed |= abs(others - others_before) > OTHERS
        temporary = self.number < self.most or others > OTHERS
        due = temporary and since > max(self.patience, 2 * REST * length)
        if due or changed and since > REST * length:
            # the newest pieces: of the older ones some may be from before a change
            self.results = {self.number: medians(list(self.recent)[WINDOW // 2 :])}
            self.queue = [number for number in candidates(self.most) if number != self.number]
            self.started = self.trial_started = self.worked


def medians(pieces: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The median of each of the two numbers that is known of a piece."""
    seconds, others = map(statistics.median, zip(*pieces, strict=True))
    return seconds, others
