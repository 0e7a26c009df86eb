"""The settings of a run, declared once: options, config.json and notebooks derive from them.

A new option, kind of layer (``MODELS``), optimizer (``OPTIMIZERS``) or shape of the learning rate
(``SCHEDULES``) begins here.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from gluonlm.system.errors import UserError
from gluonlm.system.typed import parse, typed


@dataclass(frozen=True)
class Optimizer:
    """How one of MXNet's optimizers is used."""

    name: str  # for mx.optimizer.create
    lr: float  # the usual learning rate
    moments: int = 0  # arrays that it remembers for each of the weights
    decoupled: bool = False  # weight decay is taken off the weights, and is no part of the gradient


def half_cosine(progress: float) -> float:
    """From 1 to 0, slowly at both ends."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float) -> float:
    """Up from 1/25 in the first 30 %, then down to 0 (Smith & Topin 2018, arXiv:1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * (1 - half_cosine(progress / 0.3))
    return half_cosine((progress - 0.3) / 0.7)


MODELS = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU", "QRNN", "Transformer")
OPTIMIZERS = {
    "sgd": Optimizer("plainsgd", lr=20.0),  # gluonlm.training.optim
    "adam": Optimizer("adam", lr=1e-3, moments=2),
    "adamw": Optimizer("adam", lr=1e-3, moments=2, decoupled=True),
}
SCHEDULES: dict[str, Callable[[float], float]] = {  # factor after a share (0 to 1) of the run
    "plateau": lambda progress: 1.0,  # falls by lr_factor instead
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": half_cosine,
    "onecycle": one_cycle,
}
PRECISIONS = ("float32", "bfloat16", "float16")
SHARE = {"low": 0, "high": 0.99}
FLOAT32 = (1.2e-38, 3.4e38)  # the least and the largest magnitude that MXNet computes with


def setting(default: Any, help: str, *aliases: str, **checks: Any) -> Any:
    """A field with its option's help and other spellings; ``choices``, ``low`` and ``high`` of its
    value, ``needs``, a key of ``NEEDS``, and ``bare``, the value of the option without one."""
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases, **checks})


