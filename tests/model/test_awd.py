"""What AWD-LSTM does to training: segments of random length, averaged weights (NT-ASGD),
finetuning."""

import json
import math
import os
import random
import shlex
import signal

import numpy as np
import pytest
from matplotlib.figure import Figure
from mxnet import gluon, nd

from gluonlm import evaluate as evaluate_command
from gluonlm import train
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import LAST, STATE_FORMAT, build_model, load_model
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.onnx.export import export_onnx
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.text.batches import get_batch, random_length, segments
from gluonlm.text.corpus import load_corpus
from gluonlm.text.ngrams import baselines
from gluonlm.training import result as training_result
from gluonlm.training.loop import Training, evaluate, seed_step, train_step
from gluonlm.training.optim import Average, Updater, stalled
from gluonlm.training.resume import save_training
from gluonlm.training.run import Run, draw_curve, read_log

SMALL = "--emsize 12 --nhid 16 --nlayers 2 --batch-size 4 --eval-batch-size 3 --bptt 8 --lr 3"


@pytest.fixture
def text(tmp_path):
    """A folder with a text in which each word all but tells the next."""
    draw, folder = random.Random(5), tmp_path / "text"
    folder.mkdir()
    for split, lines in (("train", 60), ("valid", 10), ("test", 10)):
        starts = [draw.randrange(30) for _ in range(lines)]
        sentences = [
            " ".join(f"w{(start + 7 * step) % 30}" for step in range(8)) for start in starts
        ]
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


def run(text, save, line="", resume=False):
    where = (
        f"--resume '{save}'" if resume else f"--preset awd --data '{text}' --save '{save}' {SMALL}"
    )
    return train.main([*shlex.split(where), *line.split()])


def state_of(folder):
    arrays, metadata = read_arrays(folder / LAST, STATE_FORMAT)
    progress = json.loads(metadata["progress"])
    return arrays, {
        name: value for name, value in progress.items() if name not in ("seconds", "log_bytes")
    }


def test_random_lengths_are_those_of_the_paper():
    lengths = np.array([random_length(70, 1, step) for step in range(4000)])
    assert lengths.min() >= 5
    assert lengths.max() == 80  # the cap
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=0.012)
    assert lengths[~short].mean() == pytest.approx(69.4, abs=0.5)  # int() takes half a step off
    assert lengths[short].mean() == pytest.approx(34.5, abs=1.5)
    assert lengths[~short].std() == pytest.approx(5, abs=0.5)
    assert [random_length(70, 1, step) for step in (5, 3)] == [
        lengths[5],
        lengths[3],
    ]  # whatever came before
    assert (
        random_length(70, 2, 5) != random_length(70, 1, 5) or random_length(70, 2, 6) != lengths[6]
    )
    assert {random_length(3, 1, step) for step in range(99)} <= set(range(5, 14))


@pytest.mark.parametrize("length", [None, lambda batch: random_length(10, 7, batch)])
def test_segments_cover_the_text_once(length):
    source = np.arange(2 * 101).reshape(101, 2)
    plan = segments(101, 10, length)
    data, target = (
        np.concatenate(parts)
        for parts in zip(*(get_batch(source, *one) for one in plan), strict=True)
    )
    np.testing.assert_array_equal(data, source[:-1])
    np.testing.assert_array_equal(target, source[1:])
    if length is None:
        assert plan == [(start, 10) for start in range(0, 100, 10)]


def test_a_longer_segment_takes_a_longer_step(text, tmp_path, monkeypatch):
    seen = []

    def noted(model, updater, data, target, states, lr, *rest):
        seen.append((len(data), lr))
        return train_step(model, updater, data, target, states, lr, *rest)

    monkeypatch.setattr("gluonlm.training.loop.train_step", noted)
    run(text, tmp_path / "run", "--epochs 2 --bptt 20")
    assert len({steps for steps, _ in seen}) > 3
    assert all(lr == pytest.approx(3 * steps / 20) for steps, lr in seen)
    half = len(seen) // 2
    assert [steps for steps, _ in seen[:half]] != [steps for steps, _ in seen[half:]]


