"""The cost table of docs/pooling.md: every pooling is in it, with its parameters and the operations that it is measured to make."""

import re
from math import prod
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sparsek.nn.pooling as package
from sparsek.kernels import Backend, use_backends
from sparsek.nn.pooling import Pooling, WeightedPooling

PAGE = (Path(__file__).parents[3] / "docs" / "pooling.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| `(\w+)(\(.*?\))` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
T, D, H, K = 256, 128, 64, 4

PRODUCTS = {"mm", "bmm", "addmm", "mv", "addmv", "dot"}
FREE = {
    "detach",
    "alias",
    "_to_copy",
    "arange",
    "empty_like",
    "lift_fresh",
    "scalar_tensor",
    "full",
    "eye",
    "new_empty_strided",
}


class Operations(TorchDispatchMode):
    """Counts multiply-adds of products, and of every other operator the larger of what it reads from a tensor and what it writes."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        written = [leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        if name in PRODUCTS:
            left, right = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self.count += left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
        elif name not in FREE and not func.is_view and written:
            read = [leaf.numel() for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
            self.count += max(*written, *read) if read else max(written)
        return output


def build(name, arguments):
    names = {"D": D, "H": H, "K": K, **vars(package)}
    return eval(f"{name}{arguments}", names)


def operations_per_value(pool):
    x = torch.rand(1, T, D, generator=torch.Generator().manual_seed(0)) + 0.1
    mask = torch.rand(1, T, generator=torch.Generator().manual_seed(0)) < 2
    with use_backends(Backend.EAGER), Operations() as operations, torch.no_grad():
        pool.eval()(x, mask)
    return operations.count / (T * D)


def test_the_counter_counts():
    x, y = torch.ones(3, 4), torch.ones(4, 5)
    with Operations() as operations:
        (x @ y).t().sum(0).add(1)
    assert operations.count == 3 * 4 * 5 + 3 * 5 + 3


def test_every_pooling_has_a_row():
    public = {getattr(package, name) for name in package.__all__}
    poolings = {c for c in public if isinstance(c, type) and issubclass(c, Pooling)} - {Pooling, WeightedPooling}
    assert {name for name, *_ in TABLE} == {c.__name__ for c in poolings}


@pytest.mark.parametrize("row", TABLE, ids=[name for name, *_ in TABLE])
def test_a_row_says_what_is_counted(row):
    name, arguments, parameters, _, operations = row
    pool = build(name, arguments)
    formula = parameters.replace("²", "**2").replace("·", "*").replace("(D + 1)H", "(D + 1)*H").replace("2H", "2*H")
    assert sum(p.numel() for p in pool.parameters()) == eval(formula, {"D": D, "H": H, "K": K})
    assert f"{operations_per_value(pool):.1f}" == operations


def test_costs_of_heads_on_feature_maps():
    """Parameters to 1,000 classes from a flattened map and from a pooled one, as the page states them."""
    stated = dict(re.findall(r"^\| (flatten .*?|global pooling) \| ([\d,]+) \|$", PAGE, re.MULTILINE))
    shapes = {"flatten 7 × 7 × 512": (7, 7, 512), "flatten 14 × 14 × 512": (14, 14, 512), "global pooling": (512,)}
    assert stated == {name: f"{prod(shape) * 1000:,}" for name, shape in shapes.items()}
