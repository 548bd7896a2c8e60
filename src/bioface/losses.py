"""The four losses of the paper, in the paper's scale and in that of the authors' code, and one that it lacks.

The paper takes means over the foreground of images in [0, 1]; the code sums over batch and pixels, divides by 224² and
works on images in [0, 255]: a factor of about 2·10⁵ in the gradient. The fifth, the distance to the truth, is what it
takes to tell skin from shading on new faces (notebook 05).

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, section 3.3.
The authors' code: github.com/ssma502/BioFaces.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bioface.network import Output

REDUCTIONS = ("mean", "sum")
CODE_AREA = 224**2  #: what the authors' code divides its sums by, whatever the image size


class Weights(NamedTuple):
    """Factors ≥ 0 of the losses, by default those of paper and code."""

    appearance: float = 1e-3
    camera: float = 1e-4
    specular: float = 1e-5
    diffuse: float = 1e-5
    truth: float = 0.0  #: of :func:`supervision`


def reduce(
    values: Float[Tensor, "B *dims"], mask: Bool[Tensor, "B *dims"], reduction: str, count: Tensor | None = None
) -> Float[Tensor, ""]:
    """One number from values of pixels: their "mean" over the foreground (paper), or their "sum" / 224² (code).

    ``count`` is the number of foreground pixels to divide by, where a batch is spread over several processes.
    """
    total = torch.where(mask, values, 0).sum()
    if reduction == "sum":
        return total / CODE_AREA
    return total / (mask.sum() if count is None else count)


def appearance(
    rendered: Float[Tensor, "B H W 3"], image: Float[Tensor, "B H W 3"], scale: float = 1.0
) -> Float[Tensor, "B H W"]:
    """‖s (rendered − image)‖² of each pixel, summed over R, G, B; linear RGB times the scale s, 1 or 255."""
    return (scale * (rendered - image)).square().sum(-1)


def camera_prior(b: Float[Tensor, "B 2"]) -> Float[Tensor, "B"]:
    """‖b‖² of each camera's coefficients: Gaussian, as the components' deviations are divided out."""
    return b.square().sum(-1)


def specular_sparsity(specular: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """|i_s| of each pixel: highlights are few."""
    return specular.abs()


def diffuse_supervision(
    diffuse: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], mask: Bool[Tensor, "B H W"]
) -> Float[Tensor, "B H W"]:
    """(α i_d − target)² of each pixel, with the scale α = Σ i_d target / Σ i_d² that fits the image best.

    Shading is known up to a factor. The best α depends on the prediction, but there its derivative drops out.
    """
    inside = torch.where(mask, diffuse.detach(), 0)  # a derivative of α would overflow where the shading is tiny
    power = inside.square().sum((-2, -1))
    alpha = (inside * target).sum((-2, -1)) / torch.where(power > 0, power, 1)
    return (alpha[:, None, None] * diffuse - target).square()


class Shares(NamedTuple):
    """How much each squared error counts in :func:`supervision`; haemoglobin, which shows least, more than melanin.

    Shadings and colours vary less than pigments in [−1, 1]; a camera coefficient says little of a face.
    """

    melanin: float = 1.0
    haemoglobin: float = 4.0
    diffuse: float = 4.0
    specular: float = 10.0
    albedo: float = 2.0
    camera: float = 0.02


def supervision(
    said: Output, true: Output, colours: Float[Tensor, "B H W 3"], shares: Shares
) -> Float[Tensor, "B H W"]:
    """Σ share · (said − true)² of each pixel, as SfSNet and InverseFaceNet are trained on synthetic faces.

    Pigments in table coordinates; ``colours`` is the difference of the two albedos, linear RGB; the camera's error
    counts in every pixel alike. References: Sengupta et al. (2018), Kim et al. (2018), both CVPR.
    """
    maps = [(a - b).square() for a, b in zip(said[:4], true[:4], strict=True)]
    camera = (said.camera - true.camera).square().mean(-1)[:, None, None]
    errors = (*maps, colours.square().sum(-1), camera)
    return sum((s * e for s, e in zip(shares, errors, strict=True)), start=colours.new_zeros(()))
