"""The sparse autoencoder; transcoders and crosscoders are other inputs and targets of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsek._records import replaced
from sparsek._validation import check_count, check_floating
from sparsek.functional import SparseCode, sparse_decode
from sparsek.functional._sparse_decode import check_levels, decode_levels

from ._batch_top_k import Threshold
from ._broken_rows import broken_rows, filled
from ._latents import Latents, PreActivations
from ._nested_top_k import NestedTopK
from ._output import SparseAutoencoderOutput, squared_distances
from ._parts import main_code, parts_of, refined_parts
from ._refinement import Refinement, refined
from ._selection import LatentSelection, SelectionContext

_BLOCK = 2048
"""Rows of the decoder that are changed at once: what they need besides stays in the cache."""


class SparseAutoencoder(nn.Module):
    r"""Dictionary of latents, few of them active in a token: $\hat y = \sum_{i \in S(x)} a_i w^\text{dec}_i + b^\text{dec}$.

    $a = W^\text{enc} (x - b^\text{dec}) + b^\text{enc}$, and the selection says which latents S(x) are active. Codes are values and
    indices end to end, with gradients that are those of the dense computation (:func:`sparsek.functional.sparse_encode`,
    :func:`sparsek.functional.sparse_decode`); the dense product with the encoder is made once, forward.

    - Autoencoder: the target is the input, and the decoder bias is subtracted from the input.
    - Transcoder: give `d_out`, and `skip=True` for a linear path beside the dictionary (it starts at 0).
    - Crosscoder: give shapes, `SparseAutoencoder((layers, d), d_sae)`; the latents of a token are shared by all its layers.

    Decoder rows start at random with norm 1. The encoder starts as the decoder where input and target have one size, at the scale
    that reconstructs best: k of n random directions in d dimensions overlap, so $\hat x$ overshoots by 1 + S with $S = (k + n q
    \varphi(q)) / d$, $q = \Phi^{-1}(1 - k/n)$, for tokens of equal variance in all directions. Short trainings gain most by it.

    Shape:
        - input: (..., \*d_in).
        - target: (..., \*d_out).

    Args:
        d_in: Size of a token, or its shape.
        d_sae: Number of latents.
        selection: Which latents are active. Default: `NestedTopK(32)`, or of all latents where there are fewer than 32.
        d_out: Size or shape of the target, if it is not the input.
        skip: Whether a linear map of the input is added to the output.
        prefixes: Rising numbers of latents below `d_sae` from which each token is reconstructed too (width-Matryoshka): the
            first latents then hold what matters most.
        refinement: Of the values of active latents on the token, while training and after. For an autoencoder alone.

    Raises:
        ValueError: If a size is below 1, the selection needs more latents, `prefixes` do not rise within [1, d_sae), or there is a
            `refinement` and a target that is not the input.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> sae = SparseAutoencoder(16, 128, NestedTopK(8))
        >>> x = torch.randn(10, 16)
        >>> output = sae(x)
        >>> output.reconstruction.shape, output.reconstructions.shape
        (torch.Size([10, 16]), torch.Size([10, 5, 16]))
        >>> sae.loss(output, x).backward()
        >>> sae.encode(x, k=5).indices.shape
        torch.Size([10, 5])

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
        Dunefsky, Chlenski & Nanda, 2024, "Transcoders Find Interpretable LLM Feature Circuits", https://arxiv.org/abs/2406.11944
        Lindsey et al., 2024, "Sparse Crosscoders", https://transformer-circuits.pub/2024/crosscoders
        Bussmann et al., 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", https://arxiv.org/abs/2503.17547
    """

    prefixes: Tensor

    def __init__(
        self,
        d_in: int | Sequence[int],
        d_sae: int,
        selection: LatentSelection | None = None,
        *,
        d_out: int | Sequence[int] | None = None,
        skip: bool = False,
        prefixes: Sequence[int] = (),
        refinement: Refinement | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = _shape("d_in", d_in)
        self.output_shape = self.input_shape if d_out is None else _shape("d_out", d_out)
        (self.d_sae,) = _shape("d_sae", d_sae)
        self.selection = NestedTopK(min(32, self.d_sae)) if selection is None else selection
        self.selection.check(self.d_sae)
        self.centred = d_out is None
        if refinement is not None and not self.centred:
            raise ValueError(f"refinement must be None for a target that is not the input, got {refinement}")
        self.refinement = refinement
        width_in, width_out = math.prod(self.input_shape), math.prod(self.output_shape)
        directions = F.normalize(torch.randn(self.d_sae, width_out), dim=-1)
        tied = directions if width_in == width_out else F.normalize(torch.randn(self.d_sae, width_in), dim=-1)
        self.encoder_weight = nn.Parameter(tied * _scale(width_in, self.d_sae, getattr(self.selection, "k", math.inf)))
        self.encoder_bias = nn.Parameter(torch.zeros(self.d_sae))
        self.decoder_weight = nn.Parameter(directions)
        self.decoder_bias = nn.Parameter(torch.zeros(width_out))
        self.skip_weight = nn.Parameter(torch.zeros(width_out, width_in)) if skip else None
        self.selection_parameters = self._learnt(self.selection)
        self.register_buffer("prefixes", _widths(prefixes, self.d_sae), persistent=False)

    def forward(
        self, input: Tensor, *, progress: float = 1.0, generator: torch.Generator | None = None
    ) -> SparseAutoencoderOutput:
        """Encode by the selection and decode.

        Args:
            input: Tokens.
            progress: Part of the training that is over, for selections that anneal.
            generator: Source of randomness, for selections that sample while training.
        """
        rows, batch = self._rows(input)
        broken = broken_rows(rows)
        latents = self._activate(self.selection, rows, broken, progress, generator)
        prefixes = self.prefixes if self.prefixes.numel() and self.training else None
        parts = parts_of(latents, self.decoder_weight, self._constant(rows), prefixes, self.refinement, rows)
        reconstructions = filled(parts.reconstructions, broken, torch.nan)
        return SparseAutoencoderOutput(
            reconstruction=reconstructions[:, parts.main].reshape(*batch, *self.output_shape),
            latents=_with_batch(parts.active, batch),
            reconstructions=reconstructions.reshape(*batch, *reconstructions.shape[1:]),
            penalty=latents.penalty,
            weights=parts.weights,
        )

    def encode(
        self, input: Tensor, k: int | None = None, *, threshold: float | None = None, refine: int | None = None
    ) -> SparseCode | Tensor:
        """Active latents of each token: by the selection, or the `k` largest, or those above a `threshold`.

        Args:
            input: Tokens.
            k: Any number of latents, in [0, d_sae]. Of a dictionary trained for it (`NestedTopK`, `RandomK`) every k is good.
            threshold: At least 0, for the values before refinement. The width of the code is then the largest number of any token.
            refine: Steps by which values are refined on the token (:class:`Refinement`), at least 0; any trained dictionary gains
                by it. Default: as `refinement` has it, 0 without one.

        Returns:
            Values, at least 0, and indices (..., width), with `k` in the order of the values before refinement, largest first; as
            :attr:`SparseAutoencoderOutput.latents` is where neither is given.
        """
        if k is not None and threshold is not None:
            raise ValueError(f"k and threshold must not both be given, got k={k} and threshold={threshold}")
        steps = self._steps(refine)
        rows, batch = self._rows(input)
        if k is not None:
            values, indices = self._scores(rows).top(k)
            active: SparseCode | Tensor = SparseCode(values.relu(), indices)
        else:
            selection = self.selection if threshold is None else Threshold(threshold)
            active = main_code(self._activate(selection, rows, broken_rows(rows), 1.0, None))
        if steps:
            active = refined(active, rows - self.decoder_bias, self.decoder_weight, steps)
        return _with_batch(active, batch)

    def reconstruct(self, input: Tensor, levels: Sequence[int], *, refine: int | None = None) -> Tensor:
        """Reconstruct each token from its k largest latents for every k of `levels`, (..., levels, *d_out), encoded once.

        Args:
            input: Tokens.
            levels: Rising numbers of latents, in [0, d_sae].
            refine: As in :meth:`encode`; each k by itself.
        """
        steps, (rows, batch) = self._steps(refine), self._rows(input)
        check_levels(levels)
        values, indices = self._scores(rows).top(levels[-1])
        code = SparseCode(values.relu(), indices)
        parts = decode_levels(*code, self.decoder_weight, levels, self._constant(rows))
        if steps:
            parts = refined_parts(code, levels, parts, self.decoder_weight, self._constant(rows), steps, rows)[0]
        return parts.view(*batch, len(levels), *self.output_shape)

    def decode(
        self, latents: SparseCode | Tensor, input: Tensor | None = None, *, levels: Sequence[int] | None = None
    ) -> Tensor:
        """Reconstruct (..., *d_out) from a code, or a dense tensor (..., d_sae) of latents.

        Args:
            latents: What :meth:`encode` returned.
            input: The tokens; needed for a skip connection only.
            levels: Of a sorted code: rising numbers of leading entries. The output is then (..., levels, *d_out).
        """
        if isinstance(latents, Tensor):
            if levels is not None:
                raise ValueError("levels must be None for dense latents: only a sorted code has leading entries")
            output = latents @ self.decoder_weight
        else:
            output = sparse_decode(*latents, self.decoder_weight, levels=levels)
        constant: Tensor = self.decoder_bias
        if self.skip_weight is not None:
            if input is None:
                raise ValueError("input must be given to decode with a skip connection")
            rows, batch = self._rows(input)
            constant = self._constant(rows).view(*batch, *([] if levels is None else [1]), -1)
        output = output + constant
        return output.view(*output.shape[:-1], *self.output_shape)

    def with_selection(self, selection: LatentSelection) -> SparseAutoencoder:
        """Return this autoencoder, its weights shared, with another selection: what a dictionary is worth when read differently.

        With `RelaxedTopK(k, price=0.0)` the gradient of a loss in k says what one more latent in a token would gain.

        Args:
            selection: Which latents are active. What it learns starts anew.

        Example:
            >>> sae = SparseAutoencoder(8, 64)
            >>> sae.with_selection(Threshold(0.5)).decoder_weight is sae.decoder_weight
            True
        """
        selection.check(self.d_sae)
        other = copy(self)
        for tensors in ("_parameters", "_buffers", "_modules"):
            setattr(other, tensors, dict(getattr(self, tensors)))
        other.selection = selection
        other.selection_parameters = self._learnt(selection).to(self.encoder_weight)
        return other

    def loss(self, output: SparseAutoencoderOutput, target: Tensor) -> Tensor:
        """Fraction of the batch's variance that is unexplained, weighted over the reconstructed parts, plus the penalty.

        The mean over the parts, unless the selection weighs its levels. The variance is about the mean of this batch, and counts
        as a constant.
        """
        wanted = target.flatten(-len(self.output_shape))
        rows = wanted.reshape(-1, wanted.shape[-1])
        variance = (rows - rows.mean(0)).square().sum().detach()
        squares = squared_distances(output.reconstructions, wanted)
        return (squares @ output.weights).sum() / variance + output.penalty

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Set the norm of every decoder row to 1, in place. A row of zeros stays."""
        for rows in self.decoder_weight.split(_BLOCK):
            norms = rows.norm(dim=-1, keepdim=True)
            rows.div_(norms.masked_fill(norms == 0, 1))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take from the decoder's gradient what would change the norm of a row, in place. For rows of norm 1."""
        if self.decoder_weight.grad is None:
            return
        for rows, grad in zip(self.decoder_weight.split(_BLOCK), self.decoder_weight.grad.split(_BLOCK), strict=True):
            grad.addcmul_((rows * grad).sum(-1, keepdim=True), rows, value=-1)

    def extra_repr(self) -> str:
        """Return the sizes and the selection."""
        target = "" if self.centred else f" -> {self.output_shape}"
        refinement = "" if self.refinement is None else f", refinement={self.refinement}"
        return f"{self.input_shape}{target}, d_sae={self.d_sae}, selection={self.selection}{refinement}"

    def _steps(self, refine: int | None) -> int:
        if refine is None:
            return 0 if self.refinement is None else self.refinement.steps
        check_count("refine", refine, 0)
        if refine and not self.centred:
            raise ValueError(f"refine must be 0 for a target that is not the input, got {refine}")
        return refine

    def _learnt(self, selection: LatentSelection) -> nn.ParameterDict:
        values = selection.parameters(self.d_sae)
        return nn.ParameterDict({name: nn.Parameter(value) for name, value in values.items()})

    def _rows(self, input: Tensor) -> tuple[Tensor, torch.Size]:
        check_floating("input", input)
        sizes = self.input_shape
        if input.dim() < len(sizes) or input.shape[-len(sizes) :] != sizes:
            raise ValueError(f"input must have shape {('...', *sizes)}, got {tuple(input.shape)}")
        batch = input.shape[: -len(sizes)]
        return input.reshape(batch.numel(), sizes.numel()), batch

    def scores(self, input: Tensor) -> PreActivations:
        """Pre-activations of the tokens, their leading dimensions flattened; made as far as they are asked for."""
        return self._scores(self._rows(input)[0])

    def _scores(self, rows: Tensor) -> PreActivations:
        centre = rows - self.decoder_bias if self.centred else rows
        return PreActivations(centre, self.encoder_weight, self.encoder_bias)

    def _activate(
        self,
        selection: LatentSelection,
        rows: Tensor,
        broken: Tensor | None,
        progress: float,
        generator: torch.Generator | None,
    ) -> Latents:
        whole = filled(rows, broken, 0.0)  # a broken token takes nothing from the others of its batch
        learnt = dict(self.selection_parameters.items())
        context = SelectionContext(self.decoder_weight, self.training, progress, generator, learnt)
        latents = selection(self._scores(whole), context)
        active = latents.active
        if isinstance(active, Tensor):
            return replaced(latents, active=filled(active, broken, torch.nan))
        return replaced(latents, active=replaced(active, values=filled(active.values, broken, torch.nan)))

    def _constant(self, rows: Tensor) -> Tensor:
        """What is added to every reconstruction: (1 or rows, d_out)."""
        if self.skip_weight is None:
            return self.decoder_bias.unsqueeze(0)
        return F.linear(rows, self.skip_weight, self.decoder_bias)


