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
from jaxtyping import Float
from numpy.polynomial import chebyshev
from torch import Tensor

from bioface import paths, skin, spectra
from bioface.arrays import accepts_numpy, as_float, read_npz
from bioface.errors import DataError, unknown_name

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
    coefficients: np.ndarray  #: (4, 33) 1/cm, which :func:`coefficients` gave when the table was made


def load(file: str | Path = FILE) -> Table:
    """Read the table.

    Raises DataError: no such file, a damaged one, one of other bands or nodes, or with numbers that no reflectance has.
    """
    names = [field.name for field in dataclasses.fields(Table)]
    arrays = read_npz(file, [*names, "wavelengths"], "a table of reflectances made by build_transfer.py")
    bands = arrays.pop("wavelengths")
    if not np.array_equal(bands, spectra.WAVELENGTHS.numpy()):
        found = f"{bands.size} bands" + (f", {bands.min():g} to {bands.max():g} nm" if bands.size else "")
        raise DataError(file, "33 bands, 400 to 720 nm", found)
    cases, cells = (len(LAYERS), len(GEOMETRIES)), (arrays["melanin"].size, arrays["haemoglobin"].size)
    shapes = {"reflectance": (*cases, *NODES), "cells": (*cases, *cells), "coefficients": (4,)}
    for name, shape in shapes.items():
        array, shape, top = arrays[name], (*shape, bands.size), np.inf if name == "coefficients" else 1
        if array.shape != shape or not ((array > 0) & (array < top)).all():
            raise DataError(file, f"{name} of shape {shape} within 0–{top:g}", f"{array.shape} or numbers outside")
    return Table(**arrays)


def coefficients(model: str | skin.SkinConstants = "layered") -> np.ndarray:
    """(4, 33) 1/cm: absorption of bloodless skin, of pure melanosomes and of blood, and reduced scattering."""
    return skin.SkinModel(model).coefficients.numpy()


def nodes(count: int, largest: float) -> np.ndarray:
    """(count,) fractions, rising, at which the table holds reflectances."""
    return largest * ((1 - np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 2) ** 3


@accepts_numpy
def reflectance(
    melanin: Tensor | float, haemoglobin: Tensor | float, geometry: str = "8/diffuse", layers: str = "skin"
) -> Tensor:
    """Reflectance of skin by radiative transfer, 400–720 nm, where :func:`bioface.skin.reflectance` has its models'.

    The surface's own reflection (0.028 of light at 8°, 0.053 of diffuse light) is specular shading, no part of it.
    Between its nodes the table is off by 0.00001 RMS and at most 0.0002, or 0.1 %.

    Parameters
    ----------
    melanin, haemoglobin : (...) volume fractions, 0–0.6 and 0–0.25, broadcast together
    geometry : one of GEOMETRIES: light from 8° or from everywhere; collected at all angles
    layers : "skin"; "matched": without a surface; "clear": without a surface, and only the dermis scatters

    Returns
    -------
    (..., 33) reflectance in (0, 1); differentiable where there is some of both pigments

    Raises
    ------
    BiofaceError : fractions beyond the table, unknown geometry or layers
    DataError : the table is missing or damaged
    """
    for kind, value, known in (("geometry", geometry, GEOMETRIES), ("layers", layers, LAYERS)):
        if value not in known:
            raise unknown_name(kind, value, known)
    melanin, haemoglobin = as_float(melanin), as_float(haemoglobin)
    skin.check_fractions(melanin, haemoglobin, RANGE, hint=", where the table ends")
    dtype = torch.promote_types(melanin.dtype, haemoglobin.dtype)
    m, h = torch.broadcast_tensors(melanin.to(dtype), haemoglobin.to(dtype))
    series = _series([*LAYERS].index(layers), GEOMETRIES.index(geometry)).to(m)
    along = torch.einsum("...i,ijd->...jd", _chebyshev(m, RANGE[0], NODES[0]), series)
    return torch.einsum("...j,...jd->...d", _chebyshev(h, RANGE[1], NODES[1]), along).exp()


@functools.lru_cache
def _series(layers: int, geometry: int) -> Float[Tensor, "I J D"]:
    """Chebyshev coefficients of log reflectance."""
    log = np.log(load().reflectance[layers, geometry].astype(float))
    for axis, count in enumerate(NODES):
        to_series = np.linalg.inv(chebyshev.chebvander(2 * np.cbrt(nodes(count, 1.0)) - 1, count - 1))
        log = np.moveaxis(np.tensordot(to_series, log, (1, axis)), 0, axis)
    return torch.from_numpy(log)


def _chebyshev(fraction: Tensor, largest: float, count: int) -> Float[Tensor, "*batch K"]:
    x = 2 * (fraction / largest).clamp(1e-12, 1) ** (1 / 3) - 1
    terms = [torch.ones_like(x), x]
    while len(terms) < count:
        terms.append(2 * x * terms[-1] - terms[-2])
    return torch.stack(terms, -1)
