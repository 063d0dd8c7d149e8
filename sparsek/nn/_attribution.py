"""Learned attribution: one score for each internal unit of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsek._validation import check_positive
from sparsek.estimators import PathwiseEstimator
from sparsek.functional import topk_mask
from sparsek.relaxations import Relaxation, SigmoidTopK
from sparsek.sampling import Design

from ._marginals import Marginals
from ._selector import check_pathwise
from ._unit_site import UnitSite, hook_activations


class _Place(NamedTuple):
    """The units of one module: numbers `start` to `start + units`."""

    name: str
    start: int
    units: int
    of_input: bool
    dim: int


class Attribution(nn.Module):
    r"""Scores of internal units of a model: which k of them keep its behaviour? For every k at once.

    A unit with activation a and mask m works as $m a + (1 - m)\, a_0$, where $a_0$ is 0, or its mean once :meth:`recording` has
    seen data. The scores θ are one parameter for all units of all sites, so that sites compete for one budget. Training minimises

    $$E_k\, L\big(\text{model under } σ_k(θ / T)\big), \quad \log k \sim \text{Uniform}(0, \log n),$$

    a fresh real k every step (:meth:`draw_k`): one run serves every budget, and the top k of one vector of scores are nested.
    :class:`~sparsek.tasks.AttributionTask` does it with Lightning.

    Inside of :meth:`masked` the model is in eval mode and its parameters want no gradient; when it ends, also by an exception, hooks
    are gone and modes and `requires_grad` are what they were. Parameters are never written.

    Args:
        model: Any module. It stays the caller's.
        sites: Where its units are. A module may be in several sites only on different sides.
        relaxation: Maps scores to a mask.
        estimator: `Marginals()` masks with the relaxation itself, `StraightThrough()` with samples of the design.
        design: For estimators that sample; None = their default.
        temperature: T > 0.

    Raises:
        ValueError: If there is no site, one matches no module or two meet, or parts do not fit; while running, if the activations of
            a site are no tensors that its units divide, or a module of a site was passed by.

    Example:
        >>> from sparsek.nn import Attribution, UnitSite
        >>> x, model = torch.eye(4), nn.Linear(4, 1, bias=False).requires_grad_(False)
        >>> model.weight[:] = torch.tensor([1.0, 0.0, 4.0, 2.0])
        >>> attribution = Attribution(nn.Sequential(model), [UnitSite("0", units=4, of_input=True)])
        >>> optimizer = torch.optim.Adam([attribution.scores], lr=0.1)
        >>> for _ in range(50):
        ...     with attribution.masked(attribution.mask(attribution.draw_k())):
        ...         (attribution.model(x) - model.weight.T).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> attribution.ranking()
        tensor([2, 3, 0, 1])

    References:
        Michel, Levy, Neubig (2019), "Are Sixteen Heads Really Better than One?", https://arxiv.org/abs/1905.10650
        De Cao, Schlichtkrull, Aziz, Titov (2020), "How do Decisions Emerge across Layers in Neural Models? Interpretation with
        Differentiable Masking", https://arxiv.org/abs/2004.14992
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot", https://openreview.net/forum?id=VMlajIH1oF
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[UnitSite],
        relaxation: Relaxation | None = None,
        estimator: PathwiseEstimator | None = None,
        design: Design | None = None,
        *,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.model, self.temperature = model, temperature
        self.relaxation = SigmoidTopK() if relaxation is None else relaxation
        self.estimator = Marginals() if estimator is None else estimator
        check_pathwise(self.estimator)
        self.estimator.check(1.5, self.relaxation)  # k is real
        self.design = self.estimator.resolve_design(design) if self.estimator.uses_design else None
        self.places = _places(model, sites)
        self.num_units = sum(place.units for place in self.places)
        device = next((parameter.device for parameter in model.parameters()), None)
        self.scores = nn.Parameter(torch.zeros(self.num_units, device=device))
        for number in range(len(self.places)):
            self.register_buffer(f"mean_{number}", torch.zeros((), device=device))
        self._open = False

    @property
    def names(self) -> list[tuple[str, int]]:
        """For each unit its module and its number there."""
        return [(place.name, unit) for place in self.places for unit in range(place.units)]

    def mask(self, k: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a mask (n,) of size k, in [1, n] or any real number from 0 to n, with a gradient to the scores."""
        return self.estimator(self.scores / self.temperature, k, self.relaxation, self.design, generator)

    @torch.no_grad()
    def top(self, k: float | Tensor) -> Tensor:
        """Return the mask (n,) of the k highest scores; ties go to the unit that comes first."""
        return topk_mask(self.scores, k)

    def ranking(self) -> Tensor:
        """Return the units from the highest score to the lowest, (n,): the first k are those of :meth:`top`."""
        return self.scores.detach().argsort(descending=True, stable=True)

    def draw_k(self, generator: torch.Generator | None = None) -> float:
        """Draw k from 1 to n, log-uniformly: every factor of two of the budget gets its share."""
        uniform = torch.rand((), dtype=torch.float64, generator=generator)
        return math.exp(float(uniform) * math.log(self.num_units))

    @contextmanager
    def masked(self, mask: Tensor) -> Iterator[None]:
        """While this is open, the units work under a mask (n,); gradients flow to the mask.

        Args:
            mask: Of every unit, 1 = as it is, 0 = ablated; any real numbers.

        Raises:
            ValueError: If the mask has another shape or is not floating-point, or a mask is on already.
        """
        if not isinstance(mask, Tensor) or not mask.is_floating_point() or mask.shape != (self.num_units,):
            got = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask must be floating-point of shape ({self.num_units},), got {got}")
        with self._hooked(lambda number, x: self._ablate(number, x, mask)):
            yield

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What units were on average while this was open is what ablation puts in their place from then on.

        The mean is over all positions of all calls of a module, padding included.
        """
        sums: dict[int, tuple[Tensor, int]] = {}

        def add(number: int, x: Tensor) -> Tensor:
            moved = x.detach().movedim(self.places[number].dim, -1)
            rows = moved.reshape(-1, moved.shape[-1])
            total, count = sums.get(number, (0.0, 0))
            sums[number] = (total + rows.to(torch.promote_types(x.dtype, torch.float32)).sum(0), count + len(rows))
            return x

        with self._hooked(add), torch.no_grad():
            yield
        for number, (total, count) in sums.items():
            setattr(self, f"mean_{number}", total / max(count, 1))

    @contextmanager
    def _hooked(self, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        """Change activations; the model in eval mode, its parameters without gradients."""
        if self._open:
            raise ValueError("mask must be one at a time: this attribution's hooks are on already")
        called: set[int] = set()

        def at(number: int) -> Callable[[Tensor], Tensor]:
            def changed(x: Tensor) -> Tensor:
                called.add(number)
                self._check(number, x)
                return change(number, x)

            return changed

        with ExitStack() as stack:
            stack.callback(setattr, self, "_open", self._open)
            self._open = True
            _quieten(self.model, stack)
            for number, place in enumerate(self.places):
                handle = hook_activations(self.model.get_submodule(place.name), place.of_input, at(number))
                stack.callback(handle.remove)
            yield
            if called and len(called) < len(self.places):
                missed = [place.name for number, place in enumerate(self.places) if number not in called]
                raise ValueError(f"sites must be modules that run, got {missed[0]!r}, which was passed by")

    def _check(self, number: int, x: Tensor) -> None:
        place = self.places[number]
        if not -x.dim() <= place.dim < x.dim() or x.shape[place.dim] % place.units:
            raise ValueError(
                f"units must divide {'the last dimension' if place.dim == -1 else f'dimension {place.dim}'} of the activations "
                f"of {place.name!r}, of shape {tuple(x.shape)}, got {place.units}"
            )

    def _ablate(self, number: int, x: Tensor, mask: Tensor) -> Tensor:
        place = self.places[number]
        x = x.movedim(place.dim, -1)
        kept = mask[place.start : place.start + place.units].repeat_interleave(x.shape[-1] // place.units).to(x.dtype)
        mean: Tensor = getattr(self, f"mean_{number}").to(x.dtype)
        return (x * kept + mean * (1 - kept)).movedim(-1, place.dim)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over the shapes of recorded means."""
        for number in range(len(self.places)):
            saved = state_dict.get(f"{prefix}mean_{number}")
            if saved is not None:
                setattr(self, f"mean_{number}", torch.zeros_like(saved, device=self.scores.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return the number of units."""
        return f"num_units={self.num_units}, modules={len(self.places)}"


def _places(model: nn.Module, sites: Sequence[UnitSite]) -> tuple[_Place, ...]:
    found: list[_Place] = []
    start = 0
    for site in sites:
        for name in site.modules(model):
            if any((place.name, place.of_input) == (name, site.of_input) for place in found):
                raise ValueError(f"sites must not meet, but two of them match {name!r}")
            found.append(_Place(name, start, site.units, site.of_input, site.dim))
            start += site.units
    if not found:
        raise ValueError("sites must be at least one")
    return tuple(found)


def _quieten(model: nn.Module, stack: ExitStack) -> None:
    """Eval mode and no gradients to parameters, until the stack is closed."""
    for module in model.modules():
        if module.training:
            stack.callback(setattr, module, "training", True)
            module.training = False
    for parameter in model.parameters():
        if parameter.requires_grad:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
