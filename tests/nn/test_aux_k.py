"""AuxK against its definition with dense autograd."""

import pytest
import torch
import torch.nn.functional as F

from sparsek.nn import AuxK, ReLUL1, SparseAutoencoder, TopK


def problem(selection=None, dead=12, **sizes):
    torch.manual_seed(0)
    sae = SparseAutoencoder(8, 64, selection or TopK(3), **sizes).double()
    aux = AuxK(64, window=100, coefficient=0.5)
    aux.tokens_since[torch.randperm(64)[:dead]] = 100
    return sae, aux, torch.randn(2, 10, 8, dtype=torch.float64)


@pytest.mark.parametrize("dead", [2, 12])
@pytest.mark.parametrize("transcoder", [False, True])
def test_loss_and_gradients_are_those_of_dense_autograd(dead, transcoder):
    sae, aux, x = problem(dead=dead, **({"d_out": 6} if transcoder else {}))
    y = torch.randn(2, 10, 6, dtype=torch.float64) if transcoder else x
    output, k = sae(x), 3 if transcoder else 4
    residual = (y - output.reconstruction).detach().flatten(0, 1)
    inside = x if transcoder else x - sae.decoder_bias
    pre = F.linear(inside, sae.encoder_weight, sae.encoder_bias).flatten(0, 1)
    ranked = pre.masked_fill(~aux.dead, -torch.inf).topk(min(k, dead)).indices
    latents = torch.zeros_like(pre).scatter(-1, ranked, pre.gather(-1, ranked))
    spread = (residual - residual.mean(0)).square().sum()
    expected = 0.5 * min(1, dead / k) * (latents @ sae.decoder_weight - residual).square().sum() / spread
    actual = aux(sae, x, output, y if transcoder else None)
    torch.testing.assert_close(actual, expected)
    leaves = [sae.encoder_weight, sae.encoder_bias, sae.decoder_weight]
    for got, want in zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(got, want)
        assert not got[~aux.dead].any()
        assert got[aux.dead].any()


def test_nothing_dead_costs_nothing():
    sae, aux, x = problem(dead=0)
    assert aux(sae, x, sae(x)) == 0


def test_a_latent_is_dead_after_the_window_and_lives_again():
    aux = AuxK(3, window=5)
    latents = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    aux.update(latents)
    assert aux.tokens_since.tolist() == [0, 0, 2]
    aux.update(latents[:1].expand(3, 3), torch.tensor([True, True, False]))
    assert aux.tokens_since.tolist() == [0, 2, 4]
    aux.update(latents[:1])
    assert aux.dead.tolist() == [False, False, True]
    restored = AuxK(3, window=5)
    restored.load_state_dict(aux.state_dict())
    assert torch.equal(restored.dead, aux.dead)
    aux.update(torch.ones(1, 3))
    assert not aux.dead.any()


def test_codes_and_dense_latents_count_alike():
    sae, _, x = problem()
    counts = []
    for latents in (
        sae.encode(x, k=3),
        torch.zeros(2, 10, 64).double().scatter(-1, sae.encode(x, k=3).indices, sae.encode(x, k=3).values),
    ):
        aux = AuxK(64, window=1)
        aux.update(latents)
        counts.append(aux.tokens_since)
    assert torch.equal(*counts)


def test_it_revives_latents():
    torch.manual_seed(0)
    x = torch.randn(128, 8)
    active = []
    for coefficient in (0.0, 1.0):
        torch.manual_seed(1)
        sae, aux = SparseAutoencoder(8, 64, TopK(2)), AuxK(64, window=128, coefficient=coefficient)
        with torch.no_grad():
            sae.encoder_bias[32:] = -3.0  # half of the dictionary starts dead
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for _ in range(40):
            output = sae(x)
            aux.update(output.latents)
            optimizer.zero_grad()
            (sae.loss(output, x) + aux(sae, x, output)).backward()
            optimizer.step()
        active.append(64 - int(aux.dead.sum()))
    assert active[1] > active[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"window": 0}, "window must"), ({"k": 0}, "k must"), ({"coefficient": -1.0}, "coefficient must")],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AuxK(8, **arguments)


def test_dense_selections_work_too():
    sae, aux, x = problem(ReLUL1(0.1))
    output = sae(x)
    aux.update(output.latents)
    assert aux(sae, x, output).isfinite()
