"""Fashion-MNIST: 60,000 images to learn from, 10,000 of them held out for validation, and 10,000 of the test."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class Images(NamedTuple):
    """Rows of pixels, shifted and divided by one mean and deviation, and their classes."""

    X: Tensor
    """(rows, pixels) float32."""
    y: Tensor
    """(rows,) int64."""


class Split(NamedTuple):
    """What is learnt from, chosen by, and reported."""

    train: Images
    val: Images
    test: Images


def fashion(folder: Path, held_out: int = 10_000) -> Split:
    """Read the four files of the Debian package `dataset-fashion-mnist` from a folder; the split is the same for all runs."""
    pixels, labels, test_pixels, test_labels = (_read(folder / f"{name}-ubyte.gz") for name in FILES)
    X, test_X = (part.reshape(len(part), -1).float() / 255 for part in (pixels, test_pixels))
    mean, deviation = X.mean(), X.std()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(X)))
    learnt, held = order[held_out:], order[:held_out]
    X, test_X = (X - mean) / deviation, (test_X - mean) / deviation
    train, val = (Images(X[rows], labels[rows].long()) for rows in (learnt, held))
    return Split(train, val, Images(test_X, test_labels.long()))


def _read(file: Path) -> Tensor:
    """The array in a gzipped IDX file of bytes."""
    content = gzip.decompress(file.read_bytes())
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes).copy())
