"""The command lines that users of other toolkits already type mean the same here."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gluonlm import train
from gluonlm.cli import dashes
from gluonlm.config import Config
from gluonlm.presets import PRESETS
from gluonlm.system.errors import UserError
from gluonlm.text.locate import known_name

MEDIUM = {"emsize": 650, "nhid": 650, "dropout": 0.5, "epochs": 40}
LARGE = {"emsize": 1500, "nhid": 1500, "dropout": 0.65, "epochs": 40}
TUTORIAL = {
    "emsize": 650,
    "nhid": 650,
    "nlayers": 2,
    "dropout": 0.5,
    "batch_size": 32,
    "bptt": 35,
    "clip": 0.25,
}
ADAM = {
    "emsize": 650,
    "nhid": 650,
    "dropout": 0.5,
    "optimizer": "adam",
    "wdecay": 1e-5,
    "clip": 5.0,
    "bptt": 30,
}

AWD = {
    "emsize": 400,
    "nhid": 1150,
    "nlayers": 3,
    "lr": 30.0,
    "clip": 0.25,
    "batch_size": 80,
    "bptt": 70,
    "dropout": 0.4,
    "dropouth": 0.3,
    "dropouti": 0.65,
    "dropoute": 0.1,
    "wdrop": 0.5,
    "alpha": 2.0,
    "beta": 1.0,
    "wdecay": 1.2e-6,
    "nonmono": 5,
    "tied": True,
    # what its code does without an option
    "narrow": True,
    "adaptive": True,
    "locked": True,
    "random_bptt": True,
    "schedule": "constant",
    "test_batch_size": 1,
}

QRNN = {
    **AWD,
    "model": "QRNN",
    "batch_size": 20,
    "clip": 0.2,
    "wdrop": 0.1,
    "nhid": 1550,
    "nlayers": 4,
    "dropouti": 0.4,
    "epochs": 550,
}
WT103_LINE = (
    "--epochs 14 --nlayers 4 --emsize 400 --nhid 2500 --alpha 0 --beta 0 --dropoute 0 --dropouth "
    "0.1 --dropouti 0.1 "
    "--dropout 0.1 --wdrop 0.5 --wdecay 0 --bptt 140 --batch_size 60 --optimizer adam --lr 1e-3 "
    "--data data/wikitext-103 --save WT103.12hr.QRNN.pt --when 12"
)
WT103 = {
    **QRNN,
    "epochs": 14,
    "nhid": 2500,
    "alpha": 0,
    "beta": 0,
    "dropoute": 0,
    "dropouth": 0.1,
    "dropouti": 0.1,
    "dropout": 0.1,
    "wdrop": 0.5,
    "wdecay": 0,
    "bptt": 140,
    "batch_size": 60,
    "optimizer": "adam",
    "lr": 1e-3,
    "data": "data/wikitext-103",
    "when": (12,),
}

SAME = {
    # the word-level example
    "--cuda --epochs 6": {"epochs": 6},
    "--cuda --epochs 6 --tied": {"epochs": 6, "tied": True},
    "--cuda --tied": {"tied": True},
    "--cuda --emsize 650 --nhid 650 --dropout 0.5 --epochs 40": MEDIUM,
    "--cuda --emsize 650 --nhid 650 --dropout 0.5 --epochs 40 --tied": {**MEDIUM, "tied": True},
    "--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --epochs 40": LARGE,
    "--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --epochs 40 --tied": {**LARGE, "tied": True},
    "--data data/penn --model RNN_TANH --emsize 200 --nhid 200 --nlayers 2 --lr 20 --clip 0.25 "
    "--epochs 40 "
    "--batch_size 20 --bptt 35 --dropout 0.2 --seed 1111 --log-interval 200 --save model.pt": {
        "data": "data/penn",
        "model": "RNN_TANH",
        "lr": 20.0,
    },
    "--model RNN_RELU": {"model": "RNN_RELU"},
    "--model GRU --onnx-export ''": {"model": "GRU"},
    "--onnx-export model.onnx": {},
    "--dry-run": {"epochs": 1, "max_batches": 1},
    "--use-optimizer --lr 0.001": {"optimizer": "adamw", "lr": 0.001},
    # the pruning example's spellings
    "--batch-size 30 --decay 0.5 --wd 1e-6": {"batch_size": 30, "decay": 0.5, "wdecay": 1e-6},
    # the tied LSTM trained with Adam
    "--preset adam-tied --tied": {
        **ADAM,
        "tied": True,
        "lr_factor": 0.5,
        "lr_patience": 2,
        "lr_threshold": 1e-4,
    },
    "--data_dir data/penn --batch_size 20 --embed_size 650 --hidden_size 650 --num_layers 2 "
    "--dropout 0.5 --lr 0.001 "
    "--epochs 40 --clip 5.0 --seq_length 30 --save_path best.pt --weight_decay 1e-5 --lr_factor "
    "0.5 --lr_patience 2 "
    "--tied --optimizer adam": {
        **ADAM,
        "data": "data/penn",
        "lr": 0.001,
        "tied": True,
        "lr_factor": 0.5,
        "lr_patience": 2,
    },
    # the Gluon tutorial
    "--gpu 0": {**TUTORIAL, "epochs": 40, "restore_best": True},
    "--tiny": {
        "emsize": 32,
        "nhid": 32,
        "nlayers": 1,
        "batch_size": 16,
        "bptt": 10,
        "max_batches": 20,
        "epochs": 1,
    },
    # the AWD-LSTM toolkit
    "--preset awd --batch_size 20 --data data/penn --dropouti 0.4 --dropouth 0.25 --seed 141 "
    "--epoch 500 "
    "--save PTB.pt": {
        **AWD,
        "batch_size": 20,
        "data": "data/penn",
        "dropouti": 0.4,
        "dropouth": 0.25,
        "seed": 141,
        "epochs": 500,
    },
    "--preset awd --epochs 750 --data data/wikitext-2 --save WT2.pt --dropouth 0.2 --seed 1882": {
        **AWD,
        "epochs": 750,
        "data": "data/wikitext-2",
        "dropouth": 0.2,
        "seed": 1882,
    },
    "--preset awd --epochs 50 --nlayers 3 --emsize 400 --nhid 1840 --alpha 0 --beta 0 --dropoute "
    "0 --dropouth 0.1 "
    "--dropouti 0.1 --dropout 0.4 --wdrop 0.2 --wdecay 1.2e-6 --bptt 200 --batch_size 128 "
    "--optimizer adam --lr 1e-3 "
    "--data data/enwik8 --save ENWIK8.pt --when 25 35": {
        **AWD,
        "epochs": 50,
        "nhid": 1840,
        "alpha": 0,
        "beta": 0,
        "dropoute": 0,
        "dropouth": 0.1,
        "dropouti": 0.1,
        "wdrop": 0.2,
        "bptt": 200,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 1e-3,
        "when": (25, 35),
        "data": "data/enwik8",
    },
    "--preset awd --epochs 500 --nlayers 3 --emsize 200 --nhid 1000 --alpha 0 --beta 0 --dropoute "
    "0 --dropouth 0.25 "
    "--dropouti 0.1 --dropout 0.1 --wdrop 0.5 --wdecay 1.2e-6 --bptt 150 --batch_size 128 "
    "--optimizer adam --lr 2e-3 "
    "--data data/pennchar --save PTBC.pt --when 300 400": {
        **AWD,
        "epochs": 500,
        "emsize": 200,
        "nhid": 1000,
        "alpha": 0,
        "beta": 0,
        "dropoute": 0,
        "dropouth": 0.25,
        "dropouti": 0.1,
        "dropout": 0.1,
        "bptt": 150,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 2e-3,
        "when": (300, 400),
        "data": "data/pennchar",
    },
    # its QRNNs: --preset awd stands for all of its defaults, --preset qrnn for what was published
    # for Penn Treebank
    "--preset awd --model QRNN --batch_size 20 --clip 0.2 --wdrop 0.1 --nhid 1550 --nlayers 4 "
    "--emsize 400 "
    "--dropouth 0.3 --seed 9001 --dropouti 0.4 --epochs 550 --save PTB.pt": {**QRNN, "seed": 9001},
    "--preset qrnn --seed 9001": {**QRNN, "seed": 9001},
    "--preset qrnn --epochs 500 --data data/wikitext-2 --clip 0.25 --dropouti 0.4 --dropouth 0.2 "
    "--nhid 1550 "
    "--nlayers 4 --seed 4002 --model QRNN --wdrop 0.1 --batch_size 40 --save WT2.pt": {
        **QRNN,
        "epochs": 500,
        "data": "data/wikitext-2",
        "clip": 0.25,
        "dropouth": 0.2,
        "seed": 4002,
        "batch_size": 40,
    },
    f"--preset qrnn {WT103_LINE}": {**WT103, "clip": 0.2},
    f"--preset awd --model QRNN {WT103_LINE}": {**WT103, "clip": 0.25},
    "--preset awd --epochs 10 --optimizer adam": {
        **AWD,
        "epochs": 10,
        "optimizer": "adam",
        "lr": None,
    },
    "--cuda --epochs 6 --model Transformer --lr 5": {
        "epochs": 6,
        "model": "Transformer",
        "lr": 5.0,
        "nhead": 2,
    },
    "--model Transformer --nhead 4 --use-optimizer --lr 0.001": {
        "model": "Transformer",
        "nhead": 4,
        "optimizer": "adamw",
        "lr": 0.001,
    },
    # without the preset its options work on the plain model's defaults
    "--epochs 50 --alpha 0 --wdrop 0.2 --dropouth 0.1 --nonmono 5": {
        "epochs": 50,
        "wdrop": 0.2,
        "dropouth": 0.1,
        "nonmono": 5,
    },
}


def parsed(line):
    return vars(train.parser().parse_args(dashes(shlex.split(line))))


@pytest.mark.parametrize("line", SAME)
def test_means_the_same(line):
    assert train.settings(parsed(line)) == Config(**SAME[line])


def test_the_pruning_example_reads_its_schedule(tmp_path):
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text("- {sparsity: 0.7, begin: 2, end: 20, every: 1}")
    line = (
        f"--cuda --emsize 1500 --nhid 1500 --dropout 0.65 --tied --wd 1e-6 --compress '{schedule}'"
    )
    assert train.settings(parsed(line)) == Config(
        **LARGE, tied=True, wdecay=1e-6, compress="- {sparsity: 0.7, begin: 2, end: 20, every: 1}"
    )


def test_cuda_is_gpu_0_and_says_what_is_missing_without_one():
    with pytest.raises(UserError, match="--gpu 0"):
        train.main(["--cuda", "--epochs", "6"])


def test_underscores_and_dashes_are_the_same_but_values_are_left_alone():
    assert dashes(["--batch_size=3", "--save_path", "my_run", "-x_y"]) == [
        "--batch-size=3",
        "--save-path",
        "my_run",
        "-x_y",
    ]


def test_settings_survive_json():
    config = Config(when=(3, 5), tied=True, lr=None, data="somewhere")
    assert Config.from_json(config.to_json()) == config


def test_settings_of_another_version_are_refused():
    with pytest.raises(UserError, match="another version"):
        Config.from_json('{"warp": 9}')


ROOT = Path(__file__).parents[2]


def test_the_lines_of_the_awd_lstm_toolkit_are_presets():
    """With the toolkit's own names of the data sets, without its seeds."""
    lines = [
        line
        for line in SAME
        if "--preset" in line and "--save" in line and f"--preset qrnn {WT103_LINE}" != line
    ]
    presets = {name for name in PRESETS if name.startswith(("awd-", "qrnn"))}
    assert {config_of(line) for line in lines} == {
        config_of(f"--preset {name}") for name in presets
    }
    assert len(presets) == len(lines) == 7


def config_of(line):
    settings = train.settings(parsed(line))
    return replace(settings, data=known_name(Path(settings.data)), seed=0)


def test_the_guide_names_all_presets():
    recipes = (ROOT / "docs" / "guide" / "recipes.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in recipes] == []
