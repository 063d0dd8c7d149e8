"""Expectations over all sequences from the few that were drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from ._beams import SampledBeam


def estimate(beam: SampledBeam, values: Tensor, *, normalised: bool = False) -> Tensor:
    r"""Estimate $E_{y \sim p} f(y)$, over the model's sequences given each prompt.

    $$\sum_{y ∈ S} \frac{p(y)}{q_y} f(y) \quad \text{(Horvitz-Thompson)}, \qquad
      \frac{\sum_{y ∈ S} p(y) f(y) / q_y}{\sum_{y ∈ S} p(y) / q_y} \quad \text{(normalised, Hájek)}.$$

    The first is unbiased. The second is biased by O(1/k), exact for a constant, and never leaves the range of the values; it
    is the better one where f varies little around a mean that is far from 0.

    Gradients flow through p, and through `values`: with values that do not depend on the model, the gradient of the first is
    an unbiased estimate of $∇ E f$, the policy gradient.

    Shape:
        - values: (B, k, ...), of the sequences of the beam; NaN or anything else where its `mask` is False.
        - output: (B, ...).

    Args:
        beam: What :func:`stochastic_beam_search` or :func:`resampled_beam_search` drew.
        values: $f(y)$, floating point. `-beam.log_probs` for the entropy of the sequence.
        normalised: Whether to divide by the sum of the weights.

    Raises:
        ValueError: If `beam` was not drawn, or `values` is not floating-point or of another shape.

    Example:
        >>> from sparsek.search import resampled_beam_search
        >>> fair = lambda tokens: torch.zeros(len(tokens), 2)  # a coin
        >>> beam = resampled_beam_search(fair, torch.zeros(1, 0, dtype=torch.long), k=4, max_length=5)
        >>> estimate(beam, -beam.log_probs)  # 5 log 2
        tensor([3.4657])
        >>> estimate(beam, beam.tokens.sum(-1).float()).shape  # heads; 2.5 on average
        torch.Size([1])

    References:
        Horvitz, Thompson (1952), "A Generalization of Sampling Without Replacement From a Finite Universe",
        https://doi.org/10.1080/01621459.1952.10483446
        Kool, van Hoof, Welling (2020), "Estimating Gradients for Discrete Random Variables by Sampling without Replacement",
        https://arxiv.org/abs/2002.06043
    """
    if not isinstance(beam, SampledBeam):
        raise ValueError(f"beam must be a SampledBeam, drawn with known probabilities, got {type(beam).__name__}")
    shape = beam.mask.shape
    if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape[:2] != shape:
        got = f"{tuple(values.shape)} of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"values must be floating-point of shape {(*shape, '...')}, got {got}")
    spread = (...,) + (None,) * (values.dim() - 2)
    weights = beam.weights[spread]
    weighted = (weights * torch.where(beam.mask[spread], values, 0.0)).sum(1)
    return weighted / weights.sum(1) if normalised else weighted
