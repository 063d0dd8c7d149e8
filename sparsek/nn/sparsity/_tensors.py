"""Which tensors of a model are sparse or can be, and what is done to all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ._global import GlobalWeights
from ._sparsity import Sparsity, check_weight

At = tuple[nn.Module, str]
Tensors = Iterable[At]
_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def layer_weights(model: nn.Module) -> Iterator[At]:
    """Yield where the weights of linear and convolutional layers are."""
    yield from ((module, "weight") for module in model.modules() if isinstance(module, _LAYERS))


def choose(model: nn.Module, tensors: Tensors | None) -> list[At]:
    """Return the tensors, checked."""
    if tensors is None:
        tensors = layer_weights(model)
    chosen = list(tensors)
    if not chosen:
        raise ValueError(
            "tensors must name at least one parameter, got none; the model has no linear or convolutional layer"
        )
    for module, name in chosen:
        _check_tensor(module, name)
    if len({id(getattr(*at)) for at in chosen}) < len(chosen):
        raise ValueError("tensors must be distinct parameters, got one twice or one that two layers share")
    return chosen


def _check_tensor(module: nn.Module, name: str) -> None:
    kind = type(module).__name__
    if is_parametrized(module, name):
        raise ValueError(f"{name!r} of {kind} is parametrized already; take that off first: sparsity.remove(model)")
    parameter = getattr(module, name, None)
    if not isinstance(parameter, nn.Parameter):
        raise ValueError(f"tensors must name parameters, got {name!r} of {kind}, which has none of that name")
    check_weight(f"{name!r} of {kind}", parameter)


def list_of(module: nn.Module, name: str) -> ParametrizationList:
    """The parametrizations of a tensor."""
    return cast(ParametrizationList, cast(nn.ModuleDict, module.parametrizations)[name])


def parametrizations(model: nn.Module) -> Iterator[tuple[nn.Module, str, Sparsity]]:
    """Yield the sparse tensors of a model: the module, the name and the parametrization.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=20)
        >>> [(name, part.shape) for _, name, part in sparsity.parametrizations(model)]
        [('weight', torch.Size([16, 8])), ('weight', torch.Size([2, 16]))]
    """
    for module in model.modules():
        if is_parametrized(module):
            for name in cast(nn.ModuleDict, module.parametrizations):
                yield from ((module, name, part) for part in list_of(module, name) if isinstance(part, Sparsity))


def anneal(model: nn.Module, progress: float) -> None:
    """Set the share of training that is done, in [0, 1], in every sparse tensor of a model.

    Raises:
        ValueError: If it is out of range, or the model has no sparse tensor.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=20)
        >>> sparsity.anneal(model, 0.0)
        >>> [mask.sum().item() for mask in sparsity.masks(model).values()]  # all of them
        [128.0, 32.0]
    """
    found = [part for _, _, part in parametrizations(model)]
    if not found:
        raise ValueError("model must have sparse tensors, got none; see sparsek.nn.sparsity.parametrize")
    for part in found:
        part.anneal(progress)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the mask of every sparse tensor by its name, in the mode that the model is in.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.parametrize_n_m(MLP(4, 4, hidden=()), n=1, m=2).eval()
        >>> sparsity.masks(model)["layers.0.weight"].sum(-1)
        tensor([2., 2., 2., 2.])
    """
    names = {module: prefix for prefix, module in model.named_modules()}
    found = list(parametrizations(model))
    with ExitStack() as budgets:
        for budget in {part.budget for _, _, part in found if isinstance(part, GlobalWeights)}:
            budgets.enter_context(budget.kept())
        return {f"{names[module]}.{name}".lstrip("."): _mask(module, name, part) for module, name, part in found}


def _mask(module: nn.Module, name: str, part: Sparsity) -> Tensor:
    weight = _before(list_of(module, name), part)
    return part.relaxed_mask(weight) if part.training else part.exact_mask(weight)


def _before(parts: ParametrizationList, wanted: Sparsity) -> Tensor:
    """What a parametrization is given: the output of those that come first."""
    names = ["original"] if parts.is_tensor else [f"original{i}" for i in range(parts.ntensors)]
    values = tuple(getattr(parts, name) for name in names)
    for part in parts:
        if part is wanted:
            break
        values = (part(*values),)
    weight: Tensor = values[0]
    return weight


def count(model: nn.Module) -> tuple[int, int]:
    """Return how many weights of the linear and convolutional layers are not 0, and how many there are.

    Of tensors with masks it counts the masked ones, in the mode that the model is in.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> sparsity.count(sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=20).eval())
        (20, 160)
    """
    with torch.no_grad():
        weights = [getattr(*at) for at in layer_weights(model)]
        return sum(int(weight.count_nonzero()) for weight in weights), sum(weight.numel() for weight in weights)
