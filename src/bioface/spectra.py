"""The wavelength grid, and every spectrum that somebody else measured.

CIE illuminants, daylight basis and colour-matching functions come from colour-science; the extinction of the
four chromophores of skin from a small table that ships with the package.

References
----------
Prahl (1999), "Optical absorption of hemoglobin", omlc.org: oxy- and deoxyhaemoglobin.
Sarna & Swartz (1988), after Jacques, "Extinction coefficient of melanin", omlc.org: eu- and pheomelanin.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bioface import paths
from bioface.errors import BiofaceError, unknown_name

#: (33,) nm, 400 to 720 in steps of 10: the grid of everything in this study.
WAVELENGTHS: Tensor = torch.arange(400, 721, 10, dtype=torch.float64, device="cpu")

#: The fourteen illuminants that the light of a photo is mixed from; D is daylight of any temperature.
ILLUMINANTS = ("A", "D", *(f"F{k}" for k in range(1, 13)))


class Chromophores(NamedTuple):
    """Extinction spectra of skin's absorbers, each (D,): melanins in cm⁻¹ per mg/ml, haemoglobins in cm⁻¹/M."""

    eumelanin: Tensor
    pheomelanin: Tensor
    oxyhaemoglobin: Tensor
    deoxyhaemoglobin: Tensor


def _rising(wavelengths: object) -> Tensor:
    nm = torch.as_tensor(wavelengths, dtype=torch.float64, device="cpu")  # where the tables are
    if nm.ndim != 1 or len(nm) == 0 or not torch.isfinite(nm).all() or (nm.diff() <= 0).any():
        raise BiofaceError(f"expected a row of wavelengths in nm that rise, found others, of shape {tuple(nm.shape)}")
    return nm


def check_wavelengths(wavelengths: object) -> Tensor:
    """(D,) float64 tensor of wavelengths in nm, increasing and inside 400–720.

    Raises BiofaceError: when they are not one rising row of finite numbers inside the tables' range.

    >>> check_wavelengths([420.0, 430.0])
    tensor([420., 430.], dtype=torch.float64)
    """
    nm = _rising(wavelengths)
    if nm[0] < WAVELENGTHS[0] or nm[-1] > WAVELENGTHS[-1]:
        raise BiofaceError(f"expected wavelengths within 400–720 nm, found {nm[0]:g}–{nm[-1]:g} nm")
    return nm


def bands_to_fit(wavelengths: Tensor) -> Float[Tensor, "B"]:
    """(B,) nm: where a measurement at ``wavelengths`` (D,) can be held against a model on 400–720 nm.

    The points of :data:`WAVELENGTHS` inside its range, or its own bands where they are more than 10 nm apart: nothing
    is extrapolated and no band is invented.

    Raises
    ------
    BiofaceError : wavelengths that do not rise, or fewer than four bands inside 400–720 nm (a pixel has four unknowns)

    >>> bands_to_fit(torch.arange(415.0, 951.0, 3.6))[[0, -1]].tolist()
    [420.0, 720.0]
    >>> bands_to_fit(torch.arange(390.0, 800.0, 50.0)).tolist()
    [440.0, 490.0, 540.0, 590.0, 640.0, 690.0]
    """
    nm = _rising(wavelengths)
    own = nm[(nm >= WAVELENGTHS[0]) & (nm <= WAVELENGTHS[-1])]
    if len(own) < 4:
        found = f"{len(own)} of {len(nm)}, {nm[0]:g}–{nm[-1]:g} nm"
        raise BiofaceError(f"expected at least 4 bands within 400–720 nm, found {found}")
    if own.diff().max() > 10 + 1e-6:
        return own
    return WAVELENGTHS[(nm[0] - 1e-6 <= WAVELENGTHS) & (nm[-1] + 1e-6 >= WAVELENGTHS)]


def resampling_matrix(source: Tensor, target: Tensor) -> Float[Tensor, "T S"]:
    """(T, S) weights of linear interpolation from ``source`` (S,) to ``target`` (T,) wavelengths in nm.

    >>> resampling_matrix(torch.tensor([400.0, 410.0]), torch.tensor([402.5]))
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    source, target = (torch.as_tensor(w, dtype=torch.float64, device="cpu").numpy() for w in (source, target))
    return torch.from_numpy(np.stack([np.interp(target, source, one) for one in np.eye(len(source))], 1))


def chromophores(wavelengths: object = WAVELENGTHS, bandpass: bool = False) -> Chromophores:
    """Extinction of skin's four absorbers at ``wavelengths`` (D,) nm, linear between points 10 nm apart.

    With ``bandpass`` that of blood is what a spectrometer of 10 nm sees: its 2 nm table averaged over a triangle that
    is 10 nm wide at half its height. Melanin has no structure so fine.

    >>> float(chromophores().oxyhaemoglobin[14])  # the alpha-beta pair's first peak, 540 nm
    53236.0
    """
    nm = check_wavelengths(wavelengths)
    columns = (1, 2, 5, 6) if bandpass else (1, 2, 3, 4)
    table = torch.from_numpy(np.loadtxt(paths.TABLES / "chromophores.csv", delimiter=",", usecols=columns).T.copy())
    return Chromophores(*table if torch.equal(nm, WAVELENGTHS) else table @ resampling_matrix(WAVELENGTHS, nm).T)


@functools.cache
def _colour_science(kind: str) -> np.ndarray:
    """(rows, 33) from colour-science, imported late because it takes a second."""
    printing = np.get_printoptions()
    import colour

    np.set_printoptions(**printing)  # colour-science switches all of NumPy to another style

    grid = WAVELENGTHS.numpy()
    if kind == "cmf":
        return colour.MSDS_CMFS["CIE 1931 2 Degree Standard Observer"][grid].T
    if kind == "daylight":
        basis = colour.colorimetry.SDS_BASIS_FUNCTIONS_CIE_ILLUMINANT_D_SERIES
        return np.stack([basis[name][grid] for name in ("S0", "S1", "S2")])
    return colour.SDS_ILLUMINANTS[f"FL{kind[1:]}" if kind[0] == "F" else kind][grid][None]


def colour_matching_functions() -> Float[Tensor, "3 33"]:
    """(3, 33) CIE 1931 2° colour-matching functions x̄, ȳ, z̄.

    >>> colour_matching_functions()[1].argmax() * 10 + 400  # ȳ peaks at 560 nm on a grid of 10 nm
    tensor(560)
    """
    return torch.from_numpy(_colour_science("cmf").copy())


def daylight_basis() -> Float[Tensor, "3 33"]:
    """(3, 33) CIE daylight components S0, S1, S2 (CIE 015:2004)."""
    return torch.from_numpy(_colour_science("daylight").copy())


def cie_illuminant(name: str) -> Float[Tensor, "33"]:
    """(33,) relative power of the CIE illuminant A, D65 or F1 … F12, as tabulated by the CIE.

    Raises BiofaceError: for a name that is not one of these, with the nearest suggested.
    """
    known = ("A", "D65", *ILLUMINANTS[2:])
    if name not in known:
        raise unknown_name("illuminant", name, known)
    return torch.from_numpy(_colour_science(name)[0].copy())
