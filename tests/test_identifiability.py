"""Jacobians and Cramér–Rao deviations."""

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import band_design, camera, identifiability, illumination, image_formation, skin


def test_jacobians_of_light_and_of_a_camera_equal_finite_differences():
    x, e = some_maps(), illumination.standard("D65").numpy()
    for seen, M, off in ((e, np.diag(e), 1e-9), (a_camera(), a_camera(), 1e-8)):
        steps = 1e-6 * np.eye(4)
        expected = np.stack([(colour_of(x + step, M) - colour_of(x - step, M)) / 2e-6 for step in steps], -1)
        assert np.allclose(identifiability.jacobian(*x[:, :3].T, seen), expected, rtol=1e3 * off, atol=off)
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
    # nor do three colours tell four maps, but for what has no share in what they miss
    x = some_maps(200)
    assert np.isinf(identifiability.standard_deviation(identifiability.jacobian(*x[:, :3].T, a_camera()), 0.01)).all()
    assert identifiability.standard_deviation(J[1:, :3], 0.5)[0].tolist() == pytest.approx([0.5, 0.5, 0.5, np.inf])


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


def some_maps(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(low, high, n) for low, high in ((0.05, 0.3), (0.01, 0.05), (0.5, 1.2), (0, 0.2))], -1)


def test_another_answer_has_the_same_colour():
    x, M = some_maps(), a_camera()
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


# --- what is known beforehand -------------------------------------------------------------------------------

PRIOR = torch.tensor([[0.5, 0.1, 0, 0], [0.1, 0.4, 0, 0], [0, 0, 0.3, 0.05], [0, 0, 0.05, 0.2]], dtype=torch.float64)


def test_the_predicted_deviation_is_the_error_of_the_best_estimator():
    """Maps from the prior, seen by a linear camera with noise and with a nuisance, estimated by their expectation."""
    J, shake, sigma, n = random(3, 4), 0.3 * random(3, 2, seed=1), 0.2, 40_000
    N = shake @ shake.T
    maps = random(n, 4, seed=2) @ torch.linalg.cholesky(PRIOR).T
    colour = maps @ J.T + random(n, 2, seed=3) @ shake.T + sigma * random(n, 3, seed=4)
    gain = PRIOR @ J.T @ torch.linalg.inv(J @ PRIOR @ J.T + N + sigma**2 * torch.eye(3, dtype=torch.float64))
    observed = (colour @ gain.T - maps).square().mean(0).sqrt()
    predicted = identifiability.posterior_deviation(J[None], sigma, PRIOR, N[None])[0]
    torch.testing.assert_close(observed, predicted, rtol=0.02, atol=0)


def test_a_flat_prior_gives_the_cramer_rao_bound_and_a_nuisance_is_coloured_noise():
    """With it, the best linear unbiased estimate's (Jᵀ R⁻¹ J)⁻¹, not that of ordinary least squares."""
    J, shake, flat = random(5, 33, 4), random(33, 2, seed=1), 1e6 * torch.eye(4)
    bound = identifiability.standard_deviation(J, 0.01)
    torch.testing.assert_close(identifiability.posterior_deviation(J, 0.01, flat), bound, rtol=1e-4, atol=0)
    R = shake @ shake.T + 0.3**2 * torch.eye(33, dtype=torch.float64)
    expected = torch.linalg.inv(J.mT @ torch.linalg.inv(R) @ J).diagonal(dim1=-2, dim2=-1).sqrt()
    found = identifiability.posterior_deviation(J, 0.3, flat, shake @ shake.T)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_table_coordinates_follow_the_chain_rule():
    g = torch.tensor([-0.5, 0.3], dtype=torch.float64)
    step, tops = 1e-5, (0.43, 0.07)
    rise = [(skin.table_fraction(g + step, top) - skin.table_fraction(g - step, top)) / (2 * step) for top in tops]
    fractions = [skin.table_fraction(g, top) for top in tops]
    found = identifiability.in_table_coordinates(torch.ones(2, 3, 4).double(), *fractions)
    torch.testing.assert_close(found[:, 0, 0], rise[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[:, 2, 1], rise[1], rtol=1e-6, atol=0)
    assert (found[..., 2:] == 1).all()


def test_cameras_that_agree_leave_no_nuisance_and_others_do():
    """Within a pixel and between pixels it is the covariance of their colours."""
    x, M = some_maps(3), a_camera()
    assert np.abs(identifiability.nuisance_factor(*x.T, np.stack([M, M, M]))).max() < 1e-10
    to_rgbs = M * np.random.default_rng(0).uniform(0.5, 1.5, (7, 3, 1))
    stacked = identifiability.nuisance_factor(*x.T, to_rgbs).reshape(9, 7)
    assert np.allclose(stacked @ stacked.T, np.cov(np.stack([colour_of(x, m).ravel() for m in to_rgbs]).T))
    refuses("at least two", identifiability.nuisance_factor, *x.T, M[None])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 32, 33])
def test_bands_share_the_light(count):
    sensitivity = band_design.even(count)
    torch.testing.assert_close(sensitivity.sum(1), torch.ones(count).double())  # white is 1
    torch.testing.assert_close(sensitivity.sum(0), torch.full((33,), count / 33).double())  # every wavelength as often
    centres = sensitivity @ torch.arange(33).double()
    assert (centres - 33 / count * (torch.arange(int(count)) + 0.5) + 0.5).abs().max() < 0.25
    assert count < 33 or torch.equal(sensitivity, torch.eye(33).double())


