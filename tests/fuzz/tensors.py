"""What a stranger passes: tensors of every shape, dtype, stride and extreme value.

Hypothesis draws a seed for each case, no seed twice; all the rest of a case follows from it by `random.Random`. (Choices drawn
one by one would be mutated by hypothesis, which repeats half of the cases with the same tensors.)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Draw = random.Random

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
UNITS = (8, 5, 3, 2, 1, 17, 0, 64)
LEADING: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (1,), (0,), (2, 0, 2), (1, 1, 2, 1))
FINITE = (
    "normal",
    "wide",
    "constant",
    "ties",
    "zeros",
    "steep",
    "huge",
    "largest",
    "subnormal",
    "powers",
    "outlier",
    "shifted",
)
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "offset")
WRONG_FLOATS: tuple[object, ...] = (torch.int64, torch.bool, torch.complex64, "list", "none")


def one_of(draw: Draw, options: Sequence[T]) -> T:
    return draw.choice(options)


def chance(draw: Draw, percent: int) -> bool:
    return draw.random() * 100 < percent


def fault(draw: Draw, names: Sequence[str], percent: int = 30) -> str | None:
    """The one argument that is made illegal, or None for a legal call."""
    return one_of(draw, names) if names and chance(draw, percent) else None


def source(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw.getrandbits(48))


def shape(
    draw: Draw, units: Sequence[int] = UNITS, huge: int = 0, leading: Sequence[tuple[int, ...]] = LEADING
) -> tuple[int, ...]:
    """Leading dimensions and units; with `huge`, one case in 25 has so many units."""
    if huge and chance(draw, 4):
        return (huge,)
    return (*one_of(draw, leading), one_of(draw, units))


def numbers(draw: Draw, size: Sequence[int], dtype: torch.dtype, kind: str | None = None) -> Tensor:
    """Finite numbers of one kind."""
    kind = kind or one_of(draw, FINITE)
    normal = torch.randn(tuple(size), generator=source(draw), dtype=torch.float64)
    largest = torch.finfo(dtype).max
    values = {
        "normal": lambda: normal,
        "wide": lambda: normal * 30,
        "constant": lambda: torch.full_like(normal, 1.7),
        "ties": normal.round,
        "zeros": lambda: torch.where(normal > 0, 0.0, -0.0),
        "steep": lambda: normal * 1e4,
        "huge": lambda: normal.sign() * min(1e38, largest / 2),
        "largest": lambda: normal.sign() * largest,
        "subnormal": lambda: normal * torch.finfo(dtype).tiny / 16,
        "powers": lambda: normal.sign() * 10 ** (normal * 8).clamp(-30, 30),
        "outlier": lambda: torch.where(normal == normal.max() if normal.numel() else normal > 0, 1e3, normal),
        "shifted": lambda: normal + 1e4,
    }[kind]()
    return values.double().clamp(-largest, largest).to(dtype)


def with_infinite(draw: Draw, values: Tensor, signs: str = "+-") -> Tensor:
    """Infinite entries strewn in."""
    spots = torch.rand(values.shape, generator=source(draw))
    if "+" in signs:
        values = values.masked_fill(spots < 0.1, math.inf)
    return values.masked_fill(spots > 0.8, -math.inf) if "-" in signs else values


def with_nan(draw: Draw, values: Tensor) -> Tensor:
    return values.masked_fill(torch.rand(values.shape, generator=source(draw)) < 0.1, math.nan)


def laid_out(draw: Draw, tensor: Tensor) -> Tensor:
    """The same numbers under another stride; `expanded` repeats the first slice of the first dimension."""
    return relaid(tensor, one_of(draw, LAYOUTS))


def relaid(tensor: Tensor, layout: str) -> Tensor:
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and tensor.dim():
        return torch.stack((tensor, torch.zeros_like(tensor)), -1).flatten(-2)[..., ::2]
    if layout == "expanded" and tensor.dim() > 1 and tensor.shape[0]:
        return tensor[:1].expand_as(tensor)
    if layout == "offset":
        return torch.cat((torch.zeros(3, dtype=tensor.dtype), tensor.flatten()))[3:].view(tensor.shape)
    return tensor


def scores(
    draw: Draw, size: Sequence[int] | None = None, *, infinite: str = "+-", nan: bool = True, huge: int = 0
) -> Tensor:
    """Scores as they come out of a network, of a mask filled with −inf, or of a broken one."""
    size = shape(draw, huge=huge) if size is None else size
    values = numbers(draw, size, one_of(draw, FLOATS))
    if infinite and chance(draw, 25):
        values = with_infinite(draw, values, infinite)
    if nan and chance(draw, 10):
        values = with_nan(draw, values)
    return laid_out(draw, values)


def wrong_tensor(draw: Draw, tensor: Tensor) -> Any:
    """Not a floating-point tensor."""
    kind = one_of(draw, WRONG_FLOATS)
    if kind == "list":
        return tensor.tolist()
    return None if kind == "none" else tensor.nan_to_num(0.0, 9.0, -9.0).to(kind)


def mask_for(draw: Draw, size: Sequence[int]) -> Tensor | None:
    """None, or a mask that broadcasts: some, all or none kept."""
    if chance(draw, 55):
        return None
    share = one_of(draw, (0.7, 0.3, 1.0, 0.0))
    fitting = [1 if chance(draw, 15) else d for d in size] if size else []
    return torch.rand(fitting, generator=source(draw)) < share


def wrong_mask(draw: Draw, size: Sequence[int]) -> Any:
    """A mask of another dtype, of a shape that does not fit, or no tensor."""
    kept = torch.ones(tuple(size), dtype=torch.bool)
    wide = torch.ones((*size[:-1], size[-1] + 2) if size else (2,), dtype=torch.bool)
    return one_of(
        draw,
        (kept.float(), kept.to(torch.int64), wide, torch.ones((4, *size), dtype=torch.bool), kept.tolist() or [True]),
    )


def positive(draw: Draw, batch: Sequence[int]) -> float | Tensor:
    """A temperature that is legal: a number from 1e-30 to 1e30, or a tensor that broadcasts to the batch."""
    if chance(draw, 75):
        return one_of(draw, (1.0, 0.5, 1e-3, 7, 1e3, 1e-30, 1e30))
    fitting = tuple(batch) if chance(draw, 60) else ()
    value = 10 ** (4 * torch.rand(fitting, generator=source(draw), dtype=torch.float64) - 2)
    return value.to(one_of(draw, (torch.float64, torch.float32)))


def not_positive(draw: Draw, batch: Sequence[int]) -> Any:
    """A temperature that is not."""
    bad: list[Any] = [0, 0.0, 1e-300, 1e300, -1.0, math.nan, math.inf, -math.inf, True, "1", None, 1j]
    bad += [torch.tensor(0.0), torch.tensor(-1.0), torch.tensor(math.nan), torch.tensor(math.inf)]
    return one_of(draw, [*bad, torch.ones((*batch, 3, 2))])
