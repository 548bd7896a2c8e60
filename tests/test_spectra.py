"""Grid, tables and resampling of spectra."""

import numpy as np
import pytest
import torch

from bioface import spectra
from bioface.errors import BiofaceError


def test_grid_is_400_to_720_by_10():
    assert spectra.WAVELENGTHS.tolist() == list(range(400, 721, 10))


def test_chromophores_have_haemoglobins_known_peaks():
    c = spectra.chromophores()
    green = slice(11, 20)  # 510–590 nm: oxyhaemoglobin has two peaks there, deoxyhaemoglobin one
    assert [int(spectra.WAVELENGTHS[i]) for i in (c.oxyhaemoglobin[:8].argmax(), c.deoxyhaemoglobin[:8].argmax())] == [
        420,
        430,
    ]
    assert int(spectra.WAVELENGTHS[green][c.oxyhaemoglobin[green].argmax()]) == 540
    assert (c.eumelanin.diff() < 0).all()


def test_colour_matching_functions_integrate_to_equal_energy_white():
    total = spectra.colour_matching_functions().sum(-1)
    assert torch.allclose(total, total.mean().expand(3), rtol=5e-3)


def test_resampling_keeps_straight_lines():
    source = torch.tensor([415.0, 418.6, 430.0, 441.0])
    target = torch.tensor([415.0, 420.0, 440.0])
    line = 0.3 + 0.01 * source
    assert torch.allclose(spectra.to_grid(line, source, target), 0.3 + 0.01 * target)
    assert isinstance(spectra.to_grid(line.numpy(), source, target), np.ndarray)


def test_nothing_is_extrapolated():
    assert spectra.on_grid(torch.arange(415.0, 916.0, 3.0)).tolist() == list(range(420, 721, 10))


@pytest.mark.parametrize(
    ("wavelengths", "message"),
    [
        (torch.tensor([450.0, 440.0]), "rising"),
        (torch.tensor([450.0, float("nan")]), "rising"),
        (torch.tensor([380.0, 440.0]), "within 400–720"),
        (torch.tensor([700.0, 730.0]), "within 400–720"),
    ],
)
def test_bad_wavelengths_are_refused(wavelengths, message):
    with pytest.raises(BiofaceError, match=message):
        spectra.chromophores(wavelengths)


def test_a_measurement_that_misses_the_grid_is_refused():
    with pytest.raises(BiofaceError, match="900–1700 nm, which cover 0"):
        spectra.on_grid(torch.arange(900.0, 1701.0, 10.0))


def test_misspelt_illuminant_gets_the_nearest_name():
    with pytest.raises(BiofaceError, match="did you mean 'D65'"):
        spectra.cie_illuminant("D66")
