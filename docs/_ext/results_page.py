"""The page of results: charts, the table of recorded runs, then folded each run with its curve and
what the benchmarks measured."""

import json
from collections.abc import Iterable
from pathlib import Path

from charts import CHARTS, svg
from matplotlib.figure import Figure
from records import table

from gluonlm.system.machine import RESULTS, recorded
from gluonlm.training.run import draw_curve, read_log

RECORDS = RESULTS.parent / "docs" / "guide" / "records.md"


def results_page(pictures: Path) -> str:
    """The whole page as Markdown.

    :param pictures: the folder to draw the curves in.
    """
    text = RECORDS.read_text().partition("\n")[2]
    before, _, after = text.partition(table())  # a test holds that page to that table
    lines = ["# Results", "", *charts(pictures), "## Runs", before]
    lines += [table().replace("](../../results/", "](#"), after, "## Each run", ""]
    for name, (config, result) in recorded().items():
        title = f"<b>{name}</b>: test perplexity {shown(result['test_perplexity'])}"
        section = [*run_section(config, result), *curve(name, pictures)]
        lines += [f"({name})=", *folded(title, section, name)]
    lines += ["## Benchmarks", "", "Each file under `results/` with the command that wrote it.", ""]
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        if "command" in record:
            command = ["```sh", record.pop("command"), "```", ""]
            lines += folded(f"<b>{path.stem}</b>", [*command, *tables(record)])
    return "\n".join(lines)


def charts(pictures: Path) -> Iterable[str]:
    """Each chart under what it shows."""
    pictures.mkdir(parents=True, exist_ok=True)
    for name, (*_, says) in CHARTS.items():
        (pictures / f"{name}.svg").write_text(svg(name))
        yield from (f"## {says}", "", f"![{says}]({pictures.name}/{name}.svg)", "")


def folded(title: str, lines: list[str], anchor: str = "") -> list[str]:
    """Lines under a title (HTML) that opens them; links lead to the anchor."""
    opening = f'<details id="{anchor}">' if anchor else "<details>"
    return [f"{opening}<summary>{title}</summary>", "", *lines, "", "</details>", ""]


def run_section(config: dict, result: dict) -> list[str]:
    """What was run, where, and what came out."""
    facts = {
        "seed": str(config["seed"]),
        "epochs": f"{result['epochs']}, the best was number {result['best_epoch']}",
        "parameters": result["parameters"],
        "validation perplexity": result["valid_perplexity"],
        "test perplexity": result["test_perplexity"],
        **{
            f"{baseline} baseline, test perplexity": value
            for baseline, value in result.get("baselines", {}).items()
        },
        "machine": machine(result["machine"]),
    }
    return ["```sh", config["command"], "```", "", *key_values(facts), ""]


def curve(name: str, pictures: Path) -> list[str]:
    """The picture of a run's log, as training draws it."""
    log = RESULTS / name / "log.jsonl"
    picture = pictures / f"{name}.png"
    if not picture.exists() or picture.stat().st_mtime < log.stat().st_mtime:
        pictures.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        draw_curve(figure.subplots(), read_log(log, "interval"), read_log(log, "epoch"))
        figure.savefig(picture, dpi=110)
    alt = (
        f"Perplexity of {name} on the training and validation text by training steps, on a "
        f"logarithmic scale"
    )
    return [f"![{alt}]({pictures.name}/{picture.name})"]


def tables(record: dict) -> list[str]:
    """A benchmark's record: its plain values, then a table for each list of records or record of
    values."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    lines = []
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(dict.fromkeys(column for row in value for column in row))
            rows = [[shown(row.get(column, "")) for column in columns] for row in value]
            lines += ["", *markdown([spaced(column) for column in columns], rows)]
        elif isinstance(value, dict) and key != "machine":
            lines += [
                "",
                *markdown([spaced(key), ""], [[spaced(k), shown(v)] for k, v in value.items()]),
            ]
        elif isinstance(value, list):
            plain[key] = shown(value)
    if "machine" in record:
        plain["machine"] = machine(record["machine"])
    return key_values(plain) + lines


def key_values(facts: dict) -> list[str]:
    """A list of facts."""
    return [f"- {spaced(key)}: {shown(value)}" for key, value in facts.items()]


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table."""
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def machine(record: dict) -> str:
    """Where and with what something was measured, on one line."""
    return ", ".join(f"{key} {value}" for key, value in record.items())


def spaced(key: str) -> str:
    """A name of a record's entry as words."""
    return str(key).replace("_", " ")


def shown(value: object) -> str:
    """A value for a reader: two decimals, thousands apart, a digest's beginning."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    if isinstance(value, dict):
        return ", ".join(f"{spaced(key)} {shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "-"
    return f"`{value[:12]}…`" if len(str(value)) == 64 else str(value)
