"""Beam search."""

from __future__ import annotations

import torch
from torch import Tensor

from ._beams import Beam, check_search, search_by_length
from ._frontier import Frontier, ranked
from ._model import Model, as_cached


def beam_search(
    model: Model,
    prompts: Tensor,
    k: int,
    max_length: int,
    *,
    eos: int | None = None,
    prompt_mask: Tensor | None = None,
) -> Beam:
    r"""Find k sequences of large probability: at every step, of all prefixes longer by one token, the k most probable.

    Sequences end with `eos` or after `max_length` tokens. A finished one keeps its place and its probability and competes with
    those that go on; there is no penalty for length. With k at least the number of prefixes at every step the result is exact.
    Ties go to the earlier path, then to the lower token. Where fewer than k sequences exist, as at the first step of a small
    vocabulary, the beam is narrower; `mask` says which places are filled in the end.

    `log_probs` carries the gradient of the model where gradients are enabled; `torch.no_grad()` saves that memory.

    Shape:
        - prompts, prompt_mask: (B, T); T may be 0 if the model can take it.

    Args:
        model: See :class:`CausalModel`; a :class:`CachedModel` costs one token a step.
        prompts: Tokens. The model is given all prompts of one length together, without padding.
        k: Width of the beam, at least 1.
        max_length: Tokens that follow the prompt, at most; at least 1.
        eos: Token that ends a sequence; None = all have `max_length` tokens.
        prompt_mask: True = a token of the prompt, False = padding, on either side.

    Returns:
        The sequences, the most probable first.

    Raises:
        ValueError: If an argument is out of range, or the model returns NaN, +inf, or a prefix after which nothing is allowed.

    Example:
        >>> bigrams = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.0, 0.0, 1.0]]).log()
        >>> beam = beam_search(lambda tokens: bigrams[tokens[:, -1]], torch.tensor([[0]]), k=2, max_length=3, eos=2)
        >>> beam.tokens
        tensor([[[2, 2, 2],
                 [1, 0, 1]]])
        >>> beam.log_probs.exp()
        tensor([[0.3000, 0.1800]])

    References:
        Lowerre (1976), "The HARPY Speech Recognition System", PhD thesis, Carnegie Mellon University.
    """
    check_search(k, max_length, eos)
    cached = as_cached(model)

    def search(rows: Tensor) -> Beam:
        frontier = Frontier.begin(cached, rows, eos)
        for step in range(max_length):
            values, index = ranked(frontier.totals.detach(), k)
            frontier = frontier.grow(index, values > -torch.inf, ask=step + 1 < max_length)
            if frontier.done:
                break
        paths = frontier.paths
        return Beam(paths.tokens, paths.lengths, paths.log_probs, paths.alive)

    return search_by_length(search, prompts, prompt_mask, k, 0 if eos is None else eos)
