"""Quantize a trained model, without training: fewer bytes, and integers where they are faster.

    python -m gluonlm.quantize runs/ptb                                # runs/ptb/int8.safetensors
    python -m gluonlm.quantize runs/ptb --fp16                         # half the bytes
    python -m gluonlm.quantize runs/ptb --int8 asymmetric,row,averaged # ranges that are measured
    python -m gluonlm.quantize runs/ptb --part decoder=fp16 --part layer0=int8,tensor,kl
    python -m gluonlm.quantize runs/ptb --table                        # the usual ones side by side

What it writes is a model like any other: for evaluate, generate and export. A scheme is words in
any order, the first of each line if none is said (:class:`gluonlm.model.quantized.Scheme`):

    int8 | fp16 | fp32                             numbers
    symmetric | asymmetric                         of weights and activations
    row | tensor                                   one scale for each output row, or for a matrix
    dynamic | extremes | averaged | kl | float     how the ranges of activations are known

Ranges are measured on the text that the model was trained on (:mod:`gluonlm.compress.calibrate`);
they are written beside the run and can be used again with ``--statistics``.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from gluonlm.cli import Parser, at_least, run
from gluonlm.compress.calibrate import COLUMNS, TOKENS, Statistics, calibrate, read_statistics
from gluonlm.compress.compare import TABLE, Row, compare, markdown
from gluonlm.compress.quantization import parts_of, quantize_model
from gluonlm.model.checkpoint import Trained, load_model, save_output
from gluonlm.model.quantized import Scheme, parse_scheme
from gluonlm.onnx.load import load
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output
from gluonlm.system.machine import record
from gluonlm.system.streams import printable

STATISTICS = "statistics.json"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("quantize", __doc__)
    add = parser.add_argument
    add("checkpoint", nargs="?", help="folder of a run, or model file")
    kind = parser.add_mutually_exclusive_group().add_argument
    words = "8-bit integers (default), with these words of a scheme"
    kind("--int8", nargs="?", const="int8", metavar="SCHEME", help=words)
    kind("--fp16", action="store_true", help="16-bit floating point instead")
    words = "another scheme for one part of the model"
    add("--part", action="append", default=[], metavar="NAME=SCHEME", help=words)
    ranges = parser.add_mutually_exclusive_group().add_argument
    ranges("--statistics", type=Path, metavar="FILE", help="use ranges that were measured before")
    words = f"training text to measure (default: {TOKENS})"
    ranges("--calibration-tokens", type=at_least(COLUMNS), help=words)
    names = f"int8.safetensors, fp16.safetensors or {TABLE}"
    add("--out", type=Path, help=f"file to write (default: {names})")
    words = "compare the usual schemes: bytes, perplexity, speed; writes no checkpoint"
    add("--table", action="store_true", help=words)
    words = "with --table: tokens of the validation and test text to evaluate (default: all)"
    add("--tokens", type=at_least(1), help=words)
    options = parser.parse_args(argv)
    if options.checkpoint is None:  # `--int8 RUN`: what follows is no scheme but the model
        if options.int8 in (None, "int8"):
            parser.error("name a run or a model file")
        options.checkpoint, options.int8 = options.int8, "int8"
    return options


def main(argv: list[str]) -> Trained | list[Row]:
    """Quantize, or compare, as the command line says; returns what was written, or the table."""
    options = parse(argv)
    if options.table and (options.int8 or options.fp16 or options.part):
        raise UserError("--table compares schemes of its own: leave out --int8, --fp16 and --part")
    if options.tokens and not options.table:
        raise UserError("--tokens is for --table: add that, or leave it out")
    trained = load_model(options.checkpoint)
    if trained.quantized:
        raise UserError(f"{trained.path} is quantized already: give the model that training wrote")
    if options.table:
        return table(trained, options, ["python", "-m", "gluonlm.quantize", *argv])
    base = Scheme("fp16") if options.fp16 else parse_scheme(options.int8 or "int8")
    schemes = choose_schemes(trained, base, options.part)
    statistics = None
    if any(scheme.clip for scheme in schemes.values()):
        statistics = statistics_for(trained, options).ranges
    elif options.statistics or options.calibration_tokens:
        advice = "leave out --statistics and --calibration-tokens"
        raise UserError(f"no part needs ranges that are known before: {advice}")
    path = options.out or trained.beside(f"{base.kind}.safetensors")
    quantized = replace(trained, quantized=quantize_model(trained.model, schemes, statistics))
    save_output(quantized, path)
    for scheme in dict.fromkeys(schemes.values()):
        print(f"{scheme}: {', '.join(part for part in schemes if schemes[part] == scheme)}")
    size, before = path.stat().st_size, trained.path.stat().st_size
    print(f"{path}: {size / 1e6:.3g} MB, {size / before:.1%} of the model it is made from")
    return replace(quantized, path=path)


def table(trained: Trained, options: argparse.Namespace, command: list[str]) -> list[Row]:
    """Measure the usual schemes, print them as a table and write it."""
    out = options.out or trained.beside(TABLE)
    check_output(out)
    rows, tokens = compare(trained, statistics_for(trained, options), load, options.tokens)
    print(markdown(rows, trained.level))
    model = {name: getattr(trained.config, name) for name in ("data", "model", "nhid")}
    record(out, command, **model, tokens=tokens, rows=[asdict(row) for row in rows])
    return rows


def choose_schemes(trained: Trained, base: Scheme, given: list[str]) -> dict[str, Scheme]:
    """The scheme of each part: ``base``, or what ``NAME=SCHEME`` says of it. A UserError when the
    model has no such part."""
    schemes = dict.fromkeys(parts_of(trained.model), base)
    for text in given:
        name, equals, words = text.partition("=")
        if name not in schemes or not equals:
            parts = f"the model's parts are {', '.join(schemes)}"
            raise UserError(f"--part {text}: write NAME=SCHEME; {parts}")
        schemes[name] = parse_scheme(words, base if base.kind == "int8" else Scheme())
    return schemes


def statistics_for(trained: Trained, options: argparse.Namespace) -> Statistics:
    """The statistics in the file that was named, or measured now and written beside the model."""
    if options.statistics:
        return read_statistics(options.statistics, trained.model)
    statistics = calibrate(trained, options.calibration_tokens or TOKENS)
    path = trained.beside(STATISTICS)
    statistics.save(path)
    text = f"tokens of the training text ({printable(statistics.source)})"
    print(f"{path}: ranges of activations on {statistics.tokens} {text}")
    return statistics


if __name__ == "__main__":
    run(main)
