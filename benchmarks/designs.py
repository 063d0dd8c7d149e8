"""The designs that are timed, and in which executions."""

from __future__ import annotations

from executions import Execution

from sparsek.sampling import Brewer, ConditionalPoisson, Design, Pareto, Pivotal, Poisson, Sampford, Systematic

LIMITS: dict[Design, tuple[int, int]] = {
    Systematic(): (10**7, 10**8),
    Systematic(shuffle=True): (1_000_000, 10**8),
    Pivotal(): (10**7, 10**8),
    Pivotal(shuffle=True): (1_000_000, 10**8),
    Poisson(): (1_000_000, 10**8),
    Pareto(): (1_000_000, 10**8),
    ConditionalPoisson(): (100_000, 100_000),
    Brewer(): (1_000, 1_000),
    Sampford(): (64, 100_000),
}
"""Design to the largest n and the largest rows·n it is timed at."""

_ALL = tuple(Execution)
FUSED: dict[Design, tuple[Execution, ...]] = {Systematic(): _ALL, Pivotal(): _ALL}
"""Designs that have executions other than tensor operations, and which."""


def label(design: Design) -> str:
    """Return the name of a design in the table."""
    return str(design).replace("shuffle=False", "")
