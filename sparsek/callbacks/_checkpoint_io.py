"""The way of checkpoints to the disk and back, for Lightning's Trainer."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from ._sealed_file import read_sealed, write_sealed


class SealedCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are written in one step, carry a digest of themselves, and are read without running code.

    A process that is killed, or a disk that is full, leaves the checkpoint that was there before. A file that was cut short or of
    which a bit has changed is refused with its name. Checkpoints of Lightning without a digest are read too. `sparsek fit` uses
    this plugin by itself; for files on this machine's file systems.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from sparsek.callbacks import SealedCheckpointIO
        >>> trainer = Trainer(plugins=[SealedCheckpointIO()], logger=False, accelerator="cpu")
        >>> type(trainer.strategy.checkpoint_io).__name__
        'SealedCheckpointIO'
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written; nothing of it is left, and older ones are as they were.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options must be None, got {storage_options!r}")
        try:
            write_sealed(checkpoint, path)
        except OSError as error:
            full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            message = f"checkpoint could not be written{full}, older ones are whole: {error.strerror}"
            raise OSError(error.errno, message, str(path)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; only an explicit `weights_only=False` runs code that it holds.

        Raises:
            CheckpointError: With the name of the file and what is wrong with it.
        """
        return read_sealed(path, map_location, weights_only is not False)
