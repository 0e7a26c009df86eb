"""A run's folder: settings, log, curve, best model, the state to resume from, result."""

import contextlib
import io
import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.config import Config
from gluonlm.inference.scoring import bits, unit_of
from gluonlm.model import checkpoint
from gluonlm.model.checkpoint import Trained, best_file, read_json
from gluonlm.model.rnn import RNNModel
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.system.errors import UserError
from gluonlm.system.files import MODEL_SUFFIXES, Lock, check_model_name, write_atomically, writing


class Run:
    """The files of one training run, which belong to the one process that trains it.

    >>> with Run.new("runs/first") as run:           # the folder is made and locked at once
    ...     run.begin(config, "what was typed")

    :param best: where the best model goes if not into the folder (``--save model.pt``).
    """

    def __init__(self, folder: Path, best: Path | None = None, command: str = ""):
        self.folder, self.command = folder, command
        self.best, self.last = best or folder / checkpoint.BEST, folder / checkpoint.LAST
        self.log_path, self.config_path = folder / "log.jsonl", folder / "config.json"
        self.lock: Lock | None = None
        self.made = False  # the folder, by this process

    @classmethod
    def new(cls, save: str | Path, claim: bool = True) -> "Run":
        """A new run in the folder ``save``; PTB.pt is the best model's file, beside the folder PTB.
        A UserError when there is a run already, or another process has just taken the place.

        :param claim: whether to make and lock the folder at once, rather than by :meth:`claim`.
        """
        path = Path(save)
        check_model_name(path)
        names_file = path.suffix in MODEL_SUFFIXES and not str(save).endswith(os.sep)
        run = cls(path.with_suffix(""), path) if names_file and not path.is_dir() else cls(path)
        run.check_new()  # before a folder is made, and when no other process can make a run there
        if not claim:
            return run
        run.claim()
        try:
            run.check_new()
        except UserError:
            run.close()
            raise
        return run

    @classmethod
    def next_free(cls, folder: Path) -> "Run":
        """A new run in a folder of this name, or of the next that is free: NAME-2, NAME-3."""
        run, numbers = cls(folder), itertools.count(2)
        while not run.made:
            try:
                run.folder.mkdir(parents=True)
                run.claim(made=True)
            except FileExistsError:
                run = cls(folder.with_name(f"{folder.name}-{next(numbers)}"))
        return run

    @classmethod
    def open(cls, path: Path) -> tuple["Run", Config]:
        """An existing run and its settings, by its folder or its model file; a UserError when there
        is none, or another process trains it."""
        folder = folder_of(path)
        settings = read_json(folder / "config.json")
        command = settings.pop("command", "")
        settings.pop("best", None)
        run = cls(folder, best_file(folder), command)
        config = Config.from_json(json.dumps(settings))
        run.claim()
        return run, config

    def check_new(self) -> None:
        """Raise a UserError when there is a run already."""
        if any(path.exists() for path in (self.config_path, self.best, self.last)):
            advice = "choose another --save, or go on with --resume"
            raise UserError(f"{self.folder} holds a trained run already: {advice}")

    def claim(self, made: bool = False) -> None:
        """Make the folder, unless it was ``made`` for this run, and lock it; a UserError when
        another process has."""
        with writing(self.folder):
            self.made = made or not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.folder)
            for left in self.folder.glob(".gluonlm-*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder, and remove it if it was made for nothing."""
        if self.lock:
            self.lock.release()
            self.lock = None
        if self.made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_):
        self.close()

    def begin(self, config: Config, command: str) -> None:
        """Write config.json, again if a resumed run has other settings, which its best model then
        has, too; an old result goes. A UserError when that cannot be done."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "result.json").unlink(missing_ok=True)
        if self.best.exists():
            best = checkpoint.load_model(self.best)
            moved = best.dictionary.described({"data": config.data})
            self.save_best(replace(best, config=config, dictionary=moved))
        self.command = "; ".join(filter(None, (self.command, command)))
        settings = {"command": self.command, "best": os.path.relpath(self.best, self.folder)}
        settings |= json.loads(config.to_json())
        write_atomically(self.config_path, json.dumps(settings, indent=1).encode())

    def check_resumable(self) -> None:
        """Raise a UserError when the state is missing; a run that has just begun needs none."""
        if not self.last.exists() and (self.best.exists() or self.log_path.exists()):
            lacking = f"{self.last} is missing, without which {self.folder} cannot go on"
            advice = f"start a new run from the best model with --finetune {self.folder}"
            raise UserError(f"{lacking}: put it back, or {advice}")

    def log(self, record: dict) -> int:
        """Append a record to the log; returns the log's size in bytes."""
        with writing(self.log_path), open(self.log_path, "a") as file:
            file.write(json.dumps(record) + "\n")
            return file.tell()

    def truncate_log(self, size: int) -> None:
        """Forget what was logged after the checkpoint, and what a power cut left of a line."""
        kept = self.log_path.read_bytes()[:size] if self.log_path.exists() else b""
        write_atomically(self.log_path, kept[: kept.rfind(b"\n") + 1])

    def records(self, kind: str) -> list[dict]:
        """The log's records of a kind: ``"epoch"`` or ``"interval"``."""
        return read_log(self.log_path, kind)

    def save_state(self, arrays: dict[str, mx.nd.NDArray], metadata: dict[str, str]) -> None:
        """Write what resuming needs."""
        stored = {name: array.asnumpy() for name, array in arrays.items()}
        write_arrays(self.last, checkpoint.STATE_FORMAT, stored, metadata)

    def load_state(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Read what :meth:`save_state` wrote."""
        return read_arrays(self.last, checkpoint.STATE_FORMAT)

    def save_best(self, trained: Trained) -> None:
        """Write the best model so far, whose path is :attr:`best`."""
        checkpoint.save_model(trained)

    def restore(self, model: RNNModel) -> None:
        """Set the model's weights to the best of this run."""
        arrays, _ = read_arrays(self.best, checkpoint.MODEL_FORMAT)
        checkpoint.set_parameters(model, arrays, self.best)

    def write_result(self, result: dict) -> None:
        write_atomically(self.folder / "result.json", json.dumps(result, indent=1).encode())

    def plot(self, level: str) -> None:
        """Draw curve.png; what keeps it from being drawn is told: a picture is not worth a run."""
        try:
            from matplotlib.figure import Figure

            figure, picture = Figure(figsize=(7, 4.2), layout="constrained"), io.BytesIO()
            draw_curve(figure.subplots(), self.records("interval"), self.records("epoch"), level)
            figure.savefig(picture, dpi=120, format="png")
            write_atomically(self.folder / "curve.png", picture.getvalue())
        except Exception as error:
            print(f"caution: curve.png cannot be drawn ({error})", file=sys.stderr)


class ReadOnlyRun(Run):
    """The run on all ranks but 0: here nothing is locked, read or written."""

    def _leave(self, *_, **__) -> int:
        return 0

    claim = close = begin = check_new = check_resumable = _leave
    log = truncate_log = save_state = save_best = restore = write_result = plot = _leave


def folder_of(path: Path) -> Path:
    """The folder of a run, given that or its model file."""
    if not path.is_file():
        return path
    for folder in (path.with_suffix(""), path.parent):
        if (folder / "config.json").exists() and path.samefile(best_file(folder)):
            return folder
    raise UserError(f"{path} is not the best model of a run: give the folder of the run")


def read_log(path: Path, kind: str) -> list[dict]:
    """The records of a kind in a log.jsonl file."""
    if not path.exists():
        return []
    records = []
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # a damaged line is left out
                records.append(json.loads(line))
    return [one for one in records if isinstance(one, dict) and one.get("kind") == kind]


def draw_curve(axes, intervals: list[dict], epochs: list[dict], level: str = "word") -> None:
    """Draw perplexity, or bits per character on a linear scale, against training steps."""
    # of losses in nats; a diverged model's are cut to what an axis can show
    scale = bits if level == "char" else lambda losses: np.exp(np.minimum(losses, 99))
    if intervals:
        steps = [record["step"] for record in intervals]
        values = scale(np.array([record["loss"] for record in intervals]))
        style = {"color": "tab:blue", "linewidth": 1, "alpha": 0.6}
        marker = "." if len(steps) < 3 else ""
        axes.plot(steps, values, marker=marker, **style, label="training (with dropout)")
    if epochs:
        steps = [record["step"] for record in epochs]
        values = scale(np.array([record["valid_loss"] for record in epochs]))
        axes.plot(steps, values, "o-", color="tab:orange", markersize=4, label="validation")
        lowest = int(values.argmin())
        text = f"{values[lowest]:.{2 if level == 'char' else 1}f}"
        place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (steps[lowest], values[lowest]), **place)
    shape = "linear" if level == "char" else "log"
    axes.set(xlabel="training steps", ylabel=unit_of(level), yscale=shape)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    if intervals or epochs:
        axes.legend()
