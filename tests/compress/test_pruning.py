"""Pruning: the schedule's formula, masks that nothing undoes, sparse files, and the commands."""

import json
import math
import os
import shlex
import signal

import mxnet as mx
import numpy as np
import pytest

from gluonlm import evaluate, prune, quantize, train
from gluonlm.compress.pruning import (
    Pruner,
    Rule,
    match,
    prunable,
    usual_rule,
    values,
    without_smallest,
)
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import BEST, LAST, MODEL_FORMAT, STATE_FORMAT, build_model, load_model
from gluonlm.model.storage import read_arrays
from gluonlm.system.errors import UserError
from gluonlm.training.loop import train_step
from gluonlm.training.optim import Average, Updater

TINY = {"emsize": 6, "nhid": 6, "dropout": 0.0}
V = 30


def tiny_model(**settings):
    np.random.seed(3)
    mx.random.seed(3)
    return build_model(Config(**{**TINY, **settings}), V)


def zeros(model):
    return {
        name: int((values(model, tensor) == 0).sum()) for name, tensor in prunable(model).items()
    }


# --- the schedule


def test_the_curve_is_the_formula():
    rule = Rule(("*",), final=0.8, initial=0.05, begin=2, every=0.5, steps=12)
    assert rule.end == 8
    assert rule.sparsity(1.99) == 0
    for k in range(13):
        expected = 0.8 + (0.05 - 0.8) * (1 - k * 0.5 / (12 * 0.5)) ** 3
        assert rule.sparsity(2 + 0.5 * k) == pytest.approx(expected, abs=1e-15)
        assert rule.sparsity(2 + 0.5 * k + 0.49) == rule.sparsity(
            2 + 0.5 * k
        )  # constant in between
    assert rule.sparsity(100) == 0.8


def test_the_curve_by_hand():
    rule = Rule(("*",), final=0.9, initial=0.1, begin=0, every=1, steps=2)
    assert [round(rule.sparsity(t), 12) for t in (0, 1, 2)] == [
        0.1,
        0.8,
        0.9,
    ]  # 0.9 - 0.8 / 8 = 0.8


def test_no_step_is_missed_to_rounding():
    rule = usual_rule(0.7, 3, trained=False)  # steps of 0.06 epochs
    reached = [rule.sparsity(rule.begin + k * rule.every) for k in range(21)]
    assert len(set(reached)) == 21
    assert (reached[0], reached[-1]) == (pytest.approx(0.05), 0.7)
    assert usual_rule(0.7, 3, trained=True).begin == 0


def test_at_once():
    rule = Rule(("*",), 0.5, begin=1)
    assert [rule.sparsity(t) for t in (0.99, 1, 7)] == [0, 0.5, 0.5]


# --- tensors and masks


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_the_matrices_of_a_layer_are_found_in_its_flat_vector(mode):
    model = tiny_model(model=mode, emsize=5, nhid=6)
    tensors = prunable(model)
    layers = [f"layers.{index}.{part}_weight" for index in (0, 1) for part in ("i2h", "h2h")]
    assert list(tensors) == ["encoder.weight", *layers, "decoder.weight"]
    for index, layer in enumerate(model.body.layers):
        for part, matrix in layer.parts(layer.weights.data()).items():
            if part.endswith("weight"):
                np.testing.assert_array_equal(
                    values(model, tensors[f"layers.{index}.{part}"]), matrix.asnumpy()
                )


def test_a_shared_matrix_is_one_tensor():
    assert "decoder.weight" not in prunable(tiny_model(tied=True))
    assert "projection.weight" in prunable(tiny_model(tied=True, emsize=4))


def test_the_smallest_go_first_and_never_come_back():
    weights = np.array([[0.1, -0.5, 0.3], [-0.2, 0.0, 0.9]])
    mask = without_smallest(weights, np.ones((2, 3), bool), 2)
    assert mask.tolist() == [[False, True, True], [True, False, True]]
    weights = np.array(
        [[7.0, -0.5, 0.3], [-0.2, 7.0, 0.9]]
    )  # what is pruned stays pruned, whatever stands there
    assert without_smallest(weights, mask, 3).tolist() == [
        [False, True, True],
        [False, False, True],
    ]


