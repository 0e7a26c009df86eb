"""Model files that somebody has edited: whatever is in there gives one sentence, at once, and takes
no memory."""

import json
from dataclasses import replace

import numpy as np
import pytest
from mxnet import nd

from gluonlm.compress.quantization import parts_of, quantize_model
from gluonlm.config import Config
from gluonlm.model.checkpoint import (
    MODEL_FORMAT,
    Trained,
    best_file,
    build_model,
    load_model,
    read_model,
    save_model,
)
from gluonlm.model.quantized import Scheme
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.model.weights import named_arrays
from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import Dictionary

WORDS = ["<unk>", "<eos>", "a", "b", "c"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model in a file."""
    config = Config(data="x", emsize=4, nhid=6, nlayers=2, tied=True)
    model = build_model(config, len(WORDS))
    for parameter in model.trainables().values():
        parameter.set_data(nd.random.normal(shape=parameter.shape))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    made = Trained(model, Dictionary(WORDS), config, "word", path, ("encoder.weight",))
    save_model(made)
    return made


def test_a_model_file_holds_its_weights_by_name(trained, tmp_path):
    stored = read_model(trained.path)
    assert (stored.config, stored.level, stored.pruned) == (
        trained.config,
        "word",
        ("encoder.weight",),
    )
    assert stored.dictionary.idx2word == WORDS
    for name, array in named_arrays(trained.model).items():
        np.testing.assert_array_equal(stored.weights[name], array)
    path, schemes = tmp_path / "q.safetensors", dict.fromkeys(parts_of(trained.model), Scheme())
    quantized = quantize_model(trained.model, schemes)
    save_model(replace(trained, path=path, quantized=quantized))
    for name, weight in read_model(path).weights.items():
        if weight.shape != trained.model.layout[name].shape:
            raise AssertionError(name)
        assert type(weight) is type(quantized.weights[name])


HUGE = 10**6
CONFIGS = [
    *({"nlayers": value} for value in (1000, HUGE, 0, -1, 1.5, "2", None, [2], {}, True, 2**80)),
    *({"emsize": value} for value in (HUGE, 2**63, 5, float("inf"), float("nan"))),
    *({"nhid": value} for value in (HUGE, 7, "6", [], 10**400)),
    *({"model": value} for value in ("GRU", "QRNN", "", 3, None, "LSTM\u202e")),
    {"tied": False},
    {"tied": "yes"},
    {"narrow": True},
    {"splits": [2, 3]},
    {"splits": [HUGE]},
    {"splits": "2"},
    {"adaptive": 3},
    {"data": 5},
    {"dropout": 2.0},
    {"unknown\x1b[2J": 1},
]
WORD_LISTS = [
    [],
    ["a"],
    WORDS + ["d"],
    ["a"] * 5,
    [1, 2, 3, 4, 5],
    "abcde",
    None,
    {},
    [["a"]] * 5,
    [None] * 5,
]
TEXTS = ["", "{", "null", "[]", "3", '"x"', "[" * 100_000, '{"a": ' * 50_000, "{}", "\ud800"]


def changed(trained, path, **metadata):
    """The file of the model with other metadata, and a digest that fits."""
    arrays, said = read_arrays(trained.path, MODEL_FORMAT)
    said |= metadata
    write_arrays(path, MODEL_FORMAT, arrays, {k: v for k, v in said.items() if v is not None})
    return path


def metadata_of(trained):
    """All ways of being wrong."""
    config = json.loads(trained.config.to_json())
    dictionary = json.loads(trained.dictionary.to_json())
    yield from ({"config": json.dumps(config | change)} for change in CONFIGS)
    yield from ({"dictionary": json.dumps(dictionary | {"words": w})} for w in WORD_LISTS)
    for encoding in ("", "no-such", "zlib_codec", 3, None, ["utf-8"]):
        yield {"dictionary": json.dumps(dictionary | {"encoding": encoding})}
    yield from ({"dictionary": json.dumps(dictionary | {k: 1})} for k in ("about", "other"))
    yield {"dictionary": json.dumps(dictionary | {"about": {"texts": [1]}})}
    for name in ("config", "dictionary", "pruned", "quantized"):
        yield from ({name: text} for text in TEXTS[:-1] if (name, text) != ("pruned", "[]"))
    yield from ({name: None} for name in ("config", "dictionary", "level"))
    yield from ({"level": level} for level in ("", "words", "char\n"))
    yield from ({"pruned": json.dumps(names)} for names in (["x"], [3], "encoder.weight", [[]]))
    for schemes in ({"decoder": "int4"}, {"decoder": 3}, [], "int8"):
        yield {"quantized": json.dumps({"schemes": schemes, "ranges": {}})}
    for ranges in ({"decoder": {"layer1": [1]}}, {"decoder": [1, 2]}, [], {"decoder": {"x": "ab"}}):
        yield {"quantized": json.dumps({"schemes": {}, "ranges": ranges})}


def test_whatever_the_metadata_say_there_is_one_sentence(trained, tmp_path):
    tried = 0
    for metadata in metadata_of(trained):
        path = changed(trained, tmp_path / "model.safetensors", **metadata)
        with pytest.raises(UserError) as caught:
            load_model(path)
        assert str(caught.value).startswith(str(path)), metadata
        assert len(str(caught.value)) < 500
        tried += 1
    assert tried > 90


def wrong_arrays(trained):
    """All ways in which arrays may be wrong."""
    arrays, _ = read_arrays(trained.path, MODEL_FORMAT)
    for name, array in arrays.items():
        yield {other: arrays[other] for other in arrays if other != name}
        yield arrays | {name: array[:-1]}
        yield arrays | {name: array.reshape(-1, 1)}
        yield arrays | {name: array.astype(np.uint8)}
        yield arrays | {name: (array * 10).astype(np.int8)}
        yield arrays | {name: np.where(array == array.max(), np.nan, array)}
    yield arrays | {"another": np.zeros(3, np.float32)}
    yield {}


def test_whatever_the_arrays_are_there_is_one_sentence(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    _, metadata = read_arrays(trained.path, MODEL_FORMAT)
    for arrays in wrong_arrays(trained):
        write_arrays(path, MODEL_FORMAT, arrays, metadata)
        with pytest.raises(UserError, match="damaged or not a gluonlm file"):
            load_model(path)


@pytest.mark.parametrize(
    ("said", "inside"),
    [
        ("best.safetensors", True),
        ("sub/best.safetensors", True),
        ("../run.pt", True),  # --save run.pt puts it beside the folder
        ("../victim", False),
        ("../run/../victim", False),
        ("/etc/passwd", False),
        ("..", False),
        ("", False),
        (".", False),
        (3, False),
        (None, False),
    ],
)
def test_the_best_model_of_a_run_is_in_the_run(tmp_path, said, inside):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"best": said}))
    if inside:
        assert best_file(folder) == (tmp_path / "run.pt" if said == "../run.pt" else folder / said)
    else:
        with pytest.raises(UserError, match=r"its best model would be .*, outside of the run"):
            best_file(folder)


def quantized_file(trained, path, scheme):
    """The model in integers, with ranges for all signals; its metadata."""
    ranges = {
        name: {"averaged": (-1.0, 1.0)} for name in ("embedding", "layer0", "layer1", "projection")
    }
    schemes = dict.fromkeys(parts_of(trained.model), scheme)
    quantized = quantize_model(trained.model, schemes, ranges)
    save_model(replace(trained, path=path, quantized=quantized))
    arrays, metadata = read_arrays(path, MODEL_FORMAT)
    return arrays, metadata, json.loads(metadata["quantized"])


def test_whatever_a_quantized_file_says_there_is_one_sentence(trained, tmp_path):
    path = tmp_path / "q.safetensors"
    arrays, metadata, said = quantized_file(trained, path, Scheme(activations="averaged"))
    assert read_model(path).quantized.ranges["decoder"]["layer1"] == (-1.0, 1.0)
    schemes, ranges = said["schemes"], said["ranges"]
    for wrong in (
        {"schemes": {name: words for name, words in schemes.items() if name != "layer0"}},
        {"schemes": schemes | {"layer7": "int8"}},
        {"schemes": schemes | {"decoder": "fp16"}},
        {"ranges": {part: own for part, own in ranges.items() if part != "layer1"}},
        {"ranges": ranges | {"decoder": {"embedding": [0, 1]}}},
        {"ranges": ranges | {"decoder": ranges["decoder"] | {"layer1": [0, float("inf")]}}},
    ):
        write_arrays(path, MODEL_FORMAT, arrays, metadata | {"quantized": json.dumps(said | wrong)})
        with pytest.raises(UserError, match="damaged or not a gluonlm file"):
            read_model(path)
