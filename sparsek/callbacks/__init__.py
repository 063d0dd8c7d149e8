"""Lightning callbacks, and the records and figures that they make.

:class:`RoutingRecorder` writes, next to the logs of a run, the loss, the load of each expert over time and which expert takes
which kind of text, as CSV files and one picture. :class:`RoutingRecord` is these numbers without Lightning, and
:func:`routing_figure` draws them.

For sparse autoencoders: :class:`ThresholdCalibration` finds the thresholds for wanted numbers of active latents,
:class:`AutoencoderReport` writes and draws the error at every k, how often latents are active and dead latents over time
(:class:`AutoencoderRecord`, :func:`autoencoder_figure`), and :class:`DecoderNormalisation` keeps decoder rows at norm 1 in modules of
your own.

For feature selection: :class:`SelectionRecorder` writes and draws what a gate selected (:func:`selection_figure` draws it without
Lightning), and :class:`GateHardening` ends training with the final selection. For sparse weights: :class:`SparsityAnnealing` moves
their budget with the steps.

For runs that survive: :class:`RunCheckpoint` keeps checkpoints, :class:`SealedCheckpointIO` writes them in one step and refuses damaged
ones (:class:`CheckpointError`), :class:`ExactResume` and :class:`RunLogger` continue a killed run bit for bit, and
:class:`StopAtNonFinite` ends a run at the first NaN and says where it came from (:class:`NonFiniteError`). For runs of several
processes: :class:`ProcessDraws` gives each draws of its own. Needs the extra `train`.
"""

from ._appending_csv import RunLogger as RunLogger
from ._autoencoder_figure import autoencoder_figure as autoencoder_figure
from ._autoencoder_record import AutoencoderRecord as AutoencoderRecord
from ._autoencoder_report import AutoencoderReport as AutoencoderReport
from ._checkpoint_io import SealedCheckpointIO as SealedCheckpointIO
from ._decoder_norm import DecoderNormalisation as DecoderNormalisation
from ._exact_resume import ExactResume as ExactResume
from ._figure import routing_figure as routing_figure
from ._gate_hardening import GateHardening as GateHardening
from ._non_finite import NonFiniteError as NonFiniteError
from ._non_finite import StopAtNonFinite as StopAtNonFinite
from ._process_draws import ProcessDraws as ProcessDraws
from ._record import RoutingRecord as RoutingRecord
from ._routing_recorder import RoutingRecorder as RoutingRecorder
from ._run_checkpoint import RunCheckpoint as RunCheckpoint
from ._sealed_file import CheckpointError as CheckpointError
from ._selection_figure import selection_figure as selection_figure
from ._selection_recorder import SelectionRecorder as SelectionRecorder
from ._sparsity_annealing import SparsityAnnealing as SparsityAnnealing
from ._threshold_calibration import ThresholdCalibration as ThresholdCalibration

__all__ = [
    "AutoencoderRecord",
    "AutoencoderReport",
    "CheckpointError",
    "DecoderNormalisation",
    "ExactResume",
    "GateHardening",
    "NonFiniteError",
    "ProcessDraws",
    "RoutingRecord",
    "RoutingRecorder",
    "RunCheckpoint",
    "RunLogger",
    "SealedCheckpointIO",
    "SelectionRecorder",
    "SparsityAnnealing",
    "StopAtNonFinite",
    "ThresholdCalibration",
    "autoencoder_figure",
    "routing_figure",
    "selection_figure",
]
