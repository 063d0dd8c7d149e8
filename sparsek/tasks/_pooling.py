"""Train a pooling and its head on frozen tokens, and measure classes, likeness and retrieval."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric, MetricCollection

from sparsek._validation import check_positive

from ._optimisation import parameter_groups, warmup_cosine
from ._processes import evaluation_weight


class Tokens(Protocol):
    """A batch of rows of tokens, as :class:`sparsek.datamodules.FeatureBatch` is."""

    @property
    def tokens(self) -> Tensor:
        """(batch, length, dim)."""

    @property
    def mask(self) -> Tensor:
        """(batch, length): True where there is a token."""

    @property
    def label(self) -> Tensor:
        """(batch,) int64."""

    @property
    def ratings(self) -> Tensor:
        """(batch, n): likeness to the row of label j by people, NaN where unknown; n = 0 without."""


class PoolingTask(LightningModule):
    """Pool frozen tokens to one vector a row, and classify it where there is a head.

    With a head the objective is the cross-entropy of its logits, and the pooling is trained with it where it has parameters;
    without one nothing can be trained, and `validate` and `test` measure the embeddings as they are.

    Logs `train/loss`, and for `val/` and `test/` every entry of `measures`; with a head also `loss`.

    Args:
        pooling: Called with tokens (B, T, D) and a mask (B, T), such as :class:`sparsek.nn.AttentionPool`.
        head: From embeddings to logits, such as :class:`StandardisedHead` for classes and :class:`CosineHead` for embeddings that are
            to be compared by cosine. None = no training.
        measures: torchmetrics by name. Each is given what its `update` asks for, of `preds` (logits), `target` (labels),
            `embeddings`, `labels` and `ratings`: accuracy and the like, and the metrics of embeddings in :mod:`sparsek.metrics`.
        learning_rate: Peak learning rate of the head, above 0; warm-up and a cosine follow.
        pooling_rate: Peak learning rate of the pooling, above 0; None = that of the head.
        weight_decay: On matrices, at least 0.

    Raises:
        ValueError: If a number is out of range, a measure asks for logits and there is no head, or for what there never is; from
            `fit`, if there is no head.

    Example:
        >>> import torch
        >>> from sparsek.nn import AttentionPool
        >>> from sparsek.tasks import PoolingTask, StandardisedHead
        >>> task = PoolingTask(AttentionPool(16), StandardisedHead(16, 4))
        >>> task(torch.zeros(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        pooling: nn.Module,
        head: nn.Module | None = None,
        measures: Mapping[str, Metric] | None = None,
        learning_rate: float = 1e-3,
        pooling_rate: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        check_positive("pooling_rate", learning_rate if pooling_rate is None else pooling_rate)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        _check_measures(measures or {}, head is not None)
        self.save_hyperparameters(ignore=["pooling", "head", "measures"])
        self.pooling, self.head = pooling, head
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.pooling_rate = learning_rate if pooling_rate is None else pooling_rate
        self.val_measures = MetricCollection(dict(measures or {}), prefix="val/").clone()
        self.test_measures = self.val_measures.clone(prefix="test/")

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the embeddings, (B, D)."""
        embeddings: Tensor = self.pooling(tokens, mask)
        return embeddings

    def on_fit_start(self) -> None:
        """Refuse to train without a head."""
        if self.head is None:
            raise ValueError("head must be given to train, got None; validate and test need none")

    def training_step(self, batch: Tokens, batch_idx: int) -> Tensor:
        """The cross-entropy of one batch."""
        assert self.head is not None, "checked when training starts"
        loss = F.cross_entropy(self.head(self(batch.tokens, batch.mask)), batch.label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.label), sync_dist=True)
        return loss

    def validation_step(self, batch: Tokens, batch_idx: int) -> None:
        """Measure one batch of the validation split."""
        self._measure("val", self.val_measures, batch)

    def test_step(self, batch: Tokens, batch_idx: int) -> None:
        """Measure one batch of the test split."""
        self._measure("test", self.test_measures, batch)

    def _measure(self, stage: str, measures: MetricCollection, batch: Tokens) -> None:
        embeddings = self(batch.tokens, batch.mask)
        known = {"target": batch.label, "embeddings": embeddings, "labels": batch.label, "ratings": batch.ratings}
        if self.head is not None:
            known["preds"] = self.head(embeddings)
            loss = F.cross_entropy(known["preds"], batch.label)
            self.log(f"{stage}/loss", loss, batch_size=evaluation_weight(len(batch.label)), sync_dist=True)
        measures.update(**known)

    def on_validation_epoch_end(self) -> None:
        """Log the measures of the validation split."""
        self._log_measures(self.val_measures)

    def on_test_epoch_end(self) -> None:
        """Log the measures of the test split."""
        self._log_measures(self.test_measures)

    def _log_measures(self, measures: MetricCollection) -> None:
        self.log_dict({name: value.float() for name, value in measures.compute().items()})
        measures.reset()

    def configure_optimizers(self) -> Any:
        """AdamW with a rate for the head and one for the pooling, warm-up and cosine over the steps that the trainer will take."""
        total = int(self.trainer.estimated_stepping_batches)
        rates = ((self.head, self.learning_rate), (self.pooling, self.pooling_rate))
        optimizer = AdamW(
            [
                group | {"lr": rate}
                for module, rate in rates
                if module is not None
                for group in parameter_groups(module, self.weight_decay)
            ]
        )
        factor = partial(warmup_cosine, total=total, warmup=max(total // 20, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _check_measures(measures: Mapping[str, Metric], head: bool) -> None:
    given = {"target", "embeddings", "labels", "ratings", *(["preds"] if head else [])}
    for name, metric in measures.items():
        parameters = inspect.signature(metric.update).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        if needed - given:
            hint = "" if head else "; logits (preds) need a head"
            raise ValueError(
                f"measures must ask for {', '.join(sorted(given))} at most, got {name!r}, which asks for "
                f"{', '.join(sorted(needed - given))}{hint}"
            )
