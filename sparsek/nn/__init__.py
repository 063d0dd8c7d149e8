"""Modules: selectors, routers, mixtures of experts. Their parts are small immutable objects.

- :class:`KHotSelector` picks k of n units by a relaxation, a design and an estimator: features, patches, neurons.
- :class:`FeatureGate` selects k of n features for all inputs, :class:`InstanceGate` for each input; k is a count, a share, a
  :class:`Schedule` (:class:`GeometricSchedule`, :class:`CubicSchedule`, :class:`LinearSchedule`), learnt, or what a
  :class:`CostBudget` pays for.
  :class:`Marginals` is the estimator that does not sample; :class:`MLP` is a network to stand behind a gate, :class:`ConvNet`
  one for rows of pixels.
- :class:`Router` sends each token to k experts and returns a :class:`Routing`, losses included. Its parts are chosen separately:

  - gate, logits to weights: :class:`SigmoidTopKGate`, :class:`SoftmaxGate`, :class:`SigmoidGate`, :class:`ReLUGate`,
    :class:`ConditionalPoissonGate`, :class:`BudgetGate`, :class:`DoublyCappedGate` (not causal while training);
  - selection, which experts: :class:`HardTopK`, :class:`GroupLimited`, :class:`Sampled`, :class:`SampledNatural`,
    :class:`SuccessiveSoftmax`; where their number varies, :class:`Positive`, :class:`AdaptiveTopK`; not causal,
    :class:`ExpertChoice`, :class:`BudgetTopK`, and while training :class:`DependentRounding`;
  - gradient, what the gate learns from: :class:`TopKOnly`, :class:`HorvitzThompson`, :class:`DoublyRobust`,
    :class:`DenseStraightThrough`, :class:`SecondOrder`, :class:`SparseMixer`, :class:`DefaultVector`;
  - balancer: a bias and no loss (:class:`DualBias`, :class:`SignBias`, :class:`QuantileBalance`, :class:`BudgetBalance`), a loss
    (:class:`SwitchLoss`, :class:`ZLoss`, :class:`AdaptiveL1`), several (:class:`Balancers`) or :class:`NoBalance`.
- :class:`MixtureOfExperts` runs the chosen experts on their tokens, and drops none unless given a :class:`Capacity`. The experts
  multiply by a :class:`GroupedProduct` (:class:`LoopProduct`, :class:`FusedProduct`, :class:`PaddedProduct`); a
  :class:`FeedForward` may be shared by all tokens; :class:`ShardedExperts` spread over the ranks of a process group.
- :class:`SparseAutoencoder` is a dictionary of latents, few of them active in a token; its selections are in
  :mod:`sparsek.nn.sparse_autoencoder`: :class:`NestedTopK` (one dictionary for every k), :class:`MultiTopK`,
  :class:`HierarchicalTopK`, :class:`RandomK`, :class:`TopK`, :class:`BatchTopK`, :class:`ContributionTopK`, :class:`AbsTopK`,
  :class:`ReLUL1`, :class:`JumpReLU`, :class:`Threshold`, :class:`RelaxedTopK`, :class:`SampledTopK`. :class:`AuxK` revives dead latents,
  :class:`Refinement` refines the values of active ones on the token.
- :class:`DifferentiableKNN` predicts from the k nearest references, and learns what near means.
- Networks with exactly k weights are in :mod:`sparsek.nn.sparsity`: per layer, over a whole model, n of every m.
- :class:`Attribution` scores the internal units of a model, found by :class:`UnitSite`: which k of them keep its behaviour.
- :class:`MoETransformer` is a causal transformer with a mixture in every layer, on bytes.
- Pooling, from many vectors to one, is in :mod:`sparsek.nn.pooling` and exported from here: :class:`MeanPool`, :class:`GeM`,
  :class:`AttentionPool`, :class:`TopKMeanPool`, :class:`SampledTokenPool` and others, all with the contract of :class:`Pooling`.
"""

