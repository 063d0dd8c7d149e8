"""Train a gate on features together with the network behind it."""

from __future__ import annotations

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sparsek._validation import check_positive
from sparsek.nn import FeatureGate, KHotGate, Schedule

from ._processes import evaluation_weight, with_unused

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


def row_losses(output: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each row: cross-entropy where targets are class numbers, mean squared error where they are real.

    Shape:
        - output: (rows, classes), or the shape of a real target.
        - target: (rows,) of int64, or (rows, ...) of floats.
        - returned: (rows,).

    Raises:
        ValueError: If the target is real and of another shape than the output.

    Example:
        >>> import torch
        >>> from sparsek.tasks import row_losses
        >>> row_losses(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
        tensor([1., 9.])
    """
    if not target.is_floating_point():
        return F.cross_entropy(output, target, reduction="none")
    if output.shape != target.shape:
        raise ValueError(
            f"output must have the shape of the real target, {tuple(target.shape)}, got {tuple(output.shape)}"
        )
    return (output - target).square().reshape(len(target), -1).mean(-1)


class FeatureSelectionTask(LightningModule):
    """Select features of a table: a gate and a network that are trained together on (input, target).

    Batches are (input, target) or (input, target, weight of each row). The objective is the mean of :func:`row_losses`, times
    the weights where there are any. Before every step the gate is annealed to the share of the steps that is done, and to 1
    when training ends: from then on it selects exactly k features. In evaluation the network stands behind the top k features.

    Logs `train/loss` and, with a :class:`~sparsek.nn.FeatureGate`, `train/k`, both in steps that the trainer logs; for `val/` and
    `test/`: `loss`, and `accuracy` of classes.

    Args:
        gate: From (rows, features) to the same.
        network: From (rows, features) to logits (rows, classes) or to the shape of a real target.
        learning_rate: Of the network, above 0.
        score_rate: Of the gate: a number above 0, or a :class:`~sparsek.nn.Schedule`. Scores that move less and less settle on
            one selection.
        weight_decay: Of the network, at least 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from sparsek.nn import GeometricSchedule
        >>> task = FeatureSelectionTask(FeatureGate(20, GeometricSchedule(0.5, 3)), nn.Linear(20, 2))
        >>> task(torch.zeros(4, 20)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        gate: KHotGate,
        network: nn.Module,
        learning_rate: float = 3e-3,
        score_rate: float | Schedule = 0.02,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        if not isinstance(score_rate, Schedule):
            check_positive("score_rate", score_rate)
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        numbers_alone = ["score_rate"] if isinstance(score_rate, Schedule) else []  # a checkpoint holds no objects
        self.save_hyperparameters(ignore=["gate", "network", *numbers_alone])
        self.gate, self.network = gate, network
        self.learning_rate, self.score_rate, self.weight_decay = learning_rate, score_rate, weight_decay
        self.total = 1

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs of the network behind the gate."""
        output: Tensor = self.network(self.gate(input))
        return output

    def on_train_start(self) -> None:
        """Ask once how many steps there will be."""
        self.total = int(self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Anneal the gate, and its learning rate."""
        progress = min(1.0, self.global_step / max(1, self.total - 1))
        self.gate.anneal(progress)
        if isinstance(self.score_rate, Schedule):
            self.trainer.optimizers[0].param_groups[1]["lr"] = self.score_rate(progress)

    def on_train_end(self) -> None:
        """Leave the gate at its last k, also where training was stopped early."""
        self.gate.anneal(1.0)

    def training_step(self, batch: Batch, index: int) -> STEP_OUTPUT:
        """The loss under fresh masks."""
        loss = _mean_loss(self(batch[0]), batch)
        if self.logs_now():
            self._log_training(loss)
        return loss if self.gate.training else with_unused(loss, self.gate)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave a gate as it is that is held: without a gradient, which is not the same as 0 to an optimizer with moments."""
        if not self.gate.training:
            for parameter in self.gate.parameters():
                parameter.grad = None

    def logs_now(self) -> bool:
        """Whether the trainer logs at this step: a log costs as much as a small step."""
        every: int = getattr(self.trainer, "log_every_n_steps", 1)
        return every > 0 and self.global_step % every == 0

    def _log_training(self, loss: Tensor) -> None:
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        if isinstance(self.gate, FeatureGate):
            self.log("train/k", self.gate.probs().detach().sum())

    def validation_step(self, batch: Batch, index: int) -> None:
        """Measure behind the top k."""
        self._measure("val", batch)

    def test_step(self, batch: Batch, index: int) -> None:
        """Measure behind the top k."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Batch) -> None:
        output, target = self(batch[0]), batch[1]
        weight = evaluation_weight(len(target))
        self.log(f"{stage}/loss", _mean_loss(output, batch), batch_size=weight, sync_dist=True)
        if not target.is_floating_point():
            accuracy = (output.argmax(-1) == target).float().mean()
            self.log(f"{stage}/accuracy", accuracy, batch_size=weight, sync_dist=True)

    def configure_optimizers(self) -> Optimizer:
        """AdamW; the scores of a gate have a learning rate of their own and no weight decay."""
        rate = self.score_rate.start if isinstance(self.score_rate, Schedule) else self.score_rate
        gate = {"params": [*self.gate.parameters()], "lr": rate, "weight_decay": 0.0}
        network = {"params": [*self.network.parameters()], "lr": self.learning_rate}
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        fused = True if on_cpu else None  # elsewhere what torch takes for the device
        return AdamW([network, gate], weight_decay=self.weight_decay, fused=fused)


def _mean_loss(output: Tensor, batch: Batch) -> Tensor:
    losses = row_losses(output, batch[1])
    return (losses * batch[2]).mean() if len(batch) == 3 else losses.mean()
