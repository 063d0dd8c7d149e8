"""Distributions on k-hot vectors, with the contract of :mod:`torch.distributions`.

| distribution | parameter | log_prob | mean | covariance | entropy, KL |
|---|---|---|---|---|---|
| `KHot` | inclusion probabilities, a design | the design's | exact | the design's | (conditional) Poisson: exact |
| `ConditionalPoisson` | natural parameters | exact | exact | exact | exact |
| `GumbelTopK` | logits | quadrature, 1e-13 | quadrature, 1e-13 | enumeration | enumeration |
| `RelaxedKHot` | logits, temperature | – | – | – | – |

`…StraightThrough` classes have an `rsample` whose value is exact and whose gradient is that of the mean; `RelaxedKHot` has
an exact one. `sample` and `rsample` take a `generator`. What has no
formula is enumerated, exactly, for n ≤ 16.
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
