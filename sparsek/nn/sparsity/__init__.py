"""Networks with exactly k weights, from scratch: `from sparsek.nn import sparsity`.

:func:`parametrize` puts all weights of a model on one budget (:class:`GlobalSparsity`) or each layer on its own
(:class:`SparseWeights`); :func:`parametrize_n_m` keeps n of every m neighbours (:class:`NMSparsity`). :func:`anneal` moves k from all
weights to the last k while the model trains. What weights are ranked by is an object (:class:`Magnitude`, :class:`LayerShare`,
:class:`LearntScores`), and so is the way from scores to masks (:class:`MaskRule`). :func:`masks` and :func:`count` show what is kept.
As objects, for a task or a configuration file, both ways are a :class:`Pattern`: :class:`Unstructured`, :class:`NOfM`.

:func:`remove` makes the masks final. A pruned model is then run as it is, by :func:`to_csr` (:class:`CSRLinear`) or
:func:`to_semi_structured`, and stored by :func:`sparse_state_dict`.
"""

from ._export import CSRLinear as CSRLinear
from ._export import dense_state_dict as dense_state_dict
from ._export import sparse_state_dict as sparse_state_dict
from ._export import to_csr as to_csr
from ._export import to_semi_structured as to_semi_structured
from ._global import GlobalSparsity as GlobalSparsity
from ._global import GlobalWeights as GlobalWeights
from ._n_m import NMSparsity as NMSparsity
from ._parametrize import parametrize as parametrize
from ._parametrize import parametrize_n_m as parametrize_n_m
from ._pattern import NOfM as NOfM
from ._pattern import Pattern as Pattern
from ._pattern import Unstructured as Unstructured
from ._remove import remove as remove
from ._rule import MaskRule as MaskRule
from ._scores import LayerShare as LayerShare
from ._scores import LearntScores as LearntScores
from ._scores import Magnitude as Magnitude
from ._scores import WeightScores as WeightScores
from ._sparse_weights import SparseWeights as SparseWeights
from ._sparsity import Sparsity as Sparsity
from ._tensors import anneal as anneal
from ._tensors import count as count
from ._tensors import masks as masks
from ._tensors import parametrizations as parametrizations

__all__ = [
    "CSRLinear",
    "GlobalSparsity",
    "GlobalWeights",
    "LayerShare",
    "LearntScores",
    "Magnitude",
    "MaskRule",
    "NMSparsity",
    "NOfM",
    "Pattern",
    "SparseWeights",
    "Sparsity",
    "Unstructured",
    "WeightScores",
    "anneal",
    "count",
    "dense_state_dict",
    "masks",
    "parametrizations",
    "parametrize",
    "parametrize_n_m",
    "remove",
    "sparse_state_dict",
    "to_csr",
    "to_semi_structured",
]
