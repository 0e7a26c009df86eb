"""Schedule files of ``--compress``: which tensors are pruned, how far, and when.

A YAML file with a list of rules; only ``sparsity`` must be there::

    - tensors: [layers.*]   # names or patterns (default: all matrices); `python -m gluonlm.prune RUN` lists them
      sparsity: 0.8         # share of weights that are pruned in the end, of each tensor
      initial: 0.05         # share at the first pruning (default: 0.05)
      begin: 2              # first pruning, in epochs from the start of training (default: 0, the start)
      end: 20               # last pruning (default: begin, all at once)
      every: 1              # epochs from one pruning to the next (default: a twentieth of the time)
    - tensors: encoder.weight
      sparsity: 0.9
      begin: 3.5            # half an epoch is fine, too

Between begin and end the sparsity follows the curve of :meth:`gluonlm.compress.pruning.Rule.sparsity`. A mapping with
``pruners`` and ``policies`` is read as a schedule of Distiller (the pruning example for PyTorch's language model), if
its pruners are AutomatedGradualPruners; its names such as ``rnn.weight_hh_l0`` mean ``layers.0.h2h_weight``.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gluonlm.compress.pruning import Rule, usual_rule
from gluonlm.config import Config
from gluonlm.system.errors import UserError

KEYS = ("tensors", "sparsity", "initial", "begin", "end", "every")
MOST_STEPS = 1_000_000  # prunings by one rule
PARTS = {"ih": "i2h_weight", "hh": "h2h_weight"}
TORCH_NAME = re.compile(r"(?:\w+\.)*weight_(ih|hh)_l(\d+)")


def read_schedule(path: str) -> str:
    """The text of a schedule file that is valid.

    :raises UserError: when it cannot be read or is not valid.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--compress {path}: cannot be read ({error}): give a file with a pruning schedule"
        ) from None
    parse_schedule(text)
    return text


def rules_of(config: Config) -> tuple[Rule, ...]:
    """The rules of a run's settings: those of its schedule, the usual one of ``--prune``, or none.

    :raises UserError: when the schedule is not valid.
    """
    if config.prune is not None:
        return (usual_rule(config.prune, config.epochs, trained=config.finetune is not None),)
    return parse_schedule(config.compress) if config.compress else ()


