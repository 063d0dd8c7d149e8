"""sparsek: pick k of n as softmax picks one.

Scores → sigmoid top-k → inclusion probabilities on the k-capped simplex → πps sample (k-hot) → gradient::

    probs = sparsek.sigmoid_topk(scores, k)      # a relaxation: functional, relaxations
    sample = sparsek.Pivotal().sample(probs)     # a design: sampling, distributions
    select = sparsek.KHotSelector(k)             # both with an estimator of the gradient: estimators, nn

Importing it loads torch and nothing else heavy; `sparsek.metrics`, `sparsek.tasks`, `sparsek.datamodules`,
`sparsek.callbacks` and `sparsek.cli` need the extra `train` and are imported by name.
"""

from . import constraints as constraints
from . import distributions as distributions
from . import estimators as estimators
from . import functional as functional
from . import nn as nn
from . import relaxations as relaxations
from . import sampling as sampling
from ._version import __version__ as __version__
from .distributions import KHot as KHot
from .estimators import StraightThrough as StraightThrough
from .functional import capped_logit as capped_logit
from .functional import project_capped_simplex as project_capped_simplex
from .functional import sigmoid_topk as sigmoid_topk
from .functional import topk_mask as topk_mask
from .nn import KHotSelector as KHotSelector
from .nn import MixtureOfExperts as MixtureOfExperts
from .nn import Router as Router
from .relaxations import SigmoidTopK as SigmoidTopK
from .sampling import ConditionalPoisson as ConditionalPoisson
from .sampling import Pivotal as Pivotal
from .sampling import Systematic as Systematic

__all__ = [
    "ConditionalPoisson",
    "KHot",
    "KHotSelector",
    "MixtureOfExperts",
    "Pivotal",
    "Router",
    "SigmoidTopK",
    "StraightThrough",
    "Systematic",
    "__version__",
    "capped_logit",
    "constraints",
    "distributions",
    "estimators",
    "functional",
    "nn",
    "project_capped_simplex",
    "relaxations",
    "sampling",
    "sigmoid_topk",
    "topk_mask",
]
