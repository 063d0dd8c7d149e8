"""References for sigmoid top-k that share no code with it: bisection in float64 on the signed residual, and mpmath."""

import math

import mpmath
import torch
from torch import Tensor


def reference(x: Tensor, k: float, temperature: float = 1.0) -> Tensor:
    """π of one row in float64, by 200 bisections of the always-valid bracket."""
    z = x.double()
    z = (z - z.median()) / temperature
    centre = math.log(k) - math.log(z.numel() - k)
    low, high = centre - z.max().item(), centre - z.min().item()
    for _ in range(200):
        shift = (low + high) / 2
        logits = z + shift
        small = torch.sigmoid(-logits.abs())
        above = logits > 0
        excess = (int(above.sum()) - k) + (small * ~above).sum().item() - (small * above).sum().item()
        low, high = (low, shift) if excess > 0 else (shift, high)
    return torch.sigmoid(z + (low + high) / 2)


def exact(x: list[float], k: float, digits: int = 50) -> list[float]:
    """π of a short row by mpmath."""
    with mpmath.workdps(digits):
        values = [mpmath.mpf(v) for v in x]
        centre = mpmath.log(mpmath.mpf(k) / (len(x) - mpmath.mpf(k)))
        low, high = centre - max(values), centre - min(values)
        for _ in range(4 * digits + 60):
            shift = (low + high) / 2
            total = mpmath.fsum(1 / (1 + mpmath.exp(-(v + shift))) for v in values)
            low, high = (low, shift) if total > k else (shift, high)
        return [float(1 / (1 + mpmath.exp(-(v + shift)))) for v in values]


def scores(name: str, n: int, seed: int = 0) -> tuple[Tensor, float]:
    """A named float32 row of the kinds that break solvers, and its temperature."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, generator=generator)
    clusters = torch.where(torch.arange(n) % 3 == 0, 50.0, -50.0)
    rows = {
        "normal": (normal, 1.0),
        "lognormal": ((2 * normal).exp(), 1.0),
        "cauchy": (normal / torch.randn(n, generator=generator), 1.0),
        "two clusters": (clusters, 1.0),
        "two noisy clusters": (clusters + normal, 1.0),
        "all equal": (torch.zeros(n), 1.0),
        "relu-sparse": (normal.relu(), 1.0),
        "times 1e4": (normal * 1e4, 1.0),
        "temperature 0.01": (normal, 0.01),
        "plus 1e6": (normal + 1e6, 1.0),
        "plus 1e6, temperature 0.7": (normal + 1e6, 0.7),
    }
    return rows[name]


KINDS = [
    "normal",
    "lognormal",
    "cauchy",
    "two clusters",
    "two noisy clusters",
    "all equal",
    "relu-sparse",
    "times 1e4",
    "temperature 0.01",
    "plus 1e6",
    "plus 1e6, temperature 0.7",
]
