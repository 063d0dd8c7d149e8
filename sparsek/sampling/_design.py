"""The contract of a πps design."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sparsek._validation import checked_shape, values_visible

from ._rows import Rows, as_number, as_rows


class Draw(NamedTuple):
    """What :meth:`Design.draw` returns."""

    sample: Tensor
    """k-hot sample, of shape sample_shape + probs.shape and dtype probs.dtype."""
    order: Tensor | None
    """Permutation that a shuffled design used: `order[..., j]` is the unit put in place j. None for the others."""


class Design(ABC):
    r"""A πps sampling design: a law on subsets of n units with given inclusion probabilities π.

    $P(s_i = 1) = π_i$, and the size $Σ_i s_i$ is $k = Σ_i π_i$ always (⌊k⌋ or ⌈k⌉ where k is not whole). Designs with
    the same π differ in the rest of their law: entropy, joint inclusion probabilities, cost, and what can be computed.

    Designs are small immutable objects. This class does for all of them the checks, the flattening of leading
    dimensions, precision (computed in float64, returned in the dtype of `probs`) and real k: a phantom unit with
    $π = ⌈k⌉ - k$ is put after the last unit and dropped after the draw. A row's sum counts as a whole number within
    $2·10^{-6} \max(1, k)$ ($10^{-12} \max(1, k)$ in float64); passing `k` settles it. Samples carry no gradient.

    Values are checked in eager mode. Under `torch.compile`, `torch.func` transforms, or `python -O`, and where a Triton
    kernel draws or scores (`Pivotal` and `Systematic` on CUDA, up to float32), nothing waits for values: a row with NaN,
    with entries outside [0, 1], or whose sum is not its k, gives NaN in that row alone.

    A subclass writes `_sample`, and `_log_prob` and `_joint` where they can be computed.

    Attributes:
        exact: Whether the inclusion probabilities are π exactly.
        fixed_size: Whether the size is always k (⌊k⌋ or ⌈k⌉ at real k).
        smooth: Whether the probability of every sample is a differentiable function of π everywhere.
    """

    exact: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = True
    smooth: ClassVar[bool]

    def sample(
        self,
        probs: Tensor,
        sample_shape: Sequence[int] = (),
        *,
        k: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw k-hot samples, independent across rows and samples.

        Shape:
            - probs: (..., n).
            - output: sample_shape + (..., n).

        Args:
            probs: Inclusion probabilities π in [0, 1].
            sample_shape: Shape of independent draws per row.
            k: Expected size of each row, the sum of `probs`: a number, or a tensor that broadcasts over the batch. It
                settles whether a sum that is whole up to rounding is whole. Default: the sum itself.
            generator: Source of randomness. Default: the generator of the device.

        Returns:
            1 for the units in the sample and 0 for the others, in the dtype of `probs`.

        Raises:
            ValueError: If `probs` is not a floating-point tensor with values in [0, 1], or its sum is not `k`.
        """
        return self.draw(probs, sample_shape, k=k, generator=generator).sample

    def draw(
        self,
        probs: Tensor,
        sample_shape: Sequence[int] = (),
        *,
        k: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Draw as :meth:`sample` does, and keep what :meth:`log_prob` needs to score the draw."""
        shape = checked_shape(sample_shape)
        with torch.no_grad():
            if shape.numel() == 0:  # nothing to draw, but all to check
                as_rows(probs, k, self.fixed_size)
            sample = self._draw(probs, k, shape.numel(), generator)
        return Draw(sample.reshape(shape + probs.shape), None)

    def log_prob(self, probs: Tensor, sample: Tensor | Draw, *, k: float | Tensor | None = None) -> Tensor:
        """Return the log-probability of `sample`, differentiable in `probs`.

        A sample that the design cannot give has log-probability −inf and gradient 0.

        Shape:
            - probs: (..., n).
            - sample: (..., n), whose leading dimensions broadcast with those of `probs`.
            - output: the broadcast leading dimensions.

        Args:
            probs: Inclusion probabilities π in [0, 1].
            sample: Entries 0 or 1 in any dtype, or a :class:`Draw`.
            k: As in :meth:`sample`.

        Raises:
            NotImplementedError: If this design's probability cannot be computed.
            ValueError: If :meth:`sample` refuses `probs` or `k`, or `sample` does not fit or is not made of 0 and 1.
        """
        states = sample.sample if isinstance(sample, Draw) else sample
        shape = _broadcast(probs, states)
        if shape[len(shape) - probs.dim() :] != probs.shape:
            probs = probs.expand(shape)
        kernel = self._kernel_log_prob(probs)
        rows = as_rows(probs, k, self.fixed_size, look=kernel is None)
        units, possible = _states(states.expand(shape), rows, self.fixed_size, look=kernel is None)
        if not units.numel():  # no rows, or nothing to draw: certain
            return probs.sum(-1) + units.new_zeros(shape[:-1], dtype=probs.dtype)
        output = (kernel or self._log_prob)(rows.probs, units, rows.size).masked_fill(~possible, -torch.inf)
        output = rows.poison(output.to(probs.dtype), 0).reshape(shape[:-1])
        if probs.requires_grad and not output.requires_grad:  # a single unit: its law does not move
            return output + 0 * probs.sum(-1)
        return output

    def joint(self, probs: Tensor, *, k: float | Tensor | None = None) -> Tensor:
        """Return the joint inclusion probabilities $π_{ij} = P(s_i = s_j = 1)$, with π on the diagonal.

        Shape:
            - probs: (..., n).
            - output: (..., n, n).

        Args:
            probs: Inclusion probabilities π in [0, 1].
            k: As in :meth:`sample`.

        Raises:
            NotImplementedError: If this design's joint inclusion probabilities cannot be computed.
            ValueError: If `probs` or `k` is refused by :meth:`sample`.
        """
        rows = as_rows(probs, k, self.fixed_size)
        n = rows.n
        if not rows.probs.numel():
            return probs.unsqueeze(-1) * probs.unsqueeze(-2)
        pairs = self._joint(rows.probs, rows.size)[..., :n, :n]
        pairs = pairs.diagonal_scatter(rows.probs[..., :n], dim1=-2, dim2=-1)
        return rows.poison(pairs.to(probs.dtype), 2).reshape(*probs.shape, n)

    def _draw(self, probs: Tensor, k: float | Tensor | None, draws: int, generator: torch.Generator | None) -> Tensor:
        """Return samples of each row of `probs`, (draws, rows, n) in its dtype. A design with a kernel asks it first."""
        rows = as_rows(probs, k, self.fixed_size)
        if not rows.probs.numel():
            return probs.new_zeros((draws, *rows.probs.shape))
        taken = self._sample(rows.probs, rows.size, draws, generator)
        return rows.poison(as_number(taken[..., : rows.n], probs.dtype), 1)

    @abstractmethod
    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        """Return `draws` samples of each row: (rows, m) and (rows,) to 0/1 in any dtype, (draws, rows, m)."""

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        """Return log-probabilities: (rows, m), (draws, rows, m) of the dtype of `probs`, and (rows,) to (draws, rows).

        A sample of another size may come; its value is ignored, but its gradient must be finite.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no tractable log_prob; "
            "use ConditionalPoisson() or Pivotal(), whose log_prob is exact"
        )

    def _kernel_log_prob(self, probs: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """Return what does the work of `_log_prob` where values are not to be looked at; None where they are."""
        return None

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        """Return joint inclusion probabilities: (rows, m) and (rows,) to (rows, m, m). The diagonal is not read."""
        raise NotImplementedError(
            f"{type(self).__name__} has no tractable joint inclusion probabilities; "
            "use ConditionalPoisson() or Pivotal(), whose joint is exact"
        )


def _broadcast(probs: Tensor, sample: Tensor) -> torch.Size:
    """Return the common shape of `probs` and `sample`; refuse another number of units."""
    try:
        shape: torch.Size = torch.broadcast_shapes(probs.shape, sample.shape)
    except RuntimeError:
        shape = torch.Size()
    if not (probs.dim() and sample.dim() and shape and probs.shape[-1] == sample.shape[-1]):
        raise ValueError(f"sample of shape {tuple(sample.shape)} does not fit probs of shape {tuple(probs.shape)}")
    return shape


def _states(sample: Tensor, rows: Rows, fixed_size: bool, look: bool) -> tuple[Tensor, Tensor]:
    """Return the sample as (draws, rows, m), its phantom filled in from the size, and where its size is possible."""
    n_rows = rows.probs.shape[0]
    draws = sample.shape[:-1].numel() // n_rows if n_rows else 0
    units = sample.to(rows.probs.dtype).reshape(draws, n_rows, rows.n)
    binary = (units == 0) | (units == 1)
    if look and values_visible(units):
        if not bool(binary.all()):
            raise ValueError(
                f"sample must hold 0 and 1 only, got values from {units.min().item()} to {units.max().item()}"
            )
    else:
        units = units.masked_fill(~binary, 0)
    possible = torch.ones_like(binary[..., 0] if rows.n else units.sum(-1), dtype=torch.bool)
    if fixed_size:
        missing, phantom = rows.size - units.sum(-1), rows.probs.shape[-1] > rows.n
        possible = (missing == 0) | ((missing == 1) & phantom)
        if phantom:
            units = torch.cat((units, missing.clamp(0, 1).unsqueeze(-1)), -1)
    return units, possible
