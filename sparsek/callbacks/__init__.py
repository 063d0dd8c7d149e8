"""Lightning callbacks, and the records and figures that they make.

:class:`RoutingRecorder` writes, next to the logs of a run, the loss, the load of each expert over time and which expert takes
which kind of text, as CSV files and one picture. :class:`RoutingRecord` is these numbers without Lightning, and
:func:`routing_figure` draws them. Needs the extra `train`.
"""

from ._figure import routing_figure as routing_figure
from ._record import RoutingRecord as RoutingRecord
from ._routing_recorder import RoutingRecorder as RoutingRecorder

__all__ = ["RoutingRecord", "RoutingRecorder", "routing_figure"]
