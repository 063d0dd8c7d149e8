"""Search for sequences of a causal model: k prefixes at every step, the best or a sample.

- :func:`beam_search` keeps the k most probable prefixes.
- :func:`stochastic_beam_search` draws k different sequences by Gumbel top-k, :func:`resampled_beam_search` by a πps design with
  exact inclusion probabilities (:class:`ProportionalToSize`, or any relaxation on the capped simplex). From what they return,
  :func:`estimate` estimates expectations over all sequences, and their gradients.
- :func:`relaxed_beam_search` is a beam search that can be differentiated: soft tokens, for small vocabularies.
- A model is any callable from prefixes to logits (:class:`CausalModel`), such as a causal model of Hugging Face or
  :class:`sparsek.nn.MoETransformer`; :class:`NextToken` adds a temperature and forbidden tokens, :class:`CachedNextToken` the
  cache of Hugging Face. Others with a state implement :class:`CachedModel`. :class:`SoftTokens` takes soft tokens.

Example:
    >>> import torch
    >>> from sparsek.search import beam_search, estimate, resampled_beam_search
    >>> logits = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])  # of the next token by the last; 2 ends
    >>> model, prompt = lambda tokens: logits[tokens[:, -1]], torch.tensor([[0]])
    >>> beam_search(model, prompt, k=2, max_length=4, eos=2).tokens[0].tolist()  # the two best
    [[1, 2], [2, 2]]
    >>> beam = resampled_beam_search(model, prompt, k=16, max_length=4, eos=2)  # 16 different ones of the 31 there are
    >>> estimate(beam, beam.lengths.float()).round().item()  # their mean length, without bias
    2.0
"""

from ._beam_search import beam_search as beam_search
from ._beams import Beam as Beam
from ._beams import SampledBeam as SampledBeam
from ._estimate import estimate as estimate
from ._model import CachedModel as CachedModel
from ._model import CachedNextToken as CachedNextToken
from ._model import CausalModel as CausalModel
from ._model import NextToken as NextToken
from ._relaxed import RelaxedBeam as RelaxedBeam
from ._relaxed import SoftTokens as SoftTokens
from ._relaxed import relaxed_beam_search as relaxed_beam_search
from ._resampled import ProportionalToSize as ProportionalToSize
from ._resampled import resampled_beam_search as resampled_beam_search
from ._stochastic import stochastic_beam_search as stochastic_beam_search

__all__ = [
    "Beam",
    "CachedModel",
    "CachedNextToken",
    "CausalModel",
    "NextToken",
    "ProportionalToSize",
    "RelaxedBeam",
    "SampledBeam",
    "SoftTokens",
    "beam_search",
    "estimate",
    "relaxed_beam_search",
    "resampled_beam_search",
    "stochastic_beam_search",
]
