r"""The two sets of "pick k of n" as constraints of :mod:`torch.distributions`: the k-hot vectors and their convex hull.

The vertices of the k-capped simplex $\{\pi \in [0, 1]^n : \sum_i \pi_i = k\}$ are, at whole k, the k-hot vectors
$\{s \in \{0, 1\}^n : \sum_i s_i = k\}$. At real k a sample has one of two sizes, floor(k) or ceil(k).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

__all__ = ["capped_simplex", "k_hot"]


class k_hot(Constraint):
    r"""Vectors of zeros and ones with k ones.

    The set is $\{s \in \{0, 1\}^n : \sum_i s_i \in \{\lfloor k \rfloor, \lceil k \rceil\}\}$: a whole k
    allows one size, a real k two. A k within 2e-6·max(1, k) of a whole number counts as that number (1e-12·max(1, k)
    where `value` is float64 and `k` is float64 or a Python number). k = 0 is the zero vector, k = n the vector of ones.
    NaN anywhere, in `value` or in `k`, fails its own row.

    Args:
        k: Number of ones: a number, or a tensor that broadcasts over the batch (one k per row).

    Example:
        >>> import torch
        >>> from sparsek import constraints
        >>> vectors = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.5, 1.0]])
        >>> constraints.k_hot(2).check(vectors)
        tensor([ True, False, False])
        >>> constraints.k_hot(2.4).check(vectors)
        tensor([ True,  True, False])
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, k: float | Tensor) -> None:
        self.k = k
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each row of `value` is k-hot: bool, of the shape of `value` without its last dimension."""
        ones = value == 1
        size = ones.sum(-1)  # counted, not summed: bfloat16 has no 257
        low, high = self.sizes(value)
        return (ones | (value == 0)).all(-1) & (size >= low) & (size <= high)

    def sizes(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest number of ones of each row, for vectors of the dtype and device of `value`."""
        k = torch.as_tensor(self.k, dtype=None if isinstance(self.k, Tensor) else torch.float64, device=value.device)
        whole = k.round()
        near = (k - whole).abs() <= _tolerance(self.k, value)
        return torch.where(near, whole, k.floor()), torch.where(near, whole, k.ceil())

    def __repr__(self) -> str:
        return f"k_hot(k={_show(self.k)})"


class capped_simplex(Constraint):
    r"""Inclusion probabilities of k units: $\{\pi \in [0, 1]^n : \sum_i \pi_i = k\}$, k real.

    The sum may differ from k by 2e-6·max(1, k) (1e-12·max(1, k) where `value` is float64 and `k` is float64 or a Python
    number), in half precision by the rounding of its terms, eps/2·max(1, k). NaN anywhere fails its own row.

    Args:
        k: What a row sums to: a number, or a tensor that broadcasts over the batch (one k per row).

    Example:
        >>> import torch
        >>> from sparsek import constraints
        >>> rows = torch.tensor([[0.5, 0.75, 0.75], [1.5, 0.5, 0.0], [0.5, 0.5, 0.5]])
        >>> constraints.capped_simplex(2).check(rows)
        tensor([ True, False, False])
    """

    event_dim = 1

    def __init__(self, k: float | Tensor) -> None:
        self.k = k
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each row of `value` lies in the set: bool, of the shape of `value` without its last dimension."""
        inside = ((value >= 0) & (value <= 1)).all(-1)
        total = value.sum(-1, dtype=torch.promote_types(value.dtype, torch.float32))
        rounding = torch.finfo(value.dtype).eps / 2 if value.is_floating_point() else 0.0
        return inside & ((total - self.k).abs() <= _tolerance(self.k, value, rounding))

    def __repr__(self) -> str:
        return f"capped_simplex(k={_show(self.k)})"


class rows_of(Constraint):
    """Vectors, empty ones too, each of whose entries meets a constraint: what `independent(entry, 1)` is for full batches.

    Args:
        entry: What every entry has to meet.
        is_discrete: Whether the vectors are countable.
    """

    event_dim = 1

    def __init__(self, entry: Constraint, is_discrete: bool = False) -> None:
        self.entry, self._discrete = entry, is_discrete
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]  # a class attribute there; here it depends on the entries
        """Whether the vectors are countable."""
        return self._discrete

    def check(self, value: Tensor) -> Tensor:
        """Whether each row of `value` has such entries only."""
        inside: Tensor = self.entry.check(value).all(-1)
        return inside

    def __repr__(self) -> str:
        return f"rows_of({self.entry})"


def _tolerance(k: float | Tensor, value: Tensor, rounding: float = 0.0) -> float | Tensor:
    """How far from k a sum may lie and still count as k; `rounding` is the relative rounding of its terms."""
    double = value.dtype == torch.float64 and (not isinstance(k, Tensor) or k.dtype == torch.float64)
    relative = max(1e-12 if double else 2e-6, rounding)
    return relative * (k.clamp(min=1) if isinstance(k, Tensor) else max(1.0, k))


def _show(k: float | Tensor) -> str:
    if isinstance(k, Tensor):
        return f"{k.item():g}" if k.numel() == 1 else f"tensor of shape {tuple(k.shape)}"
    return f"{k:g}"
