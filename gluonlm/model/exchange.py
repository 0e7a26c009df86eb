"""Models in the formats of other programs: Gluon's own, and PyTorch's word-level example's.

    >>> export_gluon(trained, Path("serve/ptb"))  # ptb-symbol.json, -0000.params, -settings.json
    >>> export_torch(trained, Path("ptb.safetensors"))
    >>> trained = import_torch(Path("ptb.safetensors"), vocabulary, {"data": "ptb"})

PyTorch's ``RNNModel`` (examples/word_language_model) has an ``nn.Embedding`` called ``encoder``, an
``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` called ``rnn`` and an ``nn.Linear`` called ``decoder``. Its
matrices have our shapes and its gates our order (LSTM input, forget, cell, output; GRU reset,
update, new), so that only the names differ.
"""

import json
import re
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from safetensors import safe_open

from gluonlm.config import Config
from gluonlm.model.checkpoint import Trained, build_model, check_level, set_weights
from gluonlm.model.storage import reading, serialized
from gluonlm.model.weights import GATES, layer_sizes, named_arrays, projected, splits_of
from gluonlm.system import native
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output, write_output
from gluonlm.system.typed import parse
from gluonlm.text.vocabulary import Dictionary


def export_gluon(trained: Trained, prefix: Path) -> None:
    """Write PREFIX-symbol.json and PREFIX-0000.params as Gluon does, and PREFIX-settings.json; a
    UserError when one of them cannot be written."""
    for ending in ("-symbol.json", "-0000.params", "-settings.json"):
        check_output(Path(f"{prefix}{ending}"))
    # Gluon exports what has been traced
    trained.model(mx.nd.zeros((1, 1)), trained.model.begin_state(1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained.model.export(f"{folder}/model")
        except mx.MXNetError as error:
            reason = str(error).splitlines()[-1]
            advice = "free some space or choose another place"
            raise UserError(f"MXNet cannot write {prefix} ({reason}): {advice}") from None
        for path in Path(folder).iterdir():
            target = Path(f"{prefix}{path.name.removeprefix('model')}")
            write_output(target, path.read_bytes())
    write_output(Path(f"{prefix}-settings.json"), json.dumps(trained.metadata()).encode())


def load_gluon(prefix: str | Path, ctx: mx.Context | None = None) -> mx.gluon.SymbolBlock:
    """What :func:`export_gluon` wrote, as a block: ``logits, *state = block(inputs, *state)``; a
    UserError when there is no such file."""
    for name in (f"{prefix}-symbol.json", f"{prefix}-0000.params"):
        if not Path(name).is_file():
            raise UserError(f"there is no file {name}: give the prefix that was exported to")
    if "gluonlm_fo_pool" in Path(f"{prefix}-symbol.json").read_text():
        native.load_operators("fo_pool")
    symbol = mx.sym.load(f"{prefix}-symbol.json")
    inputs = [name for name in symbol.list_inputs() if re.fullmatch(r"data\d+", name)]
    inputs.sort(key=lambda name: int(name[4:]))
    files = f"{prefix}-symbol.json", inputs, f"{prefix}-0000.params"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type")  # of inputs, which may be of any
        return mx.gluon.SymbolBlock.imports(*files, ctx)


def torch_name(name: str) -> str:
    """PyTorch's name for one of our weights: ``rnn.weight_ih_l0`` for ``layers.0.i2h_weight``."""
    return re.sub(r"layers\.(\d+)\.([ih])2h_(\w+)", r"rnn.\3_\2h_l\1", name)


def export_torch(trained: Trained, path: Path) -> None:
    """Write the weights for ``RNNModel.load_state_dict``, vocabulary and settings as metadata; a
    UserError when PyTorch's model has no such part, or the file cannot be written."""
    config = trained.config
    parts = {
        f"{config.model} layers": config.model not in GATES,
        "adaptive softmax": splits_of(config, len(trained.dictionary)),
        "projection between layers and a tied decoder": projected(config),
        "narrow last layer": len({units for _, units in layer_sizes(config)}) > 1,
    }
    for part in (part for part, there in parts.items() if there):
        raise UserError(f"PyTorch's RNNModel has no {part}: export with --format onnx")
    arrays = {torch_name(name): array for name, array in named_arrays(trained.model).items()}
    arrays.setdefault("decoder.weight", arrays["encoder.weight"])  # tied: theirs has both names
    write_output(path, serialized(arrays, {"format": "pt", **trained.metadata()}))


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file; a UserError when it is missing or
    damaged."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: give what safetensors.torch.save_file wrote")
    again = reading(path, "safetensors file", "save the model again")
    with again, safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, file.metadata() or {}


def import_torch(
    path: Path, dictionary: Dictionary | None, settings: dict, level: str | None = None
) -> Trained:
    """What ``RNNModel.state_dict()`` holds, or :func:`export_torch` wrote, as a model of ours.

    :param dictionary: the vocabulary, None for the one in the file.
    :param settings: of the :class:`gluonlm.config.Config`; the sizes are those of the arrays.
    :raises UserError: when there is no vocabulary, or the arrays do not fit it or each other.
    """
    arrays, known = read_torch(path)
    if dictionary is None and "dictionary" not in known:
        raise UserError(f"{path} has no vocabulary: name one with --vocabulary")
    level = level or known.get("level", "word")
    try:
        dictionary = dictionary or Dictionary.from_json(known["dictionary"])
        given = parse(known.get("config", "{}"), dict[str, Any]) | settings
        config = Config.from_json(json.dumps(given | torch_sizes(arrays, given.get("model"))))
        check_level(level)
    except KeyError as error:
        sentence = f"{path} has no array {error}: it is not PyTorch's word-level RNNModel"
        raise UserError(sentence) from None
    except (ValueError, LookupError) as error:
        raise UserError(f"{path} is damaged ({error}): save the model again") from None
    if (rows := len(arrays["encoder.weight"])) != (words := len(dictionary)):
        other = f"array encoder.weight in {path} has {rows} rows, which does not fit {words} tokens"
        raise UserError(f"{other}: name its own vocabulary with --vocabulary")
    exact = replace(config, precision="float32")  # whatever trained it, as what is loaded
    model = build_model(exact, len(dictionary), gradients=False)
    ours = {name: arrays.get(torch_name(name), np.empty(0)) for name in model.layout}
    ours = {name: array.astype(np.float32) for name, array in ours.items()}
    for name, array in ours.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path} has numbers in {name} that are not finite: train it anew")
    set_weights(model, ours, path)
    return Trained(model, dictionary, config, level, path)


def torch_sizes(arrays: dict[str, np.ndarray], model: str | None) -> dict:
    """The settings that follow from the arrays' shapes; one gate is RNN_TANH unless it is said."""
    vocab_size, emsize = arrays["encoder.weight"].shape
    rows, nhid = arrays["rnn.weight_hh_l0"].shape
    kinds = [name for name, gates in GATES.items() if gates * nhid == rows] or ["LSTM"]
    if model not in (None, *kinds):
        kind = " or ".join(kinds)
        raise UserError(f"the arrays are those of {kind}, not of {model}: leave out --model")
    decoder = arrays.get("decoder.weight", arrays["encoder.weight"])
    return {
        "model": model or kinds[0],
        "emsize": emsize,
        "nhid": nhid,
        "nlayers": sum(name.startswith("rnn.weight_hh_l") for name in arrays),
        "tied": decoder.shape == (vocab_size, emsize)
        and bool((decoder == arrays["encoder.weight"]).all()),
    }
