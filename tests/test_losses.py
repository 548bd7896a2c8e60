"""The four losses by hand, the ratio of the two scales, and gradients where something is zero."""

from __future__ import annotations

import pytest
import torch

from bioface import losses, smith2019
from bioface.datasets import skin_spectra
from bioface.errors import BiofaceError, DataError


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_mask(batch=2, size=4):
    """The left half, and of the second face one row less."""
    mask = torch.zeros(batch, size, size, dtype=torch.bool)
    mask[:, :, : size // 2] = True
    mask[1, 0] = False
    return mask


# --- by hand -----------------------------------------------------------------------------------------------

VALUES = torch.tensor([[[1.0, 2.0], [3.0, 100.0]], [[4.0, 100.0], [100.0, 100.0]]])
MASK = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])


def test_mean_is_over_the_foreground_of_the_whole_batch():
    """(1 + 2 + 3 + 4) / 4: a face counts by its pixels."""
    assert losses.reduce(VALUES, MASK, "mean") == 2.5


def test_sum_is_over_batch_and_pixels_over_224_squared():
    assert losses.reduce(VALUES, MASK, "sum") == pytest.approx(10 / 50176)


def test_count_replaces_the_number_of_pixels_in_the_mean_alone():
    assert losses.reduce(VALUES, MASK, "mean", torch.tensor(5.0)) == 2.0
    assert losses.reduce(VALUES, MASK, "sum", torch.tensor(5.0)) == losses.reduce(VALUES, MASK, "sum")


def test_values_outside_the_mask_do_not_matter_even_nan():
    values = torch.where(MASK, VALUES, torch.nan).requires_grad_()
    mean = losses.reduce(values, MASK, "mean")
    (gradient,) = torch.autograd.grad(mean, values)
    assert mean.detach() == 2.5
    assert torch.equal(gradient, torch.where(MASK, 0.25, 0.0))


def test_appearance_sums_squares_over_the_channels():
    rendered = torch.tensor([0.1, 0.5, 0.7]).expand(1, 1, 1, 3)
    image = torch.tensor([0.2, 0.3, 0.7]).expand(1, 1, 1, 3)
    assert float(losses.appearance(rendered, image)) == pytest.approx(0.01 + 0.04)
    assert float(losses.appearance(rendered, image, scale=255.0)) == pytest.approx(255**2 * 0.05)


def test_camera_prior_by_hand():
    b = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    assert losses.camera_prior(b) == 7.0
    assert losses.camera_prior(b, "sum") == 14.0


def test_specular_sparsity_is_the_absolute_value():
    shine = torch.tensor([[[0.5, -0.25]]])
    assert torch.equal(losses.specular_sparsity(shine), torch.tensor([[[0.5, 0.25]]]))


def test_diffuse_supervision_by_hand():
    """α = (1·3 + 2·1) / (1 + 4) = 1 inside the mask; (1 − 3)², (2 − 1)²."""
    diffuse = torch.tensor([[[1.0, 2.0, 50.0]]])
    target = torch.tensor([[[3.0, 1.0, 70.0]]])
    mask = torch.tensor([[[True, True, False]]])
    found = losses.diffuse_supervision(diffuse, target, mask)
    assert torch.allclose(found[mask], torch.tensor([4.0, 1.0]))


def test_weights_are_those_of_the_paper():
    published = dict(appearance=1e-3, camera=1e-4, specular=1e-5, diffuse=1e-5)
    assert losses.Weights()._asdict() == published | dict(skin=0.0, truth=0.0)  # the last two are not in the paper


@pytest.mark.parametrize(
    "call", [lambda: losses.reduce(VALUES, MASK, "men"), lambda: losses.camera_prior(VALUES[0], "men")]
)
def test_a_misspelt_reduction_is_refused(call):
    with pytest.raises(BiofaceError, match="unknown reduction 'men'; did you mean 'mean'"):
        call()


# --- paper against code ------------------------------------------------------------------------------------


@pytest.mark.parametrize("faces", [1, 64])
def test_the_code_s_appearance_is_255_squared_times_the_pixels_over_224_squared_that_of_the_paper(faces):
    """Σ 255² e² / 224² = (Σ e² / N) · 255² N / 224², N the foreground of the batch: about 10⁶ at 64 faces."""
    rendered, image = rand(faces, 16, 16, 3), rand(faces, 16, 16, 3, seed=1)
    mask = rand(faces, 16, 16, seed=2) > 0.4
    paper = losses.reduce(losses.appearance(rendered, image), mask, "mean")
    code = losses.reduce(losses.appearance(rendered, image, 255.0), mask, "sum")
    assert float(code / paper) == pytest.approx(255**2 * int(mask.sum()) / 224**2, rel=1e-9)
    as_published = 255**2 * 64 * 0.5 * 64**2 / 224**2  # 64 faces of 64 × 64 that fill half of the picture
    assert 1e5 < as_published < 1e6


