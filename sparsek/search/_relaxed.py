"""Beam search that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_floating, check_positive
from sparsek.functional import sigmoid_topk

from ._beams import check_search
from ._frontier import log_softmax
from ._model import last_logits


class RelaxedBeam(NamedTuple):
    """The k places of a relaxed beam, best first."""

    tokens: Tensor
    """(B, k, L, V): a law over tokens at every position; after the end of sequence it is `eos`."""
    log_probs: Tensor
    """(B, k): mean log-probability of the sequences that share a place; −inf where there is none."""
    finished: Tensor
    """(B, k) in [0, 1]: how much of a place has ended."""
    mask: Tensor
    """(B, k): True where there is a sequence; False in the last places where fewer than k exist."""


@dataclass(frozen=True)
class SoftTokens:
    """A causal network that reads soft tokens: the embedding of a law over tokens is the mean embedding.

    Args:
        network: :class:`sparsek.nn.MoETransformer`, or a model of Hugging Face, which takes `inputs_embeds`.

    Example:
        >>> from sparsek.nn import MoETransformer
        >>> network = MoETransformer(32, num_layers=1, num_heads=2, d_hidden=32, num_experts=2, vocabulary=5).eval()
        >>> SoftTokens(network)(torch.full((2, 3, 5), 0.2)).shape
        torch.Size([2, 5])
    """

    network: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits (N, V) after soft tokens (N, T, V)."""
        if hasattr(self.network, "get_input_embeddings"):
            embeddings = self._embeddings()
            return last_logits(self.network(inputs_embeds=tokens.to(embeddings.dtype) @ embeddings), len(tokens))
        return last_logits(self.network(tokens), len(tokens))

    def _embeddings(self) -> Tensor:
        """What the layer gives for every token, (V, d): some networks scale the rows of its weight there."""
        layer = self.network.get_input_embeddings()
        embeddings: Tensor = layer(torch.arange(len(layer.weight), device=layer.weight.device))
        return embeddings


class _Places(NamedTuple):
    tokens: Tensor
    log_probs: Tensor
    finished: Tensor
    mask: Tensor


def relaxed_beam_search(
    model: Callable[[Tensor], Tensor],
    prompts: Tensor,
    k: int,
    max_length: int,
    *,
    eos: int | None = None,
    temperature: float = 1.0,
) -> RelaxedBeam:
    r"""Beam search in which the j-th best candidate is a mean of candidates, so that gradients reach every logit of the model.

    With s the log-probabilities of all candidates (paths longer by one token), place j of the next beam is the mean of candidates
    with the weights

    $$m_j = σ_j(s / T) - σ_{j-1}(s / T), \quad σ_j = \text{sigmoid top-}j, \; σ_0 = 0,$$

    which are not negative and sum to 1: a soft one-hot of the j-th largest. Tokens, what came before, the share that has ended, and
    log-probabilities are all mixed by them. As T → 0 the result is that of :func:`beam_search` (where no two candidates tie).
    Exact gradients by autograd through :func:`sparsek.functional.sigmoid_topk`.

    A place whose share φ has ended goes on with the law $(1 - φ) p + φ\, δ_{\text{eos}}$. Candidates with probability 0 have
    weight 0; where there are fewer than j candidates place j is empty.

    The cost of a step is k solves over k · V candidates, and the memory of all steps is held for the gradient: for small
    vocabularies.

    Shape:
        - prompts: (B, T, V), one-hot or soft.

    Args:
        model: From soft tokens (N, T, V) to logits (N, V); see :class:`SoftTokens`.
        prompts: Laws over tokens; T may be 0 if the model can take it.
        k: Width of the beam, at least 1.
        max_length: Tokens that follow the prompt, at least 1.
        eos: Token that ends a sequence.
        temperature: T > 0.

    Returns:
        The places of the beam.

    Raises:
        ValueError: If an argument is out of range, or the logits are NaN, +inf, or −inf throughout.

    Example:
        >>> logits = torch.zeros(3, 3, requires_grad=True)  # of the next token, by the last
        >>> prompts = torch.eye(3)[None, :1]
        >>> beam = relaxed_beam_search(lambda tokens: tokens[:, -1] @ logits, prompts, k=2, max_length=2)
        >>> beam.tokens.shape, beam.tokens.sum(-1)
        (torch.Size([1, 2, 2, 3]), tensor([[[1., 1.],
                 [1., 1.]]], grad_fn=<SumBackward1>))

    References:
        Goyal, Neubig, Dyer, Berg-Kirkpatrick (2018), "A Continuous Relaxation of Beam Search for End-to-end Training of Neural
        Sequence Models", https://arxiv.org/abs/1708.00111
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot",
        https://openreview.net/forum?id=VMlajIH1oF
    """
    check_search(k, max_length, eos)
    check_positive("temperature", temperature)
    check_floating("prompts", prompts)
    if prompts.dim() != 3 or len(prompts) == 0:
        raise ValueError(f"prompts must have shape (B, T, V) with B >= 1, got {tuple(prompts.shape)}")
    if eos is not None and eos >= prompts.shape[2]:
        raise ValueError(f"eos must lie in [0, {prompts.shape[2] - 1}], the vocabulary, got {eos}")
    places = _root(prompts)
    for _ in range(max_length):
        scores, valid = _candidates(model, prompts, places, eos)
        places = _next_places(places, scores, valid, k, eos, temperature)
    return RelaxedBeam(*_filled(places, k))


