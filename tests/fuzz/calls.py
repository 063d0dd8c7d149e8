"""A case out of its arguments: one of them may be replaced by something illegal, which a refusal must then name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.harness import Case
from tests.fuzz.tensors import Draw, chance, one_of

Bad = dict[str, Callable[[], Any]]
"""For each argument that may be broken, what makes it so."""


def made(
    draw: Draw,
    call: Callable[..., Any],
    given: dict[str, Any],
    law: Callable[[Any], None],
    bad: Bad | None = None,
    *,
    words: dict[str, tuple[str, ...]] | None = None,
    may_refuse: tuple[str, ...] = (),
    trusted: tuple[str, ...] = (),
    percent: int = 30,
) -> Case:
    """A case that calls `call(**given)`; in `percent` of 100 cases with one argument of `bad` in place of the good one."""
    wrong = one_of(draw, sorted(bad)) if bad and chance(draw, percent) else None
    if wrong is not None and bad is not None:
        given = given | {wrong: bad[wrong]()}
    return Case(
        call=lambda: call(**given),
        law=law,
        broken=None if wrong is None else (words or {}).get(wrong, (wrong,)),
        may_refuse=may_refuse,
        trusted=trusted,
        note=f"{getattr(call, '__qualname__', call)} { {name: described(value) for name, value in given.items()} }",
    )


def described(value: Any) -> str:
    """Enough of an argument to build it again by hand."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return f"meta{tuple(value.shape)}"
        numbers = value.detach().flatten()[:12].tolist()
        return f"tensor({numbers}, shape={tuple(value.shape)}, stride={value.stride()}, {value.dtype})"
    return repr(value)


def grain(dtype: torch.dtype) -> float:
    """Relative error of a result that is computed in float32 or better and returned in `dtype`."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 4 * torch.finfo(dtype).eps)
