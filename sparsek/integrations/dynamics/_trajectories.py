"""What was measured: times and states of one or several trajectories, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FEWEST = 3


class Trajectory(NamedTuple):
    """One run of a system."""

    times: Array
    """(points,), increasing."""
    states: Array
    """(points, variables)."""


def trajectories(t: Any, X: Any) -> list[Trajectory]:
    """Return one trajectory, or one for each entry of the list X, as float64 arrays; t is a list too, or shared by all.

    Raises:
        ValueError: If shapes do not fit, there are fewer than three points, times do not increase, anything is NaN or infinite,
            or a variable never changes.
    """
    several = isinstance(X, Sequence) and len(X) > 0 and np.ndim(X[0]) == 2
    times = [t] * len(X) if several and np.ndim(t[0]) == 0 else t
    if several and len(times) != len(X):
        raise ValueError(
            f"t must be one array of times or a list of {len(X)}, one for each trajectory of X, got {len(t)}"
        )
    runs = [trajectory(*pair) for pair in (zip(times, X, strict=True) if several else [(t, X)])]
    widths = {run.states.shape[1] for run in runs}
    if len(widths) > 1:
        raise ValueError(f"X must have the same variables in every trajectory, got {sorted(widths)} columns")
    every = np.concatenate([run.states for run in runs])
    still = np.flatnonzero(np.ptp(every, axis=0) == 0)
    if len(still):
        raise ValueError(f"X must change in every variable, got constant columns {still.tolist()}")
    return runs


def trajectory(t: Any, X: Any) -> Trajectory:
    """Return times and states as float64 arrays, checked; see :func:`trajectories`."""
    times, states = np.asarray(t, dtype=np.float64), np.asarray(X, dtype=np.float64)
    if states.ndim != 2 or states.shape[1] == 0:
        raise ValueError(f"X must have shape (points, variables >= 1), got {states.shape}")
    if times.shape != states.shape[:1]:
        raise ValueError(f"t must hold a time for each of the {len(states)} points of X, got shape {times.shape}")
    if len(states) < _FEWEST:
        raise ValueError(f"X must have at least {_FEWEST} points for a derivative, got {len(states)}")
    for name, values in (("t", times), ("X", states)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    if not (np.diff(times) > 0).all():
        raise ValueError("t must increase from point to point, got times that do not")
    return Trajectory(times, states)
