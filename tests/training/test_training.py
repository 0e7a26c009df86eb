"""Training: it learns, stops, resumes exactly, survives kill -9, and equals itself over several
devices."""

import json
import math
import os
import random
import signal
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from gluonlm import train
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import LAST, STATE_FORMAT, build_model, load_model
from gluonlm.model.softmax import SampledSoftmax, decoder_loss
from gluonlm.model.storage import read_arrays
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Dictionary, load_corpus
from gluonlm.training import loop as training
from gluonlm.training.fit import changes_few_rows, prepare
from gluonlm.training.loop import evaluate, train_step
from gluonlm.training.optim import Updater
from gluonlm.training.run import Run
from gluonlm.training.session import Group, Session
from gluonlm.training.step import Objective

WORDS = [f"w{number}" for number in range(30)]
SMALL = [
    "--emsize",
    "12",
    "--nhid",
    "12",
    "--batch-size",
    "4",
    "--bptt",
    "5",
    "--dropout",
    "0.3",
    "--lr",
    "2",
]


@pytest.fixture
def text(tmp_path):
    """A folder with a text in which each word all but tells the next."""
    random_words = random.Random(5)
    folder = tmp_path / "text"
    folder.mkdir()
    for split, lines in (("train", 120), ("valid", 20), ("test", 20)):
        sentences = []
        for _ in range(lines):
            start = random_words.randrange(30)
            sentences.append(" ".join(WORDS[(start + 7 * step) % 30] for step in range(8)))
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


def run(text, save, *more, resume=False):
    where = (
        ["--resume", str(save)] if resume else ["--data", str(text), "--save", str(save), *SMALL]
    )
    return train.main([*where, *more])


def weights(folder):
    arrays, metadata = read_arrays(folder / LAST, STATE_FORMAT)
    progress = json.loads(metadata["progress"])
    return arrays, {
        name: value for name, value in progress.items() if name not in ("seconds", "log_bytes")
    }


def assert_same(folder, other):
    (arrays, progress), (others, progress_2) = weights(folder), weights(other)
    assert progress == progress_2
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)


def test_a_small_corpus_is_learned_by_heart(text, tmp_path):
    more = [
        "--dropout",
        "0",
        "--optimizer",
        "adam",
        "--lr",
        "0.02",
        "--emsize",
        "24",
        "--nhid",
        "24",
    ]
    result = run(text, tmp_path / "run", "--epochs", "12", *more)
    assert result.finished
    # of nine tokens the first is one of 30, the rest follow from it: exp(ln 30 / 9) = 1.46 is the
    # best there is
    assert 1.46 <= result.test_perplexity < 2.5


@pytest.mark.parametrize(
    "more",
    [
        ["--optimizer", "adam", "--lr", "0.01", "--wd", "0.001"],
        [],
        ["--softmax-samples", "9", "--schedule", "linear"],
    ],
)
def test_resumed_from_any_point_the_weights_are_the_same(text, tmp_path, monkeypatch, more):
    run(text, tmp_path / "whole", "--epochs", "3", *more)
    steps = 0

    def counted(*arguments):
        nonlocal steps
        steps += 1
        if steps in (3, 60, 77, 110):
            os.kill(os.getpid(), signal.SIGTERM if steps == 60 else signal.SIGINT)
        return train_step(*arguments)

    monkeypatch.setattr("gluonlm.training.loop.train_step", counted)
    result = run(text, tmp_path / "parts", "--epochs", "3", *more)
    sessions = 1
    while not result.finished:
        result = run(text, tmp_path / "parts", resume=True)
        sessions += 1
    assert sessions == 5
    assert_same(tmp_path / "whole", tmp_path / "parts")
    logs = [
        [json.loads(line) for line in (tmp_path / one / "log.jsonl").open()]
        for one in ("whole", "parts")
    ]
    epochs = [
        [(r["epoch"], r["valid_loss"], r["step"]) for r in log if r["kind"] == "epoch"]
        for log in logs
    ]
    assert epochs[0] == epochs[1]


