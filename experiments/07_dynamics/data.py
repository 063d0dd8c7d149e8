"""Noisy trajectories of known systems, and a real series: hares and lynxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsek.integrations.dynamics import KnownSystem, Lorenz, LotkaVolterra, Polynomials, VanDerPol

Array = NDArray[np.float64]
SYSTEMS: dict[str, KnownSystem] = {"Lorenz": Lorenz(), "Lotka-Volterra": LotkaVolterra(), "van der Pol": VanDerPol()}


class Case(NamedTuple):
    """A trajectory with noise, and what is to be found in it."""

    t: Array
    clean: Array
    noisy: Array
    library: Polynomials
    truth: Array
    """(variables, terms): the coefficients."""

    @property
    def k(self) -> list[int]:
        """Number of terms of each equation."""
        return np.count_nonzero(self.truth, axis=1).tolist()


def case(system: str, described: Mapping[str, Any], noise: float, seed: int) -> Case:
    """The seed draws the start and the noise; the noise is relative to the standard deviation of each variable."""
    rng = np.random.default_rng([seed, sorted(SYSTEMS).index(system), round(1000 * noise)])
    t = np.linspace(0, described["duration"], described["points"])
    known, library = SYSTEMS[system], Polynomials(described["degree"])
    clean = known.trajectory(t, rng.uniform(described["low"], described["high"]))
    noisy = clean + noise * clean.std(axis=0) * rng.standard_normal(clean.shape)
    return Case(t, clean, noisy, library, known.coefficients(library))


def hares_and_lynxes() -> tuple[Array, Array]:
    """Years 1900 to 1920 and pelts in thousands, (21, 2), of the Hudson's Bay Company, as the package `pints` ships them."""
    from pints.toy import LotkaVolterraModel  # noqa: PLC0415 - of the environment of peers.sh

    model = LotkaVolterraModel()
    return 1900 + np.asarray(model.suggested_times(), dtype=np.float64), np.asarray(model.suggested_values())
