"""C++ for the CPU: rows in vectors of the processor's width, passes fused, one call of the library for all rows."""

import torch
from torch import Tensor

from sparsek.kernels._backend import Backend, allows

from ._build import BuildError as BuildError
from ._build import build as build
from ._build import load as load
from ._sigmoid_topk import PASSES as PASSES
from ._sigmoid_topk import pull_back as pull_back
from ._sigmoid_topk import solve as solve

__all__ = ["PASSES", "BuildError", "build", "load", "pull_back", "solve", "takes"]

_DTYPES = (torch.float32, torch.float64)
_TYPES = (Tensor, torch.nn.Parameter)


def takes(x: Tensor) -> bool:
    """Whether C++ runs on this tensor: plain memory of floats or doubles that nothing traces."""
    return (
        allows(Backend.NATIVE)
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and type(x) in _TYPES
        and torch._C._len_torch_dispatch_stack() == 0
        and load("sigmoid_topk") is not None
    )
