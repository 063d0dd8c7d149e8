"""Laws without rows, draws that are not checked, modes by enumeration, and what estimators refuse of their arguments."""

import pytest
import torch

from sparsek.distributions import KHot
from sparsek.estimators import ScoreFunction
from sparsek.estimators._estimator import refuse_real
from sparsek.sampling import ConditionalPoisson, Pivotal


def test_no_rows_have_a_natural_form_and_a_mode_without_rows():
    empty = KHot(torch.zeros(0, 4), design=ConditionalPoisson())
    assert empty.natural().logits.shape == (0, 4)
    assert empty.mode.shape == (0, 4)


def test_the_mode_is_the_most_probable_of_all():
    probs = torch.tensor([[0.9, 0.2, 0.6, 0.3], [0.1, 0.7, 0.4, 0.8]])
    law = KHot(probs)
    values = law.enumerate_support()
    best = values[law.log_prob(values).argmax(0), torch.arange(2)]
    assert torch.equal(law.mode, best)


@pytest.mark.parametrize("checked", [True, False])
def test_a_draw_of_a_shuffled_design_scores_alike_with_and_without_checks(checked):
    law = KHot(torch.tensor([0.5, 0.25, 0.75, 0.5]), design=Pivotal(shuffle=True), validate_args=checked)
    draw = law.draw((3,), generator=torch.Generator().manual_seed(0))
    expected = law.design.log_prob(law.probs, draw, k=2)
    torch.testing.assert_close(law.log_prob(draw), expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda s: 1.0, "fn must return a floating-point tensor, got float"),
        (lambda s: s.sum(-1).long(), "fn must return a floating-point tensor, got torch.int64"),
        (lambda s: 1.0 * s, "fn must return one loss per row"),
    ],
)
def test_losses(loss, message):
    x = torch.zeros(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        ScoreFunction().surrogate(loss, x, 2)


@pytest.mark.parametrize("k", [torch.tensor([True]), torch.tensor(1j)])
def test_a_k_that_is_no_number(k):
    with pytest.raises(ValueError, match="k must be a real number, got dtype"):
        refuse_real(k, "this part", "another")
    refuse_real(torch.tensor([1.0, 2.0]), "this part", "another")
    with pytest.raises(ValueError, match=r"k must .*whole"):
        refuse_real(1.5, "this part", "another")
