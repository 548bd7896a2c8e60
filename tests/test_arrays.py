"""NumPy in, NumPy out."""

import numpy as np
import torch

from bioface.arrays import accepts_numpy, as_float


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


def test_plain_numbers_become_single_precision():
    assert as_float(1).dtype == torch.float32
    assert as_float(np.float64(1)).dtype == torch.float64
    assert isinstance(double(np.float64(1))[0], np.ndarray | np.generic)


def test_denormals_are_zero():
    assert float(torch.tensor(1e-30) * torch.tensor(1e-10)) == 0.0