def test_each_tensor_loses_its_share():
    model = tiny_model()
    pruner = Pruner(model, Updater(model.trainables(), "sgd", 0.0))
    before = {name: values(model, tensor) for name, tensor in prunable(model).items()}
    biases = model.body.layers[0].parts(model.body.layers[0].weights.data())["i2h_bias"].asnumpy()
    assert pruner.prune({"layers.0.h2h_weight": 0.5, "encoder.weight": 0.25})
    assert zeros(model) == {
        **dict.fromkeys(before, 0),
        "layers.0.h2h_weight": 72,
        "encoder.weight": 45,
    }
    after = values(model, prunable(model)["layers.0.h2h_weight"])
    assert (
        np.abs(before["layers.0.h2h_weight"][after == 0]).max() <= np.abs(after[after != 0]).min()
    )
    np.testing.assert_array_equal(after[after != 0], before["layers.0.h2h_weight"][after != 0])
    parts = model.body.layers[0].parts(model.body.layers[0].weights.data())
    np.testing.assert_array_equal(parts["i2h_bias"].asnumpy(), biases)
    assert not pruner.prune({"encoder.weight": 0.1})  # less than there is
    assert pruner.pruned == 72 + 45
    assert pruner.sparsity == pytest.approx(
        (72 + 45) / sum(t.size for t in prunable(model).values())
    )


def test_rules_must_fit_the_model():
    tensors = prunable(tiny_model(tied=True))
    whole, encoder = Rule(("*",), 0.5), Rule(("encoder.weight",), 0.9)
    assert match((whole,), tensors) == dict.fromkeys(tensors, whole)
    with pytest.raises(UserError, match=r"two rules .* encoder.weight"):
        match((whole, encoder), tensors)
    with pytest.raises(UserError, match=r"no tensor decoder.weight .* layers.0.i2h_weight"):
        match((Rule(("decoder.weight",), 0.5),), tensors)


# --- training


def step(model, updater, clip=1e9, lr=0.5):
    data = np.random.RandomState(0).randint(0, V, (5, 2))
    return train_step(model, updater, data[:-1], data[1:], [model.begin_state(2)], lr, clip)


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("sgd", {"tied": True, "wdecay": 0.01}),
        ("adam", {"wdrop": 0.5}),
        ("adamw", {"wdecay": 0.1, "locked": True}),
    ],
)
def test_no_update_moves_a_pruned_weight(mode, optimizer, more):
    wdecay = more.get("wdecay", 0.0)
    model = tiny_model(model=mode, **more)
    updater = Updater(model.trainables(), optimizer, wdecay)
    for _ in range(2):
        step(model, updater)  # so that Adam remembers something of all weights
    pruner = Pruner(model, updater)
    pruner.prune(dict.fromkeys(prunable(model), 0.6))
    masks = {name: values(model, tensor) != 0 for name, tensor in prunable(model).items()}
    before = {name: values(model, tensor) for name, tensor in prunable(model).items()}
    for _ in range(3):
        step(model, updater)
    for name, tensor in prunable(model).items():
        after = values(model, tensor)
        np.testing.assert_array_equal(after != 0, masks[name])
        assert (after != before[name]).any()


def test_gradients_of_pruned_weights_do_not_count_for_clipping():
    model = tiny_model()
    updater = Updater(model.trainables(), "sgd", 0.0)
    step(model, updater, lr=0.0)
    whole = math.sqrt(
        sum(float((p.grad() ** 2).sum().asscalar()) for p in model.trainables().values())
    )
    for parameter in model.trainables():
        updater.set_mask(parameter, mx.nd.zeros(model.trainables()[parameter].shape))
    assert whole > 0
    assert updater.step(0.0, 0.25) == 0


def test_masks_are_on_all_devices():
    contexts = [mx.cpu(0), mx.cpu(1)]
    model = build_model(Config(**TINY), V, contexts)
    updater = Updater(model.trainables(), "adam", 0.0)
    Pruner(model, updater).prune({"encoder.weight": 0.5})
    data = np.random.RandomState(0).randint(0, V, (5, 2))
    train_step(
        model,
        updater,
        data[:-1],
        data[1:],
        [model.begin_state(1, ctx) for ctx in contexts],
        0.1,
        0.25,
    )
    weights = [model.body.encoder.weight.data(ctx).asnumpy() for ctx in contexts]
    assert (weights[0] == 0).sum() == 90
    np.testing.assert_array_equal(*weights)


