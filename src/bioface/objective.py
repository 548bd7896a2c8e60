"""From what the network says to the loss: decode the maps to an image, compare, add the priors.

Everything that a recipe can do right or wrong after the network happens here, in plain functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bioface import camera, illumination, image_formation, losses, network, skin
from bioface.errors import BiofaceError
from bioface.identifiability import MAPS
from bioface.network import Output
from bioface.recipes import Recipe

LUMINANCE = (0.2126, 0.7152, 0.0722)  #: of linear sRGB, IEC 61966-2-1


@dataclass(frozen=True)
class Batch:
    """Faces as training sees them.

    Raises BiofaceError: wrong shapes, sizes that are no multiple of 16, a mask that is not bool, an empty mask, NaN or
    infinity anywhere; the message names the face.
    """

    image: Float[Tensor, "B H W 3"]  #: linear RGB, about 0–1
    mask: Bool[Tensor, "B H W"]  #: the face
    normals: Float[Tensor, "B H W 3"] | None = None  #: of unit length inside the mask; None for photos
    lighting: Float[Tensor, "B 9"] | None = None  #: spherical harmonics; with the normals the shading that supervises
    names: tuple[str, ...] = ()  #: for messages
    truth: Output | None = None  #: what the network should say, where that is known

    def __post_init__(self) -> None:
        network.check_image(self.image)
        B, *size = self.image.shape[:3]
        names = self.names or tuple(f"face {i}" for i in range(B))
        object.__setattr__(self, "names", names)
        shapes = {"mask": (B, *size), "normals": (B, *size, 3), "lighting": (B, 9)}
        for field, shape in shapes.items():
            value = getattr(self, field)
            if value is not None and tuple(value.shape) != shape:
                raise BiofaceError(f"expected {field} of shape {shape}, found {tuple(value.shape)}")
        if (self.normals is None) != (self.lighting is None):
            raise BiofaceError("expected normals and lighting together, found one without the other")
        if self.mask.dtype != torch.bool:
            raise BiofaceError(f"expected a mask of booleans, found {self.mask.dtype}")
        good = {"a mask with a face, found an empty mask": self.mask}
        for field in ("image", "normals", "lighting"):
            if (value := getattr(self, field)) is not None:
                good[f"finite values in {field}, found others"] = torch.isfinite(value).flatten(1).all(1, keepdim=True)
        for expected, by_face in good.items():
            for name, is_good in zip(names, by_face.flatten(1).any(1).tolist(), strict=True):
                if not is_good:
                    raise BiofaceError(f"{name}: expected {expected}")

    @classmethod
    def of(cls, faces: Any) -> Batch:
        """Faces of :mod:`bioface.datasets` (sRGB, normals, lights, truth) as a batch; a batch passes through."""
        if isinstance(faces, Batch):
            return faces
        if not all(hasattr(faces, name) for name in ("rgb", "mask", "normals", "lighting", "names")):
            raise BiofaceError(f"expected faces of a data set or a batch, found {type(faces).__name__}")
        given = faces.rgb, faces.mask, faces.normals, faces.lighting.mean(1)
        rgb, mask, normals, lighting = (torch.from_numpy(np.ascontiguousarray(values)) for values in given)
        truth = None if getattr(faces, "truth", None) is None else true_output(faces.truth)
        return cls(image_formation.srgb_decode(rgb), mask, normals, lighting, tuple(faces.names), truth)

    @classmethod
    def of_photo(cls, rgb: np.ndarray, mask: np.ndarray, name: str = "photo") -> Batch:
        """One photo, display sRGB (H, W, 3) in [0, 1] with its mask (H, W): no normals, so no shading supervision."""
        if not (np.min(rgb) >= 0 and np.max(rgb) <= 1):
            raise BiofaceError(f"{name}: expected display values within 0–1, found others")
        image = image_formation.srgb_decode(torch.tensor(np.ascontiguousarray(rgb, np.float32)))
        return cls(image[None], torch.tensor(np.ascontiguousarray(mask, bool))[None], names=(name,))

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: Any) -> Batch:
        """Some of the faces, by a slice or row numbers."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return self._changed(lambda value: value[rows], names=tuple(self.names[i] for i in rows))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return self if self.image.device == device else self._changed(lambda value: value.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor], **others: Any) -> Batch:
        """With every tensor changed in the same way."""
        tensors: dict[str, Any] = {name: getattr(self, name) for name in ("image", "mask", "normals", "lighting")}
        tensors = {name: None if value is None else change(value) for name, value in tensors.items()}
        truth = None if self.truth is None else Output(*map(change, self.truth))
        return dataclasses.replace(self, **tensors, truth=truth, **others)

    def luminance(self) -> Float[Tensor, "B H W"]:
        """Luminance of the image, 0–1: the grey copy of copy_shading."""
        return self.image @ self.image.new_tensor(LUMINANCE)


