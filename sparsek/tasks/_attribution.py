"""Learn one score for each internal unit of a frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from sparsek._validation import check_positive
from sparsek.nn import Attribution

from ._feature_selection import row_losses
from ._processes import evaluation_weight, leave_out_of_gradients, same_everywhere, share_of_mean, take_from_first


class Objective(ABC):
    """From a model, which works under a mask, and a batch to a loss that is a mean over the batch."""

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss, 0-d."""

    def terms(self, batch: Any) -> int:
        """How many terms the mean is over: what a batch weighs among others, and on one process among several; by default 1."""
        return 1


@dataclass(frozen=True)
class NextTokenLoss(Objective):
    """Cross-entropy of the next token in nats, of batches with `tokens` (batch, length + 1) and `mask` (batch, length)."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean over real tokens."""
        output = model(batch.tokens[:, :-1])
        logits = output if isinstance(output, Tensor) else output.logits
        nats = F.cross_entropy(logits.transpose(1, 2).float(), batch.tokens[:, 1:], reduction="none")
        mean: Tensor = (nats * batch.mask).sum() / batch.mask.sum()
        return mean

    def terms(self, batch: Any) -> int:
        """Real tokens."""
        return int(batch.mask.sum())


@dataclass(frozen=True)
class TargetLoss(Objective):
    """Mean of :func:`row_losses` of batches (input, target): cross-entropy of classes, squared error of real targets."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean over rows."""
        return row_losses(model(batch[0]), batch[1]).mean()

    def terms(self, batch: Any) -> int:
        """Rows."""
        return len(batch[1])


class AttributionTask(LightningModule):
    """Learn the scores of an :class:`~sparsek.nn.Attribution` under a fresh real k every step.

    One run gives a ranking that is nested: its first k units are the answer to every budget k. The model is not changed. Several
    processes take the same k, each on a batch of its own.

    Logs `train/loss` and `train/k`; for `val/` and `test/`: `loss@share` with the top share of the units kept, for every one of
    `shares`, and their mean, `loss`.

    Args:
        attribution: The model, its units and their scores.
        objective: From the model (under the mask) and a batch to a mean loss.
        learning_rate: Of the scores, by Adam; above 0.
        shares: Budgets of evaluation, each in (0, 1].
        weights: A checkpoint of Lightning with the model's weights, read without unrestricted pickle; None = as they are.
        prefix: What the names of the model's weights begin with there.

    Raises:
        ValueError: If a number is out of range, or the checkpoint is not there, is none, or does not fit the model.

    Example:
        >>> from sparsek.nn import UnitSite
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> task = AttributionTask(Attribution(model, [UnitSite("1", 8)]), TargetLoss())
        >>> task.loss((torch.ones(2, 4), torch.tensor([0, 2])), task.attribution.top(4)).requires_grad
        False
    """

    def __init__(
        self,
        attribution: Attribution,
        objective: Objective,
        learning_rate: float = 0.05,
        shares: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
        weights: str | None = None,
        prefix: str = "network.",
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"shares must be numbers in (0, 1], at least one, got {list(shares)}")
        self.save_hyperparameters(ignore=["attribution", "objective"])
        self.attribution, self.objective = attribution, objective
        self.learning_rate, self.shares = learning_rate, tuple(shares)
        if weights is not None:
            load_weights(attribution.model, weights, prefix)
        leave_out_of_gradients(self, attribution.model)

    def on_fit_start(self) -> None:
        """Have all processes work on one model."""
        take_from_first(self.attribution.model)

    def loss(self, batch: Any, mask: Tensor) -> Tensor:
        """Return the loss of a batch under a mask."""
        with self.attribution.masked(mask):
            return self.objective(self.attribution.model, batch)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The loss under a mask of a fresh size."""
        k = same_everywhere(self.attribution.draw_k())
        terms = torch.tensor(float(self.objective.terms(batch)), device=self.device)
        loss = self.loss(batch, self.attribution.mask(k)) * (terms / share_of_mean(terms))
        self.log_dict({"train/loss": loss.detach(), "train/k": k}, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        """Measure each budget."""
        self._measure("val", batch)

    def test_step(self, batch: Any, index: int) -> None:
        """Measure each budget."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Any) -> None:
        units = self.attribution.num_units
        losses = {
            f"{stage}/loss@{share:g}": self.loss(batch, self.attribution.top(max(1, round(share * units))))
            for share in self.shares
        }
        mean = torch.stack([*losses.values()]).mean()
        weight = evaluation_weight(self.objective.terms(batch))
        self.log_dict(losses, batch_size=weight, sync_dist=True)
        self.log(f"{stage}/loss", mean, batch_size=weight, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """Adam on the scores alone."""
        return Adam([self.attribution.scores], lr=self.learning_rate)


def load_weights(model: nn.Module, path: str, prefix: str) -> None:
    """Read the weights of a model from a checkpoint of Lightning.

    Raises:
        ValueError: If there is no such file, it is no checkpoint, or its weights do not fit.
    """
    if not Path(path).is_file():
        raise ValueError(f"weights must be a checkpoint file, got {path!r}, which is not there")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if state is None:
        raise ValueError(f"weights {path!r} is not a Lightning checkpoint: it holds no state_dict")
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"weights {path!r} do not fit the model under the prefix {prefix!r}: {error}") from error
