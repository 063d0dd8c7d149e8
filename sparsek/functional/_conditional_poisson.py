r"""The conditional Poisson law on k-subsets, $P(s) ∝ e^{⟨θ, s⟩}$: log-normaliser, marginals and covariance in O(n).

The log-normaliser is $\log e_k(e^θ)$, its gradient the marginals π, its Hessian the covariance of the sample. All are
means over the at most 28 frequencies of :mod:`sparsek.functional._poisson_binomial`, computed in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, inspectable, values_visible

from ._count_tree import count, countable, counted_picks
from ._poisson_binomial import Frequencies, Tilted, blocks, frequencies, tilt, tilted_picks

REACH = 1e5
"""Distance of logits beyond which a unit is certainly in or out."""


def conditional_poisson_marginals(logits: Tensor, k: int | Tensor, dim: int = -1) -> Tensor:
    r"""Inclusion probabilities of the conditional Poisson law, which picks k units with $P(s) ∝ \exp ⟨θ, s⟩$.

    $$π_i = \frac{\sum_{|s| = k,\, s_i = 1} e^{⟨θ, s⟩}}{e_k(e^θ)} = \frac{∂ \log e_k(e^θ)}{∂ θ_i}.$$

    Computed in O(n) by the contour integral of :func:`log_esp`; its gradient is the covariance of the law (no n × n
    matrix is formed), itself differentiable. Sums to k. At k = 0 all are 0, at k = n all are 1. −inf gets exactly 0
    and +inf exactly 1; where more than k entries of a row are +inf they share k equally.

    Shape:
        - logits: any shape with n units along `dim`.
        - output: the shape and dtype of `logits`.

    Args:
        logits: Natural parameters θ. A constant added to a row changes nothing.
        k: Whole number of picks in [0, number of units above −inf], or a tensor of them that broadcasts over the batch.
        dim: Dimension of the units.

    Raises:
        ValueError: If `logits` is not floating-point, `dim` is out of range, or `k` is not such a number. Values of
            tensors are checked where they are visible; otherwise such a row is NaN.

    Example:
        >>> import torch
        >>> from sparsek.functional import conditional_poisson_marginals
        >>> conditional_poisson_marginals(torch.tensor([2.0, 1.0, 0.0, -1.0]), k=2)
        tensor([0.8808, 0.6944, 0.3056, 0.1192])

    References:
        Chen, Dempster, Liu (1994). Weighted finite population sampling to maximize entropy.
        https://doi.org/10.1093/biomet/81.3.457
    """
    rows, size = natural_rows(logits, k, dim)
    return marginals(within_reach(rows, size)[0], size).to(logits.dtype).movedim(-1, dim)


def conditional_poisson_covariance(logits: Tensor, k: int | Tensor) -> Tensor:
    r"""Covariance of the conditional Poisson law: the Hessian of $\log e_k(e^θ)$. Units along the last dimension.

    Row sums are 0 and the diagonal is π(1 − π); joint inclusion probabilities are $π_{ij} = H_{ij} + π_i π_j$ off the
    diagonal. Computed in O(n²) and differentiable.

    Shape:
        - logits: (..., n).
        - output: (..., n, n).

    Args:
        logits: Natural parameters θ; rows and columns of infinite entries are 0.
        k: As in :func:`conditional_poisson_marginals`.

    Raises:
        ValueError: As in :func:`conditional_poisson_marginals`.

    Example:
        >>> import torch
        >>> from sparsek.functional import conditional_poisson_covariance
        >>> conditional_poisson_covariance(torch.zeros(3), k=1)
        tensor([[ 0.2222, -0.1111, -0.1111],
                [-0.1111,  0.2222, -0.1111],
                [-0.1111, -0.1111,  0.2222]])
    """
    rows, size = natural_rows(logits, k, -1)
    return covariance(within_reach(rows, size)[0], size).to(logits.dtype)


def natural_rows(logits: Tensor, k: int | Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Check natural parameters and k; return them as float64 with units last and k as a column (..., 1)."""
    check_floating("logits", logits)
    dim = check_dim("logits", logits, dim)
    rows = logits.movedim(dim, -1)
    check_k(k, rows.shape[:-1], rows.shape[-1], integer=True)
    if values_visible(rows):
        check_k(k, rows.shape[:-1], (rows != -torch.inf).sum(-1), integer=True)
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    if logits.dtype == torch.float64:  # sums of a row must not overflow
        most = torch.finfo(rows.dtype).max / (4 * max(rows.shape[-1], 1))
        rows = torch.where(rows.isinf(), rows, rows.clamp(-most, most))
    size = k.to(rows) if isinstance(k, Tensor) else torch.full((), k, dtype=rows.dtype, device=rows.device)
    return rows, size.detach().unsqueeze(-1).expand(*rows.shape[:-1], 1)


