"""A photo taken apart by Bayes' rule: :mod:`bioface.face_posterior` with what is usual of skin, cameras and light."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch

from bioface import bayes, colour_table, degradation, face_posterior, illumination, image_formation, pictures
from bioface.datasets import portrait, skin_spectra
from bioface.maps import Decomposition


class NotSkin(UserWarning):
    """Much of what should be a face has colours that the skin model cannot make."""


def decompose(linear: np.ndarray, face: np.ndarray, margin: float) -> Decomposition:
    """Maps inside a mask and up to ``margin`` of its sides around it, NaN beyond.

    Where the photo shows a tone curve, they are of the light before it; the reconstruction has the curve again.

    Parameters
    ----------
    linear : (H, W, 3) linear RGB
    face : (H, W) bool
    """
    look = usual_scene().look(linear, face, margin=margin)
    maps = look.maps(linear, face | look.region(margin))
    to_rgb = bayes.rgb_of_reflectance(np.asarray(look.camera_b), np.asarray(look.illuminant))
    made = np.empty_like(linear)
    height = max(1, pictures.STRIP // face.shape[1])
    for y in range(0, len(face), height):
        some = np.moveaxis(maps[y : y + height, :, :4], -1, 0)
        g, k, diffuse, specular = (torch.from_numpy(v.copy()) for v in some)
        skins = image_formation.render_coordinates(g.nan_to_num(), k.nan_to_num(), diffuse, specular, to_rgb)
        made[y : y + height] = skins.numpy()
    straight, _ = colour_table.straightened(linear[face], look.tone)
    bright, specular = np.linalg.norm(straight, axis=-1), maps[..., 3][face]
    missed = np.linalg.norm(made[face] - straight, axis=-1) > 0.1 * bright + 0.02
    # no skin is what is missed by a tenth, black, or more highlight than anything else
    strange = float((missed | (bright < 0.01) | (specular * 3**0.5 > 0.5 * bright)).mean())
    if strange > 1 / 3:
        message = f"{strange:.0%} of the mask has colours that no skin has under any light: is it a face, well exposed?"
        warnings.warn(message, NotSkin, stacklevel=4)  # past `decompose` and its decorator
    found = *bayes.fractions(maps[..., :2]), maps[..., 2].copy(), maps[..., 3].copy(), maps[..., 4:7].copy()
    b, e = (np.asarray(v, np.float32) for v in (look.camera_b, look.illuminant))
    if look.tone:  # the photo's own curve, on display values
        made = image_formation.srgb_decode(degradation.tone_curve(image_formation.srgb_encode(made), look.tone))
    return Decomposition(*found, made, linear, face, b, e, exposure=look.exposure, **bayes.deviations(maps))


@functools.cache
def usual_scene() -> face_posterior.Scene:
    """The distribution of measured skin (ISSA), under :data:`bioface.face_posterior.DRAWS` draws of :func:`draw`."""
    melanin, haemoglobin = skin_spectra.pigments()
    inside = np.isfinite(melanin)
    skins = melanin[inside], haemoglobin[inside]
    prior = bayes.Prior.measured(*skins, None, None, skin_spectra.people()[inside])
    return face_posterior.Scene(prior, *draw(face_posterior.DRAWS, np.random.default_rng(0)))


def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cameras (count, 2), lights (count, 33), exposures (count,) that photos may be taken with, as the twin's are."""
    b, weights, cct = portrait.draw_cameras(count, rng)
    exposure = 2 ** rng.uniform(*face_posterior.EXPOSURES, count)
    return b, illumination.mix(weights, cct), exposure