from ._adaptive import AdaptiveTopK as AdaptiveTopK
from ._adaptive import BudgetGate as BudgetGate
from ._adaptive import BudgetTopK as BudgetTopK
from ._adaptive_l1 import AdaptiveL1 as AdaptiveL1
from ._attention import CausalSelfAttention as CausalSelfAttention
from ._attribution import Attribution as Attribution
from ._balance import Balancer as Balancer
from ._balance import Balancers as Balancers
from ._balance import NoBalance as NoBalance
from ._balance import Routed as Routed
from ._balance import SwitchLoss as SwitchLoss
from ._balance import ZLoss as ZLoss
from ._bias import DualBias as DualBias
from ._bias import SignBias as SignBias
from ._budget import BudgetBalance as BudgetBalance
from ._capacity import Capacity as Capacity
from ._conv_net import ConvNet as ConvNet
from ._cost_budget import CostBudget as CostBudget
from ._dependent_rounding import DependentRounding as DependentRounding
from ._differentiable_knn import DifferentiableKNN as DifferentiableKNN
from ._doubly_capped_gate import DoublyCappedGate as DoublyCappedGate
from ._embedding import ContextEmbedding as ContextEmbedding
from ._expert_choice import ExpertChoice as ExpertChoice
from ._expert_parallel import clip_sharded_grad_norm_ as clip_sharded_grad_norm_
from ._expert_parallel import exclude_sharded_experts as exclude_sharded_experts
from ._expert_parallel import gather_expert_state as gather_expert_state
from ._expert_parallel import sharded_parameters as sharded_parameters
from ._experts import Experts as Experts
from ._feature_gate import FeatureGate as FeatureGate
from ._feed_forward import FeedForward as FeedForward
from ._gate import Gate as Gate
from ._gate import SigmoidGate as SigmoidGate
from ._gate import SigmoidTopKGate as SigmoidTopKGate
from ._gate import SoftmaxGate as SoftmaxGate
from ._gradient import Carried as Carried
from ._gradient import Gated as Gated
from ._gradient import Gradient as Gradient
from ._gradient import HorvitzThompson as HorvitzThompson
from ._gradient import TopKOnly as TopKOnly
from ._gradient_absent import DefaultVector as DefaultVector
from ._gradient_absent import DenseStraightThrough as DenseStraightThrough
from ._gradient_absent import DoublyRobust as DoublyRobust
from ._gradient_second_order import SecondOrder as SecondOrder
from ._gradient_sparse_mixer import SparseMixer as SparseMixer
from ._group_limited import GroupLimited as GroupLimited
from ._grouped_product import FusedProduct as FusedProduct
from ._grouped_product import GroupedProduct as GroupedProduct
from ._grouped_product import LoopProduct as LoopProduct
from ._grouped_product import PaddedProduct as PaddedProduct
from ._instance_gate import InstanceGate as InstanceGate
from ._khot_gate import KHotGate as KHotGate
from ._marginals import Marginals as Marginals
from ._mixture_of_experts import MixtureOfExperts as MixtureOfExperts
from ._mixture_of_experts import MixtureOutput as MixtureOutput
from ._mlp import MLP as MLP
from ._natural_routing import ConditionalPoissonGate as ConditionalPoissonGate
from ._natural_routing import SampledNatural as SampledNatural
from ._quantile import QuantileBalance as QuantileBalance
from ._relu_routing import Positive as Positive
from ._relu_routing import ReLUGate as ReLUGate
from ._router import Router as Router
from ._routing import ExpertOutputs as ExpertOutputs
from ._routing import Routing as Routing
from ._schedule import CubicSchedule as CubicSchedule
from ._schedule import GeometricSchedule as GeometricSchedule
from ._schedule import LinearSchedule as LinearSchedule
from ._schedule import Schedule as Schedule
from ._selection import HardTopK as HardTopK
from ._selection import Sampled as Sampled
from ._selection import Selection as Selection
from ._selector import KHotSelector as KHotSelector
from ._sharded_experts import ShardedExperts as ShardedExperts
from ._successive_softmax import SuccessiveSoftmax as SuccessiveSoftmax
from ._transformer import MoETransformer as MoETransformer
from ._transformer import TransformerOutput as TransformerOutput
from ._unit_site import UnitSite as UnitSite
from .pooling import AbsoluteValue as AbsoluteValue
from .pooling import ApproximateVariance as ApproximateVariance
from .pooling import AttentionPool as AttentionPool
from .pooling import Average as Average
from .pooling import ClampNegative as ClampNegative
from .pooling import ClsPool as ClsPool
from .pooling import Combination as Combination
from .pooling import Concatenate as Concatenate
from .pooling import EmptyPolicy as EmptyPolicy
from .pooling import EqualSizes as EqualSizes
from .pooling import GatedAttentionPool as GatedAttentionPool
from .pooling import GatedPool as GatedPool
from .pooling import GeM as GeM
from .pooling import HajekWeights as HajekWeights
from .pooling import HorvitzThompsonWeights as HorvitzThompsonWeights
from .pooling import LastTokenPool as LastTokenPool
from .pooling import LogSumExpPool as LogSumExpPool
from .pooling import MaxPool as MaxPool
from .pooling import MeanPool as MeanPool
from .pooling import MeanSqrtLenPool as MeanSqrtLenPool
from .pooling import MultiheadAttentionPool as MultiheadAttentionPool
from .pooling import NanIfEmpty as NanIfEmpty
from .pooling import NormSizes as NormSizes
from .pooling import Pooled as Pooled
from .pooling import Pooling as Pooling
from .pooling import PositionWeighting as PositionWeighting
from .pooling import RaiseIfEmpty as RaiseIfEmpty
from .pooling import RecencyWeighting as RecencyWeighting
from .pooling import RefuseNegative as RefuseNegative
from .pooling import SampledEstimate as SampledEstimate
from .pooling import SampledTokenPool as SampledTokenPool
from .pooling import SampleWeighting as SampleWeighting
from .pooling import SenYatesGrundy as SenYatesGrundy
from .pooling import SigmoidTopKPool as SigmoidTopKPool
from .pooling import SignedPower as SignedPower
from .pooling import SignPolicy as SignPolicy
from .pooling import TokenSizes as TokenSizes
from .pooling import TopKMeanPool as TopKMeanPool
from .pooling import VarianceEstimate as VarianceEstimate
from .pooling import WeightedMeanPool as WeightedMeanPool
from .pooling import WeightedPooling as WeightedPooling
from .pooling import Weighting as Weighting
from .pooling import ZeroIfEmpty as ZeroIfEmpty
from .sparse_autoencoder import AbsTopK as AbsTopK
from .sparse_autoencoder import AuxK as AuxK
from .sparse_autoencoder import BatchTopK as BatchTopK
from .sparse_autoencoder import ContributionTopK as ContributionTopK
from .sparse_autoencoder import HierarchicalTopK as HierarchicalTopK
from .sparse_autoencoder import JumpReLU as JumpReLU
from .sparse_autoencoder import LatentSelection as LatentSelection
from .sparse_autoencoder import LevelledTopK as LevelledTopK
from .sparse_autoencoder import MultiTopK as MultiTopK
from .sparse_autoencoder import NestedTopK as NestedTopK
from .sparse_autoencoder import RandomK as RandomK
from .sparse_autoencoder import Refinement as Refinement
from .sparse_autoencoder import RelaxedTopK as RelaxedTopK
from .sparse_autoencoder import ReLUL1 as ReLUL1
from .sparse_autoencoder import SampledTopK as SampledTopK
from .sparse_autoencoder import SparseAutoencoder as SparseAutoencoder
from .sparse_autoencoder import SparseAutoencoderOutput as SparseAutoencoderOutput
from .sparse_autoencoder import Threshold as Threshold
from .sparse_autoencoder import TopK as TopK

