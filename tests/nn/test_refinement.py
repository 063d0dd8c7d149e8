"""Autoencoders that refine the values of active latents on the token."""

import pytest
import torch
import torch.nn.functional as F

from sparsek.functional import sparse_refine
from sparsek.integrations import dictionary_learning, folder, saelens
from sparsek.nn import (
    AbsTopK,
    BatchTopK,
    JumpReLU,
    NestedTopK,
    Refinement,
    RelaxedTopK,
    ReLUL1,
    SparseAutoencoder,
    Threshold,
    TopK,
)
from sparsek.tasks import SparseAutoencoderTask

D, N, K = 7, 40, 4
LEVELS = (2, 4, 9)
SELECTIONS = [
    TopK(K),
    AbsTopK(K),
    NestedTopK(K, levels=LEVELS),
    BatchTopK(K),
    Threshold(0.4),
    ReLUL1(0.1),
    JumpReLU(0.1, bandwidth=0.5, initial=0.3),
    RelaxedTopK(K),
]


def autoencoder(selection, refinement=None, dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    sae = SparseAutoencoder(sizes.pop("d_in", D), N, selection, refinement=refinement, **sizes).to(dtype)
    with torch.no_grad():
        sae.decoder_bias.normal_(std=0.1)
        sae.encoder_bias.normal_(std=0.1)
    return sae


def tokens(rows=12, d=D, dtype=torch.float64):
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(1), dtype=dtype)


def dense(latents):
    """Codes as (..., N)."""
    if isinstance(latents, torch.Tensor):
        return latents
    zeros = latents.values.new_zeros(*latents.values.shape[:-1], N)
    return zeros.scatter_add(-1, latents.indices, latents.values)


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_active_latents_are_refined_and_their_reconstruction_counts(selection):
    x, plain, sae = tokens(), autoencoder(selection).eval(), autoencoder(selection, Refinement(steps=2)).eval()
    before = dense(plain.encode(x))
    every = torch.arange(N).expand_as(before)
    expected = sparse_refine(x, before, every, sae.decoder_weight, sae.decoder_bias, steps=2)
    torch.testing.assert_close(dense(sae.encode(x)), expected)
    output = sae(x)
    torch.testing.assert_close(dense(output.latents), expected)
    torch.testing.assert_close(output.reconstruction, expected @ sae.decoder_weight + sae.decoder_bias)
    assert bool(((x - output.reconstruction).norm(dim=-1) <= (x - plain(x).reconstruction).norm(dim=-1) + 1e-12).all())
    torch.testing.assert_close(dense(sae.encode(x, refine=0)), before)
    torch.testing.assert_close(dense(plain.encode(x, refine=2)), expected)


def test_each_level_is_refined_by_itself():
    x, sae = tokens(), autoencoder(NestedTopK(K, levels=LEVELS), Refinement(share=0.25))
    output = sae(x)
    plain = autoencoder(NestedTopK(K, levels=LEVELS))(x)
    torch.testing.assert_close(output.reconstructions[:, :3], plain.reconstructions)
    for place, level in enumerate(LEVELS):
        torch.testing.assert_close(output.reconstructions[:, 3 + place], sae.decode(sae.encode(x, k=level)))
    torch.testing.assert_close(output.reconstruction, output.reconstructions[:, 4])
    torch.testing.assert_close(sae.decode(output.latents), output.reconstruction)
    share = torch.tensor([0.25, 0.25, 0.25, 0.25 / 3, 0.25 / 3, 0.25 / 3], dtype=x.dtype)
    torch.testing.assert_close(output.weights, share)


@pytest.mark.parametrize("refine", [0, 1, 3])
def test_every_k_is_reconstructed_from_one_code(refine):
    x, sae = tokens().view(3, 4, D), autoencoder(TopK(K), Refinement())
    parts = sae.reconstruct(x, (0, 1, 5, 20), refine=refine)
    assert parts.shape == (3, 4, 4, D)
    for place, k in enumerate((0, 1, 5, 20)):
        torch.testing.assert_close(parts[..., place, :], sae.decode(sae.encode(x, k=k, refine=refine)))


