"""Estimates of a weighted sum of tokens from a sample of them, and of the variance of these estimates."""

from __future__ import annotations

import torch
from torch import Tensor

from ._tokens import wide


def horvitz_thompson_weights(sample: Tensor, probs: Tensor) -> Tensor:
    r"""Weights with which a sample estimates a total without bias: $s_t/π_t$, 0 at tokens not drawn.

    $$E \sum_t \frac{s_t}{π_t} y_t = \sum_t y_t \quad\text{if } π_t > 0 \text{ wherever } y_t ≠ 0.$$

    Shape:
        - sample, probs: (..., T).
        - output: (..., T).

    Args:
        sample: 1 at the drawn tokens, 0 elsewhere.
        probs: Inclusion probabilities π.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import horvitz_thompson_weights
        >>> horvitz_thompson_weights(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.5, 0.5, 1.0]))
        tensor([2., 0., 1.])

    References:
        Horvitz, Thompson (1952), "A Generalization of Sampling Without Replacement from a Finite Universe",
        https://doi.org/10.1080/01621459.1952.10483446.
    """
    drawn = sample > 0
    return torch.where(drawn, 1 / torch.where(drawn, probs, 1.0), 0.0)


def hajek_weights(sample: Tensor, probs: Tensor, weights: Tensor) -> Tensor:
    r"""Weights with which a sample estimates a weighted mean: those of Horvitz and Thompson, made to sum to 1.

    $$\hat w_t = \frac{s_t w_t}{π_t} \Big/ \sum_u \frac{s_u w_u}{π_u}.$$

    Biased in small samples, consistent, and exact for tokens that are all equal. An empty sample gives 0.

    Shape:
        - sample, probs, weights: (..., T).
        - output: (..., T).

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import hajek_weights
        >>> hajek_weights(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.5, 0.5, 1.0]), torch.full((3,), 1 / 3))
        tensor([0.6667, 0.0000, 0.3333])

    References:
        Hájek (1971), "Comment on An Essay on the Logical Foundations of Survey Sampling", in Foundations of Statistical
        Inference.
    """
    drawn = weights * horvitz_thompson_weights(sample, probs)
    total = drawn.sum(-1, keepdim=True)
    return drawn / torch.where(total > 0, total, 1.0)


def sen_yates_grundy(values: Tensor, sample: Tensor, probs: Tensor, joint: Tensor) -> Tensor:
    r"""Unbiased estimate of the variance of $\sum_t s_t y_t/π_t$ under a design of fixed size in which all pairs can meet.

    $$\hat V = \frac12 \sum_{t,u ∈ s} \frac{π_t π_u - π_{tu}}{π_{tu}} \Big(\frac{y_t}{π_t} - \frac{y_u}{π_u}\Big)^2.$$

    Computed in float64 from values centred at their sample mean. Not negative for designs with $π_{tu} ≤ π_t π_u$, such as
    conditional Poisson and Sampford's. 0 where a single token is drawn with certainty.

    Shape:
        - values: (..., T, D), y.
        - sample, probs: (..., T).
        - joint: (..., T, T), joint inclusion probabilities.
        - output: (..., D).

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import sen_yates_grundy
        >>> probs, joint = torch.full((3,), 2 / 3), torch.full((3, 3), 1 / 3)
        >>> sen_yates_grundy(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0]), probs, joint)
        tensor([6.7500])

    References:
        Sen (1953), "On the Estimate of the Variance in Sampling with Varying Probabilities",
        Journal of the Indian Society of Agricultural Statistics 5.

        Yates, Grundy (1953), "Selection Without Replacement from Within Strata with Probability Proportional to Size",
        https://doi.org/10.1111/j.2517-6161.1953.tb00140.x.
    """
    sample, probs, joint = sample.double(), probs.double(), joint.double()
    drawn = sample > 0
    both = drawn.unsqueeze(-1) & drawn.unsqueeze(-2)
    product = probs.unsqueeze(-1) * probs.unsqueeze(-2)
    excess = torch.where(both, product / torch.where(both, joint, 1.0) - 1, 0.0)
    excess = excess - torch.diag_embed(excess.diagonal(dim1=-2, dim2=-1))
    ratio = _centred(_ratios(values, sample, probs), sample)
    variance = (excess.sum(-1, keepdim=True) * ratio.square() - ratio * (excess @ ratio)).sum(-2)
    return variance.to(values.dtype)


def fixed_size_variance(values: Tensor, sample: Tensor, probs: Tensor) -> Tensor:
    r"""Approximate estimate of the variance of $\sum_t s_t y_t/π_t$, from π alone.

    $$\hat V = \frac{m}{m-1} \sum_{t ∈ s} (1-π_t) \Big(\frac{y_t}{π_t} - a\Big)^2, \quad
    a = \sum_{t ∈ s} (1-π_t) \frac{y_t}{π_t} \Big/ \sum_{t ∈ s} (1-π_t),$$

    with m the number of drawn tokens with π < 1. Made for designs of large entropy, where it is nearly unbiased; for others, such
    as systematic sampling, it is what one uses because no unbiased estimate exists. 0 if m < 2.

    Shape:
        - values: (..., T, D), y.
        - sample, probs: (..., T).
        - output: (..., D).

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import fixed_size_variance
        >>> fixed_size_variance(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0]), torch.full((3,), 2 / 3))
        tensor([6.7500])

    References:
        Deville, Tillé (2005), "Variance approximation under balanced sampling", https://doi.org/10.1016/j.jspi.2003.07.008.
    """
    sample, probs = sample.double(), probs.double()
    free = torch.where((sample > 0) & (probs < 1), 1 - probs, 0.0)
    number = (free > 0).sum(-1, keepdim=True)
    ratio = _centred(_ratios(values, sample, probs), free)
    variance = (free.unsqueeze(-1) * ratio.square()).sum(-2) * (number / (number - 1).clamp(min=1))
    return torch.where(number > 1, variance, 0.0).to(values.dtype)


def _ratios(values: Tensor, sample: Tensor, probs: Tensor) -> Tensor:
    """y/π at the drawn tokens, float64; 0 elsewhere."""
    drawn = (sample > 0).unsqueeze(-1)
    return torch.where(drawn, wide(values).double() / torch.where(drawn, probs.unsqueeze(-1), 1.0), 0.0)


def _centred(ratio: Tensor, weights: Tensor) -> Tensor:
    """`ratio` less its weighted mean."""
    weights = weights.unsqueeze(-1)
    total = weights.sum(-2, keepdim=True)
    return ratio - (weights * ratio).sum(-2, keepdim=True) / torch.where(total > 0, total, 1.0)
