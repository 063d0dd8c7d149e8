"""From a model with masks to a pruned one, of plain layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize as torch_parametrize

from ._global import GlobalWeights
from ._sparsity import Sparsity
from ._tensors import list_of, parametrizations


def remove(model: nn.Module) -> nn.Module:
    """Make the masks of evaluation final: plain parameters with exact zeros, and no parametrization of this module.

    Parameters keep their identity, so an optimizer goes on with them (and moves zeros). Outputs are those of evaluation, bit
    for bit. A model without sparse tensors is returned as it is.

    Args:
        model: What was parametrized, or a part that holds all tensors of the budget.

    Returns:
        The model.

    Raises:
        ValueError: If a tensor has other parametrizations beside, which would be lost.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.remove(sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=20))
        >>> type(model.layers[0]).__name__, int(sum((layer.weight != 0).sum() for layer in model.layers[::2]))
        ('Linear', 20)
    """
    found = list(parametrizations(model))
    _check_whole([part for _, _, part in found])
    for module, name, _ in found:
        others = len(list_of(module, name)) - 1
        if others:
            raise ValueError(f"{name!r} of {type(module).__name__} must have no other parametrization, got {others}")
    with torch.no_grad():
        for _, _, part in found:
            part.eval()
        pruned = [getattr(module, name).clone() for module, name, _ in found]
    for (module, name, part), weight in zip(found, pruned, strict=True):
        _own_class(module)
        torch_parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        with torch.no_grad():
            getattr(module, name).copy_(weight)
        if isinstance(part, GlobalWeights):
            part.budget.close()
    return model


def _own_class(module: nn.Module) -> None:
    """Give a module a class of its own. Copies share the one that torch made, and torch removes the property from that class."""
    shared = type(module)
    body = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, body)


def _check_whole(parts: list[Sparsity]) -> None:
    """Refuse a part of a budget: what is left could not be masked."""
    removed = {id(part) for part in parts}
    for part in parts:
        if isinstance(part, GlobalWeights) and not all(id(member) in removed for _, member in part.budget.members):
            raise ValueError("model must hold all tensors that share its budget, got a part of the model")
