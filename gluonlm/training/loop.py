"""The training loop: an epoch, validation, and a whole run that stops and resumes exactly.

:mod:`gluonlm.training.fit` makes a :class:`Training` of settings and a text.
"""

import math
import time
from contextlib import nullcontext
from functools import partial

import numpy as np

from gluonlm.compress.pruning import Pruner
from gluonlm.compress.schedule_file import rules_of
from gluonlm.config import Config
from gluonlm.model.checkpoint import Trained
from gluonlm.model.pretrained import ENCODER, start_from_vectors
from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import SampledSoftmax, decoder_loss
from gluonlm.system.errors import UserError
from gluonlm.system.runtime import prepare as runtime
from gluonlm.system.streams import counted
from gluonlm.text.batches import batchify, get_batch, random_length, segments
from gluonlm.text.corpus import Corpus
from gluonlm.training.loss_scale import LossScale
from gluonlm.training.optim import Average, Schedule, Updater, stalled
from gluonlm.training.progress import Display
from gluonlm.training.resume import Progress, StopRequest, save_training
from gluonlm.training.run import Run
from gluonlm.training.session import LOCAL, ON_CPU, SINGLE, Group, Session
from gluonlm.training.step import Objective, State, evaluate, seed_step, train_step
from gluonlm.training.tensorboard import Events

PLOT_SECONDS = 10  # at most so often is the curve drawn, which takes as long as a short epoch
tell = partial(print, flush=True)  # what the loop has decided
FAR = 5.0  # nats above ln V, the loss of guessing: what does worse than that has diverged


