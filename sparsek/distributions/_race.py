r"""The exponential race: unit i arrives at an exponential time of rate $w_i = e^{φ_i}$, and the first k are taken.

This is Gumbel top-k, and successive sampling without replacement proportional to w. Two of its probabilities are
integrals over time t whose integrands are smooth and decay exponentially in y = log t, so that the trapezoidal rule
in y converges geometrically; nothing cancels, since every term is positive. All logits are finite or −inf here, and k
is at most the number of finite ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparsek.functional._gumbel import LATE, log_arrived

_NODES, _EXPONENT = 192, 38.0  # what is left out of an integral is below exp(-38) of its peak


def log_set_probability(logits: Tensor, selected: Tensor, k: int) -> Tensor:
    r"""Return the log-probability that the units in `selected` arrive before all others.

    $$P(S) = \int_0^∞ e^{-t} \prod_{i ∈ S} \big(1 - e^{-t w_i / W}\big) \, dt, \quad W = \sum_{i ∉ S} w_i,$$

    where t is the first arrival outside S in units of its mean. The integrand in y = log t is log-concave: nodes are
    spread over the interval where it exceeds exp(-38) of its peak.

    Args:
        logits: (..., n).
        selected: (..., n), at most k units, none at −inf.
        k: Largest number of selected units.
    """
    others = torch.logsumexp(logits.masked_fill(selected, -torch.inf), -1, keepdim=True)
    alone = others == -torch.inf
    ratio = torch.where(selected & ~alone, logits, 0.0) - torch.where(alone, 0.0, others)
    ratio = torch.where(selected & ~alone, ratio, torch.inf)
    ratio = ratio.gather(-1, selected.to(torch.int8).topk(k, dim=-1).indices)
    with torch.no_grad():
        low, high = _interval(ratio)
        step = (high - low) / (_NODES - 1)
        y = low.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(_NODES, dtype=logits.dtype, device=logits.device)
    log_probs = torch.logsumexp(_log_integrand(y, ratio), -1) + step.log()
    return log_probs.masked_fill(alone.squeeze(-1), 0.0)


def _log_integrand(y: Tensor, ratio: Tensor) -> Tensor:
    """(..., J) and (..., k) to (..., J)."""
    return y - y.exp() + log_arrived(y.unsqueeze(-1) + ratio.unsqueeze(-2)).sum(-1)


def _interval(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of y outside which the integrand is below exp(-38) of its peak, a little wider."""
    start = ratio.new_zeros(ratio.shape[:-1])
    peak = _bisect(lambda y: 1 - y.exp() + _pull(y, ratio), start, start + math.log1p(ratio.shape[-1]), 24)
    top = _log_integrand(peak.unsqueeze(-1), ratio).squeeze(-1) - _EXPONENT

    def above(y: Tensor) -> Tensor:
        return _log_integrand(y.unsqueeze(-1), ratio).squeeze(-1) - top

    low = _bisect(lambda y: -above(y), peak - 2 * _EXPONENT, peak, 12)
    return low, _bisect(above, peak, peak + 6, 8) + 6 / 2**8


def _bisect(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int) -> Tensor:
    """Return the lower end of the bracket of the root of a decreasing function."""
    for _ in range(steps):
        middle = (low + high) / 2
        positive = function(middle) > 0
        low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
    return low


def _pull(y: Tensor, ratio: Tensor) -> Tensor:
    """Return the derivative in y of the sum of `log_arrived`."""
    x = (y.unsqueeze(-1) + ratio).clamp(max=LATE).exp()
    return torch.where(x > 0, x / torch.expm1(x), 1.0).sum(-1)