@pytest.mark.parametrize(
    ("losses", "newest", "patience", "expected"),
    [
        ([5, 4, 3, 3, 3], 9, 5, False),  # not more than five yet
        ([5, 4, 3, 3, 3, 3], 5.1, 5, True),  # worse than the only one before the last five
        ([5, 4, 3, 3, 3, 3], 4.9, 5, False),  # losses[-5:], the wrong slice, would say True
        ([5, 4, 3, 2, 2, 2, 2], 4.1, 5, True),
        ([5, 4, 3, 2, 2, 2, 2], 4.0, 5, False),
        ([5], 4.9, 0, False),
        ([5], 5.1, 0, True),  # losses[:-0] is empty: it would never fire
        ([], 5, 0, False),
    ],
)
def test_trigger(losses, newest, patience, expected):
    assert stalled(losses, newest, patience) is expected


def test_average_is_that_of_an_independent_asgd():
    """SGD with weight decay and the mean of its iterates, in NumPy."""
    draw, weights, parameters = np.random.default_rng(0), {}, {}
    for name, shape in {"a": (7, 3), "b": (5,)}.items():
        weights[name] = draw.normal(size=shape)
        parameters[name] = gluon.Parameter(name, shape=shape)
        parameters[name].initialize()
        parameters[name].set_data(nd.array(weights[name]))
    updater, average = Updater(parameters, "sgd", wdecay=0.01), Average(parameters)
    means, iterates = {name: weight.copy() for name, weight in weights.items()}, []
    for step in range(200):
        gradients = {name: draw.normal(size=weight.shape) for name, weight in weights.items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        for name in weights:
            parameters[name].grad()[:] = nd.array(gradients[name])
            weights[name] -= 0.5 * (gradients[name] * min(1, 0.25 / norm) + 0.01 * weights[name])
            means[name] += (weights[name] - means[name]) / (step + 1)
        updater.step(lr=0.5, clip=0.25)
        average.update()
        iterates.append({name: weight.copy() for name, weight in weights.items()})
    for name in weights:
        np.testing.assert_allclose(parameters[name].data().asnumpy(), weights[name], atol=1e-5)
        np.testing.assert_allclose(average.arrays[name].asnumpy(), means[name], atol=1e-5)
        np.testing.assert_allclose(
            means[name], np.mean([one[name] for one in iterates], axis=0), atol=1e-12
        )
        raw = parameters[name].data().asnumpy()
        with average.in_place():
            np.testing.assert_array_equal(
                parameters[name].data().asnumpy(), average.arrays[name].asnumpy()
            )
        np.testing.assert_array_equal(parameters[name].data().asnumpy(), raw)


class Recorder:
    """Every iterate of a run, by a train_step that notes the weights it leaves; can interrupt at
    given steps."""

    def __init__(self, monkeypatch, interrupt_at=()):
        self.iterates, self.interrupt_at = [], interrupt_at
        monkeypatch.setattr("gluonlm.training.loop.train_step", self.step)

    def step(self, model, *rest):
        if len(self.iterates) in self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        result = train_step(model, *rest)
        self.iterates.append({name: p.data().asnumpy() for name, p in model.trainables().items()})
        return result


def stall_after(monkeypatch, epochs):
    """Let validation get worse from one epoch on (as far as the trigger sees)."""
    monkeypatch.setattr(
        "gluonlm.training.loop.stalled", lambda losses, newest, patience: len(losses) + 1 >= epochs
    )


def test_the_average_of_a_run_is_validated_and_saved_and_training_goes_on_with_the_raw_weights(
    text, tmp_path, monkeypatch, capsys
):
    recorder = Recorder(monkeypatch)
    stall_after(monkeypatch, 2)
    run(text, tmp_path / "run", "--epochs 4 --lr 1")
    arrays, progress = state_of(tmp_path / "run")
    since = progress["averaged_steps"]
    assert 0 < since < len(recorder.iterates) == progress["step"]
    assert "average of the weights" in capsys.readouterr().out
    for name, raw in recorder.iterates[-1].items():
        np.testing.assert_array_equal(arrays[f"weight.{name}"], raw)
        mean = np.mean([one[name] for one in recorder.iterates[-since:]], axis=0, dtype=np.float64)
        np.testing.assert_allclose(arrays[f"average.{name}"], mean, atol=1e-5)
    assert sum(name.startswith("average.") for name in arrays) == len(
        recorder.iterates[-1]
    )  # all, not only some

    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    last = [record for record in records if record["kind"] == "epoch"][-1]
    model, corpus = build_model(load_model(tmp_path / "run").config, 32), load_corpus(str(text))
    for name, parameter in model.trainables().items():
        parameter.set_data(nd.array(arrays[f"average.{name}"]))
    assert evaluate(model, corpus.valid, corpus.dictionary, 3) == pytest.approx(
        last["valid_loss"], rel=1e-6
    )
    if last["improved"]:
        saved = load_model(tmp_path / "run").model.trainables()
        for name, parameter in saved.items():
            np.testing.assert_array_equal(parameter.data().asnumpy(), arrays[f"average.{name}"])


@pytest.mark.parametrize(
    "begin", ["--preset awd --data '{text}' " + SMALL, "--finetune '{first}' --nonmono 9"]
)
def test_resumed_while_averaging_the_weights_are_the_same(begin, text, tmp_path, monkeypatch):
    run(text, tmp_path / "first", "--epochs 1")
    begin = shlex.split(
        f"{begin.format(text=text, first=tmp_path / 'first')} --epochs 3 --log-interval 5 --save"
    )
    if "--preset" in begin:
        stall_after(monkeypatch, 1)
    recorder = Recorder(monkeypatch)
    train.main([*begin, str(tmp_path / "whole")])
    steps = len(recorder.iterates)
    Recorder(monkeypatch, interrupt_at=(3, steps // 3 + 2, steps // 2, steps - 2))
    result, sessions = train.main([*begin, str(tmp_path / "parts")]), 1
    while not result.finished:
        result, sessions = run(text, tmp_path / "parts", resume=True), sessions + 1
    assert sessions == 5
    (arrays, progress), (others, progress_2) = (
        state_of(tmp_path / "whole"),
        state_of(tmp_path / "parts"),
    )
    assert progress == progress_2
    assert progress["averaged_steps"] > 0
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)


def test_the_trigger_itself_begins_the_averaging(text, tmp_path, capsys):
    """With the least patience, and a rate at which validation gets worse now and then: nothing is
    replaced here."""
    run(text, tmp_path / "run", "--epochs 9 --nonmono 0 --lr 20")
    losses = [record["valid_loss"] for record in read_log(tmp_path / "run" / "log.jsonl", "epoch")]
    fired = next(epoch for epoch in range(1, 9) if losses[epoch] > min(losses[:epoch]))
    _, progress = state_of(tmp_path / "run")
    assert 0 < fired < 8
    assert progress["averaged_steps"] > 0
    assert capsys.readouterr().out.count("from now on the average") == 1
    steps = [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl", "epoch")]
    assert progress["averaged_steps"] == steps[-1] - steps[fired]


def assert_never_averaged(folder):
    arrays, progress = state_of(folder)
    assert progress["averaged_steps"] == 0
    assert not any(array.startswith("average.") for array in arrays)


def test_a_trigger_that_never_fires_changes_nothing(text, tmp_path):
    run(text, tmp_path / "run", "--epochs 2 --nonmono 99")
    assert_never_averaged(tmp_path / "run")


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_only_the_weights_of_sgd_are_averaged(text, tmp_path, monkeypatch, optimizer):
    stall_after(monkeypatch, 1)
    run(text, tmp_path / "run", f"--epochs 2 --optimizer {optimizer} --lr 0.01")
    assert_never_averaged(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_best_model(
    text, tmp_path, monkeypatch
):
    """Also while weights are averaged: a mean with a NaN in it would never be a number again."""
    stall_after(monkeypatch, 1)
    recorder = Recorder(monkeypatch)
    real = recorder.step

    def spoiled(model, updater, *rest):
        result = real(model, updater, *rest)
        return (math.nan, result[1]) if len(recorder.iterates) > 60 else result

    monkeypatch.setattr("gluonlm.training.loop.train_step", spoiled)
    with pytest.raises(
        UserError, match=r"diverged in epoch \d+, step 61 .*the best model so far is in"
    ):
        run(text, tmp_path / "run", "--epochs 9")
    assert math.isfinite(evaluate_command.main([str(tmp_path / "run")]).loss)


def test_finetuning_starts_from_the_best_averages_at_once_and_stops_early(
    text, tmp_path, monkeypatch, capsys
):
    run(text, tmp_path / "first", "--epochs 3")
    first = load_model(tmp_path / "first")
    recorder = Recorder(monkeypatch)
    stall_after(monkeypatch, 2)
    result = train.main(
        shlex.split(
            f"--finetune '{tmp_path / 'first'}' --save '{tmp_path / 'second'}' --epochs 9 --lr 0.5"
        )
    )
    arrays, progress = state_of(tmp_path / "second")
    assert result.finished
    assert progress["done"]
    assert progress["epoch"] == 2
    assert progress["averaged_steps"] == len(recorder.iterates) == progress["step"]
    for name in recorder.iterates[0]:
        mean = np.mean([one[name] for one in recorder.iterates], axis=0, dtype=np.float64)
        np.testing.assert_allclose(arrays[f"average.{name}"], mean, atol=1e-5)
    config = load_model(tmp_path / "second").config
    assert (config.nhid, config.epochs, config.lr) == (first.config.nhid, 9, 0.5)
    again = run(text, tmp_path / "second", resume=True)  # it is done: nothing left but to evaluate
    assert again.test_loss == result.test_loss
    assert "validation has stalled: finetuning ends here" in capsys.readouterr().out
    with pytest.raises(
        UserError,
        match="was over when validation stalled: leave out --epochs, or --finetune it anew",
    ):
        train.main(["--resume", str(tmp_path / "second"), "--epochs", "50"])
    assert load_model(tmp_path / "second").config.epochs == 9


def test_finetuning_reads_other_text_as_the_model_does(text, tmp_path):
    """A model of characters reads characters, whatever its data set is usually read as."""
    (tmp_path / "my.txt").write_text((text / "train.txt").read_text())
    run(text, tmp_path / "first", "--level char --epochs 1")
    where = f"--finetune '{tmp_path / 'first'}' --data '{tmp_path / 'my.txt'}'"
    train.main(shlex.split(f"{where} --save '{tmp_path / 'second'}' --epochs 1"))
    assert load_model(tmp_path / "second").level == "char"


@pytest.mark.parametrize(("more", "seed"), [("", 1112), ("--seed 5", 5)])
def test_finetuning_draws_other_random_numbers_than_the_run_before(
    more, seed, text, tmp_path, monkeypatch
):
    """With the same ones each segment would meet its old dropout masks, which the model has been
    fitted to."""
    drawn = []

    def noted(seed, step):
        seed_step(seed, step)
        drawn.append((np.random.random(), float(nd.random.uniform().asscalar())))

    monkeypatch.setattr("gluonlm.training.loop.seed_step", noted)
    run(text, tmp_path / "first", "--epochs 1 --no-random-bptt")
    steps = len(drawn)
    train.main(
        shlex.split(
            f"--finetune '{tmp_path / 'first'}' --save '{tmp_path / 'second'}' --epochs 1 {more}"
        )
    )
    assert len(drawn) == 2 * steps
    assert len({number for pair in drawn for number in pair}) == 4 * steps
    assert load_model(tmp_path / "second").config.seed == seed


@pytest.mark.parametrize("begin", ["--preset awd --data '{text}' " + SMALL, "--finetune '{first}'"])
def test_a_rate_that_falls_to_0_averages_nothing_and_is_waited_for(
    begin, text, tmp_path, monkeypatch
):
    """Even where validation stalls at once."""
    run(text, tmp_path / "first", "--epochs 1")
    stall_after(monkeypatch, 1)
    options = begin.format(text=text, first=tmp_path / "first")
    assert train.main(
        shlex.split(f"{options} --save '{tmp_path / 'second'}' --epochs 3 --schedule linear")
    ).finished
    _, progress = state_of(tmp_path / "second")
    assert (progress["epoch"], progress["done"]) == (3, False)
    assert_never_averaged(tmp_path / "second")


@pytest.mark.parametrize(
    ("more", "rate"), [("", 3.0), ("--optimizer adam", 1e-3), ("--optimizer adam --lr 0.1", 0.1)]
)
def test_finetuning_with_another_optimizer_takes_its_usual_rate(more, rate, text, tmp_path):
    run(text, tmp_path / "first", "--epochs 1 --max-batches 2")
    given = vars(
        train.parser().parse_args(shlex.split(f"--finetune '{tmp_path / 'first'}' {more}"))
    )
    assert train.settings(given).learning_rate == rate


def test_finetuning_never_ends_with_a_worse_model_than_it_began_with(text, tmp_path, monkeypatch):
    first = run(text, tmp_path / "first", "--epochs 3")
    result = train.main(
        shlex.split(
            f"--finetune '{tmp_path / 'first'}' --save '{tmp_path / 'second'}' --epochs 1 --lr 500"
        )
    )
    assert result.valid_loss <= first.valid_loss + 1e-9
    if result.best_epoch == 0:
        assert result.test_loss == first.test_loss


def test_a_finetuned_run_has_a_best_model_from_the_beginning(text, tmp_path, capsys, monkeypatch):
    """That of the run before: exported if no epoch is better, named if training diverges."""
    pytest.importorskip("onnxruntime")
    run(text, tmp_path / "first", "--epochs 3")
    finetune = f"--finetune '{tmp_path / 'first'}' --save '{{}}' --epochs 1 --clip 0 --lr".format
    export = ["200", "--onnx-export", str(tmp_path / "model.onnx")]
    assert train.main([*shlex.split(finetune(tmp_path / "second")), *export]).best_epoch == 0
    assert evaluate_command.main(["--onnx", str(tmp_path / "model.onnx")]).loss == pytest.approx(
        evaluate_command.main([str(tmp_path / "first")]).loss, rel=1e-5
    )
    monkeypatch.setattr("gluonlm.training.loop.train_step", lambda *_: (math.nan, None))
    with pytest.raises(
        UserError, match=r"diverged in epoch 1, step 1 .*the best model so far is in"
    ):
        train.main([*shlex.split(finetune(tmp_path / "third")), "1"])


@pytest.mark.parametrize("line", ["--nhid 30", "--preset awd", "--no-tied", "--model GRU"])
def test_finetuning_keeps_the_model_as_it_is(text, tmp_path, line):
    run(text, tmp_path / "first", "--epochs 1 --max-batches 2")
    with pytest.raises(UserError, match=r"--finetune .* leave out --"):
        train.main(shlex.split(f"--finetune '{tmp_path / 'first'}' {line}"))


def test_a_checkpoint_that_knows_fewer_settings_resumes(text, tmp_path):
    """A setting that is new has its default, in which the run was trained."""
    run_folder = tmp_path / "run"
    config = Config(data=str(text), emsize=8, nhid=8, batch_size=4, bptt=8, epochs=1)
    run_of_then = Run.new(run_folder)
    run_of_then.begin(config, "")
    whole = Training(build_model(config, 32), load_corpus(str(text)), config, run_of_then)
    whole.progress.batch = whole.progress.step = 3
    save_training(whole)
    arrays, metadata = read_arrays(run_folder / LAST, STATE_FORMAT)
    progress = json.loads(metadata["progress"])
    old = {"epoch", "batch", "step", "loss_sum", "tokens", "seconds", "best_loss", "best_epoch"}
    progress = {name: progress[name] for name in {*old, "log_bytes"}}
    metadata = {**metadata, "progress": json.dumps(progress)}
    write_arrays(run_folder / LAST, STATE_FORMAT, arrays, metadata)
    run_of_then.close()
    settings = json.loads((run_folder / "config.json").read_text())
    known = {
        "command",
        "best",
        "data",
        "model",
        "emsize",
        "nhid",
        "dropout",
        "batch_size",
        "bptt",
        "epochs",
    }
    (run_folder / "config.json").write_text(json.dumps({name: settings[name] for name in known}))
    assert run(text, run_folder, resume=True).finished
    assert state_of(run_folder)[1]["step"] == len(segments(len(whole.source), 8))


def test_presets_rate_is_for_its_optimizer_only():
    assert resolve("awd", {}).learning_rate == 30
    assert resolve("awd", {"optimizer": "sgd"}).learning_rate == 30
    assert resolve("awd", {"optimizer": "adam"}).learning_rate == 1e-3
    assert resolve("awd", {"optimizer": "adam", "lr": 0.5}).learning_rate == 0.5


def test_characters_are_trained_and_evaluated_in_bits(text, tmp_path, capsys):
    line = (
        f"--preset awd --data '{text}' --level char --save '{tmp_path / 'run'}' {SMALL} --epochs 2"
    )
    result = train.main(
        [
            *shlex.split(line),
            *["--optimizer", "adam", "--lr", "0.01", "--when", "1", "--alpha", "0", "--beta", "0"],
        ]
    )
    captured = capsys.readouterr()
    bits = result.test_loss / math.log(2)
    assert f"test bits per character {bits:.4f}" in captured.out
    assert "perplexity" not in captured.out
    assert "valid bpc" in captured.out
    recorded = json.loads((tmp_path / "run" / "result.json").read_text())
    assert recorded["test_bits_per_character"] == pytest.approx(bits)
    assert math.log2(recorded["baselines"]["uniform"]) > recorded["test_bits_per_character"]
    score = evaluate_command.main([str(tmp_path / "run"), "--record", str(tmp_path / "score.json")])
    assert score.bits == pytest.approx(bits, rel=1e-6)  # in one column, as the preset tests
    assert f"bits per character {bits:.4f}" in capsys.readouterr().out
    assert json.loads((tmp_path / "score.json").read_text())["bits_per_character"] == score.bits


def test_the_curve_of_characters_is_in_bits():
    axes, losses = Figure().subplots(), (3.0, 2.0)
    records = [
        {"step": step, "loss": loss, "valid_loss": loss} for step, loss in enumerate(losses, 1)
    ]
    draw_curve(axes, records, records, "char")
    assert axes.get_ylabel() == "bits per character"
    for line in axes.lines:
        assert line.get_ydata().tolist() == pytest.approx([loss / math.log(2) for loss in losses])
    assert [text.get_text() for text in axes.texts] == ["2.89"]
    words = Figure().subplots()
    draw_curve(words, records, records)
    assert words.get_ylabel() == "perplexity"
    assert words.lines[1].get_ydata().tolist() == pytest.approx([math.exp(loss) for loss in losses])


def test_baselines_count_the_beginning_of_a_long_text(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training_result, "COUNTED", 50)
    run(text, tmp_path / "run", "--epochs 1 --max-batches 2")
    assert "for comparison (of the first 50 tokens): uniform 32.0, " in capsys.readouterr().out
    corpus, recorded = (
        load_corpus(str(text)),
        json.loads((tmp_path / "run" / "result.json").read_text()),
    )
    assert recorded["baselines"] == baselines(corpus.train[:50], corpus.test, 32)
    assert recorded["baselines"] != baselines(corpus.train, corpus.test, 32)
    assert recorded["baselines_of_tokens"] == 50


def test_an_awd_model_is_exported_and_generates(text, tmp_path):
    pytest.importorskip("onnxruntime")
    run(text, tmp_path / "run", "--epochs 1 --nlayers 3")
    trained = load_model(tmp_path / "run")
    assert export_onnx(trained, tmp_path / "model.onnx").difference < 1e-4
    predictor, inputs = Predictor(trained.model), np.arange(6).reshape(3, 2)
    logits, _ = predictor.predict(inputs, predictor.begin_state(2))
    expected = trained.model(nd.array(inputs), trained.model.begin_state(2))[0].asnumpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
