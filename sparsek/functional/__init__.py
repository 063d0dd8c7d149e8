"""Pure tensor operators: the mathematics of the package, without objects or state.

- Scores to k soft picks: :func:`sigmoid_topk` is the one to begin with (smooth; its inverse is :func:`capped_logit`, what it
  maximises :func:`capped_entropy`); :func:`project_capped_simplex` is sparse; :func:`topk_mask` is hard and has no gradient
  to the scores. :func:`lapsum_topk`, :func:`scaled_sigmoid`, :func:`sinkhorn_topk`, :func:`successive_softmax` and
  :func:`perturbed_topk` are published alternatives, for comparison.
- Scores of tokens against experts: :func:`doubly_capped`, k per token and no expert above its capacity.
- Sizes to inclusion probabilities: :func:`pps`.
- The k-subset law with natural parameters (conditional Poisson): :func:`log_esp`, its normaliser, with the marginals, the
  covariance and samples.
- Gumbel variables of a tree: :func:`gumbel_with_maximum`, :func:`gumbel_log_inclusion`.
- Sparse codes, values and indices end to end: :func:`sparse_topk`, :func:`sparse_encode` (a linear layer and its k largest
  outputs), :func:`sparse_linear` (its outputs at given units), :func:`sparse_decode`, and :func:`sparse_refine` (better values
  for the units that were chosen).
- Sparse codes over a given dictionary: :func:`orthogonal_matching_pursuit`; the dictionary from the codes: :func:`ksvd_update`.
- Measures of sparse codes: :func:`fvu`, :func:`explained_variance`, :func:`latent_counts`, :func:`density_histogram`,
  :func:`dictionary_similarity`; of a model with an autoencoder in it, :func:`cross_entropy_recovered` and :func:`kl_recovered`.
- Measures: :func:`expert_load`, :func:`load_cv`, :func:`max_violation`, :func:`utilisation`, :func:`unrouted`,
  :func:`router_entropy`, :func:`mutual_information` and :func:`gradient_snr` of a router, and :func:`bits_per_byte`. The
  classes of `sparsek.metrics` accumulate them.
"""

from ._bits import bits_per_byte as bits_per_byte
from ._capped_entropy import capped_entropy as capped_entropy
from ._capped_logit import capped_logit as capped_logit
from ._conditional_poisson import conditional_poisson_covariance as conditional_poisson_covariance
from ._conditional_poisson import conditional_poisson_marginals as conditional_poisson_marginals
from ._conditional_poisson_sample import conditional_poisson_sample as conditional_poisson_sample
from ._doubly_capped import DoublyCapped as DoublyCapped
from ._doubly_capped import doubly_capped as doubly_capped
from ._gumbel import gumbel_log_inclusion as gumbel_log_inclusion
from ._gumbel import gumbel_with_maximum as gumbel_with_maximum
from ._ksvd_update import DictionaryUpdate as DictionaryUpdate
from ._ksvd_update import ksvd_update as ksvd_update
from ._lapsum_topk import lapsum_topk as lapsum_topk
from ._latent_measures import density_histogram as density_histogram
from ._latent_measures import dictionary_similarity as dictionary_similarity
from ._latent_measures import latent_counts as latent_counts
from ._load import expert_load as expert_load
from ._load import load_cv as load_cv
from ._load import max_violation as max_violation
from ._load import unrouted as unrouted
from ._load import utilisation as utilisation
from ._log_esp import log_esp as log_esp
from ._matching_pursuit import orthogonal_matching_pursuit as orthogonal_matching_pursuit
from ._perturbed_topk import perturbed_topk as perturbed_topk
from ._pps import pps as pps
from ._project_capped_simplex import project_capped_simplex as project_capped_simplex
from ._reconstruction import explained_variance as explained_variance
from ._reconstruction import fvu as fvu
from ._recovered import cross_entropy_recovered as cross_entropy_recovered
from ._recovered import kl_recovered as kl_recovered
from ._routing_measures import gradient_snr as gradient_snr
from ._routing_measures import mutual_information as mutual_information
from ._routing_measures import router_entropy as router_entropy
from ._scaled_sigmoid import scaled_sigmoid as scaled_sigmoid
from ._sigmoid_topk import sigmoid_topk as sigmoid_topk
from ._sinkhorn_topk import sinkhorn_topk as sinkhorn_topk
from ._sparse_decode import sparse_decode as sparse_decode
from ._sparse_encode import sparse_encode as sparse_encode
from ._sparse_encode import sparse_linear as sparse_linear
from ._sparse_refine import sparse_refine as sparse_refine
from ._sparse_topk import SparseCode as SparseCode
from ._sparse_topk import sparse_topk as sparse_topk
from ._successive_softmax import successive_softmax as successive_softmax
from ._threshold import MAX_PASSES as MAX_PASSES
from ._topk_mask import topk_mask as topk_mask

__all__ = [
    "MAX_PASSES",
    "DictionaryUpdate",
    "DoublyCapped",
    "SparseCode",
    "bits_per_byte",
    "capped_entropy",
    "capped_logit",
    "conditional_poisson_covariance",
    "conditional_poisson_marginals",
    "conditional_poisson_sample",
    "cross_entropy_recovered",
    "density_histogram",
    "dictionary_similarity",
    "doubly_capped",
    "expert_load",
    "explained_variance",
    "fvu",
    "gradient_snr",
    "gumbel_log_inclusion",
    "gumbel_with_maximum",
    "kl_recovered",
    "ksvd_update",
    "lapsum_topk",
    "latent_counts",
    "load_cv",
    "log_esp",
    "max_violation",
    "mutual_information",
    "orthogonal_matching_pursuit",
    "perturbed_topk",
    "pps",
    "project_capped_simplex",
    "router_entropy",
    "scaled_sigmoid",
    "sigmoid_topk",
    "sinkhorn_topk",
    "sparse_decode",
    "sparse_encode",
    "sparse_linear",
    "sparse_refine",
    "sparse_topk",
    "successive_softmax",
    "topk_mask",
    "unrouted",
    "utilisation",
]
