"""Options: a mistake is one sentence, what has no effect is refused, and help has a title for each
group."""

import json
import sys

import pytest

from gluonlm import cli, datasets, evaluate, export, generate, prune, quantize, score, train
from gluonlm.config import NEEDS, Config
from gluonlm.prepare import parser as prepare_parser
from gluonlm.presets import PRESETS, RECIPES, resolve
from gluonlm.system.errors import UserError
from gluonlm.system.gpu import contexts
from gluonlm.system.machine import RESULTS
from gluonlm.training.optim import Schedule


def settings(line):
    return train.settings(vars(train.parser().parse_args(line.split())))


@pytest.mark.parametrize("command", [datasets, evaluate, export, generate, prune, quantize, train])
def test_a_mistake_is_one_sentence(command):
    with pytest.raises(UserError, match=r"--unheard-of: see python -m gluonlm\.\w+ --help"):
        command.main(["run", "--unheard_of"] if command is not train else ["--unheard_of"])


@pytest.mark.parametrize(
    ("parse", "option"),
    [
        (score.parser().parse_args, ["--words"]),
        (export.parse, ["--format", "web"]),
        (prepare_parser().parse_args, ["--out", "data/made"]),
    ],
)
def test_options_may_stand_between_the_positional_arguments(parse, option):
    asked = parse(["first", "second", *option])
    assert parse(["first", *option, "second"]) == parse([*option, "first", "second"]) == asked
    assert parse([*option, "first", "--", "-"]) == parse(["first", "-", *option])


def test_a_mistake_is_printed_without_the_usage(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "many"])
    with pytest.raises(SystemExit, match="^2$"):
        cli.run(train.main)
    assert capsys.readouterr() == (
        "",
        "error: argument --epochs/--epoch: invalid int value: 'many': see python -m gluonlm.train "
        "--help\n",
    )


def test_help_has_titled_groups(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    groups = ["data:", "model:", "regularization:", "optimization:", "run:", "workers:"]
    assert titles == ["options:", *groups]
    assert lines[lines.index("options:") + 1].split()[0] == "-h,"  # every other has a group
    assert lines[lines.index("options:") + 2] == ""


def test_a_gpu_named_twice_is_refused():
    """Each gradient would count twice, and the weights would be others."""
    with pytest.raises(UserError, match="--gpu 0,1,0: a GPU is named twice"):
        contexts("0,1,0")


def test_one_advice_for_a_missing_gpu_build():
    with pytest.raises(UserError, match="install the GPU build with `make env MXNET=cu112`"):
        contexts("0")


@pytest.mark.parametrize(
    "line",
    [
        "--narrow",
        "--narrow --tied",
        "--narrow --emsize 9",
        "--adaptive --splits 100",
        "--nlayers 1 --dropouth 0.3",
        "--schedule cosine --restore-best",
        "--schedule linear --lr-factor 0.5",
        "--schedule constant --lr-patience 3",
        "--schedule onecycle --lr-threshold 0.1",
        "--schedule linear --nonmono 5",
        "--optimizer adam --nonmono 5",
        "--preset awd --optimizer adam --nonmono 4",
        "--zoneout 0.1",
        "--window 1",
        "--preset fast-cpu --restore-best",
    ],
)
def test_what_has_no_effect_is_refused(line):
    with pytest.raises(UserError, match="has no effect without .*: leave it out, or add that"):
        settings(line)


@pytest.mark.parametrize(
    "line",
    [
        "--narrow --tied --emsize 9",
        "--adaptive",
        "--splits 100",
        "--dropouth 0.3",
        "--restore-best --lr-factor 0.5 --lr-patience 3 --lr-threshold 0.1",
        "--nonmono 5",
        "--schedule constant --nonmono 5",
        "--model QRNN --zoneout 0.1 --window 1",
        "--zoneout 0 --window 2 --no-narrow --nonmono none --schedule linear",  # off is no effect
        "--preset awd --optimizer adam",  # what a preset brings without effect is nobody's mistake
    ],
)
def test_what_has_an_effect_is_taken(line):
    settings(line)


@pytest.mark.parametrize("name", ["restore_best", "lr_factor", "lr_patience", "lr_threshold"])
def test_a_finetuned_run_knows_no_plateau(name):
    """It averages from its first step on, at a constant rate."""
    with pytest.raises(UserError, match="has no effect without .* not finetuned"):
        Config(finetune="run", **{name: name == "restore_best" or 1}).check_effect([name])


def test_every_need_is_of_some_setting():
    used = {field.metadata.get("needs") for field in Config.__dataclass_fields__.values()}
    assert used - {None} == set(NEEDS)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("--preset awd --nonmono none", "nonmono"),
        ("--preset awd-enwik8 --when none", "when"),
        ("--preset awd --test-batch-size none", "test_batch_size"),
        ("--preset awd --lr none", "lr"),
        ("--preset awd --dropouti none", "dropouti"),
    ],
)
def test_what_a_preset_sets_can_be_unset(line, name):
    assert PRESETS[line.split()[1]][name] not in (None, ())
    assert getattr(settings(line), name) == Config.__dataclass_fields__[name].default


