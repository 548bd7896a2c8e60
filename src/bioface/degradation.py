"""What a camera's processing does to a photo after the light was measured: noise, a tone curve, JPEG.

All of it happens to display values, sRGB in [0, 1], of images of shape (..., H, W, 3). The image formation model knows
nothing of it: a method has to bear it.

Reference: ITU-T T.81 (1992): JPEG; Pillow writes it, with colour at half the resolution (4:2:0).
"""

import io
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError

TONE = 0.08  #: strength of a common camera's S-curve, in display values
QUALITY = (60, 100)  #: of the JPEG files that photos are shared as
UNCOMPRESSED = 1 / 3  #: share of photos in training that never were JPEG files
NOISE = 0.02  #: a standard deviation in display values that is seen in dim light


class Chain(NamedTuple):
    """One camera's processing: ``tone`` and ``noise`` in display values, JPEG ``quality`` 1–100 or None."""

    tone: float = 0.0
    quality: int | None = None
    noise: float = 0.0


@accepts_numpy
def tone_curve(image: Float[Tensor, "*batch H W 3"], strength: float) -> Float[Tensor, "*batch H W 3"]:
    """x − a sin 2πx: more contrast for ``strength`` a > 0, less for a < 0; black, middle grey and white stay.

    Raises BiofaceError: |a| ≥ 1/2π, where the curve would fall.

    >>> tone_curve(torch.full((1, 1, 3), 0.25), 0.08)[0, 0, 0]
    tensor(0.1700)
    """
    if not abs(strength) < 1 / (2 * math.pi):
        raise BiofaceError(f"expected a tone curve's strength within ±1/2π, found {strength}")
    return image - strength * torch.sin(2 * math.pi * image)


@accepts_numpy
def jpeg(image: Float[Tensor, "*batch H W 3"], quality: int) -> Float[Tensor, "*batch H W 3"]:
    """Each image written as a JPEG file (4:2:0) of ``quality`` 1–100 and read back, so in steps of 1/255."""
    pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    found = np.empty_like(pixels)
    for place in np.ndindex(pixels.shape[:-3]):
        file = io.BytesIO()
        Image.fromarray(pixels[place]).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        found[place] = np.asarray(Image.open(file))
    return torch.from_numpy(found).to(image) / 255


@accepts_numpy
def sensor_noise(
    image: Float[Tensor, "*batch H W 3"], deviation: float, rng: np.random.Generator
) -> Float[Tensor, "*batch H W 3"]:
    """Gaussian noise of a standard ``deviation`` on every value by itself, cut to [0, 1]."""
    return (image + torch.from_numpy(rng.normal(0, deviation, tuple(image.shape))).to(image)).clamp(0, 1)


def draw(rng: np.random.Generator) -> Chain:
    """A camera for training: tone within ±:data:`TONE`, :data:`QUALITY` or no JPEG, noise of 0–:data:`NOISE`."""
    tone, noise = rng.uniform(-TONE, TONE), rng.uniform(0, NOISE)
    quality = int(rng.integers(QUALITY[0], QUALITY[1], endpoint=True))
    return Chain(tone, None if rng.random() < UNCOMPRESSED else quality, noise)


@accepts_numpy
def apply(
    image: Float[Tensor, "*batch H W 3"], chain: Chain, rng: np.random.Generator
) -> Float[Tensor, "*batch H W 3"]:
    """Images through one chain, in the order of a camera: noise, tone curve, JPEG."""
    image = tone_curve(sensor_noise(image, chain.noise, rng), chain.tone)
    return image if chain.quality is None else jpeg(image, chain.quality)
