"""Bayes for pixels and faces: on faces made by the model itself, where the answers are known."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import scipy.optimize
import torch
from conftest import refuses

from bioface import bayes, colour_table, degradation, face_posterior, image_formation, metrics, threads
from bioface.maps import Decomposition
from study import baselines

METHODS = (bayes.maximum_a_posteriori, bayes.posterior_mean)


def photographed(g, k, shading, shine, mask, b=(0.0, 0.0)):
    """What a camera (2,), or one for each face, sees of faces (N, H, W) of these maps in D65, all that it is."""
    maps = *bayes.fractions(np.stack([g, k], -1).clip(-1, 1)), shading, shine
    light = bayes.mean_camera_d65(len(g))[1]
    made = Decomposition.of_maps(*maps, np.tile(b, (len(g), 1))[: len(g)], light, np.zeros((*g.shape, 3)), mask)
    return dataclasses.replace(made, image=made.reconstruction)


def faces(seed, count=4, size=16, b=0.0, specular=0.02):
    """Faces of independent, skewed pigments, under a camera and D65."""
    rng = np.random.default_rng(seed)
    shape = (count, size, size)
    g = -0.2 + 0.15 * rng.gamma(2, 1, shape)
    k = 0.45 + 0.2 * rng.uniform(-1.5, 1.5, shape)
    shading = np.linspace(0.7, 1.3, size) * rng.uniform(0.9, 1.1, (count, 1, 1)) + rng.normal(0, 0.1, shape)
    made = photographed(g, k, shading, specular * rng.exponential(1, shape), rng.random(shape) < 0.8, (b, b))
    return dataclasses.replace(made, image=made.image.clip(0, 1))


@pytest.fixture(scope="module")
def prior():
    return bayes.Prior.learn(faces(0, count=8))


@pytest.fixture(scope="module")
def truth():
    return faces(1)


def means(method, truth, *learnt, **options):
    row = metrics.table1_row(method(truth, *learnt, **options), truth)
    return {column: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for column, v in row.items()}


def said_by(method):
    return lambda truth, *learnt: method(truth.image, truth.mask, *learnt)


MAPS = "melanin_coordinate", "haemoglobin_coordinate", "diffuse_shading", "specular_shading"


def answer(found, at):
    return [getattr(found, name)[at] for name in MAPS]


def takes_any_photo(method, *learnt):
    """Of one colour, of light below 0, of a single pixel."""
    mask = np.arange(16).reshape(4, 4) < np.array([16, 1])[:, None, None]
    for colour in (0.0, 0.5, 1.0):
        found = method(np.full((2, 4, 4, 3), colour), mask, *learnt)
        assert all(np.isfinite(m).all() for m in (found.melanin, found.diffuse_shading, found.albedo, found.camera_b))
        assert found.melanin_coordinate[0].std() < 1e-6
    found = method(np.random.default_rng(0).normal(0, 0.3, (2, 4, 4, 3)), mask, *learnt)
    assert np.isfinite(found.haemoglobin).all() and (found.diffuse_shading[mask] >= 0).all()


def refuses_bad_photos(method, truth, *learnt):
    image, mask = truth.image, truth.mask
    empty = mask & (np.arange(len(mask)) != 2)[:, None, None]
    for photos, masks, match in (
        (image[0], mask[0], "images"),
        (image, mask[:, :3], "expected a mask"),
        (image, empty, "empty mask"),
        (np.full_like(image, np.nan), mask, "NaN"),
    ):
        refuses(match, method, photos, masks, *learnt)


def test_prior_is_the_statistics_of_the_faces(prior):
    training = faces(0, count=8)
    m, coordinates = training.mask, (training.melanin_coordinate, training.haemoglobin_coordinate)
    assert prior.pigments == pytest.approx([c[m].mean() for c in coordinates])
    assert prior.diffuse_deviation == pytest.approx(training.diffuse_shading[m].std(), rel=1e-4)
    assert prior.specular == pytest.approx(0.02, rel=0.1)
    assert prior.colour == pytest.approx(training.image[m].mean(0), rel=1e-4)
    medians = np.array([[np.median(c[i][m[i]]) for i in range(8)] for c in coordinates])
    away = np.array([np.concatenate([c[i][m[i]] - np.median(c[i][m[i]]) for i in range(8)]) for c in coordinates])
    steps = np.arange(1 - bayes.GRID, bayes.GRID) * 2 / (bayes.GRID - 1)
    points = np.linspace(-1, 1, bayes.GRID)
    for law, at, expected in (
        (prior.law, points, prior.pigments),
        (prior.base, points, medians.mean(1)),
        (prior.scatter, steps, away.mean(1)),
    ):
        p = np.exp(law) / np.exp(law).sum()
        assert (p.sum(1) @ at, p.sum(0) @ at) == pytest.approx(expected, abs=0.01)
    assert np.sqrt(p.sum(1) @ at**2) == pytest.approx(np.sqrt((away[0] ** 2).mean()), rel=0.02)


def test_the_likeliest_is_the_least_of_the_objective(truth, prior):
    """Against every skin of the grid with the shadings from scipy's non-negative least squares."""
    sigma = bayes.SIGMA_LIKELIEST
    found = bayes.maximum_a_posteriori(truth.image, truth.mask, prior)
    b, e = bayes.mean_camera_d65(1)
    skins = bayes._Skins.every(b[0], e[0]).with_law(torch.from_numpy(prior.law).flatten())
    t, w = skins.colours.double().numpy(), skins.white.double().numpy()
    pixels = [(0, r, c) for r, c in np.argwhere(truth.mask[0])[:6]]
    for at in pixels:
        c, precision = truth.image[at].astype(float), prior.diffuse_deviation**-2
        costs = []
        for colour, log_prior in zip(t, skins.log_prior.double().numpy(), strict=True):
            A = np.array([[colour @ colour / sigma**2 + precision, colour @ w / sigma**2], [0, w @ w / sigma**2]])
            A[1, 0] = A[0, 1]
            rhs = np.array([colour @ c / sigma**2 + prior.diffuse * precision, w @ c / sigma**2 - 1 / prior.specular])
            L = np.linalg.cholesky(A)
            x = scipy.optimize.nnls(L.T, np.linalg.solve(L, rhs))[0]
            costs.append((0.5 * x @ A @ x - rhs @ x - log_prior, *x))
        best = int(np.argmin([cost[0] for cost in costs]))
        expected = *skins.coordinates[best].tolist(), *costs[best][1:]
        assert answer(found, at) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_the_expectation_is_that_of_the_joint_law(truth, prior):
    """Against a sum over skins and over a dense grid of both shadings."""
    sigma, at = 0.03, tuple(np.argwhere(truth.mask)[0])
    found = bayes._each_pixel(bayes.expected, sigma, truth.image, truth.mask, prior)
    b, e = bayes.mean_camera_d65(1)
    skins = bayes._Skins.every(b[0], e[0]).with_law(torch.from_numpy(prior.law).flatten())
    d, s = (
        g.flatten() for g in torch.meshgrid(torch.linspace(0, 2.5, 251), torch.linspace(0, 0.25, 126), indexing="ij")
    )
    log_shading = -0.5 * ((d - prior.diffuse) / prior.diffuse_deviation) ** 2 - s / prior.specular
    c = torch.from_numpy(truth.image[at]).float()
    sums = torch.zeros(5, dtype=torch.float64)
    edge = torch.where((s == 0), 0.5, 1.0)  # trapezoids along the specular shading
    for (g, k), log_prior, colour in zip(skins.coordinates, skins.log_prior, skins.colours, strict=True):
        miss = (c - d[:, None] * colour - s[:, None] * skins.white).square().sum(-1)
        p = (edge * torch.exp(log_prior + log_shading - miss / (2 * sigma**2))).double()
        sums += torch.stack([p.sum(), g * p.sum(), k * p.sum(), (d * p).sum(), (s * p).sum()])
    expected = (sums[1:] / sums[0]).tolist()
    assert answer(found, at) == pytest.approx(expected, abs=2e-3)
    assert found.specular_shading[at] == pytest.approx(expected[-1], abs=5e-4)


