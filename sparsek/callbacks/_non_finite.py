"""Stop at the first number that is not finite, and say where it came from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ._non_finite_origin import Origin, first_bad, origin_of, tensors
from ._sealed_file import write_sealed


class NonFiniteError(FloatingPointError):
    """Training met a NaN or an infinity.

    Attributes:
        step: Optimizer steps done before.
        epoch: Number of the epoch.
        batch: Number of the batch in the epoch.
        origin: What was not finite first, in words.
        module: Name of the module that made it or holds it, or None where no module did.
        file: Where the batch is kept, or None.
    """

    def __init__(
        self, what: str, origin: Origin, step: int, epoch: int, batch: int, file: Path | None, kept: str
    ) -> None:
        self.step, self.epoch, self.batch, self.file = step, epoch, batch, file
        self.origin, self.module = origin.words, origin.module
        saved = "" if file is None else f"; the batch is in {str(file)!r}"
        good = f"; the last good checkpoint is {kept!r}" if kept else "; there is no checkpoint yet"
        super().__init__(f"{what} at step {step} (epoch {epoch}, batch {batch}): {origin.words}{saved}{good}")


class StopAtNonFinite(Callback):
    r"""Ends training when the loss or a gradient is not finite, before the optimizer moves a weight.

    The error names the step, the batch and what was not finite first: a part of the batch, a parameter, or the module whose output is
    not finite though its inputs are. To find it, the batch is run once more, with the same random numbers and with hooks on all
    modules; until then a step costs one look at the loss and one norm of the gradients. The batch is written to `non_finite.pt` in the
    log folder, as plain tensors. A checkpoint with a parameter that is not finite is refused, so the last one is good.

    With float16 and a gradient scaler infinite gradients are in order, and only the loss is looked at; so it is where parameters are
    sharded. `sparsek fit` uses this callback by itself.

    Args:
        every_n_steps: Batches between two looks, at least 1. A look waits for the device.
        gradients: Whether gradients are looked at, too.

    Raises:
        ValueError: If `every_n_steps` is out of range.
        NonFiniteError: From `fit`.

    Example:
        >>> from sparsek.callbacks import StopAtNonFinite
        >>> StopAtNonFinite(every_n_steps=10).gradients
        True
    """

    def __init__(self, every_n_steps: int = 1, gradients: bool = True) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps, self.gradients = every_n_steps, gradients
        self._batch: Any = None
        self._batch_idx = 0
        self._generators: list[Tensor] = []
        self._folder: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask all processes for the log folder."""
        self._folder = None if getattr(trainer, "fast_dev_run", False) else trainer.log_dir

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batch, and the state of torch's generators."""
        self._batch, self._batch_idx = batch, batch_idx
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._generators = [torch.get_rng_state(), *cuda]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss."""
        if self._batch_idx % self.every_n_steps:
            return
        bad = not bool(torch.isfinite(loss.detach()).all())
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            origin = origin_of(pl_module, self._batch, self._batch_idx, self._generators)
            raise self._error(trainer, f"the loss is {float(loss.detach().sum())}", origin)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradients."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if not self.gradients or scaled or self._batch_idx % self.every_n_steps:
            return
        found = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        if not found or any(isinstance(gradient, DTensor) for gradient in found.values()):
            return
        bad = _bad_gradients(found)
        if bad:  # the last in order of the module is the first that the backward pass reached
            origin = Origin(f"the gradient of parameter {bad[-1]!r}", bad[-1].rpartition(".")[0])
            raise self._error(trainer, f"the gradients of {len(bad)} parameters are not finite", origin)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let go of the batch."""
        self._batch = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to keep weights that are not finite."""
        bad = first_bad({name: p.detach() for name, p in pl_module.named_parameters() if not isinstance(p, DTensor)})
        if bad is not None:
            origin = Origin(f"parameter {bad!r}", bad.rpartition(".")[0])
            raise self._error(trainer, "no checkpoint is written of weights that are not finite", origin)

    def _error(self, trainer: Trainer, what: str, origin: Origin) -> NonFiniteError:
        kept = [getattr(callback, "_last_checkpoint_saved", "") for callback in trainer.checkpoint_callbacks]
        file = self._keep(trainer, origin) if trainer.is_global_zero and self._batch is not None else None
        place = (trainer.global_step, trainer.current_epoch, self._batch_idx)
        return NonFiniteError(what, origin, *place, file, next((str(path) for path in kept if path), ""))

    def _keep(self, trainer: Trainer, origin: Origin) -> Path | None:
        """Write the batch to the log folder, if there is one."""
        if self._folder is None:
            return None
        file = Path(self._folder) / "non_finite.pt"
        batch = {name: value.detach().cpu() for name, value in tensors(self._batch)}
        write_sealed({"origin": origin.words, "step": trainer.global_step, "batch": batch}, file)
        return file


def _bad_gradients(gradients: dict[str, Tensor]) -> list[str]:
    """Names of those that are not finite; one norm of all says whether there is any."""
    norm = torch.nn.utils.get_total_norm([gradient.detach() for gradient in gradients.values()])
    if math.isfinite(norm):
        return []
    return [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
