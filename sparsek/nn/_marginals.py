"""The relaxation in place of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.estimators import PathwiseEstimator
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

_RELAXATION = SigmoidTopK()


@dataclass(frozen=True)
class Marginals(PathwiseEstimator):
    r"""No sample: the inclusion probabilities themselves, $s = \pi = \text{relaxation}(x)$.

    **Bias.** None for $f(\pi)$, which is $E f(s)$ for linear f only: a network behind it learns to read weights between 0
    and 1, and is not ready for a sample. **Variance.** None. With `SigmoidTopK(hard=True)` it is the deterministic
    straight-through top-k, which explores nothing: what is not in the top k is never tried.

    The design and the generator (but for a random relaxation) are ignored; any relaxation will do, and any k it takes.

    Example:
        >>> import torch
        >>> from sparsek.nn import KHotSelector
        >>> KHotSelector(1, estimator=Marginals())(torch.zeros(2, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500, 0.2500]])
    """

    uses_design: ClassVar[bool] = False

    def check(self, k: float | Tensor, relaxation: Relaxation) -> None:
        """Refuse a real k that the relaxation cannot take."""
        real = k.is_floating_point() if isinstance(k, Tensor) else isinstance(k, float) and not k.is_integer()
        if real and not relaxation.real_k:
            raise ValueError(f"k must be a whole number for {type(relaxation).__name__}, got {k}; use SigmoidTopK()")

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = _RELAXATION,
        design: Design | None = None,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Relax; see :class:`~sparsek.estimators.PathwiseEstimator`."""
        self.check(k, relaxation)
        return relaxation(input, k, mask=mask, generator=generator)
