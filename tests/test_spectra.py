"""Grid, tables and resampling of spectra."""

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
    source = torch.tensor([415.0, 418.6, 430.0, 441.0]).double()
    target = torch.tensor([415.0, 420.0, 440.0]).double()
    W = spectra.resampling_matrix(source, target)
    assert torch.allclose(W @ (0.3 + 0.01 * source), 0.3 + 0.01 * target)


def test_nothing_is_extrapolated():
    assert spectra.bands_to_fit(torch.arange(415.0, 916.0, 3.0)).tolist() == list(range(420, 721, 10))


def test_wide_bands_are_kept_as_they_are():
    assert spectra.bands_to_fit(torch.tensor([410.0, 450, 500, 550, 600, 800])).tolist() == [410, 450, 500, 550, 600]


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


@pytest.mark.parametrize(
    ("wavelengths", "message"),
    [
        (torch.arange(900.0, 1701.0, 10.0), "at least 4 bands within 400–720 nm, found 0 of 81, 900–1700 nm"),
        (torch.tensor([400.0, 720.0]), "found 2 of 2"),
        (torch.arange(720.0, 399.0, -10.0), "that rise"),
        (torch.tensor([400.0, 500.0, 450.0, 600.0, 700.0]), "that rise"),
        (torch.tensor([400.0, 500.0, float("nan"), 600.0, 700.0]), "that rise"),
    ],
)
def test_bands_that_cannot_be_fitted_are_refused(wavelengths, message):
    with pytest.raises(BiofaceError, match=message):
        spectra.bands_to_fit(wavelengths)


def test_misspelt_illuminant_gets_the_nearest_name():
    with pytest.raises(BiofaceError, match="did you mean 'D65'"):
        spectra.cie_illuminant("D66")
