"""The selector: relaxation, design and estimator as one module."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from sparsek._validation import check_k
from sparsek.estimators import Estimator, PathwiseEstimator, StraightThrough
from sparsek.functional import topk_mask
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

_RELAXATION = SigmoidTopK()
_ESTIMATOR = StraightThrough()


class KHotSelector(nn.Module):
    r"""Pick k of n units: a random k-hot sample with a gradient while training, the top k in eval mode.

    In training, $\pi = \text{relaxation}(x, k)$, the design draws s with $P(s_i = 1) = \pi_i$ (or the estimator draws
    it in its own way), and the estimator carries gradients from s to x, to a learnable k, and to a tensor temperature
    of the relaxation. In eval mode the output is :func:`~sparsek.functional.topk_mask`: ties go to the lowest index,
    and at real k the next entry holds the fraction.

    With k = 0 nothing is selected and with k = n everything. Scores at +inf are always selected, masked ones and those
    at -inf never. At real k a sample has floor(k) or ceil(k) units and k on average.

    Shape:
        - input: (..., n); rows are independent.
        - mask: broadcasts to (..., n).
        - output: (..., n), in the dtype of `input`.

    Args:
        k: Number of units, at least 0; real if the parts can take it. An `nn.Parameter` is learnt (keeping it within
            [0, n] is left to the caller); another tensor is kept as a buffer.
        relaxation: Maps scores to inclusion probabilities.
        design: Draws the sample. None = the estimator's default: `Pivotal()`, or `ConditionalPoisson()` for
            `SecondOrder()`. Estimators that draw in their own way (`Simple`, `IMLE`, `Relaxed`) ignore it.
        estimator: A pathwise estimator.

    Raises:
        ValueError: If k is not a number ≥ 0, the relaxation leaves the capped simplex while the estimator samples from
            its output, the estimator is a loss-level one, or k is real and a part needs it whole.

    Example:
        >>> import torch
        >>> from sparsek.nn import KHotSelector
        >>> selector = KHotSelector(k=2)
        >>> scores = torch.tensor([[2.0, 0.0, 1.0, -1.0]], requires_grad=True)
        >>> selector(scores, generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2.], grad_fn=<SumBackward1>)
        >>> selector.eval()(scores)
        tensor([[1., 0., 1., 0.]])

    References:
        Wijk, Vinuesa, Azizpour, *Differentiable Top-k: From One-Hot to k-Hot*, 2025,
        https://openreview.net/forum?id=VMlajIH1oF
    """

    k: float | Tensor

    def __init__(
        self,
        k: float | Tensor,
        relaxation: Relaxation = _RELAXATION,
        design: Design | None = None,
        estimator: PathwiseEstimator = _ESTIMATOR,
    ) -> None:
        super().__init__()
        check_k(k, k.shape if isinstance(k, Tensor) else torch.Size(), sys.maxsize)
        check_pathwise(estimator)
        estimator.check(k, relaxation)
        if isinstance(k, Tensor) and not isinstance(k, nn.Parameter):
            self.register_buffer("k", k)
        else:
            self.k = k
        self.relaxation = relaxation
        self.design = estimator.resolve_design(design) if estimator.uses_design else None
        self.estimator = estimator

    def forward(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Select.

        Args:
            input: Free scores.
            mask: True = keep.
            generator: Source of randomness; not read in eval mode.

        Returns:
            The selection, 1 or 0 per unit (a fraction in one unit in eval mode at real k).
        """
        if not self.training:
            return topk_mask(input, self.k, mask=mask)
        return self.estimator(input, self.k, self.relaxation, self.design, generator, mask=mask)

    def extra_repr(self) -> str:
        """Return the arguments."""
        k = f"tensor of shape {tuple(self.k.shape)}" if isinstance(self.k, Tensor) and self.k.dim() else f"{self.k:g}"
        design = "" if self.design is None else f", design={self.design}"
        return f"k={k}, relaxation={self.relaxation}{design}, estimator={self.estimator}"


def check_pathwise(estimator: Estimator) -> None:
    """Refuse an estimator that needs the loss as a function."""
    if not isinstance(estimator, PathwiseEstimator):
        name = type(estimator).__name__
        raise ValueError(
            f"estimator must be pathwise, got {name}, which needs the loss as a function: call {name}().surrogate(fn, "
            "input, ...) in the training step, or use SecondOrder() here"
        )