def test_the_expectation_is_less_wrong_than_the_likeliest_and_both_than_constants(prior):
    truth = faces(3)
    mean, likeliest, expected = (means(said_by(f), truth, prior) for f in (baselines.training_mean, *METHODS))
    assert all(expected[k] < likeliest[k] for k in ("melanin", "haemoglobin", "diffuse", "specular"))
    assert likeliest["melanin"] < 0.8 * mean["melanin"] and expected["haemoglobin"] < 0.9 * mean["haemoglobin"]
    assert expected["reconstruction"] < likeliest["reconstruction"] < 0.02


# --- whole faces


DRAWS = np.stack([np.linspace(-2.4, 2.4, 9), np.zeros(9)], -1).astype(np.float32)


def people(seed, count=4, size=24):
    """Faces of one skin each, give or take a little, in smooth light, by one after another of the cameras, D65."""
    rng = np.random.default_rng(seed)
    shape = (count, size, size)
    person = rng.normal((0.1, 0.4), 0.15, (count, 2))
    g, k = (person[:, i, None, None] + rng.normal(0, 0.04, shape) for i in range(2))
    shading = np.exp(np.linspace(-0.3, 0.3, size)) * rng.uniform(0.8, 1.2, (count, 1, 1)) + 0 * g
    b = DRAWS[4 * np.arange(count) % 9]
    return photographed(g, k, shading, rng.exponential(0.02, shape), rng.random(shape) < 0.8, b)


