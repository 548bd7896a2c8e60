"""What a method of Table 1 has to beat: constants, the colour of the whole face, and pigments by optical density.

Each takes photos (N, H, W, 3), linear RGB, with masks (N, H, W), and gives a :class:`~bioface.maps.Decomposition`:

``zero``, ``training_mean``  say the same of every face; the second knows what faces are like
``image_mean``               sees one colour of each face and no structure
``OpticalDensity``           splits the density of the colours between two pigments and shading

References
----------
Tsumura, Haneishi & Miyake (1999), "Independent-component analysis of skin color image", J. Opt. Soc. Am. A 16: the
densities of melanin and haemoglobin as independent components of −log RGB, without shading or highlights.
Tsumura et al. (2003), "Image-based skin color and texture analysis/synthesis by extracting hemoglobin and melanin
information in the skin", ACM Trans. Graph. 22: shading as a third term along (1, 1, 1) of the density.
Hyvärinen (1999), "Fast and robust fixed-point algorithms for independent component analysis".
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from bioface import skin
from bioface.bayes import (
    Prior,
    checked_mask,
    fractions,
    maximum_a_posteriori,
    mean_camera_d65,
    pixels,
    rgb_of_reflectance,
)
from bioface.errors import BiofaceError
from bioface.maps import Decomposition

DARKEST = 1e-3  # linear RGB, below which a density means nothing


def zero(images: np.ndarray, mask: np.ndarray) -> Decomposition:
    """0 everywhere, for the pigments in table coordinates; 0.577 from a truth that is uniform in [−1, 1].

    Parameters
    ----------
    images : (N, H, W, 3) linear RGB
    mask : (N, H, W) bool

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it
    """
    return _constant(images, mask, np.zeros(2), 0.0, 0.0, np.zeros(3), np.zeros(3))


def training_mean(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """The mean of every map over the training faces; parameters and errors as :func:`zero`."""
    return _constant(images, mask, prior.pigments, prior.diffuse, prior.specular, prior.albedo, prior.colour)


def image_mean(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray | None = None,
    illuminant: np.ndarray | None = None,
    sigma: float | None = None,
) -> Decomposition:
    """One colour for each face, its mean, and what is likeliest behind that: all without its structure.

    Parameters, errors: as :func:`bioface.bayes.maximum_a_posteriori`.
    """
    mask = checked_mask(images, mask)
    colours = np.stack([inside.mean(0) for inside in pixels(images, mask)])[:, None, None]
    found = maximum_a_posteriori(colours, np.ones((len(mask), 1, 1), bool), prior, camera_b, illuminant, sigma)
    spread = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    spread["reconstruction"] = colours.astype(np.float32)
    for name in ("melanin", "haemoglobin", "diffuse_shading", "specular_shading", "albedo", "reconstruction"):
        spread[name] = np.broadcast_to(spread[name], (*mask.shape, *spread[name].shape[3:])).copy()
    return Decomposition(**spread | {"image": np.array(images, np.float32), "mask": mask})


def _constant(
    images: np.ndarray,
    mask: np.ndarray,
    pigments: np.ndarray,
    diffuse: float,
    specular: float,
    albedo: np.ndarray,
    colour: np.ndarray,
) -> Decomposition:
    mask = checked_mask(images, mask)
    shape, camera_and_light = mask.shape, mean_camera_d65(len(mask))
    m, h = fractions(np.broadcast_to(pigments, (*shape, 2)))
    i_d, i_s = (np.full(shape, value, np.float32) for value in (diffuse, specular))
    a, image = (np.full((*shape, 3), value, np.float32) for value in (albedo, colour))
    return Decomposition(m, h, i_d, i_s, a, image, np.array(images, np.float32), mask, *camera_and_light)


# --- pigments by optical density ---------------------------------------------------------------------------


def independent(across: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The two pigments' directions as independent components of each photo's own densities, after Tsumura 1999.

    Independence leaves open which component is which, and their signs and lengths; what is ``expected`` decides. It is
    the answer where the colours do not spread over a plane, so that there are no two components.

    Parameters
    ----------
    across : (n, 2) densities of a photo's pixels, in a plane across (1, 1, 1)
    expected : (2, 2) columns, the directions of melanin and haemoglobin in that plane as the skin model has them

    Returns
    -------
    (2, 2) columns, as long as the expected ones
    """
    spread = np.linalg.svd(across - across.mean(0), compute_uv=False)
    if len(across) < 3 or spread[1] < 1e-4 * np.sqrt(len(across)):
        return expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its last iterate is as good a guess as any
        mixing = FastICA(whiten="unit-variance", random_state=0, max_iter=500).fit(across).mixing_
    mixing = mixing / np.linalg.norm(mixing, axis=0)
    length = np.linalg.norm(expected, axis=0)
    cosine = (expected / length).T @ mixing  # (pigment, component)
    straight, swapped = (np.abs(np.diag(c)).sum() for c in (cosine, cosine[:, ::-1]))
    order = [0, 1] if straight >= swapped else [1, 0]
    sign = np.where(np.diag(cosine[:, order]) < 0, -1, 1)
    return mixing[:, order] * sign * length


