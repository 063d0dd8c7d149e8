"""The command line: LightningCLI, with checkpoints checked before anything starts."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "runs", "name": "sparsek", "flush_logs_every_n_steps": 50},
    },
    "accelerator": "auto",
}


def check_checkpoint(path: str | Path) -> None:
    """Refuse a checkpoint that is missing or that is not one of Lightning's, read without unrestricted pickle.

    Raises:
        ValueError: With what is wrong.
    """
    if not Path(path).is_file():
        raise ValueError(f"ckpt_path must be a checkpoint file, got {str(path)!r}, which is not there")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"ckpt_path {str(path)!r} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"ckpt_path {str(path)!r} is not a Lightning checkpoint: it holds no state_dict")


class OneErrorParser(LightningArgumentParser):
    """A parser that says what is wrong, and not the hundred options of a Trainer before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the message to standard error and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog.split(' ')[0]}: error: {message}\n")
        self.exit(2)


class SparsekCLI(LightningCLI):
    """LightningCLI whose model and data are given by class path. `ckpt_path` is a file, `best` or `last`.

    A configuration says what the model is; a checkpoint gives its weights and never changes the configuration.
    """

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=OneErrorParser,
            args=args,
        )

    def _parse_ckpt_path(self) -> None:
        """Check the file that `ckpt_path` names, before any class is made."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path is None or path in ("best", "last"):
            return
        try:
            check_checkpoint(path)
        except ValueError as error:
            self.parser.error(str(error))


def run(args: ArgsType = None) -> SparsekCLI:
    """Run a command in this process and return its parts: `.trainer`, `.model`, `.datamodule`.

    Args:
        args: Words of the command line, such as `["fit", "-c", "configs/moe/text.yaml"]`; by default those of this
            process.
    """
    return SparsekCLI(args)
