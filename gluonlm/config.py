"""The settings of a run, declared once: the command line, config.json and the notebooks derive from :class:`Config`."""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from gluonlm.system.errors import UserError

MODELS = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU", "QRNN")
OPTIMIZERS = ("sgd", "adam", "adamw")
FALLING = ("linear", "cosine", "onecycle")  # to 0 by the end of the run
SCHEDULES = ("plateau", "constant", *FALLING)


def setting(default: Any, help: str, *aliases: str, **checks: Any) -> Any:
    """A field with what its command-line option needs: help, other spellings, and ``choices``, ``low``, ``high``."""
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases, **checks})


@dataclass(frozen=True)
class Config:
    """All settings of a training run. The defaults are those of the PyTorch word-level example."""

    data: str = setting(
        "ptb", "data set name, folder with train/valid/test.txt, or one text file", "--data-dir"
    )
    level: str | None = setting(
        None, "tokens of a folder or file: word (default) or char", choices=("word", "char")
    )

    model: str = setting("LSTM", "kind of recurrent layer", choices=MODELS)
    emsize: int = setting(200, "size of word embeddings", "--embed-size", low=1)
    nhid: int = setting(200, "hidden units per layer", "--hidden-size", low=1)
    nlayers: int = setting(2, "number of recurrent layers", "--num-layers", low=1)
    window: int = setting(
        2, "QRNN: steps of the text that the first layer's gates see, 1 or 2", low=1, high=2
    )
    splits: tuple[int, ...] = setting(
        (), "adaptive softmax: word numbers at which its clusters begin", low=1
    )
    adaptive: bool = setting(
        False, "adaptive softmax with the usual splits (none up to 75000 words)"
    )
    tied: bool = setting(
        False, "share the embedding and the decoder weight (projected when emsize != nhid)"
    )
    narrow: bool = setting(
        False, "tied, emsize != nhid: the last layer has emsize units instead of a projection"
    )

    dropout: float = setting(
        0.2,
        "dropout before the decoder; also after the embedding and between layers",
        low=0,
        high=0.99,
    )
    dropouti: float | None = setting(
        None, "dropout after the embedding (default: dropout)", low=0, high=0.99
    )
    dropouth: float | None = setting(
        None, "dropout between layers (default: dropout)", low=0, high=0.99
    )
    locked: bool = setting(False, "locked dropout: one mask per segment instead of one per step")
    dropoute: float = setting(
        0.0, "embedding dropout: whole words, for a segment", low=0, high=0.99
    )
    wdrop: float = setting(
        0.0,
        "weight drop: hidden-to-hidden weights (QRNN: all of a layer), for a segment",
        low=0,
        high=0.99,
    )
    zoneout: float = setting(
        0.0, "QRNN: share of units that keep their state at a step", low=0, high=0.99
    )
    alpha: float = setting(0.0, "penalty on the mean square of the last layer's outputs", low=0)
    beta: float = setting(
        0.0, "penalty on the mean square of their change from step to step", low=0
    )

    optimizer: str = setting("sgd", "optimizer", choices=OPTIMIZERS)
    lr: float | None = setting(
        None, "initial learning rate (default: 20 for sgd, 0.001 for adam and adamw)", low=0
    )
    schedule: str = setting("plateau", "learning rate over the run", choices=SCHEDULES)
    lr_factor: float = setting(
        0.25, "plateau: learning-rate factor when validation does not improve", low=0, high=1
    )
    lr_patience: int = setting(0, "plateau: epochs without improvement that are forgiven", low=0)
    lr_threshold: float = setting(0.0, "plateau: relative improvement that counts as one", low=0)
    restore_best: bool = setting(
        False, "plateau: go on from the best weights when the learning rate falls"
    )
    when: tuple[int, ...] = setting(
        (), "epochs after which the learning rate is divided by 10", low=1
    )
    decay: float = setting(1.0, "learning-rate factor per epoch", low=0, high=1)
    wdecay: float = setting(0.0, "weight decay", "--wd", "--weight-decay", low=0)
    nonmono: int | None = setting(
        None,
        "sgd: average the weights once validation is worse than the best of so many epochs ago (not if --schedule "
        "falls to 0)",
        low=0,
    )
    clip: float = setting(
        0.25, "largest norm of the gradient of the mean loss (0: no clipping)", low=0
    )

    epochs: int = setting(40, "passes over the training text", "--epoch", low=1)
    batch_size: int = setting(20, "text columns read in parallel", low=1)
    eval_batch_size: int = setting(10, "text columns for validation and test", low=1)
    test_batch_size: int | None = setting(
        None, "text columns for the test (default: eval-batch-size)", low=1
    )
    bptt: int = setting(35, "steps of back-propagation through time", "--seq-length", low=1)
    random_bptt: bool = setting(
        False, "draw the length of each segment around bptt, and scale the learning rate by it"
    )
    softmax_samples: int = setting(
        0, "words drawn per segment to estimate the softmax in training (0: all words)", low=0
    )
    max_batches: int = setting(0, "training batches per epoch (0: all)", low=0)
    seed: int = setting(
        1111,
        "seed of everything random; with --finetune the next after RUN's",
        low=0,
        high=2**32 - 1,
    )
    prune: float | None = setting(
        None,
        "share of every weight matrix that is pruned, gradually, by the middle of the run",
        low=0,
        high=0.99,
    )
    compress: str | None = setting(
        None, "YAML file with a pruning schedule (its format: gluonlm/compress/schedule.py)"
    )
    finetune: str | None = setting(
        None,
        "run whose best model to start from, averaging the weights from the first step on unless --schedule falls to 0",
    )

    def __post_init__(self):
        for name in ("when", "splits"):  # lists where they come from JSON or a command line
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        kinds = get_type_hints(Config)
        for field in dataclasses.fields(self):
            check(field, kinds[field.name], getattr(self, field.name))
        if self.softmax_samples and (self.splits or self.adaptive):
            raise UserError(
                "--softmax-samples estimates the full softmax: leave it out, or --splits, and add --no-adaptive"
            )
        if self.prune is not None and self.compress is not None:
            raise UserError("--prune is a schedule of its own: leave it out, or --compress")
        if self.model != "QRNN" and (self.zoneout or self.window != 2):
            raise UserError("--zoneout and --window are for --model QRNN: leave them out")

    @property
    def learning_rate(self) -> float:
        """The initial learning rate, with the optimizer's usual one where none is set."""
        if self.lr is not None:
            return self.lr
        return 20.0 if self.optimizer == "sgd" else 1e-3

    def to_json(self) -> str:
        """All settings as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The settings that :meth:`to_json` wrote.

        :raises UserError: when a setting is unknown to this version or out of range.
        """
        values = json.loads(text)
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UserError(
                f"unknown setting {min(unknown)}: the run was made by another version of gluonlm"
            )
        return cls(**values)


