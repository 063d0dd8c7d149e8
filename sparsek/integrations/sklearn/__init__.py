"""Estimators behind the API of scikit-learn, and how to judge selectors. Needs the extras `apps` and `train`.

- :class:`TopKSelector` selects exactly k features by training a gate and a network together.
- :class:`KSVD` learns a dictionary of which every row uses at most k atoms;
  :class:`LearnedDictionary` does so by gradient: an autoencoder with k latents.
- :class:`SINDy` finds equations of motion with exactly k terms; what it is made of is in :mod:`sparsek.integrations.dynamics`.
- :func:`evaluate_by_retraining` measures selectors, these and scikit-learn's, by what is trained on their columns.
"""

from sparsek.integrations.dynamics import SINDy as SINDy

from ._ksvd import KSVD as KSVD
from ._learned_dictionary import LearnedDictionary as LearnedDictionary
from ._retraining import Retraining as Retraining
from ._retraining import evaluate_by_retraining as evaluate_by_retraining
from ._retraining import span_rank as span_rank
from ._top_k_selector import TopKSelector as TopKSelector

__all__ = ["KSVD", "LearnedDictionary", "Retraining", "SINDy", "TopKSelector", "evaluate_by_retraining", "span_rank"]
