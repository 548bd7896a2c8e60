"""Skin reflectance: against the authors' MATLAB, its derivatives, its limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import paths, skin, smith2019, transfer

CORNERS = [(m, h) for m in (0.0, 1e-6, 0.013, 0.43, 1.0) for h in (0.0, 1e-6, 0.02, 0.07, 1.0)]


def test_published_model_matches_the_authors_matlab_to_1e8():
    reference = np.loadtxt(paths.TABLES / "reference_skin_reflectance.csv", delimiter=",")
    ours = skin.reflectance(reference[:, 0], reference[:, 1], model="published")
    assert ours.dtype == np.float64
    assert np.abs(ours - reference[:, 2:]).max() < 1e-8


@pytest.mark.parametrize("model", skin.MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_with_finite_gradients_at_every_corner(model, dtype):
    m, h = torch.tensor(CORNERS, dtype=dtype).T.clone()
    m.requires_grad_()
    h.requires_grad_()
    R = skin.reflectance(m, h, model)
    assert R.dtype == dtype
    assert ((R >= 0) & (R < 1)).all()
    for gradient in torch.autograd.grad(R.sum(), (m, h)):
        assert torch.isfinite(gradient).all()
    if dtype == torch.float32:  # no denormals: they are slow
        assert not ((R > 0) & (torch.finfo(dtype).tiny > R)).any()


EPIDERMAL_BLOOD = replace(skin.MODELS["layered"], epidermal_blood=0.3)


@pytest.mark.parametrize("model", [*skin.MODELS, EPIDERMAL_BLOOD])
def test_analytic_derivatives_equal_autograd(model):
    m = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.5
    h = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.2
    physics = skin.SkinModel(model)
    R, dm, dh = physics.derivatives(m, h)
    assert torch.allclose(R, physics.reflectance(m, h), rtol=1e-12)
    J = torch.func.vmap(torch.func.jacrev(skin.SkinModel(model).reflectance, (0, 1)))(m, h)
    assert torch.allclose(J[0], dm, rtol=1e-9)
    assert torch.allclose(J[1], dh, rtol=1e-9, atol=1e-12)


def test_without_surface_and_scattering_layered_is_beer_lambert_over_kubelka_munk():
    plain = replace(
        skin.MODELS["layered"],
        refractive_index=1.0,
        internal_reflection=0.0,
        epidermal_scattering_cm=0.0,
        dermis_cm=50.0,
    )
    m, h = torch.tensor([0.1]).double(), torch.tensor([0.03]).double()
    base, melanin, blood, scattering = skin.SkinModel(plain).coefficients
    a = 2 * (base + 0.03 * (blood - base))
    S = 0.75 * scattering
    infinite = 1 + a / S - torch.sqrt((1 + a / S) ** 2 - 1)
    depth = 0.1 * 0.02 * melanin + 0.9 * 0.006 * base
    assert torch.allclose(skin.reflectance(m, h, plain)[0], infinite * torch.exp(-4 * 0.87 * depth), rtol=1e-9)


def test_more_blood_is_redder():
    R = skin.reflectance(torch.full((20,), 0.05), torch.linspace(0.01, 0.1, 20))
    green_over_red = R[:, 14] / R[:, 25]
    assert (green_over_red.diff() < 0).all()


def test_blood_is_in_no_layered_epidermis_and_in_vessels_of_zero_radius_evenly_spread():
    assert not skin.SkinModel("layered").per_haemoglobin.any()
    assert skin.SkinModel("published").per_haemoglobin.any()
    fine, none = (replace(skin.MODELS["layered"], vessel_radius_cm=r) for r in (1e-9, 0.0))
    m, h = torch.tensor([0.1]).double(), torch.tensor([0.05]).double()
    assert torch.allclose(skin.reflectance(m, h, fine), skin.reflectance(m, h, none), rtol=1e-5)


@pytest.mark.parametrize("bad", [-0.01, 1.2, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["melanin", "haemoglobin"])
def test_fractions_out_of_range_and_misspelt_models_are_refused(name, bad):
    given = {"melanin": torch.tensor([0.1]), "haemoglobin": torch.tensor([0.03])}
    given[name] = torch.tensor([bad])
    refuses(f"expected {name} as volume fraction between 0 and 1", skin.reflectance, **given)
    refuses("did you mean 'layered'", skin.reflectance, 0.1, 0.03, model="layred")


def test_double_precision_in_either_argument_is_kept():
    assert skin.reflectance(0.1, torch.tensor([0.03]).double()).dtype == torch.float64
    assert skin.reflectance(np.float64(0.1), np.float64(0.03)).dtype == np.float64


def cells(table, layers, geometry):
    """Melanin and haemoglobin (35,) and reflectance (35, 33) of the table's cells."""
    m, h = np.meshgrid(table.melanin, table.haemoglobin, indexing="ij")
    found = table.cells[list(transfer.LAYERS).index(layers), transfer.GEOMETRIES.index(geometry)]
    return m.ravel(), h.ravel(), found.reshape(-1, 33).astype(float)


def test_layered_against_radiative_transfer_without_a_surface():
    """Under its own assumptions; with S = μs′, half of Kubelka–Munk's pair, it is further off."""
    m, h, R = cells(transfer.load(), "matched", "diffuse/diffuse")
    matched = replace(skin.MODELS["layered"], refractive_index=1.0, internal_reflection=0.0)
    apart = []
    for share in (0.75, 1.0):
        model = replace(matched, scattering_share=share)
        apart.append(np.sqrt(np.mean((skin.reflectance(m, h, model) - R) ** 2)))
    assert apart[0] <= 0.007 < apart[1]


def test_the_bias_of_fitted_fractions_is_as_stated():
    m, h, R = cells(transfer.load(), "skin", "diffuse/diffuse")
    found = smith2019.fit(R + 0.077)  # with what the surface itself reflects
    for ratio, stated in zip((found.melanin / m, found.haemoglobin / h), skin.BIAS, strict=True):
        np.testing.assert_allclose([ratio.min(), ratio.max()], stated, atol=0.01)
    assert np.abs(np.log(skin.BIAS[0])).max() <= np.log(1.25)
    assert np.abs(np.log(skin.BIAS[1])).max() <= np.log(1.5)
