"""Products of rows, sorted by expert, with the matrix of their expert: three executions behind one gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sparsek._validation import inspectable

_HAS_TOLIST = torch.__version__ >= "2.7"
"""Whether tensors have `tolist` under `torch.func`."""


class GroupedProduct(ABC):
    r"""$y_i = x_i W_{e(i)}$ for rows sorted by expert: the first `counts[0]` rows are expert 0's, and so on.

    The gradients are again such products: $∂L/∂x_i = g_i W_{e(i)}^⊤$ and $∂L/∂W_e = \sum_{i: e(i) = e} x_i^⊤ g_i$, written once
    into one tensor. So backward allocates the gradient of the weights and nothing else that grows with the number of
    experts. Differentiable any number of times, in reverse and forward mode.

    Shape:
        - input: (N, d).
        - weight: (E, d, h).
        - counts: (E,) int64, summing to N.
        - output: (N, h).
    """

    def __call__(self, input: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        """Multiply.

        Raises:
            ValueError: If this execution does not take such tensors.
        """
        reason = self.refusal(input, weight)
        if reason:
            raise ValueError(f"input and weight must be {reason} for {type(self).__name__}")
        product: Tensor = _Rows.apply(input, weight, self, self.groups(counts))
        return product

    def refusal(self, input: Tensor, weight: Tensor) -> str:
        """What tensors have to be for this execution, where these are not; "" where they are taken."""
        return "" if input.dtype == weight.dtype else f"of one dtype, not {input.dtype} and {weight.dtype},"

    @abstractmethod
    def groups(self, counts: Tensor) -> Any:
        """The counts in the form that this execution works with."""

    @abstractmethod
    def rows(self, input: Tensor, weight: Tensor, groups: Any) -> Tensor:
        """The product, (N, h) from (N, d) and (E, d, h), without a gradient."""

    @abstractmethod
    def outer(self, left: Tensor, right: Tensor, groups: Any) -> Tensor:
        """The sum of outer products of each expert's rows, (E, d, h) from (N, d) and (N, h), without a gradient."""


@dataclass(frozen=True)
class LoopProduct(GroupedProduct):
    """A matmul per expert, into its part of the result. Any dtype, any device; the counts are copied to the host.

    Example:
        >>> import torch
        >>> rows, weight = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[[10.0]], [[100.0]]])
        >>> LoopProduct()(rows, weight, torch.tensor([1, 2])).T
        tensor([[ 10., 200., 300.]])
    """

    def groups(self, counts: Tensor) -> list[tuple[int, int, int]]:
        """(Expert, first row, row after the last) of each expert; those without rows too."""
        sizes = counts.tolist() if _HAS_TOLIST else [int(count) for count in counts]
        ends = list(accumulate(sizes))
        return list(zip(range(len(ends)), [0, *ends], ends, strict=False))

    def rows(self, input: Tensor, weight: Tensor, groups: list[tuple[int, int, int]]) -> Tensor:
        """Multiply each expert's rows."""
        output = input.new_empty(len(input), weight.shape[-1])
        for expert, begin, end in groups:
            if begin < end:
                torch.mm(input[begin:end], weight[expert], out=output[begin:end])
        return output

    def outer(self, left: Tensor, right: Tensor, groups: list[tuple[int, int, int]]) -> Tensor:
        """Multiply each expert's rows with each other; 0 for one without."""
        output = left.new_empty(len(groups), left.shape[-1], right.shape[-1])
        for expert, begin, end in groups:
            if begin < end:
                torch.mm(left[begin:end].t(), right[begin:end], out=output[expert])
            else:
                output[expert].zero_()
        return output


