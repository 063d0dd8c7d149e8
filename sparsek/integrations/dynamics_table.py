"""One equation of a known system as a table, to be trained on by Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparsek.datamodules import Table, TableSource

from .dynamics import Derivative, KnownSystem, Library, Lorenz, Polynomials, SmoothingSpline, Trajectory


@dataclass(frozen=True)
class DynamicsTable(TableSource):
    """Candidate terms of one equation as columns, and the derivative as target; the terms that it truly has are known.

    A :class:`~sparsek.datamodules.TableSource`: with :class:`~sparsek.tasks.FeatureSelectionTask`, a gate and a linear layer it is
    sparse identification trained by Lightning.

    Args:
        system: The system.
        equation: Index of the variable whose derivative is the target.
        start: State at time 0.
        duration: Time.
        points: Number of points.
        noise: Standard deviation of the noise on the states, relative to theirs, at least 0.
        library: Candidate terms.
        derivative: Smooths states and gives derivatives.
        seed: Of the noise.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> table = DynamicsTable(Lorenz(), equation=2, points=500).read()
        >>> table.X.shape, [table.names[i] for i in table.known]
        ((500, 20), ['z', 'x y'])
    """

    system: KnownSystem = field(default_factory=Lorenz)
    equation: int = 0
    start: tuple[float, ...] = (1.0, 2.0, 25.0)
    duration: float = 10.0
    points: int = 1000
    noise: float = 0.0
    library: Library = field(default_factory=lambda: Polynomials(3))
    derivative: Derivative = field(default_factory=SmoothingSpline)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.equation < len(self.system.variables):
            raise ValueError(f"equation must lie in [0, {len(self.system.variables) - 1}], got {self.equation}")
        if len(self.start) != len(self.system.variables):
            raise ValueError(f"start must hold {len(self.system.variables)} numbers, got {self.start}")
        if not self.noise >= 0:
            raise ValueError(f"noise must be at least 0, got {self.noise}")

    def load(self, root: Path | None) -> Table:
        """Simulate, add noise, smooth."""
        t = np.linspace(0, self.duration, self.points)
        clean = self.system.trajectory(t, self.start)
        noise = np.random.default_rng(self.seed).standard_normal(clean.shape) * clean.std(axis=0)
        terms, slopes, _ = self.derivative.system(Trajectory(t, clean + self.noise * noise), self.library)
        known = np.flatnonzero(self.system.coefficients(self.library)[self.equation])
        names = tuple(self.library.names(self.system.variables))
        return Table(terms, slopes[:, self.equation], names, known=tuple(known.tolist()))
