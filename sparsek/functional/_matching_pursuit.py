"""Sparse codes over a given dictionary: orthogonal matching pursuit of many rows at once."""

from __future__ import annotations

from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_floating, check_k, values_visible
from sparsek.kernels import native

from ._precision import precision
from ._sparse_products import as_rows
from ._sparse_topk import SparseCode

_CHUNK = 2**19
"""Numbers of working memory of one chunk of rows, so that it stays in the processor's cache."""


class _Atoms(NamedTuple):
    """The dictionary with directions of norm 1, in float32 or float64."""

    directions: Tensor  # (n, d); 0 where the atom is 0
    norms: Tensor  # (n,)
    gram: Tensor  # (n, n)


def orthogonal_matching_pursuit(
    input: Tensor, dictionary: Tensor, k: int, *, tolerance: float | None = None
) -> SparseCode:
    r"""Code each row by at most k atoms: $x ≈ \sum_j v_j d_{i_j}$, one atom after the other.

    Each step takes the atom with the largest $|⟨r, d_i⟩| / ‖d_i‖$ with the residual r, ties to the lowest index, and fits all
    values anew by least squares. A row ends early when its residual is 0 to rounding, or of a squared norm of at most
    `tolerance`; its other entries have value 0 and index 0.

    No product of size d is made after the first: step t makes the correlations of the t-th orthonormal direction with all atoms
    (a row of the Cholesky factor of the Gram matrix) and subtracts them, n·t operations. On the CPU by C++, row by row;
    otherwise all rows take their steps together. The supports are nested in k, the values are not.

    The gradient, in `input` and `dictionary`, is that of least squares on the atoms that were taken.

    Shape:
        - input: (..., d).
        - dictionary: (n, d), of any norms.
        - output: values and indices, (..., k), in the order in which atoms were taken.

    Args:
        input: Signals; a NaN or infinite entry makes the values of its own row NaN.
        dictionary: One atom per row, finite. An atom of 0 is never taken.
        k: Largest number of atoms, in [0, n].
        tolerance: Squared norm of the residual at which a row has enough, ≥ 0. Default: only k counts.

    Returns:
        Values and indices.

    Raises:
        ValueError: If shapes do not fit, `dictionary` is not finite, k is not a whole number in [0, n], or `tolerance` is
            negative.

    Example:
        >>> import torch
        >>> from sparsek.functional import orthogonal_matching_pursuit, sparse_decode
        >>> dictionary = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
        >>> code = orthogonal_matching_pursuit(torch.tensor([[3.0, 2.0]]), dictionary, k=2)
        >>> code.indices
        tensor([[2, 0]])
        >>> sparse_decode(*code, dictionary).allclose(torch.tensor([[3.0, 2.0]]))
        True

    References:
        Pati, Rezaiifar, Krishnaprasad (1993), "Orthogonal matching pursuit", https://doi.org/10.1109/ACSSC.1993.342465.
        Rubinstein, Zibulevsky, Elad (2008), "Efficient implementation of the K-SVD algorithm using batch orthogonal matching
        pursuit", https://www.cs.technion.ac.il/users/wwwb/cgi-bin/tr-get.cgi/2008/CS/CS-2008-08.pdf.
    """
    _check(input, dictionary, k, tolerance)
    dtype, exact = precision(input, dictionary)
    batch, k = input.shape[:-1], int(k)
    rows, dictionary = as_rows(input.to(exact)), dictionary.to(exact)
    broken = ~rows.detach().isfinite().all(-1, keepdim=True)
    rows = rows.masked_fill(broken, 0)
    code, taken = _pursue(rows.detach(), _normalised(dictionary.detach()), k, 0.0 if tolerance is None else tolerance)
    values = code.values
    if torch.is_grad_enabled() and (rows.requires_grad or dictionary.requires_grad):
        values = _least_squares(rows, dictionary, code.indices, taken)
    values = values.masked_fill(broken, torch.nan)
    return SparseCode(values.to(dtype).view(*batch, k), code.indices.view(*batch, k))


