"""More faces from those there are: mirrored, and as other people under other cameras and lights.

A training set that is indexed by row numbers, as :func:`bioface.training.train` takes it. What a row becomes depends
on the seed and on the rows that are asked for together, which differ from step to step; a run that is taken up from
a checkpoint sees what an undisturbed one would have seen.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import camera, illumination, image_formation, skin
from bioface.datasets import portrait, twin
from bioface.errors import BiofaceError
from bioface.network import Output
from bioface.objective import Batch

#: Sign of each spherical-harmonic coefficient (1, y, z, x, xy, yz, 3z²−1, xz, x²−y²) in a mirror that flips x.
_MIRROR = (1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0)


class Augmented:
    """Faces mirrored at random and, with ``recolour``, seen on other people by other cameras in other light.

    Recolouring keeps shape, shading pattern and the pattern of the pigments. It draws the base pigments of another
    face of the set, a camera and an illuminant, exposes as the twin does, renders the face, and tints what is around it
    like the face. It needs the truth; mirroring does not.

    Parameters
    ----------
    faces : ``nfe.Faces`` of the twin (with truth), or of real data when only mirrored
    seed : of everything random
    recolour : whether to
    halved : at half the size, (N, 32, 32): a quarter of the time for a step

    Raises
    ------
    BiofaceError : faces without truth that should be recoloured
    """

    def __init__(self, faces: Any, seed: int = 0, recolour: bool = True, halved: bool = False):
        if recolour and faces.truth is None:
            raise BiofaceError("expected faces with their truth, which recolouring renders; found none")
        self.seed, self.recolour = seed, recolour
        self.batch = _halved(Batch.of(faces)) if halved else Batch.of(faces)
        if recolour:
            inside = faces.mask
            maps = faces.truth.melanin, faces.truth.haemoglobin
            self._base = np.array([[np.median(m[i][inside[i]]) for m in maps] for i in range(len(faces))], np.float32)

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: Any) -> Batch:
        """The faces of some rows, each time the same for the same rows."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        rng = np.random.default_rng([self.seed, *rows])
        batch = self.batch[rows]
        if self.recolour:
            batch = self._recoloured(batch, rows, rng)
        return _mirrored(batch, torch.from_numpy(rng.random(len(rows)) < 0.5))

    def _recoloured(self, batch: Batch, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        true, mask, n = batch.truth, batch.mask, len(rows)
        assert true is not None and batch.lighting is not None  # as was checked when made
        factors = torch.from_numpy(self._base[rng.integers(len(self._base), size=n)] / self._base[rows])
        fractions, tops = (
            (true.melanin_fraction, true.haemoglobin_fraction),
            (skin.MELANIN_RANGE, skin.HAEMOGLOBIN_RANGE),
        )
        melanin, haemoglobin = (
            skin.table_coordinate((fraction * factor[:, None, None]).clamp_max(top), top)
            for fraction, factor, (_, top) in zip(fractions, factors.T, tops, strict=True)
        )
        b, weights, cct = map(torch.from_numpy, twin.draw_cameras(n, rng))
        to_rgb = camera.reflectance_to_rgb(illumination.mix(weights, cct), camera.CameraModel.load().sensitivity(b))
        maps = melanin, haemoglobin, true.diffuse, true.specular
        image = image_formation.render_coordinates(*maps, to_rgb.to(batch.image))

        colours, shadings = image.numpy(), true.diffuse.numpy()
        each = zip(colours, shadings, mask.numpy(), strict=True)
        exposure = torch.tensor([portrait.exposure(c[m], d[m], rng) for c, d, m in each])
        image = image * exposure[:, None, None, None]
        tint = mean_colour(image, mask) / mean_colour(batch.image, mask).clamp_min(1e-3)
        image = torch.where(mask[..., None], image, batch.image * tint[:, None, None]).clamp(0, 1)
        diffuse, specular = (shading * exposure[:, None, None] for shading in (true.diffuse, true.specular))
        lighting = batch.lighting * exposure[:, None]
        truth = Output(melanin, haemoglobin, diffuse, specular, b, weights, cct)
        return Batch(image, mask, batch.normals, lighting, batch.names, truth)


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