AWD = {
    "emsize": 400,
    "nhid": 1150,
    "nlayers": 3,
    "tied": True,
    "narrow": True,
    "adaptive": True,
    "dropout": 0.4,
    "dropouti": 0.65,
    "dropouth": 0.3,
    "locked": True,
    "dropoute": 0.1,
    "wdrop": 0.5,
    "alpha": 2.0,
    "beta": 1.0,
    "lr": 30.0,
    "schedule": "constant",
    "wdecay": 1.2e-6,
    "nonmono": 5,
    "epochs": 750,
    "batch_size": 80,
    "test_batch_size": 1,
    "bptt": 70,
    "random_bptt": True,
}

# AWD-QRNN as published for Penn Treebank
QRNN = {
    **AWD,
    "model": "QRNN",
    "nhid": 1550,
    "nlayers": 4,
    "dropouti": 0.4,
    "wdrop": 0.1,
    "clip": 0.2,
    "epochs": 550,
    "batch_size": 20,
}

# what the toolkit's recipes for Adam have in common
AWD_ADAM = {
    **AWD,
    "optimizer": "adam",
    "lr": 1e-3,
    "alpha": 0.0,
    "beta": 0.0,
    "dropouti": 0.1,
    "dropoute": 0.0,
}

FAST_CPU = {"tied": True, "schedule": "linear", "softmax_samples": 1000, "epochs": 6}

