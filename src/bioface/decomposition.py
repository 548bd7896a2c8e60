"""A photo taken apart, by Bayes or by the network, and put together again in another way.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, section 4: the maps of Table 1, and the edits of Fig. 4.
Shafer (1985), "Using color to separate reflection components": the two shadings of a pixel whose skin is known.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import scipy.ndimage
from PIL import Image

from bioface import by_bayes, by_network, camera, faces, illumination, image_formation, pictures, skin
from bioface.arrays import extent, torch_as_it_starts
from bioface.by_bayes import NotSkin as NotSkin
from bioface.datasets import photos
from bioface.errors import BiofaceError, unknown_name
from bioface.maps import Decomposition as Decomposition
from bioface.network import BioFaceNet

METHODS = ("bayes", "network")
WHITE_BALANCES = ("kept", "new")
RESTS = ("follows", "stays", "none")
DARK = 0.04  #: of a pixel's brightest channel, what every channel has at least where an edit changes it by a ratio
FEATHER = 0.05  #: over which an edit fades out beyond the end of the mask, in its longer sides
_Pair = tuple[np.ndarray, np.ndarray]


class NoMask(UserWarning):
    """A photo came without a mask and no face was found, so that where its face is had to be taken for granted."""


@overload
def decompose(
    image: Any, mask: Any = ..., weights: Any = ..., method: Any = ..., face: int | None = ...
) -> Decomposition: ...
@overload
def decompose(
    image: Any, mask: Any = ..., weights: Any = ..., method: Any = ..., *, face: Literal["all"]
) -> list[Decomposition]: ...
@torch_as_it_starts()
def decompose(
    image: str | Path | photos.Photo | Image.Image | np.ndarray,
    mask: str | Path | Image.Image | np.ndarray | None = None,
    weights: str | Path | BioFaceNet | None = None,
    method: str | None = None,
    face: int | str | None = None,
) -> Decomposition | list[Decomposition]:
    """Take a photo of a face apart, at the photo's own resolution.

    "bayes" is :mod:`bioface.face_posterior` with the distribution of measured skin (ISSA) and draws of cameras, lights
    and exposures: nothing is trained, and every map comes with its standard deviation. Maps reach 0.05 sides of the
    mask beyond it, and are NaN further out. It warns where more than a third of the mask has colours of no skin.

    "network" is the trained network, :mod:`bioface.by_network`: maps of 64 × 64 pixels, the photo's detail in their
    shadings, and NaN beyond its crop of the face.

    Photos of more than 4 million pixels are shrunk to that first, by averaging: the result is of the reduced size and
    its ``image`` the photo that it describes. Files are averaged in display values, arrays in linear light.

    Parameters
    ----------
    image : file of a photo, or Pillow's picture; or a :class:`bioface.datasets.photos.Photo`; or display sRGB,
        (H, W, 3), grey (H, W), or with opacity (H, W, 4), as floats in [0, 1], uint8 or uint16
    mask : where the face is: a picture that is light there, or (H, W), see :func:`bioface.datasets.photos.read`. Left
        out, it is where the photo is opaque; if that is everywhere, it is the skin of the face that
        :mod:`bioface.faces` finds; if there is none, all of it is taken for face, with a warning
    weights : a network, or the safetensors file of one, for the network; None is the one that ships
    method : "bayes" or "network"; None is the network where ``weights`` are given, else Bayes
    face : which of several faces, where no mask says: 1 for the largest, which None takes too; "all" for all of them

    Returns
    -------
    of one photo, (H, W) maps; of all faces a list of them, the largest face first

    Raises
    ------
    DataError : a photo, mask or weights file that is missing, damaged or of the wrong size
    BiofaceError : an array of other shape, type or range, a side below 16 pixels; a mask of another size, or empty; an
        unknown method, weights for Bayes; a face that is not there
    """
    method = method or ("bayes" if weights is None else "network")
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if method == "bayes" and weights is not None:
        raise BiofaceError("expected weights for the network only, found some for method 'bayes'")
    linear, given = pictures.read(image, mask)
    masks = [given]
    if mask is None and given.all():
        masks = faces.masks(linear, face) or masks
        if masks[0] is given:
            whole = "no mask given and no face found for certain: the whole picture is taken as face; give a mask"
            warnings.warn(whole + " or a crop of the face", NoMask, stacklevel=3)
    elif face is not None:
        raise BiofaceError(f"expected no mask where a face is asked for by number, found one beside {face!r}")
    if method == "bayes":
        found = [by_bayes.decompose(linear, one, FEATHER) for one in masks]
    else:
        network = weights if isinstance(weights, BioFaceNet) else BioFaceNet.from_file(weights or by_network.WEIGHTS)
        found = [by_network.decompose(network, linear, one) for one in masks]
    return found if face == "all" else found[0]


@torch_as_it_starts()
def edit(
    decomposition: Decomposition,
    melanin: int | float = 0.0,
    haemoglobin: int | float = 1.0,
    specular: int | float = 1.0,
    illuminant: str | int | float | np.ndarray | None = None,
    camera: Any = None,
    white_balance: str = "kept",
    rest: str = "follows",
) -> np.ndarray:
    """A photo with other skin, highlights, light or camera.

    The maps render to R = i_d a + i_s w, diffuse skin and highlights, and the edited maps to R'. A photo c changes by
    their ratio, in linear light and for each channel,

        edited = (c + ε) (R' + ε) / (R + ε) − ε,   ε = :data:`DARK` of the brightest channel of R

    with i_d as the photo has it, the least squares (c − i_s w)·a / |a|². So what the maps do not explain, pores and the
    camera's processing, becomes darker or lighter as the skin does. Where a channel is nearly dark, ε keeps the ratio
    from noise. Highlights i_s are at most as bright as the photo. No edit gives back the photo, and maps that explain
    all of it give the rendering of the edited maps.

    Beyond the end of the mask the edit fades out: within :data:`FEATHER` its share falls smoothly from 1 to 0, sooner
    where the maps end; holes of the mask stay as they are.

    With the camera's sensitivities S (3 × 33), T from raw to XYZ and M from XYZ to sRGB, a rendering in the light e' is
    M T diag(S e₀)⁻¹ S diag(e') (i_d r + i_s). The balance is for the light e₀: the decomposition's own when it is
    "kept", so that the face takes on the cast of the new light; e' itself when it is "new", which takes out most of it.

    Parameters
    ----------
    decomposition : of one photo
    melanin : added to the table coordinate, −2 to 2; the paper's Fig. 4 adds 0.6. Beyond the table's ends is its end
    haemoglobin : factor ≥ 0 on the volume fraction, up to the table's end; the paper halves it
    specular : factor ≥ 0 on the highlights
    illuminant : the light e' instead of the photo's: "A", "D65", "F1" … "F12", daylight of so many K, or a spectrum
        (33,) ≥ 0 of any scale
    camera : coefficients (2,) in [−3, 3] of the camera instead of the photo's
    white_balance : "kept" or "new"
    rest : what the maps do not explain "follows" the skin, as above; or "stays" as it is; or there is "none": the
        rendering of the edited maps alone, which no photo comes back from

    Returns
    -------
    (H, W, 3) float32 display sRGB, clipped to [0, 1]

    Raises
    ------
    BiofaceError : an edit out of its range, an unknown light, balance or rest, several photos
    """
    d = decomposition
    if d.melanin.ndim != 2:
        raise BiofaceError(f"expected the decomposition of one photo, found maps of shape {d.melanin.shape}")
    for value, wanted, low, high in (
        (melanin, "a shift of melanin within −2 and 2", -2, 2),
        (haemoglobin, "a factor on haemoglobin ≥ 0", 0, math.inf),
        (specular, "a factor on specular ≥ 0", 0, math.inf),
    ):
        if not (low <= value <= high and math.isfinite(value)):
            raise BiofaceError(f"expected {wanted}, found {value}")
    for kind, name, known in (("white balance", white_balance, WHITE_BALANCES), ("rest", rest, RESTS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    light = d.illuminant if illuminant is None else _light(illuminant)
    b = d.camera_b if camera is None else np.asarray(camera, np.float32)
    if b.shape != (2,) or not (np.abs(b) <= 3).all():
        raise BiofaceError(f"expected two camera coefficients within −3 and 3, found {camera}")

    share = _shares(d.mask, np.isfinite(d.reconstruction).all(-1))
    edited = share > 0
    linear = d.image.copy()
    if edited.any():
        before = _to_rgb(d.camera_b, d.illuminant, d.illuminant)
        after = _to_rgb(b, light, d.illuminant if white_balance == "kept" else light)
        white = before.sum(-1).astype(np.float32), after.sum(-1).astype(np.float32)
        pixels = [v[edited] for v in (d.melanin, d.haemoglobin, d.diffuse_shading, d.specular_shading, share)]
        photo = linear[edited]
        for start in range(0, len(photo), pictures.STRIP):
            part = slice(start, start + pictures.STRIP)
            m, h, diffuse, shine, of_edit = (v[part, None] for v in pixels)
            skins = _skin_colour(m, h, before), _skin_colour(m, h, after, melanin, haemoglobin)
            photo[part] += of_edit * _change(photo[part], skins, white, diffuse, shine, float(specular), rest)
        linear[edited] = photo
    return np.clip(image_formation.srgb_encode(linear), 0, 1)


def _skin_colour(
    m: np.ndarray, h: np.ndarray, to_rgb: np.ndarray, melanin: int | float = 0, haemoglobin: int | float = 1
) -> np.ndarray:
    """Colours (N, 3) of the skin of N pixels (N, 1), edited; camera and light (3, 33) as of :func:`_to_rgb`."""
    g = skin.table_coordinate(m, skin.MELANIN_RANGE[1]) + np.float32(melanin)
    k = skin.table_coordinate(h * np.float32(haemoglobin), skin.HAEMOGLOBIN_RANGE[1])
    return image_formation.skin_colour(g.T.clip(-1, 1), k.T, to_rgb)[0]


def _change(
    image: np.ndarray, skins: _Pair, white: _Pair, diffuse: np.ndarray, shine: np.ndarray, specular: float, rest: str
) -> np.ndarray:
    """What an edit adds to N pixels (N, 3), linear RGB: see :func:`edit`; 0 to the last bit when nothing is edited.

    skins, white : colours (N, 3) and (3,), before and after; diffuse, shine : shadings (N, 1)
    """
    (a, edited_a), (w, edited_w) = skins, white
    shine = np.nan_to_num(shine)  # without a word on highlights there are none
    if rest == "none":
        return diffuse * edited_a + specular * shine * edited_w - image
    if rest == "stays":
        return diffuse * (edited_a - a) + shine * (specular * edited_w - w)
    beyond = diffuse * a.clip(None, 0)  # skin can be more colourful than sRGB: light of less than 0
    shine = np.minimum(shine, ((image - beyond) / w).min(-1, keepdims=True).clip(0))
    shading = (a * (image - shine * w)).sum(-1, keepdims=True) / (a**2).sum(-1, keepdims=True)  # the photo says
    made = shading * a + shine * w
    remade = shading * edited_a + specular * shine * edited_w
    dark = DARK * made.max(-1, keepdims=True).clip(1e-3)
    return (image + dark) * (remade - made) / np.maximum(made + dark, dark / 2)


def _shares(mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Shares (H, W) of an edit, 0 to 1: see :func:`edit`; ``known`` is where there are maps."""
    share = (mask & known).astype(np.float32)
    if not share.any() or mask.all():
        return share
    face = extent(mask)
    width = FEATHER * max(mask[face].shape)  # pixels
    reach = math.ceil(width) + 1
    box = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in face)
    mask, known = mask[box], known[box]
    outside = known & ~scipy.ndimage.binary_fill_holes(mask)
    away = scipy.ndimage.distance_transform_edt(~mask) - 0.5  # from the edge between pixels
    if not known.all():
        width = np.minimum(width, away + scipy.ndimage.distance_transform_edt(known))
    t = (1 - away / width).clip(0, 1)
    share[box][outside] = (t * t * (3 - 2 * t))[outside]
    return share


def _light(illuminant: str | int | float | np.ndarray) -> np.ndarray:
    """(33,) of unit sum."""
    if isinstance(illuminant, str) or np.ndim(illuminant) == 0:
        return illumination.standard(illuminant if isinstance(illuminant, str) else float(illuminant)).numpy()
    e = np.asarray(illuminant, np.float64)
    if e.shape != (33,) or not (np.isfinite(e).all() and (e >= 0).all() and e.sum() > 0):
        raise BiofaceError(f"expected an illuminant of 33 values ≥ 0, not all 0, found shape {e.shape} or other values")
    return e / e.sum()


def _to_rgb(b: np.ndarray, light: np.ndarray, balanced_for: np.ndarray) -> np.ndarray:
    """Camera and light as one matrix (3, 33) to linear sRGB, balanced for another light than the one that shines."""
    S = camera.CameraModel.load().sensitivity(np.asarray(b, np.float64))
    return camera.reflectance_to_rgb(np.asarray(light), S, balanced_for=np.asarray(balanced_for))
