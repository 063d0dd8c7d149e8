"""Sparse identification of dynamics (SINDy): equations of motion with exactly k terms, from noisy trajectories. Needs the extra `apps`.

- :class:`SINDy` is the estimator: :class:`Library` × :class:`Form` × :class:`SupportSearch`, and a :class:`Refinement`.
- Libraries of candidate terms: :class:`Polynomials`, :class:`Trigonometric`, :class:`Functions`, and sums of them.
- Forms, from states to linear equations: :class:`WeakForm`, :class:`SmoothingSpline`, :class:`SavitzkyGolay`,
  :class:`Differences`.
- Searches for supports: :class:`GateSearch` by a relaxation or by samples, :class:`Exhaustive`.
- Known systems: :class:`Lorenz`, :class:`LotkaVolterra`, :class:`VanDerPol`. :mod:`sparsek.integrations.dynamics_table` makes a table
  of one equation of theirs, to be trained on by Lightning.
"""

from ._forms import Derivative as Derivative
from ._forms import Differences as Differences
from ._forms import Form as Form
from ._forms import SavitzkyGolay as SavitzkyGolay
from ._forms import SmoothingSpline as SmoothingSpline
from ._forms import System as System
from ._library import Functions as Functions
from ._library import Library as Library
from ._library import Polynomials as Polynomials
from ._library import Trigonometric as Trigonometric
from ._library import Union as Union
from ._refinement import Refinement as Refinement
from ._search import Exhaustive as Exhaustive
from ._search import GateSearch as GateSearch
from ._search import SupportSearch as SupportSearch
from ._sindy import SINDy as SINDy
from ._systems import KnownSystem as KnownSystem
from ._systems import Lorenz as Lorenz
from ._systems import LotkaVolterra as LotkaVolterra
from ._systems import VanDerPol as VanDerPol
from ._trajectories import Trajectory as Trajectory
from ._weak import WeakForm as WeakForm

__all__ = [
    "Derivative",
    "Differences",
    "Exhaustive",
    "Form",
    "Functions",
    "GateSearch",
    "KnownSystem",
    "Library",
    "Lorenz",
    "LotkaVolterra",
    "Polynomials",
    "Refinement",
    "SINDy",
    "SavitzkyGolay",
    "SmoothingSpline",
    "SupportSearch",
    "System",
    "Trajectory",
    "Trigonometric",
    "Union",
    "VanDerPol",
    "WeakForm",
]
