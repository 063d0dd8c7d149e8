"""Expert load over many batches. The mathematics is in :mod:`sparsek.functional`; these classes only accumulate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek.functional import expert_load, load_cv, max_violation, utilisation
from sparsek.functional._load import _unrouted_update


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_layers(name: str, layers: Sequence[Tensor], num_layers: int) -> None:
    """Refuse another number of layers."""
    if len(layers) != num_layers:
        raise ValueError(f"{name} must hold one tensor per layer, {num_layers}, got {len(layers)}")


class ExpertLoad(Metric):
    """Slots per layer and expert, summed over batches and processes; the base of the measures below.

    `update` takes one tensor of expert indices per layer, (..., k) each with −1 for no expert, and a mask of real
    tokens.

    Args:
        num_experts: Experts per layer, at least 1.
        num_layers: Layers, at least 1. Each is measured on its own: pooled, two collapsed layers can look balanced.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers.
    """

    full_state_update = False
    higher_is_better: bool | None = False
    is_differentiable = False

    load: Tensor

    def __init__(self, num_experts: int, num_layers: int = 1) -> None:
        super().__init__()
        check_sizes(num_experts=num_experts, num_layers=num_layers)
        self.num_experts, self.num_layers = num_experts, num_layers
        self.add_state("load", torch.zeros(num_layers, num_experts, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add one batch.

        Args:
            indices: Expert of every slot, one tensor (..., k) per layer.
            mask: (...), True = a real token.
        """
        check_layers("indices", indices, self.num_layers)
        self.load += torch.stack([expert_load(layer, self.num_experts, mask) for layer in indices])

    def compute(self) -> Tensor:
        """Slots per layer and expert, (num_layers, num_experts)."""
        return self.load


class LoadCV(ExpertLoad):
    """Coefficient of variation of the expert load, mean over layers. See :func:`sparsek.functional.load_cv`.

    Example:
        >>> metric = LoadCV(num_experts=2)
        >>> metric.update([torch.tensor([[0], [0], [0], [1]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """Mean over layers."""
        return load_cv(self.load).mean()


class MaxViolation(ExpertLoad):
    """MaxVio of the expert load, mean over layers. See :func:`sparsek.functional.max_violation`.

    Example:
        >>> metric = MaxViolation(num_experts=2)
        >>> metric.update([torch.tensor([[0], [0], [0], [1]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """Mean over layers."""
        return max_violation(self.load).mean()


class BatchMaxViolation(Metric):
    """MaxVio of each batch, mean over batches and layers: what an expert's buffer must hold, which an epoch's load hides.

    Every call of `update` is one batch (on each process its own); layers in which no slot was filled do not count.

    Args:
        num_experts: Experts per layer, at least 1.
        num_layers: Layers, at least 1.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers.

    Example:
        >>> metric = BatchMaxViolation(num_experts=2)
        >>> metric.update([torch.tensor([[0], [0]])])
        >>> metric.update([torch.tensor([[1], [1]])])
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    violation: Tensor
    batches: Tensor

    def __init__(self, num_experts: int, num_layers: int = 1) -> None:
        super().__init__()
        check_sizes(num_experts=num_experts, num_layers=num_layers)
        self.num_experts, self.num_layers = num_experts, num_layers
        self.add_state("violation", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("batches", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add one batch: the expert of every slot, (..., k) per layer, and a mask (...) of real tokens."""
        check_layers("indices", indices, self.num_layers)
        load = torch.stack([expert_load(layer, self.num_experts, mask) for layer in indices])
        violation = max_violation(load.double())
        self.violation += violation.nansum()
        self.batches += (~violation.isnan()).sum()

    def compute(self) -> Tensor:
        """Mean over batches and layers; NaN before any slot."""
        return self.violation / self.batches


class Utilisation(ExpertLoad):
    """Share of experts in use, mean over layers. See :func:`sparsek.functional.utilisation`.

    Args:
        num_experts: Experts per layer.
        num_layers: Layers.
        threshold: Multiple of the mean load above which an expert counts as used, in [0, 1).

    Example:
        >>> metric = Utilisation(num_experts=2)
        >>> metric.update([torch.tensor([[0], [0], [0], [0]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, num_experts: int, num_layers: int = 1, threshold: float = 0.0) -> None:
        super().__init__(num_experts, num_layers)
        self.threshold = threshold

    def compute(self) -> Tensor:
        """Mean over layers."""
        return utilisation(self.load, self.threshold).mean()


class Unrouted(Metric):
    """Share of the slots of real tokens that have no expert, over all layers. See :func:`sparsek.functional.unrouted`.

    Args:
        num_experts: Experts per layer, at least 1.
        num_layers: Layers, at least 1.
        tokens: Whether to count tokens without any expert, and not slots: for routers that give tokens different numbers
            of experts.

    Raises:
        ValueError: If a size is below 1, or `update` gets another number of layers.

    Example:
        >>> metric = Unrouted(num_experts=2)
        >>> metric.update([torch.tensor([[0], [1], [1], [-1]])])
        >>> metric.compute()
        tensor(0.2500)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    empty: Tensor
    total: Tensor

    def __init__(self, num_experts: int, num_layers: int = 1, tokens: bool = False) -> None:
        super().__init__()
        check_sizes(num_experts=num_experts, num_layers=num_layers)
        self.num_experts, self.num_layers, self.tokens = num_experts, num_layers, tokens
        for name in ("empty", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add one batch: the expert of every slot, (..., k) per layer, and a mask (...) of real tokens."""
        check_layers("indices", indices, self.num_layers)
        for layer in indices:
            empty, total = _unrouted_update(layer, mask, self.tokens)
            self.empty += empty
            self.total += total

    def compute(self) -> Tensor:
        """Those without an expert over all; NaN before any token."""
        return self.empty / self.total
