"""Balancers in a `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ._replace import routers


class RouterStep(TrainerCallback):
    """Moves the biases of all sparsek routers of the model after every optimizer step.

    `Trainer(model, …, callbacks=[RouterStep()])`. In a loop of one's own: `for router in routers(model): router.step()`
    after `optimizer.step()`.
    """

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step."""
        for router in routers(kwargs["model"]):
            router.step()