# --- diffuse supervision -----------------------------------------------------------------------------------


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


def test_diffuse_supervision_takes_the_best_scale():
    diffuse, target, mask = rand(1, 4, 4) + 0.1, rand(1, 4, 4, seed=1), half_mask(2)[:1]
    loss = float(supervised(diffuse, target, mask))
    tried = [float((((a * diffuse - target) ** 2)[mask]).mean()) for a in torch.linspace(0, 3, 3001)]
    assert loss <= min(tried) and loss == pytest.approx(min(tried), rel=1e-4)


def test_the_scale_is_that_of_the_mask():
    diffuse, target, mask = rand(2, 4, 4) + 0.1, rand(2, 4, 4, seed=1), half_mask()
    loss = supervised(diffuse, target, mask)
    spoiled = torch.where(mask, diffuse, 1e3), torch.where(mask, target, -5.0)
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
    if level == 0:  # no scale helps: what is left is the target itself
        assert float(loss.detach()) == pytest.approx(float(target.square()[mask].mean()), rel=1e-5)


def test_a_target_of_zero_has_no_loss_and_finite_gradients():
    diffuse = rand(1, 4, 4).requires_grad_()
    loss = supervised(diffuse, torch.zeros(1, 4, 4).double(), half_mask(2)[:1])
    assert loss.detach() == 0 and torch.isfinite(torch.autograd.grad(loss, diffuse)[0]).all()


# --- what the paper lacks ----------------------------------------------------------------------------------


def test_skin_prior_by_hand():
    """Two deviations off in melanin, one in haemoglobin: (4 + 1) / 2."""
    prior = losses.SkinPrior(torch.tensor([0.1, -0.2]), torch.diag(torch.tensor([0.04, 0.25])))
    found = losses.skin_prior(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.3), prior)
    assert torch.allclose(found, torch.tensor(2.5))


def test_the_skin_prior_that_ships_is_that_of_the_measured_spectra():
    measured = skin_spectra.load("issa")
    fit = smith2019.fit(measured.reflectance, measured.wavelengths, model="layered")
    fractions = [torch.from_numpy(values[fit.converged]) for values in (fit.melanin, fit.haemoglobin)]
    again, shipped = losses.SkinPrior.of_fractions(*fractions), losses.SkinPrior.load()
    assert torch.allclose(again.mean, shipped.mean, atol=1e-5)
    assert torch.allclose(again.covariance, shipped.covariance, atol=1e-5)
    assert bool((torch.linalg.eigvalsh(shipped.covariance) > 0).all())


def test_a_skin_prior_comes_back_from_its_table(tmp_path, monkeypatch):
    prior = losses.SkinPrior.of_fractions(0.3 * rand(50), 0.05 * rand(50, seed=1))
    prior.to_table(tmp_path / "skin_prior.csv", "made up")
    monkeypatch.setattr(losses.paths, "TABLES", tmp_path)
    read = losses.SkinPrior.load.__wrapped__(losses.SkinPrior)
    assert torch.allclose(read.mean, prior.mean, atol=1e-6)
    assert torch.allclose(read.covariance, prior.covariance, atol=1e-6)


@pytest.mark.parametrize("text", [None, "1,2\n3,4\n", "a,b\n", "1,2,3\n4,5,6\n7,8,9\n"])
def test_a_damaged_skin_prior_is_named(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / "skin_prior.csv").write_text(text)
    monkeypatch.setattr(losses.paths, "TABLES", tmp_path)
    with pytest.raises(DataError, match=r"skin_prior\.csv"):
        losses.SkinPrior.load.__wrapped__(losses.SkinPrior)


def test_supervision_by_hand():
    one, none = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    colour, b = torch.zeros(1, 1, 1, 3), torch.zeros(1, 2)
    assert float(losses.supervision(none, none, none, none, colour, b)) == 0
    assert float(losses.supervision(2 * one, none, none, none, colour, b)) == 4
    assert float(losses.supervision(none, one, none, none, colour, b)) == losses.Shares().haemoglobin
    assert float(losses.supervision(none, one, none, none, colour, b, losses.Shares(haemoglobin=7))) == 7
    assert float(losses.supervision(none, none, one, none, colour, b)) == losses.Shares().diffuse
    assert float(losses.supervision(none, none, none, one, colour, b)) == losses.Shares().specular
    assert float(losses.supervision(none, none, none, none, colour + 1, b)) == 3 * losses.Shares().albedo
    assert abs(float(losses.supervision(none, none, none, none, colour, b + 1)) - losses.Shares().camera) < 1e-7
