"""πps designs: laws on k-subsets with given inclusion probabilities. Small immutable objects.

| design | probability | joint inclusion | size | law smooth in π |
|---|---|---|---|---|
| `Poisson` | exact | exact | random | yes |
"""

from ._design import Design as Design
from ._design import Draw as Draw
from ._poisson import Poisson as Poisson

__all__ = ["Design", "Draw", "Poisson"]
