"""What a pruned model is stored and run as: sparse tensors, layers over compressed rows, 2:4 tensors of CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._tensors import parametrizations


class CSRLinear(nn.Module):
    """A linear layer that holds the weights that are not 0 in compressed sparse rows, for inference.

    Buffers `crow_indices`, `col_indices` and `values` are those of `torch.sparse_csr_tensor`; products are torch's.

    Shape:
        - input: (..., in_features), float32 or float64.
        - output: (..., out_features).

    Args:
        layer: The dense layer; its weights that are exactly 0 are left out.

    Raises:
        ValueError: If the layer is parametrized: take that off first; on the CPU, if it is neither float32 nor float64.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight[:, 1:].zero_()
        >>> compressed = CSRLinear(layer)
        >>> compressed.values.shape, torch.allclose(compressed(torch.ones(3, 4)), layer(torch.ones(3, 4)))
        (torch.Size([2]), True)
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        _refuse_parametrized(layer)
        if layer.weight.device.type == "cpu" and layer.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"layer must be float32 or float64 for torch's products on the CPU, got {layer.weight.dtype}"
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = _quietly(layer.weight.detach().to_sparse_csr)
        for name in ("crow_indices", "col_indices", "values"):
            self.register_buffer(name, getattr(weight, name)().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The weight, (out_features, in_features), in the layout `torch.sparse_csr`."""
        shape = (self.out_features, self.in_features)
        parts = self.crow_indices, self.col_indices, self.values
        return _quietly(lambda: torch.sparse_csr_tensor(*parts, shape, check_invariants=False))

    def forward(self, input: Tensor) -> Tensor:
        """Multiply."""
        rows = input.reshape(-1, self.in_features)
        output = (self.weight @ rows.T).T
        output = output if self.bias is None else output + self.bias
        return output.reshape(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kept={self.values.numel()}"


def to_csr(model: nn.Module, density: float = 0.1) -> nn.Module:
    """Replace the linear layers of which at most a share `density` is not 0 by :class:`CSRLinear`, in place.

    Args:
        model: A pruned model, after :func:`remove`. A model that is one linear layer is not replaced but returned anew.
        density: In (0, 1].

    Returns:
        The model.

    Raises:
        ValueError: If `density` is out of range, the model still has masks, or a layer is of a type that :class:`CSRLinear` cannot
            take.

    Example:
        >>> import torch
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.remove(sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=12))
        >>> [type(layer).__name__ for layer in sparsity.to_csr(model).layers]
        ['CSRLinear', 'ReLU', 'CSRLinear']
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    _refuse_parametrized(model)

    def thin(layer: nn.Linear) -> bool:
        return int(layer.weight.count_nonzero()) <= density * layer.weight.numel()

    return _replaced(model, lambda layer: CSRLinear(layer) if thin(layer) else layer)


def to_semi_structured(model: nn.Module) -> nn.Module:
    """Turn the weights of linear layers that have at most 2 of every 4 inputs into torch's 2:4 tensors, in place.

    CUDA alone has products for them (compute capability 8.0 and higher, half precision or int8, sizes that its tiles divide).

    Args:
        model: A model on CUDA, pruned by :class:`NMSparsity`, after :func:`remove`.

    Returns:
        The model.

    Raises:
        ValueError: If the model is not on CUDA, still has masks, or no linear layer has the pattern.

    References:
        PyTorch, *Accelerating Neural Network Training with Semi-Structured (2:4) Sparsity*, 2024,
        https://pytorch.org/blog/accelerating-neural-network-training/
    """
    _refuse_parametrized(model)
    fitting = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _is_two_of_four(layer.weight)]
    if not fitting:
        raise ValueError("model must have a linear layer with at most 2 of every 4 inputs not 0, got none")
    for layer in fitting:
        if not layer.weight.is_cuda:
            raise ValueError(f"model must be on CUDA for 2:4 tensors, got {layer.weight.device}")
        sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        layer.weight = nn.Parameter(sparse, requires_grad=False)
    return model


def sparse_state_dict(model: nn.Module, density: float = 0.1) -> dict[str, Tensor]:
    """Return the state of a pruned model with thin tensors in the layout `torch.sparse_coo`: what is worth storing.

    `dense_state_dict` of it loads into the dense model.

    Args:
        model: A pruned model, after :func:`remove`.
        density: Tensors of at least two dimensions with at most this share not 0 become sparse; in (0, 1].

    Raises:
        ValueError: If `density` is out of range, or the model still has masks.

    Example:
        >>> from sparsek.nn import MLP, sparsity
        >>> model = sparsity.remove(sparsity.parametrize(MLP(8, 2, hidden=(16,)), k=12))
        >>> state = sparsity.sparse_state_dict(model)
        >>> state["layers.0.weight"].layout
        torch.sparse_coo
        >>> model.load_state_dict(sparsity.dense_state_dict(state))
        <All keys matched successfully>
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    _refuse_parametrized(model)

    def stored(tensor: Tensor) -> Tensor:
        thin = tensor.dim() > 1 and int(tensor.count_nonzero()) <= density * tensor.numel()
        return tensor.detach().to_sparse().coalesce() if thin else tensor.detach()

    return {name: stored(tensor) for name, tensor in model.state_dict().items()}


def dense_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with every sparse tensor made dense: the inverse of :func:`sparse_state_dict`."""
    return {name: tensor if tensor.layout == torch.strided else tensor.to_dense() for name, tensor in state.items()}


def _is_two_of_four(weight: Tensor) -> bool:
    if weight.shape[1] % 4:
        return False
    return bool((weight.unflatten(1, (-1, 4)).count_nonzero(dim=-1) <= 2).all())


def _replaced(module: nn.Module, by: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Return the module with its linear layers replaced."""
    if isinstance(module, nn.Linear):
        return by(module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, by))
    return module


def _refuse_parametrized(model: nn.Module) -> None:
    if any(True for _ in parametrizations(model)):
        raise ValueError("model must be pruned, got one with masks; call sparsity.remove(model) first")


def _quietly(build: Callable[[], Tensor]) -> Tensor:
    """Build a tensor in compressed rows without torch's notice that this layout is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return build()
