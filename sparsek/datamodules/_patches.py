"""Patches of scikit-learn's two photographs, for Lightning."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from sparsek._validation import check_positive

from ._row_batches import RowBatches, RowsInOrder

_MIDDLE = 320
"""Column at which a photograph is cut in two."""


class PatchDataModule(LightningDataModule):
    """Grey patches of the photographs that scikit-learn ships, each less its mean: training from the left halves, the rest from the right.

    A batch is a pair (patches, patches), (rows, size²) float32, for tasks that reconstruct. Training batch t is a function of
    (`seed`, t). Needs scikit-learn and pillow.

    Args:
        size: Side of a patch, from 2 to 320.
        train: Number of patches for training, drawn from both photographs.
        held_out: Number for validation, and for test.
        batch_size: Patches of a batch.
        seed: Settles which patches, and their order.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> data = PatchDataModule(size=8, train=100, held_out=50, batch_size=32)
        >>> data.setup("fit")
        >>> input, target = next(iter(data.train_dataloader()))
        >>> input.shape, bool(input.mean(1).abs().max() < 1e-4)
        (torch.Size([32, 64]), True)
    """

    def __init__(
        self, size: int = 8, train: int = 20_000, held_out: int = 5_000, batch_size: int = 256, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in (("train", train), ("held_out", held_out), ("batch_size", batch_size)):
            check_positive(name, value)
        if not 2 <= size <= _MIDDLE:
            raise ValueError(f"size must lie in [2, {_MIDDLE}], got {size}")
        self.size, self.train, self.held_out, self.batch_size, self.seed = size, train, held_out, batch_size, seed
        self.parts: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Draw the patches, once."""
        if self.parts:
            return
        generator = torch.Generator().manual_seed(self.seed)
        images = _photographs()
        left, right = images[..., :_MIDDLE], images[..., _MIDDLE:]
        train = _drawn(left, self.size, self.train, generator)
        held_out = _drawn(right, self.size, 2 * self.held_out, generator) / train.std()
        val, test = held_out.split(self.held_out)
        self.parts = {"train": train / train.std(), "val": val, "test": test}

    def train_dataloader(self) -> RowBatches:
        """Return endless batches in random orders."""
        patches = self.parts["train"]
        return RowBatches((patches, patches), self.batch_size, self.seed, None, *self._process())

    def val_dataloader(self) -> RowsInOrder:
        """Return the patches of validation."""
        return self._in_order("val")

    def test_dataloader(self) -> RowsInOrder:
        """Return the patches of the test."""
        return self._in_order("test")

    def _in_order(self, name: str) -> RowsInOrder:
        return RowsInOrder((self.parts[name], self.parts[name]), self.batch_size, *self._process())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _photographs() -> Tensor:
    """(2, 427, 640) float32, grey."""
    from sklearn.datasets import load_sample_image  # noqa: PLC0415 - needed here alone

    return torch.stack([torch.tensor(load_sample_image(name)).float().mean(-1) for name in ("china.jpg", "flower.jpg")])


def _drawn(images: Tensor, size: int, number: int, generator: torch.Generator) -> Tensor:
    """(number, size²): patches at random places of images (images, height, width), each less its mean."""
    limits = [images.shape[0], images.shape[1] - size + 1, images.shape[2] - size + 1]
    image, row, column = (torch.randint(limit, (number, 1, 1), generator=generator) for limit in limits)
    step = torch.arange(size)
    patches = images[image, row + step.view(1, -1, 1), column + step.view(1, 1, -1)].flatten(1)
    return patches - patches.mean(1, keepdim=True)
