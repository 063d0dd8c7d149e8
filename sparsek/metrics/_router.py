"""What routers know and learn, over many batches. The mathematics is in :mod:`sparsek.functional`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek._validation import check_floating
from sparsek.functional import mutual_information
from sparsek.functional._routing_measures import (
    _gradient_snr_compute,
    _router_entropy_compute,
    _router_entropy_update,
)

from ._domain_load import DomainLoad
from ._expert_load import check_layers, check_sizes


class RouterEntropy(Metric):
    """Mean entropy of the marginals of all tokens and layers. See :func:`sparsek.functional.router_entropy`.

    Args:
        num_experts: Experts per layer, at least 1; the entropy of one expert is NaN.
        num_layers: Layers, at least 1.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers.

    Example:
        >>> metric = RouterEntropy(num_experts=4)
        >>> metric.update([torch.tensor([[1.0, 1.0, 0.0, 0.0]])])
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(self, num_experts: int, num_layers: int = 1) -> None:
        super().__init__()
        check_sizes(num_experts=num_experts, num_layers=num_layers)
        self.num_experts, self.num_layers = num_experts, num_layers
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, marginals: Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add one batch: marginals (..., experts) of each layer, mask (...) of real tokens."""
        check_layers("marginals", marginals, self.num_layers)
        for layer in marginals:
            check_floating("marginals", layer)
            total, count = _router_entropy_update(layer.detach(), mask)
            self.total += total
            self.count += count

    def compute(self) -> Tensor:
        """Mean over tokens and layers, in [0, 1]; NaN before any token."""
        return _router_entropy_compute(self.total, self.count, self.num_experts)


class DomainInformation(DomainLoad):
    """Mutual information of expert and domain in bits, mean over layers. See :func:`sparsek.functional.mutual_information`.

    Updated as :class:`DomainLoad` is.

    Example:
        >>> metric = DomainInformation(num_experts=2, num_domains=2)
        >>> metric.update([torch.tensor([[[0], [0]], [[1], [1]]])], domain=torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    def compute(self) -> Tensor:
        """Mean over layers; NaN before any slot."""
        return mutual_information(self.load).mean()


class GradientSNR(Metric):
    """Signal over noise of the gradient to the routers, mean over layers. See :func:`sparsek.functional.gradient_snr`.

    `update` takes one gradient per layer. Steps between two resets count as samples at the same parameters, so reset
    it every few steps. Under data parallel pass the gradient that the optimizer sees, averaged over processes: it is the
    same on all of them, and counts once.

    Args:
        num_parameters: Size of one layer's gradient, at least 1.
        num_layers: Layers, at least 1.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers or another size.

    Example:
        >>> metric = GradientSNR(num_parameters=2)
        >>> metric.update([torch.tensor([3.0, 0.0])])
        >>> metric.update([torch.tensor([5.0, 0.0])])
        >>> metric.compute()
        tensor(7.5000, dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, num_parameters: int, num_layers: int = 1) -> None:
        super().__init__()
        check_sizes(num_parameters=num_parameters, num_layers=num_layers)
        self.num_parameters, self.num_layers = num_parameters, num_layers
        zeros = torch.zeros(num_layers, num_parameters, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="mean")
        self.add_state("squares", torch.zeros(num_layers, dtype=torch.float64), dist_reduce_fx="mean")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="mean")

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Add one gradient per layer, of any shape."""
        check_layers("gradients", gradients, self.num_layers)
        for layer in gradients:
            check_floating("gradients", layer)
            if layer.numel() != self.num_parameters:
                raise ValueError(f"gradients must have {self.num_parameters} entries per layer, got {layer.numel()}")
        rows = torch.stack([layer.detach().flatten().double() for layer in gradients])
        self.total += rows
        self.squares += rows.square().sum(-1)
        self.count += 1

    def compute(self) -> Tensor:
        """Mean over layers; NaN before two gradients."""
        return _gradient_snr_compute(self.total, self.squares, self.count).mean()
