"""The router of a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsek._records import replaced
from sparsek._validation import check_floating, check_token_mask
from sparsek.functional import expert_load

from ._balance import Balancer, NoBalance, Routed, alone
from ._gate import Gate, SigmoidTopKGate
from ._gradient import Gated, Gradient, TopKOnly
from ._gradient_absent import RunAllBackward
from ._output_mean import OutputMean
from ._routing import ExpertOutputs, Routing, rows_of
from ._selection import HardTopK, Selection, marginals_of


class Router(nn.Module):
    r"""Scores tokens against experts, chooses k of them, weighs and balances them. Each part is an object.

    $\text{logits} = W x$, in float32 at least, also under autocast. The `selection` picks experts by the gate's scores
    + bias, the `gate` weighs them, the `gradient` says what the gate learns from, the `balancer` adds a loss or moves
    the bias. A forward pass changes nothing: the caller hands the routing of every training batch to :meth:`observe`,
    and calls :meth:`step` after every optimizer step, so gradient accumulation and recomputed activations count each
    batch once, evaluation moves nothing, and the bias comes from previous batches only: a causal model stays causal.

    In a data-parallel run (`torch.distributed` initialised), :meth:`step` adds up the counts of all processes, which
    must all call it; so must a forward pass in training mode if the balancer has a loss. They travel in the group
    `process_group`, by default that of all processes.

    A token whose logits are not finite is routed nowhere: indices −1, weights 0, no part in any loss or count but
    `stats["invalid"]`, and no gradient.

    Shape:
        - input: (..., d_model).
        - output: :class:`Routing`.

    Args:
        d_model: Width of a token, at least 1.
        num_experts: Number of experts E, at least 1.
        k: Experts per token, in [1, E].
        gate: Logits to weights; by default `SigmoidTopKGate()`.
        selection: Which experts; by default `HardTopK()`.
        gradient: What the gate learns from; by default `TopKOnly()`.
        balancer: What keeps the load even; by default `NoBalance()`.

    Attributes:
        bias: (E,) buffer, float32 at least, saved: added to the scores for the selection. Mean zero,
            but under a balancer that moves the number of slots (`BudgetBalance`).
        coefficient: 0-d buffer, float32 at least, saved, of a balancer that moves one; None otherwise.
        process_group: Which processes share the batch; None: all.

    Raises:
        ValueError: If a size is out of range, or the parts do not fit each other; on loading a state of another number
            of experts.

    Example:
        >>> from sparsek.nn import DualBias, Router
        >>> _ = torch.manual_seed(0)
        >>> router = Router(16, num_experts=8, k=2, balancer=DualBias(rate=0.1))
        >>> routing = router(torch.randn(5, 16))
        >>> routing.indices.shape, routing.marginals.sum(-1).allclose(torch.tensor(2.0))
        (torch.Size([5, 2]), True)
        >>> router.observe(routing)
        >>> router.step()
        >>> bool(router.bias[routing.indices[0, 0]] < router.bias.max())
        True
    """

    bias: Tensor
    coefficient: Tensor | None

    def __init__(
        self,
        d_model: int,
        num_experts: int,
        k: int = 2,
        *,
        gate: Gate | None = None,
        selection: Selection | None = None,
        gradient: Gradient | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("num_experts", num_experts)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if k != int(k) or not 1 <= k <= num_experts:
            raise ValueError(f"k must be a whole number in [1, num_experts = {num_experts}], got {k}")
        self.d_model, self.num_experts, self.k = d_model, num_experts, int(k)
        self.gate = SigmoidTopKGate() if gate is None else gate
        self.selection = HardTopK() if selection is None else selection
        self.gradient = TopKOnly() if gradient is None else gradient
        self.balancer = NoBalance() if balancer is None else balancer
        self._check_parts()
        self.weight = nn.Parameter(torch.randn(num_experts, d_model) * d_model**-0.5)
        self.register_buffer("bias", torch.zeros(num_experts))
        first = self.balancer.start()
        self.register_buffer("coefficient", None if first is None else torch.tensor(first))
        decay = getattr(self.gradient, "decay", 0.0)
        self.output_mean = OutputMean(num_experts, d_model, decay) if self.gradient.uses_means else None
        self.process_group: dist.ProcessGroup | None = None
        self._counts: dict[str, Tensor] = {}

    def _check_parts(self) -> None:
        self.gate.check(self.k, self.num_experts)
        self.selection.check(self.gate, self.k)
        self.gradient.check(self.selection)
        if self.balancer.moves_bias and not self.selection.uses_bias:
            raise ValueError(
                f"balancer must not move a bias under {self.selection}, whose choice depends on none, got {self.balancer}"
            )

    @property
    def causal(self) -> bool:
        """Whether the experts of a token depend on no other token of the call."""
        return self.selection.causal and self.gate.causal

    @property
    def load(self) -> Tensor:
        """(E,) int64: slots per expert that were observed since the last :meth:`step`, in this process."""
        return self._counts.get("load", self._nothing()["load"])

    def forward(self, input: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None) -> Routing:
        """Route tokens.

        Args:
            input: Tokens, (..., d_model).
            mask: (...), True = a real token. Others get indices −1 and weights 0, and count in no loss and no load;
                NaN there harms nothing.
            generator: Source of randomness for a stochastic selection while training.

        Returns:
            The routing of this batch.

        Raises:
            ValueError: If `input` is not floating-point, its last dimension is not `d_model`, or `mask` does not fit.
        """
        self._check(input, mask)
        real = torch.ones_like(input[..., 0], dtype=torch.bool) if mask is None else mask
        logits, valid = self._logits(input, real)
        gated, scores = self._choose(logits, valid, generator)
        weights, absent = self.gradient(gated)
        weights = weights.masked_fill(gated.indices < 0, 0).to(input.dtype)
        absent = None if absent is None else absent.masked_fill(~valid[..., None], 0)
        routed = Routed(logits, gated.marginals, scores, expert_load(gated.indices, self.num_experts), self.k, valid)
        stats = {
            "load": routed.load,
            "tokens": routed.tokens,
            "invalid": (real & ~valid).sum(),
            "unrouted": (real & (gated.indices < 0).all(-1)).sum(),
        }
        if self.training:
            stats["balance"] = self.balancer.measure(routed)
        losses = self.balancer.losses(routed, self._average(), self.coefficient)
        return Routing(gated.indices, weights, gated.marginals, logits, losses, stats, absent)

    def _check(self, input: Tensor, mask: Tensor | None) -> None:
        check_floating("input", input)
        if input.shape[-1:] != (self.d_model,):
            raise ValueError(f"input must have shape (..., {self.d_model}), got {tuple(input.shape)}")
        check_token_mask("mask", mask, input.shape[:-1])

    def _logits(self, input: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and which tokens are real with finite ones; the logits of all others are 0, without gradient."""
        dtype = torch.promote_types(input.dtype, torch.float32)
        finite = real & _finite(input)
        with torch.autocast(input.device.type, enabled=False):
            clean = input.masked_fill(~finite[..., None], 0).to(dtype)
            logits = nn.functional.linear(clean, self.weight.to(dtype))
        valid = finite & _finite(logits)
        return logits.masked_fill(~valid[..., None], 0), valid

    def _choose(self, logits: Tensor, valid: Tensor, generator: torch.Generator | None) -> tuple[Gated, Tensor]:
        """The chosen experts with what the gate says of them, and the scores that chose them."""
        bias, selection = self.bias.to(logits.dtype), self.selection
        biased = logits + bias if selection.sampled or selection.biases_marginals else logits
        gate = self.gate
        marginals = gate.batch_marginals(biased, self.k, valid) if self.training else gate.marginals(biased, self.k)
        scores = (self.gate.scores(logits) + bias).detach()
        drawn = selection.sampled and self.training
        raw = selection(scores, marginals.detach(), self.k, mask=valid, training=self.training, generator=generator)
        taken = _members(raw, marginals)
        score = self._log_prob(marginals, taken, biased) if drawn and self.gradient.uses_score else None
        indices = raw.masked_fill(~valid[..., None], -1)
        weights, chosen = selection.weights(self.gate, marginals, indices), marginals_of(indices, marginals)
        taken = taken & valid[..., None]
        gated = Gated(weights, chosen, marginals, taken, indices, drawn, score, self.training, generator)
        return gated, scores

    def _log_prob(self, marginals: Tensor, taken: Tensor, logits: Tensor) -> Tensor:
        """The log-probability of a draw; 0 without gradient where rounding made the draw impossible."""
        value = self.selection.log_prob(marginals, taken, self.k, logits)
        return value.masked_fill(~value.isfinite(), 0)

    def complete(self, output: Tensor, routing: Routing, outputs: ExpertOutputs) -> tuple[Tensor, Routing]:
        """Add to the output of a mixture what its gradient wants of the experts that were not run.

        Shape:
            - output: (..., d_model), the weighted sum of the chosen experts.

        Args:
            output: That sum.
            routing: The routing behind it; nothing changes if its `absent` is None and the gradient keeps no means.
            outputs: What the experts gave.

        Returns:
            The output, and the routing with the statistics that :meth:`observe` needs.
        """
        if self.output_mean is not None and self.training:
            total, count = outputs.sums()
            routing = replaced(routing, stats=routing.stats | {"output_sum": total.detach(), "output_count": count})
        if routing.absent is None:
            return output, routing
        weights, means = rows_of(routing.absent), self.output_mean
        rest = means(weights) if means is not None else RunAllBackward.apply(weights, self.d_model, outputs)
        return output + rest.view(output.shape).to(output.dtype), routing

    @torch.no_grad()
    def observe(self, routing: Routing) -> None:
        """Add the counts of one training batch to those of this optimizer step; nothing in eval mode."""
        if self.training:
            for name in ("load", "tokens", "balance", "output_sum", "output_count"):
                if name in routing.stats:
                    value = routing.stats[name].detach()
                    self._counts[name] = self._counts[name] + value if name in self._counts else value

    @torch.no_grad()
    def step(self) -> None:
        """Move the bias (and the mean outputs) by what was observed since the last step, and forget that.

        Nothing moves where no token was observed.
        """
        counts, self._counts = self._counts, {}
        if not counts and self._size() == 1:
            return
        for name, empty in self._nothing().items():
            counts[name] = self._sum(counts.get(name, empty))
        moved = self.balancer.update(self.bias, counts["balance"])
        self.bias.copy_(torch.where(counts["tokens"] > 0, moved, self.bias))
        if self.coefficient is not None:
            self.coefficient.copy_(self.balancer.adapt(self.coefficient, counts["balance"]))
        if self.output_mean is not None:
            self.output_mean.update(counts["output_sum"], counts["output_count"])

    def _nothing(self) -> dict[str, Tensor]:
        """The counts of no token."""
        load = torch.zeros(self.num_experts, dtype=torch.int64, device=self.bias.device)
        nobody = self.bias.new_zeros(0, self.num_experts)
        balance = self.balancer.measure(Routed(nobody, nobody, nobody, load, self.k))
        counts = {"load": load, "tokens": load.sum(), "balance": balance}
        if self.output_mean is not None:
            counts |= {"output_sum": torch.zeros_like(self.output_mean.mean), "output_count": load}
        return counts

    def _size(self) -> int:
        """How many processes share the batch."""
        return dist.get_world_size(self.process_group) if dist.is_available() and dist.is_initialized() else 1

    def _sum(self, value: Tensor) -> Tensor:
        value = value.to(self.bias.device, copy=True)
        if self._size() > 1:
            dist.all_reduce(value, group=self.process_group)
        return value

    def _average(self) -> Callable[[Tensor], Tensor]:
        """The mean over processes while training; evaluation batches of processes may differ in number."""
        if not self.training or self._size() == 1:
            return alone
        return lambda value: self._sum(value) / self._size()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Convert and move as any module does, but keep the state of the balancer in float32 at least: small steps vanish."""
        kept = {"bias": self.bias, "coefficient": self.coefficient}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            if value is not None and getattr(self, name).dtype.itemsize < min(value.dtype.itemsize, 4):
                setattr(self, name, value.to(self.weight.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and len(weight) != self.num_experts:
            raise ValueError(
                f"state_dict must hold a router of {self.num_experts} experts at '{prefix}weight', got {len(weight)}"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """The configuration, for `print`."""
        parts = f"gate={self.gate}, selection={self.selection}, gradient={self.gradient}, balancer={self.balancer}"
        return f"{self.d_model}, num_experts={self.num_experts}, k={self.k}, {parts}"


def _finite(values: Tensor) -> Tensor:
    """(...) bool: which rows (..., n) are finite throughout; by the largest size, the fastest way."""
    return values.detach().abs().amax(-1).isfinite()


def _members(indices: Tensor, marginals: Tensor) -> Tensor:
    """(..., experts) bool: which experts are among the indices; −1 is none."""
    number = torch.zeros_like(marginals, dtype=torch.uint8)
    return number.scatter_add(-1, indices.clamp_min(0), (indices >= 0).to(torch.uint8)).bool()