def fixed(across: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The ``expected`` directions, the same for every face: what Tsumura 2003 does with vectors once found."""
    return expected


@dataclass(frozen=True)
class OpticalDensity:
    """Melanin and haemoglobin as amounts of two pigment vectors in each pixel's −log RGB, after Tsumura 1999 and 2003.

    Assumes that light passes through layers of pigment only (the density is a sum of amounts times pigment vectors),
    that the camera is linear and white balanced, that shading (2003) adds the same to all three densities, and that
    there are no highlights: ``specular_shading`` is NaN, and what shines is taken for shading and pale skin. The photo
    is reconstructed exactly, by construction. Units, and what (1, 1, 1) the pigments hold, are open too and decided in
    its favour: by the slopes of the skin model's own density at the prior's mean, under the mean camera and D65, and by
    an affine map to table coordinates fitted to the truth of training faces.

    Attributes
    ----------
    prior : of the same training faces
    vectors : :func:`independent`, as in 1999, or :func:`fixed`
    scale : (2, 3) table coordinates = this · (amount of melanin, amount of haemoglobin, 1), by least squares
    albedo : what exp(−density of the pigments) is multiplied with to be the albedo on average
    """

    prior: Prior
    vectors: Callable[[np.ndarray, np.ndarray], np.ndarray]
    scale: np.ndarray
    albedo: float

    @classmethod
    def learn(
        cls, truth: Decomposition, prior: Prior, vectors: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> OpticalDensity:
        """From training faces (N, H, W) with their truth, and the prior that was learnt on them.

        Raises
        ------
        BiofaceError : see :func:`zero`; maps that are NaN inside a mask
        """
        mask = checked_mask(truth.image, truth.mask)
        coordinates = np.stack([truth.melanin_coordinate[mask], truth.haemoglobin_coordinate[mask]]).astype(float)
        albedo = truth.albedo[mask].astype(float)
        if not (np.isfinite(coordinates).all() and np.isfinite(albedo).all()):
            raise BiofaceError("expected the truth of training faces, found NaN or infinity inside a mask")
        found = (densities(prior, colours, vectors) for colours in pixels(truth.image, mask))
        amounts, density = map(np.concatenate, zip(*found, strict=True))
        scale = np.linalg.lstsq(np.column_stack([amounts, np.ones(len(amounts))]), coordinates.T, rcond=None)[0].T
        relative = np.exp(-density)
        return cls(prior, vectors, scale, float((relative * albedo).sum() / (relative**2).sum()))

    def decompose(self, images: np.ndarray, mask: np.ndarray) -> Decomposition:
        """The maps of photos; parameters and errors as :func:`zero`."""
        mask = checked_mask(images, mask)
        shape = mask.shape
        coordinates = np.broadcast_to(self.prior.pigments, (*shape, 2)).copy()
        albedo = np.broadcast_to(self.prior.albedo, (*shape, 3)).astype(np.float32)
        diffuse, silent = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32)
        for face, colours in enumerate(pixels(images, mask)):
            inside = mask[face]
            amounts, density = densities(self.prior, colours, self.vectors)
            coordinates[face, inside] = np.column_stack([amounts, np.ones(len(amounts))]) @ self.scale.T
            albedo[face, inside] = self.albedo * np.exp(-density)
            shading = (-np.log(colours.clip(DARKEST)) - density).mean(1)
            diffuse[face, inside] = np.exp(-shading) / self.albedo
        m, h = fractions(coordinates.clip(-1, 1))
        made, camera_and_light = albedo * diffuse[..., None], mean_camera_d65(len(mask))
        return Decomposition(m, h, diffuse, silent, albedo, made, np.array(images, np.float32), mask, *camera_and_light)


def densities(
    prior: Prior, colours: np.ndarray, vectors: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of the pigments (n, 2) and the density (n, 3) they make, of colours (n, 3), without shading."""
    density, slopes = -np.log(colours.clip(DARKEST)), density_slopes(prior)
    plane = np.linalg.svd(np.ones((1, 3)))[2][1:]  # (2, 3): orthonormal, across (1, 1, 1)
    across = density @ plane.T
    found = vectors(across, plane @ slopes)
    amounts = across @ np.linalg.inv(found).T
    # what a pigment adds to all three densities cannot be seen in the plane: the model's
    along = np.full((3, 1), 1 / 3) * slopes.sum(0)
    return amounts, amounts @ (plane.T @ found + along).T


def density_slopes(prior: Prior) -> np.ndarray:
    """(3, 2) ∂(−log RGB)/∂(table coordinate) of the skin model at the prior's mean, under the mean camera and D65."""
    step = 0.05
    at = prior.pigments.clip(-1 + step, 1 - step) + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    b, e = mean_camera_d65(1)
    density = -np.log(skin.reflectance(*fractions(at)) @ rgb_of_reflectance(b[0], e[0]).numpy().T)
    return (density[[0, 2]] - density[[1, 3]]).T / (2 * step)