def test_a_finished_run_goes_on_to_more_epochs(text, tmp_path):
    run(text, tmp_path / "whole", "--epochs", "3")
    run(text, tmp_path / "more", "--epochs", "2")
    assert run(text, tmp_path / "more", "--epochs", "3", resume=True).finished
    assert_same(tmp_path / "whole", tmp_path / "more")
    whole, more = (
        json.loads((tmp_path / one / "config.json").read_text()) for one in ("whole", "more")
    )
    first, second = more.pop("command").split("; ")  # a record of the run tells all that was typed
    assert first.endswith("--epochs 2")
    assert second == f"python -m gluonlm.train --resume {tmp_path / 'more'} --epochs 3"
    assert more == {key: value for key, value in whole.items() if key != "command"}


KILLED = """
import os, sys, threading, time
from gluonlm import train
from gluonlm.training import loop
last, share, step, began = int(sys.argv[1]), float(sys.argv[2]), loop.train_step, []
def counted(*arguments):
    began.append(time.monotonic())
    if len(began) == last:
        rest = share * (began[-1] - began[-2])
        threading.Timer(rest, os.kill, (os.getpid(), 9)).start()
    return step(*arguments)
loop.train_step = counted
train.main(sys.argv[3:])
"""


def test_kill_9_at_random_moments_loses_nothing_but_time(text, tmp_path):
    """Somewhere in a step or while it is saved, counted in steps: machines differ in speed."""
    run(text, tmp_path / "whole", "--epochs", "4")
    killed, moments = str(tmp_path / "killed"), random.Random(7)
    where = ["--data", str(text), "--save", killed, *SMALL, "--epochs", "4"]
    for last in (*(moments.randrange(2, 50) for _ in range(4)), 0):
        moment = [str(last), str(moments.random())]
        command = [sys.executable, "-c", KILLED, *moment, "--checkpoint-seconds", "0", *where]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == (-signal.SIGKILL if last else 0), ended.stderr
        where = ["--resume", killed]
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_evaluates_the_best_model_and_says_how_to_resume(text, tmp_path, monkeypatch, capfd):
    steps = 0

    def interrupted(*arguments):
        nonlocal steps
        steps += 1
        if steps == 70:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(*arguments)

    monkeypatch.setattr("gluonlm.training.loop.train_step", interrupted)
    result = run(text, tmp_path / "run", "--epochs", "5")
    output, told = capfd.readouterr()
    assert told.count("stopping after this step, then evaluating") == 1
    assert not result.finished
    assert result.best_epoch == 1
    assert math.isfinite(result.test_loss)
    assert f"--resume {tmp_path / 'run'}" in output
    assert "test perplexity" in output


