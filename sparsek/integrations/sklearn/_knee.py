"""The smallest k that predicts as well as more: the knee of a validation curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sparsek.tasks import row_losses

from ._restarts import RestartGates
from ._rows import Rows


class KneePoint(NamedTuple):
    """The validation loss at one k."""

    k: int
    """Number of features."""
    loss: float
    """Mean loss of the held-out rows behind the top k features."""
    error: float
    """Its standard error."""


@dataclass
class KneeCurve:
    """Measures the loss on held-out rows as k falls, for :class:`Recipe` to call."""

    held_out: Rows
    points: list[KneePoint] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, gates: RestartGates, network: nn.Module, k: float) -> None:
        """Add a point of the first restart; the modes of gates and network are put back."""
        gates.eval(), network.eval()
        rows = Rows(*(each.to(gates.weight.device) for each in self.held_out))
        input = rows.input.expand(len(gates.weight), -1, -1)
        losses = row_losses(network(gates(input))[0], rows.target) * rows.weight
        error = float(losses.double().std()) / len(losses) ** 0.5
        self.points.append(KneePoint(round(k), float(losses.double().mean()), error))
        gates.train(), network.train()


def knee(points: list[KneePoint]) -> int:
    """Return the smallest k whose loss is within one standard error of the least.

    Example:
        >>> knee([KneePoint(8, 0.30, 0.02), KneePoint(4, 0.31, 0.02), KneePoint(2, 0.5, 0.02)])
        4

    References:
        Breiman, Friedman, Olshen, Stone, *Classification and Regression Trees*, 1984 (the one-standard-error rule),
        https://doi.org/10.1201/9781315139470
    """
    best = points[int(np.argmin([point.loss for point in points]))]
    return min(point.k for point in points if point.loss <= best.loss + best.error)
