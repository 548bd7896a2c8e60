"""Reflectance of skin by radiative transfer: the reference that the Kubelka–Munk models are held to.

The layers and absorbers of :mod:`bioface.skin`'s ``layered``, but with light followed in all directions: both layers
scatter, and the surface refracts, reflects on the way in and throws light back from inside (n = 1.4). A table made by
adding–doubling (``assets/build_transfer.py``), smooth between its nodes. It inherits the constants of ``layered``: it
says what they imply, not what skin is.

Reference: Prahl, van Gemert & Welch (1993), "Determining the optical properties of turbid media by using the
adding–doubling method", Applied Optics 32.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.polynomial import chebyshev

from bioface import paths, skin
from bioface.arrays import read_npz

FILE = paths.ASSETS / "radiative_transfer.npz"
#: Refractive index, and whether the epidermis scatters: skin; skin without a surface; what Kubelka–Munk assumes.
LAYERS = {"skin": (1.4, True), "matched": (1.0, True), "clear": (1.0, False)}
GEOMETRIES = ("8/diffuse", "diffuse/diffuse")  #: light from / light collected: ISSA's instrument; a face in a room
RANGE = (0.6, 0.25)  #: largest fractions of melanin and of blood in the table
NODES = (18, 16)  #: of melanin and of blood: Chebyshev's, in the cube root of the fraction


@dataclasses.dataclass(frozen=True)
class Table:
    """What the file holds; axes 0 and 1 are LAYERS and GEOMETRIES."""

    reflectance: np.ndarray  #: (3, 2, 18, 16, 33) float32 at the nodes
    cells: np.ndarray  #: (3, 2, P, Q, 33) float32, the same at fractions that are not nodes
    melanin: np.ndarray  #: (P,) volume fractions of the cells
    haemoglobin: np.ndarray  #: (Q,) likewise
    coefficients: np.ndarray  #: (4, 33) 1/cm, the skin model's when the table was made


def load(file: str | Path = FILE) -> Table:
    """Read the table.

    Raises DataError: no such file, a damaged one, or one without these arrays.
    """
    names = [field.name for field in dataclasses.fields(Table)]
    return Table(**read_npz(file, names, "a table of reflectances made by build_transfer.py"))


def nodes(count: int, largest: float) -> np.ndarray:
    """(count,) fractions, rising, at which the table holds reflectances."""
    return largest * ((1 - np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 2) ** 3


def reflectance(melanin: np.ndarray | float, haemoglobin: np.ndarray | float) -> np.ndarray:
    """Reflectance of skin by radiative transfer, 400–720 nm, where :func:`bioface.skin.reflectance` has its models'.

    Light from 8°, collected at all angles, as ISSA's instrument does. The surface's own reflection (0.028) is specular
    shading, no part of it. Between its nodes the table is off by 0.00001 RMS and at most 0.0002, or 0.1 %.

    Parameters
    ----------
    melanin, haemoglobin : (...) volume fractions, 0–0.6 and 0–0.25, broadcast together

    Returns
    -------
    (..., 33) reflectance in (0, 1)

    Raises
    ------
    BiofaceError : fractions beyond the table
    DataError : the table is missing or damaged
    """
    fractions = np.broadcast_arrays(melanin, haemoglobin)
    m, h = (torch.from_numpy(np.array(fraction)) for fraction in fractions)
    skin.check_fractions(m, h, RANGE, hint=", where the table ends")
    x, y = (2 * np.cbrt(fraction / top) - 1 for fraction, top in zip(fractions, RANGE, strict=True))
    return np.exp(np.moveaxis(chebyshev.chebval2d(x, y, _series()), 0, -1))


@functools.cache
def _series() -> np.ndarray:
    """(18, 16, 33) Chebyshev coefficients of log reflectance."""
    log = np.log(load().reflectance[0, 0].astype(float))
    for axis, count in enumerate(NODES):
        to_series = np.linalg.inv(chebyshev.chebvander(2 * np.cbrt(nodes(count, 1.0)) - 1, count - 1))
        log = np.moveaxis(np.tensordot(to_series, log, (1, axis)), 0, axis)
    return log
