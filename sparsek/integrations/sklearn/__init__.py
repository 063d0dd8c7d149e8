"""Selectors behind the API of scikit-learn. Needs the extras `apps` and `train`.

- :class:`TopKSelector` selects exactly k features by training a gate and a network together.
"""

from ._top_k_selector import TopKSelector as TopKSelector

__all__ = ["TopKSelector"]
