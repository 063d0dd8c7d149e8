"""One budget for all weights of a model: the scores of every layer on one capped simplex, solved once a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from sparsek.nn._schedule import Schedule

from ._rule import MaskRule
from ._scores import WeightScores
from ._sparsity import MAGNITUDE, RULE, Sparsity, falling


class GlobalSparsity:
    r"""A budget of k weights that the tensors of a model share: $\sum_{\text{layers}} \sum_i m_i = k$.

    The scores of all tensors are laid end to end and solved as one row; each tensor then reads its part. While the forward pass
    of `root` runs the masks are kept, so that a pass solves once, and its graph is one node that all layers hang from: the
    gradient knows that a weight gained in one layer is lost in another. Outside of such a pass every read solves again.
    Nothing is kept between passes: gradients may accumulate, and replicas with the same weights have the same masks.

    Made by :func:`~sparsek.nn.sparsity.parametrize`, which puts a :class:`GlobalWeights` on each tensor.

    Args:
        k: Number of weights that stay, in all; see :class:`~sparsek.nn.sparsity.SparseWeights`.
        total: Number of weights, in all.

    Raises:
        ValueError: If k is out of range.

    Example:
        >>> import torch
        >>> from sparsek.nn import MLP
        >>> from sparsek.nn.sparsity import parametrize
        >>> model = MLP(20, 2, hidden=(30,))
        >>> budget = parametrize(model, k=33).layers[0].parametrizations.weight[0].budget
        >>> round(sum(mask.sum().item() for mask in budget.masks(training=True)), 3)
        33.0
        >>> sum(int(mask.sum()) for mask in budget.masks(training=False))
        33
    """

    def __init__(self, k: float | Schedule, total: int) -> None:
        self.k = falling(k, total)
        self.members: list[tuple[ParametrizationList, GlobalWeights]] = []
        self._kept: dict[bool, tuple[Tensor, ...]] | None = None
        self._handles: list[RemovableHandle] = []

    def share_in(self, root: nn.Module) -> None:
        """Keep the masks while the forward pass of `root` runs."""
        self._handles = [
            root.register_forward_pre_hook(self._begin, prepend=True),
            root.register_forward_hook(self._end, always_call=True),
        ]

    def add(self, parametrizations: ParametrizationList, member: GlobalWeights) -> None:
        """Take a tensor in: its parametrizations, of which `member` is the first."""
        self.members.append((parametrizations, member))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the masks while the context lasts, as a forward pass of the root does: reads in it see one solve, or one sample."""
        before, self._kept = self._kept, {}
        try:
            yield
        finally:
            self._kept = before

    def masks(self, training: bool) -> tuple[Tensor, ...]:
        """Return the masks of all tensors, in their shapes, in the order of the model.

        Args:
            training: True for the relaxed masks at the present k, False for the exact ones at the last k.
        """
        if self._kept is None:
            return self._solve(training)
        if training not in self._kept:
            self._kept[training] = self._solve(training)
        return self._kept[training]

    def _solve(self, training: bool) -> tuple[Tensor, ...]:
        weights = [parametrizations.original for parametrizations, _ in self.members]
        scores = [member.scored(w).reshape(-1) for w, (_, member) in zip(weights, self.members, strict=True)]
        first = self.members[0][1]
        row = torch.cat(scores)
        mask = first.relaxed(row) if training else first.exact(row)
        parts = mask.split([w.numel() for w in weights])
        return tuple(part.view(w.shape) for part, w in zip(parts, weights, strict=True))

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._kept = {}

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._kept = None

    def close(self) -> None:
        """Take the hooks off the root."""
        for handle in self._handles:
            handle.remove()


class GlobalWeights(Sparsity):
    """The part of one tensor in a :class:`GlobalSparsity`."""

    def __init__(
        self,
        weight: Tensor,
        budget: GlobalSparsity,
        index: int,
        scores: WeightScores = MAGNITUDE,
        rule: MaskRule = RULE,
    ) -> None:
        super().__init__(weight, budget.k, scores, rule)
        self.budget, self.index = budget, index

    def relaxed_mask(self, weight: Tensor) -> Tensor:
        """Return this tensor's part of the masks of training. What is scored is what the model holds."""
        return self.budget.masks(training=True)[self.index]

    def exact_mask(self, weight: Tensor) -> Tensor:
        """Return this tensor's part of the masks of evaluation."""
        return self.budget.masks(training=False)[self.index]
