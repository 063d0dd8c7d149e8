"""A causal model's residual stream: what does the model still predict when a dictionary stands in the place of a layer?

Twice: before run.py it extracts layer 15 of SmolLM2 on 3 % of the documents and masks attention sinks (tokens with a norm above ten
medians: the first of every sequence, above all); after run.py it measures the cross-entropy and the divergence that each trained
dictionary recovers, on test documents, against the layer replaced by its mean (the first token of a sequence stays).

python experiments/02_sae/causal.py --activations ACTIVATIONS --model FOLDER --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf
python experiments/02_sae/run.py --activations ACTIVATIONS --peers PEERS --length causal --seeds 1 --rows "nested top-k" "top-k"
python experiments/02_sae/causal.py --activations ACTIVATIONS --model FOLDER --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import models
import torch
import yaml
from extract import extract
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sparsek.datamodules._activation_manifest import shard_name, write_atomically
from sparsek.datamodules._activation_model import model_folder
from sparsek.datamodules._activation_shards import ActivationStore, open_store
from sparsek.datamodules._corpus import split_of
from sparsek.metrics import CrossEntropyRecovered, KLRecovered
from sparsek.nn.sparse_autoencoder import splice_tokens
from sparsek.nn.sparse_autoencoder._splice import Replacement

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
LENGTH, SINK, BATCH = 128, 10.0, 8


def mask_sinks(folder: Path, shards: int) -> None:
    """Take tokens of outlying norm out of the mask of every shard."""
    for index in range(shards):
        path = folder / shard_name(index)
        tensors = load_file(path)
        norms = tensors["activations"].float().norm(dim=1)
        tensors["mask"] &= norms <= SINK * norms.median()
        write_atomically(path, partial(save_file, tensors))


def tested_sequences(store: ActivationStore, length: int, count: int) -> Tensor:
    """(count, length): whole sequences of the test documents, as the model ran them, evenly spread over all of them."""
    document, token = store.column("document"), store.column("token")
    assert document is not None
    assert token is not None
    assert store.manifest is not None
    found = []
    for number, name in enumerate(store.manifest.documents):
        if split_of(name, 0.1, 0.1) == "test":
            ids = token[document == number].long()
            found.append(ids[: len(ids) // length * length].view(-1, length))
    every = torch.cat(found)
    return every[torch.arange(min(count, len(every))) * len(every) // min(count, len(every))]


def mean_of(store: ActivationStore) -> Tensor:
    """(d,): of the tokens that are kept."""
    mask = store.column("mask")
    kept = torch.arange(store.rows) if mask is None else mask.nonzero().squeeze(-1)
    return torch.stack([store.gather(rows).double().sum(0) for rows in kept.split(8192)]).sum(0).float() / len(kept)


def recovered(
    model: nn.Module, layer: nn.Module, replacement: Replacement, sequences: Tensor, mean: Tensor
) -> dict[str, float]:
    """Shares of cross-entropy and of Kullback-Leibler divergence that the replacement of a layer recovers, and nats per token."""
    cross_entropy, divergence = CrossEntropyRecovered(), KLRecovered()
    for ids in sequences.split(BATCH):
        tokens = splice_tokens(model, layer, replacement, ids, ablation=mean, first=1)
        cross_entropy.update(*tokens)
        divergence.update(*tokens)
    nats = {f"cross_entropy_{name}": float(value) for name, value in cross_entropy.means._asdict().items()}
    shares = {"cross_entropy_recovered": cross_entropy.compute(), "kl_recovered": divergence.compute()}
    return {name: float(value) for name, value in shares.items()} | nats


def main() -> None:
    """Extract, or measure what has been trained and add it to causal.csv."""
    parser = argparse.ArgumentParser(description="cross-entropy recovered in a causal model")
    parser.add_argument("--activations", type=Path, required=True)
    parser.add_argument("--model", required=True, help="folder or package of a causal model of transformers")
    parser.add_argument("--gguf-file", help="name of the weights, if they are in this format")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=64, help="of 128 tokens, to measure on")
    parser.add_argument("--results", type=Path, default=HERE / "causal.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.activations / "causal"
    manifest = extract(arguments.activations, "causal", arguments.model, arguments.layer, arguments.gguf_file)
    mask_sinks(folder, len(manifest.rows))
    store, grid = open_store(folder), yaml.safe_load((HERE / "grid.yaml").read_text())
    options = {"gguf_file": arguments.gguf_file} if arguments.gguf_file else {}
    source = model_folder(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True, **options).eval()
    sequences, mean = tested_sequences(store, LENGTH, arguments.sequences), mean_of(store)
    done = {(line["row"], line["seed"], line["config"]) for line in results_file.read(arguments.results)}
    for run, sae in models.trained(grid, results_file.read(HERE / "results.csv"), "causal", arguments.activations):
        if (run.row, str(run.seed), run.config) not in done:
            found = recovered(model, model.model.layers[arguments.layer - 1], sae, sequences, mean)
            results_file.append(arguments.results, results_file.lines(run.row, run.seed, found, run.steps, run.config))
            print(run.row, run.seed, ", ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
