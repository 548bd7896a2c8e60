"""More faces from those there are: mirrored, and as other people under other cameras, lights and exposures.

A training set that is indexed by row numbers, as :func:`bioface.training.train` takes it. What a row becomes depends
on the seed and on the rows that are asked for together, which differ from step to step; a run that is taken up from
a checkpoint sees what an undisturbed one would have seen.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import camera, degradation, illumination, image_formation, skin, spectra
from bioface.datasets import portrait, skin_spectra
from bioface.network import Output
from bioface.objective import Batch

#: Sign of each spherical-harmonic coefficient (1, y, z, x, xy, yz, 3z²−1, xz, x²−y²) in a mirror that flips x.
_MIRROR = (1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0)


class Augmented:
    """Faces mirrored at random and, with ``recolour``, seen on other people by other cameras in other light.

    Recolouring keeps shape and the patterns of shading and pigments. It draws the base pigments of another face, a
    camera, a light and an exposure as the twin does, renders the face, and tints what is around it like the face. Then
    the picture goes through a camera's processing (:mod:`bioface.degradation`). With ``painted`` every second face, by
    lot, is painted with a measured spectrum (:func:`bioface.datasets.portrait.measured_paint`) and has the pigments of
    its fit. The truth is that of the face as lit and exposed, before anything was cut off at white or processed.

    Parameters
    ----------
    faces : ``nfe.Faces`` of the twin (with truth, which recolouring renders), or of real data when only mirrored
    seed : of everything random
    recolour : whether to
    halved : how many times: at half the size, (N, 32, 32), a step takes a quarter of the time
    painted : {group: numbers of ISSA's face spectra} to paint with, each group as often
    """

    def __init__(
        self,
        faces: Any,
        seed: int = 0,
        recolour: bool = True,
        halved: int = 0,
        painted: Mapping[str, np.ndarray] | None = None,
    ):
        self.seed, self.recolour = seed, recolour
        self.painted, self._pigments = list((painted or {}).values()), np.stack(skin_spectra.pigments(), -1)
        self.batch = Batch.of(faces)
        for _ in range(halved):
            self.batch = _halved(self.batch)
        if recolour:
            maps = zip(faces.truth.melanin, faces.truth.haemoglobin, faces.mask, strict=True)
            self._base = np.array([[np.median(m[i]), np.median(h[i])] for m, h, i in maps], np.float32)

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: Any) -> Batch:
        """The faces of some rows, each time the same for the same rows."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        rng = np.random.default_rng([self.seed, *rows])
        batch, in_mirror = self.batch[rows], torch.from_numpy(rng.random(len(rows)) < 0.5)
        if self.recolour:
            batch = self._recoloured(batch, rows, rng)
        return _mirrored(batch, in_mirror)

    def _skins(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Base pigments (count, 2) of other people, and the rest (count, 33) of their paint."""
        base = self._base[rng.integers(len(self._base), size=count)]
        paints = [portrait.Paint()] * count
        if self.painted:
            for face in np.flatnonzero(rng.random(count) < 0.5):
                row = int(rng.choice(self.painted[rng.integers(len(self.painted))]))
                base[face], paints[face] = self._pigments[row], portrait.measured_paint(row)
        rest = np.stack([np.broadcast_to(paint.rest, len(spectra.WAVELENGTHS)) for paint in paints])
        return base, rest.astype(np.float32)

    def _recoloured(self, batch: Batch, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        true, mask, n = batch.truth, batch.mask, len(rows)
        assert true is not None and batch.lighting is not None
        base, rest = self._skins(n, rng)
        factors = torch.from_numpy(base / self._base[rows])
        usual = true.melanin_fraction, true.haemoglobin_fraction
        tops = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
        melanin, haemoglobin = (
            skin.table_coordinate((fraction * factor[:, None, None]).clamp_max(top), top)
            for fraction, top, factor in zip(usual, tops, factors.T, strict=True)
        )
        b, weights, cct = map(torch.from_numpy, portrait.draw_cameras(n, rng))
        sensitivity = camera.CameraModel.load().sensitivity(b)
        to_rgb = camera.reflectance_to_rgb(illumination.mix(weights, cct), sensitivity).to(batch.image)
        image = image_formation.render_coordinates(melanin, haemoglobin, true.diffuse, true.specular, to_rgb)
        more = (to_rgb @ torch.from_numpy(rest)[..., None])[:, None, None, :, 0]  # (n, 1, 1, 3)
        image = (image + true.diffuse[..., None] * more).clamp_min(0)

        each = zip(image.numpy(), true.diffuse.numpy(), mask.numpy(), strict=True)
        usual_exposure = np.array([portrait.exposure(c[m], d[m], rng) for c, d, m in each])
        exposure = torch.from_numpy((usual_exposure * portrait.draw_exposure(n, rng)).astype(np.float32))
        image = image * exposure[:, None, None, None]
        tint = mean_colour(image, mask) / mean_colour(batch.image, mask).clamp_min(1e-3)
        image = torch.where(mask[..., None], image, batch.image * tint[:, None, None]).clamp(0, 1)
        image = _processed(image, rng)
        diffuse, specular = (shading * exposure[:, None, None] for shading in (true.diffuse, true.specular))
        lighting = batch.lighting * exposure[:, None]
        truth = Output(melanin, haemoglobin, diffuse, specular, b, weights, cct)
        return Batch(image, mask, batch.normals, lighting, batch.names, truth)


def _processed(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Linear images (B, H, W, 3), each through a camera's processing of its own, decoded again."""
    display = image_formation.srgb_encode(image)
    seen = torch.stack([degradation.apply(one, degradation.draw(rng), rng) for one in display])
    return image_formation.srgb_decode(seen)


def mean_colour(values: Tensor, mask: Tensor) -> Tensor:
    """(B, C) mean of (B, H, W, C) inside the masks (B, H, W)."""
    return torch.where(mask[..., None], values, 0).sum((1, 2)) / mask.sum((1, 2))[:, None]


def _mirrored(batch: Batch, which: Tensor) -> Batch:
    """Some of the faces, (B,) bool, seen in a mirror."""

    def flipped(value: Tensor) -> Tensor:
        return torch.where(which.reshape(-1, *[1] * (value.ndim - 1)), value.flip(2), value)

    normals, lighting, truth = batch.normals, batch.lighting, batch.truth
    if normals is not None and lighting is not None:
        normals, side = flipped(normals), torch.where(which, -1.0, 1.0)[:, None, None, None]
        normals = torch.cat([normals[..., :1] * side, normals[..., 1:]], -1)
        lighting = torch.where(which[:, None], lighting * lighting.new_tensor(_MIRROR), lighting)
    if truth is not None:
        truth = Output._make([*map(flipped, truth[:4]), *truth[4:]])
    return Batch(flipped(batch.image), flipped(batch.mask), normals, lighting, batch.names, truth)


def _halved(batch: Batch) -> Batch:
    """Two by two pixels averaged; in the mask where all four are. Photos of skin average as its maps do, nearly."""

    def pooled(value: Tensor) -> Tensor:
        planes = value if value.ndim == 3 else value.movedim(-1, 1).flatten(0, 1)
        small = torch.nn.functional.avg_pool2d(planes, 2)
        return small if value.ndim == 3 else small.unflatten(0, (len(value), -1)).movedim(1, -1)

    normals = None if batch.normals is None else torch.nn.functional.normalize(pooled(batch.normals), dim=-1)
    truth = None if batch.truth is None else Output._make([*map(pooled, batch.truth[:4]), *batch.truth[4:]])
    mask = pooled(batch.mask.float()) == 1
    return Batch(pooled(batch.image), mask, normals, batch.lighting, batch.names, truth)