@pytest.fixture(scope="module")
def persons():
    return people(1, count=6)


@pytest.fixture(scope="module")
def known():
    return bayes.Prior.learn(people(0, count=60))


LIGHTS = bayes.mean_camera_d65(9)[1]


def by_draws(faces, prior, draws=DRAWS):
    """Without noise: pixels that differ by themselves look like it."""
    light, exposure = LIGHTS[:1].repeat(len(draws), 0), np.ones(len(draws))
    with mock.patch.object(face_posterior, "noise_of", return_value=0.0):
        return face_posterior.image_posterior(faces.image, faces.mask, prior, draws, light, exposure)


def test_a_face_tells_its_camera(persons, known):
    """Nearly: other skins under neighbouring cameras would look alike."""
    found = by_draws(persons, known)
    assert np.sqrt(np.mean((found.camera_b - persons.camera_b)[:, 0] ** 2)) < 0.6 * DRAWS[:, 0].std()
    assert np.corrcoef(found.camera_b[:, 0], persons.camera_b[:, 0])[0, 1] > 0.8
    np.testing.assert_allclose(found.illuminant, persons.illuminant, rtol=1e-5)


def test_what_pixels_share_makes_each_of_them_better(persons, known):
    """Better than a pixel by itself under its true, mean camera; haemoglobin better still with it known."""
    one = persons[1:2]
    assert (one.camera_b == 0).all()
    alone, together = (means(f, one, known) for f in (said_by(bayes.posterior_mean), by_draws))
    for column in ("melanin", "diffuse", "albedo"):
        assert together[column] < 0.9 * alone[column]
    constant, together = (means(f, persons, known) for f in (said_by(baselines.training_mean), by_draws))
    each = [persons[face : face + 1] for face in range(len(persons))]
    told = np.mean([means(by_draws, one, known, draws=one.camera_b)["haemoglobin"] for one in each])
    assert told < 0.9 * together["haemoglobin"] < 0.9 * constant["haemoglobin"]
    assert together["reconstruction"] < 0.03


