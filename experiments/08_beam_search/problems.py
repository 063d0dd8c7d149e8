"""What is sampled from: small tables whose sequences can all be listed, and the language model of the project on test text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsek.cli import run as run_command
from sparsek.datamodules import TextDataModule
from sparsek.nn import MoETransformer, Router
from sparsek.search import NextToken, SampledBeam

ROOT = Path(__file__).parents[2]


@dataclass
class Problem:
    """A model with prompts, and the numbers whose expectation is estimated."""

    model: Callable[[Tensor], Tensor]
    """From prefixes (N, T) to logits (N, V)."""
    prompts: Tensor
    """(P, T)."""
    max_length: int
    eos: int
    targets: Sequence[Counter[tuple[int, ...]]]
    """For each prompt, 1-grams and 2-grams of the sequence that scores are measured against."""

    def values(self, beam: SampledBeam, temperature: float) -> dict[str, Tensor]:
        """For each quantity and way to write it, its value at every sequence, (P, k) in float64."""
        laws = self.laws(beam, temperature)
        inside = torch.arange(beam.tokens.shape[-1]) < beam.lengths.unsqueeze(-1)
        conditional = -(laws.exp() * laws.clamp(min=-1e4)).sum(-1)
        log_probs = laws.gather(-1, beam.tokens.unsqueeze(-1)).squeeze(-1)
        return {
            "entropy, -log p": -(log_probs * inside).sum(-1),
            "entropy, of each token": (conditional * inside).sum(-1),
            "score": self.scores(beam),
        }

    def laws(self, beam: SampledBeam, temperature: float) -> Tensor:
        """Log-probabilities of the token at every position, (P, k, L, V)."""
        repeated = self.prompts.unsqueeze(1).expand(-1, beam.tokens.shape[1], -1)
        whole = torch.cat((repeated, beam.tokens), -1).flatten(0, 1)
        laws = [self.model(whole[:, : self.prompts.shape[1] + t]) for t in range(beam.tokens.shape[-1])]
        logits = torch.stack(laws, 1).double() / temperature
        return logits.log_softmax(-1).view(*beam.tokens.shape, -1)

    def scores(self, beam: SampledBeam) -> Tensor:
        """Clipped precision of 1-grams and 2-grams against the target, in geometric mean with one count added: as BLEU."""
        found = [
            [bleu(tokens[:length], self.targets[row]) for tokens, length in zip(*pair, strict=True)]
            for row, pair in enumerate(zip(beam.tokens.tolist(), beam.lengths.tolist(), strict=True))
        ]
        return torch.tensor(found, dtype=torch.float64)


def grams(tokens: Sequence[int]) -> Counter[tuple[int, ...]]:
    """1-grams and 2-grams with their counts."""
    return Counter([(token,) for token in tokens] + [*pairwise(tokens)])


def bleu(tokens: Sequence[int], target: Counter[tuple[int, ...]]) -> float:
    """The score of one sequence, in (0, 1]."""
    own, product = grams(tokens), 1.0
    for n in (1, 2):
        counts = {gram: count for gram, count in own.items() if len(gram) == n}
        matched = sum(min(count, target[gram]) for gram, count in counts.items())
        product *= (matched + 1) / (sum(counts.values()) + 1)
    return product**0.5


def table(described: Mapping[str, Any], seed: int) -> Problem:
    """Logits by the last two tokens, drawn from a normal law."""
    vocabulary = described["vocabulary"]
    generator = torch.Generator().manual_seed(seed)
    logits = described["scale"] * torch.randn((vocabulary,) * 3, generator=generator, dtype=torch.float64)
    target = torch.randint(vocabulary - 1, (described["length"],), generator=generator).tolist()

    def model(tokens: Tensor) -> Tensor:
        return logits[tokens[:, -2], tokens[:, -1]]

    return Problem(model, torch.zeros(1, 2, dtype=torch.long), described["length"], vocabulary - 1, [grams(target)])


class Remembered:
    """A network that is asked once about every prefix: draws of one prompt share many, and so do rows and temperatures."""

    def __init__(self, network: MoETransformer, batch: int = 512) -> None:
        self.model, self.batch = NextToken(network), batch
        self.numbers: dict[bytes, int] = {}
        self.logits: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits (N, V)."""
        keys = [row.tobytes() for row in tokens.to(torch.uint8).numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self.numbers}
        if new:
            answers = [self.model(rows) for rows in tokens[[*new.values()]].split(self.batch)]
            self.numbers.update((key, len(self.logits) + i) for i, key in enumerate(new))
            self.logits.extend(torch.cat(answers))
        return torch.stack([self.logits[self.numbers[key]] for key in keys])


def text(described: Mapping[str, Any], seed: int) -> Problem:
    """The language model after lines of test text that are cut in the middle."""
    length, ahead, number = described["prompt"], described["length"], described["prompts"]
    stream = torch.cat(TextDataModule().corpus.streams["test"]).long()
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - length - ahead, (number,), generator=generator)
    prompts = torch.stack([stream[start : start + length] for start in starts])
    targets = [grams(stream[start + length : start + length + ahead].tolist()) for start in starts]
    return Problem(Remembered(network(described["seed"])), prompts, ahead, ord("\n"), targets)


def network(seed: int, folder: str = "text") -> MoETransformer:
    """The language model of a seed in eval mode, trained by the command line if it is not there yet."""
    version = ROOT / "runs" / folder / f"seed{seed}"
    words = ["-c", str(ROOT / "configs/moe/text.yaml"), "-c", str(Path(__file__).parent / "model.yaml")]
    words += [f"--seed_everything={seed}", f"--data.init_args.seed={seed}", f"--trainer.logger.init_args.name={folder}"]
    words += [f"--trainer.logger.init_args.version=seed{seed}", "--trainer.enable_progress_bar=false"]
    if not list(version.glob("checkpoints/*.ckpt")):
        run_command(["fit", *words])
    (checkpoint,) = version.glob("checkpoints/*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return load(state)


def load(state: Mapping[str, Tensor]) -> MoETransformer:
    """The network of model.yaml with the weights of a checkpoint, in eval mode."""
    model = MoETransformer(num_heads=8, d_hidden=512, num_experts=1, router=lambda d, n: Router(d, n, k=1))
    own = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    model.load_state_dict(own)
    return model.eval()
