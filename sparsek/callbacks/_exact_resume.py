"""Make a resumed run the run that was not interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from ._appending_csv import writers
from ._exact_loops import Place, carried_metrics, make_exact, pending_metrics
from ._generators import (
    global_state,
    private_generators,
    private_state,
    set_global_state,
    set_private_state,
)


class ExactResume(Callback):
    """Keeps in every checkpoint what Lightning does not, and continues from it as if nothing had happened.

    In a checkpoint of any `ModelCheckpoint`, wherever it is written: the states of torch's, numpy's and Python's global generators, of
    every process; of every private `torch.Generator`, `numpy.random.Generator` and `random.Random` that the module, the data module or
    a callback holds; the metrics that were measured and not yet logged; and how many lines of metrics there are. A resumed run goes on
    behind the last batch: it logs what was pending, validates if that is due, ends the epoch, and calls `on_train_end` even if no step
    is left. Files of :class:`RunLogger` are cut back to the checkpoint, so that no line is missing or twice.

    On one machine with the same number of processes and threads, weights, logged metrics and further checkpoints are then equal bit for
    bit, if the data come in an order that has a `state_dict` (as those of :mod:`sparsek.datamodules` do) and operations are
    deterministic. Means over an epoch of what `training_step` logs are not: Lightning keeps none of their sums.

    `sparsek fit` uses this callback by itself.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from sparsek.callbacks import ExactResume
        >>> trainer = Trainer(callbacks=[ExactResume()], logger=False, accelerator="cpu")  # .fit(…, ckpt_path=…)
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] = {}
        self._trainer: Trainer | None = None
        self._module: LightningModule | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the loops that go on exactly in place."""
        if stage == "fit":
            self._trainer, self._module, self._saved = trainer, pl_module, {}
            make_exact(trainer, Place(self._restore, self._restore, self._get("pending"), self._get("carried")))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the data of validation now, not when it comes: `ModelCheckpoint` asks how many there are, for where it saves."""
        val_loop = trainer.fit_loop.epoch_loop.val_loop
        if trainer.enable_validation and trainer.val_dataloaders is None:
            trainer.validating = True
            val_loop.setup_data()
            trainer.training = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the trainer."""
        self._trainer = self._module = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; called in all processes."""
        if self._trainer is None:
            return {}
        written = writers(self._trainer)
        for writer in written:
            writer.sync()
        return {
            "generators": _of_all_processes({"global": global_state(), "private": private_state(self._private())}),
            "pending": pending_metrics(self._trainer),
            "carried": carried_metrics(self._trainer),
            "lines": [writer.lines for writer in written],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Cut the files of metrics back to the checkpoint; generators are set when the run goes on."""
        self._saved = state_dict
        if self._trainer is not None:
            for writer, lines in zip(writers(self._trainer), state_dict.get("lines", []), strict=False):
                writer.cut(lines)

    def _get(self, name: str) -> Callable[[], dict[str, Any]]:
        return lambda: self._saved.get(name, {})

    def _restore(self) -> None:
        states, rank = self._saved.get("generators", []), self._trainer.global_rank if self._trainer else 0
        if rank < len(states):
            set_private_state(self._private(), states[rank]["private"])
            set_global_state(states[rank]["global"])

    def _private(self) -> Any:
        trainer = self._trainer
        if trainer is None:
            return {}
        others = [callback for callback in cast(Any, trainer).callbacks if callback is not self]
        callbacks = {f"callbacks.{i}.{type(callback).__name__}": callback for i, callback in enumerate(others)}
        roots = {"module": self._module, "data": getattr(trainer, "datamodule", None)}
        return private_generators(roots | callbacks)


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all processes, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states
