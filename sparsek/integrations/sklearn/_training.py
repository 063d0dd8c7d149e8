"""Train gates and the networks behind them by Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from sparsek.nn import Schedule

from ._restarts import RestartBatches, RestartGates, RestartsTask
from ._rows import Rows

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
    score_rate: float | Schedule
    weight_decay: float
    accelerator: str = "cpu"
    progress_bar: bool = False
    watch: Callable[[RestartGates, nn.Module, float], None] | None = field(default=None, compare=False)


class Recorder(Callback):
    """Keeps records of every twentieth part of the steps, and lets the recipe's `watch` look."""

    def __init__(self, gates: RestartGates, network: nn.Module, recipe: Recipe, first: int) -> None:
        self.gates, self.network, self.recipe, self.first = gates, network, recipe, first
        self.records: list[Record] = []
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record."""
        self._losses.append(outputs["losses"])
        step, every = batch_idx + 1, max(1, self.recipe.steps // _RECORDS)
        if step % every and step != self.recipe.steps:
            return
        k = float(self.gates.probs().detach()[0].sum())
        means = torch.stack(self._losses).mean(0).tolist()
        self.records += [Record(self.first + place, step, k, loss) for place, loss in enumerate(means)]
        self._losses.clear()
        if self.recipe.watch is not None:
            self.recipe.watch(self.gates, self.network, k)


def train(
    build: Callable[[int], tuple[RestartGates, nn.Module]],
    rows: Rows,
    kept: Sequence[Tensor],
    recipe: Recipe,
    seeds: Sequence[int],
    first: int = 0,
) -> tuple[RestartGates, list[Record]]:
    """Build gates and networks, train restart i on the rows `kept[i]`, and return the gates and the records.

    The seeds settle everything that is drawn; the global generators are left as they were. `first` is the number of the
    first restart in the records.
    """
    with isolate_rng(), _quiet(), _one_thread():
        torch.manual_seed(seeds[0])
        gates, network = build(len(seeds))
        rates = recipe.learning_rate, recipe.score_rate, recipe.weight_decay
        recorder = Recorder(gates, network, recipe, first)
        trainer = Trainer(
            max_epochs=1,
            accelerator=recipe.accelerator,
            devices=1,
            enable_progress_bar=recipe.progress_bar,
            callbacks=[recorder],
            logger=False,
            log_every_n_steps=max(1, recipe.steps // _RECORDS) if recipe.progress_bar else 0,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        task = RestartsTask(gates, network, *rates)
        trainer.fit(task, RestartBatches(rows, kept, recipe.batch_size, seeds, recipe.steps))
    return gates.cpu().eval(), recorder.records


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
