"""What a batch of latents reconstructs: every level, refined too where that is asked for, and every prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek.functional import SparseCode
from sparsek.functional._sparse_decode import decode_levels, decode_rows
from sparsek.functional._sparse_products import sparse_bags

from ._latents import Latents
from ._prefixes import decode_prefixes, decode_ragged
from ._refinement import Refinement, leading, level_offsets, refined, refined_levels


class Parts(NamedTuple):
    """Reconstructions of a batch of rows."""

    reconstructions: Tensor
    """(rows, parts, d_out): levels, refined levels, prefixes."""
    main: int
    """Which of them is the reconstruction that counts."""
    active: SparseCode | Tensor
    """What that is made of."""
    weights: Tensor
    """(parts,): what each counts in the loss."""


def parts_of(
    latents: Latents,
    weight: Tensor,
    constant: Tensor,
    prefixes: Tensor | None = None,
    refinement: Refinement | None = None,
    target: Tensor | None = None,
) -> Parts:
    """Decode.

    Args:
        latents: Of (rows, ...) tokens.
        weight: Decoder, (d_sae, d_out).
        constant: (1 or rows, d_out): added to every reconstruction.
        prefixes: Rising widths from which each token is reconstructed too, the last d_sae.
        refinement: Of the values; it needs the target.
        target: (rows, d_out).
    """
    plain = _decoded(latents, weight, constant)
    parts, main, active = [plain], latents.main, main_code(latents)
    if refinement is not None and target is not None:
        better, active = _refined(latents, plain, weight, constant, refinement.steps, target)
        parts, main = [plain, better], main + plain.shape[1]
    if prefixes is not None:
        parts.append(decode_prefixes(active, weight, prefixes)[:, :-1] + constant.unsqueeze(1))
    return Parts(torch.cat(parts, 1), main, active, _weights(latents, parts, refinement))


def main_code(latents: Latents) -> SparseCode | Tensor:
    """The latents of the reconstruction that counts, as they are."""
    if isinstance(latents.active, Tensor) or not latents.levels:
        return latents.active
    k = latents.levels[latents.main]
    return SparseCode(latents.active.values[:, :k], latents.active.indices[:, :k])


def _decoded(latents: Latents, weight: Tensor, constant: Tensor) -> Tensor:
    active = latents.active
    if isinstance(active, Tensor):
        return (active @ weight + constant).unsqueeze(1)
    if latents.levels:
        return decode_levels(*active, weight, latents.levels, constant)
    decoded = decode_ragged(active, weight) if latents.ragged else decode_rows(*active, weight)
    return (decoded + constant).unsqueeze(1)


def refined_parts(
    code: SparseCode,
    levels: Sequence[int],
    plain: Tensor,
    weight: Tensor,
    constant: Tensor,
    steps: int,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    """The levels again from refined values, (rows, levels, d_out), and those values, (rows, sum of levels)."""
    residuals = (target.unsqueeze(1) - plain).detach().flatten(0, 1)
    values, indices = refined_levels(code, levels, residuals, weight, steps), leading(code.indices, levels)
    bags = sparse_bags(values.reshape(-1), indices.reshape(-1), level_offsets(code.indices, levels), weight)
    return bags.view_as(plain) + constant.unsqueeze(1), values


def _refined(
    latents: Latents, plain: Tensor, weight: Tensor, constant: Tensor, steps: int, target: Tensor
) -> tuple[Tensor, SparseCode | Tensor]:
    active = latents.active
    if isinstance(active, Tensor):
        better = refined(active, (target - constant).detach(), weight, steps)
        assert isinstance(better, Tensor)
        return (better @ weight + constant).unsqueeze(1), better
    levels = latents.levels or (active.values.shape[1],)
    parts, values = refined_parts(active, levels, plain, weight, constant, steps, target)
    begin, k = sum(levels[: latents.main]), levels[latents.main]
    return parts, SparseCode(values[:, begin : begin + k], active.indices[:, :k])


def _weights(latents: Latents, parts: list[Tensor], refinement: Refinement | None) -> Tensor:
    """Of levels as the selection says, by default 1 in all, shared with the refined; a prefix counts as the main part does."""
    count = parts[0].shape[1]
    levels = list(latents.weights) or [1 / count] * count
    shares = [1.0] if refinement is None else [1 - refinement.share, refinement.share]
    prefixes = sum(part.shape[1] for part in parts[len(shares) :])
    weights = [share * level for share in shares for level in levels] + [levels[latents.main]] * prefixes
    scale = sum(levels) / sum(weights)
    return torch.tensor(weights, dtype=parts[0].dtype, device=parts[0].device) * scale
