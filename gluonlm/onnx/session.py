"""A language model out of an ONNX file, without MXNet: this module needs numpy and onnxruntime only.

    >>> model = OnnxModel("runs/ptb/model.onnx")
    >>> logits, state = model.predict([[4], [7]], model.begin_state(1))  # (2, 1, V)
    >>> (ids,) = generate(model, model.dictionary, length=50)            # gluonlm.inference.sampling
    >>> surprise(model, ids, model.dictionary.start_id)                  # nats per token

It is a predictor, see :mod:`gluonlm.inference.sampling`: what writes and scores with a model of MXNet does so with this one.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gluonlm
from gluonlm.config import Config
from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import Dictionary

if TYPE_CHECKING:
    from gluonlm.model.checkpoint import Trained

FORMAT = "gluonlm onnx 1"


class OnnxModel:
    """A model for scoring and generating text.

    :param source: the file that :mod:`gluonlm.export` wrote, or its content.
    :param threads: processor threads to use; None for as many as MXNet would.
    :raises UserError: when there is no such file, it is not ONNX, or another program wrote it.
    """

    def __init__(self, source: str | Path | bytes, threads: int | None = None):
        self.session = open_session(source, threads or gluonlm.RUNTIME.threads)
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{source} is an ONNX model, but not one of this version of gluonlm: give a file that "
                "`python -m gluonlm.export` wrote"
            )
        self.dictionary, self.level = (
            Dictionary.from_json(metadata["dictionary"]),
            metadata["level"],
        )
        self.config = Config.from_json(metadata["config"])
        words = ("ids", "targets")
        self.states = {
            one.name: one.shape[-1] for one in self.session.get_inputs() if one.name not in words
        }  # name: H
        self.scores = any(
            one.name == "losses" for one in self.session.get_outputs()
        )  # instead of giving logits
        self.outputs = [f"{name}_out" for name in self.states]

    def begin_state(self, batch_size: int) -> list[np.ndarray]:
        """A state of zeros, arrays (1, N, H)."""
        return [np.zeros((1, batch_size, size), np.float32) for size in self.states.values()]

    def predict(
        self, ids: np.ndarray, state: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Token ids (T, N) and a state -> logits (T, N, V) float32 and the new state."""
        feed = dict(zip(self.states, state, strict=True))
        logits, *state = self.session.run(
            ["logits", *self.outputs], {"ids": np.asarray(ids, np.int64), **feed}
        )
        return logits, state

    def losses(
        self, ids: np.ndarray, targets: np.ndarray, state: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Token ids and targets (T, N) and a state -> negative log-likelihoods (T, N) in nats and the new state."""
        if not self.scores:
            logits, state = self.predict(ids, state)
            return cross_entropy(logits, targets), state
        feed = dict(zip(self.states, state, strict=True), targets=np.asarray(targets, np.int64))
        losses, *state = self.session.run(
            ["losses", *self.outputs], {"ids": np.asarray(ids, np.int64), **feed}
        )
        return losses, state


def describe(trained: "Trained") -> dict[str, str]:
    """What the user of an exported model must know besides its weights."""
    return {
        "format": FORMAT,
        "config": trained.config.to_json(),
        "dictionary": trained.dictionary.to_json(),
        "level": trained.level,
    }


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats of each target (...) under softmax(logits) (..., V)."""
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]
    return np.log(np.exp(logits, out=logits).sum(-1)) - chosen


def require(*packages: str) -> None:
    """Raise a UserError unless these packages are installed; they are optional."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"ONNX needs the package {package}: install it with `uv sync --group onnx` or with pip"
            )


def open_session(source: str | Path | bytes, threads: int):
    """The model in ONNX Runtime, on the CPU.

    :raises UserError: when onnxruntime is not installed, or it cannot read the file.
    """
    require("onnxruntime")
    import onnxruntime

    if isinstance(source, bytes):
        name = "the model"
    elif Path(source).is_file():
        name = source = str(source)
    else:
        raise UserError(
            f"there is no file {source}: give an ONNX file that `python -m gluonlm.export` wrote"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry(
        "session.disable_quant_qdq", "1"
    )  # weights become float32 once, not at each call
    # where a processor has no VNNI its products of unsigned by signed integers overflow: make them of unsigned ones
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds of error share no other base
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} is damaged or not an ONNX file ({reason}): give one that `python -m gluonlm.export` wrote"
        ) from None
