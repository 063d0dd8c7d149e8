"""Relaxations of top-k as small immutable objects over :mod:`sparsek.functional`.

| relaxation | on the capped simplex | k | take it for |
|---|---|---|---|
| :class:`SigmoidTopK` (default) | yes | real | a smooth π with a gradient to every unit; `hard=True`: 0 and 1 with that gradient |
| :class:`Euclidean` | yes | real | a sparse π: far units are exactly 0 or 1, with gradient 0 |
| :class:`LapSum` | yes | real | Laplace in place of logistic tails; solved in closed form between scores |
| :class:`Sinkhorn` | yes | real | :class:`SigmoidTopK` in the parameters of optimal transport |
| :class:`ScaledSigmoid` | yes | real | comparison; depends on the level of the scores |
| :class:`Perturbed` | yes | real | top-k under noise, as a mean over draws; random |
| :class:`SuccessiveSoftmax` | no | whole | comparison, and :class:`sparsek.estimators.Relaxed` |

What lies on the capped simplex can be the inclusion probabilities of a design in :mod:`sparsek.sampling`.
"""

from ._euclidean import Euclidean as Euclidean
from ._lapsum import LapSum as LapSum
from ._perturbed import Perturbed as Perturbed
from ._relaxation import Relaxation as Relaxation
from ._scaled_sigmoid import ScaledSigmoid as ScaledSigmoid
from ._sigmoid_topk import SigmoidTopK as SigmoidTopK
from ._sinkhorn import Sinkhorn as Sinkhorn
from ._successive_softmax import SuccessiveSoftmax as SuccessiveSoftmax

__all__ = [
    "Euclidean",
    "LapSum",
    "Perturbed",
    "Relaxation",
    "ScaledSigmoid",
    "SigmoidTopK",
    "Sinkhorn",
    "SuccessiveSoftmax",
]
