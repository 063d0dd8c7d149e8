"""Lightning's training loops, resumed at the very place where a checkpoint was written.

A checkpoint that is written when a batch ends holds that batch's step, but what Lightning does next is lost on resumption: the metrics
of that batch are not logged, a validation that is due is skipped, the end of the epoch is not called, and where it was the last step
`fit` returns at once, without `on_train_end`. These loops do what was left to do, then go on.

They are put in place of Lightning's by :class:`~sparsek.callbacks.ExactResume` and change nothing in a run that is not resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


@dataclass(frozen=True)
class Place:
    """What Lightning does not keep of the place where a checkpoint was written, and what a resumed run does about it."""

    before_start: Callable[[], None]
    """Called when a resumed run is about to ask for its data."""
    before_going_on: Callable[[], None]
    """Called when it goes on, the data being at their place."""
    pending: Callable[[], Mapping[str, Any]]
    """Gives what the last batch, or the last epoch, had logged and was not yet written."""
    carried: Callable[[], Mapping[str, Any]]
    """Gives the latest values of all that batches of this epoch logged."""


class ExactEpochLoop(_TrainingEpochLoop):
    """Goes on behind the last batch, not before the next."""

    place: Place
    carried: Mapping[str, Any] = {}
    """What batches of this epoch logged before the checkpoint that it goes on from."""

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Run one epoch, or the rest of it."""
        if not self.is_resuming:
            super().run(data_fetcher)
            return
        self.place.before_going_on()
        with self._carrying():
            if self.restarted_on_train_batch_end:
                self._finish_batch(data_fetcher)
                self._go_on(data_fetcher)
            else:
                super().run(data_fetcher)

    @contextmanager
    def _carrying(self) -> Iterator[None]:
        """Log what batches before the checkpoint logged: Lightning repeats it in every line of an epoch until there is something new."""
        connector, self.carried = cast(Any, self.trainer._logger_connector), self.place.carried()
        log = connector.log_metrics

        def log_all(metrics: Mapping[str, Any], step: int | None = None) -> None:
            log({**self.carried, **metrics} if self.trainer.training else metrics, step)

        connector.log_metrics = log_all
        try:
            yield
        finally:
            self.carried = {}
            del connector.log_metrics

    def _finish_batch(self, data_fetcher: _DataFetcher) -> None:
        """What comes after `on_train_batch_end`."""
        self.batch_progress.increment_completed()
        self.on_run_start(data_fetcher)
        if pending := self.place.pending():
            self.trainer._logger_connector.log_metrics(dict(pending))
        self.on_iteration_done()
        self.val_loop.on_iteration_done()
        self.on_advance_end(data_fetcher)

    def _go_on(self, data_fetcher: _DataFetcher) -> None:
        """The other batches, as :meth:`_TrainingEpochLoop.run` runs them."""
        while not self.done:
            try:
                self.advance(data_fetcher)
                self.on_advance_end(data_fetcher)
            except StopIteration:
                break
            finally:
                self.on_iteration_done()


class ExactFitLoop(_FitLoop):
    """Ends epochs and the training also where the last step was done before the run was killed."""

    epoch_loop: ExactEpochLoop
    place: Place

    @property
    def done(self) -> bool:
        """Whether no epoch is left to begin or to end."""
        return super().done and not (self.is_resuming and self._within_epoch)

    @property
    def skip(self) -> bool:
        """Whether training is over, and its end was called."""
        return super().skip and not (self.is_resuming and self._unfinished)

    @property
    def _within_epoch(self) -> bool:
        return _processed(self.epoch_progress) < self.epoch_progress.total.ready

    @property
    def _unfinished(self) -> bool:
        total = self.epoch_progress.total
        return total.completed < total.ready and self.trainer.limit_train_batches != 0

    def run(self) -> None:
        """Train."""
        if self.is_resuming:
            self.place.before_start()
            self._place_data()
        super().run()

    def reset(self) -> None:
        """Count an epoch as over only if its end was called."""
        torch.set_grad_enabled(True)
        if self.is_resuming and not self._within_epoch:
            _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]  # a property; the epoch is over, whatever ends the training
            if pending := self.place.pending():
                self._log_epoch(pending)
        self.update_restart_stage()
        if not (self.epoch_loop.restarted_on_train_batch_end and self.restarted_mid_epoch):
            super().reset()

    def _log_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Log as :meth:`on_advance_end` does: with the step of the last batch."""
        self.epoch_loop._batches_that_stepped -= 1
        self.trainer._logger_connector.log_metrics(dict(metrics))
        self.epoch_loop._batches_that_stepped += 1

    def _place_data(self) -> None:
        """Begin anew with data that were made before the checkpoint was read, as `estimated_stepping_batches` makes them."""
        if self._combined_loader is not None and self._data_fetcher is not None:
            self._load_combined_loader_states()
            iter(self._data_fetcher)

    def _load_combined_loader_states(self) -> None:
        """Bring the data to their place also where the checkpoint was written at the end of an epoch."""
        if self._combined_loader is not None and self._combined_loader_states_to_load:
            self._combined_loader._load_state_dicts(self._combined_loader_states_to_load)
            self._combined_loader_states_to_load = []


def make_exact(trainer: Trainer, place: Place) -> None:
    """Put these loops in place of Lightning's own.

    Raises:
        ValueError: If somebody put other loops there.
    """
    fit_loop = trainer.fit_loop
    if (type(fit_loop), type(fit_loop.epoch_loop)) == (_FitLoop, _TrainingEpochLoop):
        fit_loop.__class__, fit_loop.epoch_loop.__class__ = ExactFitLoop, ExactEpochLoop
    if not isinstance(fit_loop, ExactFitLoop):
        raise ValueError(
            f"the trainer must have Lightning's own loops to resume exactly, got {type(fit_loop).__name__}"
        )
    fit_loop.place = fit_loop.epoch_loop.place = place


def pending_metrics(trainer: Trainer) -> dict[str, Any]:
    """What is measured and will be logged only after the checkpoint that is being written: by a batch, or by an epoch."""
    fit_loop, connector = trainer.fit_loop, trainer._logger_connector
    batch, epoch = fit_loop.epoch_loop.batch_progress, fit_loop.epoch_progress
    if not trainer.training:
        return {}
    within_batch = batch.total.completed < _processed(batch)
    by_batch = within_batch and not fit_loop._should_accumulate() and connector.should_update_logs
    by_epoch = not within_batch and epoch.total.completed < _processed(epoch)
    return _plain(connector.metrics["log"]) if by_batch or by_epoch else {}


def carried_metrics(trainer: Trainer) -> dict[str, Any]:
    """The latest values of what batches of this epoch logged; nothing at its end."""
    fit_loop = trainer.fit_loop
    if fit_loop.epoch_progress.total.completed < _processed(fit_loop.epoch_progress):
        return {}
    before = getattr(fit_loop.epoch_loop, "carried", {})  # by other loops than these, nothing
    return {**before, **_plain(fit_loop.epoch_loop._results.metrics(True)["log"])}


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in metrics.items()}


def _processed(progress: _Progress) -> int:
    """How many were run, whether or not their end was called."""
    return cast(_ProcessedTracker, progress.total).processed
