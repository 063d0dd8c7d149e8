"""What recorders do when a run ends: find its folder for their files, and show their picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_folder(trainer: Trainer) -> Path | None:
    """Return the log folder of the run; None where nothing is to be written: no logger, another process, a `fast_dev_run`."""
    place = trainer.log_dir  # asks all processes
    if place is None or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_picture(trainer: Trainer, figure: Figure, path: Path) -> None:
    """Write a picture, and give it under its name to the loggers that take images."""
    figure.savefig(path, dpi=120)
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(path.stem, [str(path)])
