import itertools
import runpy
import sys
from pathlib import Path

import pytest
import torch

from sparsek.nn import MoETransformer, Router
from sparsek.sampling import ConditionalPoisson

FOLDER = Path(__file__).parents[2] / "experiments" / "01_routers"

# Lightning 2.6 calls torch and jsonargparse by names that torch 2.13 and jsonargparse 4.53 are about to drop
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.usefixtures("routers"),
]


@pytest.fixture
def at():
    from gradient_error import site  # noqa: PLC0415 - from the folder of the experiment

    torch.manual_seed(0)
    network = MoETransformer(16, 2, 2, 8, 4, lambda d, e: Router(d, e, 2))
    torch.nn.init.normal_(network.head.weight)
    network.routers[-1].bias.copy_(torch.tensor([0.3, -0.1, 0.1, -0.3]))
    return site(network, torch.randint(0, 256, (2, 9)))


def expected_loss(at, weight):
    """The mean loss over all draws, a token at a time."""
    mixture, total = at.mixture, 0.0
    logits = at.tokens @ weight.T + mixture.router.bias
    for t, token in enumerate(at.tokens):
        marginals = mixture.router.gate.marginals(logits[t], 2)
        for subset in itertools.combinations(range(4), 2):
            taken = torch.zeros(4, dtype=torch.bool)
            taken[list(subset)] = True
            output = sum(
                mixture.experts.activation(token @ mixture.experts.up[e]) @ mixture.experts.down[e] for e in subset
            )
            scores = at.network.head(at.network.norm(at.stream[t] + output))
            loss = -scores.log_softmax(-1)[at.targets[t]]
            total += ConditionalPoisson().log_prob(marginals, taken, k=2).exp() * loss
    return total / len(at.tokens)


@torch.no_grad()
def test_the_truth_is_the_derivative_of_the_expected_loss(at):
    from gradient_error import truth  # noqa: PLC0415 - from the folder of the experiment

    with torch.enable_grad():
        gradient = truth(at).T @ at.tokens / len(at.tokens)
    weight, step = at.mixture.router.weight, 1e-4
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = [expected_loss(at, weight + side * step * direction) for side in (1, -1)]
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_unbiased_and_biased_estimators_are_told_apart(at):
    from gradient_error import DRAWS, error, truth  # noqa: PLC0415 - from the folder of the experiment

    expected = truth(at)
    generator = torch.Generator().manual_seed(2)
    noise = [0.1 * torch.randn(expected.shape, generator=generator, dtype=torch.float64) for _ in range(DRAWS)]
    norm = (expected.T @ at.tokens / len(at.tokens)).square().sum()
    unbiased = error(at, expected, [expected + each for each in noise])
    biased = error(at, expected, [1.5 * expected + each for each in noise])
    # the mean of DRAWS × T independent terms: five of its standard deviations
    spread = 0.01 * at.tokens.square().sum() * expected.shape[1] / len(at.tokens) ** 2 / norm
    assert abs(unbiased.bias) < 5 * spread / DRAWS
    assert biased.bias == pytest.approx(0.25, abs=5 * float(spread / DRAWS) ** 0.5)
    assert unbiased.at(10) == pytest.approx(unbiased.bias + unbiased.variance / 10)


def test_the_number_of_tokens_from_which_one_gradient_beats_another():
    from gradient_error import Error, crossing  # noqa: PLC0415 - from the folder of the experiment

    assert crossing(Error(0.0, 300.0), Error(1.0, 100.0)) == "200"
    assert crossing(Error(1.0, 100.0), Error(0.0, 300.0)) == "below 200"
    assert crossing(Error(1.0, 300.0), Error(0.0, 100.0)) == "never"
    assert crossing(Error(0.0, 100.0), Error(1.0, 300.0)) == "1"


def test_the_script_measures_every_estimator_and_draws_the_curves(tiny_grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = tiny_grid["base"]
    (tmp_path / "grid.yaml").write_text(
        (tmp_path / "grid.yaml").read_text().replace(base, f"{base} {tmp_path}/tiny.yaml")
    )
    given = ["--corpora", str(tmp_path), "--grid", str(tmp_path / "grid.yaml"), "--results", str(tmp_path / "out.csv")]
    monkeypatch.setattr(sys, "argv", ["gradient_error.py", *given, "--steps", "0", "2", "--seeds", "0"])
    runpy.run_path(str(FOLDER / "gradient_error.py"), run_name="__main__")
    printed = capsys.readouterr().out
    from gradient_error import ESTIMATORS, read  # noqa: PLC0415 - from the folder of the experiment

    errors = read(tmp_path / "out.csv")
    assert list(errors) == ["0", "2"]
    for step, rows in errors.items():
        assert list(rows) == list(ESTIMATORS)
        assert all(f"| {step} | {name} |" in printed for name in rows)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
