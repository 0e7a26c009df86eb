"""Train a recurrent language model.

python -m gluonlm.train --tiny                       # the tutorial in seconds
python -m gluonlm.train --gpu 0                      # the tutorial at full size
python -m gluonlm.train --preset austen              # the bundled corpus on a CPU
python -m gluonlm.train --data ptb --tied --epochs 6
python -m gluonlm.train --preset awd-ptb             # AWD-LSTM as published
python -m gluonlm.train --finetune runs/NAME         # its second run, from the best model
python -m gluonlm.train --finetune runs/NAME --prune 0.8     # the same, without 80 % of the weights
python -m gluonlm.train --resume runs/NAME           # go on after Ctrl-C, a crash or a power cut

A setting of the run is a field of :class:`gluonlm.config.Config` and becomes an option by itself.
"""

import argparse
import math
import shlex
import sys
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mxnet as mx

from gluonlm.cli import Parser, add_options, at_least, interpreter, run
from gluonlm.compress.schedule_file import read_schedule
from gluonlm.config import Config, option
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.scoring import named, per_unit, units_shown
from gluonlm.model.checkpoint import load_model
from gluonlm.model.precision import check_precision
from gluonlm.onnx.export import export_onnx
from gluonlm.parallel.agreement import check_equal
from gluonlm.parallel.group import KVSTORES, join
from gluonlm.presets import describe, listed, on_top, resolve
from gluonlm.prune import report
from gluonlm.system.errors import UserError, require
from gluonlm.system.files import check_output
from gluonlm.system.gpu import contexts
from gluonlm.system.streams import counted, printable, safe_display
from gluonlm.text.corpus import load_corpus
from gluonlm.text.locate import located
from gluonlm.text.vocabulary import Limits
from gluonlm.training.fit import prepare
from gluonlm.training.loop import Training
from gluonlm.training.result import Result, baselines_of, compared, record
from gluonlm.training.resume import MOVABLE, load_training
from gluonlm.training.run import ReadOnlyRun, Run
from gluonlm.training.session import Group, Session

FEW_STEPS = 200  # of a whole run, below which a model learns little more than counts of words
WATCHING = ("log_interval", "checkpoint_seconds", "tensorboard", "kvstore")  # a Session's
RESUME_OPTIONS = ("resume", "gpu", "cuda", "onnx_export", *WATCHING)
NO_SETTINGS = (*RESUME_OPTIONS, "preset", "save", "dry_run")
STRUCTURE = (  # what a finetuned model has already
    *("preset", "level", "vocab_size", "min_count", "model", "emsize", "nhid", "nlayers"),
    *("window", "nhead", "memory", "splits", "adaptive", "tied", "narrow", "embeddings"),
)


def parser() -> Parser:
    """The command line: one option per setting of Config, and the options of a run."""
    parser = Parser("train", __doc__, argument_default=argparse.SUPPRESS)
    groups = add_options(parser)
    add = groups["run"].add_argument
    preset = groups["run"].add_mutually_exclusive_group().add_argument
    known = f"settings to start from, with recorded test perplexities: {listed()}"
    preset("--preset", help=f"{known} (default: word-lm)")
    same = {"action": "store_const", "help": "the same as --preset tiny"}
    preset("--tiny", dest="preset", const="tiny", **same)
    add("--describe", action="store_true", help="say what the preset sets and reaches; no training")
    place = "folder of the run (default: a new one in runs/), or file for the best model"
    add("--save", "--save-path", metavar="PATH", help=place)
    words = "go on with this run (to --epochs, with its text now in --data)"
    add("--resume", type=Path, metavar="RUN", help=words)
    words = "batches between two log records (default: 200)"
    add("--log-interval", type=at_least(1), help=words)
    words = "work at risk in a crash (default: 60)"
    add("--checkpoint-seconds", type=at_least(0.0), help=words)
    add("--tensorboard", action="store_true", help="write the log as TensorBoard's events, too")
    add("--onnx-export", metavar="PATH", help="write the best model as an ONNX file in the end")
    add("--dry-run", action="store_true", help="one batch and one epoch, to see that all works")
    same = {"action": "store_const", "help": "the same as --optimizer adamw"}
    add = groups["optimization"].add_argument
    add("--use-optimizer", dest="optimizer", const="adamw", **same)
    add = parser.add_argument_group("workers").add_argument
    add("--gpu", help="GPU numbers such as 0 or 0,1; without --preset the tutorial's full size")
    add("--cuda", "--accel", action="store_true", help="use GPU 0")
    stores = "how gradients are summed over devices, or workers of gluonlm.launch or horovodrun"
    add("--kvstore", choices=KVSTORES, help=f"{stores} (default: device)")
    return parser


