"""torchmetrics classes: they accumulate; their mathematics is in :mod:`sparsek.functional`."""

from ._bits_per_byte import BitsPerByte as BitsPerByte
from ._domain_load import DomainLoad as DomainLoad
from ._expert_load import ExpertLoad as ExpertLoad
from ._expert_load import LoadCV as LoadCV
from ._expert_load import MaxViolation as MaxViolation
from ._expert_load import Unrouted as Unrouted
from ._expert_load import Utilisation as Utilisation

__all__ = ["BitsPerByte", "DomainLoad", "ExpertLoad", "LoadCV", "MaxViolation", "Unrouted", "Utilisation"]
