"""Jacobians and Cramér–Rao deviations."""

import numpy as np
import pytest
import torch

from bioface import camera, identifiability, illumination, image_formation, skin
from bioface.errors import BiofaceError


def test_jacobian_equals_finite_differences():
    x = np.array([0.1, 0.03, 0.8, 0.05])
    e = illumination.standard("D65").numpy()

    def radiance(x):
        return e * (x[2] * skin.reflectance(x[0:1], x[1:2])[0] + x[3])

    J = identifiability.jacobian(x[0:1], x[1:2], x[2:3], e)[0]
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        numeric = (radiance(x + step) - radiance(x - step)) / 2e-6
        assert np.allclose(J[:, k], numeric, rtol=1e-6, atol=1e-9)


def test_deviation_is_what_noise_does_to_least_squares():
    g = torch.Generator().manual_seed(0)
    J = torch.randn(33, 4, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1e3, 1e-3, 1.0]).double()
    noise = torch.randn(33, 20000, generator=g, dtype=torch.float64) * 0.01
    estimates = torch.linalg.lstsq(J, noise).solution
    predicted = identifiability.standard_deviation(J[None], 0.01)[0]
    assert torch.allclose(estimates.std(1), predicted, rtol=0.03)


@pytest.mark.parametrize("factor", [1.0, 0.1, -3.0])
def test_what_cannot_be_told_apart_is_infinite(factor):
    J = torch.randn(33, 4, generator=torch.Generator().manual_seed(0)).double()
    J[:, 1] = factor * J[:, 0]  # two maps with one spectrum
    sd = identifiability.standard_deviation(J[None], 1.0)[0]
    assert torch.isinf(sd[:2]).all()
    assert torch.isfinite(sd[2:]).all()


def test_what_does_not_show_is_infinite_and_the_others_are_known():
    J = torch.eye(4).double()[None].clone()
    J[0, :, 0] = 0
    assert identifiability.standard_deviation(J, 2.0)[0].tolist() == pytest.approx([np.inf, 2.0, 2.0, 2.0])


def test_what_is_held_is_nan_and_helps_the_others():
    J = torch.randn(1, 33, 4, generator=torch.Generator().manual_seed(0)).double()
    all_free = identifiability.standard_deviation(J, 1.0)[0]
    sd = identifiability.standard_deviation(J, 1.0, torch.tensor([[True, False, True, True]]))[0]
    assert torch.isnan(sd[1])
    assert (sd[[0, 2, 3]] < all_free[[0, 2, 3]]).all()


def test_units_of_the_columns_do_not_matter_even_in_single_precision():
    J = torch.randn(1, 33, 4, generator=torch.Generator().manual_seed(0))
    a, b = (identifiability.standard_deviation(J * k, 1.0) for k in (1.0, 1e-20))
    assert torch.allclose(a * 1e20, b, rtol=1e-5)


def test_coloured_noise_is_what_it_does_to_least_squares():
    g = torch.Generator().manual_seed(0)
    J, A = torch.randn(20, 4, generator=g).double(), torch.randn(20, 60, generator=g).double() / 8
    estimates = torch.linalg.lstsq(J, A @ torch.randn(60, 20000, generator=g).double() * 0.01).solution
    predicted = identifiability.standard_deviation(J[None], 0.01, noise=A @ A.T)[0]
    assert torch.allclose(estimates.std(1), predicted, rtol=0.03)


def test_fractions_out_of_range_are_refused():
    with pytest.raises(BiofaceError, match="melanin as volume fraction"):
        identifiability.jacobian(np.array([2.0]), np.array([0.03]), np.array([1.0]), np.ones(33))


def test_sigma_may_differ_per_pixel():
    J = torch.eye(4).double().expand(3, 4, 4)
    sd = identifiability.standard_deviation(J, torch.tensor([1.0, 2.0, 3.0]).double())
    assert sd[:, 0].tolist() == pytest.approx([1.0, 2.0, 3.0])


# --- three numbers for four unknowns


def a_camera():
    light = illumination.standard("D65")
    return camera.reflectance_to_rgb(light, camera.CameraModel.load().sensitivity()).numpy()


def colour_of(x, M):
    return (x[:, 2:3] * skin.reflectance(x[:, 0], x[:, 1]) + x[:, 3:]) @ M.T


def some_maps(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(low, high, n) for low, high in ((0.05, 0.3), (0.01, 0.05), (0.5, 1.2), (0, 0.2))], -1)


def test_rgb_jacobian_equals_finite_differences():
    x, M = some_maps(), a_camera()
    J = identifiability.rgb_jacobian(*x[:, :3].T, M)
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        numeric = (colour_of(x + step, M) - colour_of(x - step, M)) / 2e-6
        assert np.allclose(J[:, :, k], numeric, rtol=1e-5, atol=1e-8)


def test_the_null_direction_changes_no_colour():
    x, M = some_maps(), a_camera()
    unit = np.array([0.1, 0.02, 0.5, 0.1])
    J = identifiability.rgb_jacobian(*x[:, :3].T, M)
    along = identifiability.null_direction(J, unit)
    assert np.allclose(np.linalg.norm(along / unit, axis=1), 1)
    assert (along[:, 0] >= 0).all()
    seen = np.abs(np.einsum("pij,pj->pi", J, along)).max()
    across = np.abs(np.einsum("pij,pj->pi", J, along[::-1] * [1, -1, 1, 1])).max()
    assert seen < 1e-9 < 1e-3 < across


def test_another_answer_has_the_same_colour():
    x, M = some_maps(), a_camera()
    other = identifiability.same_colour(x, 1.1 * x[:, 0], M)
    possible = np.isfinite(other).all(-1)
    assert possible.mean() > 0.3
    assert np.allclose(colour_of(other[possible], M), colour_of(x[possible], M), atol=2e-4)
    assert np.allclose(other[possible, 0], 1.1 * x[possible, 0])
    assert (other[possible, 2:] >= 0).all()
    none = identifiability.same_colour(x, np.full(len(x), 0.9), M)
    assert np.isnan(none).any()


def test_the_oracle_finds_what_was_put_in():
    K = 33
    g = np.linspace(-1, 1, K)
    m, h = (skin.table_fraction(g, top) for top in (skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]))
    table = image_formation.colour_table(torch.ones(33).double(), camera.CameraModel.load().sensitivity(), size=K)
    to_rgb = camera.reflectance_to_rgb(torch.ones(33).double(), camera.CameraModel.load().sensitivity()).numpy()
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
    assert (low[0], high[0]) == (2, 4)
    assert np.isnan(low[1]) and np.isnan(high[1])
