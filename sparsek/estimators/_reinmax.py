"""The published k-hot form of ReinMax."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, PathwiseEstimator, attach, fixed, widen


@dataclass(frozen=True)
class ReinMax(PathwiseEstimator):
    r"""ReinMax's formula with the Jacobian of sigmoid top-k: offered for comparison, **biased even for linear f**.

    With $J(p) = \operatorname{diag}(d) - d d^\top / \sum d$, $d = p(1-p)$, the Jacobian of sigmoid top-k where its
    output is p, and a sample s of the design,

    $$\hat\nabla = \big[2 J(\tfrac{\pi + s}{2}) - \tfrac12 J(\pi)\big]^\top \nabla f(s).$$

    For softmax this is second-order exact, because its Jacobian is quadratic in p. That of sigmoid top-k is not, for
    the division by $\sum d$: :class:`SecondOrder` is the form that stays exact.

    **Bias.** 0.7 to 12 % of the gradient's norm on linear f in cases enumerated (n = 8, k = 2 and 4).
    **Variance.** About that of straight-through; there is no score.

    $J$ is applied in closed form. Gradients flow to `input` and a tensor temperature as above; to a tensor `k` flows
    $\langle\partial\pi/\partial k, \nabla f(s)\rangle$ with weight one (the published weights would sum to 3/2).
    Units that are sure (π = 0 or 1) get none. Only for :class:`~sparsek.relaxations.SigmoidTopK`; any design with
    exact $\pi$, `Pivotal()` by default.

    Example:
        >>> import torch
        >>> from sparsek.estimators import ReinMax
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> sample = ReinMax()(input, k=2, generator=torch.Generator().manual_seed(0))
        >>> int(sample.sum())
        2

    References:
        Liu, Dong, Liu, Yu, Gao, *Bridging Discrete and Backpropagation: Straight-Through and Beyond*, 2023,
        https://arxiv.org/abs/2304.08612
        Wijk, Vinuesa, Azizpour, *Differentiable Top-k: From One-Hot to k-Hot*, 2025,
        https://openreview.net/forum?id=VMlajIH1oF
    """

    def check(self, k: float | Tensor, relaxation: Relaxation) -> None:
        """Refuse any relaxation but sigmoid top-k."""
        if not isinstance(relaxation, SigmoidTopK):
            raise ValueError(
                f"relaxation must be SigmoidTopK for ReinMax, got {type(relaxation).__name__}; "
                "use SecondOrder(), which takes any relaxation on the capped simplex"
            )

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = SIGMOID_TOPK,
        design: Design | None = None,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Draw a sample; see :class:`PathwiseEstimator`."""
        self.check(k, relaxation)
        assert isinstance(relaxation, SigmoidTopK)
        logits = widen(input) / relaxation.temperature
        soft = dataclasses.replace(relaxation, temperature=1.0, hard=False)
        probs = soft(logits.detach(), k, mask=mask)  # carries the gradient to k alone
        sample = self.resolve_design(design).sample(probs.detach(), k=fixed(k), generator=generator)
        middle = 0.5 * (probs.detach() + sample)
        step = 2.0 * _jacobian(middle, logits) - 0.5 * _jacobian(probs.detach(), logits)
        return attach(sample, probs + step).to(input.dtype)


def _jacobian(probs: Tensor, logits: Tensor) -> Tensor:
    """J(probs) logits, whose gradient to `logits` is J(probs) times the incoming one, as J is symmetric."""
    slope = probs * (1.0 - probs)
    weight = slope / slope.sum(-1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    finite = torch.where(slope > 0, logits, 0.0)
    return slope * (finite - (weight * finite).sum(-1, keepdim=True))
