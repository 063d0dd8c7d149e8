"""Small causal models whose sequences can all be listed."""

import itertools
import math

import torch


class Bigrams:
    """Logits of the next token by the last one and the position; counts the prefixes that it was asked about."""

    def __init__(self, vocabulary, seed=0, positions=8, dtype=torch.float64, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        shape = (positions, vocabulary, vocabulary)
        self.logits = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        self.asked = 0

    def __call__(self, tokens):
        self.asked += len(tokens)
        return self.logits[tokens.shape[1] - 1, tokens[:, -1]]


def sequences(model, prompt, max_length, eos=None):
    """All sequences after one prompt with their log-probabilities, as (tuple, 0-d tensor), by recursion in Python."""
    found = []

    def extend(prefix, log_prob):
        if len(prefix) == max_length or (eos is not None and prefix and prefix[-1] == eos):
            found.append((prefix, log_prob))
            return
        logits = model(torch.tensor([[*prompt, *prefix]]))[0].log_softmax(-1)
        for token in range(len(logits)):
            if logits[token] > -math.inf:
                extend((*prefix, token), log_prob + logits[token])

    extend((), torch.zeros((), dtype=torch.float64))
    return found


def beam_by_hand(model, prompt, k, max_length, eos=None):
    """Beam search on Python lists; ties go to what comes first."""
    beam = [((), 0.0)]
    for _ in range(max_length):
        candidates = []
        for prefix, log_prob in beam:
            if eos is not None and prefix and prefix[-1] == eos:
                candidates.append((prefix, log_prob))
                continue
            logits = model(torch.tensor([[*prompt, *prefix]]))[0].log_softmax(-1).tolist()
            candidates += [((*prefix, v), log_prob + p) for v, p in enumerate(logits) if p > -math.inf]
        beam = sorted(candidates, key=lambda item: -item[1])[:k]
    return beam


def listed(beam, row):
    """The sequences of one row of a beam as tuples, without what follows their end."""
    pairs = zip(beam.tokens[row].tolist(), beam.lengths[row].tolist(), beam.mask[row].tolist(), strict=True)
    return [tuple(tokens[:length]) for tokens, length, there in pairs if there]


def subsets(n, k):
    """All k-hot vectors of n units."""
    for chosen in itertools.combinations(range(n), k):
        yield torch.zeros(n, dtype=torch.float64).index_fill(0, torch.tensor(chosen, dtype=torch.long), 1.0)
