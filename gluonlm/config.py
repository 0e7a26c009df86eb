"""The settings of a run, declared once: options, config.json and notebooks derive from them."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from gluonlm.system.errors import UserError
from gluonlm.system.typed import parse

MODELS = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU", "QRNN", "Transformer")
OPTIMIZERS = ("sgd", "adam", "adamw")
FALLING = ("linear", "cosine", "onecycle")  # to 0 by the end of the run
PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("plateau", "constant", *FALLING)
MODEL_SETTINGS = (  # of the model's shape
    "model",
    "emsize",
    "nhid",
    "nlayers",
    "window",
    "nhead",
    "memory",
    "splits",
    "adaptive",
    "tied",
    "narrow",
)
FLOAT32 = (1.2e-38, 3.4e38)  # the least and the largest magnitude that MXNet computes with


def setting(default: Any, help: str, *aliases: str, **checks: Any) -> Any:
    """A field with what its command-line option needs.

    :param help: its help text; :param aliases: other spellings.
    :param checks: ``choices``, ``low``, ``high``, and ``needs``, a key of ``NEEDS``.
    """
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
    vocab_size: int | None = setting(
        None, "keep the most frequent tokens of the training text, <unk> for others", low=3
    )
    min_count: int = setting(
        1, "keep tokens that the training text has so many times, <unk> for others", low=1
    )

    model: str = setting("LSTM", "kind of layer", choices=MODELS)
    emsize: int = setting(200, "size of word embeddings", "--embed-size", low=1, high=10**6)
    nhid: int = setting(200, "hidden units per layer", "--hidden-size", low=1, high=10**6)
    nlayers: int = setting(2, "number of layers", "--num-layers", low=1, high=1000)
    window: int = setting(
        2, "steps of the text that the first layer's gates see", low=1, high=2, needs="qrnn"
    )
    nhead: int = setting(2, "heads of attention", low=1, needs="attention")
    memory: int = setting(
        70, "words before it that a word can look at", low=1, high=10**5, needs="attention"
    )
    splits: tuple[int, ...] = setting(
        (), "adaptive softmax: word numbers at which its clusters begin", low=1
    )
    adaptive: bool = setting(
        False, "adaptive softmax with the usual splits (none up to 75000 words)", needs="no splits"
    )
    tied: bool = setting(
        False, "share the embedding and the decoder weight (projected when emsize != nhid)"
    )
    narrow: bool = setting(
        False, "the last layer has emsize units, instead of a projection", needs="narrow"
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
        None, "dropout between layers (default: dropout)", low=0, high=0.99, needs="layers"
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
        needs="recurrence",
    )
    zoneout: float = setting(
        0.0, "share of units that keep their state at a step", low=0, high=0.99, needs="qrnn"
    )
    alpha: float = setting(0.0, "penalty on the mean square of the last layer's outputs", low=0)
    beta: float = setting(
        0.0, "penalty on the mean square of their change from step to step", low=0
    )
    prune: float | None = setting(
        None,
        "share of every weight matrix that is pruned, gradually, by the middle of the run",
        low=0,
        high=0.99,
    )
    compress: str | None = setting(
        None, "YAML file with a pruning schedule (its format: gluonlm/compress/schedule_file.py)"
    )

    optimizer: str = setting("sgd", "optimizer", choices=OPTIMIZERS)
    lr: float | None = setting(
        None, "initial learning rate (default: 20 for sgd, 0.001 for adam and adamw)", low=0
    )
    schedule: str = setting("plateau", "learning rate over the run", choices=SCHEDULES)
    lr_factor: float = setting(
        0.25,
        "learning-rate factor when validation does not improve",
        low=0,
        high=1,
        needs="plateau",
    )
    lr_patience: int = setting(
        0, "epochs without improvement that are forgiven", low=0, needs="plateau"
    )
    lr_threshold: float = setting(
        0.0, "relative improvement that counts as one", low=0, needs="plateau"
    )
    restore_best: bool = setting(
        False, "go on from the best weights when the learning rate falls", needs="plateau"
    )
    when: tuple[int, ...] = setting(
        (), "epochs after which the learning rate is divided by 10", low=1
    )
    decay: float = setting(1.0, "learning-rate factor per epoch", low=0, high=1)
    lr_min: float = setting(0.0, "the learning rate never falls below this", low=0)
    wdecay: float = setting(0.0, "weight decay", "--wd", "--weight-decay", low=0)
    nonmono: int | None = setting(
        None,
        "average the weights once validation is worse than the best of so many epochs ago",
        low=0,
        needs="averaging",
    )
    clip: float = setting(
        0.25, "largest norm of the gradient of the mean loss (0: no clipping)", low=0
    )
    epochs: int = setting(40, "passes over the training text", "--epoch", low=1)
    early_stop: int | None = setting(
        None, "stop after so many epochs without improvement on the validation text", low=1
    )
    batch_size: int = setting(20, "batch size: columns of text read in parallel", low=1)
    bptt: int = setting(35, "steps of back-propagation through time", "--seq-length", low=1)
    random_bptt: bool = setting(
        False, "draw the length of each segment around bptt, and scale the learning rate by it"
    )
    softmax_samples: int = setting(
        0,
        "words drawn per segment to estimate the softmax in training (0: all words)",
        low=0,
        high=2**24,
    )
    precision: str = setting(
        "float32",
        "of training's products; bfloat16: of a processor with AVX512_BF16, float16: of a GPU",
        choices=PRECISIONS,
    )

    max_batches: int = setting(0, "training batches per epoch (0: all)", low=0)
    eval_batch_size: int = setting(10, "batch size for validation and test", low=1)
    test_batch_size: int | None = setting(
        None, "batch size for the test (default: eval-batch-size)", low=1
    )
    seed: int = setting(
        1111,
        "seed of everything random; with --finetune the next after RUN's",
        low=0,
        high=2**32 - 1,
    )
    finetune: str | None = setting(
        None,
        "run whose best model to start from, averaging the weights from the first step on unless "
        "--schedule falls to 0",
    )

    def __post_init__(self):
        kinds = get_type_hints(Config)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from JSON, or from a command line that unsets it
                value = () if value == [None] else tuple(value)
                object.__setattr__(self, field.name, value)
            check(field, kinds[field.name], value)
        if self.softmax_samples and (self.splits or self.adaptive):
            raise UserError(
                "--softmax-samples is of the full softmax: add --no-adaptive and --splits none"
            )
        if None not in (self.prune, self.compress):
            raise UserError("--prune is a schedule of its own: leave it out, or --compress")
        if self.model == "Transformer" and self.emsize % self.nhead:
            raise UserError(
                f"--nhead {self.nhead}: --emsize {self.emsize} cannot be divided by it, choose "
                "another"
            )
        # of the model itself, wherever they come from
        self.check_effect(("window", "zoneout", "nhead", "memory"))

    def check_effect(self, names: Iterable[str]) -> None:
        """Raise a UserError if one of these is not the default and has no effect."""
        for field in dataclasses.fields(self):
            there, what = NEEDS.get(field.metadata.get("needs"), (None, ""))
            changed = field.name in names and getattr(self, field.name) != field.default
            if changed and there and not there(self):
                raise UserError(
                    f"{option(field.name)} has no effect without {what}: leave it out, or add that"
                )

    @property
    def learning_rate(self) -> float:
        """The initial learning rate, with the optimizer's usual one where none is set."""
        if self.lr is not None:
            return self.lr
        return 20.0 if self.optimizer == "sgd" else 1e-3

    @property
    def averages(self) -> bool:
        """Whether weights may be averaged: a rate that falls to 0 does what averaging is for."""
        return self.schedule not in FALLING

    def to_json(self) -> str:
        """All settings as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The settings that :meth:`to_json` wrote.

        :raises UserError: when a setting is unknown to this version or out of range.
        :raises ValueError: when it is no JSON object.
        """
        values = parse(text, dict[str, Any])
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UserError(
                f"unknown setting {min(unknown)}: the run was made by another version of gluonlm"
            )
        return cls(**values)


