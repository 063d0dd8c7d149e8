"""Draws of several processes that do not repeat one another."""

from __future__ import annotations

import hashlib

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ProcessDraws(Callback):
    """Seeds torch's generators of every process but the first anew, when training starts: from the common seed and its number.

    `seed_everything` gives all processes one seed. Their models begin alike, as they should; but then the rows at one place of their
    batches would also be dropped and sampled alike, and draws of W processes would be worth those of one. A run on one process stays
    what it is. :class:`ExactResume` keeps the generators of each process, so a resumed run goes on with its own.

    `sparsek fit` uses this callback by itself.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from sparsek.callbacks import ProcessDraws
        >>> trainer = Trainer(callbacks=[ProcessDraws()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed; the weights are there by now."""
        if trainer.global_rank > 0:
            key = hashlib.sha256(f"{torch.initial_seed()}/{trainer.global_rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(key[:8], "big") >> 1)
