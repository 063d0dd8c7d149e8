"""One training step of a peer's autoencoder, by its own code in its own environment, each time a line comes in; seconds go out.

Started by sae_step.py with `--peers`, in an environment that experiments/02_sae/peers.sh made; it imports nothing of this project.
Seconds are processor time of this process.
"""

import json
import os
import sys
import time

import torch


def saelens(d_in, d_sae, k, tokens):
    """SAELens: `SAETrainer.step` of its TopK autoencoder."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig  # noqa: PLC0415 - one of three environments
    from sae_lens.config import SAETrainerConfig  # noqa: PLC0415 - one of three environments
    from sae_lens.training.sae_trainer import SAETrainer  # noqa: PLC0415 - one of three environments

    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=len(tokens), lr=1e-4, lr_end=1e-4)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=k, d_in=d_in, d_sae=d_sae))
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return lambda: trainer.step(tokens)


def dictionary_learning(d_in, d_sae, k, tokens):
    """dictionary_learning: `TopKTrainer.update`."""
    from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: PLC0415 - one of three environments

    described = {"activation_dim": d_in, "dict_size": d_sae, "k": k, "steps": 10**6, "lr": 1e-4, "device": "cpu"}
    trainer = TopKTrainer(layer=1, lm_name="none", **described)
    return lambda: trainer.update(1, tokens)  # step 0 sets the bias


def sparsify(d_in, d_sae, k, tokens):
    """sparsify: its autoencoder and its Adam, in the order of its `Trainer.fit`, which trains inside of a language model alone."""
    from sparsify.config import SparseCoderConfig  # noqa: PLC0415 - one of three environments
    from sparsify.sparse_coder import SparseCoder  # noqa: PLC0415 - one of three environments

    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def step():
        sae.set_decoder_norm_to_unit_norm()
        sae(tokens).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


PEERS = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}


def main():
    """Serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    plan = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randn(plan["tokens"], plan["d_in"])
    step = PEERS[plan["package"]](plan["d_in"], plan["d_sae"], plan["k"], tokens)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        step()
        print(time.process_time() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()
