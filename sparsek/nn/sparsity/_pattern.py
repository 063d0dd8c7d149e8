"""Which weights of a model stay, as an object: what a training task is given, and a configuration file names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import nn

from sparsek.nn._schedule import Schedule

from ._parametrize import parametrize, parametrize_n_m
from ._rule import MaskRule
from ._scores import Magnitude, WeightScores


class Pattern(ABC):
    """A way to make the weights of a model sparse. A subclass writes :meth:`apply`.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> class FirstLayer(Pattern):
        ...     def apply(self, model):
        ...         return sparsity.parametrize(model, k=5, tensors=[(model.layers[0], "weight")])
        >>> sparsity.count(FirstLayer().apply(MLP(4, 3, hidden=(6,))).eval())
        (23, 42)
    """

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Parametrize a model, and return it."""


@dataclass(frozen=True)
class Unstructured(Pattern):
    """k of all weights, or of each layer's: see :func:`~sparsek.nn.sparsity.parametrize`.

    Args:
        k: Number of weights that stay.
        sparsity: Share of the weights that go; exactly one of it and `k` is given.
        per_layer: Whether each layer has a budget of its own.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> sparsity.count(Unstructured(sparsity=0.9).apply(MLP(20, 10)).eval())
        (192, 1920)
    """

    k: float | Schedule | None = None
    sparsity: float | None = None
    per_layer: bool = False
    scores: WeightScores = field(default_factory=Magnitude)
    rule: MaskRule = field(default_factory=MaskRule)

    def apply(self, model: nn.Module) -> nn.Module:
        """Put all weights on a budget."""
        return parametrize(
            model, self.k, sparsity=self.sparsity, per_layer=self.per_layer, scores=self.scores, rule=self.rule
        )


@dataclass(frozen=True)
class NOfM(Pattern):
    """n of every m neighbouring inputs: see :func:`~sparsek.nn.sparsity.parametrize_n_m`.

    Args:
        n: How many of a group stay.
        m: Size of a group.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> sparsity.count(NOfM(1, 4).apply(MLP(20, 10)).eval())
        (480, 1920)
    """

    n: int = 2
    m: int = 4
    scores: WeightScores = field(default_factory=Magnitude)
    rule: MaskRule = field(default_factory=MaskRule)

    def apply(self, model: nn.Module) -> nn.Module:
        """Put all weights in groups."""
        return parametrize_n_m(model, self.n, self.m, scores=self.scores, rule=self.rule)