def test_the_gradient_takes_the_change_of_the_values_as_constant():
    x, sae = tokens(), autoencoder(TopK(K), Refinement(share=1.0))
    target = torch.randn(12, D, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    parameters = [sae.encoder_weight, sae.encoder_bias, sae.decoder_weight, sae.decoder_bias]
    actual = torch.autograd.grad((sae(x).reconstruction - target).square().sum(), parameters)
    pre = F.linear(x - sae.decoder_bias, sae.encoder_weight, sae.encoder_bias)
    before = pre.relu() * torch.zeros_like(pre).scatter(-1, pre.topk(K).indices, 1)
    with torch.no_grad():
        change = dense(sae.encode(x)) - before
    alive = (before + change) != 0
    output = (before + change) * alive @ sae.decoder_weight + sae.decoder_bias
    expected = torch.autograd.grad((output - target).square().sum(), parameters)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_width_prefixes_have_the_refined_values():
    x, sae = tokens(), autoencoder(TopK(K), Refinement(), prefixes=(10, 20))
    output = sae(x)
    assert output.reconstructions.shape == (12, 4, D)
    first = dense(output.latents)[:, :10] @ sae.decoder_weight[:10] + sae.decoder_bias
    torch.testing.assert_close(output.reconstructions[:, 2], first)
    assert float(output.weights.sum()) == pytest.approx(1.0)


def test_a_threshold_is_for_the_values_before():
    x, sae = tokens(), autoencoder(TopK(K), Refinement())
    active = dense(sae.encode(x, threshold=0.3, refine=0)) != 0
    assert bool(((dense(sae.encode(x, threshold=0.3)) != 0) <= active).all())


def test_training_leaves_less_than_without():
    """Errors of refined values; and the encoder learns by its share of the loss, without which values as they are serve less."""
    generator = torch.Generator().manual_seed(3)
    dictionary = F.normalize(torch.randn(60, 16, generator=generator), dim=-1)
    x = torch.zeros(2000, 60).scatter(-1, torch.rand(2000, 60, generator=generator).topk(6).indices, 1.0) @ dictionary
    left = {}
    trained = {"plain": None, "refined": Refinement(), "refined alone": Refinement(share=1.0)}
    for name, refinement in trained.items():
        torch.manual_seed(0)
        task = SparseAutoencoderTask(SparseAutoencoder(16, 60, NestedTopK(6), refinement=refinement))
        optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
        for step in range(150):
            batch = x[torch.randint(2000, (256,), generator=torch.Generator().manual_seed(step))]
            optimizer.zero_grad()
            task.losses(batch).loss.backward()
            optimizer.step()
        sae = task.exported().requires_grad_(False)
        left[name] = [float((sae.reconstruct(x, (6,), refine=steps)[:, 0] - x).square().sum()) for steps in (0, 1)]
    assert left["refined"][1] < left["plain"][1] < left["plain"][0]
    assert left["refined"][0] < left["refined alone"][0]


def test_folding_keeps_what_is_refined():
    sae, x = autoencoder(NestedTopK(K, levels=LEVELS), Refinement(), dtype=torch.float32), 5 + 3 * tokens(200).float()
    task = SparseAutoencoderTask(sae)
    task.losses(x)
    torch.testing.assert_close(task.exported()(x).reconstruction, task.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_folder_holds_it(tmp_path):
    sae = autoencoder(NestedTopK(K, levels=LEVELS), Refinement(steps=3, share=0.25)).eval()
    folder.save(sae, tmp_path)
    loaded = folder.load(tmp_path)
    assert loaded.refinement == sae.refinement
    assert torch.equal(loaded(tokens()).reconstruction, sae(tokens()).reconstruction)


@pytest.mark.parametrize("layout", [saelens, dictionary_learning])
def test_other_layouts_refuse_it(layout, tmp_path):
    sae = autoencoder(TopK(K), Refinement()).eval()
    with pytest.raises(ValueError, match="sae must be a plain autoencoder"):
        layout.save(sae, tmp_path)
    sae.refinement = None
    layout.save(sae, tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Refinement(steps=0), "steps must be a whole number >= 1"),
        (lambda: Refinement(share=1.5), "share must lie in"),
        (lambda: Refinement(share=float("nan")), "share must lie in"),
        (lambda: SparseAutoencoder(4, 8, TopK(2), d_out=4, refinement=Refinement()), "refinement must be None"),
        (lambda: SparseAutoencoder(4, 8, TopK(2), d_out=4).encode(torch.ones(3, 4), refine=1), "refine must be 0"),
        (lambda: SparseAutoencoder(4, 8, TopK(2)).encode(torch.ones(3, 4), refine=-1), "refine must be"),
        (lambda: SparseAutoencoder(4, 8, TopK(2)).reconstruct(torch.ones(3, 4), (4, 2)), "levels must be rising"),
        (lambda: SparseAutoencoder(4, 8, TopK(2)).reconstruct(torch.ones(3, 4), (4, 9)), "k must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_token_stays_alone(value):
    sae, x = autoencoder(NestedTopK(K, levels=LEVELS), Refinement()), tokens()
    expected = sae(x).reconstruction
    hurt = x.clone()
    hurt[2, 5] = value
    output = sae(hurt).reconstruction
    assert bool(output[2].isnan().all())
    torch.testing.assert_close(output[[0, 1, *range(3, 12)]], expected[[0, 1, *range(3, 12)]])


def test_half_precision_stays_half():
    sae = autoencoder(NestedTopK(K, levels=LEVELS), Refinement(), dtype=torch.bfloat16)
    output = sae(tokens(dtype=torch.bfloat16))
    assert output.reconstruction.dtype == torch.bfloat16
    assert bool(output.reconstruction.isfinite().all())
