"""Train a network whose weights are sparse in the end."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sparsek._validation import check_positive
from sparsek.nn import sparsity

from ._feature_selection import row_losses
from ._optimisation import parameter_groups, warmup_cosine
from ._processes import evaluation_weight

Batch = tuple[Tensor, Tensor]


class SparseNetworkTask(LightningModule):
    """Train a network on (input, target) from all weights to those that a pattern keeps.

    The network is parametrized at once. In training its masks are relaxed, and annealed with the steps, as
    :class:`~sparsek.callbacks.SparsityAnnealing` does for other modules; in evaluation they are exact, at any time. The objective
    is the mean of :func:`row_losses`. :meth:`pruned` returns the network for use.

    Logs `train/loss` and `train/k` (the sum of the masks), in steps that the trainer logs; for `val/` and `test/`: `loss`,
    `weights` (how many are not 0), and `accuracy` of classes.

    Args:
        network: From (rows, features) to logits (rows, classes) or to the shape of a real target.
        pattern: Which weights stay; None = all.
        learning_rate: Peak learning rate, above 0; a warm-up and a cosine follow.
        score_rate: Peak learning rate of scores that are learnt, above 0.
        weight_decay: On matrices, at least 0.

    Raises:
        ValueError: If a number is out of range, or the pattern does not fit the network.

    Example:
        >>> import torch
        >>> from sparsek.nn import MLP, sparsity
        >>> from sparsek.tasks import SparseNetworkTask
        >>> task = SparseNetworkTask(MLP(784, 10, hidden=(300, 100)), sparsity.Unstructured(sparsity=0.98))
        >>> task(torch.zeros(4, 784)).shape, sparsity.count(task.pruned())
        (torch.Size([4, 10]), (5324, 266200))
    """

    def __init__(
        self,
        network: nn.Module,
        pattern: sparsity.Pattern | None = None,
        learning_rate: float = 5e-3,
        score_rate: float = 0.02,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        check_positive("score_rate", score_rate)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        self.save_hyperparameters(ignore=["network", "pattern"])
        self.network = network if pattern is None else pattern.apply(network)
        self.learning_rate, self.score_rate, self.weight_decay = learning_rate, score_rate, weight_decay
        self.total = 1

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs of the network."""
        output: Tensor = self.network(input)
        return output

    def pruned(self) -> nn.Module:
        """Return a copy of the network in plain layers with exact zeros."""
        return sparsity.remove(copy.deepcopy(self.network)).eval()

    def on_train_start(self) -> None:
        """Ask once how many steps there will be."""
        self.total = int(self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Anneal to the share of the steps that is done."""
        self._anneal(min(1.0, self.global_step / max(1, self.total - 1)))

    def on_train_end(self) -> None:
        """Leave the masks at the last k and temperature, also where training was stopped early."""
        self._anneal(1.0)

    def _anneal(self, progress: float) -> None:
        for part in self._parts():
            part.anneal(progress)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss under the relaxed masks."""
        loss = row_losses(self(batch[0]), batch[1]).mean()
        every: int = getattr(self.trainer, "log_every_n_steps", 1)
        if every and self.global_step % every == 0:  # masks are solved again for the log
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
            if self._parts():
                self.log("train/k", sum(mask.detach().sum() for mask in sparsity.masks(self.network).values()))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure under the exact masks."""
        self._measure("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure under the exact masks."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Batch) -> None:
        output, target = self(batch[0]), batch[1]
        found = {"loss": row_losses(output, target).mean()}
        if not target.is_floating_point():
            found["accuracy"] = (output.argmax(-1) == target).float().mean()
        for name, value in found.items():
            self.log(f"{stage}/{name}", value, batch_size=evaluation_weight(len(target)), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log how many weights there are."""
        self.log("val/weights", float(sparsity.count(self.network)[0]))

    def on_test_epoch_end(self) -> None:
        """Log how many weights there are."""
        self.log("test/weights", float(sparsity.count(self.network)[0]))

    def _parts(self) -> list[sparsity.Sparsity]:
        return [part for _, _, part in sparsity.parametrizations(self.network)]

    def configure_optimizers(self) -> Any:
        """AdamW, learnt scores with a rate of their own and no decay; warm-up and cosine over the steps that the trainer will take."""
        scores = [part.learnt for part in self._parts() if part.learnt is not None]
        learnt = {id(parameter) for parameter in scores}
        groups: list[dict[str, Any]] = [dict(group) for group in parameter_groups(self.network, self.weight_decay)]
        for group in groups:
            rest = [parameter for parameter in group["params"] if id(parameter) not in learnt]
            group |= {"params": rest, "lr": self.learning_rate}
        if scores:
            groups.append({"params": scores, "lr": self.score_rate, "weight_decay": 0.0})
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = AdamW(groups)
        factor = partial(warmup_cosine, total=total, warmup=max(total // 20, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
