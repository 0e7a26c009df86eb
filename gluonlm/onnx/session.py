"""A language model from an ONNX file, without MXNet: needs numpy, onnxruntime and xxhash only.

    >>> model = OnnxModel("runs/ptb/model.onnx")
    >>> logits, state = model.predict([[4], [7]], model.begin_state(1))  # (2, 1, V)

``gluonlm.load`` adds the vocabulary and all that one asks of a model of MXNet
(:class:`gluonlm.inference.language_model.LanguageModel`).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from gluonlm.config import Config
from gluonlm.system.errors import UserError, require
from gluonlm.system.runtime import prepare
from gluonlm.system.threads import Threads
from gluonlm.text.vocabulary import Dictionary

FORMAT = "gluonlm onnx 1"
ADVICE = "give an ONNX file that `python -m gluonlm.export` wrote"
DIGEST = 32  # characters
State = list[np.ndarray]
# the metadata entry "digest" as protobuf has it, up to its value
SEAL = b"\x72\x2a\x0a\x06digest\x12\x20"
# the key by which a tensor names another file, in each way that protobuf can write it: ours never
# do, and ONNX Runtime would read any file of the machine (the JSON that we store has no such bytes)
EXTERNAL = re.compile(rb"(\x0a|\x8a\x80*\x00)(\x08|\x88\x80*\x00)location")


class OnnxModel:
    """An ONNX model for scoring and generating text, from the file that :mod:`gluonlm.export`
    wrote, or its content; a UserError when there is none, or another program wrote it.

    :param threads: processor threads to use; None for as many as MXNet would.
    """

    # of a text at once: the (T, N, V) logits are held, and longer segments are not faster
    steps = 16

    def __init__(self, source: str | Path | bytes, threads: int | None = None):
        name, content = "the model", source
        if not isinstance(source, bytes):
            name, content = str(source), read_file(Path(source))
        runtime = prepare()
        self.content, self.name, self.sessions = content, name, {}
        self._use(threads or runtime.threads)
        most = 1 if threads is not None or runtime.threads_given else runtime.threads
        self.threads = Threads(most, self._use, first=most)
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        if self.metadata.get("format") != FORMAT:
            ours = "an ONNX model, but not one of this version of gluonlm"
            raise UserError(f"{source} is {ours}: {ADVICE}")
        inputs = {one.name: one.shape for one in self.session.get_inputs()}
        del inputs["ids"]
        self.scores = inputs.pop("targets", None) is not None  # a graph that gives losses, too
        self.states = inputs  # name: (steps, "N", size)
        self.outputs = [f"{name}_out" for name in self.states]
        self.options = None
        if self.scores:  # then only what the wanted outputs need is computed
            import onnxruntime

            self.options = onnxruntime.RunOptions()
            self.options.only_execute_path_to_fetches = True
        # these operators find one range for all columns of a call
        self.independent = b"DynamicQuantize" not in content

    def description(self) -> tuple[Dictionary, Config, str]:
        """The vocabulary, the settings and the level of the model, which its file carries."""
        try:
            dictionary = Dictionary.from_json(self.metadata["dictionary"])
            (size,) = (out.shape[-1] for out in self.session.get_outputs() if out.name == "logits")
            if len(dictionary) != size:
                raise ValueError(f"{len(dictionary)} words for {size} logits")
            return dictionary, Config.from_json(self.metadata["config"]), self.metadata["level"]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            damage = f"the ONNX file's vocabulary or settings are damaged ({error})"
            raise UserError(f"{damage}: export it again") from None

    def begin_state(self, batch_size: int) -> State:
        """A state of zeros: arrays (1, N, H), of a Transformer (M, N, C)."""
        shapes = [(steps, batch_size, size) for steps, _, size in self.states.values()]
        return [np.zeros(shape, np.float32) for shape in shapes]

    def predict(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Token ids (T, N) and a state -> logits (T, N, V) float32 and the new state."""
        return self._run(["logits"], ids, ids, state)

    def losses(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """Ids and targets (T, N) and a state -> -ln p of the targets (T, N) and the new state."""
        if not self.scores:
            logits, state = self.predict(ids, state)
            return cross_entropy(logits, targets), state
        return self._run(["losses"], ids, targets, state)

    def losses_and_logits(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """The same with the logits (T, N, V) in the middle, in one pass."""
        if not self.scores:
            logits, state = self.predict(ids, state)
            return cross_entropy(logits, targets), logits, state
        return self._run(["losses", "logits"], ids, targets, state)

    def _run(self, outputs: list[str], ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """Some outputs and the new state."""
        feed = dict(zip(self.states, state, strict=True), ids=np.asarray(ids, np.int64))
        if self.scores:
            feed["targets"] = np.asarray(targets, np.int64)
        with self.threads.timed(feed["ids"].size):
            found = self.session.run([*outputs, *self.outputs], feed, self.options)
        return *found[: len(outputs)], found[len(outputs) :]

    def _use(self, number: int) -> None:
        """Compute on so many threads, which a session of ONNX Runtime has for its life."""
        if number not in self.sessions:
            self.sessions[number] = open_session(self.content, number, self.name)
        self.session = self.sessions[number]


def describe(stored: Any) -> dict[str, str]:
    """What the user of an exported model, Stored or Trained, must know besides its weights."""
    return {"format": FORMAT, **stored.metadata()}


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats of each target (...) under softmax(logits) (..., V)."""
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]
    return np.log(np.exp(logits, out=logits).sum(-1)) - chosen


def seal(content: bytes) -> bytes:
    """An ONNX model with a further entry of metadata at its end: the XXH3 of all that is before."""
    return content + SEAL + xxhash.xxh3_128(content).hexdigest().encode()


def read_file(path: Path) -> bytes:
    """The content of an ONNX file; a UserError when there is none, or its content does not fit its
    digest."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: {ADVICE}")
    content = path.read_bytes()
    begin = max(0, len(content) - len(SEAL) - DIGEST)
    ours = FORMAT.encode() in content or content.startswith(SEAL, begin)
    if ours and seal(content[:begin]) != content:
        raise UserError(f"{path} is damaged: its content does not fit its digest; export it again")
    return content


def open_session(content: bytes, threads: int, name: str = "the model"):
    """A model in ONNX Runtime, on the CPU; a UserError when onnxruntime is not installed, or it
    cannot read the model."""
    require("onnx", "onnxruntime")
    import onnxruntime

    if EXTERNAL.search(content):
        raise UserError(f"{name} wants to read its weights from other files: {ADVICE}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # weights become float32 once, not at each call
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # without VNNI products of unsigned by signed integers overflow: make them of unsigned ones
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds of error share no other base
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is damaged or not an ONNX file ({reason}): {ADVICE}") from None
