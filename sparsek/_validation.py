"""Checks of arguments, written once. Every failure is a `ValueError` that names the argument, what it was and what is allowed.

What is known without looking at data (Python numbers, shapes, dtypes, dimensions) is checked in every execution.
Values of tensors are looked at in eager mode only (see :func:`values_visible`): under `torch.compile`, under
`torch.func` transforms and with `python -O` they are not, and bad values give NaN in their own row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

_LEAST, _LARGEST = 2.0**-149, torch.finfo(torch.float32).max  # of float32: what it has is not 0 and not infinite


def inspectable(*tensors: Tensor) -> bool:
    """Whether Python may branch on the values: not traced, not transformed by `torch.func`, not on meta."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    for tensor in tensors:  # noqa: SIM110 - a generator costs as much as the rest of the check
        if tensor.is_meta:
            return False
    return True


def beneath_gradients(tensor: Tensor) -> Tensor | None:
    """The values of a tensor below the levels of `torch.func.grad` and its kin; None where Python may not look at them at all."""
    if torch.compiler.is_compiling():
        return None
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return None if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or tensor.is_meta else tensor


def values_visible(*tensors: Tensor) -> bool:
    """Whether values are to be checked: Python may look at them and is not run with `-O`, as in `torch.distributions`.

    `Distribution.set_default_validate_args` is not asked: the first call of `torch.compile` switches it off for good.
    """
    return __debug__ and inspectable(*tensors)


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse what is not a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a floating-point tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got dtype {tensor.dtype}")


def check_numbers(name: str, tensor: Tensor) -> None:
    """Refuse what is not a tensor of real numbers, whole or floating-point."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor of numbers, got {type(tensor).__name__}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be a tensor of real numbers, got dtype {tensor.dtype}")


def check_whole_numbers(name: str, tensor: Tensor) -> None:
    """Refuse what is not a tensor of whole numbers."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be an integer tensor, got {type(tensor).__name__}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be an integer tensor, got dtype {tensor.dtype}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


def check_token_mask(name: str, mask: Tensor | None, shape: torch.Size) -> None:
    """Refuse a mask that is not boolean of exactly this shape; None passes."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a boolean tensor of shape {tuple(shape)}, got {type(mask).__name__}")
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"{name} must be boolean of shape {tuple(shape)}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def check_dim(name: str, tensor: Tensor, dim: int) -> int:
    """Return `dim` counted from the front; refuse a tensor without dimensions and a `dim` that is no dimension of it."""
    ndim = tensor.dim()
    if type(dim) is not int and (isinstance(dim, bool) or not isinstance(dim, (int, torch.SymInt))):
        raise ValueError(f"dim must be a whole number, got {dim!r}")
    if ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a 0-d tensor")
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim must lie in [{-ndim}, {ndim - 1}] for {name} of shape {tuple(tensor.shape)}, got {dim}")
    return dim % ndim


def check_positive(name: str, value: float | Tensor) -> None:
    """Refuse a number that is not finite and above 0, as float32 has it: from 1.4e-45 to 3.4e38.

    Tensors are looked at only where values are visible.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{name} must be a real number, got dtype {value.dtype}")
        if values_visible(value) and not bool(((value >= _LEAST) & (value <= _LARGEST)).all()):
            raise ValueError(f"{name} must be finite and > 0 everywhere, got values down to {value.min().item()}")
    elif not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    elif not _LEAST <= value <= _LARGEST:
        raise ValueError(
            f"{name} must lie in [{_LEAST:.1e}, {_LARGEST:.1e}], the positive range of float32, got {value!r}"
        )


def check_mask(name: str, mask: Tensor, input: Tensor) -> None:
    """Refuse a mask that is not boolean or does not broadcast to the shape of `input`."""
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} must be a boolean tensor (True = keep), got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a boolean tensor (True = keep), got dtype {mask.dtype}")
    try:
        fits = torch.broadcast_shapes(mask.shape, input.shape) == input.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(mask.shape)} does not broadcast to input of shape {tuple(input.shape)}"
        )


def _is_number(value: object) -> bool:
    """Whether a value is a real number, or one that a compiler traces. The exact types first: abstract ones cost a microsecond."""
    if type(value) is float or type(value) is int:
        return True
    return isinstance(value, (Real, torch.SymFloat, torch.SymInt)) and not isinstance(value, bool)


def check_k(k: float | Tensor, batch_shape: torch.Size, valid: int | Tensor | None, *, integer: bool = False) -> None:
    """Refuse a `k` that is not a number in [0, valid] per row.

    Args:
        k: Python number, or tensor that broadcasts to `batch_shape`.
        batch_shape: Shape of the input without its unit dimension.
        valid: Number of valid units: an int, or a tensor of `batch_shape`; None if the caller compares with it later.
        integer: Whether only whole numbers have a meaning.
    """
    if isinstance(k, Tensor):
        _check_tensor_k(k, batch_shape, valid, integer)
        return
    if not _is_number(k):
        raise ValueError(f"k must be a number or a tensor, got {type(k).__name__}")
    if not 0 <= k < math.inf:
        raise ValueError(f"k must be finite and >= 0, got {k}")
    if integer and k != int(k):
        raise ValueError(f"k must be a whole number here, got {k}")
    if valid is None:
        return
    if isinstance(valid, int):
        if k > valid:
            raise ValueError(f"k must be at most the number of valid units, {valid}, got {k}")
    elif values_visible(valid) and bool((valid < k).any()):
        raise ValueError(f"k must be at most the number of valid units, {int(valid.min())} in one row, got {k}")


def _check_tensor_k(k: Tensor, batch_shape: torch.Size, valid: int | Tensor | None, integer: bool) -> None:
    if k.dtype == torch.bool or k.is_complex():
        raise ValueError(f"k must be a real number, got dtype {k.dtype}")
    try:
        fits = torch.broadcast_shapes(k.shape, batch_shape) == batch_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"k of shape {tuple(k.shape)} does not broadcast to the batch shape {tuple(batch_shape)}")
    if valid is None or not values_visible(k):
        return
    if not bool(((k >= 0) & (k <= valid)).all()):  # NaN fails both
        most = valid if isinstance(valid, int) else "the number of valid units of its row"
        least, largest = k.min().item(), k.max().item()
        raise ValueError(f"k must lie in [0, {most}] in every row, got values from {least} to {largest}")
    if integer and not bool((k == k.round()).all()):
        raise ValueError("k must be a whole number in every row here")


def checked_shape(sample_shape: Sequence[int]) -> torch.Size:
    """Return `sample_shape` as a size; refuse what is not a sequence of whole numbers >= 0."""
    sizes = tuple(sample_shape) if isinstance(sample_shape, Sequence) else None
    if sizes is None or not all(isinstance(s, (int, torch.SymInt)) and s >= 0 for s in sizes):
        raise ValueError(f"sample_shape must be a sequence of whole numbers >= 0, got {sample_shape!r}")
    return torch.Size(sizes)
