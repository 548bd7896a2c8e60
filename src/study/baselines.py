"""What a method of Table 1 has to beat: constants, the colour of the whole face, and pigments by optical density.

Each takes photos (N, H, W, 3), linear RGB, with masks (N, H, W), and gives a :class:`~bioface.maps.Decomposition`.
:func:`zero` and :func:`training_mean` say the same of every face, :func:`image_mean` sees one colour of each face;
:class:`OpticalDensity` splits the density of the colours between two pigments and shading.

References
----------
Tsumura, Haneishi & Miyake (1999), "Independent-component analysis of skin color image", J. Opt. Soc. Am. A 16: the
densities of melanin and haemoglobin as independent components of −log RGB, without shading or highlights.
Tsumura et al. (2003), "Image-based skin color and texture analysis/synthesis by extracting hemoglobin and melanin
information in the skin", ACM Trans. Graph. 22: shading as a third term along (1, 1, 1) of the density.
Hyvärinen (1999), "Fast and robust fixed-point algorithms for independent component analysis".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from bioface import skin
from bioface.bayes import Prior, fractions, maximum_a_posteriori, mean_camera_d65, rgb_of_reflectance
from bioface.maps import Decomposition, checked_mask

DARKEST = 1e-3  # linear RGB, below which a density means nothing

#: How the directions of two pigments are found, see :func:`independent`.
Vectors = Callable[[np.ndarray, np.ndarray], np.ndarray]


def zero(images: np.ndarray, mask: np.ndarray) -> Decomposition:
    """0 everywhere, for the pigments in table coordinates; 0.577 from a truth that is uniform in [−1, 1].

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it
    """
    return _constant(images, mask, np.zeros(2), 0.0, 0.0, np.zeros(3), np.zeros(3))


def training_mean(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """The mean of every map over the training faces; errors as :func:`zero`."""
    return _constant(images, mask, prior.pigments, prior.diffuse, prior.specular, prior.albedo, prior.colour)


def image_mean(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """One colour for each face, its mean, and what is likeliest behind that, without its structure; errors as above."""
    mask = checked_mask(images, mask)
    colours = np.stack([colours.mean(0) for colours in _pixels(images, mask)])[:, None, None]
    found = maximum_a_posteriori(colours, np.ones((len(mask), 1, 1), bool), prior)
    spread = vars(found) | {"reconstruction": colours.astype(np.float32)}
    for name in ("melanin", "haemoglobin", "diffuse_shading", "specular_shading", "albedo", "reconstruction"):
        spread[name] = np.broadcast_to(spread[name], (*mask.shape, *spread[name].shape[3:])).copy()
    return Decomposition(**spread | {"image": np.array(images, np.float32), "mask": mask})


def _constant(images: np.ndarray, mask: np.ndarray, pigments: np.ndarray, *maps: float | np.ndarray) -> Decomposition:
    """Of the same pigments (2,), two shadings, albedo (3,) and colour (3,) everywhere."""
    mask = checked_mask(images, mask)
    m, h = fractions(np.broadcast_to(pigments, (*mask.shape, 2)))
    i_d, i_s, albedo, colour = (np.full((*mask.shape, *np.shape(value)), value, np.float32) for value in maps)
    photo = np.array(images, np.float32)
    return Decomposition(m, h, i_d, i_s, albedo, colour, photo, mask, *mean_camera_d65(len(mask)))


# --- pigments by optical density ---------------------------------------------------------------------------


def independent(across: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(2, 2) columns: two pigments' directions as independent components of a photo's own densities (Tsumura 1999).

    Independence leaves open which component is which, and their signs and lengths: as ``expected``, the (2, 2) columns
    of the skin model, which are the answer where densities (n, 2) ``across`` (1, 1, 1) do not spread over a plane.
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

    Assumes layers of pigment only, a linear camera, white balance, shading that adds the same to all three densities
    (2003), and no highlights: ``specular_shading`` is NaN. The photo is reconstructed exactly, by construction. Units,
    and what (1, 1, 1) the pigments hold, are open and decided in its favour: by the slopes of the skin model's density
    at the prior's mean, and by an affine map to table coordinates fitted to the truth of training faces.

    Attributes
    ----------
    prior : of the same training faces
    vectors : :func:`independent`, as in 1999, or :func:`fixed`
    scale : (2, 3) table coordinates = this · (amount of melanin, amount of haemoglobin, 1), by least squares
    albedo : what exp(−density of the pigments) is multiplied with to be the albedo on average
    """

    prior: Prior
    vectors: Vectors
    scale: np.ndarray
    albedo: float

    @classmethod
    def learn(cls, truth: Decomposition, prior: Prior, vectors: Vectors) -> OpticalDensity:
        """From the truth of training faces, and the prior learnt on them."""
        mask = checked_mask(truth.image, truth.mask)
        coordinates = np.stack([truth.melanin_coordinate[mask], truth.haemoglobin_coordinate[mask]]).astype(float)
        albedo = truth.albedo[mask].astype(float)
        found = (densities(prior, colours, vectors) for colours in _pixels(truth.image, mask))
        amounts, density = map(np.concatenate, zip(*found, strict=True))
        scale = np.linalg.lstsq(np.column_stack([amounts, np.ones(len(amounts))]), coordinates.T, rcond=None)[0].T
        relative = np.exp(-density)
        return cls(prior, vectors, scale, float((relative * albedo).sum() / (relative**2).sum()))

    def decompose(self, images: np.ndarray, mask: np.ndarray) -> Decomposition:
        """The maps of photos; errors as :func:`zero`."""
        mask = checked_mask(images, mask)
        coordinates = np.broadcast_to(self.prior.pigments, (*mask.shape, 2)).copy()
        albedo = np.broadcast_to(self.prior.albedo, (*mask.shape, 3)).astype(np.float32)
        diffuse, silent = np.zeros(mask.shape, np.float32), np.full(mask.shape, np.nan, np.float32)
        for face, colours in enumerate(_pixels(images, mask)):
            inside = mask[face]
            amounts, density = densities(self.prior, colours, self.vectors)
            coordinates[face, inside] = np.column_stack([amounts, np.ones(len(amounts))]) @ self.scale.T
            albedo[face, inside] = self.albedo * np.exp(-density)
            shading = (-np.log(colours.clip(DARKEST)) - density).mean(1)
            diffuse[face, inside] = np.exp(-shading) / self.albedo
        m, h = fractions(coordinates.clip(-1, 1))
        made, photo = albedo * diffuse[..., None], np.array(images, np.float32)
        return Decomposition(m, h, diffuse, silent, albedo, made, photo, mask, *mean_camera_d65(len(mask)))


def densities(prior: Prior, colours: np.ndarray, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
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


def _pixels(images: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Colours (n, 3) of each face inside its mask."""
    return [image[inside].astype(float) for image, inside in zip(images, mask, strict=True)]
