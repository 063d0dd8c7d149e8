"""Replace the routers of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import install_output_capuring_hook

from sparsek.nn import Router, SigmoidGate

from ._block import Block, blocks
from ._call import Call
from ._padding import carry_padding, stacks
from ._socket import Expected, Socket

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")

RouterFactory = Callable[..., nn.Module]
"""Makes the router of one layer from (d_model, num_experts, k), or from the first two if it settles k itself. A router is a module
with the call of :class:`~sparsek.nn.Router`: tokens and `mask` to a :class:`~sparsek.nn.Routing`."""


def replace_router(
    model: Model, router_factory: RouterFactory, *, copy_weights: bool = True, scale: float | None = None
) -> Model:
    r"""Put a sparsek router in place of every router of a Hugging Face mixture-of-experts model.

    The router becomes the `gate` of its block, on the device and in the dtype of the one that it replaces. Experts, shared
    experts and everything else stay as they are. For :class:`~sparsek.nn.Router` the state dictionary keeps the name
    `….gate.weight` and gains `….gate.bias`.

    While training, a forward pass of the model adds the losses of the balancers to the `loss` that it returns with labels, and
    shows every router its load; after each optimizer step call `step` of all :func:`routers`, or give :class:`RouterStep` to
    the `Trainer`. The output has `routings`, one :class:`~sparsek.nn.Routing` a layer. Positions that `attention_mask` (batch,
    length) hides are routed nowhere and counted nowhere.

    Two things of the old routers go with them: the limit of groups in DeepSeek (:func:`routing_parts` has it as a selection),
    and the model's own auxiliary loss, which `output_router_logits=True` still adds, reckoned from the new logits.

    Args:
        model: A model of `transformers` whose blocks have `experts` and a `gate` that maps hidden states to (logits, weights,
            indices). It is changed in place.
        router_factory: Makes the router of one layer from (d_model, num_experts, k) with the k of the model, such as
            `Router` or `partial(Router, balancer=DualBias())`, or from the first two: `partial(Router, k=1)`.
        copy_weights: Whether a router starts with the weights of the one that it replaces, if shapes agree; under
            :class:`~sparsek.nn.SigmoidGate` with its `e_score_correction_bias` too.
        scale: Factor on all weights; None: the `routed_scaling_factor` of the block, 1 where it has none.

    Returns:
        The model.

    Raises:
        ValueError: If the model has no such block, layers without `self_attn` (padding reaches the routers by it), or routers
            that are replaced already; if a router does not fit its block
            (k above the number of experts, other sizes, a gradient that needs the outputs of experts that were not run). In
            a forward pass: if a router returns anything but a :class:`~sparsek.nn.Routing`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from sparsek.nn import DualBias, Router
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> config = MixtralConfig(vocab_size=50, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_key_value_heads=2, num_local_experts=4)
        >>> model = replace_router(MixtralForCausalLM(config), partial(Router, balancer=DualBias()))
        >>> tokens = torch.arange(10)[None]
        >>> output = model.train()(tokens, labels=tokens)
        >>> output.routings[0].indices.shape, [router.load.sum().item() for router in routers(model)]
        (torch.Size([10, 2]), [20])
    """
    found = blocks(model)
    stacks(model, [block.name for block in found])
    new = [_make(router_factory, block, copy_weights) for block in found]
    if len(set(map(id, new))) < len(new):
        raise ValueError("router_factory must make a new router for each layer, got the same one twice")
    call, sockets = Call(), {}
    for block, router in zip(found, new, strict=True):
        expected = block.expected if scale is None else block.expected._replace(scale=scale)
        sockets[block.name] = Socket(expected, call)
        sockets[block.name].plug(router)
        install_output_capuring_hook(router, "router_logits", 0)  # what `output_router_logits` returns
        block.module.gate = router
    call.plug(model)
    carry_padding(model, sockets)
    kept = model._keep_in_fp32_modules_strict or ()
    model._keep_in_fp32_modules_strict = {*kept, "gate.bias", "gate.coefficient"}  # when weights are loaded in less
    return model


def routers(model: nn.Module) -> tuple[Router, ...]:
    """The sparsek routers of a model, first layer first."""
    return tuple(module for module in model.modules() if isinstance(module, Router))


def _make(factory: RouterFactory, block: Block, copy_weights: bool) -> nn.Module:
    """A router for a block, in the place, precision and mode of the one that it has."""
    expected, old = block.expected, block.gate
    router = _call(factory, expected.d_model, expected.num_experts, expected.k)
    _check(router, expected)
    weight = old.get_parameter("weight")
    router.to(weight.device, weight.dtype).train(old.training)
    for name, state in router.named_buffers(recurse=False) if isinstance(router, Router) else ():
        router.register_buffer(name, state.to(torch.promote_types(state.dtype, torch.float32)))  # if made in less
    if copy_weights:
        _copy(router, old)
    return router


def _call(factory: RouterFactory, *sizes: int) -> nn.Module:
    """Call a factory with as many sizes as it takes: three or two."""
    for args in (sizes, sizes[:2]):
        with suppress(TypeError):
            inspect.signature(factory).bind(*args)
            break
    else:
        raise ValueError(
            f"router_factory must take (d_model, num_experts, k) or (d_model, num_experts), got {inspect.signature(factory)}"
        )
    return factory(*args)


def _check(router: object, expected: Expected) -> None:
    if not isinstance(router, nn.Module):
        raise ValueError(f"router_factory must make a module that returns a Routing, got {type(router).__name__}")
    for name in ("d_model", "num_experts"):
        size = getattr(expected, name)
        if getattr(router, name, size) != size:
            raise ValueError(f"router must have {name} = {size} like its block, got {getattr(router, name)}")
    if isinstance(router, Router) and (router.gradient.uses_means or router.gradient.uses_all):
        raise ValueError(
            f"gradient must need the chosen experts alone, as the block runs no others, got {router.gradient}"
        )


@torch.no_grad()
def _copy(router: nn.Module, old: nn.Module) -> None:
    """Start with the weights of another router, and with its bias where that means the same."""
    _copy_if_alike(getattr(router, "weight", None), getattr(old, "weight", None))
    if isinstance(router, Router) and isinstance(router.gate, SigmoidGate):
        _copy_if_alike(router.bias, getattr(old, "e_score_correction_bias", None))


def _copy_if_alike(target: object, source: object) -> None:
    if isinstance(target, Tensor) and isinstance(source, Tensor) and target.shape == source.shape:
        target.copy_(source)
