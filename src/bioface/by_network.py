"""A photo taken apart by the trained network, which knows faces that fill most of 64 × 64 pixels.

A photo of that size goes in as it is and its maps are the network's. Of any other, a square around the mask, a tenth
wider, is brought to 64 × 64 (averaged in linear light) and the maps back to the photo's size by linear interpolation.
The photo's detail goes into the shadings: with the interpolated pigments' colour a, and white w for highlights, as
given, the shadings of each pixel p are those ≥ 0 of least

    |i_d a + i_s w − p|² + 0.04 (i_d − network's)² + 1 (i_s − network's)²

in linear RGB (:data:`HOLD`). What this buys is detail, not truer shading: on faces of the twin whose true maps were
blurred to a quarter of their size, the error of the reconstruction falls from 0.063 to 0.032 (RMSE), while that of the
diffuse shading rises from 0.15 to 0.20, since brows and freckles go into it too.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from bioface import bayes, camera, illumination, image_formation, paths, pictures
from bioface.arrays import extent
from bioface.datasets import photos
from bioface.identifiability import MAPS, shadings
from bioface.maps import Decomposition
from bioface.network import BioFaceNet

#: The network that ships with the package; ``make weights`` makes it again.
WEIGHTS = paths.ASSETS / "biofacenet.safetensors"
SIZE = photos.SIZE  #: height and width of what the network was trained on
#: Side of the crop, in sides of the square around the mask: of the twin's 64 pixels the mask takes 58 (median).
MARGIN = 64 / 58
#: How much diffuse and specular shading of a pixel are held to the network's, against its colour: the squares of what
#: colours are off by (0.03) over what the two shadings are (0.15 and 0.03).
HOLD = (0.04, 1.0)


def decompose(network: BioFaceNet, linear: np.ndarray, face: np.ndarray) -> Decomposition:
    """A photo taken apart.

    Parameters
    ----------
    linear : (H, W, 3) float32 linear RGB
    face : (H, W) bool

    Returns
    -------
    (H, W) maps within the crop around the mask, NaN outside
    """
    H, W = face.shape
    if (H, W) == (SIZE, SIZE):
        g, k, diffuse, specular, b, e = _ask(network, linear)
        pigments = bayes.fractions(np.stack([g, k], -1))
        return Decomposition.of_maps(*pigments, diffuse, specular, b, e, linear, face)

    box = extent(face)
    side = MARGIN * (max(face[box].shape) - 1) + MARGIN  # of the crop, in pixels; it may reach beyond the photo
    top, left = ((line.start + line.stop - side) / 2 for line in box)
    step = side / SIZE
    rows, columns = (pictures.windows(n, start, step, SIZE) for n, start in ((H, top), (W, left)))
    *maps, b, e = _ask(network, pictures.resample(linear, rows, columns))
    # the pixels whose centres are inside the square
    y0, y1 = max(0, math.ceil(top - 0.5)), min(H, math.ceil(top + side - 0.5))
    x0, x1 = max(0, math.ceil(left - 0.5)), min(W, math.ceil(left + side - 0.5))
    across = pictures.windows(SIZE, (x0 - left) / step, 1 / step, x1 - x0)
    to_rgb = camera.reflectance_to_rgb(np.float64(e), camera.CameraModel.load().sensitivity(np.float64(b)))
    white = to_rgb.sum(-1).astype(np.float32)
    found = {name: np.full((H, W), np.nan, np.float32) for name in MAPS}
    found |= {name: np.full((H, W, 3), np.nan, np.float32) for name in ("albedo", "reconstruction")}
    height = max(1, pictures.STRIP // (x1 - x0))
    for y in range(y0, y1, height):
        part = slice(y, min(y + height, y1)), slice(x0, x1)
        down = pictures.windows(SIZE, (y - top) / step, 1 / step, part[0].stop - y)
        g, k, diffuse, specular = (pictures.resample(m, down, across) for m in maps)
        albedo = image_formation.skin_colour(g, k, to_rgb)
        diffuse, specular = _refined(diffuse, specular, albedo, white, linear[part])
        made = diffuse[..., None] * albedo + specular[..., None] * white
        values = *bayes.fractions(np.stack([g, k], -1)), diffuse, specular, albedo, made
        for whole, of_part in zip(found.values(), values, strict=True):
            whole[part] = of_part
    return Decomposition(**found, image=linear, mask=face, camera_b=b, illuminant=e)


@torch.no_grad()  # not inference_mode: what the physics keeps for later would be of no use to training
def _ask(network: BioFaceNet, linear: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pigments in table coordinates, shadings (64, 64), camera (2,) and light (33,) of linear RGB (64, 64, 3)."""
    device = next(network.parameters()).device
    asked = copy.deepcopy(network).eval()  # the caller's own may be in training
    said = asked(torch.from_numpy(linear)[None].to(device))
    light = illumination.mix(said.weights, said.cct)
    answers = (said.melanin, said.haemoglobin, said.diffuse, said.specular, said.camera, light)
    return tuple(v[0].float().cpu().numpy() for v in answers)


def _refined(
    diffuse: np.ndarray, specular: np.ndarray, albedo: np.ndarray, white: np.ndarray, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shadings (H, W) ≥ 0 that make the image (H, W, 3) of given colours, held to those given."""
    hold_d, hold_s = HOLD
    aa, ww, aw = (albedo**2).sum(-1) + hold_d, white @ white + hold_s, albedo @ white
    ap, wp = (albedo * image).sum(-1) + hold_d * diffuse, image @ white + hold_s * specular
    d, s = shadings(*(torch.from_numpy(np.asarray(v)) for v in (aa, aw, ww, ap, wp)))
    return d.numpy(), s.numpy()
