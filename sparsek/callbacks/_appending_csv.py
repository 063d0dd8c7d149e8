"""Metrics as CSV that a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ._sealed_file import replacing


class AppendingWriter(ExperimentWriter):
    """Writes `metrics.csv` line by line, whole lines only; a new column rewrites the file in one step.

    Args:
        log_dir: Folder of the file.
        keep: Whether what is there is continued; otherwise it is deleted.
    """

    def __init__(self, log_dir: str, keep: bool = False) -> None:
        self._keep = keep
        self.lines = 0
        super().__init__(log_dir)
        if keep and self._path.is_file():
            self.cut(None)

    @property
    def _path(self) -> Path:
        return Path(self.metrics_file_path)

    def cut(self, lines: int | None) -> None:
        """Keep so many lines after the header; None: all whole ones. No file has more lines than it had."""
        if not self._path.is_file():
            return
        header, rows = self._read()
        self.metrics_keys, kept = header, rows[:lines]
        self.metrics, self.lines = [], len(kept)
        self._rewrite(kept)

    def save(self) -> None:
        """Append what was recorded."""
        if self.metrics and self._record_new_keys() and self._path.is_file():
            self._rewrite(self._read()[1])
        if self.metrics:
            self._append(self._text(self.metrics, header=not self._path.is_file()))
            self.lines += len(self.metrics)
            self.metrics = []

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Keep hyper-parameters; the file that is there stays until the new one is whole."""
        self.hparams.update(params)
        part = Path(self.log_dir) / f".{self.NAME_HPARAMS_FILE}.part"
        try:
            save_hparams_to_yaml(str(part), self.hparams)
            part.replace(part.with_name(self.NAME_HPARAMS_FILE))
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def sync(self) -> None:
        """Bring the lines to the disk."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _append(self, text: str) -> None:
        """Write whole lines, or none where the disk is full."""
        with self._path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            data = text.encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(size)
                raise

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The header and the whole lines: a line that ends without a line feed was cut short."""
        text = self._path.read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        return list(reader.fieldnames or []), list(reader)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as file:
            file.write(self._text(rows, header=True).encode())

    def _text(self, rows: list[Any], header: bool) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _check_log_dir_exists(self) -> None:
        if not self._keep:
            super()._check_log_dir_exists()


class RunLogger(CSVLogger):
    """Lightning's CSVLogger, of which a resumed run continues the file: no line missing, no line twice.

    With :class:`ExactResume`, which cuts the file back to the checkpoint. Lightning's own deletes the file of an existing version.
    `sparsek fit` treats every CSVLogger so.

    Args:
        save_dir: Folder of all runs.
        name: Folder of runs of one kind in it.
        version: Of this run; by default the next free number.
        prefix: Before the names of metrics.
        flush_logs_every_n_steps: Unused by Lightning's trainer, which writes every line at once.
        keep: Whether a file that is there is continued.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (0, 1):
        ...         logger = RunLogger(folder, "demo", version=0, keep=True)
        ...         logger.log_metrics({"loss": 1.5}, step)
        ...         logger.save()
        ...     (Path(logger.log_dir) / "metrics.csv").read_text().split()
        ['loss,step', '1.5,0', '1.5,1']
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
        keep: bool = False,
    ) -> None:
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)
        self.keep, self.anew = keep, False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the files, made when it is first asked for."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = AppendingWriter(self.log_dir, self.keep)
            if self.anew:
                self._experiment.cut(0)
        return self._experiment

    @classmethod
    def adopt(cls, logger: CSVLogger, keep: bool, anew: bool = False) -> None:
        """Let a CSVLogger of Lightning's that has not written yet behave as this one.

        Args:
            logger: Changed.
            keep: Whether a file that is there is continued.
            anew: Whether it is continued from its header on.
        """
        if type(logger) is CSVLogger:
            logger.__class__ = cls
        if isinstance(logger, cls):
            logger.keep, logger.anew = keep, anew


def writers(trainer: Trainer) -> list[AppendingWriter]:
    """The writers of a trainer's loggers that can be cut back; none but in the first process."""
    if not trainer.is_global_zero:
        return []
    found = [getattr(logger, "_experiment", None) for logger in trainer.loggers]
    return [writer for writer in found if isinstance(writer, AppendingWriter)]
