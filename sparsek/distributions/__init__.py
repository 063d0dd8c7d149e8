"""Distributions on k-hot vectors, with the contract of :mod:`torch.distributions`.

| distribution | parameter | log_prob | mean | covariance | entropy, KL | rsample |
|---|---|---|---|---|---|---|
| `KHot` | inclusion probabilities, a design | the design's | exact | the design's | enumeration; Poisson: exact | – |
| `ConditionalPoisson` | natural parameters | exact | exact | exact | exact | – |
| `GumbelTopK` | logits | quadrature, 1e-13 | quadrature, 1e-13 | enumeration | enumeration | – |
| `…StraightThrough` | as above | | | | | value exact, gradient that of the mean |
| `RelaxedKHot` | logits, temperature | – | – | – | – | exact |

`sample` and `rsample` take a `generator`. Enumeration is exact and covers n ≤ 16.
"""

from . import _kl as _kl
from ._conditional_poisson import ConditionalPoisson as ConditionalPoisson
from ._conditional_poisson import ConditionalPoissonStraightThrough as ConditionalPoissonStraightThrough
from ._gumbel_top_k import GumbelTopK as GumbelTopK
from ._gumbel_top_k import GumbelTopKStraightThrough as GumbelTopKStraightThrough
from ._khot import KHot as KHot
from ._khot import KHotStraightThrough as KHotStraightThrough
from ._relaxed_khot import RelaxedKHot as RelaxedKHot

__all__ = [
    "ConditionalPoisson",
    "ConditionalPoissonStraightThrough",
    "GumbelTopK",
    "GumbelTopKStraightThrough",
    "KHot",
    "KHotStraightThrough",
    "RelaxedKHot",
]
