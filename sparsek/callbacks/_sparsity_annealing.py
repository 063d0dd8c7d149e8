"""Move the budget of sparse weights with the steps of training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from sparsek.nn import sparsity


class SparsityAnnealing(Callback):
    """Anneal the sparse tensors of any module before every step: :func:`sparsek.nn.sparsity.anneal` with the share of steps done.

    The share is that of the optimizer's steps, 0 at the first and 1 at the last, so a run that is resumed goes on exactly
    where it was. When `fit` ends, also where it was stopped early, it is 1. :class:`sparsek.tasks.SparseNetworkTask` needs no
    callback.

    Raises:
        ValueError: When training starts, if the module has no sparse tensor, or it is not known how long training will be.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from sparsek.callbacks import SparsityAnnealing
        >>> trainer = Trainer(callbacks=[SparsityAnnealing()], logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._last = 1.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask once how many steps there will be."""
        total = float(trainer.estimated_stepping_batches)
        if total == float("inf"):
            raise ValueError("trainer must know how long training will be, got no max_steps or max_epochs")
        self._last = max(1.0, total - 1)
        sparsity.anneal(pl_module, min(1.0, trainer.global_step / self._last))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Anneal."""
        sparsity.anneal(pl_module, min(1.0, trainer.global_step / self._last))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the masks at the last k and temperature."""
        sparsity.anneal(pl_module, 1.0)
