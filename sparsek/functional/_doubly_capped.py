"""Doubly capped probabilities: every token takes k experts, no expert more than its capacity."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_floating, check_k, check_mask, check_positive, values_visible

from ._column_bias import Columns, newton_step, response, solve_bias, spread
from ._sigmoid_topk import sigmoid_topk
from ._topk_mask import topk_mask

_FEASIBLE = 1e-5
"""Relative rounding of k and capacity that is not called infeasible."""

_TIGHT = 1e-6
"""Relative spare capacity that is none: all columns are then full, whichever sign b is given, and b is found faster."""

_COLD = 1e-3
"""Temperature, in standard deviations of the scores, at which the bias for temperature 0 is found."""


class DoublyCapped(NamedTuple):
    """What :func:`doubly_capped` returns."""

    probs: Tensor
    """(..., tokens, experts): rows sum to k, or are 0 where masked and NaN where the token's scores have one."""
    bias: Tensor
    """(..., experts): b in at least float32, detached; hand it to the next batch. Its largest is 0; with `exact`, its mean."""
    excess: Tensor
    """(...): what is left of the worst violation of a capacity, as a multiple of the even share Σk / experts; detached."""


class _Problem(NamedTuple):
    """Arguments after their checks: scores with neither NaN nor masked tokens, in float32 or float64."""

    scores: Tensor
    k: float | Tensor
    kept: Tensor  # (..., tokens) tokens that take part
    broken: Tensor  # (..., tokens) tokens whose answer is NaN
    total: Tensor  # (...) Σk over the tokens that take part, float64
    available: Tensor  # (..., experts) number of tokens that an expert may take, float64


