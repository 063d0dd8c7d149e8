"""Lightning callbacks, and the records and figures that they make."""

from ._figure import routing_figure as routing_figure
from ._record import RoutingRecord as RoutingRecord
from ._routing_recorder import RoutingRecorder as RoutingRecorder

__all__ = ["RoutingRecord", "RoutingRecorder", "routing_figure"]