@dataclass(frozen=True)
class Config:
    """All settings of a training run. The defaults are those of the PyTorch word-level example."""

    data: str = setting("ptb", "data set, folder of train/valid/test.txt, or text", "--data-dir")
    level: str | None = setting(None, "kind of tokens (default: word)", choices=("word", "char"))
    vocab_size: int | None = setting(None, "keep so many frequent tokens, <unk> for others", low=3)
    min_count: int = setting(1, "keep tokens that occur so many times, <unk> for others", low=1)

    model: str = setting("LSTM", "kind of layer", choices=MODELS)
    emsize: int = setting(200, "size of word embeddings", "--embed-size", low=1, high=10**6)
    embeddings: str | None = setting(None, "file of word vectors to start from (word2vec, GloVe)")
    freeze_embeddings: bool = setting(False, "do not train the embeddings", needs="vectors")
    nhid: int = setting(200, "hidden units per layer", "--hidden-size", low=1, high=10**6)
    nlayers: int = setting(2, "number of layers", "--num-layers", low=1, high=1000)
    window: int = setting(2, "steps that the first layer's gates see", low=1, high=2, needs="qrnn")
    nhead: int = setting(2, "heads of attention", low=1, needs="attention")
    memory: int = setting(70, "words a word looks back at", low=1, high=10**5, needs="attention")
    splits: tuple[int, ...] = setting((), "adaptive softmax: first word of each cluster", low=1)
    adaptive: bool = setting(
        False, "adaptive softmax with the usual splits (none up to 75000 words)", needs="no splits"
    )
    tied: bool = setting(False, "one matrix for embedding and decoder (projected if sizes differ)")
    narrow: bool = setting(False, "emsize units in the last layer, no projection", needs="narrow")

    dropout: float = setting(0.2, "before the decoder, between layers, after embedding", **SHARE)
    dropouti: float | None = setting(None, "after the embedding (default: dropout)", **SHARE)
    dropouth: float | None = setting(
        None, "between layers (default: dropout)", needs="layers", **SHARE
    )
    locked: bool = setting(False, "locked dropout: one mask per segment instead of one per step")
    dropoute: float = setting(0.0, "embedding dropout: whole words, for a segment", **SHARE)
    wdrop: float = setting(
        0.0, "weight drop: hidden-to-hidden weights (QRNN: all)", needs="recurrence", **SHARE
    )
    zoneout: float = setting(0.0, "share of units that keep their state", needs="qrnn", **SHARE)
    alpha: float = setting(0.0, "penalty on the mean square of the last layer's outputs", low=0)
    beta: float = setting(0.0, "penalty on the mean square of their change per step", low=0)
    prune: float | None = setting(None, "share of every matrix that is pruned by mid-run", **SHARE)
    compress: str | None = setting(None, "YAML pruning schedule (compress/schedule_file.py)")

    optimizer: str = setting("sgd", "optimizer", choices=OPTIMIZERS)
    lr: float | None = setting(None, "initial rate (default: 20 for sgd, else 0.001)", low=0)
    schedule: str = setting("plateau", "learning rate over the run", choices=SCHEDULES)
    lr_factor: float = setting(0.25, "factor of lr on a plateau", low=0, high=1, needs="plateau")
    lr_patience: int = setting(0, "epochs without improvement forgiven", low=0, needs="plateau")
    lr_threshold: float = setting(0.0, "least relative improvement", low=0, needs="plateau")
    restore_best: bool = setting(False, "back to the best weights when lr falls", needs="plateau")
    when: tuple[int, ...] = setting((), "epochs after which the rate is divided by 10", low=1)
    decay: float = setting(1.0, "learning-rate factor per epoch", low=0, high=1)
    lr_min: float = setting(0.0, "the learning rate never falls below this", low=0)
    wdecay: float = setting(0.0, "weight decay", "--wd", "--weight-decay", low=0)
    nonmono: int | None = setting(
        None,
        "average weights once validation is worse than the best of so many epochs ago",
        low=0,
        needs="averaging",
    )
    clip: float = setting(0.25, "largest norm of the mean loss's gradient (0: no clipping)", low=0)
    epochs: int = setting(40, "passes over the training text", "--epoch", low=1)
    early_stop: int | None = setting(None, "epochs without improvement after which to stop", low=1)
    batch_size: int = setting(20, "batch size: columns of text read in parallel", low=1)
    bptt: int = setting(35, "steps of back-propagation through time", "--seq-length", low=1)
    random_bptt: bool = setting(False, "draw segment lengths around bptt, scale the rate by them")
    softmax_samples: int = setting(0, "words drawn for the softmax (0: all)", low=0, high=2**24)
    precision: str = setting(
        "float32",
        "of training's products; bfloat16: AVX512_BF16 processors, float16: GPUs",
        choices=PRECISIONS,
    )

    max_batches: int = setting(0, "training batches per epoch (0: all)", low=0)
    eval_batch_size: int = setting(10, "batch size for validation and test", low=1)
    test_batch_size: int | None = setting(None, "for the test (default: eval-batch-size)", low=1)
    seed: int = setting(
        1111, "seed of all that is random (--finetune: RUN's + 1)", low=0, high=2**32 - 1
    )
    finetune: str | None = setting(
        None,
        "run whose best model to start from, averaging the weights from the first step on unless "
        "--schedule falls to 0",
        bare="",
    )

    def __post_init__(self):
        kinds = get_type_hints(Config)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | tuple):  # [None]: from a command line that unsets it
                value = [] if value == [None] else [*value]
            try:
                value = typed(value, kinds[field.name], option(field.name))
            except ValueError as error:
                raise UserError(str(error)) from None
            check(field, value)
            object.__setattr__(self, field.name, value)
        if self.softmax_samples and (self.splits or self.adaptive):
            raise UserError("--softmax-samples needs --no-adaptive and --splits none")
        if None not in (self.prune, self.compress):
            raise UserError("--prune is a schedule of its own: leave it out, or --compress")
        if self.freeze_embeddings and (self.prune or self.compress):
            raise UserError("--prune and --compress change embeddings: add --no-freeze-embeddings")
        size, heads = self.emsize, self.nhead
        if self.model == "Transformer" and size % heads:
            broken = f"--nhead {heads}: --emsize {size} cannot be divided by it"
            raise UserError(f"{broken}: choose another")
        # of the model itself, wherever they come from
        self.check_effect(("window", "zoneout", "nhead", "memory"))

    def check_effect(self, names: Iterable[str]) -> None:
        """Raise a UserError if one of these is not the default and has no effect."""
        for field in dataclasses.fields(self):
            there, what = NEEDS.get(field.metadata.get("needs"), (None, ""))
            changed = field.name in names and getattr(self, field.name) != field.default
            if changed and there and not there(self):
                useless = f"{option(field.name)} has no effect without {what}"
                raise UserError(f"{useless}: leave it out, or add that")

    @property
    def learning_rate(self) -> float:
        """The initial learning rate, with the optimizer's usual one where none is set."""
        return OPTIMIZERS[self.optimizer].lr if self.lr is None else self.lr

    @property
    def averages(self) -> bool:
        """Whether weights may be averaged: a rate that falls to 0 does what averaging is for."""
        return SCHEDULES[self.schedule](1.0) > 0

    def to_json(self) -> str:
        """All settings as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The settings that :meth:`to_json` wrote; a UserError when one is unknown or out of range,
        a ValueError when it is no JSON object."""
        values = parse(text, dict[str, Any])
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            other = "the run was made by another version of gluonlm"
            raise UserError(f"unknown setting {min(unknown)}: {other}")
        return cls(**values)


