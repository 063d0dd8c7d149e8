"""What is aimed at, and whether it was reached. Nothing else in this folder holds a target."""

from __future__ import annotations

from typing import NamedTuple

from results import Row

Shape = tuple[int, int]
"""(rows, n)."""

SHAPES: tuple[Shape, ...] = (
    (1, 1_000),
    (1, 10_000),
    (1, 100_000),
    (1, 1_000_000),
    (1024, 64),
    (4096, 128),
    (256, 16_384),
)
"""(rows, n) of the measurements on the CPU."""

_CPU = {
    ("eager", "forward"): "40/25 25/15 8/5 5/3 10/7 8/6 7/4.5",
    ("eager", "forward+backward"): "6/4 7/5 5/3.5 3.5/2.2 6/4.5 5.5/4 5/3.5",
    ("compiled", "forward"): "– 20/12 7/3 2.8/1.6 7/5 5.5/4 3.2/2",
    ("native", "forward"): "8/5 5/3 2.5/1.8 1.8/1.2 5.5/4 5/3 2.2/1.6",
}
"""Ratio of sigmoid top-k to `torch.softmax`, must/stretch, a shape of `SHAPES` each."""

_GPU = {"forward": 1.3, "forward+backward": 1.5}
"""Ratio of sigmoid top-k in Triton to `torch.softmax`: rows of 64 to 16,384 in at least 64 MB."""

_SAMPLERS = {
    ("Systematic()", 1, 1_000_000): 8,
    ("Systematic()", 4096, 128): 13,
    ("Pivotal()", 1, 1_000_000): 40,
    ("Pivotal()", 4096, 128): 60,
}
"""Ratio of a draw in tensor operations on the CPU to `torch.softmax`."""

R = {("sampling::UPsystematic", 1_000_000): 12, ("sampling::UPpivotal", 10_000): 100}
"""Time of R's function at this n over that of the same design here, at least."""

DENSE = ("dense layer", "matmul")
"""The layer of equal active FLOPs in `dispatch.py`."""
_OVER_DENSE = {8: 1.2, 64: 1.4}
"""Dispatched / dense layer, forward and backward on the CPU at T = 4096, by number of experts."""
_OVER_BARE = {64: 1.15}
"""Dispatched / bare products of the same run: met instead, the other bound need not be."""

LARGE_DATA = 64 * 2**20
LONG_ROW = 16_384
COPIES = 1.0
"""Extra memory on the GPU, in copies of the input."""


class Target(NamedTuple):
    """A bound that must hold, and one to stretch to."""

    must: float
    stretch: float | None = None
    at_least: bool = False

    def __str__(self) -> str:
        bounds = " / ".join(f"{bound:g}" for bound in (self.must, self.stretch) if bound is not None)
        return f"≥ {bounds}" if self.at_least else bounds

    def mark(self, value: float) -> str:
        """Return "✗" for missed, "✓" for met, "✓✓" for met with the stretch too."""
        if not self._holds(value, self.must):
            return "✗"
        return "✓✓" if self.stretch is not None and self._holds(value, self.stretch) else "✓"

    def _holds(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


def ratio_target(row: Row, on_cpu: bool) -> Target | None:
    """Return the bound on the ratio of a row to softmax, if there is one."""
    if row.dtype != "float32":
        return None
    if row.operation == "sigmoid_topk":
        return _relaxation_on_cpu(row) if on_cpu else _relaxation_on_gpu(row)
    must = _SAMPLERS.get((row.operation, row.rows, row.n)) if on_cpu and row.execution == "eager" else None
    return None if must is None else Target(must)


def dense_target(row: Row) -> Target | None:
    """Return the bound on the ratio of a dispatched layer to the dense one, if there is one."""
    return _dispatched(row, _OVER_DENSE)


def bare_target(row: Row) -> Target | None:
    """Return the bound on the ratio of a dispatched layer to its products alone, if there is one."""
    return _dispatched(row, _OVER_BARE)


def bandwidth_target(row: Row) -> Target | None:
    """Return the bound on the fraction of the copy bandwidth that a row on a GPU reaches, if there is one."""
    if row.execution != "triton" or row.direction != "forward":
        return None
    if row.operation == "sigmoid_topk" and row.rows == 1 and 10**6 <= row.n <= 10**7 and row.dtype == "float32":
        return Target(0.5, at_least=True)
    if row.operation == "Pivotal()" and row.shape in ((65_536, 128), (1, 10**7)):
        return Target(0.3, at_least=True)
    return None


def memory_target(row: Row) -> Target | None:
    """Return the bound on the extra memory of a row on a GPU, in copies of the input, if there is one."""
    return Target(COPIES) if row.execution == "triton" else None


def _dispatched(row: Row, bounds: dict[int, float]) -> Target | None:
    asked = row.key == ("dispatched", "automatic") and row.direction == "forward+backward" and row.rows == 4096
    return Target(bounds[row.n]) if asked and row.n in bounds else None


def _relaxation_on_cpu(row: Row) -> Target | None:
    bounds = dict(zip(SHAPES, _CPU.get((row.execution, row.direction), "").split(), strict=False)).get(row.shape, "–")
    return None if bounds == "–" else Target(*map(float, bounds.split("/")))


def _relaxation_on_gpu(row: Row) -> Target | None:
    large = row.rows * row.n * 4 >= LARGE_DATA
    return Target(_GPU[row.direction]) if row.execution == "triton" and large and 64 <= row.n <= LONG_ROW else None
