"""Gradients through a k-hot sample.

| estimator | kind | exact for | uses the design | k |
|---|---|---|---|---|
| :class:`StraightThrough` (default) | pathwise | linear f | any with exact π | real |
| :class:`SecondOrder` | pathwise | linear and quadratic f | one with a smooth law | real |
| :class:`ReinMax` | pathwise | – (published form) | any with exact π | real |
| :class:`Simple` | pathwise | linear f | fixes conditional Poisson on logits | whole |
| :class:`IMLE` | pathwise | – (finite differences) | no | whole |
| :class:`Relaxed` | pathwise | – (soft samples: their own mean loss) | no | whole if hard |
| :class:`ScoreFunction` | loss-level | any f | one with a smooth law | real |
| :class:`MuProp` | loss-level | any differentiable f | one with a smooth law | real |

A *pathwise* estimator is called like a function and returns the sample with a gradient attached. A *loss-level* one
has `surrogate(fn, ...)`, which returns the mean loss with the estimate as its gradient.
"""

from ._estimator import Estimator as Estimator
from ._estimator import PathwiseEstimator as PathwiseEstimator
from ._imle import IMLE as IMLE
from ._loss_estimator import LossEstimator as LossEstimator
from ._muprop import MuProp as MuProp
from ._reinmax import ReinMax as ReinMax
from ._relaxed import Relaxed as Relaxed
from ._score import ScoreWarning as ScoreWarning
from ._score_function import ScoreFunction as ScoreFunction
from ._second_order import SecondOrder as SecondOrder
from ._simple import Simple as Simple
from ._straight_through import StraightThrough as StraightThrough

__all__ = [
    "IMLE",
    "Estimator",
    "LossEstimator",
    "MuProp",
    "PathwiseEstimator",
    "ReinMax",
    "Relaxed",
    "ScoreFunction",
    "ScoreWarning",
    "SecondOrder",
    "Simple",
    "StraightThrough",
]
