"""Writing a model as an ONNX file, once ONNX Runtime gives what MXNet gives.

>>> export_onnx(load_model("runs/ptb"), Path("model.onnx")).difference
3.1e-07
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.compress.quantization import quantize_model
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import generate
from gluonlm.inference.scoring import surprise
from gluonlm.model.checkpoint import Trained
from gluonlm.onnx.load import has_integers
from gluonlm.onnx.session import OnnxModel, describe, seal
from gluonlm.system.errors import UserError, require
from gluonlm.system.files import check_output, write_output
from gluonlm.text.batches import batchify
from gluonlm.text.corpus import read_split
from gluonlm.text.locate import is_here

TOLERANCE = 1e-4  # of a logit, absolute, and relative where it is larger than 1
INTEGER_TOLERANCE = 0.5  # of the loss in nats: far more than rounding should cost
TEXT_TOKENS, OWN_TOKENS = 2000, 200  # to compare on: of the validation text, or by the model itself


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from MXNet."""

    path: Path
    report: str  # for the user
    difference: float | None = None  # largest of a logit or state; None where nothing is compared


def export_onnx(trained: Trained, path: Path) -> Exported:
    """Write a model as an ONNX file once ONNX Runtime agrees with MXNet on what it computes; a
    UserError when they disagree, onnx or onnxruntime is not installed, the format cannot express
    the model, or the file cannot be written."""
    require("onnx", "onnx", "onnxruntime")
    check_output(path)
    from gluonlm.onnx.layers import build  # here, because everything else works without onnx

    stored = trained.quantized or quantize_model(trained.model, {})
    content = seal(build(trained.config, stored, describe(trained)).SerializeToString())
    exported, (text, source) = OnnxModel(content), real_text(trained)
    if has_integers(trained):
        difference, agreement = None, agreement_of_integers(trained, exported, text, path)
        said = f"on {len(text)} tokens of {source} {agreement}"
    else:
        difference = compare(trained, exported, text)
        if not difference <= TOLERANCE:
            other = f"something else than MXNet (relative difference {difference:.1e})"
            advice = "export with --format gluon, and report this"
            raise UserError(f"ONNX Runtime computes {other}, so {path} was not written: {advice}")
        said = f"on random tokens and {len(text)} tokens of {source} ONNX Runtime and MXNet agree"
        said = f"{said} to {difference:.1e}"
    write_output(path, content)
    return Exported(path, f"{path}: {len(content) / 1e6:.3g} MB; {said}", difference)


def agreement_of_integers(
    trained: Trained, exported: OnnxModel, text: np.ndarray, path: Path
) -> str:
    """What it costs to round the inputs of integer weights, which MXNet does not; a UserError when
    that is so much that it must be a mistake."""
    both, start = (Predictor(trained.model), exported), trained.dictionary.start_id
    ours, theirs = (float(surprise(model, text, start).mean()) for model in both)
    if not abs(theirs - ours) <= INTEGER_TOLERANCE:
        worse = f"with integers the loss is {theirs:.2f} instead of {ours:.2f}"
        advice = "quantize with other settings, for example --int8 dynamic"
        raise UserError(f"{worse}, so {path} was not written: {advice}")
    return f"the loss is {theirs:.4f}, with the same weights in float32 arithmetic {ours:.4f}"


def real_text(trained: Trained) -> tuple[np.ndarray, str]:
    """Ids of some text and what it is: the model's validation text, or its own without that."""
    data, dictionary = trained.config.data, trained.dictionary
    with contextlib.suppress(UserError):  # the text may have changed or gone since the training
        if is_here(data):
            ids = read_split(data, "valid", dictionary, trained.level)
            return ids[:TEXT_TOKENS], "the validation text"
    (text,) = generate(Predictor(trained.model), dictionary, length=OWN_TOKENS)
    return text, "text by the model itself (its validation text is not here)"


def compare(trained: Trained, exported: OnnxModel, text: np.ndarray) -> float:
    """The largest difference of a logit or state, relative to its size where that is more than 1.

    Random tokens of several shapes begin with random states, a segment of the text with the state
    that MXNet has after the one before: from two states, a chaotic network would go two ways.
    """
    random, size = np.random.default_rng(0), len(trained.dictionary)
    differences = []
    for shape in ((1, 1), (5, 3), (2, 8)):
        zeros = exported.begin_state(shape[1])
        state = [random.normal(size=array.shape).astype(np.float32) for array in zeros]
        ids = random.integers(size, size=shape)
        differences.append(step_difference(trained, exported, ids, state)[0])
    columns = batchify(text, min(4, len(text)))  # (L, N)
    state = exported.begin_state(columns.shape[1])
    for start in range(0, len(columns), 10):
        difference, state = step_difference(trained, exported, columns[start : start + 10], state)
        differences.append(difference)
    return float(np.max(differences))  # not a number if one is not


def step_difference(
    trained: Trained, exported: OnnxModel, ids: np.ndarray, state: list
) -> tuple[float, list]:
    """One segment (T, N) by both from a state: the largest difference and MXNet's new state."""
    logits, ours = trained.model(mx.nd.array(ids), [mx.nd.array(array) for array in state])
    ours = [array.asnumpy() for array in ours]
    other, theirs = exported.predict(ids, state)
    pairs = zip([logits.asnumpy(), *ours], [other, *theirs], strict=True)
    return np.max([(abs(a - b) / np.maximum(1, abs(a))).max() for a, b in pairs]), ours
