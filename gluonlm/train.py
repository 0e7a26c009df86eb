"""Train a recurrent language model.

python -m gluonlm.train --tiny                       # the tutorial in seconds
python -m gluonlm.train --gpu 0                      # the tutorial at full size
python -m gluonlm.train --preset austen              # the bundled corpus on a CPU
python -m gluonlm.train --data ptb --tied --epochs 6
python -m gluonlm.train --preset awd --data ptb --batch-size 20 --dropouti 0.4 --dropouth 0.25 --epochs 500
python -m gluonlm.train --finetune runs/NAME         # a second run of AWD-LSTM, from the best model of the first
python -m gluonlm.train --finetune runs/NAME --prune 0.8    # the same, of a model that loses 80 % of its weights
python -m gluonlm.train --resume runs/NAME           # go on after Ctrl-C, a crash or a power cut
"""

import argparse
import math
import shlex
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from gluonlm.cli import Parser, contexts, run
from gluonlm.compress.schedule import read_schedule
from gluonlm.config import MODEL_SETTINGS, Config, add_options, on_top, option
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, generate
from gluonlm.model.checkpoint import build_model, load_model
from gluonlm.model.precision import check_precision
from gluonlm.model.rnn import RNNModel
from gluonlm.onnx.export import check_exportable, export_onnx
from gluonlm.onnx.session import require
from gluonlm.parallel.agreement import check_equal
from gluonlm.parallel.group import KVSTORES, join
from gluonlm.presets import PRESETS, describe, resolve
from gluonlm.prune import report
from gluonlm.system.errors import UserError
from gluonlm.system.machine import machine_record
from gluonlm.system.streams import printable
from gluonlm.text.corpus import Corpus, Limits, load_corpus
from gluonlm.text.detokenize import to_text
from gluonlm.text.locate import located
from gluonlm.text.ngrams import baselines
from gluonlm.training.group import Group
from gluonlm.training.loop import Training, evaluate
from gluonlm.training.progress import bits, named, units_shown
from gluonlm.training.resume import load_training
from gluonlm.training.run import Onlooker, Run

RESUME_OPTIONS = (
    "resume",
    "gpu",
    "cuda",
    "log_interval",
    "checkpoint_seconds",
    "onnx_export",
    "kvstore",
)
NO_SETTINGS = (*RESUME_OPTIONS, "preset", "tiny", "save", "dry_run", "use_optimizer")
STRUCTURE = (
    "preset",
    "tiny",
    "level",
    "vocab_size",
    "min_count",
    *MODEL_SETTINGS,
)  # what a finetuned model has already
COUNTED = 10_000_000  # training tokens that the baselines read: 650 MB of counts, some ten seconds


@dataclass(frozen=True)
class Result:
    """What a run ended with."""

    finished: bool  # False when it was stopped before its last epoch
    best_epoch: int  # from 1; 0 when no epoch was finished, or none was better than what a finetuned run began with
    valid_loss: float | None  # nats per token, None when there is no best model
    test_loss: float
    folder: Path

    @property
    def test_perplexity(self) -> float:
        """exp of the test loss."""
        return math.exp(self.test_loss)


def parser() -> Parser:
    """The command line: one option per setting of Config, and the options of a run."""
    parser = Parser(
        prog="python -m gluonlm.train",
        description="Train a recurrent language model.",
        argument_default=argparse.SUPPRESS,
    )
    groups = add_options(parser)
    add = groups["run"].add_argument
    add("--preset", help=f"settings to start from: {', '.join(PRESETS)} (default: word-lm)")
    add("--describe", action="store_true", help="say what the preset sets and reaches; no training")
    add("--tiny", action="store_true", help="the same as --preset tiny, on the CPU")
    place = "folder of the run (default: a new one in runs/), or file for the best model"
    add("--save", "--save-path", metavar="PATH", help=place)
    add("--resume", type=Path, metavar="RUN", help="go on with this run (to --epochs)")
    add("--log-interval", type=int, help="batches between two log records (default: 200)")
    add("--checkpoint-seconds", type=float, help="work at risk in a crash (default: 60)")
    add("--onnx-export", metavar="PATH", help="write the best model as an ONNX file in the end")
    add("--dry-run", action="store_true", help="one batch and one epoch, to see that all works")
    groups["optimization"].add_argument(
        "--use-optimizer", action="store_true", help="the same as --optimizer adamw"
    )
    add = parser.add_argument_group("workers").add_argument
    add("--gpu", help="GPU numbers such as 0 or 0,1; without --preset the tutorial's full size")
    add("--cuda", "--accel", action="store_true", help="use GPU 0")
    stores = "how gradients are summed: over the devices here, or over the workers of gluonlm.launch or horovodrun"
    add("--kvstore", choices=KVSTORES, help=f"{stores} (default: device)")
    return parser


