"""The multispectral fit: known truth, solvers against one another, predicted deviations, bad input."""

import numpy as np
import pytest
import scipy.io
import torch
from conftest import refuses

from bioface import identifiability, illumination, skin, smith2019, spectra
from bioface.datasets import skin_spectra
from bioface.smith2019 import Status, fit
from study import minima

E = illumination.standard("D65").numpy() * 33  # mean 1


def radiance_of(maps, model="layered"):
    return E * (maps[:, 2:3] * skin.reflectance(maps[:, 0], maps[:, 1], model) + maps[:, 3:])


def pixels(n, seed=0, noise=0.0, highlights=0.5):
    """Random true maps (n, 4) and their radiance (n, 33) under D65."""
    g = np.random.default_rng(seed)
    maps = np.stack([g.uniform(*ends, n) for ends in ((0.03, 0.2), (0.01, 0.06), (0.4, 1.3), (0.02, 0.3))], -1)
    maps[:, 3] *= g.random(n) < highlights
    clean = radiance_of(maps)
    return maps, clean + noise * g.standard_normal(clean.shape)


@pytest.mark.parametrize("model", skin.MODELS)
@pytest.mark.parametrize("solver", ["varpro", pytest.param("lm", marks=pytest.mark.slow)])
def test_known_truth_is_recovered(solver, model):
    maps, _ = pixels(20)
    if model == "published":
        maps[:, 1] /= 5  # the published model swallows blue light above a trace of blood
    found = fit(radiance_of(maps, model), illuminant=E, model=model, solver=solver)
    assert found.converged.all() and found.residual.max() < 1e-6
    assert np.abs(found.maps - maps).max() < 1e-4


@pytest.mark.slow
def test_varpro_reaches_the_best_of_many_starts():
    _, radiance = pixels(12, noise=0.002)
    ours = fit(radiance, illuminant=E)
    maps, residual = minima.multistart(radiance, illuminant=E, starts=4)
    assert maps.shape == (12, 4, 4)
    assert np.allclose(residual.min(1), ours.residual, rtol=1e-3)
    assert np.allclose(maps[np.arange(12), residual.argmin(1)], ours.maps, atol=1e-3)
    refuses("NaN or infinity in 2 pixels", minima.multistart, np.full((2, 33), np.nan))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_first_order_solvers_get_better_with_steps_and_report_that_they_stopped(solver):
    _, radiance = pixels(50, noise=0.002)
    few = fit(radiance, illuminant=E, solver=solver, steps=5)
    assert fit(radiance, illuminant=E, solver=solver, steps=100).residual.mean() < few.residual.mean()
    assert (few.status == Status.STOPPED).all() and "stopped" in str(few)


def test_predicted_deviations_are_the_observed_ones():
    maps, radiance = pixels(6000, noise=0.002, highlights=1.0)
    found = fit(radiance, illuminant=E, sigma=0.002)
    inner = found.status == Status.CONVERGED
    assert inner.mean() > 0.8
    ratio = ((found.maps - maps)[inner] / found.standard_deviation[inner]).std(0)
    assert ((ratio > 0.9) & (ratio < 1.1)).all(), ratio
    # without a given noise level, each pixel's residual stands in for it
    own = fit(radiance, illuminant=E)
    assert np.nanmedian(own.standard_deviation / found.standard_deviation) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("bounds", smith2019.BOUNDS)
def test_residuals_and_deviations_are_those_of_the_maps(bounds):
    """They are taken from the last look, before the last step."""
    found = fit(pixels(500, noise=0.002)[1], illuminant=E, sigma=0.002, bounds=bounds)
    missed = pixels(500, noise=0.002)[1] - radiance_of(found.maps)
    np.testing.assert_allclose(found.residual, np.sqrt((missed**2).mean(-1)), rtol=1e-6)
    J, known = identifiability.jacobian(*found.maps[:, :3].T, E), np.isnan(found.standard_deviation)
    expected = identifiability.standard_deviation(J, 0.002, ~known)
    np.testing.assert_allclose(found.standard_deviation[~known], expected[~known], rtol=0.01)


