"""What is measured of an autoencoder on a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torchmetrics import MetricCollection

from sparsek.metrics import FVU, L0, DeadLatents, DensityHistogram, FVUByK
from sparsek.nn import SparseAutoencoder

_ROWS = 1024
"""Tokens at a time: all levels of a reconstruction are in float64 at once."""


class AutoencoderMeasured(NamedTuple):
    """An autoencoder on a whole split."""

    fvu: float
    """As the selection reads tokens."""
    l0: float
    """Active latents of a token, mean."""
    dead: float
    """Share of latents that were never active."""
    fvu_by_k: dict[int, float]
    """With the k largest latents of a token."""
    density: dict[float, int]
    """Latents that are active less often than this, and not less than the one before; 0 is never."""


class AutoencoderMeasures(nn.Module):
    """FVU as the selection reads tokens, and at each of several k; L0; how often latents are active, and how many never are.

    Args:
        d_out: Numbers in a target.
        d_sae: Latents.
        levels: Rising numbers of latents; those beyond the dictionary are left out.

    Attributes:
        found: What the last :meth:`compute` measured.
    """

    found: AutoencoderMeasured | None = None

    def __init__(self, d_out: int, d_sae: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(level for level in levels if level <= d_sae)
        self.fvu = FVU(d_out)
        self.by_k = FVUByK(d_out, self.levels) if self.levels else None
        density = DensityHistogram(d_sae)
        self.edges = (0.0, *density.edges[1:])
        self.latents = MetricCollection({"l0": L0(d_sae), "dead": DeadLatents(d_sae), "density": density})

    def update(self, autoencoder: SparseAutoencoder, input: Tensor, target: Tensor) -> None:
        """Add a batch: tokens (rows, ...)."""
        latents = autoencoder.encode(input)  # of the batch, where the selection is
        self.latents.update(latents)
        self.fvu.update(autoencoder.decode(latents, input).flatten(1), target.flatten(1))
        if self.by_k is not None:
            for x, y in zip(input.split(_ROWS), target.split(_ROWS), strict=True):
                self.by_k.update(autoencoder.reconstruct(x, self.levels).flatten(2), y.flatten(1))

    def compute(self) -> dict[str, Tensor]:
        """Numbers by name, `fvu`, `l0`, `dead`, `fvu_k4`, ..., of all processes; and keep them."""
        latents, fvu = self.latents.compute(), self.fvu.compute()
        by_k = {} if self.by_k is None else dict(zip(self.levels, self.by_k.compute().reshape(-1), strict=True))
        self.found = AutoencoderMeasured(
            float(fvu),
            float(latents["l0"]),
            float(latents["dead"]),
            {k: float(value) for k, value in by_k.items()},
            dict(zip(self.edges, latents["density"].tolist(), strict=True)),
        )
        measured = {"fvu": fvu, "l0": latents["l0"], "dead": latents["dead"]}
        return {name: value.float() for name, value in (measured | {f"fvu_k{k}": v for k, v in by_k.items()}).items()}

    def reset(self) -> None:
        """Begin again."""
        self.fvu.reset()
        self.latents.reset()
        if self.by_k is not None:
            self.by_k.reset()