@pytest.mark.parametrize("penalties", [(0, 0), (2, 1)])
def test_two_devices_make_the_weights_of_one(penalties):
    config = Config(emsize=8, nhid=8, dropout=0.0, tied=True)
    generator = np.random.default_rng(0)
    segments = generator.integers(20, size=(3, 2, 5, 4))  # three times data and target (T, N)

    def trained(contexts):
        mx.random.seed(1)
        model = build_model(config, 20, contexts)
        source = build_model(config, 20)
        generator = np.random.default_rng(1)
        for name, parameter in model.trainables().items():
            parameter.set_data(
                mx.nd.array(generator.uniform(-0.3, 0.3, source.trainables()[name].shape))
            )
        updater = Updater(model.trainables(), "sgd", 0.01)
        states = [model.begin_state(4 // len(contexts), ctx) for ctx in contexts]
        losses = []
        for data, target in segments:
            loss, states = train_step(
                model, updater, data, target, states, 1.0, 0.25, Objective(decoder_loss, *penalties)
            )
            losses.append(loss)
        assert all(
            (p.data(contexts[0]).asnumpy() == p.data(contexts[-1]).asnumpy()).all()
            for p in model.trainables().values()
        )
        return losses, {
            name: p.data(contexts[0]).asnumpy() for name, p in model.trainables().items()
        }

    losses_1, weights_1 = trained([mx.cpu(0)])
    losses_2, weights_2 = trained([mx.cpu(0), mx.cpu(1)])
    assert losses_2 == pytest.approx(losses_1, rel=1e-5)
    for name in weights_1:
        np.testing.assert_allclose(
            weights_2[name], weights_1[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("settings", [{"tied": True, "softmax_samples": 6}, {}])
def test_a_gradient_of_rows_makes_the_weights_of_a_whole_one(settings):
    """Words that are seen twice, drawn, or neither, and dropped ones."""
    config = Config(emsize=8, nhid=8, dropout=0.3, dropoute=0.2, **settings)
    segments = np.random.default_rng(0).integers(20, size=(3, 2, 5, 4))  # data and target (T, N)
    loss_of = SampledSoftmax(np.ones(30), 6) if config.softmax_samples else decoder_loss
    results = []
    for sparse in (False, True):
        mx.random.seed(1)
        np.random.seed(1)
        model = build_model(config, 30, sparse=sparse)
        first = {name: p.data().asnumpy() for name, p in model.trainables().items()}
        updater, states = Updater(model.trainables(), "sgd", 0.0), [model.begin_state(4)]
        losses = []
        for segment in segments:
            how = 1.0, 0.25, Objective(loss_of)
            loss, states = train_step(model, updater, *segment, states, *how)
            losses.append(loss)
        results.append((losses, {n: p.data().asnumpy() for n, p in model.trainables().items()}))
    gradient = model.body.encoder.weight.grad()
    assert gradient.stype == "row_sparse"
    assert len(gradient.indices) < 30
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for name, weights in results[0][1].items():
        assert (weights != first[name]).any()
        np.testing.assert_allclose(results[1][1][name], weights, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("sparse", "settings"),
    [
        (True, {"preset": "fast-cpu"}),
        (True, {}),
        (False, {"tied": True}),
        (False, {"preset": "fast-cpu", "wdecay": 1e-6}),
        (False, {"optimizer": "adam"}),
        (False, {"prune": 0.5}),
        (False, {"preset": "fast-cpu", "finetune": "runs/pruned"}),
    ],
)
def test_only_a_step_that_leaves_most_rows_alone_has_a_gradient_of_rows(sparse, settings):
    config = resolve(settings.pop("preset", "word-lm"), settings)
    assert changes_few_rows(config) is sparse


def test_training_has_a_gradient_of_rows_on_one_device_only(text, tmp_path):
    """The sums over devices and workers, and be it one that was launched, take whole matrices."""
    corpus, config = load_corpus(str(text)), Config(emsize=8, nhid=8, batch_size=4)
    several, launched = Session([mx.cpu(0), mx.cpu(1)]), Session(group=Group())
    for session, kind in ((Session(), "row_sparse"), (several, "default"), (launched, "default")):
        made = prepare(config, corpus, Run(tmp_path / kind), session)
        assert made.model.body.encoder.weight.list_grad()[0].stype == kind


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"contexts": mx.cpu()}, "must be a list of devices"),
        ({"contexts": []}, "must be a list of devices"),
        ({"contexts": [mx.cpu(1), mx.cpu(1)]}, "named twice"),  # would train silently wrong
        ({"log_interval": 0}, "at least 1 batch"),
    ],
)
def test_impossible_sessions_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        Session(**settings)