def _check(input: Tensor, dictionary: Tensor, k: int, tolerance: float | None) -> None:
    check_floating("input", input)
    check_floating("dictionary", dictionary)
    if dictionary.dim() != 2 or dictionary.numel() == 0:
        raise ValueError(f"dictionary must have shape (n >= 1, d >= 1), got {tuple(dictionary.shape)}")
    if input.dim() == 0 or input.shape[-1] != dictionary.shape[1]:
        raise ValueError(f"input must have shape (..., {dictionary.shape[1]}), got {tuple(input.shape)}")
    if values_visible(dictionary) and not bool(dictionary.isfinite().all()):
        raise ValueError("dictionary must be finite, got infinite or NaN entries")
    check_k(k, torch.Size(), dictionary.shape[0], integer=True)
    if tolerance is not None and not (isinstance(tolerance, Real) and tolerance >= 0):
        raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")


def _normalised(dictionary: Tensor) -> _Atoms:
    norms = dictionary.norm(dim=-1)
    directions = dictionary / norms.clamp_min(torch.finfo(norms.dtype).tiny).unsqueeze(-1)
    return _Atoms(directions, norms, directions @ directions.mT)


def _pursue(rows: Tensor, atoms: _Atoms, k: int, tolerance: float) -> tuple[SparseCode, Tensor]:
    """The code of (rows, d), and which of its entries (rows, k) were taken."""
    smallest = 8 * torch.finfo(rows.dtype).eps
    correlation = rows @ atoms.directions.mT
    energy = rows.double().square().sum(-1)
    if k and rows.numel() and native.takes(correlation, "matching_pursuit"):
        indices, values, count = native.matching_pursuit(correlation, atoms.gram, energy, k, smallest, tolerance)
        taken = torch.arange(k) < count.unsqueeze(-1)
        return SparseCode(values / torch.where(taken, atoms.norms[indices], 1.0), indices), taken
    length = max(1, _CHUNK // max(1, (k + 2) * len(atoms.gram)))
    parts = [
        _pursue_together(*part, atoms.gram, k, smallest, tolerance)
        for part in zip(correlation.split(length), energy.split(length), strict=True)
    ]
    indices, taken = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    values = _least_squares(rows, atoms.directions, indices, taken)
    return SparseCode(values / torch.where(taken, atoms.norms[indices], 1.0), indices), taken


def _pursue_together(
    correlation: Tensor, energy: Tensor, gram: Tensor, k: int, smallest: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Indices (rows, k) and which of them were taken, all rows one step at a time."""
    rounding = energy * smallest**2
    least = rounding.clamp_min(tolerance)
    factor = correlation.new_zeros(
        len(correlation), k, len(gram)
    )  # correlations of orthonormal directions with all atoms
    indices = torch.zeros(len(correlation), k, dtype=torch.int64, device=correlation.device)
    taken = torch.zeros_like(indices, dtype=torch.bool)
    going = torch.ones_like(energy, dtype=torch.bool)
    for step in range(k):
        score = correlation.abs().scatter_(1, indices[:, :step], 0)
        best, index = score.max(-1)
        before = factor[:, :step]
        weights = before.gather(2, index.view(-1, 1, 1).expand(-1, step, 1))
        pivot = gram.diagonal()[index] - weights.square().sum((1, 2))
        going = going & (energy > least) & (pivot > smallest) & (best.double().square() > rounding)
        if not bool(going.any()):
            break
        row = torch.baddbmm(gram[index].unsqueeze(1), weights.mT, before, alpha=-1).squeeze(1)
        scale = torch.where(going, pivot, torch.inf).rsqrt().unsqueeze(-1)
        factor[:, step] = row.mul_(scale)
        length = correlation.gather(1, index.unsqueeze(-1)) * scale
        correlation = correlation.addcmul(row, length, value=-1)
        energy = energy - length.squeeze(-1).double().square()
        indices[:, step] = index.masked_fill(~going, 0)
        taken[:, step] = going
    return indices, taken


def _least_squares(rows: Tensor, dictionary: Tensor, indices: Tensor, taken: Tensor) -> Tensor:
    """Values (rows, k) on the support, 0 where nothing was taken; one step of refinement in the same precision."""
    chosen = dictionary[indices] * taken.unsqueeze(-1)
    norms = chosen.norm(dim=-1).detach()
    chosen = chosen / torch.where(taken, norms, 1.0).unsqueeze(-1)
    gram = chosen @ chosen.mT + torch.diag_embed((~taken).to(rows.dtype))
    factor = torch.linalg.cholesky_ex(gram).L
    values = rows.new_zeros(*indices.shape, 1)
    for _ in range(2):
        residual = rows.unsqueeze(-1) - chosen.mT @ values
        values = values + torch.cholesky_solve(chosen @ residual, factor)
    return values.squeeze(-1) / torch.where(taken, norms, 1.0)
