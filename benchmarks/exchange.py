"""Models to real PyTorch and back: how far logits and the next step of plain SGD are apart.

    python benchmarks/exchange.py --torch-python /path/to/a/python/that/has/torch

For each kind of layer that PyTorch's word-level example has: a model of 200 units and 10,000 words
is written with ``gluonlm.model.exchange``, loaded there by ``load_state_dict``, and stepped; what
PyTorch saves comes back and is compared with the step made here. Records results/exchange.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gluonlm.cli import run
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import Trained, build_model
from gluonlm.model.exchange import export_torch, import_torch
from gluonlm.model.weights import named_arrays
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.vocabulary import EOS, Dictionary
from gluonlm.training.loop import train_step
from gluonlm.training.optim import Updater

import mxnet as mx  # isort: skip  after gluonlm, which makes it fast

V, LR = 10_000, 1.0
SIDE = Path(__file__).parents[1] / "tests" / "fixtures" / "make_torch.py"


def differences(mode: str, tied: bool, python: str, folder: Path) -> dict[str, float]:
    """The largest difference of a logit, of the loss, and of a weight after the step."""
    mx.random.seed(1)
    config = Config(model=mode, tied=tied, dropout=0.0)
    words = Dictionary([EOS, *(f"w{number}" for number in range(1, V))])
    trained = Trained(build_model(config, V), words, config, "word", folder)
    there, numbers, back = (folder / name for name in ("a.safetensors", "n.npz", "b.safetensors"))
    export_torch(trained, there)
    command = [python, str(SIDE), str(there), str(numbers), str(tied), mode]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"{python} has no torch and safetensors: install them there") from None
    theirs = dict(np.load(numbers))
    save_file({n[5:]: array for n, array in theirs.items() if n.startswith("step/")}, back)
    predictor = Predictor(trained.model)
    inputs, targets = theirs["inputs"], theirs["targets"]
    state = predictor.begin_state(inputs.shape[1])
    logits, _ = predictor.predict(inputs, state)
    updater = Updater(trained.model.trainables(), "sgd", 0.0)
    loss, _ = train_step(trained.model, updater, inputs, targets, [state], LR, clip=0)
    stepped = named_arrays(import_torch(back, words, {"model": mode}).model)
    ours = named_arrays(trained.model)
    return {
        "logits": float(np.abs(logits - theirs["logits"]).max()),
        "loss": abs(loss - float(theirs["loss"])),
        "step": max(float(np.abs(ours[name] - stepped[name]).max()) for name in ours),
    }


def main(argv: list[str]) -> dict:
    """Compare all kinds, print and record."""
    parser = argparse.ArgumentParser(description="Models to PyTorch and back, compared.")
    parser.add_argument("--torch-python", default=sys.executable, help="a python that has torch")
    parser.add_argument("--out", type=Path, default=RESULTS / "exchange.json")
    options = parser.parse_args(argv)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("LSTM", "GRU", "RNN_TANH", "RNN_RELU"):
            for tied in (True, False):
                name = f"{mode}, {'tied' if tied else 'free'}"
                figures[name] = differences(mode, tied, options.torch_python, Path(folder))
                print(name, figures[name], flush=True)
    command = ["python", "benchmarks/exchange.py"]
    result = record(options.out, command, largest_differences=figures)
    print(json.dumps(result["largest_differences"], indent=1))
    return result


if __name__ == "__main__":
    run(main)
