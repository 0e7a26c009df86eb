"""Models to PyTorch's word-level example and back; tests/fixtures/make_torch.py made the other
side."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mxnet import nd
from safetensors.numpy import load_file, save_file
from small import fit

import gluonlm
from gluonlm import evaluate, export, train
from gluonlm.config import Config
from gluonlm.model import precision
from gluonlm.model.checkpoint import Trained, build_model, load_model, save_model
from gluonlm.model.exchange import export_torch, import_torch, torch_name
from gluonlm.model.weights import named_arrays
from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import EOS, UNK, Dictionary
from gluonlm.training.loop import train_step
from gluonlm.training.optim import Updater

FOLDER = Path(__file__).parents[1] / "fixtures" / "torch"
NUMBERS = np.load(FOLDER / "numbers.npz")
CASES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
V = 17
WORDS = [EOS, UNK, *(f"w{number}" for number in range(V - 2))]


def imported(case: str) -> Trained:
    """A model of the fixture."""
    path = FOLDER / f"{case}.safetensors"
    settings = {"model": case.split("-")[0], "dropout": 0.0}
    return import_torch(path, Dictionary(WORDS), settings)


def test_all_cases_are_there():
    assert {case.split("-")[0] for case in CASES} == {"LSTM", "GRU", "RNN_TANH", "RNN_RELU"}


@pytest.mark.parametrize("case", CASES)
def test_a_model_of_pytorch_gives_its_logits_and_its_next_step(case):
    trained = imported(case)
    mode, tie = case.split("-")
    config = trained.config
    assert (config.model, config.tied, config.nlayers, config.nhid) == (mode, tie == "tied", 2, 5)
    inputs, targets = NUMBERS[f"{case}/inputs"], NUMBERS[f"{case}/targets"]
    model = build_model(config, V)  # as training makes it
    for name, parameter in trained.model.trainables().items():
        model.trainables()[name].set_data(parameter.data())
    state = model.begin_state(inputs.shape[1])
    logits, _ = model(nd.array(inputs), state)
    np.testing.assert_allclose(logits.asnumpy(), NUMBERS[f"{case}/logits"], rtol=0, atol=1e-5)

    updater = Updater(model.trainables(), "sgd", 0.0)
    loss, _ = train_step(model, updater, inputs, targets, [state], lr=1.0, clip=0)
    assert loss == pytest.approx(float(NUMBERS[f"{case}/loss"]), rel=1e-5)
    for name, array in named_arrays(model).items():
        after = NUMBERS[f"{case}/step/{torch_name(name)}"]
        np.testing.assert_allclose(array, after, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_what_pytorch_wrote(case, tmp_path):
    export_torch(imported(case), tmp_path / "back.safetensors")
    written, first = (
        load_file(path) for path in (tmp_path / "back.safetensors", FOLDER / f"{case}.safetensors")
    )
    assert set(written) == set(first)
    for name, array in first.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)


def test_a_tied_matrix_may_be_stored_once(tmp_path):
    arrays = load_file(FOLDER / "LSTM-tied.safetensors")
    del arrays["decoder.weight"]  # as safetensors.torch.save_model leaves it out
    save_file(arrays, tmp_path / "once.safetensors")
    assert import_torch(tmp_path / "once.safetensors", Dictionary(WORDS), {}).config.tied


@pytest.fixture(scope="module")
def run(cats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(cats, folder, "--epochs", "1", "--lr", "2", "--tied")
    return folder


def test_there_and_back_by_the_command(run, tmp_path, capsys):
    there, back = tmp_path / "there.safetensors", tmp_path / "back.pt"
    export.main([str(run), str(there), "--format", "torch"])
    assert "load_state_dict" in capsys.readouterr().out
    export.main([str(there), str(back), "--format", "gluonlm"])
    assert "LSTM, 2 layers of 8 units, vocabulary" in capsys.readouterr().out
    assert load_model(back).config == load_model(run).config
    assert evaluate.main([str(back)]) == evaluate.main([str(run)])
    line = ["--finetune", str(back), "--save", str(tmp_path / "more"), "--schedule", "linear"]
    assert train.main([*line, "--epochs", "2"]).best_epoch > 0


def test_a_file_that_pytorch_has_saved_again_has_no_vocabulary(cats, run, tmp_path):
    there, again = tmp_path / "there.safetensors", tmp_path / "again.safetensors"
    export.main([str(run), str(there), "--format", "torch"])
    save_file(load_file(there), again)
    back = [str(again), str(tmp_path / "back.pt"), "--format", "gluonlm"]
    with pytest.raises(UserError, match="name one with --vocabulary"):
        export.main(back)
    words = gluonlm.load(run).dictionary.idx2word
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "words.json").write_text(json.dumps(words))
    score = evaluate.main([str(run)])
    for vocabulary in (run, tmp_path / "words.txt", tmp_path / "words.json"):
        (tmp_path / "back.pt").unlink(missing_ok=True)
        export.main([*back, "--vocabulary", str(vocabulary), "--data", str(cats)])
        assert evaluate.main([str(tmp_path / "back.pt")]) == score
    (tmp_path / "words.txt").write_text("only\ntwo\n")
    (tmp_path / "back.pt").unlink()
    with pytest.raises(UserError, match=r"array encoder.weight .* does not fit"):
        export.main([*back, "--vocabulary", str(tmp_path / "words.txt")])


@pytest.mark.parametrize("level", ["char", "subword"])
def test_a_run_that_lends_its_vocabulary_says_what_its_tokens_are_and_where(run, tmp_path, level):
    lender = load_model(run)
    save_model(replace(lender, level=level, path=tmp_path / "lender.pt"))
    export_torch(lender, tmp_path / "there.safetensors")
    save_file(load_file(tmp_path / "there.safetensors"), tmp_path / "bare.safetensors")
    line = [str(tmp_path / "bare.safetensors"), str(tmp_path / "x.pt"), "--format", "gluonlm"]
    export.main([*line, "--vocabulary", str(tmp_path / "lender.pt")])
    back = load_model(tmp_path / "x.pt")
    assert (back.level, back.config.data) == (level, lender.config.data)


def test_a_bundled_model_may_lend_its_vocabulary_which_must_fit(run, tmp_path):
    export_torch(load_model(run), tmp_path / "there.safetensors")
    line = [str(tmp_path / "there.safetensors"), str(tmp_path / "x.pt"), "--format", "gluonlm"]
    with pytest.raises(UserError, match="rows, which does not fit 10000 tokens"):
        export.main([*line, "--vocabulary", "austen"])


@pytest.mark.parametrize("model", ["RNN_RELU", "QRNN", "nothing"])
def test_a_kind_of_layer_that_the_arrays_are_not_of_is_told(run, tmp_path, model):
    export_torch(load_model(run), tmp_path / "there.safetensors")
    line = [str(tmp_path / "there.safetensors"), str(tmp_path / "x.pt"), "--format", "gluonlm"]
    with pytest.raises(UserError, match=f"of LSTM, not of {model}: leave out --model"):
        export.main([*line, "--model", model])


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"model": "QRNN"}, "QRNN layers"),
        ({"splits": (5, 9)}, "adaptive softmax"),
        ({"tied": True, "nhid": 9}, "projection"),
        ({"tied": True, "nhid": 9, "narrow": True}, "narrow last layer"),
    ],
)
def test_what_pytorch_s_model_has_not_is_refused(tmp_path, settings, part):
    config = Config(**{"emsize": 8, "nhid": 8, **settings})
    trained = Trained(build_model(config, V), Dictionary(WORDS), config, "word", tmp_path)
    with pytest.raises(UserError, match=f"PyTorch's RNNModel has no {part}"):
        export_torch(trained, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_model_of_bfloat16_comes_in_where_no_processor_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", set)
    trained = imported("LSTM-free")
    rounded = replace(trained.config, precision="bfloat16")
    export_torch(replace(trained, config=rounded), tmp_path / "model.safetensors")
    again = import_torch(tmp_path / "model.safetensors", None, {})
    assert again.config == rounded
    assert again.model.precision == "float32"


def test_files_that_are_no_such_model(tmp_path, run):
    target = ["--format", "gluonlm", "--vocabulary", str(run)]
    arrays = load_file(FOLDER / "LSTM-free.safetensors")
    broken = {
        "none": ("there is no file", None),
        "text": ("not a safetensors file", "no arrays"),
        "part": (
            "has no array 'encoder.weight'",
            {n: a for n, a in arrays.items() if n != "encoder.weight"},
        ),
        "bias": ("does not fit", {n: a for n, a in arrays.items() if n != "rnn.bias_ih_l1"}),
    }
    for name, (sentence, content) in broken.items():
        path = tmp_path / f"{name}.safetensors"
        if isinstance(content, str):
            path.write_text(content)
        elif content:
            save_file(content, path)
        with pytest.raises(UserError, match=sentence):
            export.main([str(path), str(tmp_path / "x.pt"), *target])


def test_options_that_do_not_go_together(run, tmp_path):
    with pytest.raises(UserError, match="add --format gluonlm"):
        export.main([str(run), "--vocabulary", "words.txt"])
    with pytest.raises(UserError, match="say which model file"):
        export.main(["x.safetensors", "--format", "gluonlm"])
    with pytest.raises(UserError, match="what a training has made"):
        export.main([str(run), str(run / "best.safetensors"), "--format", "torch"])


@pytest.mark.parametrize(
    ("sentence", "array", "metadata"),
    [
        ("decoder.bias that are not finite", ("decoder.bias", np.full(V, np.nan)), {}),
        ("is damaged", ("encoder.weight", np.zeros(5)), {}),
        ("is damaged", ("rnn.weight_hh_l0", np.zeros(5)), {}),
        ("is damaged", (), {"dictionary": "{"}),
        ("is damaged", (), {"config": "3"}),
        ("unknown setting", (), {"config": '{"units": 3}'}),
        ("its level is syllable", (), {"level": "syllable"}),
    ],
)
def test_a_damaged_file_of_pytorch_s_is_told(tmp_path, sentence, array, metadata):
    arrays = load_file(FOLDER / "LSTM-free.safetensors")
    arrays |= dict([array] if array else [])
    metadata = {"dictionary": Dictionary(WORDS).to_json(), **metadata}
    save_file(arrays, tmp_path / "x.safetensors", metadata)
    with pytest.raises(UserError, match=sentence):
        import_torch(tmp_path / "x.safetensors", None, {})


def test_a_list_of_something_else_than_tokens_is_told(run, tmp_path):
    (tmp_path / "words.json").write_text("[1, 2, 3]")
    options = ["--format", "gluonlm", "--vocabulary", str(tmp_path / "words.json")]
    with pytest.raises(UserError, match="must be text"):
        export.main([str(run), str(tmp_path / "x.pt"), *options])
