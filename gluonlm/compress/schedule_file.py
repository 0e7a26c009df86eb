"""Schedule files of ``--compress``: which matrices are pruned, how far, and when.

A YAML file with a list of rules; only ``sparsity`` must be there::

    - tensors: [layers.*]   # names or patterns (default: all); `gluonlm.prune RUN` lists them
      sparsity: 0.8         # share of weights that are pruned in the end, of each matrix
      initial: 0.05         # share at the first pruning (default: 0.05)
      begin: 2              # first pruning, in epochs from the start of training (default: 0)
      end: 20               # last pruning (default: begin, all at once)
      every: 1              # epochs from one pruning to the next (default: a twentieth of the time)
    - tensors: encoder.weight
      sparsity: 0.9
      begin: 3.5            # half an epoch is fine, too

Between begin and end the sparsity follows the curve of
:meth:`gluonlm.compress.pruning.Rule.sparsity`. A mapping with ``pruners`` and ``policies`` is read
as a schedule of Distiller (the pruning example for PyTorch's language model), if its pruners are
AutomatedGradualPruners; its names such as ``rnn.weight_hh_l0`` mean ``layers.0.h2h_weight``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gluonlm.compress.pruning import Rule, usual_rule
from gluonlm.config import Config
from gluonlm.system.errors import UserError
from gluonlm.system.typed import typed

MOST_STEPS = 1_000_000  # prunings by one rule
LARGEST = 1e9  # number of epochs


@dataclass(frozen=True)
class Entry:
    """A rule as it is written in our format."""

    sparsity: float
    tensors: str | list[str] = "*"
    initial: float | None = None
    begin: float = 0.0
    end: float | None = None
    every: float | None = None


@dataclass(frozen=True)
class Pruner:
    """Distiller's AutomatedGradualPruner."""

    initial_sparsity: float
    final_sparsity: float
    weights: list[str]


@dataclass(frozen=True)
class Policy:
    """When one of Distiller's pruners prunes: at epochs starting, + frequency, ... < ending."""

    pruner: dict[str, str]  # instance_name: its name
    starting_epoch: int
    ending_epoch: int
    frequency: int = 1


@dataclass(frozen=True)
class Distiller:
    """A schedule of Distiller."""

    pruners: dict[str, dict[str, Any]]
    policies: list[Policy]
    version: Any = 1


def read_schedule(path: str) -> str:
    """The text of a valid schedule file; a UserError when it cannot be read or is not valid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        unreadable = f"--compress {path}: cannot be read ({error})"
        raise UserError(f"{unreadable}: give a file with a pruning schedule") from None
    parse_schedule(text)
    return text


def rules_of(config: Config) -> tuple[Rule, ...]:
    """The rules of a run's settings: those of its schedule, the usual one of ``--prune``, or none.
    A UserError when the schedule is not valid."""
    if config.prune is not None:
        return (usual_rule(config.prune, config.epochs, trained=config.finetune is not None),)
    return parse_schedule(config.compress) if config.compress else ()


def parse_schedule(text: str) -> tuple[Rule, ...]:
    """The rules in a schedule's text; a UserError when it is not YAML, or something in it wrong."""
    try:
        content = yaml.safe_load(text)
        entries = distiller(content) if "pruners" in (content or ()) else ours(content)
        return tuple(rule(entry, where) for where, entry in entries.items())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise UserError(f"--compress: the schedule is not YAML{where}: {problem}") from None
    except (ValueError, RecursionError) as error:  # also a date that does not exist
        raise UserError(f"--compress: the schedule is not valid, {error}") from None


def ours(content: Any) -> dict[str, Entry]:
    """The entries of a schedule in our format, by what to call them in a message."""
    if not isinstance(content, list) or not content:
        raise ValueError("it must be a list of rules, each with at least a sparsity")
    return {
        f"rule {number}": typed(entry, Entry, f"rule {number}")
        for number, entry in enumerate(content, 1)
    }


def distiller(content: Any) -> dict[str, Entry]:
    """The entries that mean what a schedule of Distiller does."""
    schedule, entries = typed(content, Distiller, "the schedule"), {}
    for number, policy in enumerate(schedule.policies, 1):
        where, name = f"policy {number}", policy.pruner.get("instance_name")
        if name not in schedule.pruners:
            raise ValueError(f"{where} uses a pruner {name}, which the schedule does not define")
        values = dict(schedule.pruners[name])
        if (kind := values.pop("class", None)) != "AutomatedGradualPruner":
            raise ValueError(f"pruner {name}: {kind} is not supported, only AutomatedGradualPruner")
        pruner = typed(values, Pruner, f"pruner {name}")
        begin, every = policy.starting_epoch, policy.frequency
        if not begin < policy.ending_epoch or every < 1:
            wanted = "ending_epoch must be after starting_epoch, frequency at least 1"
            raise ValueError(f"{where}: {wanted}")
        last = begin + (policy.ending_epoch - begin - 1) // every * every
        tensors = [our_name(weight) for weight in pruner.weights]
        shares = {"sparsity": pruner.final_sparsity, "initial": pruner.initial_sparsity}
        entries[where] = Entry(**shares, tensors=tensors, begin=begin, end=last, every=every)
    return entries


def rule(entry: Entry, where: str) -> Rule:
    """What an entry means, once its numbers are in range."""
    for name, value in vars(entry).items():
        if isinstance(value, int | float) and not 0 <= value < LARGEST:
            raise ValueError(f"{where}: {name} {value:g}: must be a number from 0 on")
    if not 0 < entry.sparsity < 1:
        raise ValueError(f"{where}: sparsity {entry.sparsity:g}: must be between 0 and 1")
    initial = min(0.05, entry.sparsity) if entry.initial is None else entry.initial
    if initial > entry.sparsity:
        raise ValueError(f"{where}: initial {initial:g} is above sparsity {entry.sparsity:g}")
    time = (entry.begin if entry.end is None else entry.end) - entry.begin
    if time < 0:
        raise ValueError(f"{where}: end {entry.end:g} is before begin {entry.begin:g}")
    steps, every = 0, 1.0
    if time:
        every = time / 20 if entry.every is None else entry.every
        steps = round(time / every) if every * MOST_STEPS > time else 0
        if not steps or abs(steps * every - time) > 1e-6:
            odd = f"every {every:g} does not divide end - begin = {time:g}"
            raise ValueError(f"{where}: {odd}: choose another")
    tensors = (entry.tensors,) if isinstance(entry.tensors, str) else tuple(entry.tensors)
    return Rule(tensors, entry.sparsity, initial, float(entry.begin), float(every), steps)


def our_name(name: str) -> str:
    """A matrix's name here for that in PyTorch's example, such as ``rnn.weight_ih_l0``."""
    return re.sub(r"^(?:\w+\.)*weight_([ih])h_l(\d+)$", r"layers.\2.\g<1>2h_weight", name)
