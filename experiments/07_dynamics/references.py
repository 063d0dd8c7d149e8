"""Other ways to choose terms, of linear equations A W = B: pysindy's, best subset, forward and backward."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pysindy
import torch
from numpy.typing import NDArray

from sparsek.integrations.dynamics import Exhaustive, System
from sparsek.integrations.dynamics._moments import moments

Array = NDArray[np.float64]
BOUNDS = (1e-5, 1e3)
STEPS = 40
RELAXATIONS = (0.1, 1.0, 10.0)


def supports(search: str, terms: Array, targets: Array, k: list[int]) -> list[list[int]]:
    """The terms of each equation. Terms and targets are divided by their norms; STLSQ and SR3 see terms as they are, too."""
    scale = np.linalg.norm(terms, axis=0)
    terms = terms / scale
    targets = targets / np.linalg.norm(targets, axis=0)
    if search == "best subset":
        known = moments([System(terms, targets, terms)])
        return [found.tolist() for found in Exhaustive()(known, k, torch.Generator())]
    single = {"STLSQ": _stlsq, "SR3": _sr3, "MIOSR": _miosr, "forward-backward": _forward_backward}[search]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # thresholds at which nothing is left, iterations that run out
        return [single(terms, target[:, None], size, scale) for target, size in zip(targets.T, k, strict=True)]


def refitted(terms: Array, targets: Array, found: list[list[int]]) -> Array:
    """Coefficients by least squares on the terms that were found, (equations, terms)."""
    coefficients = np.zeros((targets.shape[1], terms.shape[1]))
    for row, target, support in zip(coefficients, targets.T, found, strict=True):
        row[support] = np.linalg.lstsq(terms[:, support], target)[0]
    return coefficients


def _with_k_terms(fit: Callable[[float], Array], k: int) -> list[int]:
    """Bisect the threshold until k terms are left; the nearest number where none is."""
    low, high = BOUNDS
    nearest: list[int] = []
    for _ in range(STEPS):
        threshold = (low * high) ** 0.5
        found = np.flatnonzero(fit(threshold)).tolist()
        if abs(len(found) - k) < abs(len(nearest) - k):
            nearest = found
        if len(found) == k:
            break
        low, high = (threshold, high) if len(found) > k else (low, threshold)
    return nearest


def _left(terms: Array, target: Array, support: list[int]) -> float:
    """The sum of squares that least squares on a support leaves."""
    fitted = terms[:, support] @ np.linalg.lstsq(terms[:, support], target)[0]
    return float(np.square(target - fitted).sum())


def _stlsq(terms: Array, target: Array, k: int, scale: Array) -> list[int]:
    fits = [partial(_stlsq_at, columns, target) for columns in (terms, terms * scale)]
    return _nearest([_with_k_terms(fit, k) for fit in fits], terms, target, k)


def _sr3(terms: Array, target: Array, k: int, scale: Array) -> list[int]:
    fits = [partial(_sr3_at, columns, target, nu) for columns in (terms, terms * scale) for nu in RELAXATIONS]
    return _nearest([_with_k_terms(fit, k) for fit in fits], terms, target, k)


def _nearest(found: list[list[int]], terms: Array, target: Array, k: int) -> list[int]:
    """Of some supports those with k terms, or the nearest number; of these the one that leaves least."""
    return min(found, key=lambda support: (abs(len(support) - k), _left(terms, target, support)))


def _stlsq_at(terms: Array, target: Array, threshold: float) -> Array:
    coefficients: Array = pysindy.STLSQ(threshold=threshold, alpha=1e-8).fit(terms, target).coef_[0]
    return coefficients


def _sr3_at(terms: Array, target: Array, nu: float, threshold: float) -> Array:
    model = pysindy.SR3(reg_weight_lam=threshold**2 / (2 * nu), regularizer="L0", relax_coeff_nu=nu, max_iter=60)
    coefficients: Array = model.fit(terms, target).coef_[0]
    return coefficients


def _miosr(terms: Array, target: Array, k: int, scale: Array) -> list[int]:
    model = pysindy.MIOSR(target_sparsity=k, alpha=1e-8, regression_timeout=30).fit(terms, target)
    return np.flatnonzero(model.coef_[0]).tolist()


def _forward_backward(terms: Array, target: Array, k: int, scale: Array) -> list[int]:
    """Add the best term until there are k, then swap: drop the worst of k + 1 as long as that leaves less."""
    left = partial(_left, terms, target)
    chosen: list[int] = []
    while len(chosen) < k:
        chosen.append(min(set(range(terms.shape[1])) - set(chosen), key=lambda term: left([*chosen, term])))
    while True:
        larger = [*chosen, min(set(range(terms.shape[1])) - set(chosen), key=lambda term: left([*chosen, term]))]
        smaller = min(([t for t in larger if t != term] for term in larger), key=left)
        if left(smaller) >= left(chosen):
            return sorted(chosen)
        chosen = smaller
