"""What the pooling modules refuse, and how they say it."""

import math

import pytest
import torch

from sparsek.nn import GeM, MeanPool, NanIfEmpty, RaiseIfEmpty, TopKMeanPool, WeightedMeanPool
from sparsek.nn.pooling import MultiheadAttentionPool


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeM(p=math.inf), "p must be a finite number, got inf"),
        (lambda: GeM(p=True), "p must be a finite number, got True"),
        (lambda: GeM(per_channel=0), "per_channel must be the number of channels, or None, got 0"),
        (lambda: GeM(per_channel=True), "per_channel must be the number of channels, or None, got True"),
        (lambda: GeM(signed="power"), "signed must be a SignPolicy such as .*, got 'power'"),
        (lambda: GeM(eps=0.0), "eps must be"),
        (TopKMeanPool, "exactly one of k and fraction must be given, got k=None and fraction=None"),
        (
            lambda: TopKMeanPool(2, fraction=0.5),
            "exactly one of k and fraction must be given, got k=2 and fraction=0.5",
        ),
        (lambda: TopKMeanPool(0.5), "k must be a finite number >= 1, got 0.5"),
        (lambda: TopKMeanPool(True), "k must be a finite number >= 1, got True"),
        (lambda: TopKMeanPool(math.inf), "k must be a finite number >= 1, got inf"),
        (lambda: TopKMeanPool(fraction=0.0), r"fraction must lie in \(0, 1\], got 0.0"),
        (lambda: TopKMeanPool(fraction=1.5), r"fraction must lie in \(0, 1\], got 1.5"),
        (lambda: TopKMeanPool(2, per="row"), 'per must be "dim" or "token", got \'row\''),
        (lambda: MultiheadAttentionPool(8, queries=0), "queries must be >= 1, got 0"),
        (lambda: MultiheadAttentionPool(8, heads=0), "heads must be >= 1 and divide dim = 8, got 0"),
        (lambda: MultiheadAttentionPool(8, heads=3), "heads must be >= 1 and divide dim = 8, got 3"),
        (
            lambda: MultiheadAttentionPool(8, combine="mean"),
            r"combine must be Concatenate\(\) or Average\(\), got 'mean'",
        ),
        (lambda: WeightedMeanPool(weighting=None), "weighting must be a Weighting such as .*, got None"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


TOKENS = torch.ones(5, 2)


def jagged(offsets, lengths=None):
    return torch.nested.nested_tensor_from_jagged(TOKENS, torch.tensor(offsets), lengths=lengths)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.ones(3), {}, r"x must have shape \(T, D\), \(B, T, D\) or"),
        (TOKENS, {"offsets": torch.tensor([0, 5]), "index": torch.zeros(5).long()}, "offsets and index say the same"),
        (jagged([0, 2, 5]), {"mask": torch.ones(5).bool()}, "a nested x has its lengths itself"),
        (jagged([0, 2, 5]), {"offsets": torch.tensor([0, 2, 5])}, "a nested x has its lengths itself"),
        (jagged([0, 3, 5], torch.tensor([2, 2])), {}, "a nested x must have no gaps between its rows"),
        (torch.ones(1, 5, 2), {"offsets": torch.tensor([0, 5])}, r"x must have shape \(N, D\) with offsets"),
        (TOKENS, {"offsets": torch.tensor([0.0, 5.0])}, r"offsets must be integers of shape \(B \+ 1,\)"),
        (TOKENS, {"offsets": torch.tensor([[0, 5]])}, r"offsets must be integers of shape \(B \+ 1,\)"),
        (TOKENS, {"offsets": torch.empty(0).long()}, r"offsets must be integers of shape \(B \+ 1,\)"),
        (TOKENS, {"offsets": torch.tensor([1, 5])}, "offsets must go from 0 to the number of tokens, 5, got 1 to 5"),
        (TOKENS, {"offsets": torch.tensor([0, 4])}, "offsets must go from 0 to the number of tokens, 5, got 0 to 4"),
        (TOKENS, {"offsets": torch.tensor([0, 4, 2, 5])}, "offsets must not decrease"),
        (
            TOKENS,
            {"offsets": torch.tensor([0, 2, 5]), "max_length": 2},
            "max_length must be at least the longest length, 3",
        ),
        (TOKENS, {"index": torch.zeros(4).long()}, "index must"),
        (TOKENS, {"index": torch.tensor([0, 0, 1, 1, -1])}, r"index must lie in \[0, 1\], got -1 to 1"),
    ],
)
def test_layouts(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        MeanPool()(x, **arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the layout that is refused
def test_nested_tensors_of_the_strided_layout():
    with pytest.raises(ValueError, match="a nested x must have the jagged layout"):
        MeanPool()(torch.nested.nested_tensor([TOKENS], layout=torch.strided))


def test_an_empty_row_is_refused_named_and_counted():
    x, mask = torch.ones(3, 2, 4), torch.tensor([[True, True], [False, False], [True, False]])
    with pytest.raises(ValueError, match=r"x must have a token in every row, got 1 row\(s\) of 3 without"):
        MeanPool(empty=RaiseIfEmpty())(x, mask)
    full = torch.ones(3, 2, dtype=torch.bool)
    assert torch.equal(MeanPool(empty=RaiseIfEmpty())(x, full), MeanPool(empty=NanIfEmpty())(x, full))


@pytest.mark.parametrize("project", [True, False])
def test_weights_of_many_queries_are_those_that_pool(project):
    """Without projections the output is the weighted mean itself, so the weights alone give it back."""
    torch.manual_seed(0)
    pool, x = MultiheadAttentionPool(6, queries=3, heads=2, project=project).double(), torch.randn(2, 5, 6).double()
    mask = torch.tensor([[True, True, True, False, False], [True, True, True, True, True]])
    _, weights = pool(x, mask, return_weights=True)
    alone = pool.weights(x, mask)
    torch.testing.assert_close(alone, weights)
    torch.testing.assert_close(alone.sum(-2), torch.ones(2, 3).double())
    assert not alone[0, 3:].any()
    if not project:
        one_head = MultiheadAttentionPool(6, queries=3, project=False).double()
        expected = torch.einsum("btk,btd->bkd", one_head.weights(x, mask), x).flatten(1)
        torch.testing.assert_close(one_head(x, mask), expected)


def test_what_modules_print():
    assert "queries=3, heads=2, combine=Concatenate()" in repr(MultiheadAttentionPool(6, queries=3, heads=2))
    assert "k=2, learnable=False" in repr(TopKMeanPool(2))
    assert "per_channel=3" in repr(GeM(per_channel=3))