def test_the_best_bands_are_those_that_tell_the_pigments():
    """One band sees melanin, one haemoglobin, one both shadings; the others see nothing."""
    J = torch.zeros(4, 6, 4).double()
    J[:, 2, 0], J[:, 4, 1] = 3.0, 1.0
    J[:, 0, 2:] = 5.0
    order = band_design.best(J, 0.1, torch.eye(4), 6)
    assert order.tolist()[:2] == [2, 4] and sorted(order.tolist()) == list(range(6))
    refuses("1 to 6 bands", band_design.best, J, 0.1, torch.eye(4), 7)


def test_more_bands_tell_more_and_all_bands_are_the_spectrum():
    x, prior, sigma = some_maps(), np.diag([0.2, 0.2, 0.3, 0.03]) ** 2, 0.004
    maps, counts = x[:, :3].T, [3, 4, 8, 33]
    J = identifiability.in_table_coordinates(identifiability.jacobian(*maps, np.ones(33)), *maps[:2])
    full = np.sort(identifiability.posterior_deviation(J, sigma, prior), 0)[(len(x) - 1) // 2]  # the lower median
    even, best = (band_design.curve(*maps, sigma, prior, counts, greedy=g) for g in (False, True))
    assert np.allclose(even[-1], full) and np.allclose(best[-1], full)
    three = band_design.even(3).numpy() @ J
    expected = np.sort(identifiability.posterior_deviation(three, sigma, prior), 0)[(len(x) - 1) // 2]
    assert np.allclose(even[0], expected)
    assert (np.diff(best, axis=0) <= 1e-12).all()
    assert (even[2:, :2] < even[0, :2]).all()
    # the same light on more bands makes each of them noisier
    shared = band_design.curve(*maps, 0.004, prior, [3, 12], constant_light=True)
    three, twelve = (band_design.curve(*maps, s, prior, [c])[0] for s, c in ((0.004, 3), (0.008, 12)))
    assert np.allclose(shared, [three, twelve], rtol=1e-12)


@pytest.mark.parametrize("count", [0, 34])
def test_bands_that_cannot_be_are_refused(count):
    refuses("1 to 33 bands", band_design.even, count)
    refuses("1 to 33 bands", band_design.curve, *some_maps()[:, :3].T, 0.1, np.eye(4), [3, 34])
    refuses("above 0", band_design.curve, *some_maps()[:, :3].T, 0.0, np.eye(4), [3])


# --- a face's pixels together -------------------------------------------------------------------------------


def a_face(pixels=6, columns=3):
    J, A = random(pixels, 3, 4, seed=5), 0.3 * random(pixels, 3, columns, seed=6)
    within, between = 0.3 * PRIOR, 0.7 * PRIOR + 0.1 * torch.eye(4, dtype=torch.float64)
    return J, within, between, A


def test_a_face_of_one_pixel_or_whose_pixels_share_nothing_is_its_pixels():
    J, within, between, A = a_face(1)
    alone = identifiability.posterior_deviation(J, 0.2, within + between, A @ A.mT)
    torch.testing.assert_close(identifiability.face_deviation(J, 0.2, within, between, A), alone)
    J, within, _, _ = a_face()
    alone = identifiability.posterior_deviation(J, 0.2, within)
    torch.testing.assert_close(identifiability.face_deviation(J, 0.2, within), alone)


def test_a_face_is_what_the_joint_law_of_all_its_pixels_says():
    """Against one large Gaussian of all maps, the camera and all colours."""
    J, within, between, A = a_face()
    pixels, sigma = len(J), 0.2
    maps = torch.kron(torch.eye(pixels).double(), within) + torch.kron(torch.ones(pixels, pixels).double(), between)
    every, changes = torch.block_diag(*J), A.flatten(0, 1)
    colours = every @ maps @ every.T + changes @ changes.T + sigma**2 * torch.eye(3 * pixels).double()
    left = maps - maps @ every.T @ torch.linalg.solve(colours, every @ maps)
    found = identifiability.face_deviation(J, sigma, within, between, A)
    torch.testing.assert_close(found, left.diagonal().sqrt().view(pixels, 4))


def test_more_pixels_and_more_knowledge_never_hurt_a_face():
    J, within, between, A = a_face(12)
    few = identifiability.face_deviation(J[:4], 0.2, within, between, A[:4])
    all_of_it = identifiability.face_deviation(J, 0.2, within, between, A)
    alone = identifiability.posterior_deviation(J, 0.2, within + between, A @ A.mT)
    known = identifiability.face_deviation(J, 0.2, within, between)
    person_too = identifiability.face_deviation(J, 0.2, within)
    assert (all_of_it[:4] < few).all() and (few < alone[:4]).all()
    assert (known < all_of_it).all() and (person_too < known).all()
    # and impossible laws are refused
    refuses("above 0", identifiability.face_deviation, J, 0.0, within, between)
    refuses("covariance between faces", identifiability.face_deviation, J, 0.1, within, -between)