def test_an_average_that_begins_anew_holds_no_pruned_weights():
    model = tiny_model()
    updater = Updater(model.trainables(), "sgd", 0.0)
    average = Average(model.trainables())
    average.update()
    Pruner(model, updater).prune({"encoder.weight": 0.5})
    average.steps = 0
    average.update()
    assert (average.arrays["body.encoder.weight"].asnumpy() == 0).sum() == 90


# --- runs

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
    """A folder with a small text."""
    random, folder = np.random.RandomState(5), tmp_path / "text"
    folder.mkdir()
    for split, lines in (("train", 60), ("valid", 20), ("test", 20)):
        starts = random.randint(0, 30, lines)
        sentences = [
            " ".join(f"w{(start + 7 * step) % 30}" for step in range(8)) for start in starts
        ]
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


def run(text, save, *more):
    return train.main(["--data", str(text), "--save", str(save), *SMALL, *more])


def records(folder, kind):
    return [
        record
        for record in map(json.loads, (folder / "log.jsonl").open())
        if record["kind"] == kind
    ]


def test_a_run_follows_its_schedule_and_reports(text, tmp_path, capsys):
    run(text, tmp_path / "run", "--epochs", "4", "--prune", "0.8", "--tied", "--wdrop", "0.2")
    trained = load_model(tmp_path / "run")
    tensors = prunable(trained.model)
    assert zeros(trained.model) == {
        name: round(0.8 * tensor.size) for name, tensor in tensors.items()
    }
    assert sorted(trained.pruned) == sorted(tensors)
    total = sum(tensor.size for tensor in tensors.values())
    rule = usual_rule(0.8, 4, trained=False)
    log = records(tmp_path / "run", "pruning")
    steps = records(tmp_path / "run", "epoch")[0]["step"]  # per epoch
    assert len(log) > 15
    for record in log:
        wanted = rule.sparsity(record["step"] / steps)
        expected = sum(round(wanted * tensor.size) for tensor in tensors.values()) / total
        assert record["sparsity"] == pytest.approx(expected, abs=1e-12)
    printed = capsys.readouterr().out
    assert "% pruned" in printed
    assert "layers.1.h2h_weight" in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["sparsity"] == pytest.approx(0.8, abs=0.001)


def test_the_best_model_is_one_of_those_pruned_to_the_end(text, tmp_path):
    result = run(text, tmp_path / "run", "--epochs", "4", "--prune", "0.95")
    losses = {
        record["epoch"]: record["valid_loss"] for record in records(tmp_path / "run", "epoch")
    }
    assert result.best_epoch in (3, 4)  # the schedule ends after epoch 2
    assert result.valid_loss == min(losses[3], losses[4])