def _scale(d: int, n: int, k: float) -> float:
    """1 / (1 + S) for the k largest of n random directions; of the positive ones, half of all, where k is more or unknown."""
    share = min(max(k, 1) / n, 0.5)
    normal = NormalDist()
    quantile = normal.inv_cdf(1 - share)
    return 1 / (1 + n * (share + quantile * normal.pdf(quantile)) / d)


def _with_batch(active: SparseCode | Tensor, batch: torch.Size) -> SparseCode | Tensor:
    if isinstance(active, Tensor):
        return active.view(*batch, active.shape[-1])
    shape = (*batch, active.indices.shape[-1])
    return SparseCode(active.values.view(shape), active.indices.view(shape))


def _shape(name: str, sizes: int | Sequence[int]) -> torch.Size:
    shape = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not shape or not all(isinstance(size, int) and size >= 1 for size in shape):
        raise ValueError(f"{name} must be a whole number of at least 1, or a shape of them, got {sizes!r}")
    return torch.Size(shape)


def _widths(prefixes: Sequence[int], d_sae: int) -> Tensor:
    if not prefixes:
        return torch.empty(0, dtype=torch.int64)
    check_levels(prefixes)
    if prefixes[0] < 1 or prefixes[-1] >= d_sae:
        raise ValueError(f"prefixes must lie in [1, {d_sae - 1}], below d_sae, got {tuple(prefixes)}")
    return torch.tensor([*prefixes, d_sae])
