"""What must hold of the physics for any skin, light, camera and shading, not for chosen ones: energy, order, round
trips, and the scales that must not matter. Hypothesis draws them; every run draws the same.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bioface import camera, illumination, image_formation, skin, smith2019
from bioface.camera import CameraModel
from bioface.datasets import nfe

repeatable = settings(max_examples=100, derandomize=True, deadline=None, database=None)
few = settings(repeatable, max_examples=25)

MODELS = st.sampled_from(sorted(skin.MODELS))
ROWS = st.sampled_from(sorted(camera.ROW_SUMS))


def number(low, high):
    """A number within [low, high]; not a denormal one, which bioface has the processor take for zero."""
    return st.floats(low, high, allow_subnormal=False)


def floats(low, high, shape=()):
    """Arrays of such numbers."""
    return arrays.arrays(np.float64, shape, elements=number(low, high))


SCALES = number(1e-4, 1e4)


def melanin(shape=(), top=0.43):
    return floats(0, top, shape)


def haemoglobin(shape=(), top=0.07):
    return floats(0, top, shape)


@st.composite
def lights(draw):
    """A mixture (33,) of the CIE illuminants, any shares and temperature."""
    weights = draw(floats(0, 1, (14,)))
    assume(weights.sum() > 1e-3)
    return illumination.mix(torch.from_numpy(weights), torch.tensor(draw(number(4000, 25000)))).numpy()


@st.composite
def cameras(draw):
    """Sensitivities (3, 33) of any camera of the statistical model."""
    return CameraModel.load().sensitivity(draw(floats(-3, 3, (2,))))


@st.composite
def grids(draw):
    """Any rising wavelengths within 400–720 nm."""
    return np.sort(np.array(draw(st.lists(number(400, 720), min_size=1, max_size=5, unique=True))))


SHAPE = (2, 3)


@st.composite
def maps(draw):
    """Melanin, haemoglobin, diffuse and specular shading (2, 3), inside the table."""
    shadings = floats(0, 2, SHAPE), floats(0, 1, SHAPE)
    return tuple(draw(m) for m in (melanin(SHAPE), haemoglobin(SHAPE), *shadings))


@pytest.mark.slow
@repeatable
@given(melanin((4,), 1), haemoglobin((4,), 1), MODELS, grids())
def test_skin_neither_makes_light_nor_takes_more_than_there_is(m, h, model, wavelengths):
    """In single precision, too; and no pixel sees the others."""
    single = skin.reflectance(m.astype(np.float32), h.astype(np.float32), model, wavelengths)
    R = skin.reflectance(m.astype(np.float32).astype(float), h.astype(np.float32).astype(float), model, wavelengths)
    assert R.shape == (4, len(wavelengths)) and R.dtype == np.float64 and single.dtype == np.float32
    assert ((R >= 0) & (R <= 1)).all() and ((single >= 0) & (single <= 1)).all()
    np.testing.assert_allclose(single, R, rtol=2e-4, atol=1e-6)
    alone = [skin.reflectance(*np.float64(np.float32([m[k], h[k]])), model, wavelengths) for k in range(4)]
    np.testing.assert_allclose(alone, R, rtol=1e-12)


@repeatable
@given(melanin((), 1), melanin((), 1), haemoglobin((), 1), MODELS, grids())
def test_more_of_a_pigment_never_brightens(one, other, h, model, wavelengths):
    """Melanin anywhere; blood in the Soret and the yellow bands, where it absorbs most: in the red, blood that takes
    the place of bloodless skin may brighten it."""
    less, more = (np.float64(value) for value in sorted((float(one), float(other))))
    bright, dark = (skin.reflectance(m, h, model, wavelengths) for m in (less, more))
    assert (dark <= bright * (1 + 1e-12)).all()
    bright, dark = (skin.reflectance(h, b, "layered", np.array([420.0, 540, 580])) for b in (less, more))
    assert (dark <= bright * (1 + 1e-12)).all()


@repeatable
@given(cameras(), lights(), floats(0, 1, (5, 33)))
def test_white_balanced_raw_of_any_surface_lies_between_black_and_white(S, e, reflectance):
    raw = camera.white_balance(reflectance * e @ S.T, S, e)
    assert ((raw >= 0) & (raw <= 1 + 1e-9)).all()


@repeatable
@given(floats(-3, 3, (2,)))
def test_no_camera_answers_less_than_nothing(b):
    S = CameraModel.load().sensitivity(b)
    assert (S >= 0).all() and (S.sum(-1) > 0.5).all()


@repeatable
@given(floats(-1, 1, (3, 3, 3)), arrays.arrays(bool, (3, 3)))
def test_normals_there_and_back(vectors, mask):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    assume((length > 1e-3).all())
    normals = vectors / length
    decoded = nfe.decode_normals((normals + 1) / 2, mask)
    np.testing.assert_allclose(decoded[mask], normals[mask], atol=1e-9)
    assert (decoded[~mask] == 0).all()


SKIN = st.tuples(number(0.005, 0.35), number(0.005, 0.1), number(0.2, 2), number(0, 0.4))


@pytest.mark.slow
@few
@given(st.lists(SKIN, min_size=1, max_size=6), lights(), SCALES)
def test_a_rendered_pixel_is_fitted_back_whatever_the_light(pixels, e, scale):
    m, h, diffuse, specular = (np.array(v)[None] for v in zip(*pixels, strict=True))
    light = scale * (e + 1e-3)  # the fit divides by it
    found = smith2019.fit(image_formation.render_spectral(m, h, diffuse, specular, light), illuminant=light)
    for name, true in zip(
        ("melanin", "haemoglobin", "diffuse_shading", "specular_shading"), (m, h, diffuse, specular), strict=True
    ):
        np.testing.assert_allclose(getattr(found, name), true, atol=2e-4, rtol=2e-3, err_msg=name)


@pytest.mark.slow
@repeatable
@given(maps(), lights(), cameras(), SCALES, SCALES, st.sampled_from(["table", "exact"]), MODELS, ROWS)
def test_the_strength_of_light_and_camera_cancels(maps, e, S, light_scale, camera_scale, method, model, rows):
    image = image_formation.render(*maps, e, S, model, rows, method)
    scaled = image_formation.render(*maps, e * light_scale, S * camera_scale, model, rows, method)
    np.testing.assert_allclose(scaled, image, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@repeatable
@given(maps(), lights(), cameras(), number(0, 10), st.sampled_from(["table", "exact"]))
def test_an_image_is_linear_in_its_shadings(maps, e, S, factor, method):
    m, h, diffuse, specular = maps

    def image(d, s):
        return image_formation.render(m, h, d, s, e, S, method=method)

    none = np.zeros(SHAPE)
    np.testing.assert_allclose(image(diffuse, none) + image(none, specular), image(diffuse, specular), atol=1e-9)
    np.testing.assert_allclose(image(factor * diffuse, factor * specular), factor * image(*maps[2:]), atol=1e-7)


@repeatable
@given(lights(), cameras())
@example(illumination.standard("A").numpy(), CameraModel.load().sensitivity(np.array([3.0, -3.0])))
@example(illumination.standard("F2").numpy(), CameraModel.load().sensitivity(np.array([-3.0, 3.0])))
def test_white_is_white_whatever_the_light_and_the_camera(e, S):
    to_rgb = camera.reflectance_to_rgb(torch.from_numpy(e), torch.from_numpy(S))
    np.testing.assert_allclose(to_rgb.sum(-1), 1, atol=1e-6)


@repeatable
@given(floats(0, 1, (14,)), number(4000, 25000), SCALES)
def test_light_is_never_negative_and_sums_to_one_and_only_the_shares_of_a_mixture_count(weights, cct, scale):
    assume(weights.sum() > 1e-3)
    mixed, scaled = (illumination.mix(w, np.float64(cct)) for w in (weights, weights * scale))
    assert (mixed >= 0).all() and mixed.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(scaled, mixed, rtol=1e-9)


@pytest.mark.slow
@repeatable
@given(floats(-1, 1, (2, 2, 3)), floats(-5, 5, (9,)), number(0, 100))
def test_shading_is_never_negative_and_proportional_to_the_light(normals, lighting, factor):
    shading, scaled = (illumination.sh_shading(normals, c) for c in (lighting, factor * lighting))
    assert (shading >= 0).all()
    np.testing.assert_allclose(scaled, factor * shading, rtol=1e-9, atol=1e-9)
