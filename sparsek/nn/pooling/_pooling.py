"""The contract of a pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsek.functional.pooling import weighted_pool
from sparsek.functional.pooling._tokens import select, wide, with_a_token

from ._empty import EmptyPolicy, ZeroIfEmpty
from ._layout import Layout, arrange

_ZERO = ZeroIfEmpty()


class Pooled(NamedTuple):
    """What a pooling returns with `return_weights=True`."""

    output: Tensor
    """(B, D)."""
    weights: Tensor
    """What every token contributed, in the layout of the input: one number per token where all dimensions share them,
    (B, T), (B, *spatial) or (N,); else one per value, in the shape of the input; (B, T, K) for K queries."""


class Pooling(nn.Module, ABC):
    r"""From the tokens of a row to one vector. All poolings have this contract.

    | input | mask | output | weights |
    |---|---|---|---|
    | (B, T, D), padded on any side or in between | (B, T) | (B, D) | (B, T) or (B, T, D) |
    | (T, D), one row | (T,) | (D,) | (T,) or (T, D) |
    | (B, C, *spatial), any memory format: positions are the tokens | (B, *spatial) | (B, C) | (B, *spatial) or as the input |
    | values (N, D) and `offsets` (B + 1,), or `index` (N,) in any order | (N,) | (B, D) | (N,) or (N, D) |
    | jagged nested tensor (B, ragged, D) | – | (B, D) | nested |

    Masks are boolean, True = keep, and select: whatever a masked token holds, NaN and infinity included, changes neither
    the value nor a gradient. A row without a token gives zeros with gradient 0, or what `empty` says. float16 and bfloat16 are
    computed in float32 and returned in their own dtype. Ragged rows are padded to the longest by one gather.

    Modules run under `torch.compile(fullgraph=True)` and `torch.export` with dynamic batch and length; ragged rows need
    `max_length` there, since a graph cannot look for the longest.

    Args:
        empty: :class:`ZeroIfEmpty`, :class:`NanIfEmpty` or :class:`RaiseIfEmpty`.
    """

    def __init__(self, *, empty: EmptyPolicy = _ZERO) -> None:
        super().__init__()
        if not isinstance(empty, EmptyPolicy):
            raise ValueError(f"empty must be ZeroIfEmpty(), NanIfEmpty() or RaiseIfEmpty(), got {empty!r}")
        self.empty = empty

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        index: Tensor | None = None,
        rows: int | None = None,
        max_length: int | None = None,
        return_weights: bool = False,
    ) -> Tensor | Pooled:
        """Pool.

        Args:
            x: Tokens in one of the layouts above, floating point.
            mask: True = keep.
            offsets: Where the rows of ragged tokens begin and end: from 0 to N.
            index: To which row each ragged token belongs.
            rows: How many rows `index` speaks of. Default: its largest entry + 1.
            max_length: At least the length of the longest ragged row. Default: looked for.
            return_weights: Whether to return :class:`Pooled`.

        Raises:
            ValueError: If arguments have the wrong type or shape or do not fit together.
        """
        layout = arrange(x, mask, offsets, index, rows, max_length)
        tokens, mask = with_a_token(wide(layout.tokens), layout.mask)
        output, weights = self._pooled(tokens, mask, return_weights)
        return self._answer(layout, mask, x.dtype, output, weights)

    def _answer(
        self, layout: Layout, mask: Tensor | None, dtype: torch.dtype, output: Tensor, weights: Tensor | None
    ) -> Tensor | Pooled:
        if mask is not None:
            output = self.empty.answer(output, ~mask.any(-1).expand(output.shape[0]))
        output = output.to(dtype)
        if layout.single:
            output = output.squeeze(0)
        if weights is None:
            return output
        return Pooled(output, layout.restore(weights[:, : layout.tokens.shape[1]].to(dtype)))

    def _pooled(self, x: Tensor, mask: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Output (B, D) and, if needed, weights of tokens (B, T, D), T >= 1, in float32 or float64; 0 in empty rows."""
        return self.pool(x, mask), self.weights(x, mask) if need_weights else None

    @abstractmethod
    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D); 0 without gradient in empty rows."""

    @abstractmethod
    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What every token contributes: (B, T), (B, T, D), or (B, T, K) for K queries; 0 where masked."""


class WeightedPooling(Pooling):
    """A pooling that is a sum of tokens, each times a weight of its own. A subclass writes `weights`, for tokens with 0 where masked."""

    def _pooled(self, x: Tensor, mask: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        x = select(x, mask)
        weights = self.weights(x, mask)
        return weighted_pool(x, weights), weights if need_weights else None

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D)."""
        return self._pooled(x, mask, need_weights=False)[0]
