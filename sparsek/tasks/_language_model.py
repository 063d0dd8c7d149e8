"""Train a byte-level mixture-of-experts language model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from sparsek.functional import max_violation
from sparsek.metrics import (
    BatchMaxViolation,
    BitsPerByte,
    LoadCV,
    MaxViolation,
    RouterEntropy,
    Unrouted,
    Utilisation,
)
from sparsek.nn import MoETransformer, TransformerOutput
from sparsek.nn.sparse_autoencoder._processes import total

from ._optimisation import adamw_warmup_cosine
from ._processes import shard_parameters, share_of_mean


class Text(Protocol):
    """A batch of text, as :class:`sparsek.datamodules.TextBatch` is."""

    @property
    def tokens(self) -> Tensor:
        """(batch, length + 1): bytes; positions [0, length) are the input, [1, length] the targets."""

    @property
    def mask(self) -> Tensor:
        """(batch, length): True where the target is a real byte."""


class LanguageModelTask(LightningModule):
    """Next-byte prediction with a mixture-of-experts transformer.

    The objective is the cross-entropy in nats, plus what the routers return as losses, summed over layers. After every
    optimizer step, each router's balance bias moves once, by the counts of the batches of that step.

    Logs `train/bits_per_byte` and `train/max_vio` (this step, mean over layers); and for `val/` and `test/`:
    `bits_per_byte`, `max_vio`, `load_cv`, `utilisation`, `unrouted` (share of tokens without an expert) and
    `router_entropy` over the whole split, and `max_vio_batch`, the mean over its batches.

    Args:
        network: The transformer.
        learning_rate: Peak learning rate of AdamW, above 0.
        weight_decay: Weight decay on matrices, at least 0.
        warmup_fraction: Share of the steps with a rising learning rate, in [0, 1); a cosine down to 5 % follows.
        compile: Whether to run the network through `torch.compile`, from its first batch on. Its graphs break around the
            experts; the routers' counts and bias move outside of them. Names in checkpoints stay as they are.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        network: MoETransformer,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        warmup_fraction: float = 0.05,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be finite and > 0, got {learning_rate}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay}")
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1), got {warmup_fraction}")
        self.save_hyperparameters(ignore=["network", "compile"])
        self.network = network
        if compile:
            network.compile()
        self.learning_rate, self.weight_decay, self.warmup_fraction = learning_rate, weight_decay, warmup_fraction
        self.val_metrics, self.test_metrics = self._metrics("val/"), self._metrics("test/")

    def _metrics(self, prefix: str) -> MetricCollection:
        sizes = (self.network.num_experts, self.network.num_layers)
        metrics: dict[str, Metric | MetricCollection] = {
            "max_vio": MaxViolation(*sizes),
            "max_vio_batch": BatchMaxViolation(*sizes),
            "load_cv": LoadCV(*sizes),
            "utilisation": Utilisation(*sizes, threshold=0.1),
            "unrouted": Unrouted(*sizes, tokens=True),
            "router_entropy": RouterEntropy(*sizes),
            "bits_per_byte": BitsPerByte(),
        }
        return MetricCollection(metrics, prefix=prefix)

    def configure_model(self) -> None:
        """Under `ModelParallelStrategy`, shard the weights over processes by FSDP2, block by block."""
        shard_parameters(self.device_mesh, (*self.network.blocks, self.network))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> TransformerOutput:
        """Scores of the next byte, and the routings."""
        return cast(TransformerOutput, self.network(tokens, mask))

    def training_step(self, batch: Text, batch_idx: int) -> dict[str, Tensor]:
        """The objective of one batch, and the load (layers, experts) of all processes for callbacks."""
        logits, routings = self(batch.tokens[:, :-1], batch.mask)
        nats = _nats(logits, batch).sum() / share_of_mean(batch.mask.sum())
        for router, routing in zip(self.network.routers, routings, strict=True):
            router.observe(routing)
        load = total(torch.stack([routing.stats["load"] for routing in routings]))
        self.log("train/bits_per_byte", nats.detach() / math.log(2), prog_bar=True, sync_dist=True)
        self.log("train/max_vio", max_violation(load).mean(), prog_bar=True)
        losses = [loss for routing in routings for loss in routing.losses.values()]
        return {"loss": nats + sum(losses, start=nats.new_zeros(())), "load": load}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step the optimizer, then every router's balance bias."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for router in self.network.routers:
            router.step()

    def validation_step(self, batch: Text, batch_idx: int) -> dict[str, Any]:
        """Measure one batch of the validation split."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Text, batch_idx: int) -> dict[str, Any]:
        """Measure one batch of the test split."""
        return self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: Text, metrics: MetricCollection) -> dict[str, Any]:
        """Update the metrics; hand callbacks `indices`, (batch, length, k) per layer, and `bits`, (batch, length)."""
        logits, routings = self(batch.tokens[:, :-1], batch.mask)
        indices = tuple(routing.indices for routing in routings)
        for metric in metrics.values(copy_state=False):
            if isinstance(metric, BitsPerByte):
                metric.update(logits, batch.tokens[:, 1:], batch.mask)
            elif isinstance(metric, RouterEntropy):
                metric.update([routing.marginals for routing in routings], batch.mask)
            else:
                metric.update(indices, batch.mask)
        return {"indices": indices, "bits": _nats(logits, batch) / math.log(2)}

    def on_validation_epoch_end(self) -> None:
        """Log the validation measures."""
        self._log_metrics(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test measures."""
        self._log_metrics(self.test_metrics)

    def _log_metrics(self, metrics: MetricCollection) -> None:
        self.log_dict({name: value.float() for name, value in metrics.compute().items()})
        metrics.reset()

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine over the steps that the trainer will take."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = adamw_warmup_cosine(
            self, self.learning_rate, self.weight_decay, steps, self.warmup_fraction
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _nats(logits: Tensor, batch: Text) -> Tensor:
    """Cross-entropy of every byte in nats, (batch, length), 0 where masked."""
    nats = F.cross_entropy(logits.flatten(0, 1).float(), batch.tokens[:, 1:].flatten(), reduction="none")
    return nats.view(batch.mask.shape).masked_fill(~batch.mask, 0)
