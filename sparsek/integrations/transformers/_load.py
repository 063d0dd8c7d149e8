"""Load a model whose routers had been replaced when it was saved."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from sparsek.nn import Router

from ._replace import Model, RouterFactory, replace_router


def from_pretrained(
    model_class: type[Model],
    name_or_path: str,
    router_factory: RouterFactory,
    *,
    scale: float | None = None,
    **options: Any,
) -> Model:
    """Load what `save_pretrained` wrote of a model after :func:`replace_router`, the state of its balancers included.

    Transformers builds a model from its configuration, which knows nothing of other routers. Here the routers are replaced
    before the weights are read. (`model_class.from_pretrained` reads such a checkpoint too, but without the biases: it has
    the weights of the routers under the names of its own.)

    A checkpoint of the original model has no biases. Load that with `model_class.from_pretrained`, then call
    :func:`replace_router`.

    Args:
        model_class: The class of the model, such as `MixtralForCausalLM`; not an `Auto` class.
        name_or_path: Where it was saved.
        router_factory: What :func:`replace_router` was given.
        scale: Likewise.
        options: Passed on to `model_class.from_pretrained`, such as `dtype`.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: If `model_class` is no class of models, or the checkpoint lacks something of the routers.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise ValueError(f"model_class must be a class of models, such as MixtralForCausalLM, got {model_class!r}")

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        replace_router(self, router_factory, copy_weights=False, scale=scale)

    members = {"__init__": build, "__module__": model_class.__module__}
    routed: Any = type(model_class.__name__, (model_class,), members)
    model: Model
    model, report = routed.from_pretrained(name_or_path, output_loading_info=True, **options)
    model.__class__ = model_class
    _check(model, set(report["missing_keys"]))
    return model


def _check(model: Any, missing: set[str]) -> None:
    """Refuse routers that were not in the checkpoint: what they hold now is arbitrary."""
    names = [name for name, module in model.named_modules() if isinstance(module, Router)]
    absent = sorted(key for key in missing if any(key.startswith(f"{name}.") for name in names))
    if absent:
        raise ValueError(
            f"name_or_path must hold a model saved with replaced routers, got one without {', '.join(absent)}; load it with "
            f"{type(model).__name__}.from_pretrained and call replace_router"
        )