def shading_target(batch: Batch, recipe: Recipe) -> Float[Tensor, "B H W"] | None:
    """The shading that supervises, from normals and light; None where a batch has no normals."""
    if batch.normals is None or batch.lighting is None:
        return None
    normals = batch.normals if recipe.normals == "decoded" else (batch.normals + 1) / 2
    return illumination.sh_shading(normals, batch.lighting)


def true_output(truth: Any) -> Output:
    """What a network would have to say to be right: the true maps, camera and light of the twin's faces."""
    names = (*MAPS, "camera_b", "illuminant_weights", "cct")
    melanin, haemoglobin, *rest = (torch.from_numpy(getattr(truth, name)) for name in names)
    g = skin.table_coordinate(melanin, skin.MELANIN_RANGE[1])
    k = skin.table_coordinate(haemoglobin, skin.HAEMOGLOBIN_RANGE[1])
    return Output(g, k, *rest)


def decode(output: Output, batch: Batch, recipe: Recipe) -> tuple[Tensor, Output]:
    """The image (B, H, W, 3) that the maps make, linear RGB, and the maps it was made of.

    With ``copy_shading`` the diffuse shading is replaced by the copy.
    """
    output = Output(*(value.float() for value in output))
    to_rgb = _camera(output, recipe)
    grey = batch.luminance()
    if recipe.copy_shading == "fitted":
        lit = _render(output._replace(diffuse=grey, specular=torch.zeros_like(grey)), to_rgb, recipe)
        shine = _render(output._replace(diffuse=torch.zeros_like(grey)), to_rgb, recipe)
        inside = batch.mask[..., None]
        power = torch.where(inside, lit.square(), 0).sum((1, 2, 3))
        match = torch.where(inside, lit * (batch.image - shine), 0).sum((1, 2, 3))
        k = (match / torch.where(power > 0, power, 1)).clamp_min(0)
        return k[:, None, None, None] * lit + shine, output._replace(diffuse=k[:, None, None] * grey)
    if recipe.copy_shading is not None:
        output = output._replace(diffuse=float(recipe.copy_shading) * grey)
    return _render(output, to_rgb, recipe), output


def albedo(output: Output, recipe: Recipe) -> Float[Tensor, "B H W 3"]:
    """The skin's own colour, linear RGB: the maps under diffuse shading 1 without highlights."""
    plain = output._replace(diffuse=torch.ones_like(output.diffuse), specular=torch.zeros_like(output.specular))
    return _render(plain, _camera(plain, recipe), recipe)


def _camera(output: Output, recipe: Recipe) -> Float[Tensor, "B 3 33"]:
    """Camera and light of each image as one matrix, right or with one of the known mistakes."""
    e = illumination.mix(output.weights, output.cct)
    S = camera.CameraModel.load().sensitivity(output.camera)
    equal = torch.full_like(e, 1 / e.shape[-1]) if recipe.decoder == "no white balance" else None
    to_rgb = camera.reflectance_to_rgb(e, S, recipe.rows, balanced_for=equal)
    if recipe.decoder == "transposed matrix":
        M = camera.XYZ_TO_SRGB.to(S)
        return M.T @ torch.linalg.solve(M, to_rgb)
    return to_rgb


