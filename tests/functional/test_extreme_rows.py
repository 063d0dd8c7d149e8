"""Rows that fuzzing found: scores of any size, rows of nothing, NaN among ties, arguments of another kind."""

import math

import pytest
import torch

from sparsek import functional as SF
from sparsek.functional import pooling as SP

SOLVED = {
    "sigmoid_topk": SF.sigmoid_topk,
    "project_capped_simplex": SF.project_capped_simplex,
    "lapsum_topk": SF.lapsum_topk,
    "sinkhorn_topk": SF.sinkhorn_topk,
    "scaled_sigmoid": SF.scaled_sigmoid,
    "successive_softmax": SF.successive_softmax,
}
LARGEST = torch.finfo(torch.float64).max


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize(
    "row",
    [
        torch.tensor([1e38, -1e38, 1e38, 1e38, -1e38]),
        torch.tensor([3e38, 1.0, 0.0, -3e38, 2.0]),
        torch.tensor([LARGEST, -LARGEST, LARGEST, math.inf, -LARGEST], dtype=torch.float64),
        torch.tensor([5.8e14, 3e5, -1.6e-5, -0.13, 0.0], dtype=torch.float64),
    ],
)
def test_sums_are_k_however_large_the_scores_are(name, row):
    for k in (1, 2, 5):
        probs = SOLVED[name](row, k)
        assert probs.isfinite().all()
        assert probs.double().sum().item() == pytest.approx(k, abs=2e-6 if row.dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("name", ["lapsum_topk", "sinkhorn_topk"])
def test_sums_are_k_at_widths_far_below_the_distances(name):
    scores = torch.tensor([10935.7, 17791.5, 6943.9, 14103.5], dtype=torch.float64)
    width = {"scale": 1e-30} if name == "lapsum_topk" else {"epsilon": 1e-30}
    for k in (0.25, 1.6e-106, 2.5):
        assert SOLVED[name](scores, k, **width).sum().item() == pytest.approx(k, abs=1e-12)


@pytest.mark.parametrize("name", SOLVED)
def test_rows_of_nothing_give_rows_of_nothing(name):
    for size in ((2, 3, 0), (0, 3), (0,)):
        probs = SOLVED[name](torch.ones(size, requires_grad=True), torch.zeros(size[:-1], dtype=torch.float64))
        assert probs.shape == size
        probs.sum().backward()


@pytest.mark.parametrize("k", [2, 15, 16])
@pytest.mark.parametrize("place", [0, 7, 16])
def test_a_nan_among_ties_makes_its_row_nan(k, place):
    row = torch.ones(17)
    row[place] = math.nan
    assert SF.topk_mask(row, k).isnan().all()
    assert SF.topk_mask(row.expand(2, -1), torch.tensor([k, k])).isnan().all()


def test_rows_of_certain_units_have_gradient_zero():
    scores = torch.tensor([[math.inf, math.inf], [1.0, 2.0]], requires_grad=True)
    SF.sigmoid_topk(scores, torch.tensor([2.0, 1.0], dtype=torch.float64)).square().sum().backward()
    assert scores.grad.isfinite().all()
    assert (scores.grad[0] == 0).all()


@pytest.mark.parametrize("name", ["sigmoid_topk", "lapsum_topk", "sinkhorn_topk", "project_capped_simplex"])
def test_gradients_across_a_gap_that_overflows_are_no_nan(name):
    most = torch.finfo(torch.float32).max
    scores = torch.tensor([most, -most, -most], requires_grad=True)
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (SOLVED[name](scores, k) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert scores.grad.isfinite().all()
    assert k.grad.isfinite()


def test_a_row_that_is_done_spoils_no_gradient_of_successive_softmax():
    scores = torch.tensor([[1.0, -math.inf, -math.inf], [1.0, 0.5, 0.0]], requires_grad=True)
    SF.successive_softmax(scores, torch.tensor([1, 3])).square().sum().backward()
    assert scores.grad.isfinite().all()


def test_sizes_far_apart_are_all_taken_where_all_are_wanted():
    sizes = torch.tensor([2e10, 1e-30, 3e-38, 7.0])
    assert SF.pps(sizes, 4).tolist() == [1.0, 1.0, 1.0, 1.0]


def test_esp_of_the_largest_numbers_is_no_nan():
    logits = torch.tensor([LARGEST, -LARGEST, LARGEST], dtype=torch.float64)
    assert SF.log_esp(logits, 0) == 0
    assert SF.conditional_poisson_marginals(logits, 2).tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_few_of_many_equal_logits_of_any_size():
    logits = torch.tensor([1e38, -1e38, 1e38, 1e38], dtype=torch.float64)
    assert SF.conditional_poisson_marginals(logits, 1).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    sample = SF.conditional_poisson_sample(logits, 2, (50,), torch.Generator().manual_seed(0))
    assert (sample.sum(-1) == 2).all()
    assert (sample[:, 1] == 0).all()
    assert SF.log_esp(logits, 2).item() == pytest.approx(2e38)
    apart = torch.tensor([3e6, 1e6 + 1.0, 1e6, 1e6 - 1.0, -4e6], dtype=torch.float64, requires_grad=True)
    exact = 3e6 + 1e6 + torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).logsumexp(0).item()
    assert SF.log_esp(apart, 2).item() == pytest.approx(exact, rel=1e-15)
    (slope,) = torch.autograd.grad(SF.log_esp(apart, 2), apart)
    assert slope.tolist() == pytest.approx(SF.conditional_poisson_marginals(apart, 2).tolist())
    assert SF.conditional_poisson_covariance(logits, 1).diagonal().tolist() == pytest.approx([2 / 9, 0, 2 / 9, 2 / 9])


def test_zero_rows_have_cosine_zero_in_half_precision():
    similarity = SF.dictionary_similarity(torch.zeros(2, 3).half(), torch.ones(1, 3).half())
    assert similarity.tolist() == [0.0, 0.0]
    assert SF.dictionary_similarity(torch.full((1, 2), 1e38), torch.ones(1, 2)).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, 0.5), "dim"),
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, None), "dim"),
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, mask=[True, True, False]), "mask"),
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, temperature=1e-300), "temperature"),
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, temperature=torch.ones(3, 2)), "temperature"),
        (lambda: SF.sigmoid_topk(torch.ones(3), 1, temperature=torch.tensor(1j)), "temperature"),
        (lambda: SF.conditional_poisson_sample(torch.ones(3), 1, 3), "sample_shape"),
        (lambda: SF.gumbel_log_inclusion(torch.ones(3), torch.ones(2)), "threshold"),
        (lambda: SF.expert_load(torch.tensor([[0, 9]]), 4), "indices"),
        (lambda: SF.expert_load(torch.tensor([[0, 1]]), 1.5), "num_experts"),
        (lambda: SF.load_cv(torch.ones(3, dtype=torch.complex64)), "load"),
        (lambda: SF.utilisation(torch.ones(3), "0"), "threshold"),
        (lambda: SF.bits_per_byte(torch.ones(2, 4), torch.tensor([0, 4])), "target"),
        (lambda: SF.kl_recovered(*[torch.ones(2, 4)] * 3, torch.tensor([0, -1])), "target"),
        (lambda: SF.latent_counts(None, 3), "latents"),
        (lambda: SF.density_histogram(torch.ones(3), torch.tensor([0.0, math.nan])), "edges"),
        (lambda: SF.fvu(None, torch.ones(2, 2)), "reconstruction"),
        (lambda: SF.sparse_linear(torch.ones(2, 3), torch.ones(4, 3), None, None), "indices"),
        (
            lambda: SF.sparse_decode(torch.ones(1), torch.zeros(1).long(), torch.ones(2, 3), torch.ones(3).long()),
            "bias",
        ),
        (lambda: SP.weighted_pool(torch.ones(3, 2), torch.ones(5)), "weights"),
        (lambda: SP.gem_weights([[1.0]]), "x "),
    ],
)
def test_a_refusal_names_its_argument(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_a_token_without_slots_has_no_expert():
    assert SF.unrouted(torch.zeros((2, 0), dtype=torch.int64), tokens=True) == 1


def test_a_batch_without_rows_has_a_load_without_a_warning():
    assert SF.load_cv(torch.zeros(2, 0, 4)).shape == (2, 0)
