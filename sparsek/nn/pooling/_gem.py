"""GeM: a power mean with a learnt power."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparsek._validation import check_positive
from sparsek.functional.pooling import RefuseNegative, SignPolicy, gem_pool, gem_weights

from ._empty import EmptyPolicy
from ._pooling import _ZERO, Pooling

_REFUSE = RefuseNegative()


class GeM(Pooling):
    """Power mean of every dimension, with a learnt power. See :func:`~sparsek.functional.pooling.gem_pool`.

    p = 1 is the mean, p → ∞ the maximum, p = 0 the geometric mean; the power may cross 0 as it is learnt. Weights: the share of
    each activation in the sum of powers.

    Args:
        p: Power to begin with, finite.
        per_channel: Number of channels, each with a power of its own. None = one power for all.
        signed: What negative activations mean: :class:`RefuseNegative` (an error), :class:`ClampNegative`,
            :class:`AbsoluteValue` or :class:`SignedPower`.
        learnable: Whether p is a parameter; else it is a buffer.
        eps: Smaller activations are taken as this, > 0.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If an argument has the wrong type or range.

    Example:
        >>> import torch
        >>> from sparsek.nn import GeM
        >>> GeM(p=3, learnable=False)(torch.tensor([[[1.0], [0.5], [2.0], [0.3]]]))
        tensor([[1.3177]])
        >>> GeM(per_channel=512).p.shape
        torch.Size([512])

    References:
        Radenović, Tolias, Chum (2018), "Fine-tuning CNN Image Retrieval with No Human Annotation",
        https://arxiv.org/abs/1711.02512.
    """

    p: Tensor

    def __init__(
        self,
        p: float = 3.0,
        per_channel: int | None = None,
        signed: SignPolicy = _REFUSE,
        *,
        learnable: bool = True,
        eps: float = 1e-6,
        empty: EmptyPolicy = _ZERO,
    ) -> None:
        super().__init__(empty=empty)
        if isinstance(p, bool) or not isinstance(p, int | float) or not math.isfinite(p):
            raise ValueError(f"p must be a finite number, got {p!r}")
        if per_channel is not None and (isinstance(per_channel, bool) or per_channel < 1):
            raise ValueError(f"per_channel must be the number of channels, or None, got {per_channel!r}")
        if not isinstance(signed, SignPolicy):
            raise ValueError(f"signed must be a SignPolicy such as RefuseNegative() or SignedPower(), got {signed!r}")
        check_positive("eps", eps)
        power = torch.full(() if per_channel is None else (per_channel,), float(p))
        if learnable:
            self.p = nn.Parameter(power)
        else:
            self.register_buffer("p", power)
        self.signed = signed
        self.eps = eps

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return gem_pool(x, self.p, mask, eps=self.eps, signed=self.signed)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Shares in the sum of powers, (B, T, D)."""
        return gem_weights(x, self.p, mask, eps=self.eps, signed=self.signed)

    def extra_repr(self) -> str:
        """Return the arguments."""
        p = f"p={self.p.item():g}" if self.p.dim() == 0 else f"per_channel={len(self.p)}"
        return f"{p}, signed={self.signed}, eps={self.eps:g}"
