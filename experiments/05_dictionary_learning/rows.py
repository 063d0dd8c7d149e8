"""Ways to learn a dictionary: sparsek's, scikit-learn's, and patches at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning

from sparsek.integrations.sklearn import KSVD, LearnedDictionary
from sparsek.nn import SampledTopK

Array = NDArray[np.float64]


WITHOUT_K = ("DictionaryLearning", "MiniBatchDictionaryLearning", "random patches")
"""Rows whose dictionary is the same for every k."""


def learn(row: str, X: Array, atoms: int, k: int, setting: Mapping[str, Any], seed: int) -> Array:
    """(atoms, columns): the dictionary that a row of the grid learns from X, for codes of k atoms a row."""
    match row.partition(",")[0]:
        case "KSVD":
            found = KSVD(atoms, k, random_state=seed, **setting).fit(X).components_
        case "LearnedDictionary":
            selection = SampledTopK(k, final=0.01) if "sampled" in row else None
            model = LearnedDictionary(atoms, k, selection=selection, random_state=seed, **setting)
            found = model.fit(X).components_
        case "DictionaryLearning":
            found = DictionaryLearning(atoms, fit_algorithm="cd", random_state=seed, **setting).fit(X).components_
        case "MiniBatchDictionaryLearning":
            found = MiniBatchDictionaryLearning(atoms, max_iter=20, random_state=seed, **setting).fit(X).components_
        case "random patches":
            found = X[np.random.default_rng(seed).choice(len(X), atoms, replace=False)]
        case _:
            raise ValueError(f"row must be one of grid.yaml, got {row!r}")
    return normalised(found)


def normalised(atoms: Array) -> Array:
    """Atoms of norm 1; those of norm 0 stay."""
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.where(norms > 0, norms, 1.0)