@pytest.mark.parametrize(
    "more",
    [
        ["--prune", "0.7", "--optimizer", "adam", "--lr", "0.01", "--tied"],
        ["--compress", "SCHEDULE"],
    ],
)
def test_resumed_from_any_point_weights_and_masks_are_the_same(text, tmp_path, monkeypatch, more):
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text(
        "- {tensors: layers.*, sparsity: 0.9, begin: 0.1, end: 1.6, every: 0.25}\n"
        "- {tensors: encoder.weight, sparsity: 0.9, begin: 0.8, end: 1.6, every: 0.4}"
    )
    more = [str(schedule) if word == "SCHEDULE" else word for word in more]
    run(text, tmp_path / "whole", "--epochs", "3", *more)
    steps = 0

    def counted(*arguments):
        nonlocal steps
        steps += 1
        if steps in (3, 9, 30, 50):
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(*arguments)

    monkeypatch.setattr("gluonlm.training.loop.train_step", counted)
    result = run(text, tmp_path / "parts", "--epochs", "3", *more)
    schedule.unlink()  # the run has its own copy
    while not result.finished:
        result = train.main(["--resume", str(tmp_path / "parts")])
    assert steps > 50
    (one, _), (other, _) = (
        read_arrays(tmp_path / name / LAST, STATE_FORMAT) for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert any(name.startswith("mask.") for name in one)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    whole, parts = (load_model(tmp_path / name) for name in ("whole", "parts"))
    assert whole.pruned == parts.pruned  # in the same order
    logs = [
        [(r["step"], r["sparsity"]) for r in records(tmp_path / name, "pruning")]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def test_finetuning_keeps_the_masks_and_can_prune_on(text, tmp_path):
    run(text, tmp_path / "first", "--epochs", "2", "--prune", "0.6", "--tied")
    masks = {
        n: values(load_model(tmp_path / "first").model, t) != 0
        for n, t in prunable(load_model(tmp_path / "first").model).items()
    }
    train.main(
        shlex.split(
            f"--finetune '{tmp_path / 'first'}' --save '{tmp_path / 'second'}' --epochs 2 --lr 0.5"
        )
    )
    second = load_model(tmp_path / "second")
    assert second.config.prune is None
    for name, tensor in prunable(second.model).items():
        np.testing.assert_array_equal(values(second.model, tensor) != 0, masks[name])
    line = (
        f"--finetune '{tmp_path / 'second'}' --save '{tmp_path / 'third'}' --epochs 2 --prune 0.9"
    )
    train.main(shlex.split(line))
    third = load_model(tmp_path / "third")
    for name, tensor in prunable(third.model).items():
        kept = values(third.model, tensor) != 0
        assert (~kept).sum() == round(0.9 * tensor.size)
        assert not (kept & ~masks[name]).any()


def test_a_dense_model_is_pruned_from_the_start_of_finetuning(text, tmp_path):
    run(text, tmp_path / "dense", "--epochs", "1")
    where = f"--finetune '{tmp_path / 'dense'}' --save '{tmp_path / 'sparse'}'"
    train.main(shlex.split(f"{where} --epochs 2 --prune 0.5"))
    assert records(tmp_path / "sparse", "pruning")[0]["step"] == 0
    model = load_model(tmp_path / "sparse").model
    assert zeros(model) == {
        name: round(0.5 * tensor.size) for name, tensor in prunable(model).items()
    }


def test_a_schedule_must_end_within_the_run(text, tmp_path):
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text("- {sparsity: 0.9, begin: 1, end: 3}")
    with pytest.raises(UserError, match=r"epoch 3 of 3.*--epochs"):
        run(text, tmp_path / "run", "--epochs", "3", "--compress", str(schedule))
    with pytest.raises(UserError, match="--prune is a schedule of its own"):
        run(text, tmp_path / "run", "--prune", "0.5", "--compress", str(schedule))


def test_one_batch_of_a_pruned_run_is_no_error(text, tmp_path):
    assert run(text, tmp_path / "run", "--dry-run", "--prune", "0.5").finished


# --- files


def test_the_file_follows_the_sparsity_and_every_command_reads_it(text, tmp_path, capsys):
    run(
        text,
        tmp_path / "run",
        "--epochs",
        "1",
        "--emsize",
        "64",
        "--nhid",
        "64",
        "--tied",
        "--max-batches",
        "2",
    )
    dense = (tmp_path / "run" / BEST).stat().st_size
    small = tmp_path / "small.safetensors"
    result = prune.main([str(tmp_path / "run"), "--sparsity", "0.9", "--save", str(small)])
    arrays, metadata = read_arrays(small, MODEL_FORMAT)
    weights = sum(array.size for array in arrays.values())
    header = dense - 4 * weights  # vocabulary and settings
    matrices = sum(tensor.size for tensor in prunable(result.model).values())
    expected = 4 * (weights - matrices) + (4 * 0.1 + 1 / 8) * matrices
    assert small.stat().st_size - header == pytest.approx(expected, rel=0.05)
    loaded = load_model(small)
    for name, parameter in loaded.model.trainables().items():
        np.testing.assert_array_equal(
            parameter.data().asnumpy(), result.model.trainables()[name].data().asnumpy()
        )
    assert sorted(loaded.pruned) == sorted(prunable(loaded.model))
    capsys.readouterr()
    score = evaluate.main([str(small), "--split", "valid"])
    assert score.tokens == 180
    again = train.main(
        shlex.split(
            f"--finetune '{small}' --save '{tmp_path / 'tuned'}' --epochs 1 --max-batches 2"
        )
    )
    assert again.finished
    assert zeros(load_model(tmp_path / "tuned").model) == zeros(result.model)


def test_the_report_counts(text, tmp_path, capsys):
    run(text, tmp_path / "run", "--epochs", "1", "--max-batches", "1")
    capsys.readouterr()
    prune.main(
        [str(tmp_path / "run"), "--sparsity", "0.5", "--tensors", "layers.*", "encoder.weight"]
    )
    printed = capsys.readouterr().out
    assert "before" in printed
    rows = {
        line.split()[0]: line.split()
        for line in printed.splitlines()
        if "weight" in line or "total" in line
    }
    assert rows["layers.0.h2h_weight"][1:5] == ["48x12", "576", "288", "50.0"]
    assert rows["decoder.weight"][4] == "0.0"
    encoder, decoder = int(rows["encoder.weight"][2]), int(rows["decoder.weight"][2])
    assert rows["total"][1:4] == [
        str(encoder + decoder + 4 * 576),
        str(encoder // 2 + decoder + 2 * 576),
        rows["total"][3],
    ]


def test_the_scan_leaves_the_model_as_it_was(text, tmp_path, capsys):
    run(text, tmp_path / "run", "--epochs", "1", "--max-batches", "1", "--tied")
    trained = load_model(tmp_path / "run")
    before = {name: p.data().asnumpy() for name, p in trained.model.trainables().items()}
    losses = prune.sensitivity(trained, np.arange(40) % 20, (0.2, 0.95))
    assert list(losses) == list(prunable(trained.model))
    assert all(len(row) == 2 and np.isfinite(row).all() for row in losses.values())
    for name, parameter in trained.model.trainables().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name])
    capsys.readouterr()
    prune.main([str(tmp_path / "run"), "--sensitivity", "--levels", "0.5", "--tokens", "50"])
    assert "50 validation tokens: perplexity " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--sparsity 1.5", "no share of weights"),
        ("--sparsity 0.5 --compress x.yaml", "not allowed with argument --sparsity"),
        ("--save x.safetensors", "add --sparsity"),
        ("--sparsity 0.5 --save runs", "give a file"),
        ("--sparsity 0.5 --tensors decoder.weight", "no tensor decoder.weight"),
        ("--compress missing.yaml", "cannot be read"),
        ("--sensitivity --tokens 0", "argument --tokens: must be at least 1, not 0"),
        ("--tensors decoder.weight", "says what --sparsity is for"),
        ("--tokens 5", "are for the scan: add --sensitivity"),
        ("--sparsity 0.5 --levels 0.3", "are for the scan: add --sensitivity"),
    ],
)
def test_what_cannot_be_done_is_said(text, tmp_path, line, message):
    run(text, tmp_path / "run", "--epochs", "1", "--max-batches", "1", "--tied")
    with pytest.raises(UserError, match=message):
        prune.main([str(tmp_path / "run"), *line.split()])


def test_a_quantized_model_is_not_pruned(text, tmp_path):
    """It would be stored as float32 again."""
    run(text, tmp_path / "run", "--epochs", "1", "--max-batches", "1")
    quantize.main([str(tmp_path / "run")])
    with pytest.raises(UserError, match="is quantized: prune what training wrote, then quantize"):
        prune.main([str(tmp_path / "run" / "int8.safetensors"), "--sparsity", "0.5"])


def test_many_texts_at_once_use_the_sparse_decoder_and_get_the_same_logits():
    model = tiny_model(tied=True)
    Pruner(model, Updater(model.trainables(), "sgd", 0.0)).prune({"encoder.weight": 0.95})
    predictor, ids = Predictor(model), np.random.RandomState(0).randint(0, V, (1, 20))
    logits, _ = predictor.predict(ids, predictor.begin_state(20))
    assert predictor.sparse_weight.stype == "csr"
    predictor.sparse_weight = None
    np.testing.assert_allclose(
        logits, predictor.predict(ids, predictor.begin_state(20))[0], atol=1e-6
    )
    assert Predictor(tiny_model()).sparse_weight is None