def within_reach(rows: Tensor, size: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits as distances from the k-th largest of their row, cut where nothing changes any more, if some are that far apart.

    The law depends on differences alone, and a unit that lies 1e5 below the k-th largest is never picked. Of logits of 1e38 no
    sum would resolve the difference.

    Returns:
        The logits, and what was subtracted, (..., 1); None where they are as they were.
    """
    if not inspectable(rows) or rows.numel() == 0:
        return rows, None
    finite = rows.detach().masked_fill(~rows.isfinite(), 0.0)
    if not bool(finite.abs().max() > REACH):
        return rows, None
    place = size.detach().nan_to_num().ceil().long().clamp(1, rows.shape[-1]) - 1
    pivot = rows.detach().sort(-1, descending=True).values.gather(-1, place)
    pivot = pivot.masked_fill(~pivot.isfinite(), 0.0)
    return torch.where(rows.isinf(), rows, (rows - pivot).clamp(-REACH, REACH)), pivot


def log_normaliser(logits: Tensor, k: Tensor) -> Tensor:
    """Return log e_k(exp logits), twice differentiable: (..., n) and (..., 1) in float64 to (...,)."""
    if logits.numel() == 0:
        return logits.sum(-1)
    function = _LogNormaliser if torch.compiler.is_compiling() else _LogNormaliserForward
    value: Tensor = function.apply(logits, k)
    return value


def marginals(logits: Tensor, k: Tensor) -> Tensor:
    """Return π, twice differentiable: (..., n) and (..., 1) in float64 to (..., n)."""
    if logits.numel() == 0:
        return logits
    function = _Marginals if torch.compiler.is_compiling() else _MarginalsForward
    value: Tensor = function.apply(logits, k)
    return value


def covariance(logits: Tensor, k: Tensor) -> Tensor:
    """Return the covariance: (..., n) and (..., 1) in float64 to (..., n, n)."""
    if logits.numel() == 0:
        return logits.unsqueeze(-1) * logits.unsqueeze(-2)
    rows = tilt(logits, k)
    return tilted_covariance(rows, frequencies(rows))


def tilted_covariance(rows: Tilted, rule: Frequencies) -> Tensor:
    """Return the covariance from a row's frequencies: the mean of (r − π)(r − π)ᵀ off the diagonal."""
    probs, complement = mean_picks(rows, rule)
    real, imag, _ = tilted_picks(rows, rule.t)
    real = real - probs.unsqueeze(-2)
    left = torch.cat((real, imag), -2)
    right = torch.cat((rule.real * real - rule.imag * imag, -rule.real * imag - rule.imag * real), -2)
    outer = left.mT @ right
    outer = (outer + outer.mT) / 2
    return outer.diagonal_scatter(probs * complement, dim1=-2, dim2=-1)


def covariance_product(logits: Tensor, k: Tensor, vector: Tensor) -> Tensor:
    """Return the covariance times `vector` in O(n), by plain differentiable operations."""
    rows = tilt(logits, k)
    return tilted_product(rows, frequencies(rows), vector)


def tilted_product(rows: Tilted, rule: Frequencies, vector: Tensor) -> Tensor:
    r"""Return the covariance times `vector` from a row's frequencies.

    $H v = \sum_j a_j r_j ⟨r_j - p, v⟩ - π ⟨π - p, v⟩ + v ∘ \sum_j a_j r_j (1 - r_j)$; v is centred first: H 1 = 0.
    """
    spread = (rows.probs * rows.complement).detach()
    total = spread.sum(-1, keepdim=True)
    vector = vector - (spread * vector).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
    product, diagonal, probs = torch.zeros_like(vector), torch.zeros_like(vector), torch.zeros_like(vector)
    for part in _parts(rows, rule):
        real, imag, rest = tilted_picks(rows, part.t)
        along = ((real - rows.probs.unsqueeze(-2)) * vector.unsqueeze(-2)).sum(-1, keepdim=True)
        across = (imag * vector.unsqueeze(-2)).sum(-1, keepdim=True)
        weights = part.real * along - part.imag * across, part.real * across + part.imag * along
        product = product + _mean(*weights, real, imag)
        diagonal = diagonal + _mean(part.real, part.imag, real * rest + imag * imag, imag * (rest - real))
        probs = probs + _mean(part.real, part.imag, real, imag)
    shift = ((probs - rows.probs) * vector).sum(-1, keepdim=True)
    return product - probs * shift + vector * diagonal


def mean_picks(rows: Tilted, rule: Frequencies) -> tuple[Tensor, Tensor]:
    """Return π and 1 − π, each with the relative accuracy of the tilted probabilities: means over the frequencies."""
    probs, complement = torch.zeros_like(rows.probs), torch.zeros_like(rows.probs)
    for part in _parts(rows, rule):
        real, imag, rest = tilted_picks(rows, part.t)
        probs = probs + _mean(part.real, part.imag, real, imag)
        complement = complement + _mean(part.real, part.imag, rest, -imag)
    return probs, complement


def _mean(weight_real: Tensor, weight_imag: Tensor, real: Tensor, imag: Tensor) -> Tensor:
    """Real part of the weighted sum over frequencies: (..., J, 1) and (..., J, n) to (..., n)."""
    return (weight_real.mT @ real - weight_imag.mT @ imag).squeeze(-2)


def _parts(rows: Tilted, rule: Frequencies) -> list[Frequencies]:
    sizes = [t.shape[-2] for t in blocks(rule.t, rows)]
    columns = (x.split(sizes, dim=-2) for x in (rule.t, rule.real, rule.imag))
    return [Frequencies(t, real, imag, rule.log_mass) for t, real, imag in zip(*columns, strict=True)]


class _LogNormaliser(torch.autograd.Function):
    """log e_k, whose gradient is the marginals."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, k: Tensor) -> Tensor:
        rows = tilt(logits, k)
        return rows.log_scale + frequencies(rows).log_mass

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.unsqueeze(-1) * marginals(*ctx.saved_tensors), None


class _LogNormaliserForward(_LogNormaliser):
    """With forward mode, which `torch.compile` does not take in a custom function."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return (marginals(*ctx.saved_tensors) * tangent).sum(-1)


class _Marginals(torch.autograd.Function):
    """Marginals, whose gradient is the covariance."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, k: Tensor) -> Tensor:
        rows = tilt(logits, k)
        counted = countable(logits, k)
        probs = counted_picks(count(rows), logits.shape)[0] if counted else mean_picks(rows, frequencies(rows))[0]
        probs = probs.clamp(0, 1).masked_fill(rows.complement == 0, 1.0)
        return probs.masked_fill((rows.log_scale == -torch.inf).unsqueeze(-1), torch.nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, k = ctx.saved_tensors
        return covariance_product(logits, k, grad), None


class _MarginalsForward(_Marginals):
    """With forward mode, as :class:`_LogNormaliserForward`."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        logits, k = ctx.saved_tensors
        return covariance_product(logits, k, tangent)
