"""Files that a run leaves: models and training states, each one safetensors file, written whole or not at all.

A safetensors file is a JSON header and raw arrays: it runs no code when it is read. The header carries the settings
and the vocabulary, so a model file is all that evaluation and generation need. Arrays with many zeros are stored
without them (:mod:`gluonlm.model.sparse`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gluonlm.compress.scheme import Quantized, read_quantized
from gluonlm.config import Config
from gluonlm.model.rnn import RNNModel
from gluonlm.model.sparse import pack, unpack
from gluonlm.model.weights import to_parameters
from gluonlm.system.errors import UserError
from gluonlm.system.files import write_atomically
from gluonlm.text.corpus import Dictionary

BEST, LAST = "best.safetensors", "last.safetensors"
MODEL_FORMAT, STATE_FORMAT = "gluonlm model 1", "gluonlm training state 1"


@dataclass(frozen=True)
class Trained:
    """A model out of a file, with what is needed to use it."""

    model: RNNModel
    dictionary: Dictionary
    config: Config
    level: str  # "word" or "char"
    path: Path
    pruned: tuple[
        str, ...
    ] = ()  # names of the tensors that have been pruned (gluonlm.compress.pruning)
    quantized: Quantized | None = (
        None  # the weights as the file has them if they are not float32; the model's are equal
    )


def write_arrays(
    path: Path, kind: str, arrays: dict[str, mx.nd.NDArray], metadata: dict[str, str]
) -> None:
    """Write named arrays and text as one safetensors file of the given kind."""
    packed, shapes = pack({name: array.asnumpy() for name, array in arrays.items()})
    write_atomically(path, save(packed, {"format": kind, "sparse": json.dumps(shapes), **metadata}))


def read_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what :func:`write_arrays` wrote.

    :raises UserError: when the file is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}: give a run's folder or a model file that training has written"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise UserError(
                    f"{path} is not a {kind.rsplit(' ', 1)[0]} of this version: give one that training wrote"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return unpack(arrays, json.loads(metadata.get("sparse", "{}"))), metadata
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not a gluonlm file ({error}): use another checkpoint"
        ) from None


def save_model(
    path: Path,
    model: RNNModel,
    dictionary: Dictionary,
    config: Config,
    level: str,
    pruned: tuple[str, ...] = (),
    quantized: Quantized | None = None,
) -> None:
    """Write a model with all that is needed to use it.

    :param pruned: names of the tensors whose zeros are to stay.
    :param quantized: what to write for the model's weights.
    """
    metadata = {
        "config": config.to_json(),
        "dictionary": dictionary.to_json(),
        "level": level,
        "pruned": json.dumps(pruned),
    }
    if quantized:
        arrays = {
            name: mx.nd.array(array, dtype=array.dtype)
            for name, array in quantized.arrays().items()
        }
        metadata["quantized"] = quantized.to_json()
    else:
        arrays = {
            name: parameter.data(parameter.list_ctx()[0])
            for name, parameter in model.trainables().items()
        }
    write_arrays(path, MODEL_FORMAT, arrays, metadata)


def load_model(path: str | Path, contexts: list[mx.Context] | None = None) -> Trained:
    """Read a model from a run's folder or a model file onto the given devices (the CPU if None).

    It has no memory for gradients: to train it, set the weights of one that :func:`build_model` gives.

    :raises UserError: when there is none, or it is damaged, or its arrays do not fit its settings.
    """
    path = Path(path)
    path = best_file(path) if path.is_dir() else path
    arrays, metadata = read_arrays(path, MODEL_FORMAT)
    config, dictionary = (
        Config.from_json(metadata["config"]),
        Dictionary.from_json(metadata["dictionary"]),
    )
    quantized = (
        read_quantized(arrays, metadata["quantized"], path) if "quantized" in metadata else None
    )
    model = build_model(config, len(dictionary), contexts, gradients=False)
    if quantized:
        set_weights(model, quantized.floats(), path)
    else:
        set_parameters(model, arrays, path)
    if quantized and config.model != "QRNN" and computes_in_half(quantized, contexts):
        model.cast("float16")
    pruned = tuple(json.loads(metadata.get("pruned", "[]")))
    return Trained(model, dictionary, config, metadata["level"], path, pruned, quantized)


def check_replaceable(path: Path) -> None:
    """Raise a UserError when a file is there that only training makes: a model in float32, or a training state."""
    if path.is_file():
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
        except SafetensorError:  # some other file
            return
        if metadata.get("format") in (MODEL_FORMAT, STATE_FORMAT) and "quantized" not in metadata:
            raise UserError(
                f"{path} is what a training has made, and would be lost: choose another name"
            )


def best_file(folder: Path) -> Path:
    """Where the best model of the run in a folder is: in there, or where ``--save FILE`` has put it.

    :raises UserError: when the run's config.json is damaged.
    """
    settings = folder / "config.json"
    return folder / (read_json(settings).get("best", BEST) if settings.exists() else BEST)


def computes_in_half(quantized: Quantized, contexts: list[mx.Context] | None) -> bool:
    """Whether a model is to compute with float16: one stored so, on GPUs; MXNet cannot on a CPU."""
    half = all(scheme.kind == "fp16" for scheme in quantized.schemes.values())
    return half and bool(contexts) and all(ctx.device_type == "gpu" for ctx in contexts)


def build_model(
    config: Config,
    vocab_size: int,
    contexts: list[mx.Context] | None = None,
    gradients: bool = True,
) -> RNNModel:
    """A model as the settings say, initialized on the given devices (the CPU if None) and hybridized.

    :param gradients: whether there is to be memory for gradients, as much as the weights take.
    """
    model = RNNModel.from_config(config, vocab_size)
    if not gradients:
        model.collect_params().setattr("grad_req", "null")
    model.initialize(ctx=contexts or mx.cpu())
    model.hybridize(static_alloc=True)
    return model


def set_parameters(model: RNNModel, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Set all parameters of the model from named arrays read from ``path``."""
    parameters = model.trainables()
    for name, parameter in parameters.items():
        if name not in arrays or arrays[name].shape != parameter.shape:
            raise misfit(path, name)
        parameter.set_data(mx.nd.array(arrays[name]))


def set_weights(model: RNNModel, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Set all weights of the model from arrays by the names of its layout, read from ``path``."""
    for name, weight in model.layout.items():
        if name not in arrays or arrays[name].shape != weight.shape:
            raise misfit(path, name)
    set_parameters(model, to_parameters(arrays, model.layout), path)


def misfit(path: Path, name: str) -> UserError:
    """What to say of an array that the settings in its file do not expect."""
    return UserError(
        f"{path}: array {name} is missing or does not fit the settings: the file is damaged"
    )


def read_json(path: Path) -> dict:
    """A JSON file of a run.

    :raises UserError: when it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no object of JSON")
        return content
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path} ({reason}): give the folder of a run that training has made"
        ) from None
