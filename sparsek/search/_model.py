"""What a search asks of a model: scores of the next token after each of N prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsek._validation import check_positive


class CausalModel(Protocol):
    """Any callable from prefixes to scores of the next token."""

    def __call__(self, tokens: Tensor, /) -> Any:
        """Score the next token.

        Args:
            tokens: (N, T) int64: N prefixes of one length, without padding.

        Returns:
            Logits (N, V), where −inf forbids a token; or (N, T, V), of which the last position counts; or an object with
            such `logits`, as causal models of `transformers` and :class:`sparsek.nn.MoETransformer` return.
        """


@runtime_checkable
class CachedModel(Protocol):
    """A model that keeps a state of the prefixes, so that a step costs one token."""

    def start(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read prefixes (N, T) of one length; return logits (N, V) of the next token, and the state of the N rows."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one more token (N,) in each row; return logits (N, V) and the new state."""

    def reorder(self, state: Any, rows: Tensor) -> Any:
        """Return the state of these rows, (M,) int64 in any order, some perhaps more than once or not at all."""


Model = CausalModel | CachedModel


@dataclass(frozen=True)
class Recomputed:
    """A :class:`CausalModel` as a :class:`CachedModel`, whose state is the prefixes themselves."""

    model: CausalModel

    def start(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Score the prefixes."""
        return last_logits(self.model(tokens), len(tokens)), tokens

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Score the longer prefixes from their first token on."""
        return self.start(torch.cat((state, tokens.unsqueeze(1)), 1))

    def reorder(self, state: Tensor, rows: Tensor) -> Tensor:
        """Take prefixes."""
        return state[rows]


@dataclass(frozen=True)
class NextToken:
    r"""A causal network at a temperature, with tokens that may not come: $\log p(v) ∝ \text{logits}_v / T$.

    Put the network into eval mode before: dropout would make another law of every call.

    Args:
        network: See :class:`CausalModel`.
        temperature: T > 0.
        forbidden: Numbers of tokens that never come.

    Raises:
        ValueError: If `temperature` is not above 0; in a call, if the network returns something else or `forbidden` has a
            number outside of its vocabulary.

    Example:
        >>> from sparsek.nn import MoETransformer
        >>> from sparsek.search import NextToken, beam_search
        >>> network = MoETransformer(32, num_layers=1, num_heads=2, d_hidden=32, num_experts=2).eval()
        >>> model = NextToken(network, temperature=0.7, forbidden=[0])
        >>> with torch.no_grad():
        ...     beam_search(model, torch.tensor([[72, 105]]), k=3, max_length=5).tokens.shape
        torch.Size([1, 3, 5])
    """

    network: CausalModel
    temperature: float = 1.0
    forbidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Return logits (N, V)."""
        return adjusted(last_logits(self.network(tokens), len(tokens)), self.temperature, self.forbidden)


@dataclass(frozen=True)
class CachedNextToken:
    """A causal model of Hugging Face with its cache of keys and values: :class:`NextToken` at the cost of one token a step.

    Args:
        network: Takes `input_ids`, `past_key_values` and `use_cache`, and returns `logits` and `past_key_values`, which has
            `batch_select_indices`.
        temperature: T > 0.
        forbidden: Numbers of tokens that never come.

    Raises:
        ValueError: As :class:`NextToken`.
    """

    network: Any
    temperature: float = 1.0
    forbidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def start(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read the prompts."""
        return self._read(tokens, None)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token."""
        return self._read(tokens.unsqueeze(1), state)

    def reorder(self, state: Any, rows: Tensor) -> Any:
        """Take rows of the cache, in place: the old order is not needed again."""
        state.batch_select_indices(rows)
        return state

    def _read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        output = self.network(input_ids=tokens, past_key_values=state, use_cache=True)
        logits = adjusted(last_logits(output, len(tokens)), self.temperature, self.forbidden)
        return logits, output.past_key_values


def last_logits(output: Any, rows: int) -> Tensor:
    """Return the logits (N, V) of the next token in what a model returned; refuse anything else."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.dim() == 3:
        logits = logits[:, -1]
    if not (isinstance(logits, Tensor) and logits.is_floating_point() and logits.dim() == 2 and len(logits) == rows):
        got = f"{tuple(logits.shape)} of {logits.dtype}" if isinstance(logits, Tensor) else type(output).__name__
        raise ValueError(
            f"model must return floating-point logits (N, V) or (N, T, V) for N = {rows} prefixes, got {got}"
        )
    return logits


def adjusted(logits: Tensor, temperature: float, forbidden: Sequence[int]) -> Tensor:
    """Divide by the temperature and put −inf at forbidden tokens."""
    if not forbidden:
        return logits / temperature
    if not all(0 <= token < logits.shape[1] for token in forbidden):
        raise ValueError(f"forbidden must hold numbers in [0, {logits.shape[1] - 1}], got {list(forbidden)}")
    index = torch.tensor(list(forbidden), device=logits.device)
    return (logits / temperature).index_fill(1, index, -torch.inf)


def as_cached(model: Model) -> CachedModel:
    """Return the model with a state."""
    if isinstance(model, CachedModel):
        return model
    if not callable(model):
        raise ValueError(f"model must be callable or have start, step and reorder, got {type(model).__name__}")
    return Recomputed(model)