@dataclass(frozen=True)
class FusedProduct(GroupedProduct):
    """One `torch.nn.functional.grouped_mm`, which never copies the counts to the host.

    float32 or bfloat16 with rows of a multiple of 16 bytes; bfloat16 alone on CUDA. Gradients are made contiguous first, as
    it asks. Not in every torch.
    """

    def refusal(self, input: Tensor, weight: Tensor) -> str:
        """See :class:`GroupedProduct`."""
        if not hasattr(nn.functional, "grouped_mm"):
            return "multiplied by a torch that has grouped_mm"
        allowed = (torch.bfloat16,) if input.is_cuda else (torch.bfloat16, torch.float32)
        if input.dtype not in allowed:
            return f"{' or '.join(map(str, allowed))}, not {input.dtype},"
        if any(size * input.element_size() % 16 for size in weight.shape[1:]):
            return f"of rows of a multiple of 16 bytes, not {tuple(weight.shape[1:])} numbers of {input.dtype},"
        return super().refusal(input, weight)

    def groups(self, counts: Tensor) -> Tensor:
        """The row after the last of each expert."""
        return counts.cumsum(0).to(torch.int32)

    def rows(self, input: Tensor, weight: Tensor, groups: Tensor) -> Tensor:
        """Multiply at once."""
        return nn.functional.grouped_mm(_aligned(input), _aligned(weight), offs=groups)

    def outer(self, left: Tensor, right: Tensor, groups: Tensor) -> Tensor:
        """Multiply at once; 0 for an expert without rows."""
        if len(left) == 0:
            return left.new_zeros(len(groups), left.shape[-1], right.shape[-1])
        return nn.functional.grouped_mm(_aligned(left).t(), _aligned(right), offs=groups)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its memory is not that of a matrix, or of its transpose, from a multiple of 16 bytes."""
    dense = tensor.is_contiguous() or tensor.mT.is_contiguous()
    return tensor if dense and tensor.data_ptr() % 16 == 0 else tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class PaddedProduct(GroupedProduct):
    """One `bmm` over groups padded with zeros to the largest: the work of E times the busiest expert. Any dtype."""

    def groups(self, counts: Tensor) -> tuple[int, int, Tensor]:
        """(Number of experts, largest group, place of each row in the padded groups)."""
        largest, total = torch.stack((counts.amax(), counts.sum())).tolist() if len(counts) else (0, 0)
        padding = (torch.arange(len(counts), device=counts.device) * largest) - (counts.cumsum(0) - counts)
        shift = padding.repeat_interleave(counts, output_size=total)
        return len(counts), largest, shift + torch.arange(total, device=counts.device)

    def rows(self, input: Tensor, weight: Tensor, groups: tuple[int, int, Tensor]) -> Tensor:
        """Pad, multiply, and take the rows back."""
        return torch.bmm(self._pad(input, groups), weight).flatten(0, 1).index_select(0, groups[2])

    def outer(self, left: Tensor, right: Tensor, groups: tuple[int, int, Tensor]) -> Tensor:
        """Pad both and multiply."""
        return torch.bmm(self._pad(left, groups).mT, self._pad(right, groups))

    def _pad(self, rows: Tensor, groups: tuple[int, int, Tensor]) -> Tensor:
        experts, largest, places = groups
        padded = rows.new_zeros(experts * largest, rows.shape[-1])
        return padded.index_copy_(0, places, rows).view(experts, largest, rows.shape[-1])


class _Bilinear(Function):
    """A function of two tensors that is linear in each, and of a product with its groups."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, GroupedProduct, Any], output: Tensor) -> None:
        *tensors, ctx.product, ctx.groups = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def _backward(ctx: Any, *gradients: tuple[type[_Bilinear], Tensor, Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient to either tensor, each a function of this kind again, where one is needed."""
    needed = zip(ctx.needs_input_grad, gradients, strict=False)
    parts = [
        kind.apply(left, right, ctx.product, ctx.groups) if wanted else None for wanted, (kind, left, right) in needed
    ]
    return *parts, None, None


def _jvp(kind: type[_Bilinear], ctx: Any, left_tangent: Tensor | None, right_tangent: Tensor | None) -> Tensor:
    """The derivative in a direction: the sum of the function with either tensor replaced by its tangent."""
    left, right = ctx.saved_tensors
    pairs = (left_tangent, right), (left, right_tangent)
    parts = [kind.apply(a, b, ctx.product, ctx.groups) for a, b in pairs if a is not None and b is not None]
    total: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return total


class _Rows(_Bilinear):
    """`product.rows` with its gradients."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, product: GroupedProduct, groups: Any) -> Tensor:
        return product.rows(input, weight, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        return _backward(ctx, (_Rows, grad, weight.mT), (_Outer, input, grad))

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor | None, weight_tangent: Tensor | None, *_: None) -> Tensor:
        return _jvp(_Rows, ctx, input_tangent, weight_tangent)


class _Outer(_Bilinear):
    """`product.outer` with its gradients."""

    @staticmethod
    def forward(left: Tensor, right: Tensor, product: GroupedProduct, groups: Any) -> Tensor:
        return product.outer(left, right, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        return _backward(ctx, (_Rows, right, grad.mT), (_Rows, left, grad))

    @staticmethod
    def jvp(ctx: Any, left_tangent: Tensor | None, right_tangent: Tensor | None, *_: None) -> Tensor:
        return _jvp(_Outer, ctx, left_tangent, right_tangent)


def automatic_product(input: Tensor, weight: Tensor, counts: Tensor) -> GroupedProduct:
    """The execution that was fastest, forward and backward by one thread of a CPU; `benchmarks/dispatch.py` compares them all.

    The fused product wherever it takes the tensors, otherwise the loop; but the padded product where its batch is small:
    largest group × matrix of at most 2^19 numbers in bfloat16, whose small matmuls are slow one by one, and of at most 2^15
    in other dtypes from 32 experts on, where calls cost more than padding. Only a CPU is asked for its largest group.
    """
    fused = FusedProduct()
    if input.device.type == "cpu" and len(counts) and inspectable(counts):
        few = len(counts) < 32
        most = 2**19 if input.dtype == torch.bfloat16 else 0 if few else 2**15
        if int(counts.amax()) * weight.shape[1] * weight.shape[2] <= most:
            return PaddedProduct()
    return LoopProduct() if fused.refusal(input, weight) else fused
