"""Nearest neighbours: scikit-learn's in eval mode, exact expectations and gradients in training, memory by chunks."""

import math
from functools import partial

import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor

from sparsek.estimators import StraightThrough
from sparsek.functional import sigmoid_topk
from sparsek.nn import DifferentiableKNN
from sparsek.nn._neighbours import squared_distances
from sparsek.relaxations import SigmoidTopK


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_in_eval_mode_it_is_that_of_scikit_learn(k):
    queries, references, values = random(30, 4), random(40, 4, seed=1), random(40, 3, seed=2)
    peer = KNeighborsRegressor(k).fit(references.numpy(), values.numpy()).predict(queries.numpy())
    found = DifferentiableKNN(k).eval()(queries, references, values)
    torch.testing.assert_close(found, torch.from_numpy(peer))


def test_in_training_it_is_the_weighted_mean_by_definition():
    queries, references, values = random(6, 4), random(9, 4, seed=1), random(9, 2, 3, seed=2)
    distances = (queries.unsqueeze(1) - references).square().sum(-1)
    expected = torch.einsum("qn,nab->qab", sigmoid_topk(-distances, 2.5, temperature=0.7), values) / 2.5
    knn = DifferentiableKNN(2.5, relaxation=SigmoidTopK(temperature=0.7))
    torch.testing.assert_close(knn(queries, references, values), expected)
    torch.testing.assert_close(knn(queries.view(2, 3, 4), references, values), expected.view(2, 3, 2, 3))
    torch.testing.assert_close(knn(queries[0], references, values), expected[0])


def test_a_far_common_offset_changes_nothing():
    queries, references, values = random(6, 4), random(9, 4, seed=1), random(9, seed=2)
    knn = DifferentiableKNN(2)
    near = knn(queries, references, values)
    far = knn(queries + 1e6, references + 1e6, values)
    torch.testing.assert_close(far, near, rtol=1e-6, atol=1e-6)


def test_drawn_neighbours_are_right_on_average():
    queries, references, values = random(1, 3), random(6, 3, seed=1), random(6, seed=2)
    draws = 4000
    knn = DifferentiableKNN(2, estimator=StraightThrough())
    drawn = knn(queries.expand(draws, 3), references, values, generator=torch.Generator().manual_seed(0))
    probs = sigmoid_topk(-(queries - references).square().sum(-1), 2)
    expected, spread = probs @ values / 2, values.abs().max()
    # Hoeffding: each draw lies within ±spread; a false alarm in 10⁶ runs.
    margin = spread * math.sqrt(2 * math.log(2e6) / draws)
    assert (drawn.mean() - expected).abs() < margin
    assert (knn.eval()(queries, references, values) - expected).abs() > margin  # the k nearest alone are not
    assert drawn.unique().numel() > 1


def test_a_mask_leaves_a_reference_out():
    rows, values = random(12, 3), random(12, 2, seed=1)
    others = ~torch.eye(12, dtype=torch.bool)
    knn = DifferentiableKNN(3).eval()
    alone = torch.stack([knn(rows[i], rows[others[i]], values[others[i]]) for i in range(12)])
    torch.testing.assert_close(knn(rows, rows, values, mask=others), alone)
    assert torch.equal(DifferentiableKNN(1).eval()(rows, rows, values), values)


def test_gradients():
    queries, references = random(3, 2).requires_grad_(), random(5, 2, seed=1).requires_grad_()
    values, k = random(5, seed=2).requires_grad_(), torch.nn.Parameter(torch.tensor(2.3, dtype=torch.float64))
    knn = DifferentiableKNN(k)
    parts = (queries, references, values)
    assert torch.autograd.gradcheck(knn, parts)
    assert torch.autograd.gradgradcheck(knn, parts)
    knn(*parts).sum().backward()
    assert k.grad is not None
    assert k.grad.isfinite()


@pytest.mark.parametrize("estimator", [None, StraightThrough()])
def test_chunks_change_neither_values_nor_gradients(estimator):
    chosen = {} if estimator is None else {"estimator": estimator}
    results = []
    for budget in (2**24, 20):
        torch.manual_seed(0)
        embedding = torch.nn.Linear(4, 2).double()
        knn = DifferentiableKNN(3, embedding, budget=budget, **chosen)
        output = knn(
            random(7, 4), random(10, 4, seed=1), random(10, seed=2), generator=torch.Generator().manual_seed(1)
        )
        if estimator is None:
            output.square().sum().backward()
            results.append((output.detach(), embedding.weight.grad))
        else:
            (output * random(7, seed=3)).sum().backward()
            results.append((embedding.weight.grad.isfinite().all(), output.isfinite().all()))
    if estimator is None:
        torch.testing.assert_close(results[0], results[1])
    else:
        assert all(bool(part) for result in results for part in result)


def test_a_recomputed_chunk_draws_the_same_neighbours():
    knn = DifferentiableKNN(2, torch.nn.Linear(3, 3).double(), budget=12, estimator=StraightThrough())
    values = random(12, seed=2).requires_grad_()
    output = knn(random(5, 3), random(12, 3, seed=1), values, generator=torch.Generator().manual_seed(4))
    output.sum().backward()  # of values: how often each was drawn, over k; of the forward pass if draws agree
    torch.testing.assert_close(values.grad @ values.detach(), output.sum().detach())


def test_half_a_million_references_in_bounded_memory():
    references = torch.randn(500_000, 8, generator=torch.Generator().manual_seed(0))
    values = references[:, :1]
    knn = DifferentiableKNN(10, budget=2**20).eval()
    found = knn(references[:4] + 1e-3, references, values)
    distances = (references[:4].double().unsqueeze(1) + 1e-3 - references.double()).square().sum(-1)
    expected = values[distances.topk(10, largest=False).indices].mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distance", [3e3, 1e5])
