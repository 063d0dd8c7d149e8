"""What a power mean does with negative activations: one small class per policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import values_visible


class SignPolicy(ABC):
    """Turns kept activations into the magnitudes >= eps whose powers are averaged, and the signs that these powers get."""

    @abstractmethod
    def magnitudes(self, x: Tensor, eps: float) -> Tensor:
        """Magnitudes of `x`, at least `eps`."""

    def signs(self, x: Tensor) -> Tensor | None:
        """Signs of the powers; None = all positive."""
        return None


def _some_negative(x: Tensor) -> bool:
    """By the least one, which is NaN where there is any."""
    least = x.detach().amin() if x.numel() else x.new_zeros(())
    return bool(least < 0) or (bool(least.isnan()) and bool((x < 0).any()))


@dataclass(frozen=True)
class RefuseNegative(SignPolicy):
    """Negative activations are an error: `ValueError` where values are visible, NaN in their dimension otherwise.

    Zeros, as after a ReLU, are taken as eps.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import RefuseNegative
        >>> RefuseNegative().magnitudes(torch.tensor([0.0, 2.0]), 1e-6)
        tensor([1.0000e-06, 2.0000e+00])
    """

    def magnitudes(self, x: Tensor, eps: float) -> Tensor:
        """`x`, at least `eps`."""
        if not values_visible(x):
            x = x.masked_fill(x < 0, torch.nan)
        elif _some_negative(x):
            raise ValueError(
                f"x must be >= 0 for a power mean, got values down to {x[x < 0].min().item():.6g}; say what negative ones mean by "
                "signed=ClampNegative(), AbsoluteValue() or SignedPower()"
            )
        return x.clamp(min=eps)


@dataclass(frozen=True)
class ClampNegative(SignPolicy):
    """Negative activations are taken as eps, and receive no gradient.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import ClampNegative
        >>> ClampNegative().magnitudes(torch.tensor([-1.0, 2.0]), 1e-6)
        tensor([1.0000e-06, 2.0000e+00])
    """

    def magnitudes(self, x: Tensor, eps: float) -> Tensor:
        """`x`, at least `eps`."""
        return x.clamp(min=eps)


@dataclass(frozen=True)
class AbsoluteValue(SignPolicy):
    """Signs are dropped: the power mean of |x|.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import AbsoluteValue
        >>> AbsoluteValue().magnitudes(torch.tensor([-1.0, 2.0]), 1e-6)
        tensor([1., 2.])
    """

    def magnitudes(self, x: Tensor, eps: float) -> Tensor:
        """|x|, at least `eps`."""
        return x.abs().clamp(min=eps)


@dataclass(frozen=True)
class SignedPower(SignPolicy):
    r"""Powers keep the sign of their activation, and the root keeps the sign of the mean; p must be above 0.

    $$y = \operatorname{sgn}(m)\, |m|^{1/p}, \qquad m = \frac1n \sum_t \operatorname{sgn}(x_t)\, |x_t|^p,$$

    the mean at p = 1. Where m = 0 the output is 0 and its gradient 0; an activation of 0 receives gradient 0.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import SignedPower
        >>> SignedPower().signs(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  1.])
    """

    def magnitudes(self, x: Tensor, eps: float) -> Tensor:
        """|x|; no lower bound is needed, since p > 0."""
        return x.abs()

    def signs(self, x: Tensor) -> Tensor | None:
        """Signs of `x`."""
        return x.sign()
