"""Mean squared error of the router's gradient against the enumerated truth, by the number of tokens per gradient.

python experiments/01_routers/gradient_error.py --corpora FOLDER      # gradient_error.csv and .png; about two minutes
python experiments/01_routers/gradient_error.py                       # the figure, and the table of README.md, from the CSV
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from matplotlib.figure import Figure
from plan import LEARNING_RATE, Run
from torch import Tensor

from sparsek.cli import run
from sparsek.nn import (
    DenseStraightThrough,
    DoublyRobust,
    Gradient,
    HardTopK,
    HorvitzThompson,
    MixtureOfExperts,
    MoETransformer,
    Router,
    Sampled,
    SecondOrder,
    Selection,
    TopKOnly,
)
from sparsek.sampling import ConditionalPoisson

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file
from run import quiet, sources

HERE = Path(__file__).parent
DRAWS, TOKENS = 24, 2048
DRAWN = Sampled(ConditionalPoisson())
ESTIMATORS: dict[str, tuple[Selection, Gradient]] = {
    "hard top-k, its own gradient": (HardTopK(), TopKOnly()),
    "hard top-k, dense backward": (HardTopK(), DenseStraightThrough()),
    "drawn, chosen only (straight-through)": (DRAWN, TopKOnly()),
    "drawn, dense backward (straight-through)": (DRAWN, DenseStraightThrough()),
    "drawn, Horvitz-Thompson": (DRAWN, HorvitzThompson()),
    "drawn, doubly robust": (DRAWN, DoublyRobust()),
    "drawn, second order": (DRAWN, SecondOrder()),
}
TOP_K = ("drawn, chosen only (straight-through)", "hard top-k, its own gradient")


class Site(NamedTuple):
    """The last mixture of a network on some tokens, in float64: whose loss depends on no other token's experts."""

    network: MoETransformer
    mixture: MixtureOfExperts
    stream: Tensor
    """(T, d_model): what the mixture's output is added to."""
    tokens: Tensor
    """(T, d_model): what the mixture sees."""
    targets: Tensor
    """(T,): the next bytes."""

    def nats(self, output: Tensor) -> Tensor:
        """Cross-entropy of every token from the mixture's output."""
        scores = self.network.head(self.network.norm(self.stream + output))
        return torch.nn.functional.cross_entropy(scores, self.targets, reduction="none")


class Error(NamedTuple):
    """The error of one estimator, both numbers over the squared norm of the truth."""

    bias: float
    """Squared norm of the bias."""
    variance: float
    """Total variance of the gradient of one token, of the token and the draw."""

    def at(self, tokens: float) -> float:
        """Mean squared error of a gradient over so many independent tokens."""
        return self.bias + self.variance / tokens


@torch.no_grad()
def site(network: MoETransformer, batch: Tensor) -> Site:
    """Run the network up to its last mixture."""
    network = network.double().eval()
    kept: list[tuple[Tensor, Tensor]] = []
    block = network.blocks[-1]
    hook = block.mixture_norm.register_forward_hook(lambda _, given, result: kept.append((given[0], result)))
    network(batch[:, :-1])
    hook.remove()
    ((stream, tokens),) = kept
    places = torch.randperm(stream[..., 0].numel(), generator=torch.Generator().manual_seed(0))[:TOKENS]
    flat = (stream.flatten(0, 1)[places], tokens.flatten(0, 1)[places], batch[:, 1:].flatten()[places])
    return Site(network, block.mixture, *flat)


def truth(at: Site) -> Tensor:
    r"""(T, experts): $\partial\, E_S[\text{loss}]$ to the logits of every token, over all subsets of k experts."""
    router, experts = at.mixture.router, at.mixture.experts
    size = len(at.tokens)
    outputs = [
        experts(at.tokens, torch.eye(router.num_experts, dtype=torch.long)[e] * size) for e in range(router.num_experts)
    ]
    logits = (at.tokens @ router.weight.T).detach().requires_grad_()
    marginals = router.gate.marginals(logits + router.bias, router.k)
    total = logits.new_zeros(())
    for subset in itertools.combinations(range(router.num_experts), router.k):
        taken = torch.zeros_like(marginals).index_fill(-1, torch.tensor(subset), 1.0)
        chance = DRAWN.design.log_prob(marginals, taken.bool(), k=router.k).exp()
        total = total + (chance * at.nats(sum(outputs[e] for e in subset)).detach()).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def estimates(at: Site, selection: Selection, gradient: Gradient) -> Iterator[Tensor]:
    """(T, experts) to the logits of every token, by a router of these parts, draw after draw."""
    known = at.mixture.router
    router = Router(
        known.d_model, known.num_experts, known.k, gate=known.gate, selection=selection, gradient=gradient
    ).double()
    router.load_state_dict(known.state_dict(), strict=False)
    mixture = MixtureOfExperts(known.d_model, at.mixture.experts.up.shape[-1], known.num_experts, router).double()
    mixture.experts = at.mixture.experts
    _know_means(mixture, at.tokens)
    for _ in range(DRAWS):
        output, routing = mixture(at.tokens)
        (found,) = torch.autograd.grad(at.nats(output).sum(), routing.logits)
        yield found


