"""The prefixes that a search has in hand, each with the law of its next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._model import CachedModel


class Paths(NamedTuple):
    """Prefixes grown so far, j to a prompt."""

    tokens: Tensor
    """(B, j, t) int64, without the prompt."""
    lengths: Tensor
    """(B, j) int64: tokens up to and with the end of sequence."""
    log_probs: Tensor
    """(B, j): given the prompt; −inf where there is no path."""
    finished: Tensor
    """(B, j): whether the end of sequence has come."""
    alive: Tensor
    """(B, j): whether there is a path."""


@dataclass
class Frontier:
    """Paths, the law of the next token of each, and the rows of the model's state that belong to them.

    A finished path is absorbing: its next token is the end of sequence with probability 1, and the model is not asked.
    """

    model: CachedModel
    eos: int | None
    paths: Paths
    following: Tensor
    """(B, j, V): log-probabilities of the next token; −inf throughout where there is no path."""
    state: Any
    place: Tensor
    """(B, j): the row of the state that belongs to a path."""

    @classmethod
    def begin(cls, model: CachedModel, prompts: Tensor, eos: int | None) -> Frontier:
        """Read prompts (B, T): one empty path each."""
        logits, state = model.start(prompts)
        following = log_softmax(logits).unsqueeze(1)
        if eos is not None and not 0 <= eos < following.shape[-1]:
            raise ValueError(f"eos must lie in [0, {following.shape[-1] - 1}], the model's vocabulary, got {eos}")
        one = torch.ones(len(prompts), 1, dtype=torch.bool, device=following.device)
        paths = Paths(
            one.new_zeros(len(prompts), 1, 0, dtype=torch.long),
            one.long() * 0,
            following.new_zeros(one.shape),
            ~one,
            one,
        )
        return cls(model, eos, paths, following, state, torch.arange(len(prompts), device=one.device).unsqueeze(1))

    @property
    def totals(self) -> Tensor:
        """Log-probabilities of all candidates, paths longer by one token: (B, j · V), token by token of path by path."""
        return (self.paths.log_probs.unsqueeze(-1) + self.following).flatten(1)

    def parents(self, index: Tensor) -> Tensor:
        """The path that each of these candidates grows from."""
        return index // self.following.shape[-1]

    def grow(self, index: Tensor, alive: Tensor, ask: bool = True) -> Frontier:
        """Keep candidates.

        Args:
            index: (B, k): which.
            alive: (B, k): False where there is none to keep.
            ask: Whether to ask the model how they go on; the last step of a search need not.
        """
        parent, token = self.parents(index), index % self.following.shape[-1]
        old, before = self.paths, self.paths.finished.gather(1, parent)
        log_probs = self.totals.gather(1, index).masked_fill(~alive, -torch.inf)
        tokens = old.tokens.gather(1, parent.unsqueeze(-1).expand(-1, -1, old.tokens.shape[-1]))
        fill = 0 if self.eos is None else self.eos
        tokens = torch.cat((tokens, token.masked_fill(~alive, fill).unsqueeze(-1)), -1)
        finished = (before | (token == self.eos)) if self.eos is not None else before
        lengths = old.lengths.gather(1, parent) + (~before & alive)
        paths = Paths(tokens, lengths.masked_fill(~alive, 0), log_probs, finished & alive, alive)
        grown = Frontier(self.model, self.eos, paths, self.following, self.state, self.place.gather(1, parent))
        return grown._asked() if ask else grown

    def _asked(self) -> Frontier:
        """Ask the model about the paths that go on."""
        paths, vocabulary = self.paths, self.following.shape[-1]
        open_ = paths.alive & ~paths.finished
        following = self.following.new_full((*open_.shape, vocabulary), -torch.inf)
        if self.eos is not None:
            following[..., self.eos].masked_fill_(paths.finished, 0.0)
        if bool(open_.any()):
            state = self.model.reorder(self.state, self.place[open_])
            logits, self.state = self.model.step(paths.tokens[..., -1][open_], state)
            following = following.index_put((open_,), log_softmax(logits))
            self.place = (open_.flatten().cumsum(0) - 1).clamp(min=0).view(open_.shape)
        self.following = following
        return self

    @property
    def done(self) -> bool:
        """Whether no path goes on."""
        return not bool((self.paths.alive & ~self.paths.finished).any())


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities, in float32 or better; refuse logits that are no law."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest = wide.detach().amax(-1)
    if not bool(largest.isfinite().all()):  # NaN, +inf, or −inf throughout
        raise ValueError(
            "model must return logits that are finite or −inf, with at least one token allowed after every prefix, "
            f"got rows whose largest is {largest[~largest.isfinite()][0].item()}"
        )
    return wide.log_softmax(-1)


def ranked(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row in descending order, (B, k), and where they are; ties go to the lowest index."""
    values, index = scores.topk(min(k, scores.shape[-1]), dim=-1)
    if bool(((scores >= values[:, -1:]) & (values[:, -1:] > -torch.inf)).sum(-1).gt(values.shape[-1]).any()):
        values, index = scores.sort(dim=-1, descending=True, stable=True)
        return values[:, :k], index[:, :k]
    index = index.sort(-1).values
    order = scores.gather(1, index).sort(dim=-1, descending=True, stable=True)
    return order.values, index.gather(1, order.indices)