def test_a_map_at_its_bound_is_said_to_be_there():
    maps, radiance = pixels(200, noise=0.002, highlights=0.0)
    found = fit(radiance, illuminant=E, bounds="paper")
    at_bound = found.status == Status.AT_BOUND
    no_highlight = found.specular_shading == 0
    assert 0.3 < no_highlight.mean() < 0.8  # truth is exactly at the bound: noise pushes about half beyond it
    assert at_bound[no_highlight].all()
    assert np.isnan(found.standard_deviation[no_highlight, 3]).all()
    assert (found.haemoglobin >= 0.02).all() and (found.melanin >= 0.013).all()
    assert "at bound" in str(found)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e15])  # 1e15: photons, as ISET counts them
@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("solver", ["varpro", "lm"])
def test_the_unit_of_radiance_does_not_matter(solver, light, unit):
    """Cube and light in another unit, or a dim or bright cube under the same light."""
    maps, radiance = pixels(5, noise=0.002)
    a = fit(radiance, illuminant=E, sigma=0.002, solver=solver)
    b = fit(unit * radiance, illuminant=unit * E if light else E, sigma=0.002 * unit, solver=solver)
    shade = 1 if light else unit
    assert np.allclose(a.maps, b.maps / [1, 1, shade, shade], atol=1e-6)
    assert np.allclose(a.residual, b.residual / unit, rtol=1e-6)
    deviation = b.standard_deviation / [1, 1, shade, shade]
    assert np.allclose(a.standard_deviation, deviation, rtol=1e-4, equal_nan=True)
    assert (a.status == b.status).all()


@pytest.mark.filterwarnings("ignore:no skin fits")
@pytest.mark.parametrize("solver", ["varpro", "lm", "adam", "sgd"])
def test_pixels_without_skin_say_so_and_odd_ones_do_not_break_the_fit(solver):
    """Black, a pure highlight, slightly negative: no diffuse light, so no pigments."""
    spike = np.where(np.arange(33) == 20, 1.0, 0.01)
    skin_of = pixels(1)[1][0]
    odd = np.stack([np.zeros(33), 0.3 * E, -0.001 * E, skin_of, 5 * E, spike, skin_of - 0.02])
    found = fit(odd, illuminant=E, solver=solver, steps=50)
    assert np.isfinite(found.residual).all()
    assert np.isfinite(found.maps).all() and (found.maps >= 0).all()
    if solver in ("varpro", "lm"):  # which arrive
        none = np.flatnonzero(found.status == Status.NO_SKIN)
        assert {0, 2} <= set(none) and "no skin" in str(found)
        assert found.converged[3] and not found.converged[none].any()
        assert np.isinf(found.standard_deviation[none, :2]).all()
        assert found.specular_shading[1] == pytest.approx(0.3, abs=1e-4)


ISET_BANDS = np.linspace(415, 950, 148)


@pytest.mark.parametrize(
    "source",
    [
        ISET_BANDS,
        np.arange(400.0, 721, 5),
        np.arange(400.0, 721, 20),
        np.arange(400.0, 721, 40),
    ],
)
def test_predicted_deviations_hold_on_any_bands(source):
    """Interpolated bands have less noise than the cube's own; bands wider than the grid are fitted as they are."""
    g, n = np.random.default_rng(0), 3000
    R = np.interp(source, spectra.WAVELENGTHS, skin.reflectance(0.1, 0.03))
    if np.diff(source)[0] > 10:
        R = skin.reflectance(np.float64(0.1), np.float64(0.03), wavelengths=source)
    found = fit(0.8 * R + 0.1 + 0.002 * g.standard_normal((n, len(source))), source, sigma=0.002)
    inner = found.status == Status.CONVERGED
    errors = found.maps[inner] - found.maps[inner].mean(0)
    ratio = errors.std(0) / found.standard_deviation[inner].mean(0)
    assert inner.mean() > 0.95
    assert ((ratio > 0.93) & (ratio < 1.07)).all(), ratio


