"""What this machine can run."""

from __future__ import annotations

import torch

from ._backend import Backend, triton_found
from .native import load


def available(backend: Backend) -> bool:
    """Whether this machine has what an execution needs: a C++ compiler (which is tried), or Triton and a CUDA device.

    Args:
        backend: The execution in question.

    Example:
        >>> from sparsek.kernels import Backend, available
        >>> available(Backend.EAGER)
        True
    """
    if backend is Backend.NATIVE:
        return load("sigmoid_topk") is not None
    if backend is Backend.TRITON:
        return triton_found() and torch.cuda.is_available()
    return True
