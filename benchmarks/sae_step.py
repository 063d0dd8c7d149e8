"""Time a training step of a sparse autoencoder against the same step in dense torch: `python benchmarks/sae_step.py`.

A step is forward, backward with fresh gradients, the removal of the decoder's parallel gradient, fused Adam and the normalisation of the
decoder, on 1024 tokens in float32, k = 32. The dense reference computes what TopK computes with dense latents and autograd: a
product for the pre-activations, `torch.topk`, a scatter, a product with the decoder, and their gradients. "encoder product" is that
product alone, `torch.nn.functional.linear`, forward: no step can be faster. Every ratio is to the dense reference in the same run;
on the CPU with one thread, processor time.

`--peers FOLDER` measures the established trainers in the same rounds, each by its own code in an environment that
`experiments/02_sae/peers.sh FOLDER` made: `SAETrainer.step` of SAELens, `TopKTrainer.update` of dictionary_learning, and the parts of
sparsify's training loop, on as many tokens. Then the fastest execution of ours alone is measured beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from command import arguments
from environment import pin, slug
from memory import peak_bytes
from peer_steps import Reported, peer_steps
from results import Row, write
from timing import Call, interleave, stopwatch_of
from torch import Tensor

from sparsek.kernels import Backend, available, use_backends
from sparsek.nn import AbsTopK, BatchTopK, LatentSelection, NestedTopK, RandomK, SparseAutoencoder, TopK

K, TOKENS = 32, 1024
SIZES = {24_576: 768, 3_072: 384}
LARGE = {65_536: 768}
"""d_sae to d_in; the large ones are measured where they are asked for."""
DENSE = "dense reference", "eager"
Key = tuple[str, str]


class DenseAutoencoder(SparseAutoencoder):
    """TopK by its definition, with dense latents."""

    def step(self, x: Tensor) -> Tensor:
        """Return the loss."""
        pre = F.linear(x - self.decoder_bias, self.encoder_weight, self.encoder_bias)
        values, indices = pre.topk(self.selection.k, dim=-1)
        latents = torch.zeros_like(pre).scatter(-1, indices, values.relu())
        error = latents @ self.decoder_weight + self.decoder_bias - x
        return error.square().sum() / (x - x.mean(0)).square().sum()


def step(sae: SparseAutoencoder, loss: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """Return a training step."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        sae.normalise_decoder()

    return run


def sparse_loss(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """Return the loss of the module."""
    return sae.loss(sae(x), x)


def width(d_sae: int) -> int:
    """Return the width of the tokens."""
    return (SIZES | LARGE).get(d_sae, 64)


def calls(d_sae: int, k: int, device: str, *, alone: bool = False) -> dict[Key, Call]:
    """Return the steps of one size; of ours in the fastest execution alone, or in all."""
    torch.manual_seed(0)
    d_in = width(d_sae)
    x = torch.randn(TOKENS, d_in, device=device)
    dense = DenseAutoencoder(d_in, d_sae, TopK(k)).to(device)
    runs = {DENSE: Call(step(dense, dense.step, x))}
    weight = dense.encoder_weight.detach()
    runs["encoder product", "eager"] = Call(lambda: F.linear(x, weight))
    selections: list[LatentSelection] = [
        TopK(k),
        NestedTopK(k, (k // 4, k, 4 * k)),
        RandomK(k),
        AbsTopK(k),
        BatchTopK(k),
    ]
    for selection in selections:
        for backend in executions(device)[-1:] if alone else executions(device):
            sae = SparseAutoencoder(d_in, d_sae, selection).to(device)
            context = nullcontext if device == "cuda" else partial(use_backends, backend)
            runs[type(selection).__name__, backend.value] = Call(step(sae, partial(sparse_loss, sae), x), context)
    return runs


def executions(device: str) -> list[Backend]:
    """Return the executions there are."""
    return [b for b in (Backend.EAGER, Backend.NATIVE) if b is Backend.EAGER or (device == "cpu" and available(b))]


def measure(
    sizes: list[int], k: int, device: str, budget: float, peers: Path | None = None, *, memory: bool = False
) -> Iterator[Row]:
    """Yield a row for each step; of our own with the most bytes alive at once, beyond weights and Adam's moments, if asked for."""
    clock = stopwatch_of(device) if peers is None else Reported()
    for d_sae in sizes:
        plan = {"d_in": width(d_sae), "d_sae": d_sae, "k": k, "tokens": TOKENS}
        own = calls(d_sae, k, device, alone=peers is not None)
        with peer_steps(peers, plan) as others:
            medians = interleave(own | others, clock, budget)
        peaks = {key: peak_bytes(call, device) for key, call in own.items()} if memory else {}
        reference = medians[DENSE].seconds
        for (operation, execution), median in medians.items():
            seconds = median.seconds
            yield Row(
                *(operation, execution, "step", TOKENS, d_sae, k, "float32", seconds, median.rounds),
                ratio=seconds / reference,
                peak_bytes=peaks.get((operation, execution)),
            )


def line(row: Row) -> str:
    """Return a row of the printed table."""
    faster = f"{1 / row.ratio:.2f}" if row.ratio else ""
    return f"| {row.operation} | {row.execution} | {row.n} | {1e3 * row.seconds:.1f} | {faster} |"


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--sizes", nargs="*", type=int, default=[*SIZES], help="d_sae; d_in is 768, of 3072 384, of others 64"
    )
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of a step too")
    parser.add_argument("--peers", type=Path, help="folder of the environments that experiments/02_sae/peers.sh made")
    chosen = parser.parse_args(argv)
    if chosen.peers is not None and chosen.device != "cpu":
        parser.error("--peers are measured on the CPU")
    if chosen.device == "cpu":
        pin()
    name = "sae_step" if chosen.peers is None else "sae_peers"
    path = Path(chosen.out) / f"{name}-{slug(chosen.device)}.csv"
    rows: list[Row] = []
    print("| step | execution | d_sae | ms | times faster than dense |\n|---|---|---|---|---|")
    for row in measure(chosen.sizes, chosen.k, chosen.device, chosen.budget, chosen.peers, memory=chosen.memory):
        rows.append(row)
        write(path, rows, chosen.device)
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
