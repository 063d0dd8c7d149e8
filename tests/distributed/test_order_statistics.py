"""The radix search finds the order statistics that a sort finds, bit for bit."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.distributed._order import keys, order_statistics, scores

FLOATS = {
    torch.float32: st.floats(width=32, allow_nan=False),
    torch.float64: st.floats(width=64, allow_nan=False),
}


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_sort_agrees(dtype, data):
    values = data.draw(st.lists(FLOATS[dtype], min_size=1, max_size=12))
    x = torch.tensor([values, values[::-1]], dtype=dtype)
    n = len(values)
    ranks = torch.arange(1, n + 1).expand(2, n)
    found = order_statistics(x, ranks, lambda counts: counts)
    assert torch.equal(found, x.sort(dim=-1, descending=True).values)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_keys_keep_the_order_and_lead_back(dtype, data):
    x = torch.tensor(data.draw(st.lists(FLOATS[dtype], min_size=2, max_size=12)), dtype=dtype)
    key = keys(x)
    assert torch.equal(key[:, None] < key, x[:, None] < x)
    assert torch.equal(scores(key, dtype), x)


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_counts_of_parts_are_enough(cut):
    x = torch.tensor([[3.0, -math.inf, 0.0, -0.0, 3.0, math.inf, 1e-45]])
    parts, counted, together = [x[:, :cut], x[:, cut:]], [None, None], threading.Barrier(2, timeout=30)

    def search(part):
        def add_up(counts):
            counted[part] = counts
            together.wait()
            total = counted[0] + counted[1]
            together.wait()
            return total

        return order_statistics(parts[part], torch.tensor([[1, 2, 4, 7]]), add_up)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(search, range(2))
    assert torch.equal(first, x.sort(dim=-1, descending=True).values[:, [0, 1, 3, 6]])
    assert torch.equal(first, second)


def test_no_rows_are_no_work():
    assert order_statistics(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.long), lambda counts: counts).shape == (
        0,
        2,
    )
