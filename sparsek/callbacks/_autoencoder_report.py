"""Report a run of sparse autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from ._autoencoder_figure import autoencoder_figure
from ._autoencoder_record import AutoencoderRecord
from ._run_folder import run_folder, save_picture


class AutoencoderReport(Callback):
    """Keeps dead latents over time and, of the last validation or test, the error at every k and how often latents are active.

    At the end of `fit`, `validate` or `test`, the log folder of the run gets `fvu_by_k.csv`, `density.csv`, `dead.csv` and the
    picture `autoencoder.png`, which also goes to loggers that take images, such as wandb's; nothing is written in a
    `fast_dev_run`. For :class:`~sparsek.tasks.SparseAutoencoderTask` and :class:`~sparsek.tasks.SparseAutoencodersTask`.

    Args:
        every_n_steps: Optimizer steps between two records of dead latents, at least 1.

    Raises:
        ValueError: If the number is out of range.

    Example:
        >>> callback = AutoencoderReport(every_n_steps=50)  # Trainer(callbacks=[callback])
        >>> callback.record.dead
        []
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.record = AutoencoderRecord()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record dead latents, once a step however many batches it has."""
        step, last = trainer.global_step, self.record.dead[-1][1] if self.record.dead else 0
        if step == last or step % self.every_n_steps or not isinstance(outputs, Mapping):
            return
        for name, part in outputs["parts"].items():
            if part.dead is not None:
                self.record.dead.append((name, step, float(part.dead)))

    def state_dict(self) -> dict[str, Any]:
        """What is recorded so far."""
        return {name: list(rows) for name, rows in vars(self.record).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a record."""
        self.record = AutoencoderRecord(**{name: list(map(tuple, rows)) for name, rows in state_dict.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the latest measures."""
        if not trainer.sanity_checking:
            self._keep(pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the latest measures."""
        self._keep(pl_module, "test")

    def _keep(self, module: LightningModule, stage: str) -> None:
        self.record.fvu, self.record.density = [], []
        for name, member in cast(Any, module).members.items():
            found = member.measure(stage).found
            self.record.fvu += [(name, k, float(fvu)) for k, fvu in found.fvu_by_k.items()]
            self.record.density += [(name, frequency, int(n)) for frequency, n in found.density.items()]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the files, and give the picture to the loggers that take one."""
        folder = run_folder(trainer)
        if folder is None:
            return
        self.record.write(folder)
        save_picture(trainer, autoencoder_figure(self.record), folder / "autoencoder.png")
