r"""Natural parameters of the conditional Poisson law with given inclusion probabilities.

θ(π) minimises the convex function $\log e_k(e^θ) - ⟨θ, π⟩$, whose gradient is $π(θ) - π$ and whose Hessian is the
covariance H of the law. Newton's method is applied to the log-odds, $\operatorname{logit} π(θ) = \operatorname{logit}
π$, which is nearly linear in θ, also near 0 and 1. Scaled to correlations and with its null direction filled, H is so
well conditioned that conjugate gradients with O(n) products solve it in a few steps at any n.

While few units are picked (or left out), laws come from a tree of counts, and H is first replaced by Hájek's $C - c
c^T/Σc$, whose inverse is a division: each step then costs one law. Where its errors stop falling fast, Newton takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsek._validation import inspectable

from ._conditional_poisson import covariance_product, mean_picks, tilted_covariance, tilted_product
from ._count_tree import Counted, count, countable, counted_picks, counted_product
from ._poisson_binomial import Frequencies, Tilted, frequencies, tilt

_NEWTON_STEPS = 16
_NEWTON_TOLERANCE = 1e-6
_ACCURATE = 1e-14  # an error of log-odds that ends the search
_SOLVE_STEPS = 40
_GRADIENT_TOLERANCE = 1e-14
_DENSE = 64  # units up to which the covariance is formed and factorised
_HAJEK_STEPS = 12
_HAJEK_ROUNDS = 8  # of the fixed point for c: an approximation needs no more


def calibrate(probs: Tensor, k: Tensor) -> Tensor:
    r"""Return natural parameters θ whose conditional Poisson law of size k has inclusion probabilities `probs`.

    θ has mean 0 over the entries of `probs` strictly inside (0, 1) and is 0 at the others, which take no part.
    Differentiable twice in `probs` along changes that keep the sum of a row, by the implicit function theorem: $∂θ/∂π
    = H^{-1}$ there.

    Args:
        probs: (..., n) float64; entries strictly inside (0, 1) sum to k.
        k: (..., 1) whole numbers in float64.
    """
    theta: Tensor = _Calibrate.apply(probs, k)
    return theta


def free_units(probs: Tensor) -> Tensor:
    """Return where probabilities are strictly inside (0, 1)."""
    return (probs > 0) & (probs < 1)


class Law(NamedTuple):
    """A conditional Poisson law at given natural parameters."""

    rows: Tilted
    terms: Frequencies | Counted
    """What its moments are computed from."""
    probs: Tensor
    """π, (..., n)."""
    complement: Tensor
    """1 − π without cancellation, (..., n)."""

    def product(self, vector: Tensor) -> Tensor:
        """The covariance times `vector`, in O(n) for a small k or any n."""
        if isinstance(self.terms, Counted):
            return counted_product(self.terms, vector)
        return tilted_product(self.rows, self.terms, vector)


def law_at(logits: Tensor, k: Tensor) -> Law:
    """Return the law with natural parameters `logits` and size k."""
    rows = tilt(logits, k)
    if countable(logits, k):
        tree = count(rows)
        return Law(rows, tree, *counted_picks(tree, logits.shape))
    rule = frequencies(rows)
    probs, complement = mean_picks(rows, rule)
    return Law(rows, rule, probs.clamp(0, 1), complement.clamp(0, 1))


def _solve_natural(probs: Tensor, k: Tensor) -> Tensor:
    """Find θ: Hájek's steps while they are cheap and good, then damped Newton."""
    free = free_units(probs)
    goal = torch.where(free, probs, 0.5).logit()
    theta, evaluate = _first_guess(probs, goal, free), partial(_evaluate, k=k, goal=goal, free=free)
    error, law = evaluate(theta)
    if isinstance(law.terms, Counted):
        theta, error, law = _hajek(theta, error, law, evaluate, _hajek_share(probs, free))
    return _centre(_newton(theta, error, law, evaluate), free)


Evaluate = Callable[[Tensor], tuple[Tensor, Law]]
"""From θ to the error of the log-odds and the law."""


def _largest(error: Tensor) -> Tensor:
    return error.abs().amax(-1, keepdim=True)


def _hajek(theta: Tensor, error: Tensor, law: Law, evaluate: Evaluate, share: Tensor) -> tuple[Tensor, Tensor, Law]:
    """Steps by the inverse of Hájek's covariance, as long as the largest error of a batch falls to a quarter each time."""
    size = _largest(error)
    for _ in range(_HAJEK_STEPS):
        trial = theta - share * error
        trial_error, trial_law = evaluate(trial)
        trial_size = _largest(trial_error)
        better = trial_size < size
        fast = bool((trial_size.amax() < size.amax() / 4) & better[size > _ACCURATE].all())
        theta, error = torch.where(better, trial, theta), torch.where(better, trial_error, error)
        size, law = torch.where(better, trial_size, size), trial_law
        if not fast or bool((size <= _ACCURATE).all()):
            break
    return theta, error, law if bool(better.all()) else evaluate(theta)[1]


def _hajek_share(probs: Tensor, free: Tensor) -> Tensor:
    """π(1 − π) over c, where c − c²/Σc = π(1 − π) (Hájek, 1964): what H⁻¹ takes of a relative change."""
    spread = torch.where(free, probs * (1 - probs), 0.0)
    c = spread
    for _ in range(_HAJEK_ROUNDS):
        c = spread + c * c / c.sum(-1, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny)
    return torch.where(free, spread / torch.where(free, c, 1.0), 0.0)


