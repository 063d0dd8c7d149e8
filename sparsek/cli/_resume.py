"""The same command goes on with a run that was killed."""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from sparsek.callbacks import CheckpointError, RunLogger
from sparsek.callbacks._sealed_file import read_sealed, remove_parts

from ._run_record import find_record

Resume = Literal["auto", "previous", "never"]
KEY = "sparsek_configuration"


class Resumption(Callback):
    """Finds the run that the same command began and did not end, and keeps the record of this one until it ends.

    Args:
        trainer: As the configuration made it.
        configuration: The whole of it, as text.
        resume: `auto`: go on from the newest checkpoint, and refuse a damaged one. `previous`: pass over damaged ones. `never`: begin.
        ckpt_path: The file that the user names, to begin a new run from it.

    Raises:
        CheckpointError: If the newest checkpoint is damaged or of another configuration.
    """

    def __init__(self, trainer: Trainer, configuration: str, resume: Resume, ckpt_path: str | None) -> None:
        self.digest = hashlib.sha256(configuration.encode()).hexdigest()[:16]
        root = Path(trainer.loggers[0].save_dir or "." if trainer.loggers else trainer.default_root_dir)
        self.record, self.found = find_record(root, self.digest, resume != "never" and ckpt_path is None)
        self.ckpt_path = ckpt_path
        if self.found:
            newest = newest_checkpoint(self.record.folders, self.digest, skip_damaged=resume == "previous")
            self.ckpt_path = None if newest is None else str(newest)
        self._handle: int | None = None
        self._prepare_loggers(trainer)

    @property
    def message(self) -> str:
        """What a user is told."""
        place = self.record.log_folder or str(self.record.file.parent)
        begun = f"from {self.ckpt_path}" if self.ckpt_path else "from its beginning: it has no checkpoint"
        return f"going on with the run in {place} {begun}" if self.found else ""

    def _prepare_loggers(self, trainer: Trainer) -> None:
        """Let loggers write where the run wrote before."""
        known = self.record.versions if self.found else [None] * len(trainer.loggers)
        for logger, version in zip(trainer.loggers, known, strict=False):
            if isinstance(logger, WandbLogger):
                logger._id = logger._wandb_init["id"] = logger._id or version or secrets.token_hex(4)
                logger._wandb_init["resume"] = "allow"
            elif isinstance(logger, CSVLogger):
                logger._version = logger._version if version is None else version
                RunLogger.adopt(logger, keep=self.found, anew=self.found and self.ckpt_path is None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock and write the record, now that every process has found it."""
        log_folder = trainer.log_dir  # asks all processes
        if not trainer.is_global_zero:
            return
        folders = [str(path) for c in trainer.checkpoint_callbacks if (path := getattr(c, "dirpath", None))]
        self.record.log_folder, self.record.folders = log_folder, folders
        self.record.versions = [logger.version for logger in trainer.loggers]
        self._handle = self.record.lock()
        self.record.write()
        for folder in filter(os.path.isdir, [*folders, *([log_folder] if log_folder else [])]):
            remove_parts(Path(folder))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write down which configuration it is of."""
        checkpoint[KEY] = self.digest

    def end(self, finished: bool) -> None:
        """Forget the run if it is finished; let others go on with it if not."""
        if self._handle is None:
            return
        if finished:
            self.record.remove()
        os.close(self._handle)
        self._handle = None


def newest_checkpoint(folders: Sequence[str], digest: str, skip_damaged: bool = False) -> Path | None:
    """The checkpoint that was written last, or None where there is none.

    Args:
        folders: Where checkpoints are.
        digest: Of the configuration that they must be of.
        skip_damaged: Whether one that cannot be used is passed over, with a line on standard error.

    Raises:
        CheckpointError: If one cannot be used, or none of them.
    """
    files = [path for folder in folders for path in Path(folder).glob("*.ckpt")]
    refused: list[str] = []
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            check_configuration(path, digest)
            return path
        except CheckpointError as error:
            if not skip_damaged:
                hint = "--resume=previous goes on with the one before it, --resume=never begins a new run"
                raise CheckpointError(f"checkpoint {error}; {hint}") from error
            refused.append(str(error))
            sys.stderr.write(f"sparsek: checkpoint {error}: passed over\n")
    if refused:
        raise CheckpointError(f"no checkpoint of this run can be used: {refused[0]}; --resume=never begins a new run")
    return None


def check_configuration(path: Path, digest: str) -> None:
    """Refuse a checkpoint that is damaged, or that a run of another configuration wrote."""
    found = (_of_folder(path) if path.is_dir() else read_sealed(path)).get(KEY)
    if found != digest:
        raise CheckpointError(f"{str(path)!r} is foreign: it is of another configuration")


def _of_folder(path: Path) -> dict[str, Any]:
    """What a sharded strategy writes last: a folder without it is not whole."""
    try:
        return dict(torch.load(path / "meta.pt", map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{str(path)!r} is not whole: {error}") from error
