"""The gate and the selection with which a model routes by itself."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from sparsek.nn import Gate, GroupLimited, HardTopK, Selection, SigmoidGate, SoftmaxGate

from ._block import blocks


def routing_parts(model: nn.Module) -> dict[str, Any]:
    """The `gate` and the `selection` of a :class:`~sparsek.nn.Router` that routes as the model does before replacement.

    With them, `replace_router(model, partial(Router, **routing_parts(model), …))` changes nothing but what is given besides:
    a balancer, a gradient. The outputs are the same, weights and `e_score_correction_bias` being copied.

    Args:
        model: A Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE, DeepSeek-V2 or DeepSeek-V3 model.

    Returns:
        `{"gate": …, "selection": …}`.

    Raises:
        ValueError: If the model has no mixture-of-experts block, or is none of these.

    Example:
        >>> from transformers import OlmoeConfig, OlmoeForCausalLM
        >>> config = OlmoeConfig(vocab_size=50, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_experts=4, num_experts_per_tok=2)
        >>> routing_parts(OlmoeForCausalLM(config))
        {'gate': SoftmaxGate(normalise=False), 'selection': HardTopK()}
    """
    router = cast(Any, blocks(model)[0].gate)
    gates: dict[str, Gate] = {
        "MixtralTopKRouter": SoftmaxGate(),
        "OlmoeTopKRouter": SoftmaxGate(normalise=getattr(router, "norm_topk_prob", True)),
        "Qwen2MoeTopKRouter": SoftmaxGate(normalise=getattr(router, "norm_topk_prob", True)),
        "Qwen3MoeTopKRouter": SoftmaxGate(normalise=getattr(router, "norm_topk_prob", True)),
        "DeepseekV2TopkRouter": SoftmaxGate(normalise=False),
        "DeepseekV3TopkRouter": SigmoidGate(normalise=getattr(router, "norm_topk_prob", True)),
    }
    kind = type(router).__name__
    if kind not in gates:
        raise ValueError(f"model must have a router that is known, of {', '.join(gates)}, got {kind}")
    return {"gate": gates[kind], "selection": _selection(router)}


def _selection(router: Any) -> Selection:
    """Top-k, within groups where a router of DeepSeek has a limit that binds."""
    groups, kept = int(getattr(router, "num_group", 1) or 1), int(getattr(router, "topk_group", 1) or 1)
    if kept == groups or getattr(router, "topk_method", None) == "greedy":
        return HardTopK()
    return GroupLimited(groups, kept, best=1 if hasattr(router, "topk_method") else 2)
