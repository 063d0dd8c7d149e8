"""Record what the routers of a language model do, and draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import MeanMetric

from sparsek.metrics import DomainLoad

from ._figure import routing_figure
from ._record import RoutingRecord


class RoutingRecorder(Callback):
    """Keeps the training loss, the load of every expert over time, and which expert takes which kind of text.

    At the end of `fit`, `validate` or `test`, the log folder of the run gets `loss.csv`, `expert_load.csv`,
    `expert_domain.csv` and the picture `routing.png`; nothing is written in a `fast_dev_run`. It also logs
    `val/bits_per_byte/<kind>` and `test/bits_per_byte/<kind>`.

    Args:
        every_n_steps: Optimizer steps between two records of loss and load, at least 1. Each is that step's batch
        alone.

    Raises:
        ValueError: If `every_n_steps` is below 1.
    """

    def __init__(self, every_n_steps: int = 5) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.record = RoutingRecord()
        self._domains: tuple[str, ...] = ()
        self._domain_load: DomainLoad | None = None
        self._domain_bits: list[MeanMetric] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record loss and load."""
        if trainer.global_step % self.every_n_steps or not isinstance(outputs, Mapping):
            return
        self.record.loss.append((trainer.global_step, float(trainer.callback_metrics["train/bits_per_byte"])))
        for layer, load in enumerate(outputs["load"]):
            shares = (load / load.sum()).tolist()
            self.record.load += [(trainer.global_step, layer, expert, share) for expert, share in enumerate(shares)]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._begin(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._begin(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count experts by kind of text."""
        self._count(outputs, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count experts by kind of text."""
        self._count(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the latest picture."""
        self._end(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the latest picture."""
        self._end(pl_module, "test")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the files."""
        if trainer.is_global_zero and trainer.log_dir and not getattr(trainer, "fast_dev_run", False):
            folder = Path(trainer.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.record.write(folder)
            routing_figure({"run": self.record}).savefig(folder / "routing.png", dpi=120)

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        network = cast(Any, module).network
        self._domains = tuple(cast(Any, trainer).datamodule.domains)
        sizes = (network.num_experts, len(self._domains), network.num_layers)
        self._domain_load = DomainLoad(*sizes).to(module.device)
        self._domain_bits = [MeanMetric().to(module.device) for _ in self._domains]

    def _count(self, outputs: Mapping[str, Any], batch: Any) -> None:
        cast(DomainLoad, self._domain_load).update(outputs["indices"], batch.domain, batch.mask)
        for number, metric in enumerate(self._domain_bits):
            kept = batch.mask & (batch.domain == number)[:, None]
            if kept.any():
                metric.update(outputs["bits"][kept])

    def _end(self, module: LightningModule, stage: str) -> None:
        shares = cast(DomainLoad, self._domain_load).compute()
        self.record.domain = [
            (domain, layer, expert, share)
            for layer, by_domain in enumerate(shares.tolist())
            for domain, by_expert in zip(self._domains, by_domain, strict=True)
            for expert, share in enumerate(by_expert)
            if not math.isnan(share)
        ]
        for domain, metric in zip(self._domains, self._domain_bits, strict=True):
            if metric.update_called:
                module.log(f"{stage}/bits_per_byte/{domain}", metric.compute())