def settings(given: dict[str, Any]) -> Config:
    """The run's settings from what was given on the command line."""
    values = {name: value for name, value in given.items() if name not in NO_SETTINGS}
    if values.get("compress"):  # the settings hold the schedule itself: they outlive the file
        values["compress"] = read_schedule(values["compress"])
    if given.get("dry_run"):
        values |= {"epochs": 1, "max_batches": 1}
    if values.get("finetune"):
        return finetune_settings(given, values)
    preset = given.get("preset", "tutorial" if given.get("gpu") else "word-lm")
    if preset == "small-text" and "data" not in given:
        raise UserError("--preset small-text is for a text of your own: name it with --data")
    return resolve(preset, values)


def finetune_settings(given: dict[str, Any], values: dict[str, Any]) -> Config:
    """The settings of the finetuned run with the given ones on top; its zeros stay zero.

    The random numbers are others: step by step the old ones would bring back the dropout masks of
    the first run, with the same words under them, which the model has been fitted to already.
    """
    first = load_model(values["finetune"]).config
    again = {"seed": (first.seed + 1) % 2**32, "prune": None, "compress": None, "embeddings": None}
    own = {**asdict(first), **again}
    other = [name for name in STRUCTURE if name in given and given[name] != own.get(name)]
    if other:
        raise UserError(f"--finetune takes the model as it is: leave out {option(other[0])}")
    return on_top(own, values)


def as_finetune_py(given: dict[str, Any]) -> dict[str, Any]:
    """``--finetune`` without a run: of the model in ``--save``, into PTB-finetuned beside it."""
    if "save" not in given:
        raise UserError("--finetune: name the run to finetune, or its model file with --save")
    file = Path(given["save"])
    return given | {"finetune": given["save"], "save": file.with_stem(f"{file.stem}-finetuned")}


def default_folder(config: Config) -> Path:
    """A new name under runs/ that says when and what."""
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    data = Path(config.data).stem.replace(".", "-")
    return Path("runs") / f"{moment}-{data}-{config.model.lower()}"


def open_run(given: dict[str, Any], group: Group) -> tuple[Run, Config]:
    """The run to work in, and its settings: with ``--resume`` its own. Rank 0 has the files."""
    if "resume" not in given:
        config = settings(given)
        config = replace(config, data=located(config.data))  # found from any folder later
        folder = given.get("save") or default_folder(config)
        if group.rank:
            return ReadOnlyRun(Path(folder)), config
        if group.world_size > 1:  # nothing is left behind if the workers differ
            return Run.new(folder, claim=False), config
        return (Run.new if given.get("save") else Run.next_free)(folder), config
    extra = set(given) - {*RESUME_OPTIONS, *MOVABLE}
    if extra:
        raise UserError(f"--resume takes the run's own settings: leave out {option(min(extra))}")
    run, config = (ReadOnlyRun(given["resume"]), None) if group.rank else Run.open(given["resume"])
    config = Config.from_json(group.all_gather_object("run", config and config.to_json())[0])
    return run, config


def main(argv: list[str]) -> Result | None:
    """Train as the command line says, then evaluate the best model and show what it writes; None on
    all workers but the one that writes, and where nothing is trained."""
    given = vars(parser().parse_args(argv))
    if given.get("finetune") == "":
        given = as_finetune_py(given)
    if given.get("describe"):
        print(describe(given.get("preset", "word-lm")))
        return None
    check(given)
    devices = contexts(given.get("gpu", "0" if given.get("cuda") else None))
    with safe_display(), join(given.get("kvstore", "device")) as group:
        options = {name: given[name] for name in WATCHING if name in given}
        session = Session(devices, group=group, **options)
        run, begun = open_run(given, group)
        with run:
            training = begin(run, begun, session, given, argv)
            announce(training)
            if begun.finetune and not training.progress.step:
                training.validate()  # the best so far is what the run starts from
            finished = training.fit()
            if group.rank == 0:
                return finish(training, finished, given.get("onnx_export"))
    return None


def check(given: dict[str, Any]) -> None:
    """Say before hours of training, and not after it, what an option cannot have."""
    if given.get("tensorboard"):
        require("tensorboard", "tensorboardX")
    if given.get("onnx_export"):
        require("onnx", "onnx", "onnxruntime")
        check_output(Path(given["onnx_export"]))
    if given.get("kvstore") == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
        raise UserError("--kvstore nccl: this mxnet is built without NCCL; leave the option out")


def check_inherited(config: Config, session: Session, given: dict[str, Any]) -> None:
    """Where this device cannot compute as the run that it shall go on with, a UserError with what
    to do: the user has given no option that could be left out."""
    source = given.get("resume") or given.get("finetune")
    if source and "precision" not in given:
        how = "add" if "finetune" in given else f"start from its best model, --finetune {source}"
        advice = f"{source} was trained with it: {how} --precision float32"
        check_precision(config.precision, session.contexts[0].device_type == "gpu", advice)


