"""Jacobians and Cramér–Rao deviations."""

import numpy as np
import pytest
import torch

from bioface import identifiability, illumination, skin
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
