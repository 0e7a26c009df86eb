"""Settings under a name: ``--preset NAME`` puts them under what else is given.

The recipes are data, in presets.yaml.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from gluonlm.config import Config, option
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS

RECIPES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def settings_of(preset: str) -> dict[str, Any]:
    """A recipe's settings on top of those of the recipe that it extends."""
    recipe = RECIPES[preset]
    below = settings_of(recipe["extends"]) if "extends" in recipe else {}
    return below | recipe.get("settings", {})


PRESETS: dict[str, dict[str, Any]] = {preset: settings_of(preset) for preset in RECIPES}


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """:func:`on_top` of a preset's settings; a UserError for an unknown preset."""
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return on_top(PRESETS[preset], given)


def reaches(preset: str) -> dict[str, float]:
    """The test perplexity of a recipe's record by data set; a package without its repository has
    no records."""
    return {
        data: json.loads(path.read_text())["test_perplexity"]
        for data, record in RECIPES[preset].get("reaches", {}).items()
        if (path := RESULTS / record / "result.json").is_file()
    }


def listed() -> str:
    """The names of all recipes, with the test perplexities that are known of them."""
    names = []
    for preset in PRESETS:
        known = [f"{value:.2f} on {data}" for data, value in reaches(preset).items()]
        names.append(f"{preset} ({', '.join(known)})" if known else preset)
    return ", ".join(names)


def describe(preset: str) -> str:
    """What a recipe is, the test perplexity that it was recorded to reach, and what it sets; a
    UserError for an unknown preset."""
    config = resolve(preset, {})
    lines = [f"{preset}: {RECIPES[preset]['about']}"]
    for data, reached in reaches(preset).items():
        record = RECIPES[preset]["reaches"][data]
        lines.append(f"  reaches a test perplexity of {reached:.2f} on {data} ({record})")
    for field in dataclasses.fields(config):
        if (value := getattr(config, field.name)) != field.default:
            values = value if isinstance(value, tuple) else [] if value is True else [value]
            lines.append("  " + " ".join([option(field.name), *map(str, values)]))
    return "\n".join(lines)


def on_top(settings: dict[str, Any], given: dict[str, Any]) -> Config:
    """Settings with the given ones on top; another optimizer has another usual rate. A UserError
    for a setting out of range, and for a given one that has no effect."""
    usual = settings.get("optimizer", "sgd")
    if given.get("optimizer", usual) != usual:  # a rate for SGD is thousands of times one for Adam
        settings = {**settings, "lr": None}
    config = Config(**{**settings, **given})
    config.check_effect(given)
    return config