def _root(prompts: Tensor) -> _Places:
    one = prompts.new_ones(len(prompts), 1)
    return _Places(prompts.new_zeros(len(prompts), 1, 0, prompts.shape[2]), 0 * one, 0 * one, one.bool())


def _candidates(
    model: Callable[[Tensor], Tensor], prompts: Tensor, places: _Places, eos: int | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the candidates (B, j, V), 0 where impossible, and whether they are possible."""
    batch, width, _, vocabulary = places.tokens.shape
    prefix = torch.cat((prompts.unsqueeze(1).expand(-1, width, -1, -1), places.tokens), 2).flatten(0, 1)
    following = log_softmax(model(prefix)).view(batch, width, vocabulary)
    possible = following > -torch.inf
    following = torch.where(possible, following, 0.0)
    if eos is not None:
        following, possible = _ended(following, possible, places.finished.unsqueeze(-1), eos)
    possible = possible & places.mask.unsqueeze(-1)
    scores = torch.where(places.mask, places.log_probs, 0.0).unsqueeze(-1) + following
    return torch.where(possible, scores, 0.0), possible


def _ended(following: Tensor, possible: Tensor, finished: Tensor, eos: int) -> tuple[Tensor, Tensor]:
    """Mix the law of the next token with the end of sequence, by the share that has ended."""
    goes_on = finished < 1
    others = following + torch.where(goes_on, -finished, 0.0).log1p()
    end = torch.where(possible, following, -torch.inf)[..., eos : eos + 1].exp() * (1 - finished) + finished
    is_eos = torch.arange(following.shape[-1], device=following.device) == eos
    possible = torch.where(is_eos, end > 0, possible & goes_on)
    mixed = torch.where(is_eos, torch.where(end > 0, end, 1.0).log(), others)
    return torch.where(possible, mixed, 0.0), possible


def _next_places(
    places: _Places, scores: Tensor, valid: Tensor, k: int, eos: int | None, temperature: float
) -> _Places:
    weights, mask = _place_weights(scores.flatten(1), valid.flatten(1), k, temperature)
    log_probs = (weights * scores.flatten(1).unsqueeze(1)).sum(-1)
    weights = weights.unflatten(-1, scores.shape[1:])  # (B, places, paths, V)
    parent, token = weights.sum(-1), weights.sum(-2)
    old = (parent @ places.tokens.flatten(2)).unflatten(-1, places.tokens.shape[2:])
    finished = (parent @ places.finished.unsqueeze(-1)).squeeze(-1)
    if eos is not None:
        finished = (weights * (1 - places.finished).unsqueeze(-1))[..., eos].sum(-1) + finished
    return _Places(torch.cat((old, token.unsqueeze(2)), 2), log_probs, finished.clamp(0, 1), mask)


def _place_weights(scores: Tensor, valid: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Weights of the candidates in each place (B, j, n), differences of nested sigmoid top-k, and which places are filled."""
    count = valid.sum(-1, keepdim=True)
    place = torch.arange(1, min(k, scores.shape[-1]) + 1, device=scores.device)
    sizes = torch.minimum(place, count)  # (B, j)
    shape = (*sizes.shape, scores.shape[-1])
    nested = sigmoid_topk(
        scores.unsqueeze(1).expand(shape),
        sizes.to(scores.dtype),
        temperature=temperature,
        mask=valid.unsqueeze(1).expand(shape),
    )
    weights = torch.diff(nested, dim=1, prepend=torch.zeros_like(nested[:, :1])).clamp(min=0)
    return weights, place <= count


def _filled(places: _Places, k: int) -> _Places:
    """Fill up to k places with empty ones."""
    missing = k - places.mask.shape[1]

    def wider(field: Tensor) -> Tensor:
        return torch.cat((field, field.new_zeros(field.shape[0], missing, *field.shape[2:])), 1)

    wide = _Places(*(wider(field) for field in places))
    return wide._replace(log_probs=wide.log_probs.masked_fill(~wide.mask, -torch.inf))
