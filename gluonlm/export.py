"""Take a trained model out of the training environment, or bring one in from PyTorch.

python -m gluonlm.export runs/ptb                          # ONNX, to runs/ptb/model.onnx
python -m gluonlm.export model.pt serve/model.onnx
python -m gluonlm.export runs/ptb serve/ptb --format gluon # ptb-symbol.json, -0000.params and more
python -m gluonlm.export runs/ptb page.html                # runs the model in a browser
python -m gluonlm.export runs/ptb ptb.safetensors --format torch  # for PyTorch's RNNModel
python -m gluonlm.export ptb.safetensors ptb.pt --format gluonlm  # and back

Each carries vocabulary and settings. Before an ONNX file is written, ONNX Runtime must give MXNet's
logits and states for random tokens and for real text. Score with it: ``python -m gluonlm.evaluate
FILE.onnx``. With PyTorch: docs/guide/export.md.
"""

import argparse
from pathlib import Path

from gluonlm.cli import Parser, run
from gluonlm.model.checkpoint import load_model, read_model, save_output
from gluonlm.model.exchange import export_gluon, export_torch, import_torch
from gluonlm.onnx.export import Exported, export_onnx
from gluonlm.onnx.load import has_integers, simulated
from gluonlm.onnx.web import page, web_file
from gluonlm.system import typed
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output, write_output
from gluonlm.system.streams import counted
from gluonlm.text.vocabulary import Dictionary

NAMES = {"onnx": "model.onnx", "gluon": "model"}
NAMES |= {"torch": "torch.safetensors", "web": "web.safetensors"}
OWNERS = {"gluon": "Gluon's", "torch": "PyTorch's"}
SETTINGS = ("data", "model")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("export", __doc__)
    add = parser.add_argument
    add("checkpoint", help="folder of a run, or model file; of PyTorch with --format gluonlm")
    default = "model.onnx beside the model, for austen in the current folder"
    add("path", nargs="?", type=Path, help=f"what to write (default: {default})")
    formats = "(default: web if PATH ends in .html, else onnx)"
    add("--format", choices=(*NAMES, "gluonlm"), help=formats)
    group = parser.add_argument_group("with --format gluonlm")
    group.add_argument("--vocabulary", help="run, model, text with a token a line, or JSON list")
    group.add_argument("--data", help="the data set that the model is for")
    group.add_argument("--model", help="RNN_RELU, which the arrays do not tell from RNN_TANH")
    group.add_argument("--level", choices=("word", "char"), help="what the tokens are")
    options = parser.parse_args(argv)
    page_wanted = options.path is not None and options.path.suffix == ".html"
    options.format = options.format or ("web" if page_wanted else "onnx")
    return options


def main(argv: list[str]) -> Exported:
    """Export as the command line says; print what was written and how close it is to MXNet."""
    options = parse(argv)
    given = [name for name in ("vocabulary", *SETTINGS, "level") if getattr(options, name)]
    if given and options.format != "gluonlm":
        raise UserError(f"--{given[0]} is for a model from PyTorch: add --format gluonlm")
    exported = (bring_in if options.format == "gluonlm" else take_out)(options)
    print(exported.report)
    return exported


def take_out(options: argparse.Namespace) -> Exported:
    """Write a model of this package in another program's format."""
    trained = load_model(options.checkpoint)
    path = options.path or trained.beside(NAMES[options.format])
    if options.format == "onnx":
        return export_onnx(trained, path)
    if options.format == "web":
        check_output(path)
        content = page(trained).encode() if path.suffix == ".html" else web_file(trained)
        write_output(path, content)
        return Exported(path, f"{path}: {len(content) / 1e6:.3g} MB")
    if has_integers(trained):
        simulated(f"in {OWNERS[options.format]} format")
    if options.format == "gluon":
        export_gluon(trained, path)
        return Exported(path, f"{path}-symbol.json, {path}-0000.params, {path}-settings.json")
    check_output(path)
    export_torch(trained, path)
    return Exported(path, f"{path}: for RNNModel.load_state_dict; docs/guide/export.md says how")


def bring_in(options: argparse.Namespace) -> Exported:
    """Write a model of PyTorch's as one of this package."""
    if options.path is None or options.path.suffix == "":
        raise UserError("say which model file to write, for example ptb.pt")
    check_output(options.path)
    dictionary, known, level = vocabulary(options.vocabulary)
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name)}
    source, level = Path(options.checkpoint), options.level or level
    trained = import_torch(source, dictionary, known | given, level)
    save_output(trained, options.path)
    config = trained.config
    layers = f"{config.model}, {counted(config.nlayers, 'layer')} of {counted(config.nhid, 'unit')}"
    return Exported(options.path, f"{options.path}: {layers}, vocabulary {len(trained.dictionary)}")


def vocabulary(source: str | None) -> tuple[Dictionary | None, dict[str, str], str | None]:
    """The vocabulary of a run or model of this package, with its data and what its tokens are, or
    that in a text file with a token a line."""
    if source is None:
        return None, {}, None
    path = Path(source)
    if path.is_dir() or path.suffix not in (".txt", ".json"):
        stored = read_model(path)
        return stored.dictionary, {"data": stored.config.data}, stored.level
    try:
        text = path.read_text(encoding="utf-8")
        json_list = path.suffix == ".json"
        words = typed.parse(text, list[str]) if json_list else text.removesuffix("\n").split("\n")
        return Dictionary(words), {}, None
    except (OSError, ValueError) as error:
        wanted = "give a UTF-8 text with a token a line, or a JSON list"
        raise UserError(f"cannot read {path} ({error}): {wanted}") from None


if __name__ == "__main__":
    run(main)
