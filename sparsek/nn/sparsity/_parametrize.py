"""Put a model's weights on a budget."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from sparsek.nn._schedule import Schedule

from ._global import GlobalSparsity, GlobalWeights
from ._n_m import NMSparsity, check_group_size, check_groups
from ._rule import MaskRule
from ._scores import WeightScores
from ._sparse_weights import SparseWeights
from ._sparsity import MAGNITUDE, RULE, Sparsity
from ._tensors import At, Tensors, choose, list_of

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def parametrize(
    model: nn.Module,
    k: float | Schedule | None = None,
    *,
    sparsity: float | None = None,
    per_layer: bool = False,
    tensors: Tensors | None = None,
    scores: WeightScores = MAGNITUDE,
    rule: MaskRule = RULE,
) -> nn.Module:
    r"""Keep k of all weights of a model, or of each layer's, from scratch: k falls while it trains.

    Exactly one of `k` and `sparsity` is given. Afterwards train as before, with :func:`anneal` before every step; in
    evaluation the model has exactly k weights. Biases and other tensors stay dense. Where scores are learnt they are
    parameters too: make the optimizer afterwards.

    Args:
        model: Its forward pass shares one solve; see :class:`GlobalSparsity`.
        k: Number of weights that stay (of each layer, with `per_layer`); see :class:`SparseWeights`.
        sparsity: Share of the weights that go, in [0, 1); at least one stays.
        per_layer: Whether each tensor has a budget of its own: k of it, or the share `sparsity` less.
        tensors: Pairs of a module and the name of a parameter, as in `torch.nn.utils.prune.global_unstructured`. None = the
            weights of all linear and convolutional layers.
        scores: What weights are ranked by.
        rule: From scores to masks.

    Returns:
        The model.

    Raises:
        ValueError: If an argument is out of range; if there is no such tensor, one is named twice or shared by two layers, or
            is parametrized already. The model is then as it was.

    Example:
        >>> import torch
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.parametrize(MLP(784, 10, hidden=(300, 100)), sparsity=0.98)  # 2 % of 266,200 weights
        >>> sparsity.anneal(model, progress=0.5)  # before each step, the share of training that is done
        >>> loss = model(torch.zeros(1, 784)).square().sum()  # one solve for all layers
        >>> sparsity.count(sparsity.remove(model))  # exact zeros in plain layers
        (5324, 266200)
    """
    chosen = choose(model, tensors)
    sizes = [getattr(module, name).numel() for module, name in chosen]
    if per_layer:
        counts = [_count(k, sparsity, size) for size in sizes]
        _register(
            chosen, [SparseWeights(getattr(*at), kept, scores, rule) for at, kept in zip(chosen, counts, strict=True)]
        )
        return model
    devices = {str(getattr(*at).device) for at in chosen}
    if len(devices) > 1:
        raise ValueError(f"tensors must be on one device to share a budget, got {', '.join(sorted(devices))}")
    budget = GlobalSparsity(_count(k, sparsity, sum(sizes)), sum(sizes))
    members = [GlobalWeights(getattr(*at), budget, index, scores, rule) for index, at in enumerate(chosen)]
    _register(chosen, members)
    for (module, name), member in zip(chosen, members, strict=True):
        budget.add(list_of(module, name), member)
    budget.share_in(model)
    return model


def parametrize_n_m(
    model: nn.Module,
    n: int | Schedule = 2,
    m: int = 4,
    *,
    tensors: Tensors | None = None,
    scores: WeightScores = MAGNITUDE,
    rule: MaskRule = RULE,
) -> nn.Module:
    """Keep n of every m neighbouring inputs in all weights of a model: see :class:`NMSparsity`.

    Args:
        model: The model.
        n: How many of a group stay.
        m: Size of a group.
        tensors: As in :func:`parametrize`; None = all weights of linear and convolutional layers whose inputs m divides. (Inputs
            are dimension 1 of a weight, and dimension 0 in transposed convolutions.)
        scores: What weights are ranked by.
        rule: From scores to masks.

    Returns:
        The model.

    Raises:
        ValueError: As :func:`parametrize`. The model is then as it was.

    Example:
        >>> import torch
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.parametrize_n_m(MLP(8, 2, hidden=(16,)), n=2, m=4)
        >>> sparsity.count(model.eval())
        (80, 160)
    """
    chosen = choose(model, tensors)
    if tensors is None:
        chosen = _divisible(chosen, m)
    weights = [(getattr(*at), _input_dim(at[0])) for at in chosen]
    for (weight, dim), (module, _) in zip(weights, chosen, strict=True):
        check_groups(weight, n, m, dim)
        if _inputs(module, weight) % m:
            raise ValueError(f"m must divide the {_inputs(module, weight)} inputs of a group of channels, got {m}")
    _register(chosen, [NMSparsity(weight, n, m, dim, scores, rule) for weight, dim in weights])
    return model


def _input_dim(module: nn.Module) -> int:
    """The dimension of a weight along which the inputs of an output lie."""
    return 0 if isinstance(module, _TRANSPOSED) else 1


def _inputs(module: nn.Module, weight: Tensor) -> int:
    """How many inputs an output has."""
    groups = module.groups if isinstance(module, _TRANSPOSED) else 1
    return weight.shape[_input_dim(module)] // groups


def _count(k: float | Schedule | None, sparsity: float | None, units: int) -> float | Schedule:
    """k, or the number of units that `sparsity` leaves."""
    if k is not None and sparsity is None:
        return k
    if k is not None or sparsity is None:
        raise ValueError(f"exactly one of k and sparsity must be given, got k={k} and sparsity={sparsity}")
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity!r}")
    return max(1, round((1 - sparsity) * units))


def _divisible(chosen: list[At], m: int) -> list[At]:
    """Those with groups of m inputs."""
    check_group_size(m)
    found = [at for at in chosen if _inputs(at[0], getattr(*at)) % m == 0]
    if not found:
        raise ValueError(f"m must divide the inputs of at least one layer, got {m}")
    return found


def _register(chosen: list[At], parts: Sequence[Sparsity]) -> None:
    """Put the parts on; unsafe, since a shared budget cannot mask before all are there. Shapes and types stay."""
    for (module, name), part in zip(chosen, parts, strict=True):
        register_parametrization(module, name, part, unsafe=True)
