"""A beam whose survivors are drawn by a πps design with exact inclusion probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_mask
from sparsek.functional import pps
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design, Pivotal

from ._beams import SampledBeam, check_search, sampled_beam, search_by_length
from ._frontier import Frontier
from ._model import Model, as_cached


@dataclass(frozen=True)
class ProportionalToSize(Relaxation):
    r"""$π_i = \min(1, c\, e^{x_i})$ with c such that the sum is k: :func:`sparsek.functional.pps` of $e^x$.

    Of all inclusion probabilities of size k it is the one that minimises $\sum_i s_i^2 (1/π_i - 1)$, $s = e^x$. Entries at
    −inf, and masked ones, get exactly 0; no finite one does, be it ever so small.

    Example:
        >>> ProportionalToSize()(torch.tensor([10.0, 3.0, 1.0, 1.0, 0.0]).log(), 2)
        tensor([1.0000, 0.6000, 0.2000, 0.2000, 0.0000])
    """

    on_capped_simplex: ClassVar[bool] = True
    real_k: ClassVar[bool] = True

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        dim: int = -1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Apply to logarithms of sizes."""
        check_floating("input", input)
        dim = check_dim("input", input, dim)
        if mask is not None:
            check_mask("mask", mask, input)
            input = input.masked_fill(~mask, -torch.inf)
        largest = input.detach().amax(dim, keepdim=True)
        sizes = (input - largest.masked_fill(largest == -torch.inf, 0.0)).exp()
        return pps(torch.where(input > -torch.inf, sizes.clamp(min=torch.finfo(sizes.dtype).tiny), sizes), k, dim)


_SIZES = ProportionalToSize()
_PIVOTAL = Pivotal()


def resampled_beam_search(
    model: Model,
    prompts: Tensor,
    k: int,
    max_length: int,
    *,
    eos: int | None = None,
    prompt_mask: Tensor | None = None,
    inclusion: Relaxation = _SIZES,
    design: Design = _PIVOTAL,
    generator: torch.Generator | None = None,
) -> SampledBeam:
    r"""Draw k different sequences: at every step, k of all prefixes longer by one token, by a πps design.

    Candidate c has the weight $w_c = p(c) / Π$, its probability over the product Π of the inclusion probabilities of the prefixes
    that lead to it. They are included with $π = \text{inclusion}(\log w, k)$, by default $\min(1, a w_c)$, drawn by the design,
    and Π is multiplied by π. Survivors then weigh $w_c / π_c$: heavy ones stay as they are, the others weigh $1/a$ all alike. At
    the end $\sum_{y ∈ S} p(y) f(y) / Π_y$ is an **unbiased** estimate of $E f$ for every f (:func:`estimate`), whatever the design
    and the inclusion probabilities, as long as no candidate has π = 0. With the default inclusion probabilities the weights sum to
    1 in every draw, so that it is the normalised estimate, too.

    Candidates stand in the order of the tree of prefixes, which the default design :class:`~sparsek.sampling.Pivotal` and
    `Systematic()` make use of: neighbours compete with each other, so every subtree gets its share of the sample to within one.
    At k = 1 it is a sample from the model; where at most k sequences exist all are taken and estimates are exact.

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
        inclusion: From $\log w$ to inclusion probabilities: a relaxation on the capped simplex that is not random, such as
            `SigmoidTopK(temperature)`.
        design: Draws; one with exact inclusion probabilities and a fixed size.
        generator: Source of randomness, on the device of the logits.

    Returns:
        The sequences in the order of the tree, with `log_inclusion` = log Π.

    Raises:
        ValueError: As :func:`beam_search`; if `inclusion` leaves the capped simplex or is random, or `design` is not exact or
            has a random size.

    Example:
        >>> bigrams = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64).log()
        >>> beam = resampled_beam_search(
        ...     lambda tokens: bigrams[tokens[:, -1]], torch.tensor([[0]]), 2, 3, eos=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> beam.weights  # estimated mass of the sequences that each of the two stands for
        tensor([[0.5000, 0.5000]], dtype=torch.float64)

    References:
        Fearnhead, Clifford (2003), "On-line Inference for Hidden Markov Models via Particle Filters",
        https://doi.org/10.1111/1467-9868.00421
    """
    check_search(k, max_length, eos)
    _check_parts(inclusion, design)
    cached = as_cached(model)

    def search(rows: Tensor) -> SampledBeam:
        frontier = Frontier.begin(cached, rows, eos)
        log_inclusion = frontier.paths.log_probs.detach().double()
        for step in range(max_length):
            totals = frontier.totals.detach().double().unflatten(1, (log_inclusion.shape[1], -1))
            weights = (totals - log_inclusion.unsqueeze(-1)).flatten(1)
            index, alive, log_probs = _survivors(weights, k, inclusion, design, generator)
            log_inclusion = log_inclusion.gather(1, frontier.parents(index)) + log_probs
            frontier = frontier.grow(index, alive, ask=step + 1 < max_length)
            if frontier.done:
                break
        return sampled_beam(frontier.paths, log_inclusion.to(frontier.paths.log_probs.dtype))

    return search_by_length(search, prompts, prompt_mask, k, 0 if eos is None else eos)


def _survivors(
    log_weights: Tensor, k: int, inclusion: Relaxation, design: Design, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw k candidates of each row (all, where there are fewer): index, whether there is one, and log π, (B, k) each."""
    valid = log_weights > -torch.inf
    size = valid.sum(-1).clamp(max=k).to(log_weights.dtype)
    probs = inclusion(log_weights, size, mask=valid)
    probs = torch.where(valid, probs.clamp(min=torch.finfo(probs.dtype).tiny), 0.0)
    taken = design.sample(probs, k=size, generator=generator) > 0
    n = log_weights.shape[1]
    place = torch.arange(n, device=taken.device)
    key = torch.where(taken, n - place, 0).topk(min(k, n), dim=-1).values  # taken ones first, in their order
    index = (n - key).clamp(max=n - 1)
    return index, key > 0, probs.gather(1, index).masked_fill(key == 0, 1.0).log()


def _check_parts(inclusion: Relaxation, design: Design) -> None:
    if not (isinstance(inclusion, Relaxation) and inclusion.on_capped_simplex and not inclusion.stochastic):
        raise ValueError(f"inclusion must map to the capped simplex and not be random, got {inclusion!r}")
    if not (isinstance(design, Design) and design.exact and design.fixed_size):
        raise ValueError(f"design must have exact inclusion probabilities and a fixed size, got {design!r}")
