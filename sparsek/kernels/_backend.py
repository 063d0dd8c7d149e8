"""Which execution of an operator runs: tensor operations, compiled C++ on the CPU, or Triton on CUDA."""

from __future__ import annotations

import enum
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Backend(enum.Enum):
    """An execution of the core. All give the same results to rounding, and raise the same errors."""

    EAGER = "eager"
    """Tensor operations: every device and dtype."""
    NATIVE = "native"
    """C++, built on first use by the compiler of this machine: float32 and float64 on the CPU."""
    TRITON = "triton"
    """Triton kernels: float32, float16 and bfloat16 on CUDA."""


_VARIABLE = "SPARSEK_BACKENDS"
_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
# Constants, because a compiler traces through a cached function, with a warning.
_FOUND = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _from_environment() -> frozenset[Backend]:
    names = os.environ.get(_VARIABLE)
    if names is None:
        return frozenset(Backend)
    try:
        return frozenset(Backend(name.strip()) for name in names.split(","))
    except ValueError:
        known = ", ".join(backend.value for backend in Backend)
        raise ValueError(f"{_VARIABLE} must list some of {known}, separated by commas, got {names!r}") from None


class _Choice:
    """The executions that may run in this process."""

    allowed = _from_environment()


@contextmanager
def use_backends(*backends: Backend) -> Iterator[None]:
    """Let only these executions run inside the context; `Backend.EAGER` takes whatever none of them can.

    Outside any context all are allowed, or those that the environment variable `SPARSEK_BACKENDS` lists ("eager,native").
    The choice is one of the process, as in :func:`torch.nn.attention.sdpa_kernel`.

    Args:
        backends: The executions allowed.

    Example:
        >>> import torch
        >>> from sparsek.functional import sigmoid_topk
        >>> from sparsek.kernels import Backend, use_backends
        >>> with use_backends(Backend.EAGER):
        ...     sigmoid_topk(torch.tensor([1.0, 0.0, -1.0]), k=1.5)
        tensor([0.7311, 0.5000, 0.2689])
    """
    previous, _Choice.allowed = _Choice.allowed, frozenset(backends)
    try:
        yield
    finally:
        _Choice.allowed = previous


def triton_takes(x: Tensor) -> bool:
    """Whether a Triton kernel runs on this tensor: on CUDA, or on the CPU under Triton's interpreter (`TRITON_INTERPRET=1`)."""
    if not (_FOUND and (x.is_cuda or (_INTERPRETED and x.is_cpu))):
        return False
    return Backend.TRITON in _Choice.allowed and x.dtype in _SINGLE


def triton_found() -> bool:
    """Whether Triton is installed."""
    return _FOUND


def allows(backend: Backend) -> bool:
    """Whether this execution may run at all."""
    return backend in _Choice.allowed
