"""Both roads from maps to image, and the sRGB curve."""

import itertools

import colour
import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import illumination, image_formation, skin
from bioface.camera import CameraModel


def scene(batch=3, size=8, dtype=torch.float64, seed=0):
    """Random maps, light weights, temperature and camera over the whole range of the table."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=dtype)

    maps = [
        rand(batch, size, size) * 0.42 + 0.005,
        rand(batch, size, size) * 0.066 + 0.003,
        rand(batch, size, size) * 1.5,
        rand(batch, size, size) * 0.3,
    ]
    weights = torch.softmax(3 * rand(batch, 14), -1)
    cct = 4500 + 9000 * rand(batch)
    b = 4 * rand(batch, 2) - 2
    return [*maps, weights, cct, b]


def image(values, method, model="layered", rows="d65"):
    *maps, weights, cct, b = values
    S = CameraModel.load().sensitivity(b)
    return image_formation.render(*maps, illumination.mix(weights, cct), S, model, rows, method)


def test_srgb_curve_matches_colour_science_and_inverts_and_its_gradients_are_finite_at_black_and_below():
    x = np.linspace(0, 1.3, 1000)
    assert np.allclose(image_formation.srgb_encode(x), colour.models.eotf_inverse_sRGB(x), atol=1e-6)
    assert np.allclose(image_formation.srgb_decode(image_formation.srgb_encode(x)), x, atol=1e-6)
    dark = torch.tensor([-0.1, 0.0, 1e-9, 1.0], requires_grad=True)
    for curve in (image_formation.srgb_encode, image_formation.srgb_decode):
        assert torch.isfinite(torch.autograd.grad(curve(dark).sum(), dark)[0]).all()


@pytest.mark.parametrize("model", skin.MODELS)
@pytest.mark.parametrize("rows", ["d65", "code", "paper"])
def test_table_is_within_a_thousandth_of_the_exact_colour(model, rows):
    values = scene(size=32)
    values[2:4] = [torch.ones_like(values[2]), torch.zeros_like(values[3])]
    error = (image(values, "table", model, rows) - image(values, "exact", model, rows)).abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("model", skin.MODELS)
def test_table_and_exact_gradients_agree(model):
    gradients = []
    for method in ("exact", "table"):
        values = [v.requires_grad_() for v in scene(size=32)]
        gradients.append(torch.autograd.grad(image(values, method, model).square().sum(), values))
    # pigments: a bilinear patch has a constant slope along each axis, so per pixel it is off by a few per cent
    tolerance = dict(melanin=0.06, haemoglobin=0.06)
    names = ("melanin", "haemoglobin", "diffuse", "specular", "weights", "cct", "b")
    for name, exact, table in zip(names, *gradients, strict=True):
        error = float((exact - table).norm() / exact.norm())
        assert error < tolerance.get(name, 2e-3), name


@pytest.mark.parametrize("model", skin.MODELS)
@pytest.mark.parametrize("method", ["exact", "table"])
@pytest.mark.parametrize("melanin", [0.0, 0.013, 0.43])
@pytest.mark.parametrize("haemoglobin", [0.0, 0.02, 0.07])
@pytest.mark.parametrize("shading", [0.0, 1.0])
def test_image_and_gradients_are_finite_at_every_bound(model, method, melanin, haemoglobin, shading):
    *_, weights, cct, b = scene(batch=1, dtype=torch.float32)
    maps = [torch.full((1, 2, 2), v) for v in (melanin, haemoglobin, shading, 0.0)]
    values = [v.requires_grad_() for v in (*maps, weights, cct, b)]
    rgb = image(values, method, model)
    assert torch.isfinite(rgb).all()
    for gradient in torch.autograd.grad(rgb.sum() + rgb.square().sum(), values):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("method", ["exact", "table"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_maps_set_the_precision(method, precision):
    """Light and camera come in double precision from their own functions, whatever the maps are."""
    maps = [torch.full((2, 2), v, dtype=precision) for v in (0.1, 0.03, 1.0, 0.0)]
    e, S = illumination.standard("D65"), CameraModel.load().sensitivity()
    images = []
    for light, sensor in itertools.product((torch.float32, torch.float64), repeat=2):
        images.append(image_formation.render(*maps, e.to(light), S.to(sensor), method=method))
    assert all(i.dtype == precision for i in images)
    assert torch.allclose(images[0], images[3], atol=1e-5)


@pytest.mark.parametrize("method", ["exact", "table"])
def test_each_image_has_its_own_light_and_camera_or_all_have_one_and_numpy_comes_back(method):
    *maps, weights, cct, b = scene(batch=3)
    e, S = illumination.mix(weights, cct), CameraModel.load().sensitivity(b)
    own = image_formation.render(*maps, e, S, method=method)
    shared = image_formation.render(*maps, e[1], S[1], method=method)
    for k in range(3):
        alone = [v[k] for v in maps]
        for images, light in ((own, k), (shared, 1)):
            expected = image_formation.render(*alone, e[light], S[light], method=method)
            assert torch.allclose(images[k], expected, atol=1e-12)
    got = image_formation.render(*(v.numpy() for v in (*maps, e, S)), method=method)
    assert isinstance(got, np.ndarray) and np.allclose(got, own.numpy())


def test_spectral_image_is_the_dichromatic_model_whose_highlights_have_the_colour_of_white():
    m, h, d, s = (v[0] for v in scene(batch=1)[:4])
    e, S = illumination.standard("A"), CameraModel.load().sensitivity()
    radiance = image_formation.render_spectral(m, h, d, s, e)
    assert torch.allclose(radiance[2, 3], e * (d[2, 3] * skin.reflectance(m[2, 3], h[2, 3]) + s[2, 3]))
    shine = image_formation.render(m, h, 0 * d, s, e, S)
    assert torch.allclose(shine, s[..., None].expand(-1, -1, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ((1.1, 0.03), {}, "melanin as volume fraction between 0 and 0.43, where the table ends"),
        ((0.1, 0.3), {}, "haemoglobin as volume fraction between 0 and 0.07, where the table ends"),
        ((0.1, np.nan), {}, "between 0 and 0.07.*found nan"),
        ((0.1, 1.3), dict(method="exact"), "haemoglobin as volume fraction between 0 and 1, found 1.3"),
        ((0.1, torch.ones(1, 2)), {}, "four maps of one shape"),
        ((0.1, 0.03), dict(method="tabel"), "did you mean 'table'"),
        ((0.1, 0.03), dict(illuminant=torch.zeros(33)), "every camera channel"),
    ],
)
def test_bad_maps_lights_and_names_are_refused(maps, options, message):
    """Fractions beyond the table rather than clipped; the exact way takes them."""
    melanin, haemoglobin, one = (m if torch.is_tensor(m) else torch.full((2, 2), m) for m in (*maps, 1.0))
    rest = {
        "illuminant": illumination.standard("D65"),
        "camera": CameraModel.load().sensitivity(),
    }
    refuses(message, image_formation.render, melanin, haemoglobin, one, 0 * one, **rest | options)
    if message.startswith("haemoglobin") and not options:
        exact = image_formation.render(melanin, haemoglobin, one, 0 * one, **rest, method="exact")
        assert torch.isfinite(exact).all()


def test_both_samplers_give_the_same_colours_and_gradients():
    g = torch.Generator().manual_seed(3)
    table = torch.rand(2, 3, 9, 9, generator=g, dtype=torch.float64, requires_grad=True)
    coordinates = [2.4 * torch.rand(2, 4, 5, generator=g, dtype=torch.float64) - 1.2 for _ in range(2)]
    leaves = [table, *(c.requires_grad_() for c in coordinates)]
    results = []
    for sample in (image_formation._planes, image_formation._four_taps):
        rgb = sample(*leaves)
        results.append([rgb, *torch.autograd.grad(rgb.square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    edge = torch.ones(1, 1, 1, dtype=torch.float64, requires_grad=True)
    image_formation._planes(table[:1], edge, edge).sum().backward()
    assert edge.grad.abs() > 0  # a pixel at the end of the range can come back
