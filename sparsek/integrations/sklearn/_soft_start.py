"""A dictionary to begin with, learned by soft codes: an l1 penalty in place of a number of atoms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn.functional import softshrink

from sparsek.functional import orthogonal_matching_pursuit
from sparsek.functional._sparse_decode import decode_rows

from ._atoms import first_atoms

_BATCH = 256
_STEPS = 30
"""Steps of the accelerated proximal gradient for the code of a batch."""

_MEMORY = 40
"""Batches over which correlations are averaged."""

_PENALTY = 1.5
"""Penalty, as a multiple of what the k-th atom of a matching pursuit leaves: the largest correlation of an atom with the residual."""

_UNUSED = 1e-4
"""Mean squared value, as a share of the mean over all atoms, below which an atom begins anew."""


def soft_start(rows: Tensor, n_atoms: int, k: int, batches: int, generator: Generator) -> Tensor:
    """(n_atoms, columns), norm 1: atoms that code rows well under the l1 penalty that leaves about k of them in use.

    Hard codes settle in the first dictionary whose atoms suffice one another; soft ones, of which a row may use a little of many atoms,
    move on. Online dictionary learning of `batches` batches: codes by FISTA, atoms by one sweep of coordinate descent. It begins with
    the principal directions of the rows, and rows at random where there are more atoms. In float32, so
    rows are near 1.

    References:
        Mairal, Bach, Ponce, Sapiro (2010), "Online learning for matrix factorization and sparse coding",
        https://www.jmlr.org/papers/v11/mairal10a.html.
        Beck, Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
        https://doi.org/10.1137/080716542.
    """
    small = rows.float()
    atoms = _directions(small, n_atoms, generator)
    codes = small.new_zeros(len(small), n_atoms)
    uses, sums, penalty = small.new_zeros(n_atoms, n_atoms), torch.zeros_like(atoms), 0.0
    for step, batch in enumerate(_batches(len(small), batches, generator)):
        if step % 10 == 0:
            penalty = _penalty(small[batch], atoms, k)
        code = _shrunk_code(small[batch], atoms, penalty, codes[batch])
        codes[batch] = code
        new = 1 / min(step + 1, _MEMORY)
        uses.lerp_(code.mT @ code / len(batch), new)
        sums.lerp_(code.mT @ small[batch] / len(batch), new)
        atoms = _swept(atoms, uses, sums, small, generator)
    atoms = atoms.to(rows.dtype)
    return atoms.div_(atoms.norm(dim=-1, keepdim=True))


def _directions(rows: Tensor, n_atoms: int, generator: Generator) -> Tensor:
    atoms = first_atoms(rows, n_atoms, generator)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    kept = directions[values > values.amax() * 1e-5][: len(atoms)]
    atoms[: len(kept)] = kept
    return atoms


def _batches(rows: int, batches: int, generator: Generator) -> Iterator[Tensor]:
    """Indices of `batches` batches, of one shuffled pass after the other."""
    left = batches
    while left > 0:
        for batch in torch.randperm(rows, generator=generator).split(_BATCH)[:left]:
            yield batch
            left -= 1


def _penalty(rows: Tensor, atoms: Tensor, k: int) -> float:
    values, indices = orthogonal_matching_pursuit(rows, atoms, k)
    residual = rows - decode_rows(values, indices, atoms)
    return _PENALTY * float((residual @ atoms.mT).abs().amax(-1).mean())


def _shrunk_code(rows: Tensor, atoms: Tensor, penalty: float, code: Tensor) -> Tensor:
    """(rows, n_atoms): the minimum of ½‖x − cD‖² + penalty ‖c‖₁, from a code nearby."""
    gram = atoms @ atoms.mT
    curvature = float(torch.linalg.matrix_norm(gram, 2))
    turn = torch.eye(len(atoms)) - gram / curvature
    shift = rows @ atoms.mT / curvature
    ahead, momentum = code, 1.0
    for _ in range(_STEPS):
        step = softshrink(torch.addmm(shift, ahead, turn), penalty / curvature)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = torch.lerp(code, step, 1 + (momentum - 1) / following)
        code, momentum = step, following
    return code


def _swept(atoms: Tensor, uses: Tensor, sums: Tensor, rows: Tensor, generator: Generator) -> Tensor:
    """Every atom at its minimum with the others as they are, norm at most 1 until all are done."""
    own = uses.diagonal().tolist()
    least = _UNUSED * sum(own) / len(own)
    for index, use in enumerate(own):
        if use > least:
            atom = atoms[index] + (sums[index] - uses[index] @ atoms).div_(use)
            atoms[index] = atom / atom.norm().clamp_min(1)
    unused = [index for index, use in enumerate(own) if use <= least]
    atoms[unused] = first_atoms(rows, len(unused), generator)
    return atoms.div_(atoms.norm(dim=-1, keepdim=True))
