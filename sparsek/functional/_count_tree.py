r"""The number of independent picks along a binary tree of the units: marginals of conditional Poisson for small k.

With picks of the probabilities p, tilted to have mean k, the mass of the number of picks in a block is the convolution
of those of its halves; the mass of the number *outside* of a block is that of its parent's outside, convolved with its
sibling. At unit i, with $O_i$ the number of picks among all others,

$$π_i = \frac{p_i\,P(O_i = k - 1)}{p_i\,P(O_i = k - 1) + (1 - p_i)\,P(O_i = k)}.$$

No term is negative, so nothing cancels. A block of b units needs min(b, k) + 1 numbers, so all blocks take O(n k) operations,
few of them for a small k: then this is an order of magnitude faster than the frequencies of
:mod:`sparsek.functional._poisson_binomial`. Where more than half of the units are picked, those left out are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import inspectable

from ._poisson_binomial import Tilted

_MOST_COUNTED = 64  # picks (or units left out) up to which counting is faster than frequencies
_FEWEST_UNITS = 17  # and units of a row, and of all rows, from which it is
_FEWEST_ENTRIES = 1 << 13


class Counted(NamedTuple):
    """Laws of the number of picks in every block, and outside of every unit."""

    probs: Tensor
    """p of what is counted (picks, or units left out), (rows, n padded to a power of 2)."""
    complement: Tensor
    """1 − p."""
    inside: list[Tensor]
    """From single units to halves: (numbers, rows, blocks)."""
    outside: list[Tensor]
    """From the root to single units: at d, the mass of k − d; (numbers, rows, blocks)."""
    swapped: Tensor
    """(rows, 1): whether units left out are counted."""


def countable(logits: Tensor, k: Tensor) -> bool:
    """Whether counting is the faster way: many entries, and few picked or left out of each row. Looks at k."""
    n = logits.shape[-1]
    large = n >= _FEWEST_UNITS and logits.numel() >= _FEWEST_ENTRIES
    return large and inspectable(logits, k) and _cheaper_side(k, n) <= _MOST_COUNTED


def _cheaper_side(k: Tensor, n: int) -> int:
    """The most that a tree would count, picks or units left out."""
    return int(torch.minimum(k, n - k).amax().clamp(min=0))


def count(rows: Tilted) -> Counted:
    """Count the picks of rows of which the cheaper side is small; see :func:`countable`."""
    n = rows.probs.shape[-1]
    p, q, k = (x.reshape(-1, x.shape[-1]) for x in (rows.probs, rows.complement, rows.size))
    swapped = k > n / 2
    p, q, k = torch.where(swapped, q, p), torch.where(swapped, p, q), torch.where(swapped, n - k, k)
    most, pad = _cheaper_side(k, n), (1 << max(1, (n - 1).bit_length())) - n
    p, q = torch.nn.functional.pad(p, (0, pad)), torch.nn.functional.pad(q, (0, pad), value=1.0)
    inside = [torch.stack((q, p))]
    while inside[-1].shape[-1] > 2:
        inside.append(convolved(*halves(inside[-1]), most))
    start = k.clamp(0, most).long().T.unsqueeze(-1)
    outside = [torch.zeros(most + 2, *start.shape[1:], dtype=p.dtype, device=p.device).scatter_(0, start, 1.0)]
    for level in reversed(inside):
        left, right = halves(level)
        size = min(level.shape[0], most + 2)
        outside.append(torch.cat((correlated(right, outside[-1], size), correlated(left, outside[-1], size)), -1))
    return Counted(p, q, inside, outside, swapped)


def counted_picks(tree: Counted, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return π and 1 − π of every unit, each with full relative accuracy."""
    one, zero = tree.probs * tree.outside[-1][1], tree.complement * tree.outside[-1][0]
    total = one + zero
    one, zero = one / total, zero / total
    probs, complement = torch.where(tree.swapped, zero, one), torch.where(tree.swapped, one, zero)
    return probs[:, : shape[-1]].reshape(shape), complement[:, : shape[-1]].reshape(shape)


def counted_product(tree: Counted, vector: Tensor) -> Tensor:
    """Return the covariance of the picks times `vector`: the derivative of π along natural parameters, exactly."""
    flat = torch.nn.functional.pad(vector.reshape(-1, vector.shape[-1]), (0, tree.probs.shape[-1] - vector.shape[-1]))
    along = torch.where(tree.swapped, -flat, flat) * tree.probs * tree.complement
    tangents = [torch.stack((-along, along))]
    for level, above in zip(tree.inside, tree.inside[1:], strict=False):
        (a, b), (da, db), most = halves(level), halves(tangents[-1]), above.shape[0] - 1
        tangents.append(convolved(da, b, most) + convolved(a, db, most))
    change = torch.zeros_like(tree.outside[0])
    for level, tangent, before, after in zip(
        reversed(tree.inside), reversed(tangents), tree.outside, tree.outside[1:], strict=False
    ):
        (a, b), (da, db), size = halves(level), halves(tangent), after.shape[0]
        left = correlated(db, before, size) + correlated(b, change, size)
        right = correlated(da, before, size) + correlated(a, change, size)
        change = torch.cat((left, right), -1)
    one, zero = tree.probs * tree.outside[-1][1], tree.complement * tree.outside[-1][0]
    total = one + zero
    product = ((along * tree.outside[-1][1] + tree.probs * change[1]) * zero) - (
        (-along * tree.outside[-1][0] + tree.complement * change[0]) * one
    )
    product = torch.where(tree.swapped, -product, product) / total.square()
    return product[:, : vector.shape[-1]].reshape(vector.shape)


def halves(level: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of the first and of the second half of the units: siblings at the same place."""
    half = level.shape[-1] // 2
    return level[..., :half], level[..., half:]


def convolved(left: Tensor, right: Tensor, most: int) -> Tensor:
    """Mass of a sum of two numbers, up to `most`: (numbers, rows, blocks)."""
    size = min(left.shape[0] + right.shape[0] - 1, most + 1)
    total = left.new_zeros(size, *left.shape[1:])
    for i in range(min(left.shape[0], size)):
        length = min(right.shape[0], size - i)
        total[i : i + length] += left[i] * right[:length]
    return total


def correlated(sibling: Tensor, outside: Tensor, size: int) -> Tensor:
    """Mass outside of a block from that outside of its parent: over r in its sibling, the parent's at d + r."""
    total = sibling.new_zeros(size, *sibling.shape[1:])
    for r in range(min(sibling.shape[0], outside.shape[0])):
        length = min(size, outside.shape[0] - r)
        total[:length] += sibling[r] * outside[r : r + length]
    return total
