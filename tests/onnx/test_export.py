"""Exported models compute what MXNet computes, need no MXNet, and every mistake around them gets
one sentence."""

import ast
import errno
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import onnx
import pytest
from small import fit

import gluonlm
from gluonlm import evaluate, export, prune, quantize, train
from gluonlm.compress.quantization import quantize_model
from gluonlm.config import MODELS, Config
from gluonlm.generate import joined
from gluonlm.generate import main as generate_text
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, generate
from gluonlm.model import checkpoint
from gluonlm.model.checkpoint import Trained, build_model, load_model
from gluonlm.model.exchange import export_gluon, load_gluon
from gluonlm.onnx import builder as onnx_builder
from gluonlm.onnx import layers
from gluonlm.onnx.export import export_onnx
from gluonlm.onnx.session import EXTERNAL, SEAL, OnnxModel, cross_entropy, describe, seal
from gluonlm.system.errors import UserError
from gluonlm.system.threads import Threads
from gluonlm.text.vocabulary import EOS, UNK, Dictionary

V = 23
WORDS = [UNK, EOS, *(f"w{number}" for number in range(V - 2))]


def untrained(path, **settings) -> Trained:
    """A model with weights large enough that a mistake in any of them shows."""
    mx.random.seed(3)
    config = Config(**{"data": "not-here", "emsize": 8, "nhid": 8, **settings})
    model = build_model(config, V)
    size = 0.3 if config.model == "RNN_RELU" else 0.7  # what has no bound grows without one
    for parameter in model.trainables().values():  # biases too
        parameter.set_data(mx.nd.random.uniform(-size, size, parameter.shape))
    return Trained(model, Dictionary(WORDS), config, "word", path)


def built(source: Trained, metadata: dict) -> onnx.ModelProto:
    """The graph of a model in float32."""
    return layers.build(source.config, quantize_model(source.model, {}), metadata)


