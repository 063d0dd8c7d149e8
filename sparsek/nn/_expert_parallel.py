"""What a training loop has to know of experts that are spread over ranks: their gradients and their optimizer state are not replicated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ._sharded_experts import ShardedExperts


def sharded_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all :class:`ShardedExperts` in a model, by their names in it: those that no wrapper may reduce or shard."""
    return {
        f"{name}.{own}" if name else own: parameter
        for name, experts in _sharded(model)
        for own, parameter in experts.named_parameters(recurse=False)
    }


def exclude_sharded_experts(model: nn.Module) -> None:
    """Have `DistributedDataParallel(model)` leave the :class:`ShardedExperts` of a model alone. Call it before wrapping.

    Under Lightning's `DDPStrategy` call it on the `LightningModule`, at the end of `configure_model`.

    Example:
        >>> model = nn.Linear(2, 1)  # nothing to exclude
        >>> exclude_sharded_experts(model)
        >>> sharded_parameters(model)
        {}
    """
    names = list(sharded_parameters(model))
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


@torch.no_grad()
def clip_sharded_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients of a model to a common norm of `max_norm` at most, counting the experts of all ranks.

    `torch.nn.utils.clip_grad_norm_` would find another norm on each rank, scale by it, and so let the replicated parameters of
    the ranks drift apart. Takes ordinary gradients and those of FSDP2. Collective. Under Lightning call it in
    `configure_gradient_clipping`.

    Args:
        model: A model on every rank of data parallelism.
        max_norm: Largest Euclidean norm, above 0.

    Returns:
        The norm of all gradients together before, 0-d, the same on every rank.

    Raises:
        ValueError: If `max_norm` is not above 0.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer(torch.tensor([3.0, 4.0])).backward()
        >>> clip_sharded_grad_norm_(layer, 1.0), layer.weight.grad
        (tensor(5., dtype=torch.float64), tensor([[0.6000, 0.8000]]))
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be > 0, got {max_norm}")
    sharded = set(sharded_parameters(model).values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None and p not in sharded]
    dtensors = [gradient for gradient in gradients if hasattr(gradient, "full_tensor")]
    squares = [_square([gradient for gradient in gradients if not hasattr(gradient, "full_tensor")])]
    if dtensors:
        norm = nn.utils.get_total_norm(dtensors)
        squares.append(norm.full_tensor().double().square())  # type: ignore[attr-defined]  # a DTensor, of DTensors
    squares += [_square_across(experts) for _, experts in _sharded(model)]
    norm = torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt()
    factor = float((max_norm / norm.clamp_min(1e-300)).clamp_max(1))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
    return norm


def gather_expert_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Have `optimizer.state_dict()` hold the state of all experts of a model, and `load_state_dict` take this rank's own.

    Then a training run resumes on any number of ranks, also from the one state that rank 0 saves; otherwise every rank would take
    the moments of rank 0's experts for those of its own. Gathered is what has an entry per expert. `state_dict` becomes
    collective. Call it once, where the optimizer is made: under Lightning in `configure_optimizers`.
    """
    owners = {parameter: experts for _, experts in _sharded(model) for parameter in experts.parameters(recurse=False)}
    optimizer.register_state_dict_post_hook(partial(_map_state, owners, ShardedExperts.gather))
    optimizer.register_load_state_dict_pre_hook(partial(_map_state, owners, ShardedExperts.own))


def _sharded(model: nn.Module) -> Iterator[tuple[str, ShardedExperts]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, ShardedExperts))


def _square(gradients: list[Tensor]) -> Tensor:
    """The squared norm of gradients, 0-d float64."""
    norm = nn.utils.get_total_norm(gradients)
    return norm.double().square()


def _square_across(experts: ShardedExperts) -> Tensor:
    """The squared norm of the gradients of all experts of a layer."""
    own = _square([parameter.grad for parameter in experts.parameters() if parameter.grad is not None])
    own = own.to(experts.up.device)
    torch.distributed.all_reduce(own, group=experts.group)
    return own


def _map_state(
    owners: dict[nn.Parameter, ShardedExperts],
    change: Callable[[ShardedExperts, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> dict[str, Any]:
    """Change what a state holds for parameters of experts; the saved parameters stand in the order of the optimizer's own."""
    saved = [name for group in state["param_groups"] for name in group["params"]]
    ours = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    changed = dict(state["state"])
    for name, parameter in zip(saved, ours, strict=True):
        if parameter in owners and name in changed:
            part = partial(change, owners[parameter])
            changed[name] = {
                key: part(value) if isinstance(value, Tensor) and value.dim() else value
                for key, value in changed[name].items()
            }
    return state | {"state": changed}
