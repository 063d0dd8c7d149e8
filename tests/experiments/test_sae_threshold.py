"""The study of calibrated thresholds: exact where it is calibrated, and off elsewhere by what the documents differ."""

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("sae")


def table(levels):
    """Groups of 1000 tokens whose activations are spread evenly in log space; `levels` is how many a token has."""
    from threshold import EDGES  # noqa: PLC0415 - from the folder of the experiment

    falling = torch.linspace(1, 0, len(EDGES), dtype=torch.float64)
    return torch.stack([1000 * level * falling for level in levels]), torch.full((len(levels),), 1000.0).double()


def test_it_is_exact_on_what_it_was_calibrated_on_and_off_by_the_difference_elsewhere():
    from threshold import errors  # noqa: PLC0415 - from the folder of the experiment

    above, tokens = table([100.0, 100.0, 150.0, 150.0])
    calibrated = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    expected = [(1 + 1.5 + 1.5) / 3 - 1, 1 / 1.5 - 1, 0.5, 0.0]
    torch.testing.assert_close(errors(above, tokens, calibrated, 32), torch.tensor(expected, dtype=torch.float64))


def test_more_documents_bring_the_error_down_as_one_over_their_root():
    from threshold import study  # noqa: PLC0415 - from the folder of the experiment

    generator = torch.Generator().manual_seed(0)
    levels = 100 + 10 * torch.randn(500, generator=generator)
    above, tokens = table(levels.tolist())
    halves = torch.stack([above, above], 1) / 2
    found = study(halves, torch.stack([tokens, tokens], 1) / 2, 32)
    few, many = found["10 documents"]["l0_error_mean"], found["160 documents"]["l0_error_mean"]
    expected = 100 * 0.1 * (2 / torch.pi) ** 0.5 / 10**0.5  # mean size of a normal mean of 10
    assert few == pytest.approx(expected, rel=4 * 0.756 / 400**0.5)  # z = 4; sd of a half-normal is 0.756 of its mean
    assert few / many == pytest.approx(((1 / 10 + 1 / 490) / (1 / 160 + 1 / 340)) ** 0.5, rel=0.25)
    (within,) = (value for name, value in found.items() if name.startswith("half"))
    assert within["l0_error_95"] < 1e-6


def test_histograms_count_what_is_above_each_edge(tmp_path):
    from threshold import EDGES, histograms  # noqa: PLC0415 - from the folder of the experiment

    from sparsek.datamodules._activation_shards import open_store  # noqa: PLC0415 - with it
    from sparsek.nn import SparseAutoencoder, TopK  # noqa: PLC0415 - with it

    torch.manual_seed(0)
    tokens = torch.randn(90, 6)
    save_file({"activations": tokens}, tmp_path / "0.safetensors")
    sae = SparseAutoencoder(6, 20, TopK(3))
    group = torch.arange(90) % 4
    above = histograms(open_store(tmp_path), sae, torch.arange(90), group, scale=2.0)
    scores = sae.scores(tokens).dense().detach().double()
    for edge in (0, 3000, 4200):
        for number in range(4):
            assert above[number, edge] == (scores[group == number] > 2.0 * EDGES[edge]).sum()