def settings(given: dict[str, Any]) -> Config:
    """The run's settings from what was given on the command line."""
    values = {name: value for name, value in given.items() if name not in NO_SETTINGS}
    if given.get("use_optimizer"):
        values.setdefault("optimizer", "adamw")
    if values.get("compress"):  # the settings hold the schedule itself: they outlive the file
        values["compress"] = read_schedule(values["compress"])
    if given.get("dry_run"):
        values |= {"epochs": 1, "max_batches": 1}
    if values.get("finetune"):
        fixed = [name for name in STRUCTURE if name in given]
        if fixed:
            raise UserError(f"--finetune takes the model as it is: leave out {option(fixed[0])}")
        return finetune_settings(values)
    if given.get("tiny") and "preset" in given:
        raise UserError("--tiny is a preset itself: leave out --preset or --tiny")
    default = "tiny" if given.get("tiny") else "tutorial" if given.get("gpu") else "word-lm"
    return resolve(given.get("preset", default), values)


def finetune_settings(values: dict[str, Any]) -> Config:
    """The settings of the run that is finetuned with the given ones on top; what it pruned stays pruned.

    The random numbers are others: step by step the old ones would bring back the dropout masks of the first run, with
    the same words under them, which the model has been fitted to already.
    """
    first = load_model(values["finetune"]).config
    again = {"seed": (first.seed + 1) % 2**32, "prune": None, "compress": None}
    return on_top({**asdict(first), **again}, values)


def default_folder(config: Config) -> Path:
    """A new name under runs/ that says when and what."""
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    data = Path(config.data).stem.replace(".", "-")  # what follows a dot would make it a file
    return Path("runs") / f"{moment}-{data}-{config.model.lower()}"


def open_run(given: dict[str, Any], group: Group) -> tuple[Run, Config]:
    """The run to work in: a new one, or with ``--resume`` an old one with its own settings. Worker 0 has the files."""
    for name, least in (("log_interval", 1), ("checkpoint_seconds", 0)):
        if not given.get(name, 1) >= least:
            raise UserError(f"{option(name)} {given[name]}: must be at least {least}")
    if "resume" not in given:
        config = settings(given)
        config = replace(config, data=located(config.data))  # found from any folder later
        folder = given.get("save") or default_folder(config)
        return (Onlooker(Path(folder)) if group.rank else Run.new(folder)), config
    extra = set(given) - {*RESUME_OPTIONS, "epochs"}
    if extra:
        raise UserError(
            f"--resume goes on with the run's own settings: leave out {option(min(extra))}"
        )
    run, config = (Onlooker(given["resume"]), None) if group.rank else Run.open(given["resume"])
    config = Config.from_json(group.all_gather_object("run", config and config.to_json())[0])
    return run, config


def main(argv: list[str]) -> Result | None:
    """Train as the command line says, then evaluate the best model and show what it writes.

    :return: None on all workers but the one that writes, and where nothing is trained.
    """
    given = vars(parser().parse_args(argv))
    if given.get("describe"):
        print(describe(given.get("preset", "word-lm")))
        return None
    if given.get("onnx_export"):
        require("onnx", "onnxruntime")
    devices = contexts(given.get("gpu", "0" if given.get("cuda") else None))
    if given.get("kvstore") == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
        raise UserError(
            "--kvstore nccl: the installed mxnet is built without NCCL; leave the option out"
        )
    with join(given.get("kvstore", "device")) as group:
        run, begun = open_run(given, group)
        config = (
            replace(begun, epochs=given["epochs"]) if {"resume", "epochs"} <= set(given) else begun
        )
        training = prepare(run, config, devices, given, group)
        if given.get("onnx_export"):
            check_exportable(config)  # told before hours of training, not after
        if "resume" not in given or config != begun:
            run.begin(config, shlex.join(["python", "-m", "gluonlm.train", *argv]))
        announce(training)
        if config.finetune and not training.progress.step:
            training.validate()  # the best so far is what the run starts from
        finished = training.fit()
        return conclude(training, finished, given.get("onnx_export")) if group.rank == 0 else None


def prepare(
    run: Run, config: Config, devices: list, given: dict[str, Any], group: Group
) -> Training:
    """Everything that must be there before the first step."""
    origin = None
    if config.finetune:  # a run that has begun has the model it began with, or a better one
        origin = load_model(run.best if run.best.exists() else config.finetune)
    level, dictionary = (origin.level, origin.dictionary) if origin else (config.level, None)
    limits = Limits(config.vocab_size, config.min_count)
    corpus = load_corpus(config.data, level, dictionary, limits)
    check_precision(config.precision, devices[0].device_type == "gpu")
    check_equal(group, config, corpus, len(devices), given.get("kvstore", "device"))
    np.random.seed(config.seed)
    mx.random.seed(config.seed)
    model = build_model(config, len(corpus.dictionary), devices)
    if origin:
        for name, parameter in origin.model.trainables().items():
            model.trainables()[name].set_data(parameter.data())
    options = {
        name: given[name]
        for name in ("log_interval", "checkpoint_seconds", "kvstore")
        if name in given
    }
    training = Training(model, corpus, config, run, devices, **options, group=group)
    if "resume" in given and group.all_gather_object("checkpoint", run.last.exists())[0]:
        load_training(training)
        if training.progress.done and "epochs" in given:
            raise UserError(
                f"{run.folder} was over when validation stalled: leave out --epochs, or --finetune it anew"
            )
    elif origin:
        training.pruner.keep_zeros(origin.pruned)
    return training


