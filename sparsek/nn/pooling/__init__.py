"""Pooling: from many vectors to one. Every pooling keeps the contract of :class:`Pooling`.

- No parameters: :class:`MeanPool`, :class:`MaxPool`, :class:`ClsPool`, :class:`LastTokenPool`, :class:`MeanSqrtLenPool`,
  :class:`LogSumExpPool`, and :class:`WeightedMeanPool` with a :class:`Weighting` (:class:`PositionWeighting`, :class:`RecencyWeighting`).
- Between mean and maximum: :class:`GeM` by a power, with a :class:`~sparsek.functional.pooling.SignPolicy`; :class:`TopKMeanPool` by a
  number of values.
- Learnt weights of tokens: :class:`GatedPool`, :class:`AttentionPool`, :class:`GatedAttentionPool`, :class:`SigmoidTopKPool`;
  :class:`MultiheadAttentionPool` with several queries, a :class:`Combination` (:class:`Concatenate`, :class:`Average`) of their views.
- Part of the tokens: :class:`SampledTokenPool`, by any design of :mod:`sparsek.sampling`, with :class:`HorvitzThompsonWeights` or
  :class:`HajekWeights`, :class:`NormSizes` or :class:`EqualSizes`, and a variance by :class:`SenYatesGrundy` or
  :class:`ApproximateVariance`.

Rows without a token: :class:`ZeroIfEmpty`, :class:`NanIfEmpty`, :class:`RaiseIfEmpty`.
"""

from sparsek.functional.pooling import AbsoluteValue as AbsoluteValue
from sparsek.functional.pooling import ClampNegative as ClampNegative
from sparsek.functional.pooling import RefuseNegative as RefuseNegative
from sparsek.functional.pooling import SignedPower as SignedPower
from sparsek.functional.pooling import SignPolicy as SignPolicy

from ._attention import AttentionPool as AttentionPool
from ._attention import GatedAttentionPool as GatedAttentionPool
from ._attention import GatedPool as GatedPool
from ._empty import EmptyPolicy as EmptyPolicy
from ._empty import NanIfEmpty as NanIfEmpty
from ._empty import RaiseIfEmpty as RaiseIfEmpty
from ._empty import ZeroIfEmpty as ZeroIfEmpty
from ._fixed import ClsPool as ClsPool
from ._fixed import LastTokenPool as LastTokenPool
from ._fixed import LogSumExpPool as LogSumExpPool
from ._fixed import MaxPool as MaxPool
from ._fixed import MeanPool as MeanPool
from ._fixed import MeanSqrtLenPool as MeanSqrtLenPool
from ._gem import GeM as GeM
from ._multihead import Average as Average
from ._multihead import Combination as Combination
from ._multihead import Concatenate as Concatenate
from ._multihead import MultiheadAttentionPool as MultiheadAttentionPool
from ._pooling import Pooled as Pooled
from ._pooling import Pooling as Pooling
from ._pooling import WeightedPooling as WeightedPooling
from ._sample_weighting import EqualSizes as EqualSizes
from ._sample_weighting import HajekWeights as HajekWeights
from ._sample_weighting import HorvitzThompsonWeights as HorvitzThompsonWeights
from ._sample_weighting import NormSizes as NormSizes
from ._sample_weighting import SampleWeighting as SampleWeighting
from ._sample_weighting import TokenSizes as TokenSizes
from ._sampled import SampledEstimate as SampledEstimate
from ._sampled import SampledTokenPool as SampledTokenPool
from ._sigmoid_topk import SigmoidTopKPool as SigmoidTopKPool
from ._topk_mean import TopKMeanPool as TopKMeanPool
from ._variance import ApproximateVariance as ApproximateVariance
from ._variance import SenYatesGrundy as SenYatesGrundy
from ._variance import VarianceEstimate as VarianceEstimate
from ._weighted_mean import PositionWeighting as PositionWeighting
from ._weighted_mean import RecencyWeighting as RecencyWeighting
from ._weighted_mean import WeightedMeanPool as WeightedMeanPool
from ._weighted_mean import Weighting as Weighting

__all__ = [
    "AbsoluteValue",
    "ApproximateVariance",
    "AttentionPool",
    "Average",
    "ClampNegative",
    "ClsPool",
    "Combination",
    "Concatenate",
    "EmptyPolicy",
    "EqualSizes",
    "GatedAttentionPool",
    "GatedPool",
    "GeM",
    "HajekWeights",
    "HorvitzThompsonWeights",
    "LastTokenPool",
    "LogSumExpPool",
    "MaxPool",
    "MeanPool",
    "MeanSqrtLenPool",
    "MultiheadAttentionPool",
    "NanIfEmpty",
    "NormSizes",
    "Pooled",
    "Pooling",
    "PositionWeighting",
    "RaiseIfEmpty",
    "RecencyWeighting",
    "RefuseNegative",
    "SampleWeighting",
    "SampledEstimate",
    "SampledTokenPool",
    "SenYatesGrundy",
    "SigmoidTopKPool",
    "SignPolicy",
    "SignedPower",
    "TokenSizes",
    "TopKMeanPool",
    "VarianceEstimate",
    "WeightedMeanPool",
    "WeightedPooling",
    "Weighting",
    "ZeroIfEmpty",
]
