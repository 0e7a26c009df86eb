"""The file of a trained model, read and written, with all that is needed to use it.

    >>> trained = load_model("runs/ptb")       # a model, ready to compute
    >>> stored = read_model("runs/ptb")        # the same in NumPy: no model is built
    >>> save_model(trained)                    # to trained.path

All that a file says is checked before any memory is taken for it: types, bounds, and that its
arrays are those that its settings lead to. The format is that of :mod:`gluonlm.model.storage`.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from gluonlm.config import Config
from gluonlm.model.quantized import Integers, Quantized, check_schemes, read_quantized
from gluonlm.model.rnn import RNNModel
from gluonlm.model.storage import read_arrays, reading, write_arrays
from gluonlm.model.weights import GATES, Shape, layout, parameter_arrays, parameter_shapes
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_model_name, make_way
from gluonlm.system.typed import parse
from gluonlm.text.vocabulary import Dictionary

BEST, LAST = "best.safetensors", "last.safetensors"
MODELS = Path(__file__).resolve().parents[2] / "models"  # that come with the repository
Contexts = list[mx.Context] | None  # None: the CPU
MODEL_FORMAT, STATE_FORMAT = "gluonlm model", "gluonlm training state"


@dataclass(frozen=True)
class Stored:
    """What a model file holds."""

    arrays: dict[str, np.ndarray]  # as the file has them; in float32 by RNNModel.trainables' names
    dictionary: Dictionary
    config: Config
    level: str  # "word", "char" or "subword"
    path: Path
    pruned: tuple[str, ...] = ()  # names of the matrices whose zeros are to stay
    quantized: Quantized | None = None

    @property
    def weights(self) -> dict[str, np.ndarray | Integers]:
        """The weights by the names of :mod:`gluonlm.model.weights`."""
        if self.quantized:
            return self.quantized.weights
        weights = layout(self.config, len(self.dictionary))
        return {name: weight.of(self.arrays[weight.parameter]) for name, weight in weights.items()}

    def metadata(self) -> dict[str, str]:
        """What the user of a file must know besides its arrays."""
        config, dictionary = self.config.to_json(), self.dictionary.to_json()
        return {"config": config, "dictionary": dictionary, "level": self.level}


@dataclass(frozen=True)
class Trained:
    """A model with what is needed to use it."""

    model: RNNModel
    dictionary: Dictionary
    config: Config
    level: str
    path: Path
    pruned: tuple[str, ...] = ()
    quantized: Quantized | None = None  # its weights as a file has them, if not in float32

    metadata = Stored.metadata

    def beside(self, name: str) -> Path:
        """A file beside the model's; in the current folder if the model is one of MODELS."""
        ours = self.path.resolve().parent == MODELS
        return Path(name) if ours else self.path.with_name(name)


def save_model(trained: Trained) -> None:
    """Write a model to ``trained.path`` with all that is needed to use it."""
    metadata = {**trained.metadata(), "pruned": json.dumps(trained.pruned)}
    if trained.quantized:
        arrays = trained.quantized.arrays()
        metadata["quantized"] = trained.quantized.to_json()
    else:
        arrays = parameter_arrays(trained.model)
    write_arrays(trained.path, MODEL_FORMAT, arrays, metadata)


def save_output(trained: Trained, path: Path) -> None:
    """Write a model as a command was asked to: in a new folder, but over nothing that is trained. A
    UserError when it cannot be written."""
    check_model_name(path)
    make_way(path)
    save_model(replace(trained, path=path))


def read_model(path: str | Path) -> Stored:
    """Read a model from a run's folder, a model file, or one of :data:`MODELS` by its name; a
    UserError when there is none, it is damaged, or its arrays do not fit its settings."""
    path = model_file(Path(path))
    arrays, metadata = read_arrays(path, MODEL_FORMAT)
    with reading(path):
        config = Config.from_json(metadata["config"])
        dictionary = Dictionary.from_json(metadata["dictionary"])
        level = check_level(metadata["level"])
        pruned = tuple(parse(metadata.get("pruned", "[]"), list[str]))
        quantized, weights = None, layout(config, len(dictionary))
        if "quantized" in metadata:
            quantized = read_quantized(arrays, metadata["quantized"])
            check_arrays(quantized.weights, {name: one.shape for name, one in weights.items()})
            check_schemes(config, quantized)
        else:
            check_arrays(arrays, parameter_shapes(weights))
        if unknown := set(pruned) - set(weights):
            raise ValueError(f"there is no matrix {min(unknown)} that could be pruned")
    return Stored(arrays, dictionary, config, level, path, pruned, quantized)


def check_level(level: str) -> str:
    """What a model's tokens are; a ValueError when there is nothing of that name."""
    if level not in ("word", "char", "subword"):
        raise ValueError(f"its level is {level}")
    return level