def doubly_capped(
    input: Tensor,
    k: float | Tensor,
    capacity: float | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    row_mask: Tensor | None = None,
    *,
    exact: bool = False,
    bias: Tensor | None = None,
    iterations: int | None = None,
) -> DoublyCapped:
    r"""Inclusion probabilities whose rows sum to k and whose columns sum to at most a capacity.

    $$π_{te} = σ\left((x_{te} + b_e - τ_t)/T\right), \quad \sum_e π_{te} = k_t, \quad \sum_t π_{te} ≤ c_e, \quad b ≤ 0,$$

    with $b_e < 0$ only where $\sum_t π_{te} = c_e$: the maximiser of $⟨x, π⟩ + T \sum H(π)$ over matrices in [0, 1] with these
    sums. τ is the shift of each token, by :func:`sigmoid_topk`; b the multiplier of each expert's capacity.

    An iteration is a sweep over the columns (sigmoid top-k of every column), corrected for the answer of the rows to it (systems
    of experts × experts equations), and a sweep over the rows; of the plain and the corrected steps the one with the lowest
    dual objective is kept. Rows are exact after the last sweep; what columns still miss is `excess`. Between slowly moving
    batches 4 iterations from the last `bias` are enough, and mostly from 0 too. Nearly linear programs, of few tokens or of few
    kinds of tokens at a temperature far below the spread of their scores, take more: leave `iterations` to the default there.

    Gradients are those of the implicit function theorem in `input`, `k`, `capacity` and `temperature`, first order, for the
    column sums that were reached. Where an expert is full with b = 0, they are one-sided.

    At temperature 0 the result is the selection of quantile balancing, `topk_mask(input + bias, k)`, without gradient. Tokens
    whose scores tie all choose the lowest index; :func:`sparsek.sampling.dependent_rounding` of the probabilities at
    a small temperature breaks ties evenly.

    Every token sees every other through b: in a causal model use `bias` from earlier batches with :func:`sigmoid_topk`.

    Shape:
        - input: (..., tokens, experts); leading dimensions are separate problems.
        - k: a number, or broadcasting to (..., tokens).
        - capacity: a number, or broadcasting to (..., experts).
        - temperature: a number, or broadcasting to (...).
        - row_mask: broadcasting to (..., tokens).
        - bias: broadcasting to (..., experts).

    Args:
        input: Free scores. −inf gets exactly 0, +inf exactly 1. A NaN makes its own token NaN; it then counts nowhere.
        k: Sum of each row, in [0, number of experts]; may be real.
        capacity: Largest sum of each column, in slots. Default: the even share, Σk over the number of experts with a score above
            −inf; then all columns are full.
        temperature: T ≥ 0.
        row_mask: True = a real token. Others get 0 and count nowhere. With no real token all is 0 and `bias` stays.
        exact: Whether columns must sum to `capacity`, which then must sum to Σk; b may be positive.
        bias: b to start from: that of the last batch. Default: 0.
        iterations: Largest number of iterations, at least 1; in eager mode they end when nothing is left to do. Default: as many
            as it takes, if need be from solutions at higher temperatures; 8 under `torch.compile`.

    Returns:
        Probabilities, bias and excess. k = 0 gives zeros, k = experts ones (with an excess if that breaks a capacity under
        `torch.compile`, where it cannot be refused).

    Raises:
        ValueError: An argument of the wrong type, shape or range; capacities that cannot hold Σk; with `exact`, capacities that
            do not sum to it. Values of tensors are looked at in eager mode only; otherwise `excess` tells.

    Example:
        >>> import torch
        >>> from sparsek.functional import doubly_capped
        >>> scores = torch.tensor([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [2.0, 0.0, 0.0]])
        >>> probs, bias, excess = doubly_capped(scores, k=1)
        >>> probs.sum(0).allclose(torch.ones(3)), probs.sum(1).allclose(torch.ones(3)), bool(excess < 1e-5)
        (True, True, True)
        >>> doubly_capped(scores, k=1, temperature=0).probs
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])

    References:
        Cuturi (2013), "Sinkhorn Distances", https://arxiv.org/abs/1306.0895.
        Lewis et al. (2021), "BASE Layers", https://arxiv.org/abs/2103.16716.
        Amos, Koltun, Kolter (2019), "The Limited Multi-Label Projection Layer", https://arxiv.org/abs/1906.08707.
    """
    soft = isinstance(temperature, Tensor) or temperature != 0
    if soft:
        check_positive("temperature", temperature)
    if iterations is not None and (not isinstance(iterations, int) or iterations < 1):
        raise ValueError(f"iterations must be a whole number >= 1, got {iterations!r}")
    problem = _check(input, k, row_mask)
    limit = _capacities(problem, capacity, exact)
    free = (limit.sum(-1, keepdim=True) <= problem.total * (1 + _TIGHT)) | exact
    columns = Columns(limit.detach(), problem.available, problem.kept, free)
    scale = _scale(temperature, problem)
    scores = problem.scores / scale.unsqueeze(-1).to(problem.scores.dtype)
    start = torch.zeros_like(limit) if bias is None else _expanded("bias", bias.detach(), limit)
    start = start.nan_to_num(0.0, 0.0, 0.0) / scale.detach()
    with torch.no_grad():
        found = solve_bias(
            scores.detach(),
            problem.k.detach() if isinstance(problem.k, Tensor) else problem.k,
            columns,
            start,
            iterations,
        )
        found = torch.where(problem.kept.any(-1, keepdim=True), found, start)
    probs = _rows(scores, found, limit, problem, columns) if soft else _select(scores, found, problem)
    probs = probs.masked_fill(~problem.kept.unsqueeze(-1), 0)
    excess = _excess(probs.detach(), problem, columns, exact)
    probs = probs.masked_fill(problem.broken.unsqueeze(-1), torch.nan)
    found = (found - (0.0 if exact else found.amax(-1, keepdim=True))) * scale.detach()
    return DoublyCapped(probs.to(input.dtype), found.to(scores.dtype), excess.detach())


def _rows(scores: Tensor, bias: Tensor, limit: Tensor, problem: _Problem, columns: Columns) -> Tensor:
    """Rows at the bias found; with a derivative, through one step of Newton on b whose value is left out."""
    k = problem.k.squeeze(-1) if isinstance(problem.k, Tensor) else problem.k
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (scores, k, limit)):
        probs = sigmoid_topk(scores + bias.to(scores.dtype).unsqueeze(-2), k)
        probs = probs.masked_fill(~problem.kept.unsqueeze(-1), 0)
        density = (probs * (1 - probs)).detach()
        step = newton_step(response(density), limit - probs.sum(-2, dtype=torch.float64), columns.active(bias))
        bias = bias + (step - step.detach())
    return sigmoid_topk(scores + bias.to(scores.dtype).unsqueeze(-2), k)


def _select(scores: Tensor, bias: Tensor, problem: _Problem) -> Tensor:
    k = problem.k.squeeze(-1) if isinstance(problem.k, Tensor) else problem.k
    return topk_mask(scores + bias.to(scores.dtype).unsqueeze(-2), k)


