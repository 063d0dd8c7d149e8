"""Lightning modules: what is trained, on which objective.

:class:`LanguageModelTask` trains a byte-level transformer with mixtures of experts: it adds the losses of the routers to the
cross-entropy, moves their bias after each optimizer step, and logs bits per byte and the load of the experts.
:class:`FeatureSelectionTask` trains a gate on the features of a table together with the network behind it,
on :func:`row_losses`.
:class:`PoolingTask` trains a pooling and its head, :class:`StandardisedHead` or :class:`CosineHead`, on the tokens of a frozen
encoder. :class:`AttributionTask` learns which internal units a frozen model needs, on :class:`NextTokenLoss` or
:class:`TargetLoss`. :class:`NearestNeighbourTask` learns the metric of a nearest-neighbour classifier. All need the extra `train`.
:class:`SparseNetworkTask` trains a network whose weights are sparse in the end.

:class:`SparseAutoencoderTask` trains a sparse autoencoder on activations, and :class:`SparseAutoencodersTask` several on the same
batches, with the parts of the objective as objects: :class:`UnexplainedVariance`, :class:`GeometricMean`, :class:`SquaredError`,
:class:`RelativeSquaredError`, :class:`WarmupDecay`, :class:`UnitNorm`, :func:`median_bias` and
:func:`median_bias_and_unit_output` (by :func:`geometric_median`); :class:`RunningNorm` centres and scales. The recipes of established
trainers are in :mod:`sparsek.tasks.recipes`.
"""

from ._attribution import AttributionTask as AttributionTask
from ._attribution import NextTokenLoss as NextTokenLoss
from ._attribution import Objective as Objective
from ._attribution import TargetLoss as TargetLoss
from ._feature_selection import FeatureSelectionTask as FeatureSelectionTask
from ._feature_selection import row_losses as row_losses
from ._initialisation import geometric_median as geometric_median
from ._initialisation import median_bias as median_bias
from ._initialisation import median_bias_and_unit_output as median_bias_and_unit_output
from ._language_model import LanguageModelTask as LanguageModelTask
from ._learning_rate import WarmupDecay as WarmupDecay
from ._nearest_neighbours import NearestNeighbourTask as NearestNeighbourTask
from ._pooling import PoolingTask as PoolingTask
from ._pooling_heads import CosineHead as CosineHead
from ._pooling_heads import StandardisedHead as StandardisedHead
from ._reconstruction_loss import GeometricMean as GeometricMean
from ._reconstruction_loss import ReconstructionLoss as ReconstructionLoss
from ._reconstruction_loss import RelativeSquaredError as RelativeSquaredError
from ._reconstruction_loss import SquaredError as SquaredError
from ._reconstruction_loss import UnexplainedVariance as UnexplainedVariance
from ._running_norm import RunningNorm as RunningNorm
from ._sparse_autoencoder import SparseAutoencoderTask as SparseAutoencoderTask
from ._sparse_autoencoders import SparseAutoencodersTask as SparseAutoencodersTask
from ._sparse_network import SparseNetworkTask as SparseNetworkTask
from ._unit_norm import UnitNorm as UnitNorm

__all__ = [
    "AttributionTask",
    "CosineHead",
    "FeatureSelectionTask",
    "GeometricMean",
    "LanguageModelTask",
    "NearestNeighbourTask",
    "NextTokenLoss",
    "Objective",
    "PoolingTask",
    "ReconstructionLoss",
    "RelativeSquaredError",
    "RunningNorm",
    "SparseAutoencoderTask",
    "SparseAutoencodersTask",
    "SparseNetworkTask",
    "SquaredError",
    "StandardisedHead",
    "TargetLoss",
    "UnexplainedVariance",
    "UnitNorm",
    "WarmupDecay",
    "geometric_median",
    "median_bias",
    "median_bias_and_unit_output",
    "row_losses",
]
