"""Pure tensor operators."""

from ._capped_logit import capped_logit as capped_logit
from ._sigmoid_topk import sigmoid_topk as sigmoid_topk
from ._threshold import MAX_PASSES as MAX_PASSES
from ._topk_mask import topk_mask as topk_mask

__all__ = [
    "MAX_PASSES",
    "capped_logit",
    "sigmoid_topk",
    "topk_mask",
]
