"""Stochastic beam search: k sequences without replacement, by Gumbel top-k on the tree of prefixes."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek.functional import gumbel_log_inclusion, gumbel_with_maximum

from ._beams import SampledBeam, check_search, sampled_beam, search_by_length
from ._frontier import Frontier, ranked
from ._model import Model, as_cached


def stochastic_beam_search(
    model: Model,
    prompts: Tensor,
    k: int,
    max_length: int,
    *,
    eos: int | None = None,
    prompt_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> SampledBeam:
    r"""Draw k different sequences, one after the other without replacement, each proportionally to its probability.

    Every sequence has an independent Gumbel variable $G_y \sim \text{Gumbel}(\log p(y))$; the k largest are the sample. The largest
    below a prefix is itself $\text{Gumbel}(\log p(\text{prefix}))$, so that a beam search for large G finds them: the variables of
    the longer prefixes are drawn given that their maximum is the prefix's (:func:`sparsek.functional.gumbel_with_maximum`).

    The threshold κ, the (k + 1)-th largest G of all sequences, is the largest of the prefixes that were left behind on the way,
    and so known exactly without a wider beam. Given κ a sequence is in with $q_y = 1 - \exp(-\exp(\log p(y) - κ))$, and
    $\sum_{y ∈ S} p(y) f(y) / q_y$ is an unbiased estimate of $E f$: :func:`estimate`. At k = 1 it is a sample from the model, and
    where at most k sequences exist all are taken and estimates are exact.

    Sequences end with `eos` or after `max_length` tokens; the law is that of the model's sequences cut there.

    Shape:
        - prompts, prompt_mask: (B, T).

    Args:
        model: See :class:`CausalModel`.
        prompts: Tokens.
        k: Number of sequences, at least 1.
        max_length: Tokens that follow the prompt, at most; at least 1.
        eos: Token that ends a sequence.
        prompt_mask: True = a token of the prompt.
        generator: Source of randomness, on the device of the logits.

    Returns:
        The sequences in the order of their perturbed log-probabilities, which is the order in which they would have been drawn.

    Raises:
        ValueError: As :func:`beam_search`.

    Example:
        >>> bigrams = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64).log()
        >>> beam = stochastic_beam_search(
        ...     lambda tokens: bigrams[tokens[:, -1]], torch.tensor([[0]]), 2, 3, eos=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> beam.tokens.shape
        torch.Size([1, 2, 3])
        >>> bool((beam.tokens[:, 0] == beam.tokens[:, 1]).all())  # never the same one twice
        False
        >>> bool((beam.perturbed > beam.threshold[:, None]).all())
        True

    References:
        Kool, van Hoof, Welling (2019), "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences
        Without Replacement", https://arxiv.org/abs/1903.06059
    """
    check_search(k, max_length, eos)
    cached = as_cached(model)

    def search(rows: Tensor) -> SampledBeam:
        frontier = Frontier.begin(cached, rows, eos)
        root = frontier.paths.log_probs.detach()
        perturbed = -torch.empty_like(root).exponential_(generator=generator).log()
        threshold = torch.full_like(root[:, 0], -torch.inf)
        for step in range(max_length):
            phi = frontier.totals.detach().unflatten(1, (perturbed.shape[1], -1))
            values, index = ranked(gumbel_with_maximum(phi, perturbed, generator=generator).flatten(1), k + 1)
            if values.shape[1] > k:
                threshold = torch.maximum(threshold, values[:, k])
            perturbed, index = values[:, :k], index[:, :k]
            frontier = frontier.grow(index, perturbed > -torch.inf, ask=step + 1 < max_length)
            if frontier.done:
                break
        log_inclusion = gumbel_log_inclusion(frontier.paths.log_probs.detach(), threshold.unsqueeze(1))
        return sampled_beam(frontier.paths, log_inclusion, perturbed, threshold)

    return search_by_length(search, prompts, prompt_mask, k, 0 if eos is None else eos)
