"""Dispatch: tokens to the rows of their experts and back, without a loop and without a one-hot tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sparsek._validation import values_visible

from ._capacity import Capacity, within


class Bags(NamedTuple):
    """Which rows belong to which token, both ways round."""

    owner: Tensor
    """(N,) int64: the token of each row."""
    places: Tensor
    """(N,) int64: the rows, in the order of their tokens."""
    starts: Tensor
    """(T,) int64: where the rows of each token begin in `places`."""


class Dispatch(NamedTuple):
    """Which slots run, as N rows in the order of experts. Slot j of token t of T has the number t·k + j."""

    counts: Tensor
    """(E,) int64: rows of each expert, summing to N."""
    order: Tensor
    """(N,) int64: the slot of each row."""
    dropped: Tensor
    """(T, k) bool: slots that have an expert, but found no room."""
    bags: Bags
    """The token of each row, and the rows of each token."""

    def gather(self, tokens: Tensor) -> Tensor:
        """The token of each row, (N, d) from (T, d). The gradient of a token is the sum of those of its rows."""
        return gather(tokens, self.bags)

    def combine(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of each token's rows, (T, d) from (N, d) and (T, k); 0 for a token without rows."""
        chosen = weights.flatten().index_select(0, self.order).to(rows.dtype)
        sums: Tensor = _Sum.apply(rows, chosen, self.bags)
        return sums


def dispatch(indices: Tensor, weights: Tensor, num_experts: int, capacity: Capacity | None = None) -> Dispatch:
    """Sort the slots by expert, leave out those without one, and drop those for which there is no room.

    A stable sort: of one expert, earlier tokens come first. One number, of the slots left out, goes to the host.

    Shape:
        - indices: (T, k) int64.
        - weights: (T, k).

    Args:
        indices: Expert of each slot, in [−1, num_experts − 1]; −1 = none.
        weights: Weights of the slots, by which a capacity may choose.
        num_experts: Number of experts E.
        capacity: The most slots per expert; None: no limit, nothing is dropped.

    Raises:
        ValueError: If an index is out of range (on a CPU; elsewhere the device says so).
    """
    slots = indices.flatten()
    if values_visible(slots) and slots.device.type == "cpu" and slots.numel():
        least, most = (int(value) for value in slots.aminmax())
        if least < -1 or most >= num_experts:
            raise ValueError(f"indices must lie in [-1, {num_experts - 1}], got values from {least} to {most}")
    wanted = slots.new_zeros(num_experts + 1).index_add_(0, slots + 1, torch.ones_like(slots))
    counts, dropped = wanted[1:], torch.zeros_like(indices, dtype=torch.bool)
    if capacity is None:
        order = slots.argsort(stable=True)[int(wanted[0]) :]
        return Dispatch(counts, order, dropped, _bags(order, *indices.shape))
    order = capacity.order(slots, weights.flatten())[int(wanted[0]) :]
    limit = capacity.limit(counts)
    kept = within(order, counts, limit)
    dropped.view(-1)[order[~kept]] = True
    return Dispatch(counts.minimum(limit), order[kept], dropped, _bags(order[kept], *indices.shape))


def gather(tokens: Tensor, bags: Bags) -> Tensor:
    """The token of each row, (N, d) from (T, d)."""
    rows: Tensor = _Gather.apply(tokens, bags)
    return rows


def _bags(order: Tensor, tokens: int, k: int) -> Bags:
    owner = order // k if k else order
    held = order.new_zeros(tokens).index_add_(0, owner, torch.ones_like(owner))
    return Bags(owner, order.argsort(), held.cumsum(0) - held)


class _Gather(Function):
    """Rows of tokens; its adjoint is the sum of rows."""

    @staticmethod
    def forward(tokens: Tensor, bags: Bags) -> Tensor:
        return tokens.index_select(0, bags.owner)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Bags], output: Tensor) -> None:
        ctx.bags = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, None, ctx.bags), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return gather(tangent, ctx.bags)


class _Sum(Function):
    """Weighted sums of each token's rows, in one pass that writes nothing else."""

    @staticmethod
    def forward(rows: Tensor, weights: Tensor | None, bags: Bags) -> Tensor:
        if not len(rows):
            return rows.new_zeros(len(bags.starts), rows.shape[-1])
        chosen = None if weights is None else weights.index_select(0, bags.places)
        sums: Tensor = nn.functional.embedding_bag(
            bags.places, rows, bags.starts, mode="sum", per_sample_weights=chosen
        )
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, Bags], output: Tensor) -> None:
        rows, weights, ctx.bags = inputs
        saved = rows if weights is not None else None, weights
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weights = ctx.saved_tensors
        spread = _Gather.apply(grad, ctx.bags)
        if weights is None:
            return spread, None, None
        needs_rows, needs_weights = ctx.needs_input_grad[:2]
        grad_weights = torch.einsum("nd,nd->n", spread, rows) if needs_weights else None
        if not needs_rows:
            return None, grad_weights, None
        scaled = spread.mul if torch.is_grad_enabled() else spread.mul_  # `spread` is nobody else's
        return scaled(weights.unsqueeze(-1)), grad_weights, None

    @staticmethod
    def jvp(ctx: Any, row_tangent: Tensor | None, weight_tangent: Tensor | None, _: None) -> Tensor:
        rows, weights = ctx.saved_tensors
        moved = _Sum.apply(row_tangent, weights, ctx.bags) if row_tangent is not None else 0
        if weight_tangent is None:
            return torch.as_tensor(moved)
        turned: Tensor = moved + _Sum.apply(rows, weight_tangent, ctx.bags)
        return turned
