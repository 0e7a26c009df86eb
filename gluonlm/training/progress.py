"""What training shows: a progress bar on a terminal, else a line now and then; each epoch."""

import math
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from tqdm import tqdm

from gluonlm.inference.scoring import displayed

FIRST_SECONDS = 5.0  # of training, after which a first line shows that it goes on


class Display:
    """Progress of a run on stderr, and its interval records for the log.

    :param log: called with a record each ``log_interval`` steps.
    :param level: "word" or "char": losses are shown as perplexity or as bits per character.
    """

    def __init__(
        self, epochs: int, log_interval: int, log: Callable[[dict], None], level: str = "word"
    ):
        self.epochs, self.log_interval, self.log, self.level = epochs, log_interval, log, level
        self.bar: tqdm | None = None
        self.spoken = False  # whether a line has been shown
        self._reset()

    def _reset(self) -> None:
        self.loss, self.tokens, self.started = 0.0, 0, time.monotonic()

    def start_epoch(self, epoch: int, batch: int, batches: int) -> None:
        """Begin to show an epoch (from 0), of which ``batch`` of ``batches`` are done."""
        self.epoch, self.batch, self.batches = epoch, batch, batches
        title, disable = f"epoch {epoch + 1}/{self.epochs}", not sys.stderr.isatty()
        shown = {"desc": title, "unit": "batch", "leave": False, "disable": disable}
        self.bar = tqdm(total=batches, initial=batch, **shown)
        self._reset()

    def step(self, step: int, loss: float, tokens: int, lr: float) -> None:
        """Take note of a training step: its mean loss over so many tokens."""
        self.loss += loss * tokens
        self.tokens += tokens
        self.batch += 1
        self.bar.update()
        seconds = time.monotonic() - self.started
        logged = self.batch % self.log_interval == 0 or self.batch == self.batches
        first = self.bar.disable and not self.spoken and seconds > FIRST_SECONDS
        if self.bar.disable and not (logged or first):
            return
        mean, speed = self.loss / self.tokens, self.tokens / seconds
        left = self._left(tokens / speed)
        text = f"loss {mean:.3f}, {shown(mean, self.level)}, {speed:.0f} tokens/s, {left[1]} to go"
        self.bar.set_postfix_str(text, refresh=False)
        if self.bar.disable:
            self._print_line(mean, speed, lr, left)
        if logged:
            record = {"step": step, "loss": mean, "lr": lr, "tokens_per_second": speed}
            self.log({"kind": "interval", **record})
            self._reset()

    def _left(self, seconds: float) -> list[timedelta]:
        """What is left of the epoch and of the run, without validation, at so many seconds a
        batch."""
        epoch = self.batches - self.batch
        run = epoch + (self.epochs - self.epoch - 1) * self.batches
        return [timedelta(seconds=round(batches * seconds)) for batches in (epoch, run)]

    def _print_line(self, loss: float, speed: float, lr: float, left: list[timedelta]) -> None:
        self.spoken = True
        print(
            f"epoch {self.epoch + 1:3d}/{self.epochs} | batch {self.batch:5d}/{self.batches} | "
            f"lr {lr:.4g} | loss {loss:5.3f} | {shown(loss, self.level)} | "
            f"{speed:6.0f} tokens/s | left: epoch {left[0]}, run {left[1]}",
            file=sys.stderr,
        )

    def end_epoch(self, record: dict, vocab_size: int) -> None:
        """Print the epoch's summary line."""
        self.close()
        notes = f" | {record['sparsity']:.1%} pruned" if "sparsity" in record else ""
        notes += " | best model saved" if record["improved"] else ""
        print(
            f"epoch {record['epoch']:3d} | {record['seconds']:6.0f} s in all | "
            f"lr {record['lr']:.4g} | train {shown(record['train_loss'], self.level)} | "
            f"valid loss {record['valid_loss']:.4f} | "
            f"valid {shown(record['valid_loss'], self.level)}{notes}",
            flush=True,
        )
        if record["train_loss"] > (guessing := math.log(vocab_size)):
            worse = f"the training loss is above ln V = {guessing:.2f}, worse than guessing"
            print(f"{worse}: lower --lr", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def shown(loss: float, level: str) -> str:
    """Figure and unit, short and as wide as any other."""
    unit, width = ("bpc", 7) if level == "char" else ("ppl", 8)
    return f"{unit} {displayed(loss, level):>{width}}"