PRESETS: dict[str, dict[str, Any]] = {
    # the PyTorch word-level example
    "word-lm": {},
    # the MXNet Gluon tutorial, full and tiny
    "tutorial": {
        "emsize": 650,
        "nhid": 650,
        "dropout": 0.5,
        "batch_size": 32,
        "restore_best": True,
    },
    "tiny": {
        "emsize": 32,
        "nhid": 32,
        "nlayers": 1,
        "batch_size": 16,
        "bptt": 10,
        "max_batches": 20,
        "epochs": 1,
    },
    # the tied LSTM trained with Adam and a plateau schedule
    "adam-tied": {
        "emsize": 650,
        "nhid": 650,
        "dropout": 0.5,
        "optimizer": "adam",
        "wdecay": 1e-5,
        "clip": 5.0,
        "bptt": 30,
        "lr_factor": 0.5,
        "lr_patience": 2,
        "lr_threshold": 1e-4,
    },
    # AWD-LSTM with the defaults of its toolkit, AWD-QRNN, and the toolkit's recipes for single data sets
    "awd": AWD,
    "awd-ptb": {
        **AWD,
        "data": "ptb",
        "dropouti": 0.4,
        "dropouth": 0.25,
        "batch_size": 20,
        "epochs": 500,
    },
    "awd-wikitext-2": {**AWD, "data": "wikitext-2", "dropouth": 0.2},
    "awd-ptb-char": {
        **AWD_ADAM,
        "data": "ptb-char",
        "emsize": 200,
        "nhid": 1000,
        "dropout": 0.1,
        "dropouth": 0.25,
        "lr": 2e-3,
        "when": (300, 400),
        "epochs": 500,
        "batch_size": 128,
        "bptt": 150,
    },
    "awd-enwik8": {
        **AWD_ADAM,
        "data": "enwik8",
        "nhid": 1840,
        "dropouth": 0.1,
        "wdrop": 0.2,
        "when": (25, 35),
        "epochs": 50,
        "batch_size": 128,
        "bptt": 200,
    },
    "qrnn": QRNN,
    "qrnn-wikitext-2": {
        **QRNN,
        "data": "wikitext-2",
        "dropouth": 0.2,
        "clip": 0.25,
        "epochs": 500,
        "batch_size": 40,
    },
    "qrnn-wikitext-103": {
        **AWD_ADAM,
        "data": "wikitext-103",
        "model": "QRNN",
        "nhid": 2500,
        "nlayers": 4,
        "dropout": 0.1,
        "dropouth": 0.1,
        "wdecay": 0.0,
        "when": (12,),
        "epochs": 14,
        "batch_size": 60,
        "bptt": 140,
    },
    # the word-level example's quality in less time: a sampled softmax, and a learning rate that falls to 0
    "fast-cpu": FAST_CPU,
    # what `make train` runs: the bundled corpus in minutes on two cores
    "austen": {**FAST_CPU, "data": "austen", "dropout": 0.3, "epochs": 10},
}


def check(field: dataclasses.Field, kind: Any, value: Any) -> None:
    """Raise a UserError unless the value is of the field's kind and within its choices and bounds."""
    option, limits = f"--{field.name.replace('_', '-')}", field.metadata
    if not fits(value, kind):
        raise UserError(
            f"{option} {value!r}: must be of the kind {getattr(kind, '__name__', kind)}"
        )
    for item in value if isinstance(value, tuple) else (value,):
        if item is None:
            continue
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{option} {item}: must be a finite number")
        if "choices" in limits and item not in limits["choices"]:
            raise UserError(f"{option} {item}: choose one of {', '.join(limits['choices'])}")
        if "low" in limits and not item >= limits["low"]:
            raise UserError(f"{option} {item}: must be at least {limits['low']}")
        if "high" in limits and not item <= limits["high"]:
            raise UserError(f"{option} {item}: must be at most {limits['high']}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value, maybe from a file that somebody has edited, is of a setting's kind; 1 will do for 1.0."""
    kinds = get_args(kind) or (kind,)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(type(item) in kinds for item in value)
    return type(value) in kinds or (type(value) is int and float in kinds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting; what the user does not give is left out of the parsed namespace."""
    hints = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        kind = hints[field.name]
        names = [f"--{field.name.replace('_', '-')}", *field.metadata["aliases"]]
        shown = field.metadata["help"] + (
            "" if field.default in (None, ()) else f" (default: {field.default})"
        )
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": shown}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is tuple:  # tuple[int, ...]
            options |= {"nargs": "+", "type": get_args(kind)[0]}
        else:
            options["type"] = next((one for one in get_args(kind) if one is not type(None)), kind)
            options["metavar"] = "|".join(field.metadata.get("choices", ())) or None
        parser.add_argument(*names, **options)


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """The preset's settings with the given ones on top.

    :raises UserError: for an unknown preset or a setting out of range.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return on_top(PRESETS[preset], given)


def on_top(settings: dict[str, Any], given: dict[str, Any]) -> Config:
    """Settings with the given ones on top; another optimizer takes its own usual rate if none is given with it.

    :raises UserError: for a setting out of range.
    """
    usual = settings.get("optimizer", "sgd")
    if given.get("optimizer", usual) != usual:  # a rate for SGD is thousands of times one for Adam
        settings = {**settings, "lr": None}
    return Config(**{**settings, **given})
