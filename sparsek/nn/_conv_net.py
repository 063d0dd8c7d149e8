"""A small convolutional network on rows of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from sparsek._validation import check_positive

from ._mlp import MLP


class ConvNet(nn.Module):
    """3 × 3 convolutions of stride 2 with ReLU, then an :class:`MLP`: a classifier of small images that come as rows of pixels.

    Shape:
        - input: (..., height · width), row by row.
        - output: (..., out_features).

    Args:
        image: Height and width, each at least 1.
        out_features: Width of the output, at least 1.
        channels: Channels of the convolutions, each of which halves height and width; at least one.
        hidden: Widths of the hidden layers of the perceptron.

    Raises:
        ValueError: If a size is below 1, or there is no convolution.

    Example:
        >>> import torch
        >>> from sparsek.nn import ConvNet
        >>> ConvNet((28, 28), 10)(torch.zeros(2, 784)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image: Sequence[int],
        out_features: int,
        channels: Sequence[int] = (16, 32),
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        if len(image) != 2:
            raise ValueError(f"image must be a height and a width, got {tuple(image)}")
        if not channels:
            raise ValueError("channels must hold at least one width, got none")
        for name, sizes in (("image", image), ("channels", channels)):
            for size in sizes:
                check_positive(name, size)
        self.image = tuple(image)
        pairs = pairwise((1, *channels))
        convolutions = [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairs]
        height, width = (-(-size // 2 ** len(channels)) for size in image)
        self.convolutions = nn.Sequential(*convolutions)
        self.classifier = MLP(channels[-1] * height * width, out_features, hidden)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layers."""
        images = input.reshape(-1, 1, *self.image)
        output = cast(Tensor, self.classifier(self.convolutions(images).flatten(1)))
        return output.reshape(*input.shape[:-1], output.shape[-1])
