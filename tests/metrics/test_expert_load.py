import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsek.functional import bits_per_byte, expert_load, load_cv, max_violation, unrouted, utilisation
from sparsek.metrics import BitsPerByte, DomainLoad, ExpertLoad, LoadCV, MaxViolation, Unrouted, Utilisation

LOADS = st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any)


@settings(max_examples=50, deadline=None)
@given(LOADS)
def test_measures_of_load_are_their_definitions(counts):
    load, mean = torch.tensor(counts), sum(counts) / len(counts)
    variance = sum((n - mean) ** 2 for n in counts) / len(counts)
    assert load_cv(load).item() == pytest.approx(math.sqrt(variance) / mean, abs=1e-5)
    assert max_violation(load).item() == pytest.approx(max(counts) / mean - 1, abs=1e-5)
    assert utilisation(load).item() == pytest.approx(sum(n > 0 for n in counts) / len(counts))
    assert utilisation(load, 0.5).item() == pytest.approx(sum(n > mean / 2 for n in counts) / len(counts))


@settings(max_examples=25, deadline=None)
@given(LOADS, st.integers(2, 9))
def test_measures_of_load_ignore_scale_and_order(counts, factor):
    load = torch.tensor(counts)
    for measure in (load_cv, max_violation, utilisation):
        torch.testing.assert_close(measure(load), measure(load.flip(0) * factor))


def test_extremes_of_load():
    even, single = torch.full((8,), 3), torch.tensor([24, 0, 0, 0, 0, 0, 0, 0])
    assert (load_cv(even), max_violation(even), utilisation(even)) == (0, 0, 1)
    assert load_cv(single).item() == pytest.approx(math.sqrt(7))
    assert (max_violation(single), utilisation(single)) == (7, 0.125)
    nothing = torch.zeros(8)
    assert load_cv(nothing).isnan()
    assert max_violation(nothing).isnan()
    assert utilisation(nothing) == 0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_expert_load_counts_every_real_slot_once(data):
    tokens, k, experts = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    cells = st.lists(st.integers(-1, experts - 1), min_size=tokens * k, max_size=tokens * k)
    indices = torch.tensor(data.draw(cells)).view(tokens, k)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    kept = [e for row, keep in zip(indices.tolist(), mask.tolist(), strict=True) if keep for e in row]
    assert expert_load(indices, experts, mask).tolist() == [kept.count(e) for e in range(experts)]
    if kept:
        assert unrouted(indices, mask).item() == pytest.approx(kept.count(-1) / len(kept))
        rows = [row for row, keep in zip(indices.tolist(), mask.tolist(), strict=True) if keep]
        alone = sum(set(row) == {-1} for row in rows)
        assert unrouted(indices, mask, tokens=True).item() == pytest.approx(alone / len(rows))


def test_metrics_over_batches_equal_the_function_of_all_and_keep_layers_apart():
    first, second = torch.randint(-1, 4, (20, 2)), torch.randint(-1, 4, (30, 2))
    mirrored = [3 - first.clamp_min(0), 3 - second.clamp_min(0)]  # pooled with the first layer it would look even
    metrics = {MaxViolation: max_violation, LoadCV: load_cv, Utilisation: utilisation, ExpertLoad: lambda load: load}
    load = torch.stack([expert_load(torch.cat([first, second]), 4), expert_load(torch.cat(mirrored), 4)])
    for cls, measure in metrics.items():
        metric = cls(num_experts=4, num_layers=2)
        metric.update([first, mirrored[0]])
        metric.update([second, mirrored[1]])
        expected = measure(load)
        torch.testing.assert_close(metric.compute(), expected if cls is ExpertLoad else expected.mean())
    metric = Unrouted(num_experts=4)
    mask = torch.rand(20) > 0.3
    metric.update([first], mask)
    metric.update([second])
    kept = torch.cat([first[mask], second])
    torch.testing.assert_close(metric.compute(), unrouted(kept))


def test_domain_load_is_the_load_of_each_domain():
    indices, domain = torch.randint(0, 4, (6, 5, 2)), torch.tensor([0, 1, 2, 0, 1, 0])
    mask = torch.rand(6, 5) > 0.2
    metric = DomainLoad(num_experts=4, num_domains=4, num_layers=1)
    metric.update([indices[:3]], domain[:3], mask[:3])
    metric.update([indices[3:]], domain[3:], mask[3:])
    for number in range(3):
        load = expert_load(indices[domain == number], 4, mask[domain == number])
        torch.testing.assert_close(metric.compute()[0, number], load / load.sum())
    assert metric.compute()[0, 3].isnan().all()  # never seen


def test_bits_per_byte_is_the_mean_code_length():
    logits, target = torch.randn(3, 5, 256, dtype=torch.float64), torch.randint(0, 256, (3, 5))
    mask = torch.rand(3, 5) > 0.3
    chosen = logits.softmax(-1).gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(bits_per_byte(logits, target), -chosen.log2().mean())
    torch.testing.assert_close(bits_per_byte(logits, target, mask), -chosen[mask].log2().mean())
    torch.testing.assert_close(
        bits_per_byte(logits.bfloat16(), target), bits_per_byte(logits, target).float(), rtol=2e-2, atol=0
    )
    assert bits_per_byte(logits, target, torch.zeros_like(mask)).isnan()
    metric = BitsPerByte()
    for row in range(3):
        metric.update(logits[row], target[row], mask[row])
    torch.testing.assert_close(metric.compute(), bits_per_byte(logits, target, mask))


def test_a_masked_byte_may_be_anything():
    logits, target = torch.randn(4, 256, requires_grad=True), torch.randint(0, 256, (4,))
    mask = torch.tensor([True, True, False, True])
    spoilt = torch.where(mask[:, None], logits, math.nan)
    torch.testing.assert_close(bits_per_byte(spoilt, target, mask), bits_per_byte(logits, target, mask))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: expert_load(torch.zeros(3, 2), 4), "indices must be an integer tensor"),
        (lambda: expert_load(torch.zeros(3, 2, dtype=torch.long), 4, torch.ones(2, dtype=torch.bool)), "mask must be"),
        (lambda: load_cv(torch.tensor(3)), "load must have shape"),
        (lambda: utilisation(torch.ones(3), 1.0), r"threshold must lie in \[0, 1\), got 1.0"),
        (lambda: MaxViolation(0), "num_experts must be at least 1, got 0"),
        (lambda: DomainLoad(2, 0), "num_domains must be at least 1, got 0"),
        (lambda: MaxViolation(2, 2).update([torch.zeros(1, 1, dtype=torch.long)]), "one tensor per layer, 2, got 1"),
        (
            lambda: DomainLoad(2, 1).update([torch.zeros(1, 1, 1, dtype=torch.long)], torch.tensor([1])),
            r"domain must lie in \[0, 0\], got 1",
        ),
        (lambda: bits_per_byte(torch.zeros(2, 256), torch.zeros(3, dtype=torch.long)), "target must have the shape"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()
