"""Learn the metric of a nearest-neighbour classifier by the loss of its own predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sparsek._validation import check_positive
from sparsek.nn import DifferentiableKNN

from ._optimisation import parameter_groups, warmup_cosine
from ._processes import Gathered, evaluation_weight

Batch = tuple[Tensor, Tensor]


class NearestNeighbourTask(LightningModule):
    r"""Train the embedding of a :class:`~sparsek.nn.DifferentiableKNN` on (input, class).

    In a training step the rows of a batch are one another's references, each without itself, and the objective is the
    cross-entropy of the classes of its neighbours,

    $$-\log\big((1-s)\,\hat y_{\text{class}} + s/C\big),$$

    finite too where no neighbour is of the row's class. Batches should hold many times k rows of each class. Rows of training
    batches become the references of evaluation, where the k nearest of them vote: those of the current pass, and before a pass
    is over of the one before. A checkpoint holds them. The batches of several processes are one batch: a row is compared with those
    of all, and all keep the same references.

    Logs `train/loss`, and `loss` and `accuracy` for `val/` and `test/`.

    Args:
        neighbours: The classifier; its embedding is what is trained.
        classes: C, their number, at least 2.
        learning_rate: Peak learning rate, above 0; a warm-up and a cosine follow.
        weight_decay: On matrices, at least 0. It keeps distances small, and thereby neighbourhoods wide.
        smoothing: s in (0, 1). Where neighbours are drawn take about 0.1: without one of its class a row's gradient is as 1/s.

    Raises:
        ValueError: If a number is out of range; from `forward`, if there are no references yet.

    Example:
        >>> import torch
        >>> from sparsek.nn import DifferentiableKNN
        >>> from sparsek.tasks import NearestNeighbourTask
        >>> task = NearestNeighbourTask(DifferentiableKNN(1), classes=2).eval()
        >>> task.remember([(torch.tensor([[0.0], [9.0]]), torch.tensor([1, 0]))])
        >>> task(torch.tensor([[1.0], [8.0]]))
        tensor([[0., 1.],
                [1., 0.]])

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov (2004), "Neighbourhood Components Analysis",
        https://papers.nips.cc/paper/2566-neighbourhood-components-analysis.
    """

    references: Tensor
    labels: Tensor

    def __init__(
        self,
        neighbours: DifferentiableKNN,
        classes: int,
        learning_rate: float = 1e-2,
        weight_decay: float = 1.0,
        smoothing: float = 0.01,
    ) -> None:
        super().__init__()
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise ValueError(f"classes must be a whole number >= 2, got {classes!r}")
        check_positive("learning_rate", learning_rate)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        if not 0 < smoothing < 1:
            raise ValueError(f"smoothing must lie in (0, 1), got {smoothing}")
        self.save_hyperparameters(ignore=["neighbours"])
        self.neighbours, self.classes = neighbours, classes
        self.learning_rate, self.weight_decay, self.smoothing = learning_rate, weight_decay, smoothing
        self.register_buffer("references", torch.empty(0))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self._seen: list[Batch] = []

    def forward(self, input: Tensor) -> Tensor:
        """Return the probabilities of the classes: shares of the references that are selected, (rows, classes)."""
        if len(self.labels) == 0:
            raise ValueError(
                "there must be references to compare with, got none; train first, or call remember(batches)"
            )
        output: Tensor = self.neighbours(input, self.references, F.one_hot(self.labels, self.classes))
        return output

    def remember(self, batches: list[Batch]) -> None:
        """Take the rows of batches for references."""
        self.references, self.labels = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of each row's class among the other rows of the batch."""
        rows, target = batch
        gathered = Gathered(rows)
        references, labels = gathered(rows), gathered(target)
        self._seen.append((references, labels))
        places = torch.arange(len(labels), device=rows.device)
        others = places != places[gathered.start :][: len(rows), None]
        probs = self.neighbours(rows, references, F.one_hot(labels, self.classes), mask=others)
        share = len(rows) * len(gathered.counts) / len(labels)  # processes may differ in their number of rows
        loss = self._loss(probs, target) * share
        self.log("train/loss", loss, prog_bar=True, batch_size=len(target), sync_dist=True)
        return loss

    def _loss(self, probs: Tensor, target: Tensor) -> Tensor:
        smooth = (1 - self.smoothing) * probs + self.smoothing / self.classes
        return F.nll_loss(smooth.log(), target)

    def on_train_epoch_start(self) -> None:
        """Begin to collect the rows of a pass."""
        self._seen = []

    def on_validation_epoch_start(self) -> None:
        """Take the rows of the pass that ended for references."""
        if self._seen and not self.trainer.sanity_checking:
            self.remember(self._seen)

    def on_train_end(self) -> None:
        """Keep the rows of the last pass."""
        if self._seen:
            self.remember(self._seen)
            self._seen = []

    def validation_step(self, batch: Batch, index: int) -> None:
        """Measure one batch of the validation split, if there are references yet."""
        if len(self.labels):
            self._measure("val", batch)

    def test_step(self, batch: Batch, index: int) -> None:
        """Measure one batch of the test split."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Batch) -> None:
        probs, target = self(batch[0]), batch[1]
        accuracy = (probs.argmax(-1) == target).float().mean()
        values = {f"{stage}/loss": self._loss(probs, target), f"{stage}/accuracy": accuracy}
        self.log_dict(values, batch_size=evaluation_weight(len(target)), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rows of a pass that is not over."""
        checkpoint["seen"] = list(self._seen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the references of the checkpoint, and take back the rows of a pass that was not over."""
        self._seen = [(rows, target) for rows, target in checkpoint.get("seen", [])]
        for name in ("references", "labels"):
            setattr(self, name, torch.empty_like(checkpoint["state_dict"][name]))

    def configure_optimizers(self) -> Any:
        """AdamW with a warm-up and a cosine over the steps that the trainer will take."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer = AdamW(parameter_groups(self, self.weight_decay), lr=self.learning_rate)
        factor = partial(warmup_cosine, total=total, warmup=max(total // 20, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
