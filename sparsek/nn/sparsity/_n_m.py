"""N of every M weights: a pattern that hardware can use."""

from __future__ import annotations

from torch import Tensor

from sparsek.nn._schedule import Schedule

from ._rule import MaskRule
from ._scores import WeightScores
from ._sparsity import MAGNITUDE, RULE, Sparsity, check_weight, falling


class NMSparsity(Sparsity):
    r"""Keep n of every m neighbours along a dimension of a weight: sigmoid top-k along groups, all solved at once.

    Groups are m consecutive inputs of one output, as 2:4 hardware asks for. The number kept falls from m to n, real between.

    Args:
        weight: The tensor that will be parametrized; its shape and first values are read.
        n: How many of a group stay, from 1 to m, or a :class:`~sparsek.nn.Schedule` that ends there.
        m: Size of a group, at least 1.
        dim: Dimension along which groups lie, of a size that m divides; the inputs of a layer are dimension 1,
            those of a transposed convolution dimension 0.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Raises:
        ValueError: If an argument is out of range, or `weight` is parametrized already.

    Example:
        >>> import torch
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from sparsek.nn.sparsity import NMSparsity
        >>> layer = torch.nn.Linear(8, 3)
        >>> _ = register_parametrization(layer, "weight", NMSparsity(layer.weight, n=2, m=4))
        >>> layer.eval().weight.unflatten(1, (2, 4)).count_nonzero(dim=-1)
        tensor([[2, 2],
                [2, 2],
                [2, 2]])

    References:
        Mishra et al., *Accelerating Sparse Deep Neural Networks*, 2021, https://arxiv.org/abs/2104.08378
        Zhou et al., *Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch*, 2021,
        https://arxiv.org/abs/2102.04010
    """

    def __init__(
        self,
        weight: Tensor,
        n: float | Schedule = 2,
        m: int = 4,
        dim: int = 1,
        scores: WeightScores = MAGNITUDE,
        rule: MaskRule = RULE,
    ) -> None:
        check_weight("weight", weight)
        check_groups(weight, n, m, dim)
        super().__init__(weight, falling(n, m), scores, rule)
        self.m, self.dim = m, dim % weight.dim()

    def relaxed_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of training, in the shape of `weight`; every group sums to the present n."""
        groups = self._groups(self.scored(weight))
        return self._ungrouped(self.relaxed(groups))

    def exact_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of evaluation: n ones in every group."""
        return self._ungrouped(self.exact(self._groups(self.scored(weight))))

    def _groups(self, scores: Tensor) -> Tensor:
        """(..., groups, m), with the dimension of groups moved to the end."""
        moved = scores.movedim(self.dim, -1)
        return moved.reshape(*moved.shape[:-1], -1, self.m)

    def _ungrouped(self, groups: Tensor) -> Tensor:
        return groups.flatten(-2).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        """Return the parts."""
        return f"m={self.m}, dim={self.dim}, {super().extra_repr()}"


def check_groups(weight: Tensor, n: float | Schedule, m: int, dim: int) -> None:
    """Refuse groups that are no pattern of the weight."""
    check_group_size(m)
    if not -weight.dim() <= dim < weight.dim():
        raise ValueError(f"dim must be a dimension of the weight of shape {tuple(weight.shape)}, got {dim}")
    if weight.shape[dim] % m:
        raise ValueError(f"m must divide the size of dimension {dim}, {weight.shape[dim]}, got {m}")
    if isinstance(n, Schedule):
        if max(n.start, n.end) > m:
            raise ValueError(f"n must be a schedule of numbers up to m = {m}, got {n}")
    elif isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= m:
        raise ValueError(f"n must be a whole number from 1 to m = {m}, got {n!r}")


def check_group_size(m: int) -> None:
    """Refuse what is no number of neighbours."""
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise ValueError(f"m must be a whole number of at least 1, got {m!r}")