def test_weight_drop_on_two_devices_learns_the_raw_weights_of_both():
    """Each device draws a mask of its own; what they then have in common are the raw weights."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    model = build_model(Config(emsize=8, nhid=8, dropout=0.0, tied=True, wdrop=0.5), 20, contexts)
    before = {name: p.data(contexts[0]).asnumpy() for name, p in model.trainables().items()}
    data, target = np.random.default_rng(0).integers(20, size=(2, 5, 4))  # (T, N)
    states = [model.begin_state(2, ctx) for ctx in contexts]
    train_step(model, Updater(model.trainables(), "sgd", 0.0), data, target, states, 1.0, 0.25)
    for name, parameter in model.trainables().items():
        weights, others = (parameter.data(ctx).asnumpy() for ctx in contexts)
        np.testing.assert_array_equal(weights, others)
        assert (weights != before[name]).any()
    layer = model.body.layers[0]
    for gradient in (
        layer.parts(layer.weights.grad(ctx))["h2h_weight"].asnumpy() for ctx in contexts
    ):
        assert (
            0.1 < (gradient == 0).mean() < 0.4
        )  # a sum over the devices: 0 where both dropped the weight, a quarter


def test_an_untrained_uniform_model_has_perplexity_v():
    model = build_model(Config(emsize=8, nhid=8), 30)
    model.decoder.weight.set_data(mx.nd.zeros((30, 8)))
    ids = np.random.default_rng(0).integers(30, size=503).astype(np.int32)
    dictionary = Dictionary.from_counts({"<eos>": 5, "<unk>": 2, **dict.fromkeys(WORDS[:28], 1)})
    assert math.exp(evaluate(model, ids, dictionary, 10)) == pytest.approx(30, rel=1e-5)


def test_evaluation_does_not_depend_on_segments_and_barely_on_columns(text, tmp_path, monkeypatch):
    run(text, tmp_path / "run", "--epochs", "1")
    trained = load_model(tmp_path / "run")
    ids = np.random.default_rng(0).integers(30, size=400).astype(np.int32)
    whole = evaluate(trained.model, ids, trained.dictionary, 1)
    monkeypatch.setattr(Predictor, "steps", 13)
    assert evaluate(trained.model, ids, trained.dictionary, 1) == pytest.approx(whole, rel=1e-5)
    assert evaluate(trained.model, ids, trained.dictionary, 5) == pytest.approx(whole, rel=0.02)


def test_a_loaded_model_takes_no_memory_for_gradients(text, tmp_path):
    run(text, tmp_path / "run", "--epochs", "1")
    for parameter in load_model(tmp_path / "run").model.trainables().values():
        with pytest.raises(RuntimeError, match="grad_req='null'"):
            parameter.grad()


def test_divergence_is_said_and_the_best_model_kept(text, tmp_path):
    run(text, tmp_path / "fine", "--epochs", "1")
    with pytest.raises(UserError, match=r"diverged in epoch \d+, step \d+ .*lower --lr"):
        run(
            text,
            tmp_path / "bad",
            "--lr",
            "1e30",
            "--clip",
            "0",
            "--model",
            "RNN_RELU",
            "--epochs",
            "9",
        )


def test_a_finished_run_is_never_overwritten(text, tmp_path):
    run(text, tmp_path / "run", "--epochs", "1")
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    with pytest.raises(UserError, match="--resume"):
        run(text, tmp_path / "run", "--epochs", "1")
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_save_with_a_suffix_is_the_models_file(text, tmp_path):
    run(text, tmp_path / "PTB.pt", "--epochs", "1")
    assert load_model(tmp_path / "PTB.pt").config.nhid == 12
    assert (tmp_path / "PTB" / "log.jsonl").exists()
    assert load_model(tmp_path / "PTB").path == tmp_path / "PTB.pt"  # the run knows where it is
    assert run(
        text, tmp_path / "PTB", resume=True
    ).finished  # a finished run: nothing left but to evaluate


def test_a_name_with_dots(text, tmp_path):
    """Of a text, it makes a folder like others; of a folder that is there, it is the folder."""
    assert train.default_folder(resolve("word-lm", {"data": "my.novel.txt"})).suffix == ""
    (tmp_path / "tmp.XYZ").mkdir()
    run(text, tmp_path / "tmp.XYZ", "--epochs", "1")
    assert (tmp_path / "tmp.XYZ" / "best.safetensors").exists()


def test_a_result_goes_when_its_run_goes_on(text, tmp_path):
    """Or what is recorded would be settings of one run and the result of another."""
    run(text, tmp_path / "run", "--epochs", "1")
    finished = tmp_path / "run" / "result.json"
    assert finished.exists()
    there = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "fit", lambda self: there.append(finished.exists()))
        train.main(["--resume", str(tmp_path / "run"), "--epochs", "5"])
    assert there == [False]
    assert not finished.exists()


@pytest.mark.usefixtures("_curves")
def test_the_folder_of_a_run(text, tmp_path):
    result = run(text, tmp_path / "run", "--epochs", "2")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json",
        "log.jsonl",
        "curve.png",
        "best.safetensors",
        "last.safetensors",
        "result.json",
    }
    recorded = json.loads((tmp_path / "run" / "result.json").read_text())
    assert recorded["test_perplexity"] == pytest.approx(result.test_perplexity)
    assert recorded["baselines"]["uniform"] == 32  # 30 words, <eos>, <unk>


def test_lr_falls_and_the_best_weights_come_back(text, tmp_path):
    """With restore_best, an epoch that makes things worse leaves no trace but the smaller learning
    rate."""
    result = run(
        text, tmp_path / "run", "--epochs", "4", "--restore-best", "--lr-threshold", "0.99"
    )
    best = load_model(tmp_path / "run").model.trainables()
    arrays, _ = weights(tmp_path / "run")
    assert result.best_epoch >= 1
    if result.best_epoch < 4:
        for name, parameter in best.items():
            np.testing.assert_array_equal(arrays[f"weight.{name}"], parameter.data().asnumpy())
