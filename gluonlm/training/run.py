"""A run's folder: config.json, log.jsonl, curve.png, the best model, the state to resume from, result.json."""

import json
import os
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.config import Config
from gluonlm.model.checkpoint import (
    BEST,
    LAST,
    MODEL_FORMAT,
    STATE_FORMAT,
    Trained,
    best_file,
    read_json,
    save_model,
    set_parameters,
)
from gluonlm.model.rnn import RNNModel
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.system.errors import UserError
from gluonlm.system.files import MODEL_SUFFIXES, write_atomically, writing
from gluonlm.text.vocabulary import Dictionary
from gluonlm.training.progress import bits, unit_of


class Run:
    """The files of one training run.

    :param folder: where they are.
    :param best: where the best model goes if not into the folder (``--save model.pt``).
    :param command: what was typed so far, for config.json.
    """

    def __init__(self, folder: Path, best: Path | None = None, command: str = ""):
        self.folder, self.command = folder, command
        self.best, self.last = best or folder / BEST, folder / LAST
        self.log_path, self.config_path = folder / "log.jsonl", folder / "config.json"

    @classmethod
    def new(cls, save: str | Path) -> "Run":
        """A new run in the folder ``save``; a name such as PTB.pt is the best model's file, the folder is beside it.

        :raises UserError: when there is a run already.
        """
        path = Path(save)
        names_file = path.suffix in MODEL_SUFFIXES and not str(save).endswith(os.sep)
        run = cls(path.with_suffix(""), path) if names_file and not path.is_dir() else cls(path)
        if any(path.exists() for path in (run.config_path, run.best, run.last)):
            raise UserError(
                f"{save} holds a trained run already: choose another --save, or go on with --resume"
            )
        return run

    def begin(self, config: Config, command: str) -> None:
        """Make the folder and write config.json, again when a resumed run gets other settings; a result of before goes.

        :raises UserError: when that cannot be done.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "result.json").unlink(missing_ok=True)
        self.command = "; ".join(filter(None, (self.command, command)))
        settings = {
            "command": self.command,
            "best": os.path.relpath(self.best, self.folder),
            **json.loads(config.to_json()),
        }
        write_atomically(self.config_path, json.dumps(settings, indent=1).encode())

    @classmethod
    def open(cls, folder: Path) -> tuple["Run", Config]:
        """An existing run and its settings.

        :raises UserError: when the folder holds none.
        """
        settings = read_json(folder / "config.json")
        command = settings.pop("command", "")
        settings.pop("best", None)
        return cls(folder, best_file(folder), command), Config.from_json(json.dumps(settings))

    def log(self, record: dict) -> int:
        """Append a record to the log; returns the log's size in bytes."""
        with writing(self.log_path), open(self.log_path, "a") as file:
            file.write(json.dumps(record) + "\n")
            return file.tell()

    def truncate_log(self, size: int) -> None:
        """Forget what was logged after the checkpoint that is being resumed, and what a power cut left of a line."""
        kept = self.log_path.read_bytes()[:size] if self.log_path.exists() else b""
        write_atomically(self.log_path, kept[: kept.rfind(b"\n") + 1])

    def records(self, kind: str) -> list[dict]:
        """The log's records of a kind: ``"epoch"`` or ``"interval"``."""
        return read_log(self.log_path, kind)

    def save_state(self, arrays: dict[str, mx.nd.NDArray], progress: dict, schedule: dict) -> None:
        """Write what resuming needs."""
        metadata = {"progress": json.dumps(progress), "schedule": json.dumps(schedule)}
        stored = {name: array.asnumpy() for name, array in arrays.items()}
        write_arrays(self.last, STATE_FORMAT, stored, metadata)

    def load_state(self) -> tuple[dict[str, np.ndarray], dict, dict]:
        """Read what :meth:`save_state` wrote: arrays, progress, schedule."""
        arrays, metadata = read_arrays(self.last, STATE_FORMAT)
        return arrays, json.loads(metadata["progress"]), json.loads(metadata["schedule"])

    def save_best(
        self,
        model: RNNModel,
        dictionary: Dictionary,
        config: Config,
        level: str,
        pruned: tuple[str, ...] = (),
    ) -> None:
        """Write the best model so far."""
        save_model(Trained(model, dictionary, config, level, self.best, pruned))

    def restore(self, model: RNNModel) -> None:
        """Set the model's weights to the best of this run."""
        set_parameters(model, read_arrays(self.best, MODEL_FORMAT)[0], self.best)

    def write_result(self, result: dict) -> None:
        """Write result.json."""
        write_atomically(self.folder / "result.json", json.dumps(result, indent=1).encode())

    def plot(self, level: str) -> None:
        """Draw curve.png: perplexity by step in training and validation, of characters bits per character."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        draw_curve(figure.subplots(), self.records("interval"), self.records("epoch"), level)
        with writing(self.folder / "curve.png"):
            figure.savefig(self.folder / "curve.png", dpi=120)


class Onlooker(Run):
    """A run of which another worker writes the files: nothing is written here."""

    def begin(self, config, command):
        pass

    def log(self, record):
        return 0

    def truncate_log(self, size):
        pass

    def save_state(self, arrays, progress, schedule):
        pass

    def save_best(self, model, dictionary, config, level, pruned=()):
        pass

    def restore(self, model):
        pass

    def write_result(self, result):
        pass

    def plot(self, level):
        pass


def read_log(path: Path, kind: str) -> list[dict]:
    """The records of a kind in a log.jsonl file."""
    if not path.exists():
        return []
    with open(path) as file:
        return [record for record in map(json.loads, file) if record["kind"] == kind]


def draw_curve(axes, intervals: list[dict], epochs: list[dict], level: str = "word") -> None:
    """Draw training and validation perplexity against training steps, or bits per character on a linear scale."""
    scale = bits if level == "char" else np.exp  # of losses in nats
    if intervals:
        steps, losses = zip(
            *((record["step"], record["loss"]) for record in intervals), strict=True
        )
        style = {
            "color": "tab:blue",
            "linewidth": 1,
            "alpha": 0.6,
            "marker": "." if len(steps) < 3 else "",
        }
        axes.plot(steps, scale(np.array(losses)), **style, label="training (with dropout)")
    if epochs:
        steps, losses = zip(
            *((record["step"], record["valid_loss"]) for record in epochs), strict=True
        )
        axes.plot(
            steps,
            scale(np.array(losses)),
            "o-",
            color="tab:orange",
            markersize=4,
            label="validation",
        )
        lowest = min(losses)
        at = steps[losses.index(lowest)], scale(lowest)
        axes.annotate(
            f"{at[1]:.{2 if level == 'char' else 1}f}",
            at,
            (0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.set(
        xlabel="training steps",
        ylabel=unit_of(level),
        yscale="linear" if level == "char" else "log",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    if intervals or epochs:
        axes.legend()
