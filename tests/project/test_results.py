"""Recorded results: complete, and the guide shows exactly what is recorded."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import records

from gluonlm import train
from gluonlm.config import Config
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, machine_record, record, recorded
from gluonlm.training.run import read_log

PAGE = RESULTS.parent / "docs" / "guide" / "records.md"
FOLDERS = (RESULTS, RESULTS / "ablation", RESULTS / "trials")
RECORDED = {name: run for folder in FOLDERS for name, run in recorded(folder).items()}
LOGS = {name: folder / name / "log.jsonl" for folder in FOLDERS for name in recorded(folder)}


def test_the_guide_shows_the_recorded_table():
    said = "run `python benchmarks/records.py table` and put its output in docs/guide/records.md"
    assert records.table() in PAGE.read_text(), said
    trials = records.table(RESULTS / "trials")
    assert trials in (PAGE.parent / "recipes.md").read_text(), f"{said}, trials in recipes.md"


def test_every_recorded_run_says_how_it_was_made():
    for name, (config, result) in RECORDED.items():
        assert config["command"].startswith("python -m gluonlm.train"), name
        assert {"mxnet", "cpu", "python", "date"} <= result["machine"].keys(), name
        known = {key: value for key, value in config.items() if key not in ("command", "best")}
        Config.from_json(json.dumps(known))


@pytest.mark.parametrize("name", list(RECORDED))
def test_recorded_command_leads_to_the_recorded_settings(name, monkeypatch):
    recorded = {name: config for name, (config, _) in RECORDED.items()}

    def configured(config):
        return Config.from_json(
            json.dumps({key: config[key] for key in config.keys() - {"command", "best"}})
        )

    def typed(command):
        return vars(train.parser().parse_args(command.split()[3:]))  # after python -m gluonlm.train

    monkeypatch.setattr(
        train,
        "load_model",
        lambda run: SimpleNamespace(config=configured(recorded[Path(run).name])),
    )
    first, *resumed = recorded[name]["command"].split("; ")
    config = train.settings(typed(first))
    for command in resumed:
        config = replace(config, epochs=typed(command).get("epochs", config.epochs))
    assert config == configured(recorded[name])


def test_recorded_results_follow_from_their_logs():
    for name, (config, result) in RECORDED.items():
        epochs = read_log(LOGS[name], "epoch")
        assert len(epochs) == result["epochs"], name
        sparsity = epochs[-1].get("sparsity")  # while a model is being pruned it is not one to keep
        losses = [record["valid_loss"] for record in epochs if record.get("sparsity") == sparsity]
        if result["best_epoch"] == 0:  # a run that never got better than what it went on from
            losses.append(math.log(RECORDED[Path(config["finetune"]).name][1]["valid_perplexity"]))
        assert result["valid_perplexity"] == pytest.approx(math.exp(min(losses))), name
        assert result["test_perplexity"] == pytest.approx(math.exp(result["test_loss"])), name


def test_only_a_finished_run_is_recorded(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        records.main(["add", str(tmp_path), str(tmp_path / "record")])


def test_a_finished_run_is_recorded(tmp_path):
    for name in records.KEPT:
        (tmp_path / name).write_text("{}")
    typed = (
        "python -m gluonlm.train --save /home/me/x --epochs 2; python -m gluonlm.train "
        "--resume x --epochs 9"
    )
    (tmp_path / "config.json").write_text(json.dumps({"command": typed}))
    (tmp_path / "last.safetensors").write_text("large")
    records.main(["add", str(tmp_path), str(tmp_path / "record" / "one")])
    assert {path.name for path in (tmp_path / "record" / "one").iterdir()} == set(records.KEPT)
    command = json.loads((tmp_path / "record" / "one" / "config.json").read_text())["command"]
    assert command == typed.replace("/home/me/x", "runs/one").replace(
        "--resume x", "--resume runs/one"
    )


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("train --save 'my runs/x y' --lr 3", "train --save runs/one --lr 3"),
        (
            "train '--save=my runs/x' --lr 3; train --resume a",
            "train --save=runs/one --lr 3; train --resume runs/one",
        ),
        ("train --save_path=x.pt --data 'a;b c'", "train --save_path=runs/one --data 'a;b c'"),
        ("train --tiny", "train --tiny"),
    ],
)
def test_the_folder_in_a_recorded_command(typed, shown):
    assert records.in_folder(typed, "runs/one") == shown


def test_a_run_is_not_recorded_onto_itself(tmp_path):
    for name in records.KEPT:
        (tmp_path / name).write_text('{"command": ""}')
    with pytest.raises(UserError, match="is the run itself"):
        records.main(["add", str(tmp_path), str(tmp_path)])
    assert (tmp_path / "config.json").read_text() == '{"command": ""}'


def test_the_machine_is_described():
    machine = machine_record()
    assert machine["mxnet"].startswith("1.9")
    assert machine["cores"] >= 1
    assert machine["cpu"]


def test_a_benchmark_is_recorded_with_command_and_machine(tmp_path):
    out = tmp_path / "new" / "one.json"
    result = record(
        out, ["python", "benchmarks/one.py", "--words", "some words"], runs=[{"ms": 1.5}]
    )
    assert json.loads(out.read_text()) == result
    assert result["command"] == "python benchmarks/one.py --words 'some words'"
    assert result["machine"] == machine_record()
    assert result["runs"] == [{"ms": 1.5}]


def test_a_quick_benchmark_records_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert record(None, ["python", "benchmarks/one.py"], runs=[])["runs"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        record(tmp_path / "file" / "one.json", ["python", "benchmarks/one.py"])
