"""Tokens with an entry that is not finite stay apart from the others of their batch."""

from __future__ import annotations

from torch import Tensor

from sparsek._validation import inspectable


def broken_rows(rows: Tensor) -> Tensor | None:
    """(rows, 1): tokens with a NaN or an infinite entry; their latents and reconstructions are NaN. None if a look shows none."""
    broken = (rows.detach() * 0).sum(-1, keepdim=True).isnan()  # 0 · ∞ is NaN; cheaper than isfinite
    return None if broken.is_cpu and inspectable(broken) and not broken.any() else broken


def filled(values: Tensor, broken: Tensor | None, value: float) -> Tensor:
    """Values (rows, …) with a number in the place of broken rows."""
    return values if broken is None else values.masked_fill(broken.view(-1, *[1] * (values.dim() - 1)), value)
