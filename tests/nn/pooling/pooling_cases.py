"""Every pooling of `sparsek.nn`, with an oracle: what one row's kept tokens (n, D), n >= 1, give in float64, without masks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsek import nn as sk
from sparsek.functional import sigmoid_topk
from sparsek.sampling import Pivotal

D = 6


class Case(NamedTuple):
    make: Callable[[], sk.Pooling]
    oracle: Callable[[sk.Pooling, Tensor], Tensor]
    positive: bool = False
    linear: bool = True

    def build(self, dtype=torch.float64):
        """The pooling in eval mode, with parameters that matter."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pool = self.make()
            for name, parameter in pool.named_parameters():
                if name not in ("p", "size.value"):
                    torch.nn.init.normal_(parameter)
        return pool.to(dtype).eval()


def weighted(x, weights):
    return sum(float(w) * token for w, token in zip(weights, x, strict=True))


def softmax(scores):
    scores = [math.exp(float(s)) for s in scores]
    return [s / sum(scores) for s in scores]


def attention(pool, x):
    return weighted(x, softmax([token @ pool.query / math.sqrt(D) for token in x]))


def gates(pool, x):
    opened = [torch.sigmoid(pool.gate(token)).item() for token in x]
    return weighted(x, [g / sum(opened) for g in opened])


def gated_attention(pool, x):
    return weighted(x, softmax([pool.score(pool.value(t).tanh() * pool.gate(t).sigmoid()).item() for t in x]))


def multihead(pool, x):
    """By `torch.nn.MultiheadAttention`, the seeds being its projected queries."""
    reference = torch.nn.MultiheadAttention(D, pool.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        identity = torch.eye(D, dtype=torch.float64)
        value = pool.value.weight if pool.value is not None else identity
        key = pool.key.weight if pool.key is not None else identity
        reference.in_proj_weight.copy_(torch.cat((identity, key, value)))
        reference.in_proj_bias.zero_()
        if pool.value is not None:
            reference.in_proj_bias[2 * D :] = pool.value.bias
        reference.out_proj.weight.copy_(pool.output.weight if pool.output is not None else identity)
        reference.out_proj.bias.copy_(pool.output.bias if pool.output is not None else torch.zeros(D))
    views = reference(pool.seeds.unsqueeze(0), x.unsqueeze(0), x.unsqueeze(0))[0].squeeze(0)
    return pool.combine.combine(views.unsqueeze(0)).squeeze(0)


def gem(pool, x):
    x = x.clamp(min=pool.eps)
    power = pool.p.double()
    return x.log().mean(0).exp() if bool((power == 0).all()) else x.pow(power).mean(0).pow(1 / power)


def signed_gem(pool, x):
    mean = (x.sign() * x.abs().pow(pool.p)).mean(0)
    return mean.sign() * mean.abs().pow(1 / pool.p)


def topk_mean(k, x):
    """At real k the next value counts with the fraction."""
    k = min(max(k, 1.0), len(x))
    ordered = x.sort(0, descending=True).values
    return sum(min(1.0, max(0.0, k - i)) * row for i, row in enumerate(ordered)) / k


def longest(k, x):
    order = sorted(range(len(x)), key=lambda t: -x[t].norm().item())[: min(k, len(x))]
    return x[order].mean(0)


def sigmoid_top(pool, k, x):
    k = min(max(k, 1.0), len(x))
    return weighted(x, sigmoid_topk(x @ pool.query / math.sqrt(D) / pool.temperature, k) / k)


def log_sum_exp(x, temperature=1.0, divisor=1.0):
    return temperature * (x.div(temperature).exp().sum(0) / divisor).log()


POOLINGS = {
    "mean": Case(sk.MeanPool, lambda _, x: x.mean(0)),
    "max": Case(sk.MaxPool, lambda _, x: x.max(0).values),
    "cls": Case(sk.ClsPool, lambda _, x: x[0]),
    "last": Case(sk.LastTokenPool, lambda _, x: x[-1]),
    "mean-sqrt-len": Case(sk.MeanSqrtLenPool, lambda _, x: x.sum(0) / math.sqrt(len(x))),
    "weighted-mean": Case(
        sk.WeightedMeanPool, lambda _, x: weighted(x, [2 * (t + 1) / len(x) / (len(x) + 1) for t in range(len(x))])
    ),
    "recency": Case(
        lambda: sk.WeightedMeanPool(sk.RecencyWeighting(2.0)),
        lambda _, x: weighted(x, softmax([(t + 1 - len(x)) * math.log(2) / 2 for t in range(len(x))])),
    ),
    "log-sum-exp": Case(sk.LogSumExpPool, lambda _, x: log_sum_exp(x), linear=False),
    "log-mean-exp": Case(
        lambda: sk.LogSumExpPool(0.5, normalised=True), lambda _, x: log_sum_exp(x, 0.5, len(x)), linear=False
    ),
    "gem": Case(sk.GeM, gem, positive=True, linear=False),
    "gem-zero": Case(lambda: sk.GeM(p=0), gem, positive=True, linear=False),
    "gem-per-channel": Case(lambda: sk.GeM(p=-1, per_channel=D), gem, positive=True, linear=False),
    "gem-clamp": Case(lambda: sk.GeM(signed=sk.ClampNegative()), gem, linear=False),
    "gem-absolute": Case(lambda: sk.GeM(signed=sk.AbsoluteValue()), lambda pool, x: gem(pool, x.abs()), linear=False),
    "gem-signed": Case(lambda: sk.GeM(signed=sk.SignedPower()), signed_gem, linear=False),
    "gated": Case(lambda: sk.GatedPool(D), gates),
    "attention": Case(lambda: sk.AttentionPool(D), attention),
    "gated-attention": Case(lambda: sk.GatedAttentionPool(D, hidden=5), gated_attention),
    "multihead": Case(lambda: sk.MultiheadAttentionPool(D, queries=4, heads=2), multihead, linear=False),
    "multihead-average": Case(
        lambda: sk.MultiheadAttentionPool(D, queries=3, heads=3, combine=sk.Average(), project=False),
        multihead,
        linear=False,
    ),
    "top-k-mean": Case(lambda: sk.TopKMeanPool(2), lambda _, x: topk_mean(2, x)),
    "top-k-mean-real": Case(lambda: sk.TopKMeanPool(2.5, learnable=True), lambda _, x: topk_mean(2.5, x)),
    "top-k-mean-fraction": Case(lambda: sk.TopKMeanPool(fraction=0.7), lambda _, x: topk_mean(0.7 * len(x), x)),
    "top-k-tokens": Case(lambda: sk.TopKMeanPool(2, per="token"), lambda _, x: longest(2, x)),
    "sigmoid-top-k": Case(lambda: sk.SigmoidTopKPool(D, k=2), lambda pool, x: sigmoid_top(pool, 2, x)),
    "sigmoid-top-k-fraction": Case(
        lambda: sk.SigmoidTopKPool(D, fraction=0.6, learnable=True, temperature=0.5),
        lambda pool, x: sigmoid_top(pool, pool.size.value * len(x), x),
    ),
    "sampled": Case(lambda: sk.SampledTokenPool(2), lambda _, x: x.mean(0)),
    "sampled-attention": Case(
        lambda: sk.SampledTokenPool(2, Pivotal(), of=sk.AttentionPool(D)), lambda pool, x: attention(pool.of, x)
    ),
}


def tokens(case, *shape, dtype=torch.float64, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x.abs() + 0.05 if case.positive else x).to(dtype)
