"""Train one autoencoder: a row of this package under Lightning, or a peer by its own trainer in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from plan import Run, instantiate, selection
from safetensors.torch import load_file, save_file

from sparsek.datamodules import ActivationDataModule
from sparsek.nn import SparseAutoencoder, TopK
from sparsek.tasks import SparseAutoencoderTask, WarmupDecay

WARM = 10
"""Steps that are not timed."""


class Trained(NamedTuple):
    """An autoencoder that takes tokens as they are, and the processor time of a step."""

    autoencoder: SparseAutoencoder
    step_ms: float


def train(run: Run, grid: Mapping[str, Any], data: ActivationDataModule, peers: Path, scratch: Path) -> Trained:
    """Train what a run says."""
    described = grid["rows"][run.row]
    return train_peer(run, grid, data, peers, scratch) if "peer" in described else train_own(run, grid, data)


class StepTimer(Callback):
    """Processor time of the training steps, without reading."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self.start = time.thread_time()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Stop it."""
        self.times.append(time.thread_time() - self.start)


def mean_ms(times: list[float]) -> float:
    """Milliseconds of a step, mean without the first ones."""
    kept = times[WARM:] or times
    return 1000 * sum(kept) / len(kept)


def train_own(run: Run, grid: Mapping[str, Any], data: ActivationDataModule) -> Trained:
    """Train under Lightning."""
    torch.manual_seed(run.seed)
    row = grid["rows"][run.row]
    chosen = selection(row, run.coefficient)
    options = {name: instantiate(value) for name, value in (grid.get("task", {}) | row.get("task", {})).items()}
    task = SparseAutoencoderTask(
        SparseAutoencoder(
            data.shape, run.d_sae or grid["d_sae"], chosen, refinement=instantiate(row.get("refinement"))
        ),
        learning_rate=run.learning_rate,
        schedule=WarmupDecay(grid["warmup"], grid["decay"]),
        seed=run.seed,
        **options,
    )
    timer = StepTimer()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=run.steps, limit_val_batches=0, callbacks=[timer], **quiet
    )
    trainer.fit(task, train_dataloaders=data.train_dataloader())
    return Trained(task.exported(), mean_ms(timer.times))


def train_peer(run: Run, grid: Mapping[str, Any], data: ActivationDataModule, peers: Path, scratch: Path) -> Trained:
    """Write the tokens in their order, let the peer train on them, read its weights."""
    described = grid["rows"][run.row]
    tokens = scratch / f"tokens-{run.part}-{run.seed}-{run.steps}.safetensors"
    if not tokens.is_file():
        for old in scratch.glob("tokens-*"):
            old.unlink()
        save_file({"tokens": ordered_tokens(data, run.steps)}, tokens)
    plan = {
        "package": described["peer"],
        "kind": described["kind"],
        "k": described.get("k", grid["k"]),
        "d_sae": run.d_sae or grid["d_sae"],
        "batch_size": grid["batch_size"],
        "steps": run.steps,
        "learning_rate": run.learning_rate,
        "warmup": round(grid["warmup"] * run.steps),
        "decay": round(grid["decay"] * run.steps),
        "seed": run.seed,
        "tokens": str(tokens.resolve()),
        "out": str((scratch / "peer.safetensors").resolve()),
    }
    python, script = peers / described["peer"] / "bin" / "python", Path(__file__).parent / "peer.py"
    clean = {name: word for name, word in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([python, "-W", "ignore", script, json.dumps(plan)], check=True, env=clean, cwd=scratch)
    return imported(load_file(plan["out"]), plan["k"])


def ordered_tokens(data: ActivationDataModule, steps: int) -> torch.Tensor:
    """(steps · batch, d), float16: what a training of so many steps sees."""
    batches: list[torch.Tensor] = []
    loader = data.train_dataloader()
    while len(batches) < steps:
        for batch in loader:
            batches.append(batch.input.half())
            if len(batches) == steps:
                break
    return torch.cat(batches)


def imported(weights: Mapping[str, torch.Tensor], k: int) -> Trained:
    """The peer's weights as an autoencoder of this package, decoder rows at norm 1."""
    d_sae, d_in = weights["decoder_weight"].shape
    sae = SparseAutoencoder(d_in, d_sae, TopK(k)).eval()
    norms = weights["decoder_weight"].norm(dim=1)
    with torch.no_grad():
        sae.encoder_weight.copy_(weights["encoder_weight"] * norms.unsqueeze(1))
        sae.encoder_bias.copy_(weights["encoder_bias"] * norms)
        sae.decoder_weight.copy_(weights["decoder_weight"] / norms.unsqueeze(1))
        sae.decoder_bias.copy_(weights["decoder_bias"])
    return Trained(sae, float(weights["step_ms"]))
