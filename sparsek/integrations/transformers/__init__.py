"""sparsek routers in the mixture-of-experts models of Hugging Face `transformers` (tested: 5.23). Needs the extra `transformers`.

- :func:`replace_router` puts a :class:`~sparsek.nn.Router` in place of every router of a model: Mixtral, OLMoE, Qwen2-MoE,
  Qwen3-MoE, DeepSeek-V2, DeepSeek-V3, and others whose blocks have the same contract; :func:`routers` finds them again.
- :func:`routing_parts` are the gate and the selection with which a model routes by itself.
- :func:`from_pretrained` loads what `save_pretrained` wrote of such a model, the biases of its balancers included.
- :class:`RouterStep` moves the biases in a `transformers.Trainer`.
"""

from ._callback import RouterStep as RouterStep
from ._load import from_pretrained as from_pretrained
from ._parts import routing_parts as routing_parts
from ._replace import replace_router as replace_router
from ._replace import routers as routers

__all__ = ["RouterStep", "from_pretrained", "replace_router", "routers", "routing_parts"]