def test_lines_of_a_lamp_are_not_smeared():
    """Under F11, whose lines are narrower than any band, radiance / illuminant is what is interpolated."""
    nm, grid = np.arange(400.0, 721, 4), spectra.WAVELENGTHS.numpy()
    e = np.interp(nm, grid, illumination.standard("F11"))
    R = skin.reflectance(np.float64(0.1), np.float64(0.03), wavelengths=nm)
    seen = (0.8 * R + 0.05)[None]
    light = np.interp(grid, nm, e)
    found = fit(e * seen, nm, e)
    expected = fit(light * np.interp(grid, nm, seen[0])[None], grid, light)
    assert np.allclose(found.maps, expected.maps, atol=1e-6)
    smeared = fit(np.interp(grid, nm, e * seen[0])[None], grid, light)
    assert np.abs(smeared.maps - expected.maps).max() > 1e-4


def test_any_array_of_numbers_goes_in():
    maps, radiance = pixels(3)
    expected = fit(radiance, illuminant=E).maps
    backwards = np.ascontiguousarray(radiance[:, ::-1])[:, ::-1]
    frozen = E.copy()
    frozen.flags.writeable = False
    cubes = (
        radiance.astype(">f8"),
        radiance.tolist(),
        backwards,
        torch.tensor(radiance, requires_grad=True),
    )
    for cube in cubes:
        assert np.allclose(fit(cube, illuminant=frozen).maps, expected, atol=1e-9)
    single = fit(torch.from_numpy(radiance).float(), illuminant=torch.from_numpy(E).float())
    assert np.abs(single.maps - maps).max() < 1e-3
    counts = np.round(radiance * 60000).astype(np.uint16)
    found = fit(counts, illuminant=E * 60000, mask=np.array([255, 200.6, 1]))
    assert np.isfinite(found.melanin).tolist() == [True, True, False]
    assert np.abs(found.maps - maps)[:2].max() < 1e-2


def test_bands_in_any_order_short_or_fine_grids_and_reflectance():
    maps, radiance = pixels(20)
    order = np.random.default_rng(0).permutation(33)
    found = fit(radiance[:, order], spectra.WAVELENGTHS.numpy()[order], E[order])
    assert np.abs(found.maps - maps).max() < 1e-4 and (np.diff(found.wavelengths) > 0).all()
    found = fit((radiance / E)[:, 2:], spectra.WAVELENGTHS[2:])
    assert found.wavelengths.tolist() == list(range(420, 721, 10))
    assert np.abs(found.maps - maps).max() < 1e-4
    R = np.interp(ISET_BANDS, spectra.WAVELENGTHS, skin.reflectance(0.1, 0.03))
    found = fit(np.stack([0.8 * R + 0.05] * 3), ISET_BANDS)
    assert len(found.wavelengths) == 31  # points of the grid are reached
    assert np.abs(found.maps - [0.1, 0.03, 0.8, 0.05]).max() < 0.01  # linear interpolation, twice


def test_image_shape_mask_and_nan_outside_it_whatever_the_chunk(monkeypatch):
    maps, radiance = pixels(24)
    cube, mask = radiance.reshape(4, 6, 33), np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    cube[0, 0] = np.nan  # outside the mask: nobody looks
    for chunk in (smith2019.CHUNK, 4):
        monkeypatch.setattr(smith2019, "CHUNK", chunk)
        found = fit(cube, illuminant=E, mask=mask)
        assert found.melanin.shape == (4, 6) and found.standard_deviation.shape == (4, 6, 4)
        assert ((found.status == Status.OUTSIDE) == ~mask).all()
        assert np.abs(found.maps[mask] - maps.reshape(4, 6, 4)[mask]).max() < 1e-4
        assert (np.isfinite(found.melanin) == mask).all()


def green(n):
    """Spectra (n, 33) of something green, of several brightnesses."""
    bell = np.exp(-(((np.arange(400, 721, 10) - 550) / 40) ** 2))
    return (0.1 + 0.5 * bell) * np.linspace(0.5, 1, n)[:, None]


