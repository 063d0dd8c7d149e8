"""Every public name of the mathematical part of the library, and why some of them are not fuzzed."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

MODULES = {
    "functional": "sparsek.functional",
    "pooling": "sparsek.functional.pooling",
    "relaxations": "sparsek.relaxations",
    "sampling": "sparsek.sampling",
    "constraints": "sparsek.constraints",
    "distributions": "sparsek.distributions",
    "estimators": "sparsek.estimators",
    "search": "sparsek.search",
    "nn": "sparsek.nn",
    "sparsity": "sparsek.nn.sparsity",
    "metrics": "sparsek.metrics",
}

WITHIN = "an option without arithmetic of its own: the cases of what takes it draw it"
PROCESSES = "needs a process group: tests/distributed"
MODEL = "needs a whole model: tests of its own"

NOT_FUZZED = {
    "functional.MAX_PASSES": "a number",
    "estimators.ScoreWarning": "a warning",
    "search.CachedModel": "a protocol",
    "search.CausalModel": "a protocol",
    "search.CachedNextToken": MODEL,
    "search.SoftTokens": MODEL,
    "nn.ExpertOutputs": "a protocol",
    "nn.Attribution": MODEL,
    "nn.CausalSelfAttention": "plain torch: it checks nothing and computes nothing of ours",
    "nn.ContextEmbedding": "plain torch: it checks nothing and computes nothing of ours",
    "nn.ConvNet": "plain torch: it checks nothing and computes nothing of ours",
    "nn.FeedForward": "plain torch: it checks nothing and computes nothing of ours",
    "nn.MLP": "plain torch: it checks nothing and computes nothing of ours",
    "nn.MoETransformer": MODEL,
    "nn.ShardedExperts": PROCESSES,
    "nn.clip_sharded_grad_norm_": PROCESSES,
    "nn.exclude_sharded_experts": PROCESSES,
    "nn.gather_expert_state": PROCESSES,
    "nn.sharded_parameters": PROCESSES,
    "nn.UnitSite": "names a place in a model",
    "nn.Estimator": "a contract",
    **dict.fromkeys(
        (
            *("nn.AbsoluteValue", "nn.ClampNegative", "nn.RefuseNegative", "nn.SignedPower"),
            *("pooling.AbsoluteValue", "pooling.ClampNegative", "pooling.RefuseNegative", "pooling.SignedPower"),
            *("nn.ZeroIfEmpty", "nn.NanIfEmpty", "nn.RaiseIfEmpty", "nn.Average", "nn.Concatenate"),
            *("nn.ApproximateVariance", "nn.SenYatesGrundy", "nn.HajekWeights", "nn.HorvitzThompsonWeights"),
            *("nn.EqualSizes", "nn.NormSizes", "nn.PositionWeighting", "nn.RecencyWeighting"),
            *("sparsity.Magnitude", "sparsity.LayerShare", "sparsity.LearntScores", "sparsity.MaskRule"),
            *("sparsity.NOfM", "sparsity.Unstructured", "sparsity.GlobalSparsity", "sparsity.GlobalWeights"),
            *(
                "sparsity.NMSparsity",
                "sparsity.SparseWeights",
                "sparsity.Sparsity",
                "sparsity.anneal",
                "sparsity.remove",
            ),
        ),
        WITHIN,
    ),
    **dict.fromkeys(
        (
            *("sparsity.CSRLinear", "sparsity.count", "sparsity.dense_state_dict", "sparsity.masks"),
            *(
                "sparsity.parametrizations",
                "sparsity.sparse_state_dict",
                "sparsity.to_csr",
                "sparsity.to_semi_structured",
            ),
        ),
        "takes a model that is parametrized already: tests/nn",
    ),
}


def public() -> dict[str, Any]:
    """Every name in `__all__` of every module."""
    found = {}
    for short, path in MODULES.items():
        module = import_module(path)
        found |= {f"{short}.{name}": getattr(module, name) for name in module.__all__}
    return found


def is_container(value: Any) -> bool:
    """Whether a name is a plain tuple with named fields."""
    return inspect.isclass(value) and issubclass(value, tuple)


def is_contract(value: Any) -> bool:
    """Whether a name is an abstract class, or the base of a family of objects that its subclasses fill."""
    return inspect.isclass(value) and (
        inspect.isabstract(value)
        or value.__name__ in {"Estimator", "Balancer", "EmbeddingMetric", "Pattern", "WeightScores"}
    )
