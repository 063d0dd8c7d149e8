"""The command line: LightningCLI, with checkpoints checked before anything starts and runs that survive."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sparsek.callbacks import (
    CheckpointError,
    ExactResume,
    ProcessDraws,
    RunCheckpoint,
    SealedCheckpointIO,
    StopAtNonFinite,
)
from sparsek.callbacks._sealed_file import read_sealed

from ._allowed import asked_for, only_allowed
from ._resume import Resume, Resumption
from ._saved_config import SavedConfig

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "runs", "name": "sparsek", "flush_logs_every_n_steps": 50},
    },
    "accelerator": "auto",
}
NOT_OF_THE_RUN = ("resume", "ckpt_path", "weights_only", "config")
"""What two commands may differ in and still be of one run."""


def check_checkpoint(path: str | Path) -> None:
    """Refuse a checkpoint that is missing, damaged or not one of Lightning's, read without unrestricted pickle.

    Raises:
        ValueError: With what is wrong.
    """
    if not Path(path).is_file():
        raise ValueError(f"ckpt_path must be a checkpoint file, got {str(path)!r}, which is not there")
    try:
        read_sealed(path)
    except CheckpointError as error:
        raise ValueError(f"ckpt_path {error}") from error


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

    A configuration says what the model is; a checkpoint gives its weights and never changes the configuration. Files may name classes
    of :data:`~sparsek.cli.ALLOWED` packages alone; others are asked for with `--allow`, or typed on the command line.

    `fit` keeps checkpoints of itself (:class:`~sparsek.callbacks.RunCheckpoint`), and the same command goes on with a run that was
    killed (:class:`~sparsek.callbacks.ExactResume`); it ends at the first NaN (:class:`~sparsek.callbacks.StopAtNonFinite`), and its
    processes draw apart (:class:`~sparsek.callbacks.ProcessDraws`).
    """

    def __init__(self, args: ArgsType = None) -> None:
        words = sys.argv[1:] if args is None else args
        self.resumption: Resumption | None = None
        with only_allowed(asked_for([str(word) for word in words]) if isinstance(words, list) else ()):
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_defaults=TRAINER_DEFAULTS,
                save_config_callback=SavedConfig,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_class=OneErrorParser,
                args=args,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is sparsek's own."""
        parser.add_argument(
            "--allow",
            type=str,
            nargs="+",
            default=[],
            help="packages that files may name too; on the command line alone",
        )
        parser.add_argument(
            "--resume",
            type=Resume,
            default="auto",
            help="go on with a run of the same configuration that was killed: from its newest checkpoint (auto), from the newest "
            "that is whole (previous), or not at all (never); fit alone",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; what was allowed is not part of the configuration."""
        super().parse_arguments(parser, args)
        given = self.config[self.config.subcommand].pop("allow", None) or []
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list) and not set(given) <= set(asked_for([str(word) for word in words])):
            self.parser.error(f"allow must be given on the command line, not in a file, got {list(given)}")

    def _parse_ckpt_path(self) -> None:
        """Check the file that `ckpt_path` names, before any class is made."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path is None or path in ("best", "last"):
            return
        try:
            check_checkpoint(path)
        except ValueError as error:
            self.parser.error(str(error))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with the callbacks and the plugin of runs that survive unless the configuration names others."""
        given = self._get(self.config_init, "trainer", default={})
        plugins = given.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if _takes_files(given.get("strategy")) and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, SealedCheckpointIO()]
        if self.subcommand == "fit":
            callbacks = given.get("callbacks") or []
            callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
            kwargs["callbacks"] = [*callbacks, *_missing(callbacks, given.get("enable_checkpointing") is not False)]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Look for a run that the same command began."""
        keeps_nothing = not (self.trainer.loggers or self.trainer.checkpoint_callbacks)
        if keeps_nothing or getattr(self.trainer, "fast_dev_run", False):
            return
        own = self.config.fit.clone()
        for name in NOT_OF_THE_RUN:
            own.pop(name, None)
        text = self._parser("fit").dump(own, skip_none=False, skip_validation=True)
        try:
            self.resumption = Resumption(self.trainer, text, self.config.fit.resume, self.config.fit.get("ckpt_path"))
        except CheckpointError as error:
            self.parser.error(str(error))
        self.trainer.callbacks.insert(0, self.resumption)  # type: ignore[attr-defined]  # Lightning sets it without a declaration
        if self.resumption.message and self.trainer.is_global_zero:
            sys.stderr.write(f"sparsek: {self.resumption.message}\n")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if self.resumption is not None:
            arguments["ckpt_path"] = self.resumption.ckpt_path
        return arguments

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with warnings.catch_warnings():
                if subcommand != "fit":  # what a checkpoint says of resuming is of no use there
                    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
                super()._run_subcommand(subcommand)
        except RuntimeError as error:
            path = self.trainer.ckpt_path
            if path is None or "loading state_dict" not in str(error):
                raise
            raise CheckpointError(f"checkpoint {str(path)!r} is of another model: {error}") from error
        finally:
            if self.resumption is not None:
                self.resumption.end(finished=self.trainer.state.finished)


def _missing(callbacks: list[Callback], keeps_checkpoints: bool) -> list[Callback]:
    """The callbacks of runs that survive that a configuration does not name."""
    own: tuple[type[Callback], ...] = (ExactResume, StopAtNonFinite, ProcessDraws)
    wanted: list[tuple[type[Any], type[Any]]] = [(kind, kind) for kind in own]
    if keeps_checkpoints:
        wanted.append((Checkpoint, RunCheckpoint))
    return [make() for kind, make in wanted if not any(isinstance(callback, kind) for callback in callbacks)]


def _takes_files(strategy: Strategy | str | None) -> bool:
    """Whether checkpoints are single files: sharded strategies write folders in a way of their own."""
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    return not any(word in name.lower() for word in ("fsdp", "modelparallel", "deepspeed", "xla"))


def run(args: ArgsType = None) -> SparsekCLI:
    """Run a command in this process and return its parts: `.trainer`, `.model`, `.datamodule`.

    Args:
        args: Words of the command line, such as `["fit", "-c", "configs/moe/text.yaml"]`; by default those of this
            process.

    Raises:
        SystemExit: With 143 if SIGTERM ended the run, which Lightning takes for success; the same command goes on with it.
    """
    try:
        return SparsekCLI(args)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
