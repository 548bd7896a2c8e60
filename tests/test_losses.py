"""The four losses by hand, the ratio of the two scales, and gradients where something is zero."""

import pytest
import torch

from bioface import losses
from bioface.network import Output


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_mask(batch=2, size=4):
    """The left half, and of the second face one row less."""
    mask = torch.zeros(batch, size, size, dtype=torch.bool)
    mask[:, :, : size // 2] = True
    mask[1, 0] = False
    return mask


VALUES = torch.tensor([[[1.0, 2.0], [3.0, 100.0]], [[4.0, 100.0], [100.0, 100.0]]])
MASK = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])


def test_reductions_by_hand():
    """(1 + 2 + 3 + 4) / 4 over the foreground of the whole batch: a face counts by its pixels; or the sum / 224²."""
    assert losses.reduce(VALUES, MASK, "mean") == 2.5
    assert losses.reduce(VALUES, MASK, "sum") == pytest.approx(10 / 50176)
    assert losses.reduce(VALUES, MASK, "mean", torch.tensor(5.0)) == 2.0  # a count of pixels replaces that of the mask
    assert losses.reduce(VALUES, MASK, "sum", torch.tensor(5.0)) == losses.reduce(VALUES, MASK, "sum")
    # values outside the mask do not matter, even NaN
    values = torch.where(MASK, VALUES, torch.nan).requires_grad_()
    mean = losses.reduce(values, MASK, "mean")
    (gradient,) = torch.autograd.grad(mean, values)
    assert mean.detach() == 2.5
    assert torch.equal(gradient, torch.where(MASK, 0.25, 0.0))


def test_appearance_camera_and_specular_by_hand():
    rendered = torch.tensor([0.1, 0.5, 0.7]).expand(1, 1, 1, 3)
    image = torch.tensor([0.2, 0.3, 0.7]).expand(1, 1, 1, 3)
    assert float(losses.appearance(rendered, image)) == pytest.approx(0.01 + 0.04)
    assert float(losses.appearance(rendered, image, scale=255.0)) == pytest.approx(255**2 * 0.05)
    assert losses.camera_prior(torch.tensor([[1.0, 2.0], [0.0, -3.0]])).tolist() == [5, 9]
    assert losses.specular_sparsity(torch.tensor([[[0.5, -0.25]]])).tolist() == [[[0.5, 0.25]]]


def test_diffuse_supervision_by_hand():
    """α = (1·3 + 2·1) / (1 + 4) = 1 inside the mask; (1 − 3)², (2 − 1)²."""
    diffuse = torch.tensor([[[1.0, 2.0, 50.0]]])
    target = torch.tensor([[[3.0, 1.0, 70.0]]])
    mask = torch.tensor([[[True, True, False]]])
    found = losses.diffuse_supervision(diffuse, target, mask)
    assert torch.allclose(found[mask], torch.tensor([4.0, 1.0]))


def supervised(diffuse, target, mask):
    return losses.reduce(losses.diffuse_supervision(diffuse, target, mask), mask, "mean")


def test_diffuse_supervision_does_not_care_how_bright_the_prediction_is():
    """Each face has its own scale."""
    diffuse, target, mask = rand(2, 4, 4) + 0.1, rand(2, 4, 4, seed=1), half_mask()
    loss = supervised(diffuse, target, mask)
    scaled = supervised(diffuse * torch.tensor([7.0, 1e-3])[:, None, None], target, mask)
    assert float(scaled) == pytest.approx(float(loss), rel=1e-12)
    assert float(supervised(3 * target, target, mask)) == pytest.approx(0, abs=1e-25)
    assert float(supervised(diffuse, 2 * target, mask)) == pytest.approx(4 * float(loss))  # the target's scale counts
    spoiled = torch.where(mask, diffuse, 1e3), torch.where(mask, target, -5.0)  # and what is outside does not
    assert float(supervised(*spoiled, mask)) == pytest.approx(float(loss), rel=1e-12)


def test_gradient_of_diffuse_supervision_is_its_derivative_and_the_scale_adds_nothing_to_it():
    diffuse, target, mask = (rand(2, 4, 4) + 0.1).requires_grad_(), rand(2, 4, 4, seed=1), half_mask()
    assert torch.autograd.gradcheck(lambda d: supervised(d, target, mask), diffuse, eps=1e-6, atol=1e-9, rtol=1e-6)
    (gradient,) = torch.autograd.grad(supervised(diffuse, target, mask), diffuse)
    inside = torch.where(mask, diffuse, 0).detach()
    alpha = (inside * target).sum((1, 2)) / inside.square().sum((1, 2))  # held, as if it did not depend on diffuse
    held = torch.where(mask, (alpha[:, None, None] * diffuse - target).square(), 0).sum() / mask.sum()
    (expected,) = torch.autograd.grad(held, diffuse)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-20, 1e18])
def test_a_prediction_of_zero_or_nearly_has_finite_loss_and_gradients(level):
    diffuse = torch.full((2, 4, 4), level, requires_grad=True)
    target, mask = rand(2, 4, 4).float(), half_mask()
    loss = supervised(diffuse, target, mask)
    (gradient,) = torch.autograd.grad(loss, diffuse)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    nothing = supervised(diffuse, 0 * target, mask)  # a target of 0
    assert nothing == 0 and torch.isfinite(torch.autograd.grad(nothing, diffuse)[0]).all()
    if level == 0:  # no scale helps: what is left is the target itself
        assert float(loss.detach()) == pytest.approx(float(target.square()[mask].mean()), rel=1e-5)


@pytest.mark.parametrize("name", losses.Shares._fields)
def test_supervision_by_hand(name):
    """An error of 2 in one map costs 4 times its share; one in each of three colours counts three times."""
    one, b = torch.zeros(1, 1, 1), torch.zeros(1, 2)
    true = Output(one, one, one, one, b, torch.zeros(1, 14), torch.zeros(1))
    colours = torch.full((1, 1, 1, 3), 2.0 if name == "albedo" else 0.0)
    said = true if name == "albedo" else true._replace(**{name: getattr(true, name) + 2})
    expected = 4 * getattr(losses.Shares(), name) * (3 if name == "albedo" else 1)
    assert float(losses.supervision(said, true, colours, losses.Shares())) == pytest.approx(expected)
    assert float(losses.supervision(true, true, 0 * colours, losses.Shares())) == 0
