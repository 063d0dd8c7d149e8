"""The configuration of a run, kept beside its logs."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from sparsek.callbacks._sealed_file import replacing


class SavedConfig(SaveConfigCallback):
    """Writes `config.yaml` into the log folder in one step, and leaves one alone that says the same."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it before anything begins."""
        folder = trainer.log_dir  # asks all processes
        if folder is None or self.already_saved:
            return
        self.already_saved = True
        if trainer.is_global_zero:
            self._write(Path(folder) / self.config_filename)

    def _write(self, path: Path) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
