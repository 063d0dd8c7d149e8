"""What a search returns, and how a batch of prompts of different lengths is searched."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._frontier import Paths


class Beam(NamedTuple):
    """The k best sequences of each prompt, best first."""

    tokens: Tensor
    """(B, k, L) int64: what follows the prompt; after the end of sequence, and where there is no sequence, `eos` (or 0)."""
    lengths: Tensor
    """(B, k) int64: tokens of each, the end of sequence included."""
    log_probs: Tensor
    """(B, k): log-probability of the tokens given the prompt; −inf where there is no sequence. With a gradient to the model."""
    mask: Tensor
    """(B, k): True where there is a sequence; False in the last places where fewer than k exist."""


class SampledBeam(NamedTuple):
    """k different sequences of each prompt, drawn with known probabilities. For :func:`estimate`."""

    tokens: Tensor
    """(B, k, L) int64, as in :class:`Beam`."""
    lengths: Tensor
    """(B, k) int64."""
    log_probs: Tensor
    """(B, k): log-probability of the tokens given the prompt, with a gradient to the model."""
    mask: Tensor
    """(B, k): True where there is a sequence."""
    log_inclusion: Tensor
    """(B, k): the logarithm of what a sequence's value is divided by: of its inclusion probability given the threshold (Gumbel
    top-k), or of the product of its conditional inclusion probabilities (resampling). 0 where there is no sequence. No gradient."""
    perturbed: Tensor | None = None
    """(B, k): perturbed log-probabilities, descending, of a stochastic beam search."""
    threshold: Tensor | None = None
    """(B,): κ of a stochastic beam search, the largest perturbed log-probability of a sequence that was not taken; −inf where
    all were."""

    @property
    def weights(self) -> Tensor:
        """(B, k): probability / inclusion probability of each sequence, 0 where there is none; their expected sum is 1."""
        ratio = torch.where(self.mask, self.log_probs, 0.0) - self.log_inclusion
        return torch.where(self.mask, ratio.exp(), 0.0)


Output = TypeVar("Output", Beam, SampledBeam)


def check_search(k: int, max_length: int, eos: int | None) -> None:
    """Refuse sizes that are not whole numbers of at least 1."""
    for name, value in (("k", k), ("max_length", max_length)):
        if not _is_whole(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if eos is not None and (not _is_whole(eos) or eos < 0):
        raise ValueError(f"eos must be the number of a token or None, got {eos!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def search_by_length(
    search: Callable[[Tensor], Output], prompts: Tensor, prompt_mask: Tensor | None, k: int, fill: int
) -> Output:
    """Search prompts of one length together, so that padding never reaches the model; put the results in their order.

    Args:
        search: From prompts (b, t) of one length to their results.
        prompts: (B, T).
        prompt_mask: (B, T), True = a token of the prompt; None = all.
        k: Width of the result.
        fill: Token of empty places.
    """
    _check_prompts(prompts, prompt_mask)
    prompts = prompts.long()
    if prompt_mask is None or bool(prompt_mask.all()):
        return _widened(search(prompts), k, 0, fill)
    lengths = prompt_mask.sum(-1)
    groups: dict[int, Tensor] = {
        length: (lengths == length).nonzero().squeeze(-1) for length in lengths.unique().tolist()
    }
    found = [search(prompts[rows][prompt_mask[rows]].view(len(rows), length)) for length, rows in groups.items()]
    longest = max(output.tokens.shape[-1] for output in found)
    found = [_widened(output, k, longest, fill) for output in found]
    order = torch.cat([*groups.values()]).argsort()
    fields = [None if parts[0] is None else torch.cat(parts)[order] for parts in zip(*found, strict=True)]
    return type(found[0])(*fields)  # type: ignore[arg-type]  # the fields of one NamedTuple, in their order


def _check_prompts(prompts: Tensor, mask: Tensor | None) -> None:
    whole = isinstance(prompts, Tensor) and prompts.dtype in (torch.int64, torch.int32)
    if not whole or prompts.dim() != 2 or len(prompts) == 0:
        got = f"{tuple(prompts.shape)} of {prompts.dtype}" if isinstance(prompts, Tensor) else type(prompts).__name__
        raise ValueError(f"prompts must be whole numbers of shape (B, T) with B >= 1, got {got}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != prompts.shape):
        shapes = tuple(prompts.shape), tuple(mask.shape)
        raise ValueError(
            f"prompt_mask must be boolean of shape {shapes[0]} (True = a token), got {mask.dtype} of {shapes[1]}"
        )
    if mask is not None and bool((pad(mask, (1, 0))[:, :-1] < mask).sum(-1).gt(1).any()):
        raise ValueError(
            "prompt_mask must leave out padding on either side of a prompt, got tokens left out within one"
        )


def _widened(output: Output, k: int, length: int, fill: int) -> Output:
    """Fill up to k places and to a length."""
    missing, short = k - output.mask.shape[1], max(length - output.tokens.shape[-1], 0)
    if missing == 0 and short == 0:
        return output
    tokens = pad(output.tokens, (0, short, 0, missing), value=fill)
    lengths, mask = pad(output.lengths, (0, missing)), pad(output.mask, (0, missing))
    log_probs = pad(output.log_probs, (0, missing), value=-torch.inf)
    output = output._replace(tokens=tokens, lengths=lengths, log_probs=log_probs, mask=mask)
    if isinstance(output, SampledBeam):
        output = output._replace(log_inclusion=pad(output.log_inclusion, (0, missing)))
        if output.perturbed is not None:
            output = output._replace(perturbed=pad(output.perturbed, (0, missing), value=-torch.inf))
    return output


def sampled_beam(
    paths: Paths, log_inclusion: Tensor, perturbed: Tensor | None = None, threshold: Tensor | None = None
) -> SampledBeam:
    """Put together what a sampling search found."""
    log_inclusion = log_inclusion.masked_fill(~paths.alive, 0.0)
    return SampledBeam(paths.tokens, paths.lengths, paths.log_probs, paths.alive, log_inclusion, perturbed, threshold)
