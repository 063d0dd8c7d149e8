"""Selections of each latent by itself, with a price on being active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional._sparse_products import FULL

from ._batch_top_k import with_gradient
from ._latents import Latents, PreActivations, compact
from ._selection import LatentSelection, SelectionContext, check_not_negative


@dataclass(frozen=True)
class ReLUL1(LatentSelection):
    r"""A ReLU with the price $\lambda \sum_i a_i \lVert w^\text{dec}_i \rVert$ on its activations, mean over tokens.

    Weighing by decoder norms makes the price independent of how encoder and decoder share the scale. With several targets
    (a crosscoder) the norm is that of the whole row. Sparse once at most 1/16 of the latents are active, dense before.

    Args:
        coefficient: λ, at least 0.

    References:
        Bricken et al., 2023, "Towards Monosemanticity", https://transformer-circuits.pub/2023/monosemantic-features
        Conerly et al., 2024, "Update on how we train SAEs", https://transformer-circuits.pub/2024/april-update
    """

    coefficient: float

    def __post_init__(self) -> None:
        check_not_negative("coefficient", self.coefficient)

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate what is positive."""
        with torch.no_grad():
            dense = scores.dense()
            positive = dense > 0
        norms = context.decoder.norm(dim=-1)
        if positive.sum() <= FULL * positive.numel():
            code = with_gradient(scores, compact(positive, dense))
            cost = (code.values * norms[code.indices]).sum(-1)
            return Latents(code, self.coefficient * cost.mean(), ragged=True)
        active = scores.dense().relu()
        return Latents(active, self.coefficient * (active @ norms).mean())


@dataclass(frozen=True)
class JumpReLU(LatentSelection):
    r"""$a_i\,[a_i > \theta_i]$ with a learned threshold of each latent, and the price $\lambda \sum_i [a_i > \theta_i]$.

    The step has no useful gradient, so that of its expectation under a rectangular kernel of width `bandwidth` is taken
    (straight-through, biased): $\partial / \partial \theta_i$ of the activation is $-\theta_i / \varepsilon$, and of the count
    $-1 / \varepsilon$, where $\lvert a_i - \theta_i \rvert < \varepsilon / 2$. Thresholds are learnt by their logarithm.

    Args:
        coefficient: λ, at least 0.
        bandwidth: ε, above 0, in the units of the pre-activations.
        initial: Threshold at the start, above 0.

    References:
        Rajamanoharan et al., 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders",
        https://arxiv.org/abs/2407.14435
    """

    coefficient: float
    bandwidth: float = 0.001
    initial: float = 0.001

    def __post_init__(self) -> None:
        check_not_negative("coefficient", self.coefficient)
        check_positive("bandwidth", self.bandwidth)
        check_positive("initial", self.initial)

    def parameters(self, num_latents: int) -> dict[str, Tensor]:
        """One log-threshold for each latent."""
        return {"log_threshold": torch.full((num_latents,), self.initial).log()}

    def __call__(self, scores: PreActivations, context: SelectionContext) -> Latents:
        """Activate what is above its threshold."""
        dense = scores.dense()
        threshold = context.parameters["log_threshold"].exp()
        active, gate = _jump(dense, threshold, self.bandwidth)
        return Latents(active, self.coefficient * gate.sum(-1).mean())


class _Step(torch.autograd.Function):
    """[a > θ]; the gradient is that to θ alone, of a rectangular kernel."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(scores, threshold)
        ctx.bandwidth = bandwidth
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        scores, threshold = ctx.saved_tensors
        near = (scores - threshold).abs() < ctx.bandwidth / 2
        return None, -(grad * near).sum_to_size(threshold.shape) / ctx.bandwidth, None


def _jump(scores: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Activations and gates. Near the threshold a·∂gate is θ·∂gate: the published gradient has θ itself."""
    gate = _Step.apply(scores, threshold, bandwidth)
    moved = gate.detach() * scores + threshold.detach() * (gate - gate.detach())
    return moved, gate
