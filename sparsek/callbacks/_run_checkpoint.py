"""When a run keeps a checkpoint of itself, so that it can go on."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from sparsek._validation import check_positive

_PREFIX = "run-"


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoints of a run: every half minute, after every validation and at the last step.

    Writing takes at most 2 % of the time of training: where a checkpoint takes long to write, the next one is written later. The new
    checkpoint is whole before the oldest is removed. It is a `ModelCheckpoint`; beside it, another one can keep the best by a metric.

    `sparsek fit` uses this callback unless the configuration names a `ModelCheckpoint` or switches checkpoints off.

    Args:
        seconds: Between two checkpoints, above 0, if the time of writing allows it.
        every_n_train_steps: Steps between two checkpoints, in place of `seconds`; at least 1.
        keep: How many are kept, at least 1.
        dirpath: Where; by default `checkpoints` in the folder of the run's logs.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from sparsek.callbacks import RunCheckpoint
        >>> RunCheckpoint(every_n_train_steps=100).save_top_k
        2
    """

    def __init__(
        self, seconds: float = 30.0, every_n_train_steps: int | None = None, keep: int = 2, dirpath: str | None = None
    ) -> None:
        check_positive("seconds", seconds)
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        self.seconds, self._rest, self._own_folder = seconds, 0.0, dirpath is None
        interval = timedelta(seconds=seconds) if every_n_train_steps is None else None
        super().__init__(
            dirpath,
            filename=f"{_PREFIX}{{epoch}}-{{step}}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_train_steps,
            train_time_interval=interval,
            save_on_train_epoch_end=False,
        )

    @property
    def state_key(self) -> str:
        """One for all intervals: they change with the time that writing takes."""
        return type(self).__qualname__

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was validated, if there is time for it."""
        passed = time.monotonic() - (self._last_time_checked or 0.0)
        if trainer.strategy.broadcast(bool(self._every_n_train_steps) or passed >= min(self.seconds, self._rest)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if epochs or trainer.global_step == trainer.max_steps or trainer.should_stop:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Save, see how long that takes, and remove what killed processes did not come to remove."""
        begun = time.monotonic()
        super()._save_checkpoint(trainer, filepath)
        if self._own_folder:
            self._prune(trainer)
        self._last_time_checked = time.monotonic()
        self._rest = 50 * (self._last_time_checked - begun)
        if self._train_time_interval is not None:
            self._train_time_interval = timedelta(seconds=max(self.seconds, self._rest))

    def _prune(self, trainer: Trainer) -> None:
        """Leave the files that are known; in the folder of this run alone, which no other writes to."""
        known = {Path(path).name for path in self.best_k_models}
        for path in Path(self.dirpath or ".").glob(f"{_PREFIX}*{self.FILE_EXTENSION}"):
            if path.name not in known:
                trainer.strategy.remove_checkpoint(path)
