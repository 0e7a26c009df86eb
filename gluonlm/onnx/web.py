"""A model for a browser: one file for the page that runs it, or the page with the model inside.

    python -m gluonlm.export runs/NAME --format web             # web.safetensors, for the page
    python -m gluonlm.export runs/NAME page.html                # the page: needs no server

The file is a plain safetensors file that ``page/lstm.js`` reads: matrices as INT8 with one scale
for each output row, biases as float32, the vocabulary in the header.
"""

import base64
import gzip
import json
import re
from pathlib import Path

from gluonlm.compress.quantization import parts_of, quantize_model
from gluonlm.model.checkpoint import Trained
from gluonlm.model.quantized import Scheme
from gluonlm.model.storage import serialized
from gluonlm.system.errors import UserError

FORMAT = "gluonlm-web"
PAGE = Path(__file__).parent / "page"
READ = {"austen": "Jane Austen"}  # the bundled data set, about which the page knows more
# INT8 weights, nothing else rounded
ROWS = Scheme(mode="symmetric", per="row", activations="float")


def web_file(trained: Trained) -> bytes:
    """The content of a file for the page, which calls the model by the text that it has read; a
    UserError when the page cannot compute such a model."""
    config = trained.config
    if config.model != "LSTM" or config.splits or config.adaptive:
        kind = config.model if config.model != "LSTM" else "LSTM with an adaptive softmax"
        known = "the page computes LSTM layers and a full softmax"
        raise UserError(f"{known}, not {kind}: export to ONNX instead")
    stored = trained.quantized
    schemes = stored.schemes.values() if stored else ()
    used = {(scheme.kind, scheme.mode, scheme.per) for scheme in schemes}
    if used != {("int8", "symmetric", "row")}:
        stored = quantize_model(trained.model, dict.fromkeys(parts_of(trained.model), ROWS))
    metadata = {
        "format": FORMAT,
        "name": READ.get(config.data) or Path(config.data).stem,
        "level": trained.level,
        "words": json.dumps(trained.dictionary.idx2word),
    }
    return serialized(stored.arrays(), metadata)


def page(trained: Trained) -> str:
    """The page as one HTML text: style, scripts and the model's file, in letters, inside. Raises a
    UserError as :func:`web_file`."""
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    letters = base64.b64encode(gzip.compress(web_file(trained), mtime=0)).decode()

    def script(match: re.Match) -> str:
        if match[1] == "model.js":
            return f'<script>useLetters("{letters}");</script>'
        own = (PAGE / match[1]).read_text(encoding="utf-8")
        return f'<script id="{Path(match[1]).stem}-source">\n{own}</script>'

    html = re.sub(r'<script src="([\w.]+)"></script>', script, html)
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    return html.replace('<link rel="stylesheet" href="page.css">', f"<style>\n{style}</style>")