def begin(
    run: Run, begun: Config, session: Session, given: dict[str, Any], argv: list[str]
) -> Training:
    """A training that stands where it shall go on, its run's files written or read."""
    config = begun
    if "resume" in given:
        moved = {"data": located(given["data"])} if "data" in given else {}
        config = replace(begun, epochs=given.get("epochs", begun.epochs), **moved)
    check_inherited(config, session, given)
    run.check_resumable()
    group = session.group
    stopped = group.all_gather_object("checkpoint", run.last.exists())[0]  # with a state
    origin = None
    if config.finetune:  # a run that has begun has the model it began with, or a better one
        origin = load_model(run.best if stopped and run.best.exists() else config.finetune)
    level, dictionary = (origin.level, origin.dictionary) if origin else (config.level, None)
    limits = Limits(config.vocab_size, config.min_count)
    corpus = load_corpus(config.data, level, dictionary, limits)
    check_equal(group, config, corpus, len(session.contexts), session.kvstore)
    if run.lock is None:
        run.claim()
        run.check_new()
    # the state has the weights and their masks, not the best model, which may be older or younger
    training = prepare(config, corpus, run, session, None if stopped else origin)
    command = shlex.join(["python", "-m", "gluonlm.train", *argv])
    if not stopped:
        training.begin(command)
        return training
    load_training(training)
    if training.progress.done and "epochs" in given:
        advice = "leave out --epochs, or --finetune it anew"
        raise UserError(f"{run.folder} was over when validation stalled: {advice}")
    if config != begun:
        run.begin(config, command)
    return training


def announce(training: Training) -> None:
    """Say what is going to be trained on what."""
    corpus, config = training.corpus, training.config
    layers = f"{counted(config.nlayers, 'layer')} of {counted(config.nhid, 'unit')}"
    size = training.group.world_size
    workers = f" of each of {size} workers" if size > 1 else ""
    print(
        f"{corpus.name}: {len(corpus.train)} training tokens, vocabulary {len(corpus.dictionary)}\n"
        f"{config.model}: {layers}, {training.parameter_count} parameters, "
        f"on {', '.join(map(str, training.contexts))}{workers}\n"
        f"run: {training.run.folder}",
        flush=True,
    )
    progress, steps = training.progress, len(training.plan_epoch()) * config.epochs
    if progress.done or progress.epoch >= config.epochs:
        more = "" if progress.done else ": --epochs N goes on to epoch N"
        print(f"training is complete, at epoch {progress.epoch} of {config.epochs}{more}")
    elif steps < FEW_STEPS and not (progress.step or config.max_batches):
        cure = "a smaller --batch-size or more --epochs would use the text better"
        print(f"this run has only {counted(steps, 'step')}: {cure}", file=sys.stderr)


def finish(training: Training, finished: bool, onnx: str | None) -> Result:
    """Evaluate the best model on the test split; what is written is written before it is shown."""
    run, corpus, progress = training.run, training.corpus, training.progress
    config, ctx = training.config, training.contexts[0]
    validated = math.isfinite(progress.best_loss)
    model = load_model(run.best, [ctx]).model if validated else training.model
    whole = LanguageModel(Predictor(model, ctx), corpus.dictionary, config, corpus.level, run.best)
    test_loss = whole.evaluate(corpus.test)
    valid_loss = progress.best_loss if validated else None
    result = Result(finished, progress.best_epoch + 1, valid_loss, test_loss, run.folder)
    trivial = baselines_of(corpus)
    if finished:
        run.write_result(record(training, result, trivial))
    exported = export_onnx(load_model(run.best), Path(onnx)) if onnx and validated else None
    if not validated:
        print("no epoch was finished: this is the model as it stands")
    units = per_unit(corpus.dictionary, "test", test_loss * len(corpus.test))
    others = units_shown(units, test_loss)
    print(f"test loss {test_loss:.4f} | test {named(test_loss, corpus.level)}{others}")
    print(compared(corpus, trivial))
    if training.pruner.kept:
        print(report(model))
    words = 60 if corpus.level == "word" else 300
    sample = whole.generate(words=words, temperature=0.8, seed=config.seed)
    print(f"--- a sample\n{printable(sample).strip()}\n---")
    if not finished:
        several = training.group.world_size > 1
        how = "with as many workers and" if several else f"with: {interpreter()} -m gluonlm.train"
        print(f"stopped; go on {how} --resume {shlex.quote(str(run.folder))}")
    if exported:
        print(exported.report)
    if finished and validated:
        print(f"write with it: {interpreter()} -m gluonlm.generate {shlex.quote(str(run.folder))}")
    return result


if __name__ == "__main__":
    run(main)
