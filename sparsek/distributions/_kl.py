"""Kullback-Leibler divergences between laws on subsets of the same units, registered with `torch.distributions`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import register_kl

from sparsek.sampling import Poisson

from ._conditional_poisson import ConditionalPoisson
from ._khot import KHot
from ._subset import SubsetDistribution, expectation


@register_kl(SubsetDistribution, SubsetDistribution)
def _kl_subsets(p: SubsetDistribution, q: SubsetDistribution) -> Tensor:
    """By formula for two conditional Poisson laws or two Poisson designs, otherwise by enumeration."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"p and q must have the same units, got event shapes {tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )
    natural_p, natural_q = _natural(p), _natural(q)
    if natural_p is not None and natural_q is not None:
        divergence = natural_p.cross_entropy(natural_q) - natural_p.cross_entropy(natural_p)
    elif (
        isinstance(p, KHot) and isinstance(q, KHot) and isinstance(p.design, Poisson) and isinstance(q.design, Poisson)
    ):
        divergence = _unit(p.probs, q.probs) + _unit(1 - p.probs, 1 - q.probs)
        divergence = divergence.sum(-1)
    else:
        divergence = _enumerated(p, q)
    return divergence.to(torch.promote_types(p._param.dtype, q._param.dtype))


def _natural(law: SubsetDistribution) -> ConditionalPoisson | None:
    """The law by its natural parameters, if it is conditional Poisson."""
    if isinstance(law, KHot):
        return law.natural()
    return law if isinstance(law, ConditionalPoisson) else None


def _unit(p: Tensor, q: Tensor) -> Tensor:
    """Return p log(p/q), with 0 log 0 = 0 and +inf where only q is 0."""
    return torch.xlogy(p, p) - torch.xlogy(p, q)


def _enumerated(p: SubsetDistribution, q: SubsetDistribution) -> Tensor:
    """Sum over the support of p; +inf where q gives 0 to a subset that p does not."""
    values, log_p = p._table(max(len(p.batch_shape), len(q.batch_shape)))
    log_q = q._log_prob(values).to(log_p.dtype)
    log_p, log_q = torch.broadcast_tensors(log_p, log_q)
    return expectation(log_p, log_p - log_q)
