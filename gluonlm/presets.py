"""Settings under a name: ``--preset NAME`` puts them under what else is given."""

from typing import Any

from gluonlm.config import Config, on_top
from gluonlm.system.errors import UserError

AWD = {
    "emsize": 400,
    "nhid": 1150,
    "nlayers": 3,
    "tied": True,
    "narrow": True,
    "adaptive": True,
    "dropout": 0.4,
    "dropouti": 0.65,
    "dropouth": 0.3,
    "locked": True,
    "dropoute": 0.1,
    "wdrop": 0.5,
    "alpha": 2.0,
    "beta": 1.0,
    "lr": 30.0,
    "schedule": "constant",
    "wdecay": 1.2e-6,
    "nonmono": 5,
    "epochs": 750,
    "batch_size": 80,
    "test_batch_size": 1,
    "bptt": 70,
    "random_bptt": True,
}

# AWD-QRNN as published for Penn Treebank
QRNN = {
    **AWD,
    "model": "QRNN",
    "nhid": 1550,
    "nlayers": 4,
    "dropouti": 0.4,
    "wdrop": 0.1,
    "clip": 0.2,
    "epochs": 550,
    "batch_size": 20,
}

# what the toolkit's recipes for Adam have in common
AWD_ADAM = {
    **AWD,
    "optimizer": "adam",
    "lr": 1e-3,
    "alpha": 0.0,
    "beta": 0.0,
    "dropouti": 0.1,
    "dropoute": 0.0,
}

FAST_CPU = {"tied": True, "schedule": "linear", "softmax_samples": 1000, "epochs": 6}

PRESETS: dict[str, dict[str, Any]] = {
    # the PyTorch word-level example
    "word-lm": {},
    # the MXNet Gluon tutorial, full and tiny
    "tutorial": {
        "emsize": 650,
        "nhid": 650,
        "dropout": 0.5,
        "batch_size": 32,
        "restore_best": True,
    },
    "tiny": {
        "emsize": 32,
        "nhid": 32,
        "nlayers": 1,
        "batch_size": 16,
        "bptt": 10,
        "max_batches": 20,
        "epochs": 1,
    },
    # the tied LSTM trained with Adam and a plateau schedule
    "adam-tied": {
        "emsize": 650,
        "nhid": 650,
        "dropout": 0.5,
        "optimizer": "adam",
        "wdecay": 1e-5,
        "clip": 5.0,
        "bptt": 30,
        "lr_factor": 0.5,
        "lr_patience": 2,
        "lr_threshold": 1e-4,
    },
    # AWD-LSTM with the defaults of its toolkit, AWD-QRNN, and the toolkit's recipes for single data sets
    "awd": AWD,
    "awd-ptb": {
        **AWD,
        "data": "ptb",
        "dropouti": 0.4,
        "dropouth": 0.25,
        "batch_size": 20,
        "epochs": 500,
    },
    "awd-wikitext-2": {**AWD, "data": "wikitext-2", "dropouth": 0.2},
    "awd-ptb-char": {
        **AWD_ADAM,
        "data": "ptb-char",
        "emsize": 200,
        "nhid": 1000,
        "dropout": 0.1,
        "dropouth": 0.25,
        "lr": 2e-3,
        "when": (300, 400),
        "epochs": 500,
        "batch_size": 128,
        "bptt": 150,
    },
    "awd-enwik8": {
        **AWD_ADAM,
        "data": "enwik8",
        "nhid": 1840,
        "dropouth": 0.1,
        "wdrop": 0.2,
        "when": (25, 35),
        "epochs": 50,
        "batch_size": 128,
        "bptt": 200,
    },
    "qrnn": QRNN,
    "qrnn-wikitext-2": {
        **QRNN,
        "data": "wikitext-2",
        "dropouth": 0.2,
        "clip": 0.25,
        "epochs": 500,
        "batch_size": 40,
    },
    "qrnn-wikitext-103": {
        **AWD_ADAM,
        "data": "wikitext-103",
        "model": "QRNN",
        "nhid": 2500,
        "nlayers": 4,
        "dropout": 0.1,
        "dropouth": 0.1,
        "wdecay": 0.0,
        "when": (12,),
        "epochs": 14,
        "batch_size": 60,
        "bptt": 140,
    },
    # the word-level example's quality in less time: a sampled softmax, and a learning rate that falls to 0
    "fast-cpu": FAST_CPU,
    # what `make train` runs: the bundled corpus in minutes on two cores
    "austen": {**FAST_CPU, "data": "austen", "dropout": 0.3, "epochs": 10},
}


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """The preset's settings with the given ones on top.

    :raises UserError: for an unknown preset or a setting out of range.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return on_top(PRESETS[preset], given)
