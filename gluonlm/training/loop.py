"""The training loop: one step, one epoch, evaluation, and a whole run that stops and resumes exactly.

>>> training = Training(model, corpus, config, run)      # see gluonlm.train for the command
>>> training.fit()
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from gluonlm.compress.pruning import Pruner
from gluonlm.compress.schedule import rules_of
from gluonlm.config import FALLING, Config
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.scoring import total_loss
from gluonlm.model.regularize import activation_penalty
from gluonlm.model.rnn import RNNModel, detach
from gluonlm.model.softmax import SampledSoftmax, decoder_loss
from gluonlm.system import memory
from gluonlm.system.errors import UserError
from gluonlm.text.batches import batchify, evaluation_columns, get_batch, random_length, segments
from gluonlm.text.corpus import Corpus, Dictionary
from gluonlm.training.group import LOCAL, SINGLE, Group
from gluonlm.training.optim import Average, Schedule, Updater, stalled
from gluonlm.training.progress import Display
from gluonlm.training.resume import Progress, State, StopRequest, save_training
from gluonlm.training.run import Run

PLOT_SECONDS = 10  # at most so often is the curve drawn, which takes as long as a short epoch


def train_step(
    model: RNNModel,
    updater: Updater,
    data: np.ndarray,
    target: np.ndarray,
    states: list[State],
    lr: float,
    clip: float,
    loss_of: Callable[[RNNModel, nd.NDArray, np.ndarray], nd.NDArray] = decoder_loss,
    alpha: float = 0.0,
    beta: float = 0.0,
) -> tuple[float, list[State]]:
    """One update from one segment, its columns divided over the updater's devices; other workers bring theirs.

    :param data: word ids (T, N); :param target: the ids that follow them (T, N).
    :param states: one state per device, carried over from the segment before.
    :param loss_of: gives the losses (T*n,) of features (T, n, C) and targets (T, n).
    :param alpha: a weight of :func:`gluonlm.model.regularize.activation_penalty`; :param beta: the other one.
    :return: mean loss in nats per token, without penalties (not finite when training has diverged), and the new
        states, detached.
    """
    inputs = gluon.utils.split_and_load(data, updater.contexts, batch_axis=1)
    targets = np.split(target, len(updater.contexts), axis=1)  # the losses take them as they are
    losses, penalties, new_states = [], [], []
    with autograd.record():
        for x, y, state in zip(inputs, targets, states, strict=True):
            if alpha or beta:
                features, state, raw, dropped = model.body_with_outputs(x, state)
                penalties.append(
                    activation_penalty(raw, dropped, alpha, beta) * (x.size / data.size)
                )
            else:
                features, state = model.body(x, state)  # (T, n, C)
            losses.append(loss_of(model, features, y).sum() / data.size)
            new_states.append(state)
    autograd.backward(losses + penalties)
    loss = nd.add_n(*(loss.as_in_context(updater.contexts[0]) for loss in losses))
    norm = updater.step(lr, clip, loss)
    loss = float(loss.asscalar())
    memory.give_back()
    return loss if math.isfinite(norm) else math.nan, [detach(state) for state in new_states]


def seed_step(seed: int, step: int) -> None:
    """Make all that is random in a training step a function of the run's seed and the step's number."""
    mx.random.seed((seed * 1_000_003 + step) % 2**31)
    np.random.seed((seed * 1_000_003 + step) % 2**32)


def evaluate(
    model: RNNModel,
    ids: np.ndarray,
    dictionary: Dictionary,
    batch_size: int,
    ctx: mx.Context | None = None,
    group: Group = SINGLE,
) -> float:
    """Mean negative log-likelihood in nats over every token of ``ids``; its exp is the perplexity.

    The text is cut in ``batch_size`` columns that are read side by side from a zero state, divided over the workers.

    :raises UserError: when ``ids`` is empty.
    """
    own = group.columns(evaluation_columns(ids, batch_size))
    total = total_loss(Predictor(model, ctx), ids, dictionary, batch_size, own)
    return sum(group.all_gather_object("evaluation", total)) / len(ids)


class Training:
    """A run of training: the loop over epochs with validation, schedule, log and checkpoints.

    Everything random in step i depends on the seed and i alone, so a run that is resumed from any step has the very
    weights of one that was never stopped.
    """

    def __init__(
        self,
        model: RNNModel,
        corpus: Corpus,
        config: Config,
        run: Run,
        contexts: Sequence[mx.Context] = (mx.cpu(),),
        log_interval: int = 200,
        checkpoint_seconds: float = 60.0,
        kvstore: str = "device",
        group: Group = SINGLE,
    ):
        self.model, self.corpus, self.config, self.run = model, corpus, config, run
        self.contexts, self.checkpoint_seconds, self.group = (
            list(contexts),
            checkpoint_seconds,
            group,
        )
        self.source = training_columns(corpus, config, len(self.contexts), group)  # (L, N)
        local = kvstore if kvstore in LOCAL else "device"
        self.updater = Updater(model.trainables(), config.optimizer, config.wdecay, local, group)
        self.pruner = Pruner(model, self.updater, rules_of(config), config.epochs)
        # a rate that falls to 0 does what averaging is for, and the mean would lag behind the last weights
        self.may_average = config.schedule not in FALLING
        self.average = Average(model.trainables()) if config.finetune and self.may_average else None
        self.schedule = Schedule(config)
        self.loss_of = decoder_loss
        if config.softmax_samples:
            self.loss_of = SampledSoftmax(
                np.bincount(corpus.train, minlength=len(corpus.dictionary)), config.softmax_samples
            )
        self.progress, self.plotted_at = Progress(corpus=corpus.hashes), time.monotonic()
        self.states = self._zero_states()
        self.display = Display(config.epochs, log_interval, self._log, corpus.level)

    def plan_epoch(self) -> list[tuple[int, int]]:
        """Beginning and steps of each segment of the epoch that the run stands in."""
        config, first_step = self.config, self.progress.step - self.progress.batch
        length = None
        if config.random_bptt:

            def length(batch):
                return random_length(config.bptt, config.seed, first_step + batch)

        return segments(len(self.source), config.bptt, length)[: config.max_batches or None]

    @property
    def parameter_count(self) -> int:
        """Number of trained weights, shared ones once."""
        return sum(math.prod(parameter.shape) for parameter in self.model.trainables().values())

    def fit(self) -> bool:
        """Train to the last epoch; False if stopped before by Ctrl-C or SIGTERM, with all work saved.

        :raises UserError: when training diverges or a checkpoint cannot be written.
        """
        self.updater.synchronize()
        stopped = False
        with StopRequest() as stop:
            while self.progress.epoch < self.config.epochs and not self.progress.done:
                self._train_epoch(stop)
                stopped = any(self.group.all_gather_object("end of an epoch", stop.asked))
                if stopped:
                    save_training(self)
                    break
                self._end_epoch()
        self.display.close()
        self.run.plot(self.corpus.level)
        return not stopped

    def _train_epoch(self, stop: StopRequest) -> None:
        progress, config = self.progress, self.config
        penalties = config.alpha, config.beta
        saved_at = started = time.monotonic()
        plan = self.plan_epoch()
        self.display.start_epoch(progress.epoch, progress.batch, len(plan))
        for start, steps in plan[progress.batch :]:
            now = time.monotonic()
            stopping, saving = self.group.all_reduce_flags(
                stop.asked, now - saved_at > self.checkpoint_seconds
            )
            if stopping:
                break
            if saving:
                progress.seconds, started = progress.seconds + now - started, now
                save_training(self)
                saved_at = time.monotonic()
            data, target = get_batch(self.source, start, steps)
            seed_step(config.seed, progress.step * self.group.world_size + self.group.rank)
            self._prune(progress.epoch + progress.batch / len(plan))
            lr = self.schedule.lr(progress.epoch, progress.batch / len(plan))
            if config.random_bptt:  # a longer segment has a better gradient
                lr *= steps / config.bptt
            loss, self.states = train_step(
                self.model,
                self.updater,
                data,
                target,
                self.states,
                lr,
                config.clip,
                self.loss_of,
                *penalties,
            )
            if not math.isfinite(loss):
                raise UserError(self._diverged())
            if self.average:
                self.average.update()
            progress.batch += 1
            progress.step += 1
            tokens = data.size * self.group.world_size
            progress.loss_sum += loss * tokens
            progress.tokens += tokens
            self.display.step(progress.step, loss, tokens, lr)
        progress.seconds += time.monotonic() - started

    def _prune(self, epochs: float) -> None:
        """Prune what the schedule wants after so many epochs. What was before is no measure for a model with less."""
        if self.pruner.advance(epochs):
            if self.average:
                self.average.steps = 0
            self.schedule.best, self.progress.valid_losses = math.inf, []
            self._log(
                {"kind": "pruning", "step": self.progress.step, "sparsity": self.pruner.sparsity}
            )

    def _end_epoch(self) -> None:
        progress, started = self.progress, time.monotonic()
        valid_loss, improved = self.validate()
        if improved:
            progress.best_epoch = progress.epoch
        lr = self.schedule.lr(progress.epoch, 1.0)
        self._react(valid_loss)
        progress.seconds += time.monotonic() - started
        train_loss = progress.loss_sum / progress.tokens
        record = {"epoch": progress.epoch + 1, "step": progress.step, "train_loss": train_loss}
        record |= {
            "valid_loss": valid_loss,
            "lr": lr,
            "seconds": progress.seconds,
            "improved": improved,
        }
        if self.pruner.kept:
            record["sparsity"] = self.pruner.sparsity
        self._log({"kind": "epoch", **record})
        self.display.end_epoch(record, len(self.corpus.dictionary))
        if started - self.plotted_at > PLOT_SECONDS:
            self.run.plot(self.corpus.level)
            self.plotted_at = started
        progress.epoch, progress.batch, progress.loss_sum, progress.tokens = (
            progress.epoch + 1,
            0,
            0.0,
            0,
        )
        self.states = self._zero_states()
        save_training(self)

    def validate(self) -> tuple[float, bool]:
        """Loss on the validation text, and whether it is the best so far: then the model is saved.

        While weights are averaged it is the average that is evaluated and saved. A model that is pruned further than
        the best one takes its place, even if its loss is higher.
        """
        corpus, progress, columns = self.corpus, self.progress, self.config.eval_batch_size
        self.updater.synchronize()
        with self.average.in_place() if self.average else nullcontext():
            loss = evaluate(
                self.model, corpus.valid, corpus.dictionary, columns, self.contexts[0], self.group
            )
            if not math.isfinite(loss):
                raise UserError(self._diverged())
            improved = loss < progress.best_loss or self.pruner.pruned > progress.pruned
            if improved:
                progress.best_loss, progress.pruned = loss, self.pruner.pruned
                pruned = tuple(self.pruner.kept)
                self.run.save_best(self.model, corpus.dictionary, self.config, corpus.level, pruned)
        return loss, improved

    def _react(self, valid_loss: float) -> None:
        """What an epoch's validation loss leads to: averaging, an early end, or a lower learning rate."""
        config, progress = self.config, self.progress
        triggers = config.nonmono is not None and self.may_average
        no_better = triggers and stalled(progress.valid_losses, valid_loss, config.nonmono)
        progress.valid_losses.append(valid_loss)
        if self.average:  # at a constant learning rate
            progress.done = (
                no_better and config.finetune is not None and progress.epoch >= self.pruner.end
            )
            if progress.done and progress.epoch + 1 < config.epochs:
                print(
                    "validation has stalled: finetuning ends here, more epochs would not help",
                    flush=True,
                )
        elif no_better and config.optimizer == "sgd":
            self.average = Average(self.model.trainables())
            print(
                "validation has stalled: from now on the average of the weights is validated and saved",
                flush=True,
            )
        elif self.schedule.end_epoch(valid_loss) and config.restore_best:
            self.run.restore(self.model)
            self.updater.synchronize()
        if config.early_stop and progress.epoch - progress.best_epoch >= config.early_stop:
            progress.done = True
            print(f"{config.early_stop} epochs without improvement: training ends here", flush=True)

    def _zero_states(self) -> list[State]:
        columns = self.config.batch_size // (len(self.contexts) * self.group.world_size)
        return [self.model.begin_state(columns, ctx) for ctx in self.contexts]

    def _log(self, record: dict) -> None:
        self.progress.log_bytes = self.run.log(record)

    def _diverged(self) -> str:
        kept = (
            f"; the best model so far is in {self.run.best}"
            if math.isfinite(self.progress.best_loss)
            else ""
        )
        return (
            f"training diverged in epoch {self.progress.epoch + 1}, step {self.progress.step + 1} (the loss is not a "
            f"finite number): lower --lr or set --clip{kept}"
        )


def training_columns(
    corpus: Corpus, config: Config, devices: int, group: Group = SINGLE
) -> np.ndarray:
    """This worker's columns (L, N) of the training text.

    :raises UserError: when the text is too short for all columns, or they cannot be divided over workers and devices.
    """
    if config.batch_size % (devices * group.world_size):
        parts = (
            f"{group.world_size} workers of {devices} devices"
            if group.world_size > 1
            else f"{devices} devices"
        )
        raise UserError(
            f"--batch-size {config.batch_size} cannot be divided over {parts}: use a multiple"
        )
    if len(corpus.train) < 2 * config.batch_size:
        raise UserError(
            f"the training text has {len(corpus.train)} tokens, too few for --batch-size {config.batch_size}: "
            "use a smaller batch or more text"
        )
    return np.ascontiguousarray(
        batchify(corpus.train, config.batch_size)[:, group.columns(config.batch_size)]
    )
