"""Record what the routers of a language model do, and draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection

from sparsek.metrics import DomainInformation, DomainLoad, GradientSNR

from ._figure import routing_figure
from ._record import RoutingRecord
from ._run_folder import run_folder, save_picture


class RoutingRecorder(Callback):
    """Keeps the training loss, the load of every expert over time, and which expert takes which kind of text.

    At the end of `fit`, `validate` or `test`, the log folder of the run gets `loss.csv`, `expert_load.csv`,
    `expert_domain.csv` and the picture `routing.png`, which also goes to loggers that take images, such as wandb's;
    nothing is written in a `fast_dev_run`. It also logs, for `val/` and `test/`, `bits_per_byte/<kind>` and
    `domain_information`, the mutual information of expert and kind of text in bits; and `train/router_gradient_snr`, signal
    over noise of the gradient to the routers' weights, before clipping. All are of all processes together.

    For a task that has a `network` with `routers`, `num_experts` and `num_layers`, logs `train/bits_per_byte`, and returns
    what :class:`sparsek.tasks.LanguageModelTask` does; and a data module with `domains`, whose batches have `domain` and
    `mask`.

    Args:
        every_n_steps: Optimizer steps between two records of loss and load, at least 1. Each is of the last batch of that
            step alone.
        snr_steps: Optimizer steps whose gradients make one value of signal over noise, at least 2.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, every_n_steps: int = 5, snr_steps: int = 20) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if snr_steps < 2:
            raise ValueError(f"snr_steps must be at least 2, got {snr_steps}")
        self.every_n_steps, self.snr_steps = every_n_steps, snr_steps
        self.record = RoutingRecord()
        self._domains: tuple[str, ...] = ()
        self._domain_load: MetricCollection | None = None
        self._gradient_snr: GradientSNR | None = None
        self._saved: dict[str, Any] = {}
        self._domain_bits: list[MeanMetric] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record loss and load, once a step however many batches it has."""
        step, last = trainer.global_step, self.record.loss[-1][0] if self.record.loss else 0
        if step == last or step % self.every_n_steps or not isinstance(outputs, Mapping):
            return
        self.record.loss.append((step, float(trainer.callback_metrics["train/bits_per_byte"])))
        for layer, load in enumerate(outputs["load"]):
            shares = (load / load.sum()).tolist()
            self.record.load += [(step, layer, expert, share) for expert, share in enumerate(shares)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradient to the routers."""
        gradients = [_whole(router.weight.grad) for router in cast(Any, pl_module).network.routers]
        found = [gradient for gradient in gradients if gradient is not None]
        if not found or len(found) < len(gradients):
            return
        if self._gradient_snr is None:
            self._gradient_snr = self._make_gradient_snr(found[0].numel(), len(found), pl_module.device)
        self._gradient_snr.update(found)
        if self._gradient_snr.update_count == self.snr_steps:
            pl_module.log("train/router_gradient_snr", self._gradient_snr.compute().float())
            self._gradient_snr.reset()

    def state_dict(self) -> dict[str, Any]:
        """What is recorded so far, and the gradients of a value that is not complete."""
        snr = self._gradient_snr
        states = {} if snr is None else {name: getattr(snr, name) for name in snr._defaults}
        records = {name: list(rows) for name, rows in vars(self.record).items()}
        return {"record": records, "gradients": states, "updates": 0 if snr is None else snr.update_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a record."""
        self.record = RoutingRecord(**{name: list(map(tuple, rows)) for name, rows in state_dict["record"].items()})
        self._saved = state_dict if state_dict["updates"] else {}

    def _make_gradient_snr(self, numbers: int, layers: int, device: torch.device) -> GradientSNR:
        """The measure, with the gradients that a checkpoint held."""
        metric = GradientSNR(numbers, layers)
        for name, value in self._saved.get("gradients", {}).items():
            setattr(metric, name, value)
        metric._update_count, self._saved = self._saved.get("updates", 0), {}
        return metric.to(device)

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
        """Write the files, and give the picture to the loggers that take one."""
        folder = run_folder(trainer)
        if folder is None:
            return
        self.record.write(folder)
        save_picture(trainer, routing_figure({"run": self.record}), folder / "routing.png")

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        network = cast(Any, module).network
        self._domains = tuple(cast(Any, trainer).datamodule.domains)
        sizes = (network.num_experts, len(self._domains), network.num_layers)
        self._domain_load = MetricCollection([DomainLoad(*sizes), DomainInformation(*sizes)]).to(module.device)
        self._domain_bits = [MeanMetric().to(module.device) for _ in self._domains]
        for metric in self._domain_bits:
            metric.set_dtype(torch.float64)

    def _count(self, outputs: Mapping[str, Any], batch: Any) -> None:
        cast(MetricCollection, self._domain_load).update(outputs["indices"], batch.domain, batch.mask)
        for number, metric in enumerate(self._domain_bits):
            kept = batch.mask & (batch.domain == number)[:, None]
            metric.update(outputs["bits"].double(), kept.double())  # of all processes the same number of times

    def _end(self, module: LightningModule, stage: str) -> None:
        measured = cast(MetricCollection, self._domain_load).compute()
        module.log(f"{stage}/domain_information", measured["DomainInformation"])
        self.record.domain = [
            (domain, layer, expert, share)
            for layer, by_domain in enumerate(measured["DomainLoad"].tolist())
            for domain, by_expert in zip(self._domains, by_domain, strict=True)
            for expert, share in enumerate(by_expert)
            if not math.isnan(share)
        ]
        for domain, metric in zip(self._domains, self._domain_bits, strict=True):
            if metric.update_called and not (bits := metric.compute()).isnan():
                module.log(f"{stage}/bits_per_byte/{domain}", bits.float())


def _whole(gradient: Tensor | None) -> Tensor | None:
    """A gradient with all its parts: those sharded over processes are gathered."""
    gather = getattr(gradient, "full_tensor", None)
    return gradient if gather is None else cast(Tensor, gather())
