"""Metrics of sparse autoencoders: their definitions over all tokens at once, whatever the batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import explained_variance_score, r2_score

from sparsek.functional import (
    SparseCode,
    density_histogram,
    dictionary_similarity,
    explained_variance,
    fvu,
    latent_counts,
    sparse_topk,
)
from sparsek.metrics import (
    FVU,
    L0,
    AlmostDeadLatents,
    DeadLatents,
    DenseLatents,
    DensityHistogram,
    ExplainedVariance,
    FVUByK,
    L0Threshold,
    LatentFrequency,
    ReconstructionCosine,
)


def tokens(count, d=5, offset=100.0, seed=0):
    """Targets far from the origin, as activations are, and reconstructions of them."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(count, d, generator=generator) + offset
    return target + 0.3 * torch.randn(count, d, generator=generator) + 0.1, target


def test_functions_are_those_of_scikit_learn():
    reconstruction, target = tokens(200)
    y, p = target.double().numpy(), reconstruction.double().numpy()
    expected = r2_score(y, p, multioutput="variance_weighted")
    assert 1 - fvu(reconstruction, target).item() == pytest.approx(expected, abs=1e-9)
    expected = explained_variance_score(y, p, multioutput="variance_weighted")
    assert explained_variance(reconstruction, target).item() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 2**31), st.sampled_from([0.0, 3.0, 1000.0]))
def test_any_split_into_batches_and_processes_gives_the_same(sizes, seed, offset):
    reconstruction, target = tokens(sum(sizes) + 2, offset=offset, seed=seed)
    mask = torch.rand(len(target), generator=torch.Generator().manual_seed(seed)) < 0.8
    mask[:2] = True
    parts = [*zip(*(t.split([*sizes, 2]) for t in (reconstruction, target, mask)), strict=True)]
    for cls in (FVU, ExplainedVariance, ReconstructionCosine):
        whole, first, second = cls(d=5), cls(d=5), cls(d=5)
        whole.update(reconstruction[mask], target[mask])
        for i, part in enumerate(parts):
            (first if i % 2 else second).update(*part)
        first.merge_state(second)
        assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)


def test_reconstruction_metrics_are_their_definitions():
    reconstruction, target = tokens(50)
    y, p = target.double(), reconstruction.double()
    for cls, expected in (
        (FVU, (y - p).square().sum() / (y - y.mean(0)).square().sum()),
        (ReconstructionCosine, F.cosine_similarity(y, p).mean()),
    ):
        metric = cls(d=5)
        metric.update(reconstruction.view(10, 5, 5), target.view(10, 5, 5))
        torch.testing.assert_close(metric.compute(), expected)
    batches = torch.stack([fvu(p[:25], y[:25]), fvu(p[25:], y[25:])]).mean()
    assert abs(batches - fvu(p, y)) > 1e-6  # the mean over batches is not it


def test_fvu_by_k_is_the_fvu_at_each_k():
    reconstruction, target = tokens(40)
    levels = torch.stack((target.mean(0).expand_as(target), reconstruction, target), -2)
    metric = FVUByK(d=5, levels=(1, 2, 3))
    for part, wanted in zip(levels.split(7), target.split(7), strict=True):
        metric.update(part, wanted)
    expected = torch.stack([fvu(levels[:, i], target) for i in range(3)])
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="reconstructions must have shape"):
        metric.update(levels[:, :2], target)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31), st.floats(0, 1))
def test_counts_of_codes_and_of_dense_latents_agree(count, n, seed, share):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, n, generator=generator).relu()
    code = sparse_topk(scores, n)
    mask = torch.rand(count, generator=generator) < share
    expected = (scores[mask] != 0).sum(0)
    assert torch.equal(latent_counts(code, n, mask), expected)
    assert torch.equal(latent_counts(scores, n, mask), expected)