@pytest.mark.parametrize("solver", ["varpro", "lm"])
def test_a_fit_says_when_no_skin_fits(solver):
    with pytest.warns(UserWarning, match=r"no skin fits: the median residual is \d+\.\d % of the radiance"):
        found = fit(green(3), solver=solver)
    assert found.doubt and (found.misfit > smith2019.UNLIKE_SKIN).all()
    np.testing.assert_allclose(found.misfit, found.residual / np.sqrt((green(3) ** 2).mean(-1)))
    bounded = fit(green(3), solver=solver, bounds="paper")  # no warning there
    assert bounded.residual.min() >= found.residual.min()


def test_noise_is_no_reason_to_doubt_and_measured_skin_is_believed(issa_build, monkeypatch):
    _, radiance = pixels(400, noise=0.05)
    with pytest.warns(UserWarning, match="noisier than sigma says"):
        assert fit(radiance, illuminant=E).doubt
    assert not fit(radiance, illuminant=E, sigma=0.05).doubt
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    measured = skin_spectra.load("issa")
    found = fit(measured.reflectance, measured.wavelengths)
    assert not found.doubt and 0.985 < (found.misfit < smith2019.UNLIKE_SKIN).mean() < 0.995


@pytest.mark.parametrize("number", [1, 3, 7])
def test_portraits_whose_spectra_were_made_up_are_doubted(real_file, number):
    """Three scenes whose spectra were estimated from a few broad channels: no blood, flat at both ends."""
    file = real_file(f"iset_scenes/people_small_{number}_scene.mat")
    scene = scipy.io.loadmat(file, simplify_cells=True)["scene"]
    face = scene["data"]["photons"][60:100:5, 50:100:5].astype(float)
    light = scene["illuminant"]["data"]["photons"].astype(float)
    with pytest.warns(UserWarning, match="no skin fits"):
        fit(face, scene["spectrum"]["wave"].astype(float), light)


def test_hessian_at_a_perfect_fit_is_the_gauss_newton_matrix():
    maps, radiance = pixels(3)
    J = identifiability.jacobian(*maps[:, :3].T, E)
    H = minima.hessian(maps, radiance, illuminant=E)
    assert np.allclose(H, J.swapaxes(1, 2) @ J, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cube=np.ones((4, 20))), "one band per wavelength"),
        (dict(cube=np.ones(33)), "one band per wavelength"),
        (dict(cube=np.full((4, 33), np.nan)), "NaN or infinity in 4 pixels"),
        (dict(illuminant=np.ones(20)), "illuminant of 33 bands"),
        (dict(illuminant=np.r_[0.0, np.ones(32)]), "at 400 nm"),
        (dict(illuminant=np.r_[np.ones(32), np.nan]), "at 720 nm"),
        (dict(mask=np.zeros(4, bool)), "an empty one"),
        (dict(mask=np.ones(5, bool)), "a mask of shape"),
        (dict(wavelengths=np.arange(800, 1130, 10.0)), "at least 4 bands within 400–720 nm"),
        (dict(wavelengths=np.r_[400.0, np.arange(400, 711, 10)]), "wavelengths in nm that rise"),
        (dict(cube=np.ones((4, 33)) * 1j), "a cube made of real numbers"),
        (dict(mask=np.array([1, 0, np.nan, 1])), "found NaN in it"),
        (dict(sigma=-1.0), "sigma to be one number above 0"),
        (dict(steps=0), "steps to be one number above 0"),
        (dict(learning_rate=float("nan")), "learning_rate to be one number above 0"),
        (dict(solver="varpo"), "did you mean 'varpro'"),
        (dict(model="publishd"), "did you mean 'published'"),
        (dict(bounds="papers"), "did you mean 'paper'"),
        (dict(bounds=((0.5, 0.1), (0, 1))), "expected bounds"),
    ],
)
def test_bad_input_gets_one_clear_error(change, message):
    refuses(message, fit, **dict(cube=np.ones((4, 33))) | change)
