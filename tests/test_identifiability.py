"""Jacobians and Cramér–Rao deviations."""

import numpy as np
import torch

from bioface import identifiability, illumination, skin


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


def test_what_cannot_be_known_is_infinite_and_what_is_held_is_nan():
    J = torch.eye(4).double()[None].clone()
    J[0, :, 1] = J[0, :, 0]  # two maps with one spectrum
    assert torch.isinf(identifiability.standard_deviation(J, 1.0)[0, :2]).all()
    held = torch.tensor([[True, False, True, True]])
    sd = identifiability.standard_deviation(J, 1.0, held)[0]
    assert torch.isnan(sd[1])
    assert torch.isfinite(sd[[0, 2, 3]]).all()


def test_sigma_may_differ_per_pixel():
    J = torch.eye(4).double().expand(3, 4, 4)
    sd = identifiability.standard_deviation(J, torch.tensor([1.0, 2.0, 3.0]).double())
    assert sd[:, 0].tolist() == [1.0, 2.0, 3.0]