def test_draws_weigh_what_bayes_gives_them(persons, known):
    """Against sums in double precision, skin by skin and person by person; under exposures, too."""
    colours = torch.from_numpy(persons.image[0][persons.mask[0]][:20])
    exposure = np.linspace(0.5, 1.3, 9)
    scene = face_posterior.Scene(known, DRAWS, LIGHTS, exposure)
    sigma, some = 0.01, torch.arange(bayes.GRID**2).view(bayes.GRID, -1)[::2, ::2].flatten()
    everyone = torch.arange(len(scene.people))
    found = scene.log_weights(colours, sigma, 0.0, exposure, everyone, face_posterior.EVERY)
    found = found.flatten().softmax(0).view(9, -1)
    logs = scene.log_people.double().numpy() + np.zeros((9, 1))
    scatter = scene.scatter[:, some].double()
    for j, factor in enumerate(exposure):
        under, seen = scene.skins.under_draw(j)[some], known.exposed(float(factor))
        relative, top, _, _ = bayes.likelihood(bayes._Quadratic.of(colours, under, seen, sigma), torch.zeros(()))
        gain = relative.double().log() + top - 2 * np.log(factor)
        for u, share in enumerate(scatter / scatter.sum(-1, keepdim=True)):
            logs[j, u] += (gain + share.log()).logsumexp(-1).mean() * face_posterior.COUNTS
    expected = np.exp(logs - logs.max())
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), rtol=0.02, atol=1e-5)
    centre = (scene.scatter @ scene.skins.coordinates - scene.people).abs()
    inside = scene.people.abs().amax(-1) < 0.6
    assert centre[inside].max() < 0.05  # pixels scatter around the person's skin


def test_draws_that_stand_for_all():
    """In the middle of a cluster each, with the weight of all of it; a draw of no weight never does."""
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0.0], [4.0, 1.0], [9.0, 8.0]])
    around = (middles[:, None] + rng.normal(0, 0.1, (3, 40, 2))).reshape(-1, 2)
    values, weight = torch.from_numpy(np.concatenate([middles, around])), torch.ones(123).double()
    weight[0] = 0
    chosen = face_posterior.representatives(weight / weight.sum(), values, 3)
    shares = {int(abs(values[j].numpy() - middles).sum(1).argmin()): share for j, share in chosen}
    assert 0 not in dict(chosen) and shares == pytest.approx({0: 40 / 122, 1: 41 / 122, 2: 41 / 122})
    assert all(abs(values[j].numpy() - middles).sum(1).min() < 0.1 for j, _ in chosen)
    alone = face_posterior.representatives(torch.tensor([0.0, 1.0, 0.0]), torch.rand(3, 2), 4)
    assert alone == [(1, 1.0)]
    # also where each draw of a cluster is far less likely than the likeliest of all
    weight = torch.cat([torch.full((140,), 0.005), torch.tensor([0.3])])
    values = torch.cat([torch.linspace(9.9, 10.1, 140), torch.zeros(1)])[:, None]
    found = dict(face_posterior.representatives(weight, values, 2))
    assert found.pop(140) == pytest.approx(0.3)
    ((middle, share),) = found.items()
    assert values[middle, 0] == pytest.approx(10, abs=0.05) and share == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("method", [*METHODS, pytest.param(face_posterior.image_posterior, marks=pytest.mark.slow)])