def test_neighbours_in_far_clusters_are_exact_in_float32(distance):
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([distance, -distance]).repeat_interleave(50).unsqueeze(1)
    references, queries = (sides + torch.randn(100, 5, generator=generator) for _ in range(2))
    nearest = torch.cdist(queries.double(), references.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert torch.equal(DifferentiableKNN(1).eval()(queries, references, torch.arange(100.0)), nearest.float())
    centred = queries - references.mean(0), references - references.mean(0)
    assert not torch.equal(squared_distances(*centred).argmin(1), nearest)  # what one product gives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [17, 101])
def test_equal_references_tie_whatever_the_rounding_of_a_product(n, dtype):
    points, queries = random(n, 7).to(dtype), random(33, 7, seed=1).to(dtype)
    found = DifferentiableKNN(1).eval()(queries, torch.cat([points, points, points]), torch.arange(3.0 * n))
    assert bool((found < n).all())
    pair = DifferentiableKNN(2).eval()(queries, torch.cat([points, points, points]), torch.arange(3.0 * n))
    torch.testing.assert_close(pair, found + n / 2)  # the nearest and its first copy
    same = DifferentiableKNN(3).eval()(queries, torch.ones(n, 7, dtype=dtype), torch.arange(float(n)))
    assert bool((same == 1).all())  # 0, 1 and 2


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_coarse_product_finds_the_same_neighbours(precision):
    queries, references, values = random(20, 6).float(), random(300, 6, seed=1).float(), random(300, seed=2).float()
    expected = DifferentiableKNN(4).eval()(queries, references, values)
    torch.set_float32_matmul_precision(precision)
    try:
        found = DifferentiableKNN(4).eval()(queries, references, values)
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    parts = [(100 * random(rows, 5, seed=rows)).to(dtype) for rows in (9, 40)]
    values = random(40, 3, seed=2).to(dtype)
    for knn in (DifferentiableKNN(3), DifferentiableKNN(3).eval()):
        found = knn(*parts, values)
        assert found.dtype == dtype
        assert torch.equal(found, knn(*(part.float() for part in (*parts, values))).to(dtype))


def test_without_samples_no_generator_is_read_and_vmap_works():
    queries, references, values = random(4, 3), random(9, 3, seed=1), random(9, 2, seed=2)
    before = torch.get_rng_state()
    for knn in (DifferentiableKNN(2), DifferentiableKNN(2).eval()):
        expected = knn(queries, references, values)
        each = torch.func.vmap(partial(knn, references=references, values=values))(queries)
        torch.testing.assert_close(each, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_finite_is_refused(which, bad, training):
    arguments = [random(4, 3), random(9, 3, seed=1), random(9, 2, seed=2)]
    arguments[which][-1, 0] = bad
    name = ("queries", "references", "values")[which]
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        DifferentiableKNN(2).train(training)(*arguments)


def test_a_metric_is_learnt_that_hides_noise():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 6, generator=generator) * torch.tensor([1.0, 5, 5, 5, 5, 5])
    classes = torch.nn.functional.one_hot((rows[:, 0] > 0).long(), 2).float()
    torch.manual_seed(0)
    embedding = torch.nn.Linear(6, 1, bias=False)
    knn = DifferentiableKNN(5, embedding)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=0.03)
    others = ~torch.eye(200, dtype=torch.bool)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -(knn(rows, rows, classes, mask=others) * classes).sum(-1).clamp_min(1e-6).log().mean()
        loss.backward()
        optimizer.step()
    fresh = torch.randn(200, 6, generator=generator) * torch.tensor([1.0, 5, 5, 5, 5, 5])
    right = knn.eval()(fresh, rows, classes).argmax(-1) == (fresh[:, 0] > 0)
    plain = DifferentiableKNN(5).eval()(fresh, rows, classes).argmax(-1) == (fresh[:, 0] > 0)
    assert right.float().mean() > 0.93 > plain.float().mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3), torch.ones(4, 2), torch.ones(4)), r"queries must have shape \(..., 2\), got \(2, 3\)"),
        ((torch.ones(2, 2), torch.ones(4), torch.ones(4)), r"references must have shape \(n >= 1, d\), got \(4,\)"),
        (
            (torch.ones(2, 2), torch.ones(0, 2), torch.ones(0)),
            r"references must have shape \(n >= 1, d\), got \(0, 2\)",
        ),
        ((torch.ones(2, 2), torch.ones(4, 2), torch.ones(3)), r"values must have shape \(4, ...\), got \(3,\)"),
        ((torch.ones(2, 2), torch.ones(4, 2), torch.ones(4), torch.ones(4)), "mask must be"),
        ((torch.ones(2, 2), torch.ones(1, 2), torch.ones(1)), "k must be at most"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DifferentiableKNN(2)(*arguments)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="k must be above 0, got 0"):
        DifferentiableKNN(0)
    for k in ("3", None, True):
        with pytest.raises(ValueError, match="k must be a number or a tensor"):
            DifferentiableKNN(k)
    with pytest.raises(ValueError, match="values must be a tensor of numbers, got list"):
        DifferentiableKNN(1)(torch.ones(1, 1), torch.ones(1, 1), [1.0])
    with pytest.raises(ValueError, match=r"k must be one number, got a tensor of shape \(2,\)"):
        DifferentiableKNN(torch.ones(2))
    with pytest.raises(ValueError, match="budget must be a whole number >= 1, got 0"):
        DifferentiableKNN(1, budget=0)
