"""Tiny models with random weights, one for each family of mixture-of-experts blocks."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.5,  # far from the uniform guess, so that what differs is seen
}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
}


@dataclass
class Case:
    """A model class, its configuration, and how many of its layers are mixtures."""

    name: str
    family: str
    k: int
    config: dict[str, Any] = field(default_factory=dict)
    mixtures: int = 2
    num_experts: int = 8

    @property
    def model_class(self):
        return getattr(transformers, f"{self.family}ForCausalLM")

    def model(self, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.model_class(getattr(transformers, f"{self.family}Config")(**SIZES, **self.config)).eval()
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.normal_(std=0.1)
        return model


def _deepseek(**config):
    return (
        LATENT
        | {
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        }
        | config
    )


CASES = [
    Case("mixtral", "Mixtral", 2, {"num_local_experts": 8, "num_experts_per_tok": 2}),
    Case("olmoe", "Olmoe", 3, {"num_experts": 8, "num_experts_per_tok": 3}),
    Case("olmoe, normalised", "Olmoe", 3, {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True}),
    Case(
        "qwen2",
        "Qwen2Moe",
        2,
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    Case(
        "qwen3, first layer dense",
        "Qwen3Moe",
        2,
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [0],
            "norm_topk_prob": True,
        },
        mixtures=1,
    ),
    Case(
        "deepseek-v2, greedy", "DeepseekV2", 3, _deepseek(topk_method="greedy", routed_scaling_factor=1.5), mixtures=1
    ),
    Case(
        "deepseek-v2, groups",
        "DeepseekV2",
        3,
        _deepseek(topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=3.0),
        mixtures=1,
    ),
    Case("deepseek-v3", "DeepseekV3", 3, _deepseek(n_group=1, topk_group=1, norm_topk_prob=False), mixtures=1),
    Case("deepseek-v3, groups", "DeepseekV3", 3, _deepseek(n_group=4, topk_group=2), mixtures=1),
]
FAMILIES = list({case.family: case for case in CASES}.values())
"""The last case of each family."""


def tokens(batch=3, length=7, seed=1):
    return torch.randint(2, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))