def _check(input: Tensor, k: float | Tensor, row_mask: Tensor | None) -> _Problem:
    check_floating("input", input)
    if input.dim() < 2 or input.shape[-1] == 0:
        raise ValueError(f"input must have shape (..., tokens, experts >= 1), got {tuple(input.shape)}")
    batch, experts = input.shape[:-1], input.shape[-1]
    broken = input.isnan().any(-1)
    real = torch.ones_like(broken)
    if row_mask is not None:
        check_mask("row_mask", row_mask, broken)
        real = row_mask.expand(batch)
    sums = k
    if isinstance(k, Tensor):
        check_k(k, batch, None)
        sums = torch.where(real, k.to(input.device, torch.float64), 0.0)
    valid = (input > -torch.inf).sum(-1).masked_fill(~real | broken, experts)
    certain = (input == torch.inf).sum(-1).masked_fill(~real | broken, 0)
    check_k(sums, batch, valid)
    if values_visible(input) and bool((certain > sums).any()):
        raise ValueError(f"input must have at most k entries at +inf in every row, got {int(certain.max())}")
    broken = real & (broken | ~((certain <= sums) & (sums <= valid)))
    kept = real & ~broken
    scores = input.to(torch.promote_types(input.dtype, torch.float32)).masked_fill(~kept.unsqueeze(-1), 0)
    if isinstance(sums, Tensor):
        total = torch.where(kept, sums, 0.0).sum(-1, keepdim=True)
        sums = torch.where(kept, sums, 1.0).unsqueeze(-1)
    else:
        total = kept.sum(-1, keepdim=True, dtype=torch.float64) * sums
    available = ((scores > -torch.inf) & kept.unsqueeze(-1)).sum(-2, dtype=torch.float64)
    return _Problem(scores, sums, kept, broken, total, available)


def _capacities(problem: _Problem, capacity: float | Tensor | None, exact: bool) -> Tensor:
    """The capacities as (..., experts) float64."""
    experts = problem.available
    if capacity is None:
        used = experts > 0
        return torch.where(used, problem.total / used.sum(-1, keepdim=True).clamp_min(1), 0.0)
    limit = _expanded("capacity", capacity, experts)
    if not values_visible(limit):
        return limit
    if not bool((limit >= 0).all()):
        raise ValueError(f"capacity must be >= 0 everywhere, got values down to {limit.min().item():g}")
    room = torch.minimum(limit, experts).sum(-1, keepdim=True)
    if bool((room < problem.total * (1 - _FEASIBLE)).any()):
        raise ValueError(
            f"capacity must leave room for the sum of k over all tokens, {problem.total.max().item():g}; "
            f"the experts can take {room.min().item():g} (each at most its number of tokens)"
        )
    apart = (limit.sum(-1, keepdim=True) - problem.total).abs() > _FEASIBLE * problem.total
    if exact and bool((apart | (limit > experts * (1 + _FEASIBLE)).any(-1, keepdim=True)).any()):
        raise ValueError(
            f"capacity must sum to the sum of k over all tokens, {problem.total.max().item():g}, and be at most the number "
            f"of tokens of each expert if exact, got a sum of {limit.sum(-1).max().item():g}"
        )
    return limit


def _expanded(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A number or tensor as float64 of the shape of `like`."""
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0 or a tensor, got {value!r}")
        return torch.full_like(like, float(value))
    try:
        return value.to(like.device, torch.float64).expand_as(like)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(value.shape)} does not broadcast to {tuple(like.shape)}") from None


def _scale(temperature: float | Tensor, problem: _Problem) -> Tensor:
    """T as (..., 1); for temperature 0 one that is small against the spread of the scores within tokens."""
    if isinstance(temperature, Tensor):
        if temperature.dim() == 0:
            return temperature.to(problem.total.device, torch.float64).expand_as(problem.total)
        return _expanded("temperature", temperature.unsqueeze(-1), problem.total)
    if temperature != 0:
        return torch.full_like(problem.total, temperature)
    small = _COLD * spread(problem.scores.detach(), problem.kept)
    return torch.where(small > 0, small, 1.0)


def _excess(probs: Tensor, problem: _Problem, columns: Columns, exact: bool) -> Tensor:
    over = probs.sum(-2, dtype=torch.float64) - columns.capacity
    worst = (over.abs() if exact else over.clamp_min(0)).amax(-1)
    share = problem.total.squeeze(-1) / probs.shape[-1]
    return torch.where(share > 0, worst / share, worst)