def test_latent_metrics_over_batches_are_their_definitions():
    generator = torch.Generator().manual_seed(0)
    rate = torch.tensor([0.0, 0.0, 0.001, 0.05, 0.5, 1.0])
    active = (torch.rand(4000, 6, generator=generator) < rate).float()
    frequency = active.mean(0).double()
    expected = {
        LatentFrequency: frequency,
        L0: frequency.sum(),
        DeadLatents: torch.tensor(2 / 6).double(),
        AlmostDeadLatents: torch.tensor(1 / 6).double(),
        DenseLatents: torch.tensor(2 / 6).double(),
        DensityHistogram: density_histogram(frequency, torch.tensor([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])),
    }
    for cls, value in expected.items():
        metric = cls(6, below=0.01) if cls is AlmostDeadLatents else cls(6)
        for i, part in enumerate(active.split(700)):
            metric.update(sparse_topk(part, 6) if i % 2 else part)
        torch.testing.assert_close(metric.compute(), value, rtol=1e-6, atol=0)
    assert expected[DensityHistogram].sum() == 6


def test_density_histogram_counts_every_latent_once():
    edges = torch.tensor([0.01, 0.1, 0.5])
    frequency = torch.tensor([0.0, 0.001, 0.01, 0.099, 0.1, 0.49, 0.5, 0.9])
    assert density_histogram(frequency, edges).tolist() == [1, 3, 4]


def test_no_token_gives_nan():
    for metric in (FVU(2), ExplainedVariance(2), ReconstructionCosine(2)):
        metric.update(torch.ones(0, 2), torch.ones(0, 2))
        assert metric.compute().isnan()
    for metric in (L0(2), DeadLatents(2), DenseLatents(2)):
        metric.update(torch.ones(0, 2))
        assert metric.compute().isnan()


@pytest.mark.parametrize("dense", [True, False])
def test_the_threshold_gives_the_wanted_l0_however_the_tokens_come(dense):
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(3000, 80, generator=generator) * torch.rand(80, generator=generator).exp() - 1
    metric, other = L0Threshold(l0s=(4, 7.5, 500)), L0Threshold(l0s=(4, 7.5, 500))
    for i, part in enumerate(pre.split(411)):
        (metric if i % 3 else other).update(part if dense else sparse_topk(part, 60))
    metric.merge_state(other)
    thresholds = metric.compute()
    l0 = [(pre > t).sum().item() / 3000 for t in thresholds]
    assert l0[2] == (pre > 0).sum().item() / 3000  # more than there are: all that is positive
    for seen, wanted in zip(l0[:2], (4, 7.5), strict=True):
        assert wanted * 0.998 <= seen <= wanted
    ranked = pre.flatten().sort(descending=True).values
    assert thresholds[0] == pytest.approx(ranked[12000].item(), rel=1 / 2048)


def test_similarity_of_dictionaries():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(1500, 8, generator=generator), torch.randn(30, 8, generator=generator)
    expected = F.cosine_similarity(first.unsqueeze(1), second, dim=-1).amax(-1)
    torch.testing.assert_close(dictionary_similarity(first, second), expected)
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(dictionary_similarity(second * 3, second[order]), torch.ones(30))
    assert dictionary_similarity(torch.zeros(2, 8), second).tolist() == [0, 0]


BAD = [
    (lambda: fvu(torch.ones(3, 2), torch.ones(3, 4)), "reconstruction must"),
    (lambda: fvu(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, dtype=torch.bool)), "mask must"),
    (lambda: FVU(0), "d must"),
    (lambda: FVU(3).update(torch.ones(3, 2), torch.ones(3, 2)), "target must"),
    (lambda: FVUByK(3, levels=(4, 2)), "levels must"),
    (lambda: latent_counts(torch.ones(3, 2), 4), "latents must have width"),
    (lambda: latent_counts(torch.ones(3, 2), 2, torch.ones(3)), "mask must"),
    (lambda: DenseLatents(3, above=0.0), "above must"),
    (lambda: AlmostDeadLatents(3, below=2.0), "below must"),
    (lambda: L0Threshold(l0s=()), "l0s must"),
    (lambda: L0Threshold(l0s=(0,)), "l0s must"),
    (lambda: density_histogram(torch.ones(2), torch.tensor([1.0, 0.5])), "edges must"),
    (lambda: dictionary_similarity(torch.ones(2, 3), torch.ones(2, 4)), "second must"),
    (lambda: dictionary_similarity(torch.ones(2, 3), torch.ones(0, 3)), "second must"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_code_of_no_width_counts_nothing():
    empty = SparseCode(torch.ones(4, 0), torch.ones(4, 0, dtype=torch.int64))
    assert latent_counts(empty, 3).tolist() == [0, 0, 0]
    metric = L0(3)
    metric.update(empty)
    assert metric.compute() == 0
