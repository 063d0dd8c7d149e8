"""Lightning modules: what is trained, on which objective.

:class:`LanguageModelTask` trains a byte-level transformer with mixtures of experts: it adds the losses of the routers to the
cross-entropy, moves their bias after each optimizer step, and logs bits per byte and the load of the experts.
:class:`FeatureSelectionTask` trains a gate on the features of a table together with the network behind it. Both need the extra
`train`.
"""

from ._feature_selection import FeatureSelectionTask as FeatureSelectionTask
from ._language_model import LanguageModelTask as LanguageModelTask

__all__ = ["FeatureSelectionTask", "LanguageModelTask"]
