"""The mixture-of-experts blocks of a model, and what each of them expects of its router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsek.nn import Router

from ._socket import Expected


class Block(NamedTuple):
    """One mixture-of-experts block: a module with `experts` and a `gate` that returns (logits, weights, indices)."""

    name: str
    """Its name in the model, such as `model.layers.0.mlp`."""
    module: nn.Module
    """The block."""
    expected: Expected
    """What it expects of a router."""

    @property
    def gate(self) -> nn.Module:
        """The router that it has."""
        return self.module.get_submodule("gate")


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """The blocks of a model, first layer first.

    Raises:
        ValueError: If there is none, or one whose router takes or gives something else, or is replaced already.
    """
    found = tuple(_blocks(model))
    if not found:
        raise ValueError(
            "model must have mixture-of-experts blocks with `experts` and a `gate` that maps hidden states to (logits, "
            f"weights, indices), as those of Mixtral, OLMoE, Qwen-MoE and DeepSeek have; {type(model).__name__} has none"
        )
    return found


def _blocks(model: nn.Module) -> Iterator[Block]:
    for name, module in model.named_modules():
        gate, experts = getattr(module, "gate", None), getattr(module, "experts", None)
        if isinstance(gate, Router):
            raise ValueError(f"model must have the routers that it was made with: those of {name} are replaced already")
        if isinstance(gate, nn.Module) and isinstance(experts, nn.Module):
            yield Block(name, module, _expected(name, gate))


def _expected(name: str, gate: nn.Module) -> Expected:
    """Ask a router for its contract: route two tokens of bfloat16 on the meta device, where nothing is computed."""
    weight = getattr(gate, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise _unknown(name, gate, "it has no weight of shape (experts, hidden size)")
    state = {key: _bare(value) for key, value in (*gate.named_parameters(), *gate.named_buffers())}
    tokens = torch.empty(1, 2, weight.shape[1], dtype=torch.bfloat16, device="meta")
    try:
        output = functional_call(gate, state, (tokens,))
    except TypeError as error:  # another signature
        raise _unknown(name, gate, str(error)) from error
    if not isinstance(output, tuple) or len(output) != 3 or output[0].shape[-1] != len(weight):
        raise _unknown(name, gate, "it returns something else")
    _, weights, indices = output
    if weights.dim() != 2 or weights.shape != indices.shape:
        raise _unknown(name, gate, f"its weights are {tuple(weights.shape)} and its indices {tuple(indices.shape)}")
    scale = float(getattr(gate, "routed_scaling_factor", 1.0))
    return Expected(weight.shape[1], len(weight), weights.shape[1], weights.dtype == torch.float32, scale)


def _bare(value: Tensor) -> Tensor:
    """Its shape in bfloat16 on the meta device."""
    return torch.empty(value.shape, dtype=torch.bfloat16, device="meta")


def _unknown(name: str, gate: nn.Module, what: str) -> ValueError:
    return ValueError(
        f"the gate of {name}, {type(gate).__name__}, must map hidden states to (logits, weights, indices): {what}"
    )