class Training:
    """A run of training: the loop over epochs with validation, schedule, log and checkpoints.

    Everything random in step i depends on the seed and i alone, so a run that is resumed from any
    step has the very weights of one that was never stopped.
    """

    def __init__(
        self, model: RNNModel, corpus: Corpus, config: Config, run: Run, session: Session = ON_CPU
    ):
        self.model, self.corpus, self.config, self.run = model, corpus, config, run
        self.session, self.group = session, session.group
        self.contexts = list(session.contexts)
        self.source = training_columns(corpus, config, len(self.contexts), self.group)  # (L, N)
        local = session.kvstore if session.kvstore in LOCAL else "device"
        parameters = model.trainables()
        trained = dict(parameters)
        if config.freeze_embeddings:
            del trained[ENCODER]
        self.updater = Updater(trained, config.optimizer, config.wdecay, local, self.group)
        self.updater.scale = LossScale() if config.precision == "float16" else None
        self.pruner = Pruner(model, self.updater, rules_of(config), config.epochs)
        self.average = Average(parameters) if config.finetune and config.averages else None
        self.schedule = Schedule(config)
        loss_of = decoder_loss
        if config.softmax_samples:
            counts = np.bincount(corpus.train, minlength=len(corpus.dictionary))
            loss_of = SampledSoftmax(counts, config.softmax_samples)
        self.objective = Objective(loss_of, config.alpha, config.beta)
        settings, threads = config.to_json(), runtime().threads
        self.progress = Progress(corpus=corpus.hashes, settings=settings, threads=threads)
        self.plotted_at = time.monotonic()
        writes = session.tensorboard and self.group.rank == 0
        self.events = Events(run.log_path) if writes else None
        self.states = self._zero_states()
        self.display = Display(config.epochs, session.log_interval, self._log, corpus.level)

    def begin(self, command: str) -> None:
        """Write the run's first files, with the command that was typed; from then on it can be
        resumed, exactly."""
        if path := self.config.embeddings:
            found = start_from_vectors(path, self.model, self.corpus.dictionary)
            if self.group.rank == 0:
                print(f"{path}: vectors of {found} of {len(self.corpus.dictionary)} words")
        self.run.begin(self.config, command)
        save_training(self)

    def plan_epoch(self) -> list[tuple[int, int]]:
        """Beginning and steps of each segment of the epoch that the run stands in."""
        config, first_step = self.config, self.progress.step - self.progress.batch

        def length(batch):
            return random_length(config.bptt, config.seed, first_step + batch)

        plan = segments(len(self.source), config.bptt, length if config.random_bptt else None)
        return plan[: config.max_batches or None]

    @property
    def parameter_count(self) -> int:
        """Number of trained weights, shared ones once."""
        return sum(math.prod(parameter.shape) for parameter in self.model.trainables().values())

    def fit(self) -> bool:
        """Train to the last epoch; False if Ctrl-C or SIGTERM stopped it, with all work saved. A
        UserError when training diverges or a checkpoint cannot be written."""
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
        """Train from where the run stands to the end of the epoch, or until it shall stop."""
        progress = self.progress
        saved_at = started = time.monotonic()
        plan = self.plan_epoch()
        self.display.start_epoch(progress.epoch, progress.batch, len(plan))
        for start, steps in plan[progress.batch :]:
            now = time.monotonic()
            due = now - saved_at > self.session.checkpoint_seconds
            stopping, saving = self.group.all_reduce_flags(stop.asked, due)
            if stopping:
                break
            if saving:
                progress.seconds, started = progress.seconds + now - started, now
                save_training(self)
                saved_at = time.monotonic()
            done = progress.batch / len(plan)
            self._prune(progress.epoch + done)
            self._train_segment(start, steps, self.schedule.lr(progress.epoch, done))
        progress.seconds += time.monotonic() - started

    def _train_segment(self, start: int, steps: int, lr: float) -> None:
        """One step, on the segment of ``steps`` words that begins at ``start``."""
        progress, config = self.progress, self.config
        if config.random_bptt:  # a longer segment has a better gradient
            lr *= steps / config.bptt
        data, target = get_batch(self.source, start, steps)
        seed_step(config.seed, progress.step * self.group.world_size + self.group.rank)
        how = lr, config.clip, self.objective
        loss, self.states = train_step(self.model, self.updater, data, target, self.states, *how)
        if not math.isfinite(loss):
            raise self._diverged("the loss is not a finite number")
        if self.average:
            self.average.update()
        progress.batch += 1
        progress.step += 1
        tokens = data.size * self.group.world_size
        progress.loss_sum += loss * tokens
        progress.tokens += tokens
        self.display.step(progress.step, loss, tokens, lr)

    def _prune(self, epochs: float) -> None:
        """Prune what the schedule wants by now; what was before is no measure for less weights."""
        if self.pruner.advance(epochs):
            if self.average:
                self.average.steps = 0
            self.schedule.best, self.progress.valid_losses = math.inf, []
            sparsity = self.pruner.sparsity
            self._log({"kind": "pruning", "step": self.progress.step, "sparsity": sparsity})

    def _end_epoch(self) -> None:
        """Validate, and do what follows from that; all is saved before it is shown."""
        progress, started = self.progress, time.monotonic()
        train_loss = progress.loss_sum / progress.tokens
        valid_loss, improved = self.validate(train_loss)
        if improved:
            progress.best_epoch = progress.epoch
        lr = self.schedule.lr(progress.epoch, 1.0)
        self._react(valid_loss)
        progress.seconds += time.monotonic() - started
        record = {"kind": "epoch", "epoch": progress.epoch + 1, "step": progress.step}
        record |= {"train_loss": train_loss, "valid_loss": valid_loss, "lr": lr}
        record |= {"seconds": progress.seconds, "improved": improved}
        if self.pruner.kept:
            record["sparsity"] = self.pruner.sparsity
        self._log(record)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.loss_sum, progress.tokens = 0.0, 0
        self.states = self._zero_states()
        save_training(self)
        self.display.end_epoch(record, len(self.corpus.dictionary))
        if started - self.plotted_at > PLOT_SECONDS:
            self.run.plot(self.corpus.level)
            self.plotted_at = started

    def validate(self, train_loss: float = 0.0) -> tuple[float, bool]:
        """Loss of the model, or of its average, on the validation text, and whether it is the best:
        then that is saved. One that is pruned further takes the best one's place at any loss."""
        corpus, progress, columns = self.corpus, self.progress, self.config.eval_batch_size
        self.updater.synchronize()
        with self.average.in_place() if self.average else nullcontext():
            where = self.contexts[0], self.group
            loss = evaluate(self.model, corpus.valid, corpus.dictionary, columns, *where)
            guessing = math.log(len(corpus.dictionary))
            before = progress.valid_losses[-1] if progress.valid_losses else progress.best_loss
            if not math.isfinite(loss) or min(loss, train_loss, before) > guessing + FAR:
                raise self._diverged(f"the loss is {loss:.1f} nats, and {guessing:.1f} by guessing")
            improved = loss < progress.best_loss or self.pruner.pruned > progress.pruned
            if improved:
                progress.best_loss, progress.pruned = loss, self.pruner.pruned
                best = self.model, corpus.dictionary, self.config, corpus.level, self.run.best
                self.run.save_best(Trained(*best, tuple(self.pruner.kept)))
        return loss, improved

    def _react(self, valid_loss: float) -> None:
        """What a validation loss leads to: averaging, an early end, a lower learning rate."""
        config, progress = self.config, self.progress
        triggers = config.nonmono is not None and config.averages
        no_better = triggers and stalled(progress.valid_losses, valid_loss, config.nonmono)
        progress.valid_losses.append(valid_loss)
        if self.average:  # at a constant learning rate
            finetuned = config.finetune is not None and progress.epoch >= self.pruner.end
            progress.done = no_better and finetuned
            if progress.done and progress.epoch + 1 < config.epochs:
                tell("validation has stalled: finetuning ends here, more epochs would not help")
        elif no_better and config.optimizer == "sgd":
            self.average = Average(self.model.trainables())
            then = "from now on the average of the weights is validated and saved"
            tell(f"validation has stalled: {then}")
        elif self.schedule.end_epoch(valid_loss) and config.restore_best:
            self.run.restore(self.model)
            self.updater.synchronize()
        if config.early_stop and progress.epoch - progress.best_epoch >= config.early_stop:
            progress.done = True
            tell(f"{counted(config.early_stop, 'epoch')} without improvement: training ends here")

    def _zero_states(self) -> list[State]:
        columns = self.config.batch_size // (len(self.contexts) * self.group.world_size)
        return [self.model.begin_state(columns, ctx) for ctx in self.contexts]

    def _log(self, record: dict) -> None:
        self.progress.log_bytes = self.run.log(record)
        if self.events:
            self.events.add(record)

    def _diverged(self, reason: str) -> UserError:
        progress, kept = self.progress, ""
        if math.isfinite(progress.best_loss):
            kept = f"; the best model so far is in {self.run.best}"
        where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
        advice = f"lower --lr or set --clip{kept}"
        return UserError(f"training diverged in {where} ({reason}): {advice}")


def training_columns(
    corpus: Corpus, config: Config, devices: int, group: Group = SINGLE
) -> np.ndarray:
    """This worker's columns (L, N) of the training text; a UserError when the text is too short for
    all columns, or they cannot be divided over workers and devices."""
    size = config.batch_size
    if size % (devices * group.world_size):
        workers = f"{group.world_size} workers of " if group.world_size > 1 else ""
        parts = workers + counted(devices, "device")
        raise UserError(f"--batch-size {size} cannot be divided over {parts}: use a multiple")
    if len(corpus.train) < 2 * size:
        few = f"{counted(len(corpus.train), 'token')}, too few for --batch-size {size}"
        raise UserError(f"the training text has {few}: use a smaller batch or more text")
    return np.ascontiguousarray(batchify(corpus.train, size)[:, group.columns(size)])