def _know_means(mixture: MixtureOfExperts, tokens: Tensor) -> None:
    """Let a router that keeps mean outputs have them from some passes, as in training."""
    router = mixture.router
    if router.output_mean is not None:
        for _ in range(10):
            router.observe(mixture(tokens).routing)
            router.step()


def error(at: Site, expected: Tensor, found: Sequence[Tensor]) -> Error:
    """Bias and variance of the gradient to the router's weights, the outer product with the tokens."""
    draws = len(found)
    norm = (expected.T @ at.tokens / len(at.tokens)).square().sum()
    biases = torch.stack([(each - expected).T @ at.tokens / len(at.tokens) for each in found])
    bias = (biases.sum(0).square().sum() - biases.square().sum()) / (draws * (draws - 1))  # unbiased for its square
    mean = torch.stack([each.T @ at.tokens / len(at.tokens) for each in found]).mean(0)
    square = at.tokens.square().sum(-1)
    second = torch.stack([(each.square().sum(-1) * square).mean() for each in found]).mean()
    return Error(float(bias / norm), float((second - mean.square().sum()) / norm))


def measure(grid: Mapping[str, object], corpora: Path, steps: int, seed: int) -> Iterator[tuple[str, Error]]:
    """Train a network of drawn experts so many steps, and measure every estimator on its last router."""
    rate = f" {LEARNING_RATE}=1e-12" if steps == 0 else ""  # a trainer takes one step at least
    todo = Run("", seed, max(steps, 1), "val", f"{grid['base']} configs/selector/sampled.yaml{rate}")
    words = ["fit", *todo.words(), f"--data.init_args.sources={sources(grid, corpora)}"]
    words += [f"--seed_everything={seed}", f"--data.init_args.seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:  # nothing that a run writes is wanted
        cli = run([*words, f"--trainer.default_root_dir={folder}"])
    batches = itertools.islice(cli.datamodule.val_dataloader(), 60)
    at = site(cli.model.network, torch.cat([batch.tokens for batch in batches if batch.mask.all()]))
    expected = truth(at)
    for name, (selection, gradient) in ESTIMATORS.items():
        yield name, error(at, expected, list(estimates(at, selection, gradient)))


def read(path: Path) -> dict[str, dict[str, Error]]:
    """By the network's number of steps and estimator: the means over seeds."""
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in results_file.read(path):
        values[line["step"]][line["row"]][line["metric"]].append(float(line["value"]))
    return {
        step: {
            row: Error(statistics.fmean(found["bias_squared"]), statistics.fmean(found["variance"]))
            for row, found in rows.items()
        }
        for step, rows in values.items()
    }


def crossing(error: Error, other: Error) -> str:
    """The numbers of tokens at which `error` is below `other`."""
    if error.bias < other.bias:
        return f"{max((error.variance - other.variance) / (other.bias - error.bias), 1):.0f}"
    return (
        f"below {(other.variance - error.variance) / (error.bias - other.bias):.0f}"
        if error.variance < other.variance
        else "never"
    )


def table(errors: Mapping[str, Mapping[str, Error]]) -> str:
    """Markdown, one line per estimator and number of steps; the last columns: from how many tokens on it beats these."""
    head = ["steps", "gradient", "squared bias", "variance of a token", *(f"beats “{name}” from" for name in TOP_K)]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for step, rows in errors.items():
        for name, found in rows.items():
            starts = ["–" if name == other else crossing(found, rows[other]) for other in TOP_K]
            cells = [step, name, f"{found.bias:.3f}", f"{found.variance:.0f}", *starts]
            out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def draw(errors: Mapping[str, Mapping[str, Error]], path: Path) -> None:
    """Relative mean squared error against tokens per gradient, one panel per number of steps."""
    figure = Figure(figsize=(6 * len(errors), 4.5), layout="constrained")
    numbers = [2**i for i in range(4, 21)]
    for axes, (step, rows) in zip(figure.subplots(1, len(errors), squeeze=False)[0], errors.items(), strict=True):
        for name, found in rows.items():
            axes.loglog(numbers, [found.at(number) for number in numbers], label=name)
        axes.set(
            title=f"after {step} steps",
            xlabel="tokens per gradient",
            ylabel="squared error / squared norm of the truth",
        )
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measure if there is text, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, help="folder with the text that grid.yaml names")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "gradient_error.csv")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]
    if arguments.corpora is not None:
        quiet()
        grid = yaml.safe_load(arguments.grid.read_text())
        for steps, seed in itertools.product(arguments.steps, arguments.seeds):
            for name, found in measure(grid, arguments.corpora, steps, seed):
                values = {"bias_squared": found.bias, "variance": found.variance}
                results_file.append(arguments.results, results_file.lines(name, seed, values, steps, str(grid["base"])))
    errors = read(arguments.results)
    draw(errors, arguments.results.with_suffix(".png"))
    print(table(errors))
    if arguments.results == HERE / "gradient_error.csv":
        results_file.write_into(HERE / "README.md", "table of gradient_error.py", table(errors))


if __name__ == "__main__":
    main()
