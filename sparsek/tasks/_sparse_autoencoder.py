"""Train a sparse autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from sparsek._validation import check_positive
from sparsek.nn import AuxK, SparseAutoencoder, SparseAutoencoderOutput
from sparsek.nn.sparse_autoencoder._processes import spread

from ._activation_pair import activation_pair, check_shape
from ._autoencoder_measures import AutoencoderMeasures
from ._folding import folded
from ._initialisation import Initialisation
from ._learning_rate import WarmupDecay
from ._reconstruction_loss import ReconstructionLoss, UnexplainedVariance
from ._running_norm import RunningNorm
from ._stream import AutoencoderStream
from ._unit_norm import UnitNorm

LEVELS = (4, 8, 16, 32, 64, 128, 256)
UNIT_NORM = UnitNorm()


class AutoencoderLosses(NamedTuple):
    """A batch of training."""

    loss: Tensor
    """0-d: what is minimised."""
    reconstruction: Tensor
    """0-d: of all parts that the selection trains."""
    fvu: Tensor
    """0-d: fraction of the batch's variance that the main reconstruction leaves unexplained."""
    aux: Tensor | None
    """0-d: what dead latents add."""
    penalty: Tensor | None
    """0-d: what the selection adds."""
    dead: Tensor | None
    """0-d: share of latents that are dead now."""
    k: Tensor | None
    """0-d: where it is learnt."""

    def detached(self) -> AutoencoderLosses:
        """The numbers without their graph."""
        return AutoencoderLosses(*(None if value is None else value.detach() for value in self))  # type: ignore[arg-type]  # three are never None


