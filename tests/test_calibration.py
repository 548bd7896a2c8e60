"""The constants of the layered skin: fitted to half of the people, held against the other half."""

import dataclasses

import numpy as np
import pytest

from bioface import skin
from bioface.datasets import skin_spectra
from study import calibration

TRUTH = np.array([[0.02, 0.01], [0.05, 0.02], [0.2, 0.05]])


@pytest.fixture
def issa(issa_build, monkeypatch):
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    return skin_spectra.load("issa")


def test_held_fits_find_known_pigments():
    nm = skin_spectra.ISSA_WAVELENGTHS
    maps = calibration.held(skin.reflectance(*TRUTH.T, wavelengths=nm) + calibration.SURFACE, nm)
    np.testing.assert_allclose(maps[:, :2], TRUTH, rtol=1e-4)
    assert (maps[:, 2:] == [1, calibration.SURFACE]).all()


def test_a_small_group_counts_as_much_as_a_large_one(monkeypatch):
    groups = np.array(["a"] * 9 + ["b", "c"])
    some = skin_spectra.SkinSpectra(np.zeros((11, 2)), np.array([500.0, 510.0]), groups, groups, np.arange(11))
    size = np.array([1.0] * 9 + [5.0, 3.0])[:, None] * np.ones(2)
    monkeypatch.setattr(calibration, "both", lambda issa, model: (1, 2))
    monkeypatch.setattr(calibration, "residuals", lambda maps, issa, model: maps * size)
    assert calibration.judged(some, "layered") == (3, 6)


@pytest.mark.slow
def test_the_constants_that_ship_are_a_minimum(issa):
    """To their last digit: one more step does not lead away, and from others it leads back."""
    even, shipped = issa[issa.subject % 2 == 0], skin.MODELS["layered"]
    tolerance = dict(zip(calibration.FITTED, (0.005, 5e-5, 0.1, 0.02, 1, 1), strict=True))
    found = calibration.step(even, shipped)
    assert set(found) == set(tolerance)
    for name, value in found.items():
        assert value == pytest.approx(getattr(shipped, name), abs=tolerance[name]), name
    off = dataclasses.replace(shipped, oxygen_saturation=0.85, band_cm=0.3)
    back = calibration.step(even, off)
    assert abs(back["oxygen_saturation"] - 0.9) < 0.02 and abs(back["band_cm"] - 0.5) < 0.1
