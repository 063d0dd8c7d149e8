"""Pooling: from the tokens (..., T, D) of a row, of which a boolean mask (..., T) keeps some, to one vector (..., D).

- One token or all of them: :func:`first_pool`, :func:`last_pool`, :func:`mean_pool`, :func:`mean_sqrt_len_pool`.
- Every dimension for itself: :func:`max_pool`, :func:`log_sum_exp_pool`, :func:`gem_pool`, :func:`topk_mean_pool`. What each
  token contributes is given by the function of the same name that ends in `_weights`.
- Weights of tokens: :func:`softmax_weights`, :func:`gate_weights`, :func:`sigmoid_topk_weights`, :func:`mean_weights`; summed by
  :func:`weighted_pool` as they are, or by :func:`weighted_mean_pool`.
- Samples of tokens: :func:`horvitz_thompson_weights`, :func:`hajek_weights`, and the variance of what they give by
  :func:`sen_yates_grundy` or approximately by :func:`fixed_size_variance`.

Masks select and never multiply: what a masked token holds, NaN and infinity included, changes neither value nor gradient. A row without
a kept token gives 0 with gradient 0. Half precision in, half precision out, summed in float32.
"""

from ._attention import gate_weights as gate_weights
from ._attention import sigmoid_topk_weights as sigmoid_topk_weights
from ._attention import softmax_weights as softmax_weights
from ._gem import gem_pool as gem_pool
from ._gem import gem_weights as gem_weights
from ._max import log_sum_exp_pool as log_sum_exp_pool
from ._max import log_sum_exp_weights as log_sum_exp_weights
from ._max import max_pool as max_pool
from ._max import max_weights as max_weights
from ._mean import mean_pool as mean_pool
from ._mean import mean_sqrt_len_pool as mean_sqrt_len_pool
from ._mean import mean_weights as mean_weights
from ._mean import normalised_weights as normalised_weights
from ._mean import weighted_mean_pool as weighted_mean_pool
from ._mean import weighted_pool as weighted_pool
from ._position import first_pool as first_pool
from ._position import last_pool as last_pool
from ._position import position_weights as position_weights
from ._signed import AbsoluteValue as AbsoluteValue
from ._signed import ClampNegative as ClampNegative
from ._signed import RefuseNegative as RefuseNegative
from ._signed import SignedPower as SignedPower
from ._signed import SignPolicy as SignPolicy
from ._size import share_of_length as share_of_length
from ._survey import fixed_size_variance as fixed_size_variance
from ._survey import hajek_weights as hajek_weights
from ._survey import horvitz_thompson_weights as horvitz_thompson_weights
from ._survey import sen_yates_grundy as sen_yates_grundy
from ._topk_mean import topk_mean_pool as topk_mean_pool
from ._topk_mean import topk_mean_weights as topk_mean_weights

__all__ = [
    "AbsoluteValue",
    "ClampNegative",
    "RefuseNegative",
    "SignPolicy",
    "SignedPower",
    "first_pool",
    "fixed_size_variance",
    "gate_weights",
    "gem_pool",
    "gem_weights",
    "hajek_weights",
    "horvitz_thompson_weights",
    "last_pool",
    "log_sum_exp_pool",
    "log_sum_exp_weights",
    "max_pool",
    "max_weights",
    "mean_pool",
    "mean_sqrt_len_pool",
    "mean_weights",
    "normalised_weights",
    "position_weights",
    "sen_yates_grundy",
    "share_of_length",
    "sigmoid_topk_weights",
    "softmax_weights",
    "topk_mean_pool",
    "topk_mean_weights",
    "weighted_mean_pool",
    "weighted_pool",
]
