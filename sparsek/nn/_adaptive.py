"""Adaptive k: a budget of k slots per token on average, which tokens take by one threshold on their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._gate import Gate
from ._selection import Selection, top_indices


def threshold(scores: Tensor, k: int) -> Tensor:
    """The score that a part k / experts of standard normal scores exceed, 0-d: where thresholds start before any is learnt."""
    experts = scores.shape[-1]
    below = torch.full((), 1 - min(k / experts, 1 - 0.5 / experts), device=scores.device)
    quantile: Tensor = torch.special.ndtri(below)
    return quantile.to(scores.dtype)


@dataclass(frozen=True)
class BudgetGate(Gate):
    r"""Marginals $\pi = \sigma((\text{logits} + b - z) / \text{temperature})$, each on its own: a token's sum $k_t$ is free.

    $z$ is the normal quantile at $1 - k/E$; the bias b of :class:`BudgetBalance` moves the threshold from there. A token sure
    of many experts takes many. The weights are the marginals, so no weight is constant, and an expert that was not taken by
    little has π just below ½.

    Args:
        temperature: Above 0.

    Example:
        >>> import torch
        >>> BudgetGate().marginals(torch.tensor([1.0, 0.0, -1.0, 0.5]), 2)
        tensor([0.7311, 0.5000, 0.2689, 0.6225])
    """

    temperature: float = 1.0

    on_capped_simplex: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def marginals(self, logits: Tensor, k: int) -> Tensor:
        """Sigmoid of the distance to the threshold."""
        return ((logits - threshold(logits, k)) / self.temperature).sigmoid()


@dataclass(frozen=True)
class _Adaptive(Selection):
    """What both forms share: the width of the indices, and the gates that they take."""

    most: int

    biases_marginals: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.most != int(self.most) or self.most < 1:
            raise ValueError(f"most must be a whole number of at least 1, got {self.most}")

    def check(self, gate: Gate, k: int) -> None:
        """Refuse a budget that does not fit, and gates that do not compare tokens by their logits."""
        if self.most < k:
            raise ValueError(f"most must be at least k = {k}, the experts of a token on average, got {self.most}")
        if type(gate).scores is not Gate.scores or getattr(gate, "normalise", False):
            raise ValueError(
                f"gate must score by the logits and not normalise the weights of a token, whose experts vary in number, "
                f"got {gate}; BudgetGate() does"
            )


@dataclass(frozen=True)
class AdaptiveTopK(_Adaptive):
    r"""Every expert whose logit + bias is above a threshold from earlier batches, at most `most` per token.

    A token takes from 0 to `most` experts and k on average, which the bias of :class:`BudgetBalance` brings about: it was moved
    after earlier optimizer steps alone, so a causal model stays causal, and the number of slots of a batch varies about k per
    token: by the noise of its tokens, $\mathrm{std}(k_t) / (k \sqrt{T})$, times 1.2 at rate ½ for that of the threshold, and by
    what changed since. At 4096 tokens, 64 experts and k = 8 that was 0.6 % on average and at most 1.3 % on an unchanging stream of
    skewed tokens, 0.8 % and 2.4 % where their mean and the router drifted by 2 % of a standard deviation per step.

    The threshold starts at the normal quantile of :class:`BudgetGate`, where tokens of unit root-mean-square and the
    router's initial weight have k experts on average. Indices have width `most`, best first, filled up with −1.

    Args:
        most: Largest number of experts of a token, at least k.

    Example:
        >>> import torch
        >>> from sparsek.nn import BudgetBalance, BudgetGate, Router
        >>> parts = {"gate": BudgetGate(), "selection": AdaptiveTopK(4), "balancer": BudgetBalance(rate=1.0)}
        >>> router, input = Router(16, num_experts=8, k=2, **parts), torch.randn(512, 16)
        >>> for _ in range(5):
        ...     router.observe(router(input))
        ...     router.step()
        >>> bool(abs(router(input).stats["load"].sum() - 2 * 512) < 0.02 * 2 * 512)
        True

    References:
        Huang et al., 2024, "Harder Tasks Need More Experts: Dynamic Routing in MoE Models", https://arxiv.org/abs/2403.07652
    """

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Take those above the threshold."""
        best = top_indices(scores, self.most)
        return best.masked_fill(scores.gather(-1, best) <= threshold(scores, k), -1)


@dataclass(frozen=True)
class BudgetTopK(_Adaptive):
    r"""The $k T$ largest of logits + bias over all experts and the T real tokens of the call, at most `most` per token.

    The budget is met exactly, in training and evaluation. Ties go to the earlier token, then to the lower expert. Indices have
    width `most`, best first, filled up with −1.

    **Not causal**: what a token takes depends on all tokens of the call; :class:`AdaptiveTopK` is the causal form, with which
    a model trained this way can be run: both share the threshold of :class:`BudgetBalance`.

    Args:
        most: Largest number of experts of a token, at least k.

    Example:
        >>> import torch
        >>> from sparsek.nn import BudgetGate, Router
        >>> router = Router(16, num_experts=8, k=2, gate=BudgetGate(), selection=BudgetTopK(4))
        >>> router(torch.randn(10, 16)).stats["load"].sum()
        tensor(20)

    References:
        Bussmann, Leask & Nanda, 2024, "BatchTopK Sparse Autoencoders", https://arxiv.org/abs/2412.06410
    """

    causal: ClassVar[bool] = False

    def __call__(
        self,
        scores: Tensor,
        marginals: Tensor,
        k: int,
        *,
        mask: Tensor,
        training: bool,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Take the largest of the batch."""
        best = top_indices(scores, self.most)
        rivals = torch.full_like(scores, -torch.inf).scatter(-1, best, scores.gather(-1, best))
        rivals = rivals.masked_fill(~mask[..., None], -torch.inf).flatten()
        within = torch.arange(rivals.numel(), device=rivals.device) < k * mask.sum()
        order = rivals.argsort(descending=True, stable=True)
        taken = torch.zeros_like(within).scatter(0, order, within).view(scores.shape)
        return best.masked_fill(~taken.gather(-1, best), -1)