# what a setting has no effect without: whether it is there, and its name
NEEDS: dict[str, tuple[Callable[[Config], bool], str]] = {
    "vectors": (lambda c: bool(c.embeddings or c.finetune), "--embeddings or --finetune"),
    "qrnn": (lambda c: c.model == "QRNN", "--model QRNN"),
    "attention": (lambda c: c.model == "Transformer", "--model Transformer"),
    "recurrence": (lambda c: c.model != "Transformer", "a recurrent --model"),
    "layers": (lambda c: c.nlayers > 1 or c.model == "Transformer", "more layers"),
    "no splits": (lambda c: not c.splits, "--splits none"),
    "narrow": (
        lambda c: c.tied and c.emsize != c.nhid and c.model != "Transformer",
        "a recurrent --model, --tied and an --emsize other than --nhid",
    ),
    "plateau": (  # a finetuned run averages instead
        lambda c: c.schedule == "plateau" and c.finetune is None,
        "--schedule plateau in a run that is not finetuned",
    ),
    "averaging": (
        # a finetuned run may repeat what the run before it had
        lambda c: bool(c.finetune) or (c.averages and c.optimizer == "sgd"),
        "--optimizer sgd and a --schedule that does not fall to 0",
    ),
}


def option(name: str) -> str:
    """A setting's option on the command line."""
    return f"--{name.replace('_', '-')}"


def check(field: dataclasses.Field, value: Any) -> None:
    """Raise a UserError unless the value is one of the field's choices and within its bounds."""
    name, limits = option(field.name), field.metadata
    for item in value if isinstance(value, tuple) else (value,):
        if item is None:
            continue
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{name} {item}: must be a finite number")
        if "choices" in limits and item not in limits["choices"]:
            raise UserError(f"{name} {item}: choose one of {', '.join(limits['choices'])}")
        if "low" in limits and not item >= limits["low"]:
            raise UserError(f"{name} {item}: must be at least {limits['low']}")
        if "high" in limits and not item <= limits["high"]:
            raise UserError(f"{name} {item}: must be at most {limits['high']}")
        if isinstance(item, float) and item and not FLOAT32[0] <= abs(item) <= FLOAT32[1]:
            raise UserError(f"{name} {item}: must be a number that float32 has")
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise UserError(f"{name} {item}: must be below 2^63")
