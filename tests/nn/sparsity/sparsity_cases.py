"""Small models for the tests of sparse networks."""

import torch
from torch import nn

LAYERS = (nn.Conv2d, nn.Linear)


def small_model(seed=0, dtype=torch.float32):
    """A convolution and two linear layers: 54 + 192 + 16 weights, on (rows, 1, 6, 6)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=3), nn.Flatten(), nn.ReLU(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2)
        ).to(dtype)


def small_input(rows=5, dtype=torch.float32):
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)


def weights(model):
    return [layer.weight for layer in model if isinstance(layer, LAYERS)]


def originals(model):
    return [layer.parametrizations.weight.original for layer in model if isinstance(layer, LAYERS)]


def kept(model):
    return [int(weight.count_nonzero()) for weight in weights(model)]
