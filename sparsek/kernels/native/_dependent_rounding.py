"""Calls of dependent_rounding.cpp."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsek.kernels._backend import Backend, allows

from ._build import load
from ._call import LONG, POINTER

_LIBRARY = "dependent_rounding"


def dependent_rounding(weights: Tensor, rows: Tensor, columns: Tensor, seeds: Tensor) -> bool:
    """Round matrices in place, as :func:`sparsek.sampling._cycles.round_cycles` does.

    Args:
        weights: (problems, m, n) int64 on the CPU, contiguous.
        rows: (problems, m) int64 permutations, contiguous.
        columns: (problems, n) int64 permutations, contiguous.
        seeds: (problems,) int64 ≥ 0.

    Returns:
        Whether it was done: C++ is allowed, and was built.
    """
    if not allows(Backend.NATIVE):
        return False
    library: Any = load(_LIBRARY)
    if library is None:
        return False
    function = library.dependent_rounding
    function.argtypes, function.restype = [POINTER] * 4 + [LONG] * 3, LONG
    function(weights.data_ptr(), rows.data_ptr(), columns.data_ptr(), seeds.data_ptr(), *weights.shape)
    return True
