"""Calls of sparse_topk.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ._call import INT, LONG, POINTER, Function, plain

_UPDATE = Function(
    "sparse_topk", "sparse_topk_update", POINTER, LONG, POINTER, *[LONG] * 4, POINTER, POINTER, POINTER, INT, INT
)
_FINISH = Function("sparse_topk", "sparse_topk_finish", POINTER, POINTER, LONG, LONG, POINTER, POINTER, INT, INT)


class SparseTopK:
    """The k largest entries of rows that come in consecutive blocks of columns.

    Args:
        rows: Number of rows.
        k: Entries of each, from 1 to the number of columns that will come.
        dtype: float32 or float64.
        magnitude: Whether entries are ranked by their absolute value.
    """

    def __init__(self, rows: int, k: int, dtype: torch.dtype, *, magnitude: bool) -> None:
        self.rows, self.k, self.dtype, self.magnitude = rows, k, dtype, magnitude
        self.pools = torch.empty(rows * (2 * k + 256), 2, dtype=torch.int64)
        self.counts = torch.zeros(rows, dtype=torch.int64)
        self.thresholds = torch.empty(rows, dtype=dtype)

    def update(self, x: Tensor, first: int, bias: Tensor | None = None) -> None:
        """Look at columns `first`, `first` + 1, … of all rows, (rows, n), plus a bias (n,)."""
        x = plain(x)
        bias = None if bias is None else bias.contiguous()
        _UPDATE[self.dtype](
            x.data_ptr(),
            x.stride(0),
            None if bias is None else bias.data_ptr(),
            *(self.rows, x.shape[1], first, self.k),
            *(self.pools.data_ptr(), self.counts.data_ptr(), self.thresholds.data_ptr()),
            *(self.magnitude, torch.get_num_threads()),
        )

    def finish(self) -> tuple[Tensor, Tensor]:
        """Values and indices (int64), (rows, k) each: value descending, ties index ascending, NaN first."""
        values = torch.empty((self.rows, self.k), dtype=self.dtype)
        indices = torch.empty((self.rows, self.k), dtype=torch.int64)
        _FINISH[self.dtype](
            *(self.pools.data_ptr(), self.counts.data_ptr(), self.rows, self.k),
            *(values.data_ptr(), indices.data_ptr(), self.magnitude, torch.get_num_threads()),
        )
        return values, indices
