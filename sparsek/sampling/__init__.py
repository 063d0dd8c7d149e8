"""πps designs: laws on k-subsets with given inclusion probabilities. Small immutable objects.

| design | log_prob | joint | size | law smooth in π |
|---|---|---|---|---|
| `Pivotal()` | exact, O(n) | exact | k | no |
| `Systematic()` | exact | exact | k | no |
| `Pivotal(shuffle=True)`, `Systematic(shuffle=True)` | given the `Draw` | – | k | no |
| `ConditionalPoisson()` | exact | exact | k | yes |
| `Sampford()` | exact | exact | k | yes |
| `Brewer()` | – | enumeration, n ≤ 12 | k | yes |
| `Pareto()`, π approximate | – | – | k | yes |
| `Poisson()` | exact | exact | random | yes |

`Pivotal()` is the one to begin with: exact π, O(n), n = 1e6 in float32. `ConditionalPoisson()` where log-probabilities are
differentiated: its law is smooth and of largest entropy. `Systematic()` where only speed counts. `Sampford()`, `Brewer()` and
`Pareto()` are classics, for comparison; `Poisson()` where the size may vary. π comes from a relaxation on the capped simplex, or from
sizes by :func:`sparsek.functional.pps`.

All of them draw rows independently of each other. :func:`dependent_rounding` draws a matrix: fixed sizes of rows, and column sums
that are their expectations, rounded down or up.
"""

from ._brewer import Brewer as Brewer
from ._conditional_poisson import ConditionalPoisson as ConditionalPoisson
from ._dependent_rounding import dependent_rounding as dependent_rounding
from ._design import Design as Design
from ._design import Draw as Draw
from ._pareto import Pareto as Pareto
from ._pivotal import Pivotal as Pivotal
from ._poisson import Poisson as Poisson
from ._sampford import Sampford as Sampford
from ._systematic import Systematic as Systematic

__all__ = [
    "Brewer",
    "ConditionalPoisson",
    "Design",
    "Draw",
    "Pareto",
    "Pivotal",
    "Poisson",
    "Sampford",
    "Systematic",
    "dependent_rounding",
]