def test_splits_can_be_unset_and_none_is_no_number_among_others():
    assert settings("--preset awd --no-adaptive --splits none").splits == ()
    with pytest.raises(UserError, match="--when"):
        settings("--when none 3")
    with pytest.raises(UserError, match="--epochs"):
        settings("--epochs none")


@pytest.mark.parametrize("line", ["--dry-run --epochs 500", "--epochs 500 --dry-run"])
def test_a_dry_run_is_one_batch_and_one_epoch_in_any_order(line, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\n" * 30)
    small = ["--nhid", "4", "--emsize", "4", "--batch-size", "2", "--bptt", "3"]
    where = ["--data", str(tmp_path), "--save", str(tmp_path / "run")]
    assert train.main([*where, *small, *line.split()]).finished
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2  # interval, epoch


def test_accel_is_cuda():
    assert train.parser().parse_args(["--accel"]).cuda


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--lr 1e308", "--lr 1e\\+308: must be a number that float32 has"),
        ("--clip 1e-320", "--clip 1e-320: must be a number that float32 has"),
        ("--nhid 1000000000000", "--nhid 1000000000000: must be at most"),
        ("--emsize 2147483648", "--emsize 2147483648: must be at most"),
        ("--nlayers 100000000", "--nlayers 100000000: must be at most"),
        ("--softmax-samples 99999999999", "--softmax-samples 99999999999: must be at most"),
        ("--epochs 99999999999999999999", "--epochs 99999999999999999999: must be below"),
    ],
)
def test_numbers_that_cannot_be(line, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(line)


def test_the_learning_rate_has_a_least():
    for schedule in ("plateau", "linear", "cosine"):
        config = resolve("word-lm", {"lr": 1.0, "lr_min": 0.2, "schedule": schedule, "epochs": 2})
        rates = Schedule(config, plateau_scale=0.01 if schedule == "plateau" else 1.0)
        assert rates.lr(1, 1.0) == 0.2
    assert Schedule(resolve("word-lm", {"lr": 1.0, "lr_min": 0.2})).lr(0, 0.0) == 1.0


def test_training_stops_early(tmp_path, capsys):
    """At a rate too small to move a weight no epoch is better than the first."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\n" * 30)
    small = [
        "--nhid",
        "4",
        "--emsize",
        "4",
        "--batch-size",
        "2",
        "--lr",
        "1e-30",
        "--epochs",
        "9",
        "--early-stop",
        "2",
    ]
    result = train.main(["--data", str(tmp_path), "--save", str(tmp_path / "run"), *small])
    assert result.finished
    assert (tmp_path / "run" / "log.jsonl").read_text().count('"kind": "epoch"') == 3
    assert "2 epochs without improvement: training ends here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preset", "data", "record"),
    [
        (p, *reached)
        for p, recipe in RECIPES.items()
        for reached in recipe.get("reaches", {}).items()
    ],
)
def test_what_a_preset_reaches_was_trained_with_its_settings(preset, data, record):
    known = json.loads((RESULTS / record / "config.json").read_text())
    known = {name: value for name, value in known.items() if name not in ("command", "best")}
    given = {"data": data, "precision": known.get("precision", "float32")}
    assert resolve(preset, given) == Config.from_json(json.dumps(known))


def test_a_preset_is_described_with_what_it_was_recorded_to_reach(capsys):
    assert train.main(["--preset", "austen", "--describe"]) is None
    said = capsys.readouterr().out
    reached = json.loads((RESULTS / "austen-lstm-200-tied" / "result.json").read_text())
    assert f"test perplexity of {reached['test_perplexity']:.2f} on austen" in said
    assert {"  --tied", "  --dropout 0.3", "  --epochs 10"} < set(said.splitlines())
    with pytest.raises(SystemExit):
        train.main(["--help"])
    known = f"austen ({reached['test_perplexity']:.2f} on austen), austen-hour ("
    assert known in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="choose one of word-lm"):
        train.main(["--preset", "nothing", "--describe"])
