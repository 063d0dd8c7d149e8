"""Laws of designs by enumeration, written from their definitions in plain Python with exact fractions.

Nothing here uses `sparsek.sampling`, except through a `design` that is passed in to be examined.
"""

import itertools
import math
from collections import Counter, defaultdict
from fractions import Fraction

import torch
from scipy.stats import binom

FALSE_ALARM = 1e-6


def fractions(probs):
    """Return a 1-d tensor or list as exact fractions."""
    return [Fraction(p) for p in (probs.tolist() if isinstance(probs, torch.Tensor) else probs)]


def with_phantom(law, probs, k=None):
    """Return {sample: probability} of a fixed-size `law` at a real sum k, by way of the phantom unit."""
    total = sum(probs) if k is None else Fraction(k)
    phantom = math.ceil(total) - total
    pmf = defaultdict(Fraction)
    for sample, chance in law([*probs, phantom] if phantom else probs).items():
        pmf[sample[: len(probs)]] += chance
    return dict(pmf)


def pivotal_law(probs):
    """Play the tournament over every outcome of every fight."""
    units = [*probs, *[Fraction(0)] * (2 ** math.ceil(math.log2(max(len(probs), 1))) - len(probs))]
    pmf = defaultdict(Fraction)

    def play(nodes, winners, decided, chance):
        if chance == 0:
            return
        if not nodes:
            if len(winners) > 1:
                play(winners, [], decided, chance)
            else:
                (unit, weight), taken = winners[0], dict(decided)
                taken[unit] = round(weight)
                pmf[tuple(taken[i] for i in range(len(probs)))] += chance
            return
        (i, a), (j, b), *rest = nodes
        full = a + b > 1
        numerator, denominator = (1 - a, 2 - a - b) if full else (a, a + b)
        left = numerator / denominator if denominator else Fraction(1)
        weight = a + b - full
        play(rest, [*winners, (i, weight)], {**decided, j: int(full)}, chance * left)
        play(rest, [*winners, (j, weight)], {**decided, i: int(full)}, chance * (1 - left))

    if len(units) == 1:
        return {(round(units[0]),)[: len(probs)]: Fraction(1)}
    play(list(enumerate(units)), [], {}, Fraction(1))
    return dict(pmf)


def systematic_law(probs):
    """Cut [0, 1) at the fractional parts of the cumulative sums; the sample is constant between cuts."""
    ends = list(itertools.accumulate(probs, initial=Fraction(0)))
    cuts = sorted({c % 1 for c in ends} | {Fraction(0), Fraction(1)})
    pmf = defaultdict(Fraction)
    for low, high in itertools.pairwise(cuts):
        u = (low + high) / 2
        sample = tuple(int(math.ceil(a - u) < math.ceil(b - u)) for a, b in itertools.pairwise(ends))
        pmf[sample] += high - low
    return dict(pmf)


def poisson_law(probs):
    """Multiply independent units."""
    return {
        sample: math.prod((p if s else 1 - p for p, s in zip(probs, sample, strict=True)), start=Fraction(1))
        for sample in itertools.product((0, 1), repeat=len(probs))
    }


def subsets(n, dtype=torch.float64):
    """Return all 2^n samples, (2^n, n)."""
    return torch.tensor(list(itertools.product((0, 1), repeat=n)), dtype=dtype).reshape(2**n, n)


def pmf_tensor(pmf, n):
    """Return {sample: probability} as a float64 vector in the order of :func:`subsets`."""
    return torch.tensor([float(pmf.get(s, 0)) for s in itertools.product((0, 1), repeat=n)], dtype=torch.float64)


def enumerate_pmf(design, probs, **given):
    """Return (samples, probabilities) of `design` by scoring all subsets with its own log_prob."""
    samples = subsets(probs.shape[-1], probs.dtype)
    return samples, design.log_prob(probs, samples, **given).exp()


def first_order(samples, pmf):
    """Return the inclusion probabilities of a law."""
    return pmf @ samples


def second_order(samples, pmf):
    """Return the joint inclusion probabilities of a law."""
    return torch.einsum("s,si,sj->ij", pmf, samples, samples)


def entropy(pmf):
    """Return the entropy of a law in nats."""
    return -torch.special.xlogy(pmf, pmf).sum()


def misfits(counts, chances, draws, false_alarm=FALSE_ALARM):
    """Return the cells whose count is outside its binomial interval.

    The intervals hold all together with probability 1 - false_alarm (union bound over cells, two sides each). A cell of
    probability 0 or 1 must match exactly.
    """
    tail = false_alarm / (2 * len(chances))
    wrong = []
    for cell, (count, p) in enumerate(zip(counts, chances, strict=True)):
        low, high = binom.isf(1 - tail, draws, p), binom.isf(tail, draws, p)
        low, high = (draws * p, draws * p) if p in (0, 1) else (low, high)
        if not low <= count <= high:
            wrong.append(cell)
    return wrong


def sample_counts(samples, n):
    """Count each subset in `samples` (draws, n), in the order of :func:`subsets`."""
    weights = 2 ** torch.arange(n - 1, -1, -1)
    counter = Counter((samples.long() @ weights).tolist())
    return [counter[i] for i in range(2**n)]


def random_probs(n, k, seed, spread=1.5):
    """Return float64 inclusion probabilities that sum to k: sigmoid(spread·normal + c), c by bisection."""
    x = spread * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low, high = -50.0, 50.0
    for _ in range(200):
        c = (low + high) / 2
        low, high = (low, c) if torch.sigmoid(x + c).sum() > k else (c, high)
    probs = torch.sigmoid(x + c)
    room = probs * (1 - probs)
    spread_out = room / room.sum().clamp(min=torch.finfo(room.dtype).tiny)  # no room where k rounds to n
    return (probs + (k - probs.sum()) * spread_out).clamp(0, 1)