# what a setting has no effect without: whether it is there, and its name
NEEDS: dict[str, tuple[Callable[[Config], bool], str]] = {
    "qrnn": (lambda config: config.model == "QRNN", "--model QRNN"),
    "attention": (lambda config: config.model == "Transformer", "--model Transformer"),
    "recurrence": (lambda config: config.model != "Transformer", "a recurrent --model"),
    "layers": (
        lambda config: config.nlayers > 1 or config.model == "Transformer",
        "a second layer",
    ),
    "no splits": (lambda config: not config.splits, "--splits none"),
    "narrow": (
        lambda config: (
            config.tied and config.emsize != config.nhid and config.model != "Transformer"
        ),
        "a recurrent --model, --tied and an --emsize other than --nhid",
    ),
    "plateau": (lambda config: config.schedule == "plateau", "--schedule plateau"),
    "averaging": (
        # a finetuned run may repeat what the run before it had
        lambda config: bool(config.finetune) or (config.averages and config.optimizer == "sgd"),
        "--optimizer sgd and a --schedule that does not fall to 0",
    ),
}


def option(name: str) -> str:
    """A setting's option on the command line."""
    return f"--{name.replace('_', '-')}"


def check(field: dataclasses.Field, kind: Any, value: Any) -> None:
    """Raise a UserError unless the value is of the field's kind, choices and bounds."""
    name, limits = option(field.name), field.metadata
    if not fits(value, kind):
        raise UserError(f"{name} {value!r}: must be of the kind {getattr(kind, '__name__', kind)}")
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


def fits(value: Any, kind: Any) -> bool:
    """Whether a value, maybe out of a file, is of a setting's kind; 1 will do for 1.0."""
    kinds = get_args(kind) or (kind,)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(type(item) in kinds for item in value)
    return type(value) in kinds or (type(value) is int and float in kinds)
