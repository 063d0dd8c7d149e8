"""torchmetrics classes: they accumulate; their mathematics is in :mod:`sparsek.functional`.

How even the load of the experts is, over many batches: :class:`LoadCV` (spread over mean), :class:`MaxViolation` (how far the
busiest is above the mean) and :class:`BatchMaxViolation` (that of each batch), :class:`Utilisation` (share of experts in use),
:class:`Unrouted` (slots without an expert); :class:`ExpertLoad` is the counts themselves and :class:`DomainLoad` splits them by
kind of input. What the router knows and learns: :class:`RouterEntropy`, :class:`DomainInformation` (bits of expert on domain),
:class:`GradientSNR`. :class:`BitsPerByte` is the code length of text under a language model. One number each, however many layers
and experts. Needs the extra `train`.
"""

from ._bits_per_byte import BitsPerByte as BitsPerByte
from ._domain_load import DomainLoad as DomainLoad
from ._expert_load import BatchMaxViolation as BatchMaxViolation
from ._expert_load import ExpertLoad as ExpertLoad
from ._expert_load import LoadCV as LoadCV
from ._expert_load import MaxViolation as MaxViolation
from ._expert_load import Unrouted as Unrouted
from ._expert_load import Utilisation as Utilisation
from ._router import DomainInformation as DomainInformation
from ._router import GradientSNR as GradientSNR
from ._router import RouterEntropy as RouterEntropy

__all__ = [
    "BatchMaxViolation",
    "BitsPerByte",
    "DomainInformation",
    "DomainLoad",
    "ExpertLoad",
    "GradientSNR",
    "LoadCV",
    "MaxViolation",
    "RouterEntropy",
    "Unrouted",
    "Utilisation",
]