class SparseAutoencoderTask(AutoencoderStream):
    r"""Train any :class:`~sparsek.nn.SparseAutoencoder` on activations: autoencoders, transcoders and crosscoders.

    Tokens are centred and scaled by running statistics (:class:`RunningNorm`); the autoencoder sees mean 0 and mean squared
    norm 1, and :meth:`exported` folds that into the weights exactly. The objective is the reconstruction loss of all parts that the
    selection trains, plus its penalty, plus :class:`~sparsek.nn.AuxK` on latents that died. With several processes it is that of
    the whole batch: statistics, variances, dead latents and BatchTopK's threshold are those of one process on all tokens.

    Logs, for `train/`: `loss`, `reconstruction`, `fvu`, `aux`, `penalty`, `dead`, and `k` where it is learnt; for `val/` and `test/`:
    `fvu`, `l0`, `dead`, `fvu_k4`, `fvu_k8`, ..., of the exported autoencoder on tokens as they are.

    Args:
        autoencoder: What is trained.
        auxiliary: From the number of latents to the loss of dead ones. None: none.
        dead_fraction: A latent is dead after this share of all tokens of the training at the latest, in (0, 1]; the window of
            `auxiliary`, in tokens, if that is shorter. None: the window alone.
        centre: Whether tokens are centred.
        scale: Whether tokens are scaled.
        loss: What the squared error is divided by.
        learning_rate: Of Adam, above 0. Default: $2 \cdot 10^{-4} / \sqrt{n / 2^{14}}$ for n latents.
        selection_rate: Learning rate of what the selection learns (k, thresholds). Default: `learning_rate`.
        betas: Of Adam.
        eps: Of Adam.
        schedule: Factor on the learning rates at each step.
        gradient_clip: Largest norm of the gradient of this autoencoder's parameters. None: any.
        unit_norm: Whether, and how, decoder rows are kept at norm 1. None: rows are free.
        initialisation: What sets weights from the first batch.
        levels: Numbers of latents at which the error is measured in evaluation.
        norm_tokens: Tokens after which the statistics stay as they are. None: never.
        seed: Of selections that draw.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from sparsek.nn import NestedTopK
        >>> task = SparseAutoencoderTask(SparseAutoencoder(8, 64, NestedTopK(4)), learning_rate=1e-3)
        >>> x = 5 + torch.randn(100, 8)
        >>> losses = task.losses(x, progress=0.0)
        >>> losses.loss.backward()
        >>> sae = task.exported()
        >>> torch.allclose(sae(x).reconstruction, task.eval()(x), atol=1e-5)
        True

    References:
        Gao et al., 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093
    """

    thresholds: Tensor
    threshold_l0s: Tensor

    def __init__(
        self,
        autoencoder: SparseAutoencoder,
        auxiliary: Callable[[int], AuxK] | None = AuxK,
        dead_fraction: float | None = 0.05,
        centre: bool = True,
        scale: bool = True,
        loss: ReconstructionLoss | None = None,
        learning_rate: float | None = None,
        selection_rate: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        schedule: WarmupDecay | None = None,
        gradient_clip: float | None = None,
        unit_norm: UnitNorm | None = UNIT_NORM,
        initialisation: Initialisation | None = None,
        levels: Sequence[int] = LEVELS,
        norm_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        rates = {
            "learning_rate": learning_rate,
            "selection_rate": selection_rate,
            "eps": eps,
            "gradient_clip": gradient_clip,
        }
        _check(rates, dead_fraction)
        self.save_hyperparameters(
            ignore=["autoencoder", "auxiliary", "loss", "schedule", "unit_norm", "initialisation"]
        )
        self.autoencoder = autoencoder
        self.auxiliary = None if auxiliary is None else auxiliary(autoencoder.d_sae)
        self.input_norm = RunningNorm(autoencoder.input_shape, centre=centre, scale=scale, tokens=norm_tokens)
        self.target_norm = (
            self.input_norm
            if autoencoder.centred
            else RunningNorm(autoencoder.output_shape, centre=centre, scale=scale, tokens=norm_tokens)
        )
        self.loss, self.schedule = loss or UnexplainedVariance(), schedule or WarmupDecay()
        self.learning_rate = 2e-4 / math.sqrt(autoencoder.d_sae / 2**14) if learning_rate is None else learning_rate
        self.selection_rate = self.learning_rate if selection_rate is None else selection_rate
        self.betas, self.eps, self.gradient_clip = tuple(betas), eps, gradient_clip
        self.unit_norm, self.initialisation = unit_norm, initialisation
        self.dead_fraction, self.seed = dead_fraction, seed
        self._window = None if self.auxiliary is None else self.auxiliary.window
        sizes = (autoencoder.output_shape.numel(), autoencoder.d_sae, levels)
        self.measures = nn.ModuleDict({stage: AutoencoderMeasures(*sizes) for stage in ("val", "test")})
        self.register_buffer("thresholds", torch.zeros(0))
        self.register_buffer("threshold_l0s", torch.zeros(0))

    @property
    def members(self) -> Mapping[str, SparseAutoencoderTask]:
        """This one."""
        return {"": self}

    def forward(self, input: Tensor) -> Tensor:
        """Reconstruct activations as they are, (..., *d_in) → (..., *d_out)."""
        shape = self.autoencoder.input_shape
        rows = input.reshape(-1, *shape).to(self._float)
        output = self.autoencoder(self.input_norm(rows).to(self.autoencoder.encoder_weight)).reconstruction
        batch = input.shape[: input.dim() - len(shape)]
        return self.target_norm.inverse(output.to(rows)).view(*batch, *self.autoencoder.output_shape)

    def exported(self) -> SparseAutoencoder:
        """A copy of the autoencoder that takes and gives activations as they are, in eval mode and in float32 at least.

        :mod:`sparsek.integrations` writes it to files.
        """
        return folded(self.autoencoder, self.input_norm, self.target_norm)

    def threshold(self, l0: float) -> float:
        """The calibrated threshold of the exported autoencoder at a mean number of active latents.

        Raises:
            ValueError: If that number was not calibrated.
        """
        known = self.threshold_l0s.tolist()
        if l0 not in known:
            raise ValueError(f"l0 must be one of the calibrated {known}, got {l0!r}")
        return float(self.thresholds[known.index(l0)])

    @torch.no_grad()
    def set_thresholds(self, l0s: Sequence[float], thresholds: Tensor) -> None:
        """Keep calibrated thresholds of the exported autoencoder, with the state."""
        self.threshold_l0s = torch.tensor(tuple(l0s), dtype=torch.float64, device=thresholds.device)
        self.thresholds = thresholds.detach().clone()

    def losses(self, batch: Any, progress: float = 1.0, generator: torch.Generator | None = None) -> AutoencoderLosses:
        """Return the losses of a batch; while training, count its tokens and active latents before.

        Args:
            batch: Activations, or a pair of input and target.
            progress: Part of the training that is over.
            generator: For selections that draw.
        """
        input, target = self.pair(batch)
        if self.training:
            self._count(input, target)
        normalised: Tensor = self.input_norm(input)
        x = normalised.to(self.autoencoder.encoder_weight)
        y = normalised if target is input and self.autoencoder.centred else self.target_norm(target)
        output = self.autoencoder(x, progress=progress, generator=generator)
        variance = spread(y.flatten(1), together=self.training)
        reconstruction = self.loss(output, y.flatten(1), variance, self.target_norm)
        aux = self._aux(x, output, y)
        terms = [term for term in (reconstruction, output.penalty, aux) if term is not None]
        return AutoencoderLosses(
            loss=torch.stack([term.to(reconstruction.dtype) for term in terms]).sum(),
            reconstruction=reconstruction,
            fvu=(output.reconstruction.detach() - y).square().sum() / variance,
            aux=aux,
            penalty=output.penalty,
            dead=None if self.auxiliary is None else self.auxiliary.dead.double().mean(),
            k=self.autoencoder.selection_parameters.get("k", None),
        )

    def pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Input and target of a batch, (rows, ...), in the dtype of the weights, float32 at least; one object where they are the same."""
        sae, (input, target) = self.autoencoder, activation_pair(batch)
        check_shape("input", input, sae.input_shape)
        check_shape("target", target, sae.output_shape)
        x = input.reshape(-1, *sae.input_shape).to(self._float)
        return x, x if target is input else target.reshape(-1, *sae.output_shape).to(self._float)

    @property
    def _float(self) -> torch.dtype:
        """Of losses and statistics."""
        return torch.promote_types(self.autoencoder.encoder_weight.dtype, torch.float32)

    def _count(self, input: Tensor, target: Tensor) -> None:
        first = self.initialisation is not None and not bool(self.input_norm.count)
        self.input_norm.update(input)
        if self.target_norm is not self.input_norm:
            self.target_norm.update(target)
        if first and self.initialisation is not None:
            source = torch.Generator(input.device).manual_seed(self.seed)  # the same in all processes
            self.initialisation(self.autoencoder, self.target_norm(target).flatten(1), source)

    def _aux(self, x: Tensor, output: SparseAutoencoderOutput, y: Tensor) -> Tensor | None:
        if self.auxiliary is None:
            return None
        if self.training:
            self.auxiliary.update(output.latents)
        loss: Tensor = self.auxiliary(self.autoencoder, x, output, y)
        return loss

    def measure(self, stage: str) -> AutoencoderMeasures:
        """What is measured on "val" or "test"."""
        return cast(AutoencoderMeasures, self.measures[stage])

    def resolve_window(self, tokens: float) -> None:
        """Set the window of the auxiliary loss, now that the number of tokens of the training is known."""
        if self.auxiliary is None or self._window is None or self.dead_fraction is None:
            return
        share = math.ceil(self.dead_fraction * tokens) if tokens < math.inf else self._window
        self.auxiliary.window = max(1, min(self._window, share))

    def generator(self, step: int, batch: int, rank: int) -> torch.Generator:
        """A source of randomness for one batch of one process."""
        place = torch.tensor([self.seed, step, batch, rank])
        mixed = int((place * torch.tensor([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F])).sum())
        return torch.Generator(self.autoencoder.encoder_weight.device).manual_seed(mixed & (2**63 - 1))

    def before_step(self) -> None:
        """Prepare the gradients."""
        if self.unit_norm is not None:
            self.unit_norm.before(self.autoencoder)
        if self.gradient_clip is not None:
            clip_grad_norm_(self.autoencoder.parameters(), self.gradient_clip)

    def after_step(self) -> None:
        """Restore what the step may have broken."""
        if self.unit_norm is not None:
            self.unit_norm.after(self.autoencoder)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights, and what the selection learns, with their learning rates."""
        learnt = list(self.autoencoder.selection_parameters.values())
        weights = [p for p in self.autoencoder.parameters() if all(p is not other for other in learnt)]
        common = {"betas": self.betas, "eps": self.eps}
        groups = [{"params": weights, "lr": self.learning_rate, **common}]
        return [*groups, {"params": learnt, "lr": self.selection_rate, **common}] if learnt else groups

    def factor(self, total: float) -> Callable[[int], float]:
        """The schedule over so many steps."""
        return lambda step: self.schedule(step, total)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("thresholds", "threshold_l0s"):
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None:
                setattr(self, name, torch.empty_like(saved, device=self.thresholds.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _check(rates: Mapping[str, float | None], dead_fraction: float | None) -> None:
    for name, value in rates.items():
        if value is not None:
            check_positive(name, value)
    if dead_fraction is not None and not 0 < dead_fraction <= 1:
        raise ValueError(f"dead_fraction must lie in (0, 1], got {dead_fraction!r}")