def conclude(training: Training, finished: bool, onnx: str | None) -> Result:
    """Evaluate and export the best model; say how to go on if the run is not finished."""
    result, run = finish(training, finished), training.run
    if not finished:
        several = training.group.world_size > 1
        how = "with as many workers and" if several else "with: python -m gluonlm.train"
        print(f"stopped; go on {how} --resume {shlex.quote(str(run.folder))}")
    if (
        onnx and result.valid_loss is not None
    ):  # a finetuned run has a best model before its first epoch
        print(export_onnx(load_model(run.best), Path(onnx)).report)
    return result


def announce(training: Training) -> None:
    """Say what is going to be trained on what."""
    corpus, config = training.corpus, training.config
    layers = "1 layer" if config.nlayers == 1 else f"{config.nlayers} layers"
    workers = (
        f" of each of {training.group.world_size} workers" if training.group.world_size > 1 else ""
    )
    print(
        f"{corpus.name}: {len(corpus.train)} training tokens, vocabulary {len(corpus.dictionary)}\n"
        f"{config.model}: {layers} of {config.nhid} units, {training.parameter_count} parameters, "
        f"on {', '.join(map(str, training.contexts))}{workers}\n"
        f"run: {training.run.folder}",
        flush=True,
    )


def finish(training: Training, finished: bool) -> Result:
    """Evaluate the best model on the test split, print it beside the baselines with a sample, write result.json."""
    run, corpus, progress = training.run, training.corpus, training.progress
    ctx = training.contexts[0]
    validated, model = math.isfinite(progress.best_loss), training.model
    if validated:
        model = load_model(run.best, [ctx]).model
    else:
        print("no epoch was finished: this is the model as it stands")
    columns = training.config.test_batch_size or training.config.eval_batch_size
    test_loss = evaluate(model, corpus.test, corpus.dictionary, columns, ctx)
    result = Result(
        finished,
        progress.best_epoch + 1,
        progress.best_loss if validated else None,
        test_loss,
        run.folder,
    )
    units = corpus.dictionary.per_unit("test", test_loss * len(corpus.test))
    print(f"test loss {test_loss:.4f} | test {named(test_loss, corpus.level)}{units_shown(units)}")
    trivial = compare(corpus)
    if training.pruner.kept:
        print(report(model))
    print(f"--- a sample\n{sample(model, corpus, training.config.seed, ctx).strip()}\n---")
    if finished:
        pruned = {"sparsity": training.pruner.sparsity} if training.pruner.kept else {}
        characters = {f"test_{name}": value for name, value in units.items()}
        if corpus.level == "char":
            characters |= {
                "test_bits_per_character": bits(test_loss),
                "valid_bits_per_character": bits(progress.best_loss),
            }
        run.write_result(
            {
                **characters,
                **pruned,
                "test_perplexity": result.test_perplexity,
                "test_loss": test_loss,
                "valid_perplexity": math.exp(progress.best_loss),
                "best_epoch": result.best_epoch,
                "parameters": training.parameter_count,
                "epochs": progress.epoch,
                "seconds": progress.seconds,
                "baselines": trivial,
                "baselines_of_tokens": min(COUNTED, len(corpus.train)),
                "machine": machine_record(),
            }
        )
    return result


def compare(corpus: Corpus) -> dict[str, float]:
    """Print what the baselines reach on the test text; returns their perplexities.

    They count a part of a very long training text only: all of enwik8 would take them gigabytes.
    """
    counted = corpus.train[:COUNTED]
    trivial = baselines(counted, corpus.test, len(corpus.dictionary))
    others = (
        f"{name} {math.log2(value):.4f}" if corpus.level == "char" else f"{name} {value:.1f}"
        for name, value in trivial.items()
    )
    part = f" (of the first {COUNTED:,} tokens)" if len(counted) < len(corpus.train) else ""
    print(f"for comparison{part}: {', '.join(others)}")
    return trivial


def sample(model: RNNModel, corpus: Corpus, seed: int, ctx: mx.Context) -> str:
    """A few lines of what the model writes, without ``<unk>``."""
    unknown = corpus.dictionary.unk_id
    strategy = Strategy(temperature=0.8, forbidden=() if unknown is None else (unknown,))
    length = 60 if corpus.level == "word" else 300
    (ids,) = generate(Predictor(model, ctx), corpus.dictionary, (), length, strategy, seed)
    return printable(to_text(corpus.dictionary.decode(ids), corpus.level))


if __name__ == "__main__":
    run(main)
