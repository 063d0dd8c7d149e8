"""k of the weights of one tensor."""

from __future__ import annotations

from torch import Tensor

from sparsek.nn._schedule import Schedule

from ._rule import MaskRule
from ._scores import WeightScores
from ._sparsity import MAGNITUDE, RULE, Sparsity, check_weight, falling


class SparseWeights(Sparsity):
    r"""Keep k of the weights of one tensor.

    $$\tilde w = w \odot m, \quad m = σ_k(x(w) / T) \text{ in training}, \quad m = \text{top } k \text{ in evaluation}.$$

    Args:
        weight: The tensor that will be parametrized; its shape and first values are read.
        k: Number of weights that stay: a count (int, or float of at least 1), a share of them (float below 1) to which k
            falls from all of them until half of training (:class:`~sparsek.nn.GeometricSchedule`), or a
            :class:`~sparsek.nn.Schedule` over either that ends at a whole number.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Raises:
        ValueError: If an argument is out of range, or `weight` is parametrized already.

    Example:
        >>> import torch
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from sparsek.nn.sparsity import SparseWeights
        >>> layer = torch.nn.Linear(20, 10)
        >>> _ = register_parametrization(layer, "weight", SparseWeights(layer.weight, k=7))
        >>> int(layer.eval().weight.count_nonzero())
        7
        >>> layer.train().parametrizations.weight[0].anneal(0.0)  # from all weights, here at the start, …
        >>> bool((layer.weight == layer.parametrizations.weight.original).all())
        True
        >>> layer.parametrizations.weight[0].anneal(1.0)  # … to masks that sum to k
        >>> mask = layer.parametrizations.weight[0].relaxed_mask(layer.parametrizations.weight.original)
        >>> round(mask.sum().item(), 4)
        7.0

    References:
        Zhu, Gupta, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression*, 2017,
        https://arxiv.org/abs/1710.01878
        Tai, Tian, Lim, *Spartan: Differentiable Sparsity via Regularized Transportation*, 2022,
        https://arxiv.org/abs/2205.14107
    """

    def __init__(
        self, weight: Tensor, k: float | Schedule, scores: WeightScores = MAGNITUDE, rule: MaskRule = RULE
    ) -> None:
        check_weight("weight", weight)
        super().__init__(weight, falling(k, weight.numel()), scores, rule)

    def relaxed_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of training, in the shape of `weight`; it sums to the present k."""
        scores = self.scored(weight).reshape(-1)
        return self.relaxed(scores).view(weight.shape)

    def exact_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of evaluation: k ones."""
        return self.exact(self.scored(weight).reshape(-1)).view(weight.shape)
