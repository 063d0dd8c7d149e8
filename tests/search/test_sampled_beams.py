"""Sampled beams: their laws against enumeration, and unbiased estimates, exactly where the draws can be listed."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from scipy import stats
from trees import Bigrams, sequences, subsets

from sparsek.distributions import GumbelTopK
from sparsek.relaxations import ScaledSigmoid, SigmoidTopK
from sparsek.sampling import ConditionalPoisson, Design, Pareto, Pivotal, Poisson, Systematic
from sparsek.search import (
    NextToken,
    ProportionalToSize,
    beam_search,
    estimate,
    resampled_beam_search,
    stochastic_beam_search,
)

PROMPT = torch.tensor([[0]])
FALSE_ALARM = 1e-6


def value(sequence):
    """A number for each sequence, neither smooth nor small."""
    return math.sin(sum((i + 2) * (token + 1) for i, token in enumerate(sequence))) + len(sequence)


def values(beam):
    rows = [
        [value(tuple(t[:n])) for t, n in zip(*pair, strict=True)]
        for pair in zip(beam.tokens.tolist(), beam.lengths.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def expectation(model, max_length, eos):
    return sum(p.exp() * value(sequence) for sequence, p in sequences(model, [0], max_length, eos))


def agrees(estimates, truth):
    """Whether the mean of independent estimates is the truth, by a t-test with the stated rate of false alarms."""
    return stats.ttest_1samp(estimates.numpy(), float(truth)).pvalue > FALSE_ALARM


@dataclass
class Scripted:
    """Choices, one after the other, and what their probability was."""

    choices: list
    options: list = field(default_factory=list)
    log_prob: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class Listed(Design):
    """A design that takes the outcome that a script says and notes its probability under another design."""

    law: Design
    script: Scripted
    smooth = True

    def _sample(self, probs, size, draws, generator):
        possible = torch.stack(list(subsets(probs.shape[-1], int(size))))
        log_probs = self.law.log_prob(probs[0], possible, k=size[0])
        possible, log_probs = possible[log_probs > -math.inf], log_probs[log_probs > -math.inf]
        position = len(self.script.options)
        choice = self.script.choices[position] if position < len(self.script.choices) else 0
        self.script.options.append(len(possible))
        self.script.log_prob = self.script.log_prob + log_probs[choice]
        return possible[choice].expand(draws, *probs.shape)


def all_draws(model, law, **options):
    """Every beam that resampling can return, with its probability: depth-first over the outcomes of the design."""
    stack = [[]]
    while stack:
        choices = stack.pop()
        script = Scripted(choices)
        beam = resampled_beam_search(model, PROMPT, design=Listed(law, script), **options)
        for position in range(len(choices), len(script.options)):
            prefix = [*choices, *[0] * (position - len(choices))]
            stack += [[*prefix, other] for other in range(1, script.options[position])]
        yield beam, script.log_prob.detach().exp()


@pytest.mark.parametrize(
    ("law", "inclusion", "length"),
    [
        (Pivotal(), ProportionalToSize(), 3),
        (ConditionalPoisson(), ProportionalToSize(), 2),
        (Systematic(), SigmoidTopK(0.7), 2),
    ],
)
def test_estimates_of_resampling_and_their_gradients_are_unbiased_by_enumeration(law, inclusion, length):
    model = Bigrams(3)
    model.logits.requires_grad_()
    options = {"k": 2, "max_length": length, "eos": 2, "inclusion": inclusion}
    truth = expectation(model, length, 2)
    total, mean, mass, naive, gradient = 0.0, 0.0, 0.0, 0.0, torch.zeros_like(model.logits)
    for beam, chance in all_draws(model, law, **options):
        assert beam.mask.sum() == 2
        estimated = estimate(beam, values(beam))[0]
        total, mean, mass = (
            total + chance,
            mean + chance * estimated.detach(),
            mass + chance * beam.weights.sum().detach(),
        )
        naive = naive + chance * estimate(beam._replace(log_inclusion=0 * beam.log_inclusion), values(beam))[0].detach()
        gradient += chance.detach() * torch.autograd.grad(estimated, model.logits)[0]
    assert float(total) == pytest.approx(1, abs=1e-10)
    assert float(mean) == pytest.approx(truth.item(), abs=1e-10)
    assert float(mass) == pytest.approx(1, abs=1e-10)
    assert abs(float(naive) - truth.item()) > 0.1  # the twin without its inclusion probabilities is not
    torch.testing.assert_close(gradient, torch.autograd.grad(truth, model.logits)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("search", [stochastic_beam_search, resampled_beam_search])
def test_estimates_are_unbiased_on_average(search, k):
    model, rows = Bigrams(3, seed=1), 4000
    beam = search(model, PROMPT.expand(rows, 1), k, 3, eos=2, generator=torch.Generator().manual_seed(k))
    truth = expectation(model, 3, 2)
    assert agrees(estimate(beam, values(beam)), truth.item())
    if search is resampled_beam_search:
        torch.testing.assert_close(beam.weights.sum(1), torch.ones(rows, dtype=torch.float64))
    else:
        assert agrees(beam.weights.sum(1), 1.0)
    if k == 5:  # the twin that divides by k, as if drawn with replacement, does not agree
        mean = beam._replace(log_inclusion=beam.log_probs.detach() + math.log(k))
        assert not agrees(estimate(mean, values(beam)), truth.item())


@pytest.mark.parametrize("search", [stochastic_beam_search, resampled_beam_search])
def test_one_sequence_is_a_sample_of_the_model(search):
    model, rows = Bigrams(2, seed=2), 4000
    beam = search(model, PROMPT.expand(rows, 1), 1, 2, generator=torch.Generator().manual_seed(0))
    everything = sequences(model, [0], 2)
    counts = torch.bincount(beam.tokens[:, 0] @ torch.tensor([2, 1]), minlength=4)
    expected = torch.stack([p.exp() for _, p in everything]) * rows
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > FALSE_ALARM
    if search is resampled_beam_search:
        torch.testing.assert_close(beam.weights, torch.ones_like(beam.weights))


def test_stochastic_beams_have_the_law_of_gumbel_top_k_over_all_sequences():
    model, rows, k = Bigrams(2, seed=3), 6000, 2
    everything = sequences(model, [0], 3)
    law = GumbelTopK(k, torch.stack([p for _, p in everything]))
    beam = stochastic_beam_search(model, PROMPT.expand(rows, 1), k, 3, generator=torch.Generator().manual_seed(0))
    number = beam.tokens @ torch.tensor([4, 2, 1])
    taken = torch.zeros(rows, 8, dtype=torch.float64).scatter(1, number, 1.0)
    assert (taken.sum(1) == k).all()
    codes = taken @ 2.0 ** torch.arange(8, dtype=torch.float64)
    sets = list(subsets(8, k))
    counts = torch.stack([(codes == s @ 2.0 ** torch.arange(8, dtype=torch.float64)).sum() for s in sets])
    expected = torch.stack([law.log_prob(s).exp() for s in sets]) * rows
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > FALSE_ALARM
    assert (beam.perturbed.diff(dim=1) < 0).all()
    assert (beam.perturbed > beam.threshold.unsqueeze(1)).all()


def test_the_threshold_is_the_next_largest_perturbed_log_probability():
    """Its law at k = 2 of 8 sequences is that of the third largest of independent Gumbel variables."""
    model, rows = Bigrams(2, seed=4), 4000
    log_probs = torch.stack([p for _, p in sequences(model, [0], 3)])
    beam = stochastic_beam_search(model, PROMPT.expand(rows, 1), 2, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.empty(rows, 8, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(2))
    ordered = (log_probs - noise.log()).sort(dim=1, descending=True).values
    assert stats.ks_2samp(beam.threshold.numpy(), ordered[:, 2].numpy()).pvalue > FALSE_ALARM
    assert stats.ks_2samp(beam.perturbed[:, 1].numpy(), ordered[:, 1].numpy()).pvalue > FALSE_ALARM
    assert stats.ks_2samp(beam.threshold.numpy(), ordered[:, 1].numpy()).pvalue < FALSE_ALARM


@pytest.mark.parametrize("search", [stochastic_beam_search, resampled_beam_search])
def test_estimates_are_exact_where_all_sequences_are_taken(search):
    model = Bigrams(3)
    beam = search(model, PROMPT, 40, 3, eos=2)
    assert beam.mask.sum() == len(sequences(model, [0], 3, eos=2))
    assert float(estimate(beam, values(beam))) == pytest.approx(float(expectation(model, 3, 2)), abs=1e-12)
    assert float(estimate(beam, values(beam), normalised=True)) == pytest.approx(
        float(expectation(model, 3, 2)), abs=1e-12
    )
    entropy = -sum(p.exp() * p for _, p in sequences(model, [0], 3, eos=2))
    assert float(estimate(beam, -beam.log_probs)) == pytest.approx(float(entropy), abs=1e-12)
    if beam.threshold is not None:
        assert beam.threshold.item() == -math.inf


def test_resampling_keeps_heavy_candidates_and_makes_the_others_weigh_the_same():
    model = Bigrams(8, seed=5, scale=2.0)
    beam = resampled_beam_search(model, PROMPT, 5, 1, generator=torch.Generator().manual_seed(0))
    probs = model(PROMPT)[0].softmax(-1)
    weights, own = beam.weights[0], probs[beam.tokens[0, :, 0]]
    light = weights > own * (1 + 1e-9)
    assert light.any()
    assert not light.all()
    assert weights[light].unique(sorted=True).diff().abs().sum() < 1e-12
    assert (weights[~light] >= weights[light].min() - 1e-12).all()


def test_a_candidate_of_any_probability_can_come():
    logits = torch.tensor([0.0, -1000.0, -2000.0], dtype=torch.float64)
    probs = ProportionalToSize()(logits, 2)
    assert (probs > 0).all()
    beam = resampled_beam_search(lambda tokens: logits.expand(len(tokens), 3), PROMPT, 2, 2)
    assert float(beam.weights.sum()) == pytest.approx(1)


def test_the_mean_is_exact_for_constants_when_normalised_and_within_the_range():
    model = Bigrams(5, seed=6)
    beam = resampled_beam_search(model, PROMPT, 3, 4, generator=torch.Generator().manual_seed(0))
    assert float(estimate(beam, torch.full_like(beam.log_probs, 7.0), normalised=True)) == pytest.approx(7)
    several = torch.stack((values(beam), values(beam) * 2), -1)
    found = estimate(beam, several, normalised=True)
    assert found.shape == (1, 2)
    assert float(found[0, 1]) == pytest.approx(2 * float(found[0, 0]))
    assert values(beam).min() <= found[0, 0] <= values(beam).max()


@pytest.mark.parametrize("search", [stochastic_beam_search, resampled_beam_search])
def test_half_precision_models_and_the_same_generator_give_the_same_beam(search):
    model = Bigrams(5, dtype=torch.bfloat16)
    beams = [search(model, PROMPT, 3, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(beams[0].tokens, beams[1].tokens)
    assert beams[0].log_probs.dtype == beams[0].log_inclusion.dtype == torch.float32
    assert len({tuple(t) for t in beams[0].tokens[0].tolist()}) == 3


def test_a_small_temperature_samples_what_beam_search_finds():
    model = NextToken(Bigrams(4, seed=7), 0.01)
    best = beam_search(model, PROMPT, 1, 4).tokens[0, 0]
    for search in (stochastic_beam_search, resampled_beam_search):
        beam = search(model, PROMPT, 3, 4, generator=torch.Generator().manual_seed(0))
        heaviest = beam.weights[0].argmax()
        assert torch.equal(beam.tokens[0, heaviest], best)


def test_bad_parts_and_values_are_said():
    model = Bigrams(3)
    for design in (Poisson(), Pareto()):
        with pytest.raises(ValueError, match="design must have exact inclusion probabilities and a fixed size"):
            resampled_beam_search(model, PROMPT, 2, 2, design=design)
    with pytest.raises(ValueError, match="inclusion must map to the capped simplex"):
        resampled_beam_search(model, PROMPT, 2, 2, inclusion=lambda x, k: x)
    beam = resampled_beam_search(model, PROMPT, 2, 2, inclusion=ScaledSigmoid())
    with pytest.raises(ValueError, match=r"values must be floating-point of shape \(1, 2, '...'\), got \(2,\)"):
        estimate(beam, torch.zeros(2))
    with pytest.raises(ValueError, match="values must be floating-point"):
        estimate(beam, torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="beam must be a SampledBeam, drawn with known probabilities, got Beam"):
        estimate(beam_search(model, PROMPT, 2, 2), torch.zeros(1, 2))
