r"""Draws of k-subsets one unit of which is marked, for Sampford sampling.

$$P(s, l) ∝ u_l \prod_{i ∈ s} p_i \prod_{i ∉ s} (1 - p_i), \quad l ∈ s, |s| = k.$$

The tree of :mod:`sparsek.functional._conditional_poisson_sample`, with for every block also the mass of "t picks, one
of them the marked unit". On the way down one block of each level holds the mark and says to which half it passes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ._conditional_poisson_sample import Level, convolve, partner_mass, pick, possible, split

_CHUNK = 1 << 22  # draws × units held at once


def mark_levels(levels: list[Level], mark: Tensor) -> list[Tensor]:
    """Mass of t picks with the marked unit among them, for every block of every level.

    Args:
        levels: Laws of the number of picks.
        mark: (rows, n), $u_l p_l$: the mass of "l is picked and marked".
    """
    mark = torch.nn.functional.pad(mark, (0, levels[0].low.shape[-1] - mark.shape[-1]))
    mass = torch.stack((torch.zeros_like(mark), mark), -1)
    masses = [mass]
    for below, level in pairwise(levels):
        mass = convolve(mass[:, ::2], below.mass[:, 1::2]) + convolve(below.mass[:, ::2], mass[:, 1::2])
        mass = possible(mass, level.low + 1, level.high)
        masses.append(mass)
    return masses


def draw_marked(
    levels: list[Level], masses: list[Tensor], size: Tensor, draws: int, n: int, generator: torch.Generator | None
) -> Tensor:
    """Draw the picks given their number: sizes (rows,) to (draws, rows, n) of 0 and 1.

    A row that leaves no choice has no mark.
    """
    rows = size.shape[0]
    step = max(1, _CHUNK // max(1, rows * n))
    parts = [_descend(levels, masses, size, min(step, draws - i), generator) for i in range(0, draws, step)]
    if not parts or n == 0:
        return torch.zeros((draws, rows, n), dtype=torch.long, device=size.device)
    return torch.cat(parts)[..., :n]


def _descend(
    levels: list[Level], masses: list[Tensor], size: Tensor, draws: int, generator: torch.Generator | None
) -> Tensor:
    counts = size.long().expand(draws, -1).unsqueeze(-1)
    low, high = levels[-1].low, levels[-1].high
    choice = ((high > low) & (size.unsqueeze(-1) > low)).expand(draws, -1, -1)
    place = torch.zeros_like(counts)
    for level, mass in zip(reversed(levels[:-1]), reversed(masses[:-1]), strict=True):
        halves = split(counts, level, generator)
        left, to_right = _split_marked(counts.gather(-1, place), place, level, mass, generator)
        place, parent = 2 * place, place
        marked = torch.cat((left, counts.gather(-1, parent) - left), -1)
        sides = torch.cat((place, place + 1), -1)
        counts = halves.scatter(-1, sides, torch.where(choice, marked, halves.gather(-1, sides)))
        place = place + to_right
    return counts


def _split_marked(
    count: Tensor, place: Tensor, level: Level, mass: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Split the block that holds the mark: (draws, rows, 1) count and place to the left count and the side of the mark."""
    plain_left, plain_right = _blocks(level.mass[:, ::2], place), _blocks(level.mass[:, 1::2], place)
    marked_left, marked_right = _blocks(mass[:, ::2], place), _blocks(mass[:, 1::2], place)
    weight = torch.cat(
        (marked_left * partner_mass(plain_right, count), plain_left * partner_mass(marked_right, count)), -1
    )
    index = pick(weight, generator)
    m = plain_left.shape[-1]
    return index % m, torch.div(index, m, rounding_mode="floor")


def _blocks(mass: Tensor, place: Tensor) -> Tensor:
    """The block of each draw: (rows, blocks, m) at (draws, rows, 1), (draws, rows, 1, m)."""
    rows = torch.arange(mass.shape[0], device=mass.device)
    return mass[rows, place.squeeze(-1)].unsqueeze(-2)
