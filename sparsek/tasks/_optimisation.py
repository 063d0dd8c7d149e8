"""AdamW with a linear warm-up and a cosine decay: the usual recipe for a small transformer."""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices; none for gains, biases and embeddings."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.dim() > 1 and id(p) not in embeddings]
    rest = [p for p in parameters if p.dim() <= 1 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.05) -> float:
    """Factor on the learning rate: linear up to 1 in `warmup` steps, then half a cosine down to `floor` at `total`.

    Example:
        >>> [round(warmup_cosine(step, total=110, warmup=10), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.525, 0.05]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def adamw_warmup_cosine(
    module: nn.Module, learning_rate: float, weight_decay: float, total: int, warmup_fraction: float
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer of all parameters of `module` and its schedule over `total` steps."""
    optimizer = AdamW(parameter_groups(module, weight_decay), lr=learning_rate, betas=(0.9, 0.95))
    factor = partial(warmup_cosine, total=total, warmup=max(round(warmup_fraction * total), 1))
    return optimizer, LambdaLR(optimizer, factor)
