"""The four losses of the paper, in the paper's scale and in that of the authors' code.

The paper takes means over the foreground of images in [0, 1]; the code sums over batch and pixels, divides by
224² and works on images in [0, 255]. Nothing else differs, and it is a factor of about 2·10⁵ in the gradient; the
momentum of its trainer adds the rest (notebook 02).

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

from bioface.errors import unknown_name

REDUCTIONS = ("mean", "sum")
CODE_AREA = 224**2  #: what the authors' code divides its sums by, whatever the image size


class Weights(NamedTuple):
    """How much each loss counts; the defaults are those of paper and code.

    Attributes
    ----------
    appearance, camera, specular, diffuse : factors ≥ 0
    """

    appearance: float = 1e-3
    camera: float = 1e-4
    specular: float = 1e-5
    diffuse: float = 1e-5


def reduce(
    values: Float[Tensor, "B *dims"], mask: Bool[Tensor, "B *dims"], reduction: str, count: Tensor | None = None
) -> Float[Tensor, ""]:
    """One number from values per pixel: their mean over the foreground, or their sum / 224².

    Parameters
    ----------
    values : (B, H, W)
    mask : (B, H, W) bool, the foreground
    reduction : "mean" (paper) or "sum" (authors' code)
    count : number of foreground pixels to divide by instead of that of this mask, where a batch is spread over
        several processes
    """
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
    total = torch.where(mask, values, 0).sum()
    if reduction == "sum":
        return total / CODE_AREA
    return total / (mask.sum() if count is None else count)


def appearance(
    rendered: Float[Tensor, "B H W 3"], image: Float[Tensor, "B H W 3"], scale: float = 1.0
) -> Float[Tensor, "B H W"]:
    """Squared colour error of each pixel, summed over R, G, B; linear RGB in [0, scale]."""
    return (scale * (rendered - image)).square().sum(-1)


def camera_prior(b: Float[Tensor, "B 2"], reduction: str = "mean") -> Float[Tensor, ""]:
    """‖b‖² of the camera coefficients: Gaussian, as the components' deviations are divided out.

    The mean over the batch, or its sum.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
    power = b.square().sum(-1)
    return power.mean() if reduction == "mean" else power.sum()


def specular_sparsity(specular: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """|i_s| of each pixel: highlights are few."""
    return specular.abs()


def diffuse_supervision(
    diffuse: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], mask: Bool[Tensor, "B H W"]
) -> Float[Tensor, "B H W"]:
    """Squared error of each pixel after the per-image scale that fits best: (α i_d − target)².

    The scale is on the prediction, so that the loss does not care how bright it is: shading is known up to a
    factor. The best α depends on the prediction, but where it is best its own derivative drops out.
    """
    inside = torch.where(mask, diffuse.detach(), 0)  # a derivative of α would overflow where the shading is tiny
    power = inside.square().sum((-2, -1))
    alpha = (inside * target).sum((-2, -1)) / torch.where(power > 0, power, 1)
    return (alpha[:, None, None] * diffuse - target).square()
