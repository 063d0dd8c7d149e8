"""Sparse autoencoders: one module, and how it selects latents as an object.

- Winners, sparse both ways: :class:`TopK`, :class:`AbsTopK`; over the whole batch :class:`BatchTopK`; by contribution
  :class:`ContributionTopK`.
- One dictionary for every k: :class:`NestedTopK` (the default), :class:`MultiTopK`, :class:`HierarchicalTopK`, :class:`RandomK`.
- A price on being active: :class:`ReLUL1`, :class:`JumpReLU`; a fixed :class:`Threshold`.
- Through a relaxation, with a gradient to all latents and to k: :class:`RelaxedTopK`; k-hot samples: :class:`SampledTopK`.
- Values that know of one another: :class:`Refinement`, with any of them.

A selection of your own is a :class:`LatentSelection`: from :class:`PreActivations` and a :class:`SelectionContext` to :class:`Latents`.

:class:`AuxK` counts dead latents and is the loss that revives them. :func:`splice` puts an autoencoder in the place of a layer's output
in a model that runs, and :func:`splice_tokens` gives the predictions with and without it.
"""

from ._autoencoder import SparseAutoencoder as SparseAutoencoder
from ._aux_k import AuxK as AuxK
from ._batch_top_k import BatchTopK as BatchTopK
from ._batch_top_k import Threshold as Threshold
from ._contribution import ContributionTopK as ContributionTopK
from ._latents import Latents as Latents
from ._latents import PreActivations as PreActivations
from ._nested_top_k import HierarchicalTopK as HierarchicalTopK
from ._nested_top_k import LevelledTopK as LevelledTopK
from ._nested_top_k import MultiTopK as MultiTopK
from ._nested_top_k import NestedTopK as NestedTopK
from ._output import SparseAutoencoderOutput as SparseAutoencoderOutput
from ._pointwise import JumpReLU as JumpReLU
from ._pointwise import ReLUL1 as ReLUL1
from ._random_k import RandomK as RandomK
from ._refinement import Refinement as Refinement
from ._relaxed import RelaxedTopK as RelaxedTopK
from ._relaxed import SampledTopK as SampledTopK
from ._selection import LatentSelection as LatentSelection
from ._selection import SelectionContext as SelectionContext
from ._splice import SplicedTokens as SplicedTokens
from ._splice import splice as splice
from ._splice import splice_tokens as splice_tokens
from ._top_k import AbsTopK as AbsTopK
from ._top_k import TopK as TopK

__all__ = [
    "AbsTopK",
    "AuxK",
    "BatchTopK",
    "ContributionTopK",
    "HierarchicalTopK",
    "JumpReLU",
    "LatentSelection",
    "Latents",
    "LevelledTopK",
    "MultiTopK",
    "NestedTopK",
    "PreActivations",
    "RandomK",
    "ReLUL1",
    "Refinement",
    "RelaxedTopK",
    "SampledTopK",
    "SelectionContext",
    "SparseAutoencoder",
    "SparseAutoencoderOutput",
    "SplicedTokens",
    "Threshold",
    "TopK",
    "splice",
    "splice_tokens",
]
