"""Take a trained model out of the training environment.

    python -m gluonlm.export runs/ptb                          # ONNX, to runs/ptb/model.onnx
    python -m gluonlm.export model.pt serve/model.onnx
    python -m gluonlm.export runs/ptb serve/ptb --format gluon # ptb-symbol.json, ptb-0000.params, ptb-settings.json

Either carries vocabulary and settings. Before an ONNX file is written, ONNX Runtime must give MXNet's logits and
states for random tokens and for real text. Score with it: ``python -m gluonlm.evaluate --onnx FILE``.
"""

import argparse
import contextlib
import json
import math
import re
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.cli import dashes, run
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import generate
from gluonlm.inference.scoring import surprise
from gluonlm.model.checkpoint import Trained, check_replaceable, load_model
from gluonlm.model.rnn import RNNModel
from gluonlm.onnx.load import has_integers, simulated
from gluonlm.onnx.session import OnnxModel, describe, require
from gluonlm.system import native
from gluonlm.system.errors import UserError
from gluonlm.system.files import write_atomically, writing
from gluonlm.text.corpus import batchify, encode_span
from gluonlm.text.sources import is_here, resolve

TOLERANCE = 1e-4  # of a logit, absolute, and relative where it is larger than 1
INTEGER_TOLERANCE = 0.5  # of the loss in nats: far more than rounding should cost
TEXT_TOKENS, OWN_TOKENS = (
    2000,
    200,
)  # of real text to compare on: of the validation text, or by the model itself


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from MXNet."""

    path: Path
    report: str  # for the user
    difference: float | None = (
        None  # largest of a logit or state, see :func:`compare`; None where nothing is compared
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(
        prog="python -m gluonlm.export",
        description="Write a trained model for use without training.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", help="folder of a run, or model file")
    parser.add_argument(
        "path", nargs="?", type=Path, help="what to write (default: model.onnx beside the model)"
    )
    parser.add_argument("--format", choices=("onnx", "gluon"), default="onnx", help="default: onnx")
    return parser.parse_args(dashes(argv))


def main(argv: list[str]) -> Exported:
    """Export as the command line says; print what was written and how close it is to MXNet."""
    options = parse(argv)
    trained = load_model(options.checkpoint)
    if options.format == "gluon":
        if has_integers(trained):
            simulated("in Gluon's format")
        exported = export_gluon(trained, options.path or trained.path.with_name("model"))
    else:
        exported = export_onnx(trained, options.path or trained.path.with_name("model.onnx"))
    print(exported.report)
    return exported


def export_onnx(trained: Trained, path: Path) -> Exported:
    """Write a model as an ONNX file once ONNX Runtime agrees with MXNet on what it computes.

    :raises UserError: when onnx or onnxruntime is not installed, the format cannot express the model, the two
        disagree, or the file cannot be written.
    """
    check_exportable(trained.model)
    check_replaceable(path)
    from gluonlm.onnx.graph import build

    content = build(trained.model, describe(trained), trained.quantized).SerializeToString()
    text, source = real_text(trained)
    exported = OnnxModel(content)
    if has_integers(trained):
        return write_integers(trained, exported, path, content, text, source)
    difference = compare(trained, exported, text)
    if not difference <= TOLERANCE:
        raise UserError(
            f"ONNX Runtime computes something else than MXNet (relative difference {difference:.1e}), so {path} was "
            "not written: export with --format gluon, and report this"
        )
    write(path, content)
    report = (
        f"{path}: {len(content) / 1e6:.3g} MB; on random tokens and {len(text)} tokens of {source} ONNX Runtime "
        f"and MXNet agree to {difference:.1e}"
    )
    return Exported(path, report, difference)


def check_exportable(model: RNNModel) -> None:
    """Raise a UserError when ONNX is not installed or does not know a part of the model; training asks beforehand."""
    require("onnx", "onnxruntime")
    from gluonlm.onnx.graph import (
        refuse_unknown,  # here, because everything else works without the package onnx
    )

    refuse_unknown(model)


def write_integers(
    trained: Trained, exported: OnnxModel, path: Path, content: bytes, text: np.ndarray, source: str
) -> Exported:
    """Write a model that multiplies integers; MXNet has its weights, but does not round what they multiply.

    :raises UserError: when that changes so much of what the model says of the text that it must be a mistake.
    """
    start = trained.dictionary.start_id
    ours, theirs = (
        float(surprise(model, text, start).mean()) for model in (Predictor(trained.model), exported)
    )
    if not abs(theirs - ours) <= INTEGER_TOLERANCE:
        raise UserError(
            f"with integers the loss on {source} is {theirs:.2f} instead of {ours:.2f}, so {path} was not written: "
            "quantize with other settings, for example --int8 dynamic"
        )
    write(path, content)
    report = (
        f"{path}: {len(content) / 1e6:.3g} MB; on {len(text)} tokens of {source} the loss is {theirs:.4f}, with the "
        f"same weights in float32 arithmetic {ours:.4f}"
    )
    return Exported(path, report)


def real_text(trained: Trained) -> tuple[np.ndarray, str]:
    """Ids of some real text and what it is: the model's validation text, or its own where that is not here."""
    data, dictionary = trained.config.data, trained.dictionary
    with contextlib.suppress(UserError):  # the text may have changed or gone since the training
        if is_here(data):
            span = replace(resolve(data).valid, encoding=dictionary.encoding)
            return encode_span(span, dictionary, trained.level)[:TEXT_TOKENS], "the validation text"
    (text,) = generate(Predictor(trained.model), dictionary, length=OWN_TOKENS)
    return text, "text by the model itself"


