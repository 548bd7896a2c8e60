"""Jacobians and Cramér–Rao deviations."""

import numpy as np
import pytest
import torch
from conftest import refuses
from test_smith2019 import pixels

from bioface import camera, identifiability, illumination, image_formation, skin


def test_the_jacobian_equals_finite_differences():
    x, e = pixels(20)[0], illumination.standard("D65").numpy()
    ends = [[colour_of(x + sign * step, np.diag(e)) for step in 1e-6 * np.eye(4)] for sign in (1, -1)]
    expected = np.stack(np.subtract(*ends) / 2e-6, -1)
    assert np.allclose(identifiability.jacobian(*x[:, :3].T, e), expected, rtol=1e-6, atol=1e-9)
    refuses("melanin as volume fraction", identifiability.jacobian, *np.array([[2.0], [0.03], [1.0]]), np.ones(33))


@pytest.mark.parametrize("coloured", [False, True])
def test_deviation_is_what_noise_does_to_least_squares(coloured):
    J, A = random(33, 4) * torch.tensor([1.0, 1e3, 1e-3, 1.0]).double(), random(33, 60, seed=1) / 8
    noise = 0.01 * (A @ random(60, 20000, seed=2) if coloured else random(33, 20000, seed=2))
    predicted = identifiability.standard_deviation(J[None], 0.01, noise=A @ A.T if coloured else None)[0]
    torch.testing.assert_close(torch.linalg.lstsq(J, noise).solution.std(1), predicted, rtol=0.03, atol=0)


@pytest.mark.parametrize("factor", [1.0, 0.1, -3.0])
def test_what_cannot_be_told_apart_is_infinite(factor):
    J = random(33, 4)
    J[:, 1] = factor * J[:, 0]  # two maps with one spectrum
    assert identifiability.standard_deviation(J[None], 1.0)[0].isinf().tolist() == [True, True, False, False]


def test_what_does_not_show_is_infinite_and_the_others_are_known_at_any_sigma():
    J = torch.eye(4).double().expand(2, 4, 4).clone()
    J[0, :, 0] = 0
    found = identifiability.standard_deviation(J, torch.tensor([2.0, 3.0]).double())
    assert found.tolist() == [pytest.approx([np.inf, 2, 2, 2]), pytest.approx([3, 3, 3, 3])]
    # nor do three colours tell four maps
    refuses("at least four bands, found 3", identifiability.standard_deviation, J[:, :3], 0.5)


def test_what_is_held_is_nan_and_helps_the_others_and_units_do_not_matter():
    J, free = random(1, 33, 4), torch.tensor([True, False, True, True])
    held, all_free = (identifiability.standard_deviation(J, 1.0, which)[0] for which in (free[None], None))
    assert torch.isnan(held[1]) and (held[free] < all_free[free]).all()
    a, b = (identifiability.standard_deviation(J.float() * k, 1.0) for k in (1.0, 1e-20))
    assert torch.allclose(a * 1e20, b, rtol=1e-5)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- three numbers for four unknowns


def a_camera():
    light = illumination.standard("D65")
    return camera.reflectance_to_rgb(light, camera.CameraModel.load().sensitivity()).numpy()


def colour_of(x, M):
    return (x[:, 2:3] * skin.reflectance(x[:, 0], x[:, 1]) + x[:, 3:]) @ M.T


def test_another_answer_has_the_same_colour():
    x, M = pixels(20)[0], a_camera()
    other = identifiability.same_colour(x, 1.1 * x[:, 0], M)
    possible = np.isfinite(other).all(-1)
    assert possible.mean() > 0.3
    assert np.allclose(colour_of(other[possible], M), colour_of(x[possible], M), atol=2e-4)
    assert np.allclose(other[possible, 0], 1.1 * x[possible, 0]) and (other[possible, 2:] >= 0).all()
    assert np.isnan(identifiability.same_colour(x, np.full(len(x), 0.9), M)).any()


def test_the_oracle_finds_what_was_put_in():
    g = np.linspace(-1, 1, 33)
    m, h = (skin.table_fraction(g, top) for top in (skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]))
    sensitivity = camera.CameraModel.load().sensitivity()
    table = image_formation.colour_table(illumination.standard("D65"), sensitivity, size=33)
    to_rgb = a_camera()
    white = to_rgb.sum(-1)
    x = np.array([[m[20], h[12], 0.8, 0.1], [m[12], h[25], 1.1, 0.0]])
    colour = colour_of(x, to_rgb)
    error, d, s = identifiability.explain(colour, table.numpy(), white)
    for p, (i, j) in enumerate(((20, 12), (12, 25))):
        assert error[p, i, j] < 1e-6
        assert d[p, i, j] == pytest.approx(x[p, 2], abs=1e-4) and s[p, i, j] == pytest.approx(x[p, 3], abs=1e-4)
    assert (d >= 0).all() and (s >= 0).all()
    given, _, _ = identifiability.explain(colour, table.numpy(), white, diffuse=x[:, 2])
    assert given[0, 20, 12] < 1e-6 and (given >= error - 1e-9).all()
    matt, _, none = identifiability.explain(colour, table.numpy(), white, specular=False)
    assert (none == 0).all() and (matt >= error - 1e-9).all() and matt[1, 12, 25] < 1e-6
    # against a brute-force search over both shadings, at one entry that does not fit
    t = table.numpy()[:, 5, 5]
    grid = [(a, b) for a in np.linspace(0, 3, 301) for b in np.linspace(0, 1, 101)]
    brute = min(np.sqrt(np.mean((colour[0] - a * t - b * white) ** 2)) for a, b in grid)
    assert error[0, 5, 5] == pytest.approx(brute, abs=2e-3) and error[0, 5, 5] <= brute + 1e-9


def test_the_range_of_what_explains_a_colour():
    error = np.full((2, 4, 3), 1.0)
    error[0, 1, 2] = error[0, 3, 0] = 1e-3
    low, high = identifiability.feasible_range(error, np.array([1.0, 2.0, 3.0, 4.0]), 2e-3)
    assert (low[0], high[0]) == (2, 4) and np.isnan(low[1]) and np.isnan(high[1])