def _render(output: Output, to_rgb: Tensor, recipe: Recipe) -> Tensor:
    """The image, right or with one of the known mistakes of the table look-up."""
    melanin, haemoglobin = output.melanin, output.haemoglobin
    steps = image_formation.TABLE_SIZE - 1
    if recipe.decoder == "rounded index":  # nearest entry: no gradient
        melanin, haemoglobin = (((g.detach() + 1) / 2 * steps).round() / steps * 2 - 1 for g in (melanin, haemoglobin))
    elif recipe.decoder == "mis-scaled index":  # a pixel index where the sampler wants −1 … 1
        melanin, haemoglobin = ((g + 1) / 2 * steps for g in (melanin, haemoglobin))
    elif recipe.decoder == "spectral":
        maps = output.melanin_fraction, output.haemoglobin_fraction, output.diffuse, output.specular
        factor = image_formation.render_spectral(*maps, torch.ones_like(to_rgb[:, 0]), recipe.skin)
        return torch.einsum("bcd,bhwd->bhwc", to_rgb, factor)
    shadings = output.diffuse, output.specular
    rgb = image_formation.render_coordinates(melanin, haemoglobin, *shadings, to_rgb, recipe.skin)
    if recipe.decoder == "reshaped":  # (B, 3, H, W) read as (B, H, W, 3)
        return rgb.movedim(-1, 1).reshape(rgb.shape)
    return rgb


def loss_terms(
    rendered: Tensor, output: Output, batch: Batch, recipe: Recipe, count: Tensor | None = None
) -> dict[str, Tensor]:
    """The losses with their weights, ready to be added up: those of :class:`bioface.losses.Weights`.

    Parameters
    ----------
    rendered, output : from :func:`decode`
    count : foreground pixels to divide by, where a batch is spread over processes

    Raises
    ------
    BiofaceError : a supervised recipe without the truth
    """
    pixels = {
        "appearance": losses.appearance(rendered, batch.image, recipe.scale),
        "specular": losses.specular_sparsity(output.specular),
    }
    target = shading_target(batch, recipe)
    if target is not None and recipe.copy_shading is None:
        pixels["diffuse"] = losses.diffuse_supervision(output.diffuse, target, batch.mask)
    if recipe.weights.truth:
        if batch.truth is None:
            raise BiofaceError(f"expected faces with their truth for the recipe {recipe.name}, found none")
        colours = albedo(output, recipe) - albedo(batch.truth, recipe)
        pixels["truth"] = losses.supervision(output, batch.truth, colours, recipe.shares)
    # a sum means that of recipe.batch faces
    how, up = ("mean", 1.0) if recipe.reduction == "mean" else ("sum", recipe.batch / len(batch))
    terms = {name: up * losses.reduce(values, batch.mask, how, count) for name, values in pixels.items()}
    if recipe.reduction == "code":
        if "diffuse" in terms:
            terms["diffuse"] = losses.CODE_AREA * terms["diffuse"]
        # what the three channels say of white before white balance, added up
        S = camera.CameraModel.load().sensitivity(output.camera)
        white = (S * illumination.mix(output.weights, output.cct)[:, None, :]).sum((1, 2))[:, None, None]
        terms["specular"] = up * (output.specular * white).abs().sum()
    cameras = losses.camera_prior(output.camera)
    terms["camera"] = up * (cameras.mean() if how == "mean" else cameras.sum())
    nothing = rendered.new_zeros(())
    return {name: weight * terms.get(name, nothing) for name, weight in recipe.weights._asdict().items()}


def make_optimiser(parameters: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over some parameters."""
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
