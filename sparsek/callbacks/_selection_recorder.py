"""Write down and draw what a gate selected."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from sparsek.nn import FeatureGate

from ._run_folder import run_folder, save_picture
from ._selection_figure import selection_figure


class SelectionRecorder(Callback):
    """Writes `selection.csv` and the picture `selection.png` into the log folder when `fit` ends.

    The file has a line for each feature: its number, name, inclusion probability and whether it is selected. The picture is
    :func:`selection_figure`, and also goes to loggers that take images, such as wandb's. Names, and the size of images, are
    those of the data module's `table`, if it has one. Nothing is written in a `fast_dev_run`.

    For a task whose `gate` is a :class:`~sparsek.nn.FeatureGate`. With :class:`GateHardening` name this callback first:
    probabilities are 0 and 1 afterwards.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from sparsek.callbacks import GateHardening, SelectionRecorder
        >>> callbacks = [SelectionRecorder(), GateHardening()]
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, float, bool]] = []
        self._image: tuple[int, int] | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take down the probabilities at the last k, and the selection."""
        gate = cast(Any, pl_module).gate
        if not isinstance(gate, FeatureGate):
            raise ValueError(
                f"gate must be a FeatureGate, which selects the same for all inputs, got {type(gate).__name__}"
            )
        gate.anneal(1.0)
        table = getattr(getattr(trainer, "datamodule", None), "table", None)
        names = [str(i) for i in range(gate.num_features)] if table is None else table.names
        self._image = None if table is None else table.image
        selected = zip(names, gate.probs().tolist(), gate.support().tolist(), strict=True)
        self.rows = [(number, *each) for number, each in enumerate(selected)]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the files, and give the picture to the loggers that take one."""
        folder = run_folder(trainer) if self.rows else None
        if folder is None:
            return
        self._write(folder / "selection.csv")
        _, names, probs, support = zip(*self.rows, strict=True)
        figure = selection_figure(probs, support, names=names, image=self._image)
        save_picture(trainer, figure, folder / "selection.png")

    def _write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("feature", "name", "probability", "selected"))
            writer.writerows((number, name, f"{prob:.6g}", int(selected)) for number, name, prob, selected in self.rows)