__all__ = [
    "MLP",
    "AbsTopK",
    "AbsoluteValue",
    "AdaptiveL1",
    "AdaptiveTopK",
    "ApproximateVariance",
    "AttentionPool",
    "Attribution",
    "AuxK",
    "Average",
    "Balancer",
    "Balancers",
    "BatchTopK",
    "BudgetBalance",
    "BudgetGate",
    "BudgetTopK",
    "Capacity",
    "Carried",
    "CausalSelfAttention",
    "ClampNegative",
    "ClsPool",
    "Combination",
    "Concatenate",
    "ConditionalPoissonGate",
    "ContextEmbedding",
    "ContributionTopK",
    "ConvNet",
    "CostBudget",
    "CubicSchedule",
    "DefaultVector",
    "DenseStraightThrough",
    "DependentRounding",
    "DifferentiableKNN",
    "DoublyCappedGate",
    "DoublyRobust",
    "DualBias",
    "EmptyPolicy",
    "EqualSizes",
    "ExpertChoice",
    "ExpertOutputs",
    "Experts",
    "FeatureGate",
    "FeedForward",
    "FusedProduct",
    "Gate",
    "Gated",
    "GatedAttentionPool",
    "GatedPool",
    "GeM",
    "GeometricSchedule",
    "Gradient",
    "GroupLimited",
    "GroupedProduct",
    "HajekWeights",
    "HardTopK",
    "HierarchicalTopK",
    "HorvitzThompson",
    "HorvitzThompsonWeights",
    "InstanceGate",
    "JumpReLU",
    "KHotGate",
    "KHotSelector",
    "LastTokenPool",
    "LatentSelection",
    "LevelledTopK",
    "LinearSchedule",
    "LogSumExpPool",
    "LoopProduct",
    "Marginals",
    "MaxPool",
    "MeanPool",
    "MeanSqrtLenPool",
    "MixtureOfExperts",
    "MixtureOutput",
    "MoETransformer",
    "MultiTopK",
    "MultiheadAttentionPool",
    "NanIfEmpty",
    "NestedTopK",
    "NoBalance",
    "NormSizes",
    "PaddedProduct",
    "Pooled",
    "Pooling",
    "PositionWeighting",
    "Positive",
    "QuantileBalance",
    "RaiseIfEmpty",
    "RandomK",
    "ReLUGate",
    "ReLUL1",
    "RecencyWeighting",
    "Refinement",
    "RefuseNegative",
    "RelaxedTopK",
    "Routed",
    "Router",
    "Routing",
    "SampleWeighting",
    "Sampled",
    "SampledEstimate",
    "SampledNatural",
    "SampledTokenPool",
    "SampledTopK",
    "Schedule",
    "SecondOrder",
    "Selection",
    "SenYatesGrundy",
    "ShardedExperts",
    "SigmoidGate",
    "SigmoidTopKGate",
    "SigmoidTopKPool",
    "SignBias",
    "SignPolicy",
    "SignedPower",
    "SoftmaxGate",
    "SparseAutoencoder",
    "SparseAutoencoderOutput",
    "SparseMixer",
    "SuccessiveSoftmax",
    "SwitchLoss",
    "Threshold",
    "TokenSizes",
    "TopK",
    "TopKMeanPool",
    "TopKOnly",
    "TransformerOutput",
    "UnitSite",
    "VarianceEstimate",
    "WeightedMeanPool",
    "WeightedPooling",
    "Weighting",
    "ZLoss",
    "ZeroIfEmpty",
    "clip_sharded_grad_norm_",
    "exclude_sharded_experts",
    "gather_expert_state",
    "sharded_parameters",
]
