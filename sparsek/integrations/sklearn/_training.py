"""Train one gate and the network behind it by Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sparsek.nn import FeatureGate

from ._rows import Batches, Rows
from ._target import Target

_RECORDS = 20


@dataclass(frozen=True)
class Record:
    """A moment of the training of one restart."""

    restart: int
    """Number of the restart, from 0."""
    step: int
    """Optimizer steps done, from 1."""
    k: float
    """Number of features that the gate drew on average."""
    loss: float
    """Training loss, mean over the steps since the last record."""


@dataclass(frozen=True)
class Recipe:
    """How a gate is trained: what all restarts share."""

    steps: int
    batch_size: int
    learning_rate: float
    score_rate: float
    weight_decay: float
    accelerator: str = "cpu"
    progress_bar: bool = False
    watch: Callable[[FeatureGate, nn.Module, float], None] | None = field(default=None, compare=False)


class GateTraining(LightningModule):
    """A gate and a network that are trained together; weight decay on the network alone.

    Keeps a :class:`Record` of every twentieth part of the steps.
    """

    def __init__(self, gate: FeatureGate, network: nn.Module, target: Target, recipe: Recipe, restart: int) -> None:
        super().__init__()
        self.gate, self.network = gate, network
        self.target, self.recipe, self.restart = target, recipe, restart
        self.records: list[Record] = []
        self._losses: list[Tensor] = []

    def training_step(self, batch: Rows, index: int) -> Tensor:
        """The weighted mean loss under fresh masks."""
        self.gate.anneal(min(1.0, index / max(1, self.recipe.steps - 1)))
        losses = self.target.loss(self.network(self.gate(batch.input)), batch.target)
        loss = (losses * batch.weight).mean()
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Rows, batch_idx: int) -> None:
        """Record."""
        step, every = batch_idx + 1, max(1, self.recipe.steps // _RECORDS)
        if step % every and step != self.recipe.steps:
            return
        k = float(self.gate.probs().detach().sum())
        self.records.append(Record(self.restart, step, k, float(torch.stack(self._losses).mean())))
        self._losses.clear()
        if self.recipe.watch is not None:
            self.recipe.watch(self.gate, self.network, k)

    def configure_optimizers(self) -> Optimizer:
        """AdamW, with a learning rate for the scores and one for the network."""
        recipe = self.recipe
        scores = {"params": [*self.gate.parameters()], "lr": recipe.score_rate, "weight_decay": 0.0}
        network = {"params": [*self.network.parameters()], "lr": recipe.learning_rate}
        return AdamW([network, scores], weight_decay=recipe.weight_decay)


def train(
    build: Callable[[], tuple[FeatureGate, nn.Module]],
    rows: Rows,
    target: Target,
    recipe: Recipe,
    restart: int,
    seed: int,
) -> tuple[FeatureGate, list[Record]]:
    """Build a gate and a network, train them on `rows`, and return the gate and the records.

    `seed` settles everything that is drawn; the global generators are left as they were.
    """
    with isolate_rng(), _quiet(), _one_thread():
        torch.manual_seed(seed)
        module = GateTraining(*build(), target, recipe, restart)
        module.train()
        trainer = Trainer(
            max_epochs=1,
            accelerator=recipe.accelerator,
            devices=1,
            enable_progress_bar=recipe.progress_bar,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, Batches(rows, recipe.batch_size, recipe.steps, seed))
    return module.gate.cpu().eval(), module.records


@contextmanager
def _one_thread() -> Iterator[None]:
    """On one thread: a step is too small for more, and sums come out the same on every number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes on devices and workers, for which a table in memory has no use."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