@pytest.fixture(scope="module")
def trained(cats, tmp_path_factory):
    """A trained run, exported by the option of the training."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--epochs", "1", "--lr", "2", "--onnx-export", str(folder / "at-once.onnx")]
    fit(cats, folder, *options)
    return folder


def run_blocked(blocked: list[str], program: str) -> str:
    """Run a program where these packages cannot be imported; returns what it prints."""
    preamble = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", preamble + program], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("nlayers", [1, 2, 3, 4])
@pytest.mark.parametrize(("tied", "nhid"), [(False, 8), (False, 11), (True, 8), (True, 11)])
def test_every_cell_depth_and_decoder_with_free_steps_and_columns(
    tmp_path, model, nlayers, tied, nhid
):
    source = untrained(tmp_path, model=model, nlayers=nlayers, tied=tied, nhid=nhid)
    export_onnx(source, tmp_path / "model.onnx")
    exported = OnnxModel(tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    for steps, columns in ((1, 1), (7, 3), (2, 16)):
        ids = random.integers(V, size=(steps, columns))
        state = [
            random.normal(size=a.shape).astype(np.float32)
            for a in source.model.begin_state(columns)
        ]
        logits, new_state = exported.predict(ids, state)
        expected, expected_state = source.model(
            mx.nd.array(ids), [mx.nd.array(array) for array in state]
        )
        assert logits.shape == (steps, columns, V)
        np.testing.assert_allclose(logits, expected.asnumpy(), rtol=1e-4, atol=1e-5)
        for one, other in zip(new_state, expected_state, strict=True):
            np.testing.assert_allclose(one, other.asnumpy(), rtol=1e-4, atol=1e-5)


def test_awd_lstm_with_its_narrow_last_layer_and_weights_at_rest(tmp_path):
    rates = {"dropout": 0.4, "dropouti": 0.4, "dropouth": 0.2, "dropoute": 0.1, "wdrop": 0.5}
    source = untrained(tmp_path, nlayers=3, nhid=11, tied=True, narrow=True, locked=True, **rates)
    result = export_onnx(source, tmp_path / "model.onnx")
    assert result.difference < 1e-4
    states = OnnxModel(result.path).begin_state(1)
    assert [array.shape[-1] for array in states] == [11, 11, 11, 11, 8, 8]


def test_the_file_names_its_inputs_and_outputs_and_says_what_it_is(tmp_path):
    source = untrained(tmp_path, nlayers=2, nhid=11)
    export_onnx(source, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["ids", "h0", "c0", "h1", "c1"]
    assert [value.name for value in graph.output] == [
        "logits",
        "h0_out",
        "c0_out",
        "h1_out",
        "c1_out",
    ]
    assert [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim] == ["T", "N"]
    exported = gluonlm.load(tmp_path / "model.onnx")
    assert exported.dictionary.idx2word == WORDS
    assert (exported.config, exported.level) == (source.config, "word")


def test_a_tied_matrix_is_stored_once(tmp_path):
    sizes = {}
    for tied in (False, True):
        graph = built(untrained(tmp_path, tied=tied), {}).graph
        sizes[tied] = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    assert sizes[False] - sizes[True] == V * 8


def test_the_comparison_notices_a_wrong_gate_order(tmp_path, monkeypatch):
    monkeypatch.setitem(layers.OPERATORS, "LSTM", ("LSTM", [0, 1, 2, 3], {}))
    with pytest.raises(UserError, match="something else than MXNet"):
        export_onnx(untrained(tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_chaotic_network_is_compared_without_its_errors_adding_up(tmp_path):
    source = untrained(tmp_path / "x.pt", model="RNN_TANH", nlayers=1, emsize=32, nhid=32)
    assert export_onnx(source, tmp_path / "model.onnx").difference < 1e-4


def test_export_command_and_training_option_write_the_same(trained, capsys):
    result = export.main([str(trained)])
    assert result.path == trained / "model.onnx"
    assert result.difference < 1e-4
    assert "220 tokens of the validation text" in capsys.readouterr().out
    assert result.path.read_bytes() == (trained / "at-once.onnx").read_bytes()


def test_what_is_made_of_a_bundled_model_goes_into_the_current_folder(
    trained, tmp_path, monkeypatch
):
    """Before, it went beside the model, into the repository."""
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(trained / "best.safetensors", models / "tale.safetensors")
    monkeypatch.setattr(checkpoint, "MODELS", models)
    monkeypatch.chdir(tmp_path)
    for name in ("tale", "models/tale.safetensors"):
        assert export.main([name]).path == Path("model.onnx")
        assert quantize.main([name, "--int8", "averaged"]).path == Path("int8.safetensors")
    assert [path.name for path in models.iterdir()] == ["tale.safetensors"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_same_perplexity_to_four_digits(trained, split):
    ours = evaluate.main([str(trained), "--split", split])
    theirs = evaluate.main(["--onnx", str(trained / "at-once.onnx"), "--split", split])
    assert (ours.tokens, ours.unknown) == (theirs.tokens, theirs.unknown)
    assert theirs.perplexity == pytest.approx(ours.perplexity, rel=1e-5)


def test_evaluation_from_onnx_reads_any_text_without_mxnet(trained, tmp_path):
    (tmp_path / "note.txt").write_text("the zebra sat\n")
    printed = run_blocked(
        ["mxnet", "onnx"],
        f"from gluonlm.evaluate import main\n"
        f"print(main(['--onnx', {str(trained / 'at-once.onnx')!r}, '--data', "
        f"{str(tmp_path / 'note.txt')!r}]))",
    )
    assert "4 tokens, 25.00% unknown" in printed
    assert evaluate.main(
        [str(trained), "--data", str(tmp_path / "note.txt")]
    ).loss == pytest.approx(float(printed.partition("loss=")[2].rstrip(")\n")), rel=1e-5)


def test_generation_and_scores_need_numpy_and_onnxruntime_only(trained):
    printed = run_blocked(
        ["mxnet", "gluonnlp", "onnx", "requests", "tqdm", "safetensors", "matplotlib"],
        "import json\n"
        "import gluonlm\n"
        "from gluonlm.inference.sampling import Strategy, generate\n"
        f"model = gluonlm.load({str(trained / 'at-once.onnx')!r})\n"
        "texts = generate(model, model.dictionary, model.dictionary.encode(['the', 'cat']), 30, "
        "Strategy(seed=4, samples=3))\n"
        "print(json.dumps([text.tolist() for text in texts]))\n"
        "print(model.next_words('the cat', 3))\n",
    )
    written, guesses = printed.splitlines()
    source = load_model(trained)
    predictor, dictionary = Predictor(source.model), source.dictionary
    prompt, strategy = dictionary.encode(["the", "cat"]), Strategy(seed=4, samples=3)
    texts = generate(predictor, dictionary, prompt, 30, strategy)
    assert json.loads(written) == [text.tolist() for text in texts]
    expected = gluonlm.load(trained).next_words("the cat", 3)
    for (word, probability), (same, other) in zip(expected, ast.literal_eval(guesses), strict=True):
        assert (word, probability) == (same, pytest.approx(other, rel=1e-5))


def test_the_command_writes_the_same_text_without_mxnet(trained):
    arguments = ["--seed-text", "the cat", "--words", "20", "--samples", "2"]
    file = str(trained / "at-once.onnx")
    program = f"from gluonlm.generate import main\nmain(['--onnx', {file!r}, *{arguments}])"
    printed = run_blocked(["mxnet", "onnx"], program)
    assert printed.startswith("--- 1 ---\nthe cat")
    assert printed == joined(generate_text([str(trained), *arguments]))
    assert printed == joined(generate_text(["--onnx", file, *arguments, "--temperature", "1"]))
    with pytest.raises(UserError, match="argument --onnx: not allowed with argument run"):
        generate_text([str(trained), "--onnx", file])


def test_scores_and_texts_where_mxnet_is_not_installed(trained, tmp_path):
    """With the standard library, NumPy, ONNX Runtime, xxhash and the Moses detokenizer only."""
    moses = ("sacremoses", "regex", "joblib", "cloudpickle", "click", "tqdm")
    for package in ("numpy", "onnxruntime", "xxhash", *moses):
        folder = Path(importlib.util.find_spec(package).origin).parent
        for part in (folder, folder.with_name(f"{package}.libs")):
            if part.exists():
                (tmp_path / part.name).symlink_to(part)
    paths = os.pathsep.join([str(Path(gluonlm.__file__).parents[1]), str(tmp_path)])

    def run(*line):
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-S", *line], capture_output=True, text=True, env=environment
        )

    assert "No module named 'mxnet'" in run("-c", "import mxnet").stderr
    model, arguments = (
        ["--onnx", str(trained / "at-once.onnx")],
        ["--seed-text", "the cat", "--words", "20"],
    )
    written = run("-m", "gluonlm.generate", *model, *arguments)
    assert written.returncode == 0, written.stderr
    assert written.stdout == joined(generate_text([str(trained), *arguments]))


def test_cross_entropy_by_hand_and_with_huge_logits():
    logits = np.array([[0.0, math.log(3)], [1e4, 0.0]], np.float32)
    np.testing.assert_allclose(
        cross_entropy(logits, np.array([1, 1])), [math.log(4 / 3), 1e4], rtol=1e-6
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("nlayers", "tied"), [(1, True), (4, False)])
def test_gluons_own_format_loads_as_a_symbol_block(tmp_path, model, nlayers, tied):
    source = untrained(tmp_path, model=model, nlayers=nlayers, tied=tied, nhid=11)
    export_gluon(source, tmp_path / "served" / "lm.v2")
    block = load_gluon(tmp_path / "served" / "lm.v2")
    ids = mx.nd.array(np.random.default_rng(1).integers(V, size=(7, 3)))
    state = [mx.nd.random.normal(shape=array.shape) for array in source.model.begin_state(3)]
    logits, *new_state = block(ids, *state)
    expected, expected_state = source.model(ids, state)
    for one, other in zip([logits, *new_state], [expected, *expected_state], strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    settings = json.loads((tmp_path / "served" / "lm.v2-settings.json").read_text())
    assert Config.from_json(settings["config"]) == source.config
    assert Dictionary.from_json(settings["dictionary"]).idx2word == WORDS


def test_gluon_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no file .*lm-symbol.json"):
        load_gluon(tmp_path / "lm")


def test_gluon_command(trained, tmp_path):
    export.main([str(trained), str(tmp_path / "lm"), "--format", "gluon"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "lm-symbol.json",
        "lm-0000.params",
        "lm-settings.json",
    }


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 50, b"\x80\x04\x95" + b"x" * 500])
def test_not_an_onnx_file(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not an ONNX file"):
        evaluate.main(["--onnx", str(tmp_path / "x.onnx")])


@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors"])
def test_an_onnx_file_in_the_place_of_a_model_is_told(trained, tmp_path, name):
    """Before, it was a damaged model."""
    shutil.copy(trained / "at-once.onnx", tmp_path / name)
    for command in (quantize, prune, export):
        with pytest.raises(UserError, match=f"{name} is an ONNX model, .* give the run"):
            command.main([str(tmp_path / name)])


def test_a_cut_off_file(trained, tmp_path):
    content = (trained / "at-once.onnx").read_bytes()
    (tmp_path / "x.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or not an ONNX file"):
        evaluate.main(["--onnx", str(tmp_path / "x.onnx")])


@pytest.mark.parametrize("key", [b"\x0a\x08location", b"\x8a\x80\x00\x88\x00location"])
@pytest.mark.parametrize("place", ["secret", "../secret", "{folder}/secret"])
def test_an_onnx_file_reads_no_other_file(trained, tmp_path, monkeypatch, place, key):
    """Its weights may be said to lie in another file: ONNX Runtime would read any that it can."""
    (tmp_path / "secret").write_bytes(bytes(4 * 8 * 8 * 4))
    model = onnx.load(trained / "at-once.onnx")
    tensor = next(one for one in model.graph.initializer if len(one.dims) == 3)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place.format(folder=tmp_path)
    content = model.SerializeToString()
    assert content.count(b"\x0a\x08location") == 1
    if key in content:
        (tmp_path / "x.onnx").write_bytes(seal(content))
        with pytest.raises(UserError, match="wants to read its weights from other files"):
            gluonlm.load(tmp_path / "x.onnx")
    assert EXTERNAL.search(key)  # protobuf also reads numbers that are longer than need be


def test_a_flipped_bit_is_noticed_wherever_it_is(trained, tmp_path):
    content = (trained / "at-once.onnx").read_bytes()
    assert onnx.load_model_from_string(content).metadata_props[-1].key == "digest"
    for place in np.random.default_rng(0).integers(len(content), size=40):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "x.onnx").write_bytes(damaged)
        with pytest.raises(UserError, match="x.onnx is damaged|x.onnx wants to read"):
            gluonlm.load(tmp_path / "x.onnx")


def test_a_file_without_its_digest_is_damaged(trained, tmp_path):
    content = (trained / "at-once.onnx").read_bytes()
    (tmp_path / "x.onnx").write_bytes(content[: content.rindex(SEAL)])
    with pytest.raises(UserError, match="x.onnx is damaged: its content does not fit its digest"):
        gluonlm.load(tmp_path / "x.onnx")


def test_damaged_metadata_is_told_in_a_sentence(tmp_path):
    good = describe(untrained(tmp_path))
    for name, value in (
        ("dictionary", "["),
        ("config", "[]"),
        ("dictionary", "{}"),
        ("level", None),
    ):
        metadata = {**good, name: value}
        if value is None:
            del metadata[name]
        content = built(untrained(tmp_path), metadata).SerializeToString()
        (tmp_path / "x.onnx").write_bytes(seal(content))
        with pytest.raises(UserError, match="vocabulary or settings are damaged"):
            gluonlm.load(tmp_path / "x.onnx")


def test_a_foreign_onnx_model(tmp_path):
    foreign = built(untrained(tmp_path), {"author": "somebody"})
    (tmp_path / "x.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(UserError, match="not one of this version of gluonlm"):
        evaluate.main(["--onnx", str(tmp_path / "x.onnx")])


def test_no_file_or_a_folder(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(UserError, match="there is no file"):
            evaluate.main(["--onnx", str(path)])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "one of the arguments checkpoint --onnx --save is required"),
        (["run", "--onnx", "model.onnx"], "argument --onnx: not allowed with argument checkpoint"),
        (["--onnx", "model.onnx", "--gpu", "0"], "leave out --gpu"),
    ],
)
def test_contradictory_evaluations(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate.main(arguments)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_not_installed_is_told_before_training(
    trained, tmp_path, monkeypatch, package
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(
        UserError, match=f"the package {package}: install it with `uv sync --group onnx`"
    ):
        export.main([str(trained), str(tmp_path / "x.onnx")])
    with pytest.raises(UserError, match=package):
        train.main(["--tiny", "--save", str(tmp_path / "run"), "--onnx-export", "x.onnx"])
    assert not (tmp_path / "run").exists()


def test_a_model_larger_than_the_format(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_builder, "LARGEST", 2**20 + 1000)
    with pytest.raises(UserError, match="an ONNX file holds 2"):
        export_onnx(untrained(tmp_path), tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["onnx", "gluon"])
def test_a_full_disk_leaves_the_old_file(trained, tmp_path, monkeypatch, kind):
    old = tmp_path / ("model.onnx" if kind == "onnx" else "model-0000.params")
    old.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    target = old if kind == "onnx" else tmp_path / "model"
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        export.main([str(trained), str(target), "--format", kind])
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_full_disk_while_mxnet_writes(trained, tmp_path, monkeypatch):
    def full(*_):
        raise mx.MXNetError("Check failed: FileStream.Write incomplete")

    monkeypatch.setattr(mx.gluon.HybridBlock, "export", full)
    with pytest.raises(UserError, match="MXNet cannot write .*: free some space"):
        export.main([str(trained), str(tmp_path / "lm"), "--format", "gluon"])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"):
        export.main([str(trained), str(tmp_path / "file" / "model.onnx")])


def test_without_its_data_the_comparison_reads_the_models_own_text(tmp_path):
    exported = export_onnx(untrained(tmp_path), tmp_path / "model.onnx")
    assert "200 tokens of text by the model itself (its validation text is not" in exported.report


def test_onnx_runtime_follows_the_chosen_number_of_threads(tmp_path):
    """Another number is another session; what it computes is the same."""
    ids = np.arange(21).reshape(3, 7)
    export_onnx(untrained(tmp_path), tmp_path / "model.onnx")
    model = OnnxModel(tmp_path / "model.onnx")
    model.threads, results = Threads(2, model._use, first=2), []
    for number in (2, 1, 2):
        model.threads.queue = [number, 3 - number]
        results.append(model.predict(ids, model.begin_state(7))[0])
        assert model.session.get_session_options().intra_op_num_threads == number
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    fixed = OnnxModel(tmp_path / "model.onnx", threads=1)
    assert fixed.threads.most == 1
