"""NumPy in, NumPy out."""

import contextlib

import numpy as np
import pytest
import torch
from skimage import data

from bioface import bayes, decomposition, faces, illumination, pictures, skin, smith2019, training
from bioface.arrays import accepts_numpy, as_float
from bioface.objective import Batch


@accepts_numpy
def double(x, y=1):
    return 2 * x, y


def test_numpy_comes_back_as_numpy_and_torch_as_torch():
    assert isinstance(double(np.ones(2))[0], np.ndarray)
    assert isinstance(double(torch.ones(2))[0], torch.Tensor)
    assert double(np.ones(2, np.float32))[0].dtype == np.float32
    assert double(np.ones(2))[0].dtype == np.float64
    assert double(1) == (2, 1)
    assert double(np.array(3.0))[0].shape == ()  # a number in an array stays without axes
    assert isinstance(double(np.float64(1))[0], np.ndarray | np.generic)


def test_plain_numbers_become_single_precision_and_denormals_zero():
    assert as_float(1).dtype == torch.float32 and as_float(np.float64(1)).dtype == torch.float64
    assert float(torch.tensor(1e-30) * torch.tensor(1e-10)) == 0.0


@contextlib.contextmanager
def double_precision():
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


SWITCHED = {
    "no gradients": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "another device": lambda: torch.device("meta"),
    "double precision": double_precision,
}


@pytest.mark.slow
@pytest.mark.parametrize("switched", SWITCHED)
def test_what_a_caller_has_switched_does_not_matter(switched):
    """A default device is not where NumPy's arrays are, and a fit needs gradients."""
    spectra = skin.reflectance(np.array([0.1, 0.2]), np.array([0.03, 0.05]))
    supervision = torch.ones(2, 16, 16, 3), torch.ones(2, 9)
    face = Batch(torch.full((2, 16, 16, 3), 0.4), torch.ones(2, 16, 16, dtype=torch.bool), *supervision)
    networks = [training.build("working", 1) for _ in range(3)]

    def work(trained, network=networks[2]):
        rng = np.random.default_rng(0)
        fitted = smith2019.fit(spectra, solver="adam", steps=3).maps
        history = training.train(trained, face, "working", 2, progress=False)
        taken = decomposition.decompose(np.full((20, 20, 3), 0.5), np.ones((20, 20), bool), network)
        light = np.asarray(illumination.standard("D65"))
        pigments, person = rng.uniform(0.01, 0.05, (2, 12)), np.arange(12) // 3
        prior = bayes.Prior.measured(*pigments, None, None, person)
        likely = bayes.posterior_mean(taken.image[None], taken.mask[None], prior).melanin
        points = faces.search(pictures.read(data.astronaut()[:256, 96:352], None)[0])[0].points
        return fitted, history.total, taken.melanin, decomposition.edit(taken, melanin=0.5), light, likely, points

    expected = work(networks[0])
    with SWITCHED[switched]():
        found = work(networks[1])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
