"""Time a mixture of experts against a dense layer of equal active FLOPs: `python benchmarks/dispatch.py`, `--device cuda` on a GPU.

T = 4096 tokens of width 256, k = 2 of E experts of hidden width 512, random routing; the dense layer is 1024 wide. Forward and
backward, with fresh gradients. float32 on the CPU, bfloat16 on a GPU. Each row contains those before it:

- bare products: the six grouped products of forward and backward alone, on rows already sorted: no activation, no autograd;
- dispatched: sorting, gathering, the activation and combining too, by given indices and weights, with each product;
- with router: and a router with its gate and gradient;
- loop with masks, for comparison: the common execution, in which every expert looks for its tokens and indexes its weights.

By default glibc gives freed blocks of more than 32 MB back to the system, and a fresh gradient of the weights (2 × 34 MB at E = 64) then
costs a page fault per 4 kB. So on the CPU all is measured twice, each time in a process of its own: as glibc does it (results file
"dispatch"), and told to keep its memory ("dispatch_kept"). A third file, "dispatch_growth", has the forward and the backward pass
alone against E, and the parts of the latter that are the products for the gradients of the rows and of the weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from command import arguments, finish
from environment import pin
from executions import Key, warm
from results import Row
from targets import DENSE, Shape
from timing import Call, Stopwatch, interleave, stopwatch_of
from torch import Tensor, nn

from sparsek.nn import (
    Experts,
    FusedProduct,
    GroupedProduct,
    LoopProduct,
    MixtureOfExperts,
    PaddedProduct,
    Router,
    Routing,
)

D, K, HIDDEN = 256, 2, 512
SHAPES: tuple[Shape, ...] = ((4096, 8), (4096, 64))
GROWTH: tuple[Shape, ...] = tuple((4096, experts) for experts in (4, 8, 16, 32, 64, 128))
"""(T, E)."""
PRODUCTS: dict[str, GroupedProduct | None] = {
    "automatic": None,
    "fused": FusedProduct(),
    "loop": LoopProduct(),
    "padded": PaddedProduct(),
}
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
ALLOCATORS = {"dispatch": {}, "dispatch_kept": KEEP, "dispatch_growth": KEEP}
"""Results file to the settings of glibc with which it is measured."""


class Given(nn.Module):
    """A router that has decided."""

    def __init__(self, indices: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.indices, self.weights = indices, weights

    def forward(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Routing:
        """Say it."""
        return Routing(self.indices, self.weights, self.weights, self.weights, {}, {})


class Case(NamedTuple):
    """One layer with its tokens."""

    x: Tensor
    gradient: Tensor
    given: Given
    experts: Experts

    def dispatched(self, product: GroupedProduct | None) -> Callable[[], Tensor]:
        """Return a forward pass with these experts, multiplied so."""
        experts = Experts(D, HIDDEN, len(self.experts.up), product=product)
        experts.up, experts.down = self.experts.up, self.experts.down
        mixture = MixtureOfExperts(D, HIDDEN, len(experts.up), self.given, experts=lambda *_: experts)
        return lambda: mixture(self.x).output

    @property
    def leaves(self) -> list[Tensor]:
        """What a gradient is sent to."""
        return [self.x, self.given.weights, self.experts.up, self.experts.down]


def case(shape: Shape, device: str) -> Case:
    """Return a layer of E experts and T tokens."""
    torch.manual_seed(0)
    tokens, num_experts = shape
    place = {"device": device, "dtype": torch.bfloat16 if device == "cuda" else torch.float32}
    experts = Experts(D, HIDDEN, num_experts).to(**place)
    indices = torch.rand(tokens, num_experts).topk(K).indices.to(device)
    weights = torch.rand(tokens, K).to(**place).requires_grad_()
    x = torch.randn(tokens, D).to(**place).requires_grad_()
    return Case(x, torch.randn(tokens, D).to(**place), Given(indices, weights), experts)


def both(output: Callable[[], Tensor], leaves: list[Tensor], gradient: Tensor) -> Callable[[], object]:
    """Return a forward and backward pass with fresh gradients."""
    return lambda: torch.autograd.grad(output(), leaves, gradient)


def alone(output: Callable[[], Tensor], leaves: list[Tensor], gradient: Tensor) -> Callable[[], object]:
    """Return a backward pass, again and again from one forward pass."""
    return partial(torch.autograd.grad, output(), leaves, gradient, retain_graph=True)


def dense(made: Case) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Return the forward pass of the layer of equal active FLOPs, and its leaves."""
    up = torch.randn(D, K * HIDDEN).to(made.x).mul_(D**-0.5).requires_grad_()
    down = torch.randn(K * HIDDEN, D).to(made.x).mul_((K * HIDDEN) ** -0.5).requires_grad_()
    return lambda: nn.functional.gelu(made.x @ up) @ down, [made.x, up, down]


def bare(made: Case, product: GroupedProduct) -> dict[str, Callable[[], object]]:
    """Return the six products of a forward and a backward pass on sorted rows, and the two pairs of the latter alone."""
    up, down = made.experts.up.detach(), made.experts.down.detach()
    groups = product.groups(made.given.indices.flatten().bincount(minlength=len(up)))
    rows, output = (torch.randn(made.given.indices.numel(), D).to(made.x) for _ in range(2))  # the gradient, too
    hidden = product.rows(rows, up, groups)

    def forward() -> tuple[Tensor, ...]:
        return product.rows(rows, up, groups), product.rows(hidden, down, groups)

    def of_rows() -> tuple[Tensor, ...]:
        return product.rows(output, down.mT, groups), product.rows(hidden, up.mT, groups)

    def of_weights() -> tuple[Tensor, ...]:
        return product.outer(rows, hidden, groups), product.outer(hidden, output, groups)

    return {
        "bare products": lambda: (*forward(), *of_rows(), *of_weights()),
        "gradients of the rows": of_rows,
        "gradients of the weights": of_weights,
    }


