"""Illuminants against colour-science, spherical harmonics against the written-out matrix form."""

import colour
import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import illumination, spectra


@pytest.mark.parametrize("cct", [4000.0, 5003.0, 6504.0, 7000.0, 7001.0, 15000.0, 25000.0])
def test_daylight_matches_colour_science(cct):
    xy = colour.temperature.CCT_to_xy_CIE_D(cct)
    sd = colour.sd_CIE_illuminant_D_series(xy, M1_M2_rounding=False)
    expected = sd[spectra.WAVELENGTHS.numpy()]
    ours = illumination.standard(cct).numpy()
    assert np.abs(ours - expected / expected.sum()).max() < 1e-7


def test_mix_of_one_is_that_one():
    for k, name in enumerate(spectra.ILLUMINANTS):
        weights = torch.eye(14, dtype=torch.float64)[k]
        expected = illumination.standard(5500.0 if name == "D" else name)
        assert expected.shape == (33,) and (expected > 0).all() and float(expected.sum()) == pytest.approx(1)
        assert torch.allclose(illumination.mix(weights, torch.tensor(5500.0).double()), expected)


def test_mix_is_differentiable_in_weights_and_temperature():
    weights = torch.softmax(torch.zeros(2, 14, dtype=torch.float64), -1).requires_grad_()
    cct = torch.tensor([6999.0, 7000.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, t: illumination.mix(w, t), (weights, cct + 0.3), atol=1e-8)


def test_shading_equals_the_matrix_form():
    """nᵀ M n of Ramamoorthi & Hanrahan, equation 12, with the coefficients in the data set's order."""
    g = torch.Generator().manual_seed(0)
    n = torch.nn.functional.normalize(torch.randn(50, 3, generator=g, dtype=torch.float64), dim=-1)
    L = torch.rand(9, generator=g, dtype=torch.float64) * 0.1
    L[0] = 2.0  # bright enough that nothing is cut
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708
    l00, l1m1, l10, l11, l2m2, l2m1, l20, l21, l22 = L
    M = torch.tensor(
        [
            [c1 * l22, c1 * l2m2, c1 * l21, c2 * l11],
            [c1 * l2m2, -c1 * l22, c1 * l2m1, c2 * l1m1],
            [c1 * l21, c1 * l2m1, c3 * l20, c2 * l10],
            [c2 * l11, c2 * l1m1, c2 * l10, c4 * l00 - c5 * l20],
        ],
        dtype=torch.float64,
    )
    n1 = torch.cat([n, torch.ones(50, 1, dtype=torch.float64)], -1)
    expected = torch.einsum("ni,ij,nj->n", n1, M, n1)
    assert torch.allclose(illumination.sh_shading(n[None], L)[0], expected, atol=1e-12)


def test_negative_shading_is_cut_and_batches_keep_their_own_light():
    n = torch.tensor([[[0.0, 0.0, -1.0]]]).expand(2, 1, 1, 3)
    L = torch.zeros(2, 9)
    L[0, 2] = 1.0  # light from the front on a surface that looks away
    L[1, 0] = 1.0
    assert illumination.sh_shading(n, L).flatten().tolist() == pytest.approx([0.0, 0.886227])


@pytest.mark.parametrize("weights", [torch.zeros(14), -torch.eye(14)[0], torch.full((14,), float("nan"))])
def test_what_makes_no_light_is_refused(weights):
    refuses("14 weights", illumination.mix, weights, 6500.0)
    for cct in (3999.0, 25001.0, float("nan")):
        refuses("within 4000–25000 K", illumination.standard, cct)
