"""The network behind the gate."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn


def fresh_network(estimator: str | nn.Module, columns: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a network with initial weights of its own: of linear layers and ReLU, or a reset copy of a module.

    Example:
        >>> fresh_network("classifier", 4, (8,), 3)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=3, bias=True)
        )
    """
    if not isinstance(estimator, nn.Module):
        layers: list[nn.Module] = []
        for width, following in pairwise((columns, *hidden)):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear((columns, *hidden)[-1], outputs))
    network = copy.deepcopy(estimator)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network
