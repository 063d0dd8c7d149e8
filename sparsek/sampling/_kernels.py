"""What the kernels of a design need: rows that are not looked at, so that nothing waits for the device."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k
from sparsek.kernels._backend import triton_takes

from ._rows import tolerance


class Arguments(NamedTuple):
    """Arguments of a kernel that draws, in its order."""

    probs: Tensor
    """(rows, n)."""
    k: Tensor | None
    """(rows,) in float64."""
    seed: Tensor
    """(1,) int64 on the device of `probs`."""
    draws: int
    phantom: bool
    near: float
    allowed: float


def kernels_take(probs: Tensor, longest: int = sys.maxsize) -> bool:
    """Whether kernels draw from or score these rows, of at most `longest` units."""
    check_floating("probs", probs)
    check_dim("probs", probs, -1)
    return probs.shape[-1] <= longest and triton_takes(probs) and not _transformed()


def _transformed() -> bool:
    """Whether a transform of `torch.func` is active, which sees no rule for the kernels."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def arguments(probs: Tensor, k: float | Tensor | None, draws: int, generator: torch.Generator | None) -> Arguments:
    """Check what is known without looking at values, flatten the rows and draw a seed."""
    batch, n = probs.shape[:-1], probs.shape[-1]
    if k is not None:
        check_k(k, batch, None if isinstance(k, Tensor) else n)
    return Arguments(
        probs=probs.reshape(batch.numel(), n),
        k=None if k is None else _one_per_row(k, batch, probs.device),
        seed=torch.randint(2**63 - 1, (1,), device=probs.device, generator=generator),
        draws=draws,
        phantom=isinstance(k, Tensor) or k is None or k != int(k),
        near=tolerance(probs.dtype, given=False),
        allowed=tolerance(probs.dtype, given=True),
    )


def _one_per_row(k: float | Tensor, batch: torch.Size, device: torch.device) -> Tensor:
    wanted = k.detach().to(device) if isinstance(k, Tensor) else torch.full((), k, dtype=torch.float64, device=device)
    return wanted.double().expand(batch).reshape(batch.numel())
