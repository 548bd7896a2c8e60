"""How far edits of photos are from edits of the truth, and how much a colour says of the spectrum behind it.

Edits are judged where the truth is known: on the twin, by what the edited *true* maps render to under the true camera
and light. Spectra are judged by measured skin: those that look alike and still differ.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, Fig. 4: the three edits.
CIE 015:2018, "Colorimetry": CIELAB; metamerism of a change of illuminant.
Sharma, Wu & Dalal (2005), "The CIEDE2000 color-difference formula", Color Res. Appl. 30: ΔE₀₀.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bioface import camera, skin, spectra
from bioface.decomposition import edit
from bioface.errors import BiofaceError, unknown_name
from bioface.maps import Decomposition

#: The edits of the paper's Fig. 4, as arguments of :func:`bioface.edit`.
PAPER_EDITS: dict[str, dict[str, float]] = {
    "specular removed": {"specular": 0.0},
    "melanin + 0.6": {"melanin": 0.6},
    "haemoglobin × 0.5": {"haemoglobin": 0.5},
}


#: Ways to edit, and what they ask of :func:`bioface.edit`: see :func:`edit_errors`.
WAYS: dict[str, dict[str, Any]] = {"edit": {}, "rest stays": {"rest": "stays"}, "maps alone": {"rest": "none"}}


def edited(decomposition: Decomposition, change: Mapping[str, Any]) -> np.ndarray:
    """The edited photos of N faces, (N, H, W, 3) display sRGB; ``change`` are arguments of :func:`bioface.edit`."""
    return np.stack([edit(decomposition[n], **change) for n in range(len(decomposition))])


def edit_errors(
    found: Decomposition,
    truth: Decomposition,
    change: Mapping[str, Any],
    ways: Sequence[str] = (*WAYS, "no edit"),
) -> dict[str, np.ndarray]:
    """Display RMSE (N,) of edits inside the masks, by way, against the rendering of the edited true maps.

    Parameters
    ----------
    found, truth : of the same N faces
    change : arguments of :func:`bioface.edit`
    ways : of "edit"; "rest stays" and "maps alone", the other two ways to deal with what the maps do not explain; and
        "no edit", the photo as it is

    Raises
    ------
    BiofaceError : see :func:`bioface.edit`; an unknown way, other faces, or one alone
    """
    if found.mask.shape != truth.mask.shape:
        raise BiofaceError(f"expected maps of shape {truth.mask.shape}, found {found.mask.shape}")
    changes = {way: {**change, **how, "feather": 0} for way, how in WAYS.items()} | {"no edit": {}}
    expected, errors = edited(truth, changes["maps alone"]), {}
    for way in ways:
        if way not in changes:
            raise unknown_name("way to edit", way, changes)
        pairs = zip(edited(found, changes[way]), expected, truth.mask, strict=True)
        errors[way] = np.sqrt([((a - b)[mask].astype(float) ** 2).mean() for a, b, mask in pairs])
    return errors


def spectral_errors(found: Decomposition, truth: Decomposition) -> np.ndarray:
    """RMSE (N,) of the skin's reflectance over the pixels inside the masks and 33 bands, of N faces (``layered`` skin).

    Raises
    ------
    BiofaceError : fractions outside 0–1 or NaN inside a mask
    """
    errors = []
    for n, mask in enumerate(truth.mask):
        R, true_R = (skin.reflectance(d.melanin[n][mask], d.haemoglobin[n][mask]) for d in (found, truth))
        errors.append(((R - true_R).astype(float) ** 2).mean())
    return np.sqrt(errors)


# --- spectra and colours -----------------------------------------------------------------------------------


def padded(reflectance: np.ndarray) -> np.ndarray:
    """Spectra (N, 33), 400–720 nm, of spectra (N, 31) that end at 700 nm: the last value goes on.

    What the eye and cameras answer to beyond 700 nm is a thousandth of the whole.

    Raises
    ------
    BiofaceError : another number of bands
    """
    if reflectance.ndim != 2 or reflectance.shape[1] != 31:
        raise BiofaceError(f"expected spectra (N, 31), 400–700 nm, found shape {reflectance.shape}")
    return np.concatenate([reflectance, np.repeat(reflectance[:, -1:], 2, 1)], 1)


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of linear sRGB (..., 3) beside a white of (1, 1, 1), which is D65's.

    >>> lab(np.array([1.0, 1.0, 1.0])).round(2).tolist()
    [100.0, 0.0, 0.0]
    """
    to_xyz = np.linalg.inv(camera.XYZ_TO_SRGB.numpy())
    white = to_xyz.sum(-1)
    return _colour().XYZ_to_Lab(np.asarray(linear, float) @ to_xyz.T, white[:2] / white.sum())


def _colour() -> Any:
    """colour-science, imported late, and by :mod:`bioface.spectra` first, which keeps NumPy's style of printing."""
    spectra.colour_matching_functions()
    return importlib.import_module("colour")


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ΔE₀₀ of CIELAB colours (..., 3), broadcast.

    >>> round(float(difference(np.array([50.0, 2.6772, -79.7751]), np.array([50.0, 0.0, -82.7485]))), 4)
    2.0425
    """
    return np.asarray(_colour().delta_E(*np.broadcast_arrays(a, b), method="CIE 2000"))


def seen(reflectance: np.ndarray, b: Any, illuminant: Any) -> np.ndarray:
    """CIELAB (N, 3) of spectra (N, 33) as a camera sees them, white balanced.

    Parameters
    ----------
    b : (2,) coefficients of the camera
    illuminant : (33,) the light that shines
    """
    S = camera.CameraModel.load().sensitivity(torch.from_numpy(np.asarray(b, float)))
    to_rgb = camera.reflectance_to_rgb(torch.from_numpy(np.asarray(illuminant, float)), S)
    return lab(np.asarray(reflectance, float) @ to_rgb.numpy().T)


@dataclass(frozen=True)
class Lookalikes:
    """The spectra of an archive whose colours are nearest to each of N colours, nearest first.

    Attributes
    ----------
    index : (N, K) rows of the archive
    difference : (N, K) ΔE₀₀
    """

    index: np.ndarray
    difference: np.ndarray


def skins(surface: float, size: int = 64) -> np.ndarray:
    """Spectra (size², 33) of all skins of the ``layered`` table, with a share of the light from the bare surface."""
    return skin.reflectance_table(size=size).reshape(-1, 33).double().numpy() + surface


def lookalikes(colours: np.ndarray, archive: np.ndarray, count: int, block: int = 50) -> Lookalikes:
    """Find them.

    Parameters
    ----------
    colours : (N, 3) CIELAB
    archive : (M, 3) CIELAB of the archive's spectra under the same camera and light
    count : K, at most M

    Raises
    ------
    BiofaceError : more wanted than there are
    """
    if not 1 <= count <= len(archive):
        raise BiofaceError(f"expected to want 1 to {len(archive)} spectra, found {count}")
    found = []
    for start in range(0, len(colours), block):
        away = difference(colours[start : start + block, None], archive[None])  # (block, M)
        order = np.argsort(away, 1, kind="stable")[:, :count]
        found.append((order, np.take_along_axis(away, order, 1)))
    return Lookalikes(*map(np.concatenate, zip(*found, strict=True)))
