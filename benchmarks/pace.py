"""How fast a training goes, without its first step."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Pace(Callback):
    """Counts seconds, steps and rows of training behind the first step, which compiles; validation is in them."""

    def __init__(self) -> None:
        self.begun: float | None = None
        self.seconds, self.steps, self.rows = 0.0, 0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        if self.begun is None:
            self.begun = _now(trainer)
            return
        self.steps, self.rows = self.steps + 1, self.rows + trainer.world_size * len(batch[0])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if self.begun is not None:
            self.seconds = _now(trainer) - self.begun


def _now(trainer: Trainer) -> float:
    """The time when the device has done what it was given."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
