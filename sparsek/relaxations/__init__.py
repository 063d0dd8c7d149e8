"""Relaxations of top-k as small immutable objects."""

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