def check_arrays(arrays: dict[str, np.ndarray | Integers], shapes: dict[str, Shape]) -> None:
    """Raise a ValueError unless there are arrays of these names and shapes, and no others."""
    for name in [*shapes, *arrays]:
        array = arrays.get(name)
        if array is None or name not in shapes or array.shape != tuple(shapes[name]):
            raise ValueError(f"array {name} is missing or does not fit the settings")
        if not isinstance(array, Integers) and array.dtype not in (np.float32, np.float16):
            raise ValueError(f"array {name} has numbers of the kind {array.dtype}")


def load_model(path: str | Path, contexts: Contexts = None) -> Trained:
    """Read a model from a run's folder or a model file onto the given devices (the CPU if None),
    without memory for gradients; errors are those of :func:`read_model`."""
    return make_model(read_model(path), contexts)


def make_model(stored: Stored, contexts: Contexts = None, precision: str = "float32") -> Trained:
    """The model of a file that has been read, on the given devices; see :func:`load_model`.

    :param precision: of the products (:mod:`gluonlm.model.precision`), however it was trained.
    """
    config = replace(stored.config, precision=precision)
    model = build_model(config, len(stored.dictionary), contexts, gradients=False)
    quantized = stored.quantized
    set_weights(model, quantized.floats() if quantized else stored.weights, stored.path)
    if quantized and stored.config.model in GATES and computes_in_half(quantized, contexts):
        model.cast("float16")
    return Trained(model, **{name: one for name, one in vars(stored).items() if name != "arrays"})


def model_file(path: Path) -> Path:
    """The file of a model: ``path``, the best one of a run's folder, or one of :data:`MODELS`."""
    file, bundled = best_file(path) if path.is_dir() else path, MODELS / f"{path.name}.safetensors"
    is_ours = path.parent == Path() and not file.exists() and not (path / "config.json").exists()
    return bundled if is_ours and bundled.exists() else file


def best_file(folder: Path) -> Path:
    """Where the best model of the run in a folder is: in there, or beside it under its name. A
    UserError when the run's config.json is damaged, or names a file elsewhere."""
    settings = folder / "config.json"
    said = read_json(settings).get("best", BEST) if settings.exists() else BEST
    path = Path(os.path.normpath(folder / said)) if isinstance(said, str) else folder
    home = Path(os.path.normpath(folder))
    beside = path.parent == home.parent and path.stem == home.name
    if home not in path.parents and not (beside and path != home):
        outside = f"its best model would be {said}, outside of the run; make that {BEST}"
        raise UserError(f"{settings} is damaged: {outside}")
    return path if beside else folder / said  # the folder may be a link to another place


def computes_in_half(quantized: Quantized, contexts: Contexts) -> bool:
    """Whether a model is to compute in float16: one stored so, on GPUs; MXNet cannot on a CPU."""
    half = all(scheme.kind == "fp16" for scheme in quantized.schemes.values())
    return half and bool(contexts) and all(ctx.device_type == "gpu" for ctx in contexts)


def build_model(
    config: Config,
    vocab_size: int,
    contexts: Contexts = None,
    gradients: bool = True,
    sparse: bool = False,
) -> RNNModel:
    """A model as the settings say, initialized on the given devices (the CPU if None), hybridized.

    :param gradients: False for a model that is not to be trained, and gets its weights from a file:
        there is no memory for gradients, which take as much, and nothing random is drawn.
    :param sparse: whether the embedding's gradient has only the rows of words that were seen.
    """
    model = RNNModel.from_config(config, vocab_size, sparse)
    if not gradients:
        model.collect_params().setattr("grad_req", "null")
        model.collect_params().setattr("init", mx.init.Zero())
    model.initialize(ctx=contexts or mx.cpu())
    # memory for segments of one length would be laid out anew for each other one, and stay taken
    model.hybridize(static_alloc=not config.random_bptt)
    return model


def set_parameters(model: RNNModel, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Set all parameters from arrays by :meth:`RNNModel.trainables`' names, read from ``path``."""
    parameters = model.trainables()
    with reading(path):
        check_arrays(arrays, {name: parameter.shape for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        for data in parameter.list_data():
            data[:] = arrays[name]


def set_weights(model: RNNModel, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Set all weights from arrays by the names of the model's layout, read from ``path``."""
    with reading(path):
        check_arrays(arrays, {name: weight.shape for name, weight in model.layout.items()})
    parameters = model.trainables()
    for name, weight in model.layout.items():
        for data in parameters[weight.parameter].list_data():
            weight.of(data)[:] = arrays[name]


def read_json(path: Path) -> dict:
    """A JSON file of a run; a UserError when it is missing or damaged."""
    try:
        return parse(path.read_text(encoding="utf-8"), dict[str, Any])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "give the folder of a run that training has made"
        raise UserError(f"cannot read {path} ({reason}): {advice}") from None