def parse_schedule(text: str) -> tuple[Rule, ...]:
    """The rules in the text of a schedule file.

    :raises UserError: when it is not YAML, or something in it is unknown, missing, of a wrong type or out of range.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = (
            f" in line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        )
        raise UserError(
            f"--compress: the schedule is not YAML{where}: {getattr(error, 'problem', error)}"
        ) from None
    except ValueError as error:  # a date that there is not
        raise UserError(f"--compress: the schedule has a value that is none ({error})") from None
    if isinstance(content, dict) and "pruners" in content:
        return distiller_rules(content)
    if not isinstance(content, list) or not content:
        raise UserError(
            "--compress: the schedule must be a list of rules, each with at least a sparsity"
        )
    return tuple(own_rule(rule, f"rule {number}") for number, rule in enumerate(content, 1))


def own_rule(rule: Any, where: str) -> Rule:
    """One rule of our format."""
    check_keys(rule, KEYS, ("sparsity",), where)
    begin = number(rule, "begin", where, 0)
    end = number(rule, "end", where, begin)
    if end < begin:
        raise UserError(f"--compress: {where}: end {end:g} is before begin {begin:g}")
    steps, every = 0, 1.0
    if end > begin:
        every = number(rule, "every", where, (end - begin) / 20)
        steps = round((end - begin) / every) if every * MOST_STEPS > end - begin else 0
        if not steps or abs(steps * every - (end - begin)) > 1e-6:
            raise UserError(
                f"--compress: {where}: every {every:g} does not divide end - begin = {end - begin:g}"
            )
    final, initial = sparsities(rule, "initial", "sparsity", where)
    return Rule(names(rule.get("tensors", "*"), where), final, initial, begin, every, steps)


def distiller_rules(content: dict) -> tuple[Rule, ...]:
    """The rules of a Distiller schedule: prunings at the beginning of epochs starting, + frequency, ... < ending."""
    check_keys(content, ("version", "pruners", "policies"), ("pruners", "policies"), "the schedule")
    pruners, rules = content["pruners"], []
    policies = content["policies"]
    if not isinstance(pruners, dict) or not isinstance(policies, list):
        raise UserError(
            "--compress: pruners must be a mapping of names to pruners, and policies a list"
        )
    for index, policy in enumerate(policies, 1):
        where = f"policy {index}"
        keys = ("pruner", "starting_epoch", "ending_epoch", "frequency")
        check_keys(policy, keys, keys[:3], where)
        check_keys(policy["pruner"], ("instance_name",), ("instance_name",), f"{where}, pruner")
        name = policy["pruner"]["instance_name"]
        if not isinstance(name, str) or name not in pruners:
            raise UserError(
                f"--compress: {where} uses a pruner {name}, which the schedule does not define"
            )
        begin, end = whole(policy, "starting_epoch", where), whole(policy, "ending_epoch", where)
        every = whole(policy, "frequency", where, 1)
        if not begin < end or every < 1:
            raise UserError(
                f"--compress: {where}: ending_epoch must be after starting_epoch, frequency at least 1"
            )
        rules.append(
            distiller_rule(
                pruners[name], f"pruner {name}", begin, every, (end - begin - 1) // every
            )
        )
    return tuple(rules)


def distiller_rule(pruner: Any, where: str, begin: int, every: int, steps: int) -> Rule:
    """A pruner with the time that a policy gives it."""
    keys = ("class", "initial_sparsity", "final_sparsity", "weights")
    check_keys(pruner, keys, keys, where)
    if pruner["class"] != "AutomatedGradualPruner":
        raise UserError(
            f"--compress: {where}: class {pruner['class']} is not supported, only AutomatedGradualPruner"
        )
    values = sparsities(pruner, "initial_sparsity", "final_sparsity", where)
    return Rule(
        tuple(map(our_name, names(pruner["weights"], where))),
        *values,
        float(begin),
        float(every),
        steps,
    )


def our_name(name: str) -> str:
    """A tensor's name here for its name in PyTorch's example: ``rnn.weight_ih_l0`` is ``layers.0.i2h_weight``."""
    match = TORCH_NAME.fullmatch(name)
    return f"layers.{match[2]}.{PARTS[match[1]]}" if match else name


def check_keys(item: Any, known: Iterable[str], needed: Iterable[str], where: str) -> None:
    """Raise a UserError unless the item is a mapping with no unknown and all needed keys."""
    if not isinstance(item, dict):
        raise UserError(f"--compress: {where} must be a mapping with {', '.join(known)}")
    for key in item:
        if key not in known:
            raise UserError(f"--compress: {where}: unknown key {key}: use {', '.join(known)}")
    for key in needed:
        if key not in item:
            raise UserError(f"--compress: {where}: {key} is missing")


def names(value: Any, where: str) -> tuple[str, ...]:
    """One name or a list of names."""
    listed = [value] if isinstance(value, str) else value
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(name, str) for name in listed)
    ):
        raise UserError(f"--compress: {where}: give a tensor's name or a list of names")
    return tuple(listed)


def number(item: dict, key: str, where: str, default: float) -> float:
    """A number that is not negative."""
    value = item.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise UserError(f"--compress: {where}: {key} {value}: must be a number from 0 on")
    return float(value)


def whole(item: dict, key: str, where: str, default: int = 0) -> int:
    """A whole number that is not negative."""
    value = number(item, key, where, default)
    if value != int(value):
        raise UserError(f"--compress: {where}: {key} {value:g}: must be a whole number of epochs")
    return int(value)


def sparsities(item: dict, first: str, last: str, where: str) -> tuple[float, float]:
    """The final and the initial sparsity."""
    final = number(item, last, where, 0)
    if not 0 < final < 1:
        raise UserError(f"--compress: {where}: {last} {final:g}: must be between 0 and 1")
    initial = number(item, first, where, min(0.05, final))
    if initial > final:
        raise UserError(f"--compress: {where}: {first} {initial:g} is above {last} {final:g}")
    return final, initial
