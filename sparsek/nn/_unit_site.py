"""Internal units of a model: where they are, and how they are switched off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class UnitSite:
    """Units of a model by the names of modules: equal consecutive groups of channels of what a module takes or gives.

    - residual channels or hidden units of a layer: `UnitSite("blocks.*.activation", 512)`, one channel each;
    - attention heads: the input of the projection that mixes them, `UnitSite("blocks.*.project_out", 8, of_input=True)`;
    - channels of a convolution, (rows, channels, height, width): `UnitSite("layer?.*.conv1", 64, dim=1)`.

    Args:
        pattern: Name of a module as in `named_modules`; `*` and `?` stand for any characters and match every module they fit.
        units: Number of units in each of these modules; it divides the size of dimension `dim` of the activations.
        of_input: Whether they are in the first argument of the module, not in its output. Of a module that returns a tuple the first
            item counts.
        dim: Dimension of the activations along which units lie.

    Raises:
        ValueError: If `units` is not a whole number of at least 1, or `dim` is not a whole number.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> UnitSite("?", 2).modules(model)
        ['0', '1', '2']
    """

    pattern: str
    units: int
    of_input: bool = False
    dim: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.units, int) or isinstance(self.units, bool) or self.units < 1:
            raise ValueError(f"units must be a whole number of at least 1, got {self.units!r}")
        if not isinstance(self.dim, int) or isinstance(self.dim, bool):
            raise ValueError(f"dim must be a whole number, got {self.dim!r}")

    def modules(self, model: nn.Module) -> list[str]:
        """Return the names of the modules that the pattern matches, in the order of the model; refuse a pattern without any."""
        names = [name for name, _ in model.named_modules() if name and fnmatchcase(name, self.pattern)]
        if not names:
            known = ", ".join([name for name, _ in model.named_modules() if name][:8])
            raise ValueError(f"pattern {self.pattern!r} matches no module of {type(model).__name__}; it has {known}, …")
        return names


Change = Callable[[Tensor], Tensor]


def hook_activations(module: nn.Module, of_input: bool, change: Change) -> RemovableHandle:
    """From now on the module takes, or gives, what `change` makes of its activations."""
    if of_input:

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(_tensor(args[0])), *args[1:]), kwargs
            name = next(iter(kwargs), None)
            return args, kwargs if name is None else {**kwargs, name: change(_tensor(kwargs[name]))}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return change(_tensor(output))
        items = (change(_tensor(output[0])), *output[1:])
        return type(output)(*items) if hasattr(output, "_fields") else items

    return module.register_forward_hook(after)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"a site must be at a tensor, or a tuple that begins with one, got {type(value).__name__}")
    return value
