"""Modules: selectors, routers, mixtures of experts. Their parts are small immutable objects.

- :class:`KHotSelector` picks k of n units by a relaxation, a design and an estimator: features, patches, neurons.
- :class:`Router` sends each token to k experts by a gate (:class:`SigmoidTopKGate`, :class:`SoftmaxGate`), a selection
  (:class:`HardTopK`, :class:`Sampled`) and a balancer (:class:`DualBias` moves a bias and adds no loss, :class:`SwitchLoss` adds
  one, :class:`NoBalance`). It returns a :class:`Routing`, losses included, and stores nothing.
- :class:`MixtureOfExperts` runs the chosen experts on their tokens, without dropping any.
- :class:`MoETransformer` is a causal transformer with a mixture in every layer, on bytes.
"""

from ._attention import CausalSelfAttention as CausalSelfAttention
from ._balance import Balancer as Balancer
from ._balance import DualBias as DualBias
from ._balance import NoBalance as NoBalance
from ._balance import SwitchLoss as SwitchLoss
from ._embedding import ContextEmbedding as ContextEmbedding
from ._experts import Experts as Experts
from ._gate import Gate as Gate
from ._gate import SigmoidTopKGate as SigmoidTopKGate
from ._gate import SoftmaxGate as SoftmaxGate
from ._mixture_of_experts import MixtureOfExperts as MixtureOfExperts
from ._mixture_of_experts import MixtureOutput as MixtureOutput
from ._router import Router as Router
from ._router import Routing as Routing
from ._selection import HardTopK as HardTopK
from ._selection import Sampled as Sampled
from ._selection import Selection as Selection
from ._selector import KHotSelector as KHotSelector
from ._transformer import MoETransformer as MoETransformer
from ._transformer import TransformerOutput as TransformerOutput

__all__ = [
    "Balancer",
    "CausalSelfAttention",
    "ContextEmbedding",
    "DualBias",
    "Experts",
    "Gate",
    "HardTopK",
    "KHotSelector",
    "MixtureOfExperts",
    "MixtureOutput",
    "MoETransformer",
    "NoBalance",
    "Router",
    "Routing",
    "Sampled",
    "Selection",
    "SigmoidTopKGate",
    "SoftmaxGate",
    "SwitchLoss",
    "TransformerOutput",
]
