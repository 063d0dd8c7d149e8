"""What stands between a router and the block that it is put into."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsek.nn import Routing

from ._call import Call


class Expected(NamedTuple):
    """What a block expects of its router."""

    d_model: int
    """Hidden size."""
    num_experts: int
    """Number of experts E."""
    k: int
    """Experts per token of the router that the block came with."""
    full_precision: bool
    """Whether the weights stay in float32 where the hidden states are half precision."""
    scale: float
    """Factor on the weights, `routed_scaling_factor`; 1 where there is none."""


class Socket:
    """Two hooks of a router: hidden states and padding go in, (logits, weights, indices) come out.

    Args:
        expected: What the block expects.
        call: The forward pass of the model, which takes the routing.
    """

    def __init__(self, expected: Expected, call: Call) -> None:
        self.expected, self.call = expected, call
        self.mask: Tensor | None = None

    def plug(self, router: nn.Module) -> None:
        """Attach both hooks."""
        router.register_forward_pre_hook(self.before, with_kwargs=True)
        router.register_forward_hook(self.after)

    def before(self, router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Flatten the tokens as the block does, and add the mask of the real ones."""
        tokens: Tensor = args[0].reshape(-1, self.expected.d_model)
        mask, self.mask = self.mask, None
        mask = None if mask is None else _latest(mask, len(tokens))
        if self.expected.full_precision:
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        return (tokens,), {**kwargs, "mask": mask}

    def after(self, router: nn.Module, args: Any, routing: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Hand the routing to the call, and what the block wants to the block."""
        self._check(routing)
        self.call.add(router, routing)
        weights = routing.weights if self.expected.scale == 1 else self.expected.scale * routing.weights
        return routing.logits, weights, _routed(routing.indices, self.expected.num_experts)

    def _check(self, routing: Any) -> None:
        if not isinstance(routing, Routing):
            raise ValueError(f"router must return a sparsek.nn.Routing, got {type(routing).__name__}")
        if routing.logits.shape[-1] != self.expected.num_experts or routing.indices.shape != routing.weights.shape:
            raise ValueError(
                f"router must route to {self.expected.num_experts} experts with a weight per index, got logits "
                f"{tuple(routing.logits.shape)}, weights {tuple(routing.weights.shape)} and indices {tuple(routing.indices.shape)}"
            )
        if routing.absent is not None:
            raise ValueError("router must weigh the chosen experts alone: the block has no output of the others")


def _latest(mask: Tensor, tokens: int) -> Tensor:
    """The part of a mask (batch, past + length) about the last positions, as many as there are tokens, flattened."""
    return mask[:, mask.shape[1] - tokens // len(mask) :].reshape(-1)


def _routed(indices: Tensor, num_experts: int) -> Tensor:
    """Give slots without an expert, whose weight is 0, to all experts in turn: these blocks know no index −1."""
    turn = torch.arange(len(indices), device=indices.device)[:, None] % num_experts
    return torch.where(indices < 0, turn, indices)
