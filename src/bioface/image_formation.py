"""From maps to an image: the dichromatic model l = e ⊙ (i_d r(m, h) + i_s), seen by a camera.

Two roads to the same image. ``exact`` carries 33 bands per pixel; ``table`` integrates the reflectance table
against camera and light once per image and looks pixels up in it by bilinear interpolation.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, equations 8–12.
Shafer (1985), "Using color to separate reflection components": the dichromatic model.
IEC 61966-2-1:1999: the sRGB curve.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bioface import camera as cameras
from bioface import skin, spectra
from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError, unknown_name

TABLE_SIZE = 64


@accepts_numpy
def srgb_encode(linear: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Linear light to sRGB display values; negative light is continued by the curve's linear part.

    >>> srgb_encode(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.7354, 1.0000])
    """
    # clamp inside the power: its slope at 0 is infinite, and torch.where passes NaN gradients on
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


@accepts_numpy
def srgb_decode(display: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """sRGB display values to linear light; the inverse of :func:`srgb_encode`.

    >>> srgb_decode(torch.tensor([0.0, 0.7354, 1.0]))
    tensor([0.0000, 0.5001, 1.0000])
    """
    curve = ((display.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(display <= 0.04045, display / 12.92, curve)


@accepts_numpy
def render_spectral(
    melanin: Float[Tensor, "*batch H W"],
    haemoglobin: Float[Tensor, "*batch H W"],
    diffuse: Float[Tensor, "*batch H W"],
    specular: Float[Tensor, "*batch H W"],
    illuminant: Float[Tensor, "*light D"],
    model: str | skin.SkinConstants = "layered",
    wavelengths: object = spectra.WAVELENGTHS,
) -> Float[Tensor, "*batch H W D"]:
    """Radiance l = e ⊙ (i_d r(m, h) + i_s) of every pixel, (..., H, W, D), in the unit of ``illuminant``.

    Of volume fractions 0–1 and shadings ≥ 0, (..., H, W), under a light (..., D) or (D,).

    Raises BiofaceError: fractions outside 0–1, unknown model, wavelengths outside 400–720 nm.
    """
    R = skin.reflectance(melanin, haemoglobin, model, wavelengths)
    e = illuminant.to(R)
    e = e[..., None, None, :] if e.ndim > 1 else e  # of an image (..., D) to of its pixels (..., H, W, D)
    return e * (diffuse[..., None] * R + specular[..., None])


@functools.lru_cache(maxsize=8)
def _table(model: str | skin.SkinConstants, size: int, dtype: torch.dtype, device: str) -> Tensor:
    return skin.reflectance_table(model, size, dtype=dtype).to(device)


def colour_table(
    illuminant: Float[Tensor, "*batch 33"],
    camera_sensitivity: Float[Tensor, "*batch 3 33"],
    model: str | skin.SkinConstants = "layered",
    rows: str = "d65",
    size: int = TABLE_SIZE,
) -> Float[Tensor, "*batch 3 K K"]:
    """Linear RGB (..., 3, K, K) of all skin under one light and camera, over (melanin, haemoglobin).

    Even in the table coordinate g ∈ [−1, 1] (:func:`bioface.skin.table_coordinate`); differentiable in both.
    """
    return _integrate(cameras.reflectance_to_rgb(illuminant, camera_sensitivity, rows), model, size)


def _integrate(to_rgb: Tensor, model: str | skin.SkinConstants, size: int) -> Tensor:
    table = _table(model, size, to_rgb.dtype, str(to_rgb.device))
    return torch.einsum("...cd,mhd->...cmh", to_rgb, table)


def _planes(
    table: Float[Tensor, "*batch 3 K K"],
    melanin_coordinate: Float[Tensor, "*batch H W"],
    haemoglobin_coordinate: Float[Tensor, "*batch H W"],
) -> Float[Tensor, "*batch 3 H W"]:
    """Bilinear look-up at table coordinates g ∈ [−1, 1]; outside it is the edge. Planes are twice as fast."""
    K = table.shape[-1]
    *batch, H, W = melanin_coordinate.shape
    table = table.reshape(-1, 3, K, K)
    g, k = (c.reshape(-1, H, W) for c in (melanin_coordinate, haemoglobin_coordinate))
    if table.device.type != "cpu":
        return _four_taps(table, g, k).reshape(*batch, 3, H, W)
    # torch's own sampler: on a CPU three times as fast, and as repeatable
    inside = 1 - 1e-6  # at the very edge its slope is 0, which would hold a pixel there for good
    grid = torch.stack([k, g], -1) * inside
    sample = torch.nn.functional.grid_sample(table, grid, "bilinear", "border", align_corners=True)
    return sample.reshape(*batch, 3, H, W)


def _four_taps(table: Tensor, g: Tensor, k: Tensor) -> Tensor:
    """The same from four gathered taps, whose backward pass sorts and so repeats; a GPU's ``grid_sample`` does not."""
    B, _, K, _ = table.shape
    taps = table.movedim(1, -1).reshape(B * K * K, 3)

    def place(coordinate: Tensor) -> tuple[Tensor, Tensor]:
        position = ((coordinate + 1) * ((K - 1) / 2)).clamp(0, K - 1)
        low = position.detach().long().clamp_max(K - 2)
        return low, (position - low)[..., None]

    (row, down), (column, right) = place(g), place(k)
    at = torch.arange(B, device=table.device)[:, None, None] * (K * K) + row * K + column  # (B, H, W)
    top = torch.lerp(taps[at], taps[at + 1], right)
    bottom = torch.lerp(taps[at + K], taps[at + K + 1], right)
    return torch.lerp(top, bottom, down).movedim(-1, 1)  # (B, 3, H, W)


@accepts_numpy
def render(
    melanin: Float[Tensor, "*batch H W"],
    haemoglobin: Float[Tensor, "..."],
    diffuse: Float[Tensor, "..."],
    specular: Float[Tensor, "..."],
    illuminant: Float[Tensor, "*light 33"],
    camera: Float[Tensor, "*cameras 3 33"],
    model: str | skin.SkinConstants = "layered",
    rows: str = "d65",
    method: str = "table",
) -> Float[Tensor, "*batch H W 3"]:
    """Linear sRGB image of skin; not clipped.

    Parameters
    ----------
    melanin, haemoglobin : (..., H, W) volume fractions, 0–1; the table ends at 0.43 and 0.07
    diffuse, specular : (..., H, W) shadings, ≥ 0
    illuminant : (..., 33) any scale, white balance cancels it
    camera : (..., 3, 33) sensitivities
    model : "layered" or "published"
    rows : "d65", "code" or "paper": how white comes out, see :func:`bioface.camera.raw_to_xyz`
    method : "table" (fast, colour within 1e-3) or "exact" (33 bands per pixel)

    Returns
    -------
    (..., H, W, 3) linear sRGB in the precision of the maps; differentiable in the maps, the light and the camera

    Raises
    ------
    BiofaceError : maps of several shapes, fractions outside 0–1 or beyond the table's ends, an illuminant that the
        camera does not see, unknown model, rows or method
    """
    if method not in ("table", "exact"):
        raise unknown_name("method", method, ("table", "exact"))
    shapes = [tuple(m.shape) for m in (melanin, haemoglobin, diffuse, specular)]
    if len(set(shapes)) > 1:
        raise BiofaceError(f"expected four maps of one shape, found {', '.join(map(str, shapes))}")
    illuminant, camera = illuminant.to(melanin), camera.to(melanin)
    if method == "exact":
        to_rgb = cameras.reflectance_to_rgb(illuminant, camera, rows)
        factor = render_spectral(melanin, haemoglobin, diffuse, specular, torch.ones_like(illuminant), model)
        return torch.einsum("...cd,...hwd->...hwc", to_rgb, factor)
    tops = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
    skin.check_fractions(melanin, haemoglobin, tops, ", where the table ends (method='exact' goes on to 1)")
    g, k = (skin.table_coordinate(v, top) for v, top in zip((melanin, haemoglobin), tops, strict=True))
    return render_coordinates(g, k, diffuse, specular, cameras.reflectance_to_rgb(illuminant, camera, rows), model)


def render_coordinates(
    melanin: Float[Tensor, "*batch H W"],
    haemoglobin: Float[Tensor, "..."],
    diffuse: Float[Tensor, "..."],
    specular: Float[Tensor, "..."],
    to_rgb: Float[Tensor, "*light 3 33"],
    model: str | skin.SkinConstants = "layered",
) -> Float[Tensor, "*batch H W 3"]:
    """:func:`render` by table, from what the network gives: pigments in table coordinates g ∈ [−1, 1].

    ``to_rgb`` is camera and light in one, :func:`bioface.camera.reflectance_to_rgb`.
    """
    table = _integrate(to_rgb.to(melanin), model, TABLE_SIZE)
    table = table.expand(*melanin.shape[:-2], *table.shape[-3:])
    white = to_rgb.to(melanin).sum(-1)[..., None, None]  # a highlight reflects all wavelengths alike
    diffuse, specular = diffuse.unsqueeze(-3), specular.unsqueeze(-3)
    return (diffuse * _planes(table, melanin, haemoglobin) + specular * white).movedim(-3, -1)


def skin_colour(melanin: np.ndarray, haemoglobin: np.ndarray, to_rgb: np.ndarray) -> np.ndarray:
    """Linear RGB (H, W, 3) of pigments (H, W) in table coordinates, under diffuse shading 1, without highlights."""
    g, k = (torch.from_numpy(np.ascontiguousarray(v, np.float32)) for v in (melanin, haemoglobin))
    return render_coordinates(g, k, torch.ones_like(g), torch.zeros_like(g), torch.from_numpy(to_rgb)).numpy()
