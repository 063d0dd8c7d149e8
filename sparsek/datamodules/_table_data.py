"""A table, for Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from sparsek._validation import check_positive

from ._fractions import check_fractions
from ._row_batches import RowBatches, RowsInOrder
from ._row_split import split_rows
from ._scaling import Imputation, Standardisation, filled
from ._table import Array, Table, TableSource


class TablePart(NamedTuple):
    """The rows of one part of a table, ready for a network or an estimator of scikit-learn."""

    X: Array
    """(rows, columns) float32, standardised."""
    y: Array
    """(rows,): class numbers from 0 (int64), or standardised numbers (float32)."""


class TableDataModule(LightningDataModule):
    """The rows of a table in three parts, standardised by what its training rows say.

    Rows are split at random, groups whole and classes in proportion; missing values are filled, and columns (and targets
    that are numbers) shifted and divided such that *training* rows have mean 0 and variance 1: nothing of the other parts
    is used. Columns that are constant in training are 0. A batch is (input, target). Training batch t is a function of
    (`seed`, t).

    `table` is the table as it was read; `part("train")`, `"val"` and `"test"` are arrays for scikit-learn, and `rows` says
    which rows of the table they are.

    Args:
        source: Where the table comes from.
        root: Folder of the files, for sources that read files.
        batch_size: Rows of a batch, at least 1.
        val_fraction: Share of rows (of groups) for validation, in (0, 1).
        test_fraction: Share of rows (of groups) for test, in (0, 1); both together below 1.
        imputation: Fills missing values; None refuses them.
        seed: Settles the split and the order of training.

    Raises:
        ValueError: If an argument is out of range; from `prepare_data` or at first use, if the source cannot be read, has
            missing values without an imputation, or has too few rows for the split.

    Example:
        >>> from sparsek.datamodules import ScikitLearnTable, TableDataModule
        >>> data = TableDataModule(ScikitLearnTable("wine"))
        >>> data.num_features, data.num_outputs, [len(data.part(name).y) for name in ("train", "val", "test")]
        (13, 3, [107, 35, 36])
        >>> input, target = next(iter(data.train_dataloader()))
        >>> input.shape, target.dtype
        (torch.Size([107, 13]), torch.int64)
    """

    def __init__(
        self,
        source: TableSource,
        root: str | None = None,
        batch_size: int = 128,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        imputation: Imputation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("batch_size", batch_size)
        check_fractions(val_fraction, test_fraction)
        self.source, self.root, self.batch_size = source, root, batch_size
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.imputation, self.seed = imputation, seed
        self._table: Table | None = None
        self._parts: dict[str, TablePart] = {}
        self.rows: dict[str, Array] = {}

    @property
    def table(self) -> Table:
        """The table as it was read, at first use."""
        if self._table is None:
            self._table = self.source.read(None if self.root is None else Path(self.root).expanduser())
        return self._table

    @property
    def num_features(self) -> int:
        """Number of columns."""
        return int(self.table.X.shape[1])

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a network needs: classes, or 1."""
        return 1 if self.table.regression else len(np.unique(self.table.y))

    def part(self, name: str) -> TablePart:
        """Return the rows of "train", "val" or "test".

        Raises:
            ValueError: At another name.
        """
        self.prepare_data()
        if name not in self._parts:
            raise ValueError(f"name must be one of {', '.join(self._parts)}, got {name!r}")
        return self._parts[name]

    def prepare_data(self) -> None:
        """Read, split, fill and standardise, so that what is wrong is said before anything starts."""
        if self._parts:
            return
        table = self.table
        self.rows = split_rows(table, self.val_fraction, self.test_fraction, self.seed)
        train = self.rows["train"]
        X = filled(table.X, train, table.names, self.imputation)
        X = Standardisation.fit(X[train])(X).astype(np.float32)
        y = self._target(table, train)
        self._parts = {name: TablePart(X[rows], y[rows]) for name, rows in self.rows.items()}

    def _target(self, table: Table, train: Array) -> Array:
        if not table.regression:
            return np.asarray(np.unique(table.y, return_inverse=True)[1], dtype=np.int64)
        y = table.y.reshape(-1, 1)
        return np.asarray(Standardisation.fit(y[train])(y)[:, 0], dtype=np.float32)

    def setup(self, stage: str) -> None:
        """Make sure that every process has the parts."""
        self.prepare_data()

    def train_dataloader(self) -> RowBatches:
        """Training rows in the orders that `seed` gives."""
        return RowBatches(self._tensors("train"), self.batch_size, self.seed, None, *self._process())

    def val_dataloader(self) -> RowsInOrder:
        """Validation rows, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> RowsInOrder:
        """Test rows, in order."""
        return self._in_order("test")

    def _tensors(self, name: str) -> tuple[Tensor, Tensor]:
        part = self.part(name)
        y = torch.from_numpy(part.y)
        return torch.from_numpy(part.X), y[:, None] if self.table.regression else y

    def _in_order(self, name: str) -> RowsInOrder:
        return RowsInOrder(self._tensors(name), self.batch_size, *self._process())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
