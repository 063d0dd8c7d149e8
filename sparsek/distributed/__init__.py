"""Operators on rows, or batches, that are spread over the ranks of a `torch.distributed` process group.

:func:`sigmoid_topk` is for units sharded over ranks (a dictionary, neurons, a vocabulary), :func:`batch_sigmoid_topk` for one k
over a batch in data parallel. Scores stay where they are: what travels are sums, a few numbers per row. :func:`exchange` sends
rows from every rank to every rank, for experts spread over ranks. Imported by name; `import sparsek` does not load it.
"""

from ._batch_sigmoid_topk import batch_sigmoid_topk as batch_sigmoid_topk
from ._exchange import exchange as exchange
from ._exchange import exchange_counts as exchange_counts
from ._sigmoid_topk import sigmoid_topk as sigmoid_topk

__all__ = ["batch_sigmoid_topk", "exchange", "exchange_counts", "sigmoid_topk"]
