"""The two networks, and the tensors of them that are made sparse: all weights, no biases."""

from __future__ import annotations

from torch import nn

Tensors = list[tuple[nn.Module, str]]


def network(task: str) -> nn.Sequential:
    """LeNet-300-100 (266,200 weights) or two convolutions and two linear layers (105,744 weights)."""
    match task:
        case "mlp":
            layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
        case "conv":
            layers = [
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(1568, 64),
                nn.ReLU(),
                nn.Linear(64, 10),
            ]
        case _:
            raise ValueError(f"task must be mlp or conv, got {task!r}")
    model = nn.Sequential(*layers)
    for module, _ in tensors_of(model):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
    return model


def tensors_of(model: nn.Module) -> Tensors:
    """All weights."""
    return [(module, "weight") for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
