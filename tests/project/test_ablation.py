"""The ablation of AWD-LSTM trains each variant once, goes on with what was stopped, and tabulates
what it recorded."""

import argparse
import json
import math
import os
import signal
from pathlib import Path

import pytest
from scripts import load_script

from gluonlm.presets import PRESETS
from gluonlm.system.errors import UserError
from gluonlm.training.run import read_log

REGULARIZERS = (
    "dropout",
    "dropouti",
    "dropouth",
    "dropoute",
    "wdrop",
    "alpha",
    "beta",
    "wdecay",
    "random_bptt",
)
SMALL = (
    "--emsize 8 --nhid 8 --nlayers 2 --batch-size 4 --bptt 5 --softmax-samples 8 --lr 1 "
    "--max-batches 6"
)


@pytest.fixture
def ablation():
    return load_script("benchmarks/ablation.py")


@pytest.fixture
def ablate(ablation, tmp_path):
    """Runs it at a tiny size in ``tmp_path``; more arguments go on top."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat and saw the dog\n" * 60)
    where = [
        "--data",
        str(tmp_path / "text.txt"),
        "--runs",
        str(tmp_path),
        "--out",
        str(tmp_path / "records"),
    ]
    return lambda *more: ablation.main(
        [*where, "--epochs", "2", *more, *([] if "--table" in more else SMALL.split())]
    )


def config(folder, variant):
    return json.loads(
        (folder / "records" / f"text-awd-400-2-{variant}" / "config.json").read_text()
    )


def test_every_variant_lacks_what_its_name_says(ablation, ablate, tmp_path):
    ablate()
    whole = config(tmp_path, "all")
    assert all(whole[name] for name in (*REGULARIZERS, "locked"))
    lacking = {
        variant: {name for name in (*REGULARIZERS, "locked") if not config(tmp_path, variant)[name]}
        for variant in ablation.VARIANTS
    }
    assert lacking == {
        "all": set(),
        "no-weight-drop": {"wdrop"},
        "no-embedding-dropout": {"dropoute"},
        "no-locked-dropout": {"dropout", "dropouti", "dropouth"},
        "unlocked-dropout": {"locked"},
        "no-penalties": {"alpha", "beta"},
        "no-random-lengths": {"random_bptt"},
        "no-weight-decay": {"wdecay"},
        "none": set(REGULARIZERS),
    }
    assert {name for name in REGULARIZERS if PRESETS["awd"].get(name)} == set(
        REGULARIZERS
    )  # none is forgotten


def test_all_variants_go_on_from_one_trained_run(ablate, ablation, tmp_path):
    ablate("--only", "all")
    begun = tmp_path / "text-awd-400-2-all"
    where = ["--finetune", str(begun), "--runs", str(tmp_path), "--out", str(tmp_path / "records")]
    variants = "all", "no-penalties"
    ablation.main([*where, "--epochs", "1", "--lr", "0", "--only", *variants])
    found = {variant: tmp_path / "records" / f"{begun.name}-1-{variant}" for variant in variants}
    settings = {
        variant: json.loads((folder / "config.json").read_text())
        for variant, folder in found.items()
    }
    assert {
        name for name in settings["all"] if settings["all"][name] != settings["no-penalties"][name]
    } == {"alpha", "beta", "command"}
    assert settings["all"]["finetune"] == str(begun)
    assert settings["all"]["nhid"] == 8
    assert settings["all"]["epochs"] == 1
    best = json.loads((begun / "result.json").read_text())["valid_perplexity"]
    for folder in found.values():  # with a rate of 0 they are what they began with
        (epoch,) = read_log(folder / "log.jsonl", "epoch")
        assert math.exp(epoch["valid_loss"]) == pytest.approx(best)


def test_other_settings_are_not_recorded_among_ours(ablation):
    with pytest.raises(UserError, match="--max-batches makes it another ablation: give --out"):
        ablation.main(["--epochs", "1", "--only", "none", "--max-batches", "5"])


def test_a_run_with_dots_in_its_name(ablation):
    options = argparse.Namespace(finetune=Path("runs/v1.5"), epochs=3)
    assert (
        ablation.record_name("all", options) == "v1-5-3-all"
    )  # a folder: with a suffix it would be a file


def test_a_run_that_gets_worse_counts_as_it_ends(ablation, ablate, tmp_path, capsys):
    """Its best model is the one it began with, which says nothing about the variant."""
    ablate("--only", "all")
    begun = tmp_path / "text-awd-400-2-all"
    where = ["--finetune", str(begun), "--runs", str(tmp_path), "--out", str(tmp_path / "records")]
    ablation.main([*where, "--epochs", "1", "--only", "none", "--lr", "100", "--clip", "0"])
    result = json.loads((tmp_path / "records" / f"{begun.name}-1-none" / "result.json").read_text())
    shown = float(capsys.readouterr().out.splitlines()[-1].split(" | ")[1])
    assert result["best_epoch"] == 0
    assert shown > 2 * result["valid_perplexity"]


def test_no_run_is_averaged(ablate, tmp_path, monkeypatch):
    """Not even one whose validation turns up at once."""
    from gluonlm.training import loop as training

    monkeypatch.setattr(training, "Average", lambda _: pytest.fail("averaged"))
    losses = iter((2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0))
    monkeypatch.setattr(training, "evaluate", lambda *_: next(losses))
    ablate("--only", "none", "--epochs", "7", "--max-batches", "1")


def test_a_table_without_the_whole_compares_nothing(ablate, capsys):
    ablate("--only", "none")
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| none | ")
    assert row.endswith(" |  |")


def test_stopped_goes_on_and_recorded_is_not_repeated(ablate, tmp_path, monkeypatch, capsys):
    from gluonlm.training import loop as training

    step, calls = training.train_step, 0

    def stopping(*arguments):
        nonlocal calls
        calls += 1
        if calls == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", stopping)
    with pytest.raises(UserError, match="all is not finished: the same command goes on with it"):
        ablate("--only", "all")
    assert not (tmp_path / "records").exists()
    with pytest.raises(UserError, match="no run with --epochs 2 is recorded"):
        ablate("--table")
    ablate("--only", "all", "none")
    assert calls == 24  # six steps, two epochs, two variants: none twice
    capsys.readouterr()
    ablate("--only", "all", "none")
    assert calls == 24
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    valid = {}
    for variant in ("all", "none"):
        log = (tmp_path / "records" / f"text-awd-400-2-{variant}" / "log.jsonl").read_text()
        epochs = [
            record for record in map(json.loads, log.splitlines()) if record["kind"] == "epoch"
        ]
        valid[variant] = math.exp(epochs[1]["valid_loss"])
    assert [row[0].strip("| ") for row in rows] == [
        "regularizers",
        "|---|---|---|".strip("|"),
        "all",
        "none",
    ]
    assert rows[3][1:] == [f"{valid['none']:.2f}", f"{valid['none'] / valid['all'] - 1:+.1%} |"]
