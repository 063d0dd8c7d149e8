"""The cost table of docs/pooling.md: every pooling is in it, with its parameters and the operations that it is measured to make."""

import re
from math import prod
from pathlib import Path

import pytest
import torch

import sparsek.nn.pooling as package
from sparsek.lab._costs import D, H, K, Operations, operations_per_value
from sparsek.nn.pooling import Pooling, WeightedPooling

PAGE = (Path(__file__).parents[3] / "docs" / "pooling.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| `(\w+)(\(.*?\))` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)


def build(name, arguments):
    names = {"D": D, "H": H, "K": K, **vars(package)}
    return eval(f"{name}{arguments}", names)


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


def test_what_logarithms_cost_gem():
    assert f"at powers outside (1, 8]: {operations_per_value(package.GeM(p=9.0)):.1f} operations" in PAGE