def compare(trained: Trained, exported: OnnxModel, text: np.ndarray) -> float:
    """The largest difference of a logit or state, relative to its size where that is more than 1.

    Random tokens of several shapes begin with random states; the text is read in segments that pass on theirs.
    """
    random, size = np.random.default_rng(0), len(trained.dictionary)
    differences = []
    for shape in ((1, 1), (5, 3), (2, 8)):
        state = [
            random.normal(size=array.shape).astype(np.float32)
            for array in exported.begin_state(shape[1])
        ]
        differences.append(
            step_difference(trained, exported, random.integers(size, size=shape), state, state)[0]
        )
    columns = batchify(text, min(4, len(text)))  # (L, N)
    ours = theirs = exported.begin_state(columns.shape[1])
    for start in range(0, len(columns), 10):
        difference, ours, theirs = step_difference(
            trained, exported, columns[start : start + 10], ours, theirs
        )
        differences.append(difference)
    return max(differences, key=lambda value: math.inf if math.isnan(value) else value)


def step_difference(
    trained: Trained, exported: OnnxModel, ids: np.ndarray, ours: list, theirs: list
) -> tuple:
    """One segment (T, N) by both from their states: the largest difference, MXNet's new state, ONNX's new state."""
    logits, ours = trained.model(mx.nd.array(ids), [mx.nd.array(array) for array in ours])
    ours = [array.asnumpy() for array in ours]
    other, theirs = exported.predict(ids, theirs)
    pairs = zip([logits.asnumpy(), *ours], [other, *theirs], strict=True)
    return max(float((abs(a - b) / np.maximum(1, abs(a))).max()) for a, b in pairs), ours, theirs


def export_gluon(trained: Trained, prefix: Path) -> Exported:
    """Write PREFIX-symbol.json and PREFIX-0000.params as Gluon does, and PREFIX-settings.json.

    :raises UserError: when a file cannot be written.
    """
    trained.model(
        mx.nd.zeros((1, 1)), trained.model.begin_state(1)
    )  # Gluon exports what has been traced
    with writing(prefix):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=prefix.parent)
    with temporary as folder:
        try:
            trained.model.export(f"{folder}/model")
        except mx.MXNetError as error:
            reason = str(error).splitlines()[-1]
            raise UserError(
                f"MXNet cannot write {prefix} ({reason}): free some space or choose another place"
            ) from None
        for path in Path(folder).iterdir():
            write(Path(f"{prefix}{path.name.removeprefix('model')}"), path.read_bytes())
    write(Path(f"{prefix}-settings.json"), json.dumps(describe(trained)).encode())
    return Exported(prefix, f"{prefix}-symbol.json, {prefix}-0000.params, {prefix}-settings.json")


def load_gluon(prefix: str | Path, ctx: mx.Context | None = None) -> mx.gluon.SymbolBlock:
    """What :func:`export_gluon` wrote, as a block: ``logits, *state = block(inputs, *state)``.

    :raises UserError: when there is no such file.
    """
    for name in (f"{prefix}-symbol.json", f"{prefix}-0000.params"):
        if not Path(name).is_file():
            raise UserError(f"there is no file {name}: give the prefix that was exported to")
    if "gluonlm_fo_pool" in Path(f"{prefix}-symbol.json").read_text():
        native.load_operators("fo_pool")
    symbol = mx.sym.load(f"{prefix}-symbol.json")
    inputs = sorted(
        (name for name in symbol.list_inputs() if re.fullmatch(r"data\d+", name)),
        key=lambda n: int(n[4:]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Cannot decide type"
        )  # of the inputs, which may be of any
        return mx.gluon.SymbolBlock.imports(
            f"{prefix}-symbol.json", inputs, f"{prefix}-0000.params", ctx
        )


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


if __name__ == "__main__":
    run(main)
