"""The way of the padding mask from the model to its routers.

Blocks see hidden states alone. The mask therefore travels with the keyword arguments that a model hands to its layers, and a
layer to its attention, where it is taken out again: so a layer that is recomputed in the backward pass sees the mask of its own
forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ._socket import Socket

KEY = "sparsek_token_mask"


class Sender:
    """A hook of the module that calls the layers: adds the attention mask, if it is one of tokens, to what they are handed."""

    def __init__(self, base: nn.Module) -> None:
        names = list(inspect.signature(base.forward).parameters)
        self._position = names.index("attention_mask") if "attention_mask" in names else len(names)

    def __call__(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add the mask."""
        mask = kwargs.get("attention_mask", args[self._position] if len(args) > self._position else None)
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return args, kwargs
        return args, {**kwargs, KEY: mask.bool()}


class Receiver:
    """A hook of a layer's attention: takes the mask out again, and leaves it at the socket of the layer, if it has one."""

    def __init__(self, socket: Socket | None) -> None:
        self._socket = socket

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take the mask."""
        mask = kwargs.pop(KEY, None)
        if self._socket is not None:
            self._socket.mask = mask
        return args, kwargs


def stacks(model: nn.Module, blocks: Iterable[str]) -> tuple[str, ...]:
    """The names of the lists of layers that hold the blocks, such as `model.layers`.

    Raises:
        ValueError: If a layer has no attention by the name of `self_attn`, on which the mask travels.
    """
    found = tuple(dict.fromkeys(name.rsplit(".", 2)[0] for name in blocks))
    for stack in found:
        for name, layer in model.get_submodule(stack).named_children():
            if not isinstance(getattr(layer, "self_attn", None), nn.Module):
                raise ValueError(
                    f"model must have layers with `self_attn`, as padding reaches the routers by it: {stack}.{name} has none"
                )
    return found


def carry_padding(model: nn.Module, sockets: dict[str, Socket]) -> None:
    """Let the padding mask reach the sockets, given by the names of their blocks, such as `model.layers.0.mlp`."""
    by_layer = {name.rpartition(".")[0]: socket for name, socket in sockets.items()}
    for stack in stacks(model, sockets):
        base = model.get_submodule(stack.rpartition(".")[0])
        base.register_forward_pre_hook(Sender(base), with_kwargs=True)
        for name, layer in model.get_submodule(stack).named_children():
            receiver = Receiver(by_layer.get(f"{stack}.{name}"))
            layer.get_submodule("self_attn").register_forward_pre_hook(receiver, with_kwargs=True)
