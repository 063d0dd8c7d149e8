"""The tables, each with test rows that are drawn once; what is left is split by seed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from sparsek import datamodules

Array = NDArray[Any]
TEST_SEED = 0


class Rows(NamedTuple):
    """Rows of one part."""

    X: Array
    """(rows, columns) float32, less the mean of the training rows; columns keep their scale."""
    y: Array
    """(rows,): class numbers from 0."""


class Split(NamedTuple):
    """The three parts."""

    train: Rows
    val: Rows
    test: Rows


@cache
def _read(source: str, arguments: tuple[tuple[str, Any], ...], root: str | None, scale: float) -> Rows:
    table = getattr(datamodules, source)(**dict(arguments)).read(None if root is None else Path(root))
    return Rows((table.X / scale).astype(np.float32), np.unique(table.y, return_inverse=True)[1])


def load(described: Mapping[str, Any], fractions: Mapping[str, float], root: str | None, seed: int) -> Split:
    """The parts of a table under a seed; the test rows are the same under all seeds."""
    arguments = tuple(described.get("arguments", {}).items())
    X, y = _read(described["source"], arguments, root, described["scale"])
    rest, test = train_test_split(np.arange(len(y)), test_size=fractions["test"], stratify=y, random_state=TEST_SEED)
    share = fractions["val"] / (1 - fractions["test"])
    train, val = train_test_split(rest, test_size=share, stratify=y[rest], random_state=seed)
    mean = X[train].mean(0)
    return Split(*(Rows(X[rows] - mean, y[rows]) for rows in (train, val, test)))
