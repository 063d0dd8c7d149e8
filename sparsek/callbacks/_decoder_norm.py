"""Decoder rows of norm 1 in any Lightning module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from sparsek.nn import SparseAutoencoder


class DecoderNormalisation(Callback):
    """Keeps the decoder rows of every :class:`~sparsek.nn.SparseAutoencoder` inside a module at norm 1.

    Before each optimizer step, and before clipping, their gradient loses what is parallel to them: otherwise the moments of Adam
    hold a direction that the normalisation takes back. After each batch they are normalised. For modules of your own:
    :class:`sparsek.tasks.SparseAutoencoderTask` does it itself, by its `unit_norm`.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule
        >>> class Own(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.sae = SparseAutoencoder(8, 64)
        ...         torch.nn.init.normal_(self.sae.decoder_weight)
        >>> module = Own()
        >>> DecoderNormalisation().on_train_batch_end(None, module, None, None, 0)
        >>> module.sae.decoder_weight.norm(dim=-1).allclose(torch.ones(64))
        True
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without autoencoders; begin with norm 1. What a checkpoint gave stays as it is, to the last bit."""
        if not list(_autoencoders(pl_module)):
            raise ValueError(
                f"pl_module must hold a SparseAutoencoder for DecoderNormalisation, got {type(pl_module).__name__} without one"
            )
        if trainer.ckpt_path is None:
            self._normalise(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take the parallel part from the gradients."""
        for autoencoder in _autoencoders(pl_module):
            autoencoder.remove_parallel_gradient()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Normalise the rows."""
        self._normalise(pl_module)

    def _normalise(self, module: LightningModule) -> None:
        for autoencoder in _autoencoders(module):
            autoencoder.normalise_decoder()


def _autoencoders(module: LightningModule) -> Iterator[SparseAutoencoder]:
    return (part for part in module.modules() if isinstance(part, SparseAutoencoder))
