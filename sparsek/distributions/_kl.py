"""Kullback-Leibler divergences between laws on subsets of the same units, registered with `torch.distributions`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from sparsek.sampling import Poisson

from ._conditional_poisson import ConditionalPoisson
from ._khot import KHot
from ._subset import SubsetDistribution, expectation


@register_kl(SubsetDistribution, SubsetDistribution)
def _kl_enumerated(p: SubsetDistribution, q: SubsetDistribution) -> Tensor:
    """Sum over the support of p; +inf where q gives 0 to a subset that p does not."""
    _same_units(p, q)
    values, log_p = p._table(max(len(p.batch_shape), len(q.batch_shape)))
    log_q = q._log_prob(values).to(log_p.dtype)
    log_p, log_q = torch.broadcast_tensors(log_p, log_q)
    return expectation(log_p, log_p - log_q).to(_dtype(p, q))


@register_kl(ConditionalPoisson, ConditionalPoisson)
def _kl_conditional_poisson(p: ConditionalPoisson, q: ConditionalPoisson) -> Tensor:
    """The Bregman divergence of log e_k: differences of formulas."""
    _same_units(p, q)
    return (p.cross_entropy(q) - p.cross_entropy(p)).clamp(min=0).to(_dtype(p, q))


@register_kl(KHot, KHot)
def _kl_khot(p: KHot, q: KHot) -> Tensor:
    """For two Poisson designs the sum of the divergences of their units, otherwise enumeration."""
    if not (isinstance(p.design, Poisson) and isinstance(q.design, Poisson)):
        return _kl_enumerated(p, q)
    _same_units(p, q)
    units = (torch.distributions.Bernoulli(probs=law.probs, validate_args=False) for law in (p, q))
    total: Tensor = kl_divergence(*units).sum(-1)
    return total


def _same_units(p: SubsetDistribution, q: SubsetDistribution) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"p and q must have the same units, got event shapes {tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )


def _dtype(p: SubsetDistribution, q: SubsetDistribution) -> torch.dtype:
    return torch.promote_types(p._param.dtype, q._param.dtype)