def _newton(theta: Tensor, error: Tensor, law: Law, evaluate: Evaluate) -> Tensor:
    """Damped Newton on the log-odds. A row stops where its largest error stops falling."""
    size = _largest(error)
    damping = torch.ones_like(size)
    if isinstance(law.terms, Counted) and bool((size <= _ACCURATE).all()):
        return theta
    for _ in range(_NEWTON_STEPS):
        trial = theta - damping * solve_covariance(law, law.probs * law.complement * error, _NEWTON_TOLERANCE)
        trial_error, trial_law = evaluate(trial)
        trial_size = _largest(trial_error)
        better = trial_size < size
        unsolved = (trial_size > _ACCURATE) & ((trial_size < size / 2) | ((size > 1e-3) & (damping > 1e-3)))
        damping = torch.where(better, 1.0, damping / 4)
        theta, error = torch.where(better, trial, theta), torch.where(better, trial_error, error)
        size = torch.where(better, trial_size, size)
        if inspectable(theta) and not bool(unsolved.any()):
            break
        law = trial_law if inspectable(theta) and bool(better.all()) else evaluate(theta)[1]
    return theta


def _evaluate(theta: Tensor, k: Tensor, goal: Tensor, free: Tensor) -> tuple[Tensor, Law]:
    """Error of the log-odds, and the law at θ."""
    law = law_at(torch.where(free, theta, -torch.inf), k)
    tiny = torch.finfo(theta.dtype).tiny
    odds = law.probs.clamp(min=tiny).log() - law.complement.clamp(min=tiny).log()
    return torch.where(free, odds - goal, 0.0), law


def _first_guess(probs: Tensor, goal: Tensor, free: Tensor) -> Tensor:
    """Log-odds less the normal approximation of what conditioning on the size adds to them."""
    spread = torch.where(free, probs * (1 - probs), 0.0).sum(-1, keepdim=True)
    return torch.where(free, goal - (probs - 0.5) / (spread + 0.5), 0.0)


def _centre(theta: Tensor, free: Tensor) -> Tensor:
    count = free.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(free, theta - torch.where(free, theta, 0.0).sum(-1, keepdim=True) / count, 0.0)


def solve_covariance(law: Law, vector: Tensor, tolerance: float) -> Tensor:
    r"""Solve H x = vector less its part along the null direction, for the x with ⟨π(1 − π), x⟩ = 0.

    Scaled to $D^{-1/2} H D^{-1/2}$ with D = π(1 − π), whose null direction is $D^{1/2} 1$.
    """
    scale = (law.probs * law.complement).sqrt()
    inverse = torch.where(scale > 0, 1 / torch.where(scale > 0, scale, 1.0), 0.0)
    null = scale / scale.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(scale.dtype).tiny)
    target = _reject(vector * inverse, null)
    if isinstance(law.terms, Frequencies) and scale.shape[-1] <= _DENSE:
        solution = _solve_dense(law.rows, law.terms, target, inverse, null)
    else:
        solution = _solve_iterative(law, target, inverse, null, tolerance)
    return _reject(solution, null) * inverse


def _solve_dense(rows: Tilted, rule: Frequencies, target: Tensor, inverse: Tensor, null: Tensor) -> Tensor:
    matrix = tilted_covariance(rows, rule) * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
    matrix = matrix + null.unsqueeze(-1) * null.unsqueeze(-2) + torch.diag_embed((inverse == 0).to(inverse.dtype))
    solution: Tensor = torch.linalg.solve_ex(matrix, target)[0]
    return solution


def _solve_iterative(law: Law, target: Tensor, inverse: Tensor, null: Tensor, tolerance: float) -> Tensor:
    """Conjugate gradients with O(n) products."""
    residual = direction = target
    solution = torch.zeros_like(target)
    square = start = _square(residual)
    for _ in range(_SOLVE_STEPS):
        image = _reject(law.product(direction * inverse) * inverse, null)
        curvature = (direction * image).sum(-1, keepdim=True)
        rate = torch.where(curvature > 0, square / torch.where(curvature > 0, curvature, 1.0), 0.0)
        solution, residual = solution + rate * direction, residual - rate * image
        before, square = square, _square(residual)
        if inspectable(target) and bool((square <= tolerance**2 * start).all()):
            break
        direction = residual + torch.where(before > 0, square / torch.where(before > 0, before, 1.0), 0.0) * direction
    return solution


def _square(vector: Tensor) -> Tensor:
    return vector.square().sum(-1, keepdim=True)


def _reject(vector: Tensor, unit: Tensor) -> Tensor:
    return vector - (vector * unit).sum(-1, keepdim=True) * unit


class _Calibrate(torch.autograd.Function):
    """(π, k) → θ, whose derivative is the inverse of the covariance."""

    generate_vmap_rule = True

    @staticmethod
    def forward(probs: Tensor, k: Tensor) -> Tensor:
        return _solve_natural(probs, k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probs, k, theta = ctx.saved_tensors
        free = free_units(probs)
        solved: Tensor = _Solve.apply(torch.where(free, theta, -torch.inf), k, _centre(grad, free))
        return solved, None


class _Solve(torch.autograd.Function):
    """(θ, k, v) → H(θ)⁻¹ v, for double backward: ∂⟨y, H⁻¹ v⟩ = -⟨H⁻¹ y, ∂H H⁻¹ v⟩."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, k: Tensor, vector: Tensor) -> Tensor:
        return solve_covariance(law_at(logits, k), vector, _GRADIENT_TOLERANCE)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        logits, k, _ = inputs
        ctx.save_for_backward(logits, k, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        logits, k, solved = ctx.saved_tensors
        adjoint: Tensor = _Solve.apply(logits, k, grad)
        pull = torch.func.vjp(lambda x: covariance_product(x, k, solved), logits)[1]
        return -pull(adjoint)[0], None, adjoint