def test_any_photo_is_taken_apart_bad_input_refused_and_others_and_threads_change_nothing(method, persons, known):
    learnt = (known,) if method in METHODS else (known, DRAWS, LIGHTS, np.ones(9))
    takes_any_photo(method, *learnt)
    refuses_bad_photos(method, persons, *learnt)
    together = method(persons.image, persons.mask, *learnt)[2]
    with threads.number(2):
        alone = method(persons.image[2:3], persons.mask[2:3], *learnt)[0]
        assert torch.get_num_threads() == 2
    for name in (*MAPS, "camera_b", "illuminant"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


def test_a_measured_prior_finds_the_shading_without_the_truth():
    """Pixels taken for places. The mean photo over the mean colour of the faces' own skins is their mean shading."""
    made = faces(0, count=8, specular=0.0)
    person = np.broadcast_to(np.arange(8)[:, None, None], made.mask.shape)[made.mask]
    skins = made.melanin[made.mask], made.haemoglobin[made.mask]
    mixed = np.random.default_rng(0).permutation(len(person))
    found = bayes.Prior.measured(*(s[mixed] for s in skins), made.image, made.mask, person[mixed])
    learnt = bayes.Prior.learn(faces(0, count=8))
    assert found.diffuse == pytest.approx(made.diffuse_shading[made.mask].mean(), rel=0.02)
    for name in ("law", "pigments", "base", "scatter"):  # told who is who, places stand for pixels
        assert getattr(found, name) == pytest.approx(getattr(learnt, name)), name
    assert found.albedo == pytest.approx(learnt.albedo, rel=0.01)
    twice = bayes.Prior.measured(*skins, 2 * made.image, made.mask, person)
    assert twice.diffuse == pytest.approx(2 * found.diffuse) and twice.specular == pytest.approx(2 * found.specular)


# --- exposure, shading, tables


def smooth_faces(seed, count=3, size=32, brow=False):
    """Faces of smooth shading, D65 and the mean camera; with a band of dark melanin for a brow."""
    rng = np.random.default_rng(seed)
    shape = (count, size, size)
    y, x = np.mgrid[:size, :size] / size - 0.5
    shading = np.exp(0.5 * x + 0.3 * y) * rng.uniform(0.8, 1.2, (count, 1, 1))
    person = rng.normal((0.0, 0.4), 0.1, (count, 2))
    g, k = (person[:, i, None, None] + 0.06 * np.sin(9 * (x + rng.random()) + 7 * i * y) for i in range(2))
    where = (np.abs(y + 0.2) < 0.05) & (np.abs(x) < 0.3)
    if brow:
        g = np.where(where, g + 0.5, g)
    shine = 0.02 * (1 + np.sin(11 * x + 8 * y)) + np.zeros(shape)
    made = photographed(g, k, shading, shine, x**2 + y**2 + 0 * g < 0.22)
    return made, where & made.mask[0]


@pytest.fixture(scope="module")
def even():
    return bayes.Prior.learn(smooth_faces(0, 20)[0])


def under(faces, prior, exposure=(1.0,)):
    draws = *bayes.mean_camera_d65(len(exposure)), np.asarray(exposure)
    return face_posterior.image_posterior(faces.image, faces.mask, prior, *draws)


def test_a_darker_photo_is_the_same_skin(even):
    """With exposures drawn; without, darkness is taken for melanin."""
    faces, _ = smooth_faces(1)
    dark = dataclasses.replace(faces, image=faces.image / 3)
    draws = 2.0 ** np.arange(-2.5, 0.6, 0.25)
    change = {}
    for name, exposure in (("drawn", draws), ("fixed", (1.0,))):
        light, less = (under(f, even, exposure) for f in (faces, dark))
        change[name] = np.abs(less.melanin_coordinate - light.melanin_coordinate)[faces.mask].mean()
        if name == "drawn":
            np.testing.assert_allclose(less.exposure / light.exposure, 1 / 3, rtol=0.1)
        else:
            assert (light.exposure == 1).all()
    assert change["drawn"] < 0.02 < 0.05 < change["fixed"]


@pytest.mark.parametrize("tone", [-0.08, 0.08])
def test_a_tone_curve_is_found_and_undone(tone, even, monkeypatch):
    """Where there is one; without, skin is taken for other skin."""
    faces, _ = smooth_faces(1)
    curved = image_formation.srgb_decode(degradation.tone_curve(image_formation.srgb_encode(faces.image), tone))
    straight, slope = colour_table.straightened(curved, tone)
    np.testing.assert_allclose(straight, faces.image, atol=1e-4)
    more = colour_table.straightened(curved + np.float32(1e-3), tone)[0]
    np.testing.assert_allclose(slope[faces.mask], ((more - straight) / 1e-3)[faces.mask], rtol=0.02)
    scene = face_posterior.Scene(even, *bayes.mean_camera_d65(5), 2.0 ** np.arange(-1, 1.5, 0.5))
    assert scene.look(faces.image[0], faces.mask[0]).tone == 0
    assert scene.look(curved[0], faces.mask[0]).tone == pytest.approx(tone, abs=0.04)
    seen, error = dataclasses.replace(faces, image=curved), []
    for bar in (face_posterior.CURVED, 1e9):
        monkeypatch.setattr(face_posterior, "CURVED", bar)
        found = under(seen, even, scene.exposure)
        error.append(metrics.rmse(found.melanin_coordinate, faces.melanin_coordinate, faces.mask).mean())
    assert error[0] < 0.7 * error[1]


def test_a_brow_is_pigment_where_shading_is_smooth(even):
    faces, brow = smooth_faces(2, brow=True)
    found = under(faces, even), bayes.posterior_mean(faces.image, faces.mask, even)
    smooth, alone = (np.abs(d.melanin_coordinate - faces.melanin_coordinate)[:, brow].mean() for d in found)
    assert smooth < 0.7 * alone
    smooth, alone = (metrics.rmse(d.diffuse_shading, faces.diffuse_shading, faces.mask).mean() for d in found)
    assert smooth < 0.8 * alone


def test_deviations_are_those_of_the_errors(even):
    """Of every map, or more: the prior knows other faces too. Unknown outside the mask, and to the likeliest."""
    faces, _ = smooth_faces(3, 6)
    for found in (under(faces, even), bayes.posterior_mean(faces.image, faces.mask, even)):
        of_fractions = (
            (found.melanin_deviation, found.melanin, 0.43),
            (found.haemoglobin_deviation, found.haemoglobin, 0.07),
        )
        slopes = (1.485 * top * (v / top).clip(1e-6) ** (2 / 3) for _, v, top in of_fractions)
        of_coordinates = (d / slope for (d, _, _), slope in zip(of_fractions, slopes, strict=True))
        sure = *of_coordinates, found.diffuse_deviation, found.albedo_deviation
        names = "melanin_coordinate", "haemoglobin_coordinate", "diffuse_shading", "albedo"
        for name, deviation in zip(names, sure, strict=True):
            off = (getattr(found, name) - getattr(faces, name))[faces.mask]
            assert 0.3 < np.sqrt((off**2).mean() / (deviation[faces.mask] ** 2).mean()) < 1.5, name
        assert np.isnan(found.melanin_deviation[~faces.mask]).all()
    likeliest = bayes.maximum_a_posteriori(faces.image, faces.mask, even)
    assert np.isnan(likeliest.melanin_deviation).all() and np.isnan(likeliest.exposure).all()


def test_the_table_gives_what_it_was_made_of(even):
    """But for errors of a small part of the deviations."""
    faces, _ = smooth_faces(4, 1, 64)
    scene = face_posterior.Scene(even, DRAWS, LIGHTS, np.ones(9))
    look = scene.look(faces.image[0], faces.mask[0])
    colours = torch.from_numpy(faces.image[0][faces.mask[0]])
    exact, function = look.expected(colours), mock.Mock(wraps=look.expected)
    found = colour_table.looked_up(colours, function)
    off = (found - exact)[:, :7].square().mean(0) / exact[:, 7:].square().mean(0)
    assert off.sqrt().max() < 0.2 and len(function.call_args.args[0]) < len(colours)


def test_a_table_is_exact_where_it_is_linear_and_has_wider_steps_for_many_colours(monkeypatch):
    colours, function = torch.rand(20_000, 3), mock.Mock(wraps=torch.log)
    for most in (colour_table.MOST_POINTS, 5000):
        monkeypatch.setattr(colour_table, "MOST_POINTS", most)
        found = colour_table.looked_up(colours, function)
        np.testing.assert_allclose(found, colours.clamp_min(colour_table.DARKEST).log(), atol=1e-3)
    many, few = (len(call.args[0]) for call in function.call_args_list)
    assert few <= 5000 < many


def test_noise_is_found_but_not_shading():
    rng = np.random.default_rng(0)
    mask = np.ones((64, 64), bool)
    shading = np.exp(rng.normal(0, 0.1, (64, 64, 1))) * np.array([0.5, 0.25, 0.15])
    assert face_posterior.noise_of(shading.astype(np.float32), mask) < 1e-6
    noisy = shading + rng.normal(0, 0.02, shading.shape[:2] + (3,))
    assert face_posterior.noise_of(noisy.astype(np.float32), mask) == pytest.approx(0.02, rel=0.1)
    assert face_posterior.noise_of(noisy, mask & (np.arange(64) < 1)) == 0  # too few pixels to tell
