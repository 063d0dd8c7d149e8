"""The entropy that sigmoid top-k maximises."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, values_visible


def capped_entropy(probs: Tensor, dim: int = -1) -> Tensor:
    r"""Sum of the binary entropies of inclusion probabilities along `dim`.

    $$\sum_i H(π_i), \quad H(p) = -p \log p - (1-p) \log(1-p), \quad 0 \log 0 = 0.$$

    :func:`sigmoid_topk` at temperature T maximises $⟨x, π⟩ + T \sum_i H(π_i)$ on the capped simplex. In nats; at most
    n log 2, and 0 for a k-hot vector. The gradient is $\log(1-p) - \log p$, by autograd. At exactly 0 and 1, where the
    true one is infinite, it is 0: there every relaxation has a zero Jacobian, and $0 · ∞$ would be NaN.

    Shape:
        - probs: any shape, n units along `dim`.
        - output: the shape of `probs` without `dim`.

    Args:
        probs: Inclusion probabilities in [0, 1]; half precision is summed in float32.
        dim: Dimension of the units.

    Returns:
        The entropy, in the dtype of `probs`.

    Raises:
        ValueError: If `probs` is not floating point or, where values are visible, leaves [0, 1].

    Example:
        >>> capped_entropy(torch.tensor([0.5, 0.5, 1.0, 0.0]))
        tensor(1.3863)
    """
    check_floating("probs", probs)
    dim = check_dim("probs", probs, dim)
    if values_visible(probs) and bool(((probs < 0) | (probs > 1)).any()):
        raise ValueError(f"probs must lie in [0, 1], got values from {probs.min().item()} to {probs.max().item()}")
    p = probs.to(torch.promote_types(probs.dtype, torch.float32))
    certain = (p == 0) | (p == 1)
    p = p.masked_fill(certain, 0.5)
    entropy: Tensor = torch.special.entr(p) - torch.special.xlog1py(1 - p, -p)
    total: Tensor = entropy.masked_fill(certain, 0.0).sum(dim)
    return total.to(probs.dtype)
