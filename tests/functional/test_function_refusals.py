"""Arguments that functions refuse, by name, what they were and what is allowed."""

import pytest
import torch

from sparsek.constraints import k_hot
from sparsek.distributions import KHot
from sparsek.functional import bits_per_byte, doubly_capped, log_esp, sigmoid_topk, sparse_encode, sparse_linear
from sparsek.functional.pooling import mean_pool, sigmoid_topk_weights, topk_mean_pool
from sparsek.sampling import Draw, Pivotal

X = torch.zeros(3, 4)
INFINITE = torch.tensor([[torch.inf, torch.inf, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sigmoid_topk(X, "2"), "k must be a number or a tensor, got str"),
        (lambda: sigmoid_topk(X, True), "k must be a number or a tensor, got bool"),
        (lambda: log_esp(X, 1.5), "k must be a whole number here, got 1.5"),
        (
            lambda: bits_per_byte(torch.zeros(2, 3, 8), torch.zeros(2, 4).long()),
            r"target must have the shape of logits",
        ),
        (
            lambda: bits_per_byte(torch.zeros(2, 3, 8), torch.zeros(2, 3).long(), torch.ones(3).bool()),
            r"mask must be boolean of shape \(2, 3\), got torch.bool of shape \(3,\)",
        ),
        (lambda: doubly_capped(INFINITE, 1, 2), r"input must have at most k entries at \+inf in every row, got 2"),
        (
            lambda: doubly_capped(X, 1, torch.tensor([1.0, -1.0, 1.0, 1.0])),
            "capacity must be >= 0 everywhere, got .* -1",
        ),
        (lambda: doubly_capped(X, 1, 0.5), "capacity must leave room for the sum of k over all tokens, 3"),
        (
            lambda: sparse_encode(X, torch.zeros(5, 3), None, 2),
            r"input must have shape \(\.\.\., 3\) for this weight, got",
        ),
        (lambda: sparse_encode(X, torch.zeros(4), None, 2), r"weight must have shape \(n, d\), got \(4,\)"),
        (
            lambda: sparse_encode(X, torch.zeros(5, 4), torch.zeros(4), 2),
            r"bias must have shape \(5,\) for this weight, got \(4,\)",
        ),
        (
            lambda: sparse_linear(X, torch.zeros(5, 4), None, torch.full((3, 2), 5)),
            r"indices must lie in \[0, 4\], got values from 5 to 5",
        ),
        (
            lambda: sparse_linear(X, torch.zeros(5, 4), None, torch.full((3, 2), -1)),
            r"indices must lie in \[0, 4\], got values from -1 to -1",
        ),
        (lambda: mean_pool(torch.zeros(3)), r"x must have shape \(\.\.\., T, D\), got shape \(3,\)"),
        (lambda: sigmoid_topk_weights(torch.tensor(1.0), 1), r"scores must have shape \(\.\.\., T\), got a 0-d tensor"),
        (lambda: topk_mean_pool(torch.zeros(2, 3, 4), torch.ones(3)), "k"),
        (
            lambda: Pivotal(shuffle=True).log_prob(
                torch.full((4,), 0.5), Draw(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(2, 3).long())
            ),
            r"order of shape \(2, 3\) does not fit probs",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_of_different_k_have_no_common_support():
    together = KHot(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.5, 0.5]]))
    assert isinstance(together.support, k_hot)
    with pytest.raises(NotImplementedError, match="rows of different k have different supports"):
        together.enumerate_support()
    for row in together.probs:
        assert len(KHot(row).enumerate_support()) == 3