def masked_loop(made: Case) -> Tensor:
    """Compute expert by expert, each looking for its tokens."""
    output, (indices, weights) = torch.zeros_like(made.x), (made.given.indices, made.given.weights)
    for expert in range(len(made.experts.up)):
        token, slot = torch.where(indices == expert)
        hidden = made.experts.activation(made.x[token] @ made.experts.up[expert]) @ made.experts.down[expert]
        output = output.index_add(0, token, hidden * weights[token, slot, None])
    return output


def layer(shape: Shape, device: str) -> dict[Key, Call]:
    """Return forward and backward of everything."""
    made = case(shape, device)
    num_experts = len(made.experts.up)
    full = MixtureOfExperts(D, HIDDEN, num_experts, Router(D, num_experts, K)).to(made.x)
    output, leaves = dense(made)
    runs = {DENSE: both(output, leaves, made.gradient)}
    runs |= {
        ("bare products", name): bare(made, product)["bare products"]
        for name, product in taken(made).items()
        if product
    }
    runs |= {
        ("dispatched", name): both(made.dispatched(product), made.leaves, made.gradient)
        for name, product in taken(made).items()
    }
    runs["with router", "automatic"] = both(lambda: full(made.x).output, [made.x, *full.parameters()], made.gradient)
    runs["loop with masks", "autograd"] = both(lambda: masked_loop(made), made.leaves, made.gradient)
    return {key: Call(run) for key, run in runs.items()}


def passes(shape: Shape, device: str) -> dict[str, dict[Key, Call]]:
    """Return the forward and the backward pass alone."""
    made = case(shape, device)
    output, leaves = dense(made)
    fastest = next(product for product in (FusedProduct(), LoopProduct()) if product in taken(made).values())
    forward = {DENSE: output, ("dispatched", "automatic"): made.dispatched(None)}
    backward = {
        DENSE: alone(output, leaves, made.gradient),
        ("dispatched", "automatic"): alone(made.dispatched(None), made.leaves, made.gradient),
        **{(name, "automatic"): run for name, run in bare(made, fastest).items() if name.startswith("gradients")},
        ("loop with masks", "autograd"): alone(lambda: masked_loop(made), made.leaves, made.gradient),
    }
    runs: dict[str, dict[Key, Callable[[], object]]] = {"forward": {**forward}, "backward": {**backward}}
    return {direction: {key: Call(run) for key, run in found.items()} for direction, found in runs.items()}


def taken(made: Case) -> dict[str, GroupedProduct | None]:
    """Return the products that take these tensors, by name."""
    return {n: p for n, p in PRODUCTS.items() if p is None or not p.refusal(made.x, made.experts.up)}


def measured(
    calls: dict[Key, Call], shape: Shape, direction: str, dtype: str, stopwatch: Stopwatch, budget: float
) -> Iterator[Row]:
    """Time calls in turn; the ratio of a row is to the dense layer."""
    medians = interleave(dict(warm(calls)), stopwatch, budget, most=101)
    reference = medians[DENSE].seconds
    for key, median in medians.items():
        ratio = median.seconds / reference
        yield Row(*key, direction, *shape, K, dtype, median.seconds, median.rounds, ratio=ratio)


def layers(shapes: Sequence[Shape], device: str, budget: float) -> Iterator[Row]:
    """Measure forward and backward together."""
    for shape in shapes:
        yield from measured(
            layer(shape, device), shape, "forward+backward", DTYPE[device], stopwatch_of(device), budget
        )


def growth(shapes: Sequence[Shape], device: str, budget: float) -> Iterator[Row]:
    """Measure forward and backward apart, against E."""
    for shape in shapes:
        for direction, calls in passes(shape, device).items():
            yield from measured(calls, shape, direction, DTYPE[device], stopwatch_of(device), budget)


DTYPE = {"cpu": "float32", "cuda": "bfloat16"}


def measure(name: str, given: argparse.Namespace) -> None:
    """Measure one results file in this process."""
    if given.device == "cpu":
        pin()
    of, shapes = (growth, GROWTH) if name == "dispatch_growth" else (layers, SHAPES)
    finish(name, of(given.shapes or shapes, given.device, given.budget), given.device, given.out)


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments; measure, write and print, on the CPU in a process for each results file with its allocator."""
    parser = arguments(__doc__)
    parser.set_defaults(budget=3.0)
    parser.add_argument("--results", nargs="*", choices=list(ALLOCATORS), default=list(ALLOCATORS))
    parser.add_argument("--here", action="store_true", help="in this process, with its allocator as it is")
    given = parser.parse_args(words)
    for name in given.results:
        if given.here or (given.device == "cuda" and name != "dispatch_kept"):
            measure(name, given)
        elif given.device == "cpu":
            again = [*(sys.argv[1:] if words is None else words), "--results", name, "--here"]
            subprocess.run([sys.executable, __file__, *again], env=os.environ | ALLOCATORS[name], check=True)


if __name__ == "__main__":
    main()
