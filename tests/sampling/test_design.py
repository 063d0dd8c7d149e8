"""The contract that all designs share: shapes, sizes, real k, precision, randomness, refusals."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import pps
from sparsek.sampling import Design, Draw, Pivotal, Poisson, Systematic
from tests.sampling import oracles

FIXED = (Pivotal(), Systematic(), Pivotal(shuffle=True), Systematic(shuffle=True))
SCORED = (Pivotal(), Systematic(), Poisson())
ALL = (*FIXED, Poisson())
fixed = pytest.mark.parametrize("design", FIXED, ids=str)
scored = pytest.mark.parametrize("design", SCORED, ids=str)
every = pytest.mark.parametrize("design", ALL, ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@every
def test_facts_and_immutability(design):
    assert isinstance(design, Design)
    assert design.exact
    assert design.fixed_size == (not isinstance(design, Poisson))
    assert design.smooth == isinstance(design, Poisson)
    with pytest.raises(dataclasses.FrozenInstanceError):
        design.shuffle = True
    assert design == type(design)(**dataclasses.asdict(design))


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 0), (2, 3)])
def test_shapes_and_dtypes(design, dtype, sample_shape):
    probs = torch.tensor([[[0.5, 0.25, 0.75, 0.5]], [[1.0, 0.0, 0.5, 0.5]]], dtype=dtype)
    before = probs.clone()
    draw = design.draw(probs, sample_shape, generator=seeded())
    assert isinstance(draw, Draw)
    assert draw.sample.shape == (*sample_shape, 2, 1, 4)
    assert draw.sample.dtype == dtype
    assert ((draw.sample == 0) | (draw.sample == 1)).all()
    assert (draw.order is not None) == getattr(design, "shuffle", False)
    scores = design.log_prob(probs, draw)
    assert scores.shape == (*sample_shape, 2, 1)
    assert scores.dtype == dtype
    assert scores.isfinite().all()
    assert torch.equal(probs, before)


@fixed
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 10**6), whole=st.booleans())
def test_sizes(design, n, share, seed, whole):
    k = round(share * n) if whole else share * n
    probs = oracles.random_probs(n, k, seed) if 0 < k < n else torch.full((n,), k / n, dtype=torch.float64)
    sizes = design.sample(probs, (20,), k=k, generator=seeded(seed)).sum(-1)
    assert ((sizes == int(k)) | ((sizes == int(k) + 1) & (k != int(k)))).all()


@fixed
def test_every_row_has_its_own_k(design):
    ks = torch.tensor([0.0, 1.0, 3.0, 2.5, 8.0, 7.0])
    probs = torch.stack(
        [
            oracles.random_probs(8, k, i) if 0 < k < 8 else torch.full((8,), k / 8).double()
            for i, k in enumerate(ks.tolist())
        ]
    )
    for given_k in (ks, None):
        sizes = design.sample(probs, (400,), k=given_k, generator=seeded()).sum(-1)
        assert torch.equal(sizes.amin(0).float(), ks.floor())
        assert torch.equal(sizes.amax(0).float(), ks.ceil())


@fixed
def test_real_k_keeps_probabilities_and_rounds_sizes_with_the_right_chance(design):
    row, draws = [0.375, 0.75, 0.1875, 0.9375, 0.0625, 0.0], 100_000
    samples = design.sample(torch.tensor(row), (draws,), generator=seeded(3))
    larger = (samples.sum(-1) == 3).sum().item()
    assert set(samples.sum(-1).tolist()) == {2.0, 3.0}
    assert not oracles.misfits([*samples.sum(0).tolist(), larger], [*row, 0.3125], draws)
    assert oracles.misfits([larger], [0.33], draws)


@scored
def test_phantom_of_another_row_changes_nothing(design):
    whole = oracles.random_probs(8, 3, seed=1)
    real = oracles.random_probs(8, 2.5, seed=2)
    batch, samples = torch.stack((whole, real)), oracles.subsets(8)
    together = design.log_prob(batch, samples.unsqueeze(1))
    torch.testing.assert_close(together[:, 0], design.log_prob(whole, samples), rtol=1e-13, atol=0)
    torch.testing.assert_close(together[:, 1], design.log_prob(real, samples), rtol=1e-13, atol=0)
    torch.testing.assert_close(design.joint(batch)[0], design.joint(whole), rtol=1e-13, atol=1e-16)


@every
def test_reproducible_from_a_generator_and_independent_of_the_global_one(design):
    probs = oracles.random_probs(9, 4, seed=0).expand(3, 9)
    state = torch.get_rng_state()
    one, two, other = (design.sample(probs, (50,), generator=seeded(s)) for s in (7, 7, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len({str(one[i, j].tolist()) for i in range(50) for j in range(3)}) > 3


@every
def test_rows_and_draws_are_independent(design):
    """Two copies of a row, and two draws, agree on a unit of π = 1/2 as often as independent coins."""
    probs, draws = torch.tensor([0.5, 0.25, 0.75, 0.5]).expand(2, 4), 20_000
    samples = design.sample(probs, (draws, 2), generator=seeded(2))[..., 0]
    agreements = [(samples[:, 0, 0] == samples[:, 0, 1]), (samples[:, 0, 0] == samples[:, 1, 0])]
    assert not oracles.misfits([a.sum().item() for a in agreements], [0.5, 0.5], draws)
    assert oracles.misfits([(samples[:, 0, 0] == samples[:, 0, 0]).sum().item()], [0.5], draws)


@every
def test_the_law_of_a_row_does_not_depend_on_its_place_in_the_batch(design):
    row, draws = torch.tensor([0.375, 0.75, 0.1875, 0.9375, 0.75]), 20_000
    filler = torch.tensor([[1.0, 0.0, 0.5, 0.5, 0.0], [0.25] * 5])
    for batch in (torch.cat((row[None], filler)), torch.cat((filler, row[None]))):
        place = 0 if torch.equal(batch[0], row) else 2
        counts = design.sample(batch, (draws,), generator=seeded(4))[:, place].sum(0).tolist()
        assert not oracles.misfits(counts, row.tolist(), draws)
        assert oracles.misfits(counts, row.flip(0).tolist(), draws)


@fixed
def test_a_million_units_in_float32(design):
    n, k = 1_000_000, 62_500
    sizes = torch.randn(n, generator=seeded(5)).exp()
    sizes[::1000], sizes[1::1000] = 0, 1e9
    probs = pps(sizes, k)
    assert (probs[1::1000] == 1).all()
    draw = design.draw(probs, k=k, generator=seeded(6))
    assert draw.sample.sum().item() == k
    assert not draw.sample[::1000].any()
    assert draw.sample[1::1000].all()
    score = design.log_prob(probs, draw, k=k)
    assert score.isfinite()
    assert score < 0

    # Sums over 1000 groups of units, in standard deviations of a Poisson design; a draw that ignores π is far off.

    def worst(sample):
        groups, ranks = probs.argsort().reshape(1000, 1000), probs.double()
        spread = (ranks * (1 - ranks))[groups].sum(-1).sqrt() + 1
        return ((sample.double() - ranks)[groups].sum(-1).abs() / spread).max().item()

    assert worst(draw.sample) < 6
    assert worst(draw.sample[torch.randperm(n, generator=seeded(1))]) > 6


@scored
def test_float32_scores_agree_with_float64(design):
    probs = oracles.random_probs(40, 9, seed=3).float()
    samples = design.sample(probs, (64,), k=9, generator=seeded())
    single, double = design.log_prob(probs, samples, k=9), design.log_prob(exact(probs, 9), samples.double(), k=9)
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=2e-6)


def exact(probs, k):
    probs = probs.double()
    room = probs * (1 - probs)
    return probs + (k - probs.sum()) * room / room.sum()


@every
def test_bfloat16_with_k_keeps_the_size(design):
    probs = oracles.random_probs(64, 8, seed=1).bfloat16()
    assert probs.double().sum() != 8
    sizes = design.sample(probs, (50,), k=8, generator=seeded()).sum(-1)
    assert not design.fixed_size or (sizes == 8).all()


@every
def test_no_units_and_no_rows(design):
    assert design.sample(torch.empty(3, 0)).shape == (3, 0)
    assert design.sample(torch.empty(0, 4), (2,)).shape == (2, 0, 4)
    draw = design.draw(torch.empty(3, 0))
    assert torch.equal(design.log_prob(torch.empty(3, 0), draw), torch.zeros(3))


@every
@pytest.mark.parametrize(
    ("probs", "arguments", "message"),
    [
        (torch.tensor([1, 0]), {}, "probs must be a floating-point tensor"),
        (torch.tensor(0.5), {}, "probs must have at least one dimension"),
        (torch.tensor([0.5, 1.5]), {}, r"probs must lie in \[0, 1\]"),
        (torch.tensor([0.5, -0.1]), {}, r"probs must lie in \[0, 1\]"),
        (torch.tensor([0.5, torch.nan]), {}, r"probs must lie in \[0, 1\]"),
        (torch.tensor([0.5, 0.6]), {"k": 1}, "probs must sum to k"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.6]]), {"k": torch.tensor([1.0, 1.0])}, "probs must sum to k"),
        (torch.tensor([0.5, 0.5]), {"k": 3}, "k must be at most the number of valid units, 2"),
        (torch.tensor([0.5, 0.5]), {"k": -1}, "k must be finite and >= 0"),
        (torch.tensor([0.5, 0.5]), {"sample_shape": 3}, "sample_shape must be a sequence"),
        (torch.tensor([0.5, 0.5]), {"sample_shape": (-1,)}, "sample_shape must be a sequence"),
    ],
)
def test_refusals(design, probs, arguments, message):
    with pytest.raises(ValueError, match=message):
        design.sample(probs, **arguments)


@scored
def test_refused_samples(design):
    probs = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="sample must hold 0 and 1 only"):
        design.log_prob(probs, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"sample of shape \(3,\) does not fit probs of shape \(2,\)"):
        design.log_prob(probs, torch.tensor([1, 0, 0]))


@scored
def test_sums_within_the_tolerance_are_whole_and_beyond_it_are_real(design):
    near, far = torch.tensor([0.5, 0.5 + 1e-6]), torch.tensor([0.5, 0.5 + 4e-6])
    both = torch.tensor([1, 1])
    if design.fixed_size:
        assert design.log_prob(near, both).item() == -torch.inf
        assert design.log_prob(far, both).exp().item() == pytest.approx(4e-6, rel=0.05)
        with pytest.raises(ValueError, match="probs must sum to k"):
            design.sample(far, k=1)
    else:
        assert design.log_prob(near, both).exp().item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("design", [d for d in FIXED if d.shuffle], ids=str)
def test_shuffled_designs_refuse_what_they_cannot_compute(design):
    probs = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match=r"sample must be the Draw .* got Tensor; or use \w+\(shuffle=False\)"):
        design.log_prob(probs, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="sample must be the Draw"):
        design.log_prob(probs, Draw(torch.tensor([1, 0]), None))
    with pytest.raises(NotImplementedError, match="ConditionalPoisson"):
        design.joint(probs)


def test_a_design_without_formulas_says_what_to_use():
    class Fair(Design):
        smooth = True

        def _sample(self, probs, size, draws, generator):
            return torch.zeros(draws, *probs.shape)

    with pytest.raises(
        NotImplementedError, match=r"Fair has no tractable log_prob; use ConditionalPoisson\(\) or Pivotal"
    ):
        Fair().log_prob(torch.tensor([0.0]), torch.tensor([0]))
    with pytest.raises(NotImplementedError, match="Fair has no tractable joint"):
        Fair().joint(torch.tensor([0.0]))


@scored
def test_bad_rows_stay_in_their_row_where_values_are_not_looked_at(design):
    probs = torch.tensor([[0.5, 0.25, 0.25], [torch.nan, 0.5, 0.5], [0.5, 0.25, 0.25], [1.5, 0.0, 0.5]])
    samples = torch.func.vmap(lambda p: design.sample(p, (5,)), randomness="different")(probs)
    assert samples[[1, 3]].isnan().all()
    assert not samples[[0, 2]].isnan().any()
    scores = torch.func.vmap(lambda p: design.log_prob(p, torch.tensor([1, 0, 0])))(probs)
    assert scores[[1, 3]].isnan().all()
    expected = design.log_prob(probs[0], torch.tensor([1, 0, 0]))
    torch.testing.assert_close(scores[[0, 2]], expected.expand(2))


@pytest.mark.parametrize("design", [Pivotal(), Systematic()], ids=str)
def test_draw_and_score_compile_as_one_graph(design):
    probs, k = torch.tensor([[0.5, 0.25, 0.75, 0.5], [0.2, 0.3, 0.4, 0.1]]), torch.tensor([2.0, 1.0])

    def draw_and_score(probs, k):
        sample = design.sample(probs, (50,), k=k)
        return sample, design.log_prob(probs, sample, k=k)

    sample, score = torch.compile(draw_and_score, fullgraph=True, backend="aot_eager")(probs, k)
    assert torch.equal(sample.sum(-1), k.expand(50, 2))
    torch.testing.assert_close(score, design.log_prob(probs, sample, k=k))
