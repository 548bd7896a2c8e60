"""The maps that a face is taken apart into, whoever did it: the network, Bayes, a fit, or the truth.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, section 4: the maps of Table 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioface import camera, image_formation, paths, skin
from bioface.arrays import read_npz
from bioface.errors import BiofaceError, DataError

#: The fields that say how sure a method is.
DEVIATIONS = tuple(f"{what}_deviation" for what in ("melanin", "haemoglobin", "diffuse", "specular", "albedo"))
_UNKNOWN: Any = np.float32(np.nan)


@dataclass(frozen=True)
class Decomposition:
    """Maps, camera and light of one photo, or of several of one size; float32, NaN where a method says nothing."""

    melanin: np.ndarray  #: (..., H, W) volume fraction, 0–0.43; the skin model's, see :data:`bioface.skin.BIAS`
    haemoglobin: np.ndarray  #: (..., H, W) likewise, 0–0.07
    diffuse_shading: np.ndarray  #: (..., H, W), ≥ 0
    specular_shading: np.ndarray  #: (..., H, W), ≥ 0
    albedo: np.ndarray  #: (..., H, W, 3) linear RGB of the skin under diffuse shading 1 without highlights
    reconstruction: np.ndarray  #: (..., H, W, 3) linear RGB that the maps make
    image: np.ndarray  #: (..., H, W, 3) linear RGB that was taken apart
    mask: np.ndarray  #: (..., H, W) bool, the face; maps mean nothing outside
    camera_b: np.ndarray  #: (..., 2) camera coefficients
    illuminant: np.ndarray  #: (..., 33) of unit sum
    #: (..., H, W) standard deviations, where a method knows how sure it is; of pigments in volume fractions
    melanin_deviation: np.ndarray = _UNKNOWN
    haemoglobin_deviation: np.ndarray = _UNKNOWN
    diffuse_deviation: np.ndarray = _UNKNOWN
    specular_deviation: np.ndarray = _UNKNOWN
    albedo_deviation: np.ndarray = _UNKNOWN  #: (..., H, W, 3)
    exposure: np.ndarray | np.floating[Any] = _UNKNOWN  #: (...) brightness of the light in the method's usual units

    def __post_init__(self) -> None:
        for name in (*DEVIATIONS, "exposure"):
            if getattr(self, name) is _UNKNOWN:  # takes no memory
                like = self.albedo if name == "albedo_deviation" else self.melanin
                shape = np.shape(like)[:-2] if name == "exposure" else np.shape(like)
                object.__setattr__(self, name, np.broadcast_to(_UNKNOWN, shape))

    @classmethod
    def of_maps(
        cls,
        melanin: Any,
        haemoglobin: Any,
        diffuse_shading: Any,
        specular_shading: Any,
        camera_b: Any,
        illuminant: Any,
        image: Any,
        mask: Any,
    ) -> Decomposition:
        """With albedo and reconstruction rendered from the maps (``layered`` skin); shapes as the attributes.

        Fractions beyond the ends of the table are taken as its ends for the rendering.
        """
        given = (melanin, haemoglobin, diffuse_shading, specular_shading, camera_b, illuminant)
        m, h, diffuse, specular, b, e = (np.asarray(v, np.float32) for v in given)
        sensitivity = camera.CameraModel.load().sensitivity(b)
        pigments = m.clip(0, skin.MELANIN_RANGE[1]), h.clip(0, skin.HAEMOGLOBIN_RANGE[1])
        one, none = np.ones_like(diffuse), np.zeros_like(specular)
        albedo = image_formation.render(*pigments, one, none, e, sensitivity)
        reconstruction = image_formation.render(*pigments, diffuse, specular, e, sensitivity)
        photo = np.asarray(image, np.float32), np.asarray(mask, bool)
        return cls(m, h, diffuse, specular, albedo, reconstruction, *photo, b, e)

    def save(self, path: str | Path) -> None:
        """Write everything as compressed NPZ, whole or not at all. Raises DataError: a file that cannot be written."""
        try:
            with paths.whole_file(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        except OSError as error:
            raise DataError(path, "a file that can be written", str(error)) from error

    @classmethod
    def load(cls, path: str | Path) -> Decomposition:
        """Read what :meth:`save` wrote.

        Raises DataError: missing, damaged or something else, arrays that are missing or whose shapes do not agree.
        """
        arrays = read_npz(path, [f.name for f in dataclasses.fields(cls)], "a decomposition (.npz)")
        *batch, H, W = arrays["mask"].shape if arrays["mask"].ndim >= 2 else (0, 0)
        ends = {"albedo": (H, W, 3), "reconstruction": (H, W, 3), "image": (H, W, 3), "camera_b": (2,)}
        ends |= {"illuminant": (33,), "albedo_deviation": (H, W, 3), "exposure": ()}
        for name, array in arrays.items():
            kind, shape = ("b" if name == "mask" else "f"), (*batch, *ends.get(name, (H, W)))
            if array.dtype.kind != kind or array.shape != shape:
                raise DataError(path, f"{name} of shape {shape}", f"{array.dtype} of shape {array.shape}")
        return cls(**arrays)

    def __len__(self) -> int:
        if self.melanin.ndim < 3:
            raise BiofaceError("expected several faces, found the decomposition of one")
        return len(self.melanin)

    def __getitem__(self, index: Any) -> Decomposition:
        """Some of the faces of a batch, or one of them by its number."""
        return Decomposition(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    @property
    def melanin_coordinate(self) -> np.ndarray:
        """(..., H, W) melanin in table coordinates, [−1, 1]."""
        return skin.table_coordinate(self.melanin, skin.MELANIN_RANGE[1])

    @property
    def haemoglobin_coordinate(self) -> np.ndarray:
        """(..., H, W) haemoglobin in table coordinates, [−1, 1]."""
        return skin.table_coordinate(self.haemoglobin, skin.HAEMOGLOBIN_RANGE[1])


def of_twin(faces: Any) -> Decomposition:
    """The truth of faces of the twin, whose photos, to the last of eight bits, are its reconstruction.

    Photos that went through a tone curve, JPEG or noise, and pixels that are clipped, differ from it. The albedo is the
    stored one, which measured skin has from its spectrum and not from its pigments.
    """
    true = faces.truth
    to_rgb = camera.reflectance_to_rgb(true.illuminant, camera.CameraModel.load().sensitivity(true.camera_b))
    white = to_rgb.sum(-1)[:, None, None]
    reconstruction = true.diffuse_shading[..., None] * true.albedo + true.specular_shading[..., None] * white
    maps = true.melanin, true.haemoglobin, true.diffuse_shading, true.specular_shading, true.albedo, reconstruction
    return Decomposition(*maps, image_formation.srgb_decode(faces.rgb), faces.mask, true.camera_b, true.illuminant)


def checked_mask(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask (N, H, W) of photos (N, H, W, 3), once both are what they must be.

    Raises BiofaceError: shapes that do not agree, no face, an empty mask, NaN or infinity inside it.
    """
    images, mask = np.asarray(images), np.asarray(mask)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise BiofaceError(f"expected images (N, H, W, 3), found {images.shape}")
    if mask.shape != images.shape[:-1] or mask.dtype != bool:
        raise BiofaceError(f"expected a mask of bool {images.shape[:-1]}, found {mask.dtype} {mask.shape}")
    if not mask.any((1, 2)).all():
        raise BiofaceError("expected at least one pixel in every mask, found an empty mask")
    if not np.isfinite(images[mask]).all():
        raise BiofaceError("expected finite colours inside the mask, found NaN or infinity")
    return mask
