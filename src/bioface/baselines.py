"""What a face is taken apart into without a network: constants, colour statistics, and Bayes for pixels and faces.

Each takes photos (N, H, W, 3), linear RGB, with masks (N, H, W), and what was learnt on training faces
(:class:`Prior`), and gives a :class:`~bioface.maps.Decomposition`. They are what a network has to beat:

===========================  ==========================================================================================
``zero``, ``training_mean``  say the same of every face; the second knows what faces are like
``image_mean``               sees one colour of each face and no structure
``optical_density_ica``      Tsumura's pigments: independent components of the density of the colours
``optical_density_fixed``    the same densities split by the skin model's own pigment vectors, the same for every face
``maximum_a_posteriori``     the likeliest skin and shading of each pixel by itself, under the mean camera and D65
``posterior_mean``           what they are on average given the colour: the least squared error of all that see one
                             pixel, as far as the laws it takes for the faces are theirs
``image_posterior``          the same for whole faces, whose pixels share a camera, a light and a person's skin, all
                             three found from the photo
===========================  ==========================================================================================

``image_mean``, ``maximum_a_posteriori`` and ``posterior_mean`` may be told the true camera and light, which no network
is: an oracle that shows what those cost.

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
import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from bioface import camera, illumination, skin
from bioface.errors import BiofaceError
from bioface.maps import Decomposition

#: Deviation of a colour from the model's, linear RGB, by the sum of the errors of diffuse and specular shading, albedo
#: and pigments on 32 training faces of the twin, with a prior learnt on 64 others. Under the mean camera and D65 it is
#: mostly the camera and the light that differ: likeliest 0.449 at 0.014, 0.457 at 0.020, smaller ones not tried;
#: expectation 0.403, 0.401, 0.408 at 0.007, 0.010, 0.014. Under the true ones it is the photo's eight bits, 0.0012 rms:
#: with a Gaussian law of skin 0.30 for both from 0.001 to 0.0015, rising above.
SIGMA_LIKELIEST, SIGMA_EXPECTED, SIGMA_ORACLE = 0.014, 0.010, 0.0015

#: The same where a photo is held against many cameras and lights, one of which is nearly its own, and how many
#: independent pixels a face counts for: neighbours say the same again, and no law of theirs is the true one. By the sum
#: of the errors of pigments, diffuse shading and albedo on the 64 validation faces of the twin, under 64 draws that 48
#: pixels judge: 0.237, 0.232, 0.234, 0.235 at 0.0005, 0.0007, 0.001, 0.0015 and 8 pixels; 0.242, 0.234, 0.237 for 4, 8,
#: 16 pixels at 0.001. The other choices by the same sum.
SIGMA_FACE, FACE_COUNTS = 0.001, 8.0
LOOKED_AT = 96  # pixels of a face, evenly over its mask, that judge; 0.234, 0.231, 0.229 for 48, 96, 200
REPRESENTATIVES = 6  # cameras and lights under which all pixels are inverted; 0.234, 0.234, 0.233 for 3, 6, 12
BASE_STEP = 2  # steps of GRID from one person's skin to the next that is tried; 0.233, 0.234, 0.247 for 1, 2, 3
SCATTER_SMOOTHING = 0.4  # steps of GRID, of the law of pixels around their face's; 0.233, 0.234, 0.246 for 0, 0.4, 1.2

SPREAD = 0.3  # of diffuse shading over a face, of its mean, where none is known; 0.26 on the training faces of the twin
FRESNEL = (0.4 / 2.4) ** 2  # ((n − 1)/(n + 1))² at the refractive index of skin, n = 1.4

GRID = 48  # skins along either pigment, even in table coordinates
SMOOTHING = 2.5  # steps of that grid, of the law of skin; 1.5 does as well, 4 and one Gaussian law worse
NEGLIGIBLE = 12.0  # nats below the likeliest skin, where the prior leaves a skin out
CHUNK = 256  # pixels at a time: the working arrays (pixels × skins) stay in the processor's cache
DARKEST = 1e-3  # linear RGB, below which a density means nothing


@dataclass(frozen=True)
class DensityScale:
    """What the densities of two pigments mean, fitted to the truth of training faces; NaN where there was none.

    Attributes
    ----------
    pigments : (2, 3) table coordinates = this · (amount of melanin, amount of haemoglobin, 1), by least squares
    albedo : what exp(−density of the pigments) is multiplied with to be the albedo on average
    """

    pigments: np.ndarray
    albedo: float

    @classmethod
    def fit(cls, amounts: np.ndarray, density: np.ndarray, coordinates: np.ndarray, albedo: np.ndarray) -> DensityScale:
        """From pixels: amounts (n, 2) and their density (n, 3), true table coordinates (2, n) and albedo (n, 3)."""
        affine = np.linalg.lstsq(np.column_stack([amounts, np.ones(len(amounts))]), coordinates.T, rcond=None)[0].T
        relative = np.exp(-density)
        return cls(affine, float((relative * albedo).sum() / (relative**2).sum()))

    @classmethod
    def unknown(cls) -> DensityScale:
        """Where there was no truth to fit to."""
        return cls(np.full((2, 3), np.nan), float("nan"))


@dataclass(frozen=True)
class Prior:
    """What the training faces are like, pixel by pixel.

    Attributes
    ----------
    pigments : (2,) mean of melanin and haemoglobin in table coordinates
    law : (GRID, GRID) log density over (melanin, haemoglobin), even in table coordinates, 0 at its top: the smoothed
        histogram, because one Gaussian law misses its long dark tail
    diffuse, diffuse_deviation : mean and standard deviation of the diffuse shading
    specular : mean of the specular shading, of which an exponential law is made
    albedo, colour : (3,) mean albedo and mean photo, linear RGB
    base : (GRID, GRID) log density as ``law``, of the faces' medians: one skin for each person
    scatter : (2 GRID − 1, 2 GRID − 1) log density of how far pixels are from the median of their face, in steps of the
        same grid, none in the middle; NaN where no faces were seen
    independent, fixed : what densities mean, of :func:`optical_density_ica` and :func:`optical_density_fixed`
    """

    pigments: np.ndarray
    law: np.ndarray
    diffuse: float
    diffuse_deviation: float
    specular: float
    albedo: np.ndarray
    colour: np.ndarray
    base: np.ndarray
    scatter: np.ndarray
    independent: DensityScale
    fixed: DensityScale

    @classmethod
    def learn(cls, truth: Decomposition) -> Prior:
        """From training faces (N, H, W) with their truth; the fit of densities to pigments takes it too.

        Raises
        ------
        BiofaceError : see :func:`zero`; maps that are NaN inside a mask, or the same everywhere
        """
        mask = _checked(truth.image, truth.mask)
        coordinates = np.stack([truth.melanin_coordinate[mask], truth.haemoglobin_coordinate[mask]]).astype(float)
        diffuse, specular = (m[mask].astype(float) for m in (truth.diffuse_shading, truth.specular_shading))
        albedo = truth.albedo[mask].astype(float)
        if not all(np.isfinite(values).all() for values in (coordinates, diffuse, specular, albedo)):
            raise BiofaceError("expected the truth of training faces, found NaN or infinity inside a mask")
        if not (coordinates.std(1).min() > 0 and diffuse.std() > 0 and specular.mean() > 0):
            raise BiofaceError("expected maps that vary from pixel to pixel to learn from, found constants")
        faces = np.split(coordinates, np.cumsum(mask.sum((1, 2)))[:-1], axis=1)
        base, scatter = _within_and_between(faces)
        learnt = cls(
            pigments=coordinates.mean(1),
            law=_law(coordinates),
            diffuse=float(diffuse.mean()),
            diffuse_deviation=float(diffuse.std()),
            specular=float(specular.mean()),
            albedo=albedo.mean(0),
            colour=truth.image[mask].mean(0, dtype=float),
            base=base,
            scatter=scatter,
            independent=DensityScale.unknown(),
            fixed=DensityScale.unknown(),
        )
        scales: dict[str, Any] = {}
        for name, vectors in (("independent", _independent_vectors), ("fixed", _fixed_vectors)):
            found = (_densities(learnt, pixels, vectors) for pixels in _pixels(truth.image, mask))
            amounts, density = map(np.concatenate, zip(*found, strict=True))
            scales[name] = DensityScale.fit(amounts, density, coordinates, albedo)
        return dataclasses.replace(learnt, **scales)

    @classmethod
    def measured(
        cls,
        melanin: np.ndarray,
        haemoglobin: np.ndarray,
        images: np.ndarray,
        mask: np.ndarray,
        person: np.ndarray | None = None,
    ) -> Prior:
        """Without any truth: the law of measured skin, and shadings from how bright the photos are.

        The mean photo over the mean colour of the skins, under the mean camera and D65, is the mean diffuse shading:
        over many people the brightness ambiguity averages out. Its deviation, :data:`SPREAD`, is assumed; highlights
        are on average what smooth skin reflects straight back, :data:`FRESNEL` of the light. Where it is known who was
        measured, places on the face of one person stand for its pixels. There is nothing to fit densities to, so
        :func:`optical_density_ica` and :func:`optical_density_fixed` take no such prior.

        Parameters
        ----------
        melanin, haemoglobin : (M,) volume fractions of measured skins, of as many people as can be had
        images, mask : (N, H, W, 3) linear RGB and (N, H, W), photos of other people
        person : (M,) whose skin it is, each measured in several places; left out, no pixels are known to scatter, and
            :func:`image_posterior` refuses the prior

        Raises
        ------
        BiofaceError : see :func:`zero`; skins that are NaN, or all the same; as many persons as skins
        """
        mask = _checked(images, mask)
        fractions = np.stack([melanin, haemoglobin]).astype(float)
        if not np.isfinite(fractions).all() or not fractions.std(1).min() > 0:
            raise BiofaceError("expected measured skins that vary and are finite, found others")
        tops = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
        coordinates = np.stack([skin.table_coordinate(f, top) for f, top in zip(fractions, tops, strict=True)])
        base, scatter = _law(coordinates), np.full((2 * GRID - 1,) * 2, np.nan)
        if person is not None:
            if np.shape(person) != fractions.shape[1:]:
                raise BiofaceError(
                    f"expected a person for each of {fractions.shape[1]} skins, found {np.shape(person)}"
                )
            order = np.argsort(person, kind="stable")
            _, first = np.unique(person[order], return_index=True)
            places = [part for part in np.split(coordinates[:, order], first[1:], axis=1) if part.shape[1] > 1]
            if not places:
                raise BiofaceError("expected persons who were measured in several places, found none")
            base, scatter = _within_and_between(places)
        b, e = _mean_camera_d65(1)
        albedo = (_to_rgb(b, e)[0].double() @ torch.from_numpy(skin.reflectance(*fractions).mean(0))).numpy()
        colour = np.concatenate(_pixels(images, mask)).mean(0, dtype=float)
        level = float(colour.mean() / albedo.mean())
        return cls(
            pigments=coordinates.mean(1),
            law=_law(coordinates),
            diffuse=level,
            diffuse_deviation=SPREAD * level,
            specular=FRESNEL * level,
            albedo=albedo,
            colour=colour,
            base=base,
            scatter=scatter,
            independent=DensityScale.unknown(),
            fixed=DensityScale.unknown(),
        )


def _within_and_between(faces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``base`` and ``scatter`` of a :class:`Prior`, of the skins (2, pixels) of each of some faces."""
    medians = np.stack([np.median(face, axis=1) for face in faces], axis=1)
    away = np.hstack([face - median[:, None] for face, median in zip(faces, medians.T, strict=True)])
    return _law(medians), _law(away, reach=2, smoothing=SCATTER_SMOOTHING)


def _law(coordinates: np.ndarray, reach: int = 1, smoothing: float = SMOOTHING) -> np.ndarray:
    """Log density of pairs (2, n) at the points of the grid, or of one of the same steps from −reach to reach."""
    half = 1 / (GRID - 1)
    edges = np.linspace(-reach - half, reach + half, reach * (GRID - 1) + 2)  # around the points
    density = scipy.ndimage.gaussian_filter(
        np.histogram2d(coordinates[0], coordinates[1], [edges, edges])[0], smoothing, mode="constant"
    )
    return np.log(density / density.max() + 1e-9)


# --- constants ---------------------------------------------------------------------------------------------


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
    mask = _checked(images, mask)
    nothing = np.zeros(3)
    return _constant(images, mask, np.zeros(2), 0.0, 0.0, nothing, nothing)


def training_mean(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """The mean of every map over the training faces; parameters and errors as :func:`zero`."""
    mask = _checked(images, mask)
    return _constant(images, mask, prior.pigments, prior.diffuse, prior.specular, prior.albedo, prior.colour)


def image_mean(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray | None = None,
    illuminant: np.ndarray | None = None,
    sigma: float | None = None,
) -> Decomposition:
    """One colour for each face, its mean, and :func:`maximum_a_posteriori` of that: all without its structure.

    Parameters, errors: as :func:`maximum_a_posteriori`.
    """
    mask = _checked(images, mask)
    colours = np.stack([pixels.mean(0) for pixels in _pixels(images, mask)])
    one = colours[:, None, None, :]
    found = maximum_a_posteriori(one, np.ones((len(one), 1, 1), bool), prior, camera_b, illuminant, sigma)
    shape = mask.shape

    def spread(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values, (*shape, *values.shape[3:])).copy()

    maps = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    pixelwise = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading", "albedo")
    maps |= {name: spread(maps[name]) for name in pixelwise}
    return Decomposition(
        **maps | {"reconstruction": spread(one.astype(np.float32)), "image": np.array(images, np.float32), "mask": mask}
    )


def _constant(
    images: np.ndarray,
    mask: np.ndarray,
    pigments: np.ndarray,
    diffuse: float,
    specular: float,
    albedo: np.ndarray,
    colour: np.ndarray,
) -> Decomposition:
    shape = mask.shape
    melanin, haemoglobin = _fractions(np.broadcast_to(pigments, (*shape, 2)))
    b, e = _mean_camera_d65(len(mask))
    i_d, i_s = (np.full(shape, value, np.float32) for value in (diffuse, specular))
    a, image = (np.full((*shape, 3), value, np.float32) for value in (albedo, colour))
    return Decomposition(melanin, haemoglobin, i_d, i_s, a, image, np.array(images, np.float32), mask, b, e)


# --- independent components of the density -----------------------------------------------------------------


def optical_density_ica(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """Melanin and haemoglobin as independent components of each photo's −log RGB, after Tsumura 1999 and 2003.

    Assumes that light passes through layers of pigment only (the density is a sum of amounts times pigment vectors),
    that the camera is linear and white balanced, that the two amounts are independent over a face, that shading (2003)
    adds the same to all three densities, and that there are no highlights: ``specular_shading`` is NaN, and what shines
    is taken for shading and pale skin. The photo is reconstructed exactly, by construction.

    Independence leaves open which component is which, their signs, their units and what (1, 1, 1) they hold. That is
    decided in its favour: by the slopes of the skin model's own density at the prior's mean, and by an affine map
    to table coordinates fitted to the truth of training faces.

    Parameters, errors: as :func:`zero`.
    """
    return _optical_density(images, mask, prior, prior.independent, _independent_vectors)


def optical_density_fixed(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """Melanin and haemoglobin as the amounts of two fixed pigment vectors in each pixel's −log RGB.

    What Tsumura 2003 does with vectors once found: the density is split into these two and shading along (1, 1, 1), the
    same way for every face. The vectors are the slopes of the skin model's own density at the prior's mean, under the
    mean camera and D65. The assumptions are those of :func:`optical_density_ica`, but for independence.

    Parameters, errors: as :func:`zero`.
    """
    return _optical_density(images, mask, prior, prior.fixed, _fixed_vectors)


def _optical_density(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    scale: DensityScale,
    vectors: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Decomposition:
    mask = _checked(images, mask)
    shape = mask.shape
    coordinates = np.broadcast_to(prior.pigments, (*shape, 2)).copy()
    albedo = np.broadcast_to(prior.albedo, (*shape, 3)).astype(np.float32)
    diffuse = np.zeros(shape, np.float32)
    for face, pixels in enumerate(_pixels(images, mask)):
        inside = mask[face]
        amounts, density = _densities(prior, pixels, vectors)
        coordinates[face, inside] = np.column_stack([amounts, np.ones(len(amounts))]) @ scale.pigments.T
        albedo[face, inside] = scale.albedo * np.exp(-density)
        shading = (-np.log(pixels.clip(DARKEST)) - density).mean(1)
        diffuse[face, inside] = np.exp(-shading) / scale.albedo
    melanin, haemoglobin = _fractions(coordinates.clip(-1, 1))
    b, e = _mean_camera_d65(len(mask))
    silent = np.full(shape, np.nan, np.float32)
    made = albedo * diffuse[..., None]
    return Decomposition(melanin, haemoglobin, diffuse, silent, albedo, made, np.array(images, np.float32), mask, b, e)


def _densities(
    prior: Prior, pixels: np.ndarray, vectors: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of the pigments (n, 2) and the density (n, 3) they make, of colours (n, 3), without shading.

    ``vectors`` finds the pigments' directions across (1, 1, 1), (2, 2) columns, from the densities there (n, 2) and
    from the directions that the skin model expects.
    """
    density = -np.log(pixels.clip(DARKEST))
    slopes = _density_slopes(prior)
    plane = np.linalg.svd(np.ones((1, 3)))[2][1:]  # (2, 3): orthonormal, across (1, 1, 1)
    across, expected = density @ plane.T, plane @ slopes
    found = vectors(across, expected)
    amounts = across @ np.linalg.inv(found).T
    # what a pigment adds to all three densities cannot be seen in the plane: the model's
    along = np.full((3, 1), 1 / 3) * slopes.sum(0)
    return amounts, amounts @ (plane.T @ found + along).T


def _fixed_vectors(across: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(2, 2) columns: the ``expected`` ones, whatever the colours."""
    return expected


def _independent_vectors(across: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(2, 2) columns: directions of melanin and haemoglobin, as long as the ``expected`` ones.

    The expected ones themselves where the colours do not spread over a plane, so that there are no two components.
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


def _density_slopes(prior: Prior) -> np.ndarray:
    """(3, 2) ∂(−log RGB)/∂(table coordinate) of the skin model at the prior's mean, under the mean camera and D65."""
    step = 0.05
    at = prior.pigments.clip(-1 + step, 1 - step) + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    melanin, haemoglobin = _fractions(at)
    R = skin.reflectance(melanin, haemoglobin)
    b, e = _mean_camera_d65(1)
    to_rgb = _to_rgb(b[0], e[0])
    density = -np.log(R @ to_rgb.numpy().T)
    return (density[[0, 2]] - density[[1, 3]]).T / (2 * step)


# --- by Bayes: each pixel for itself ------------------------------------------------------------------------


def maximum_a_posteriori(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray | None = None,
    illuminant: np.ndarray | None = None,
    sigma: float | None = None,
) -> Decomposition:
    """The likeliest skin and shadings of every pixel for itself.

    min over (g, k) on a grid, i_d ≥ 0, i_s ≥ 0 of ‖c − i_d t(g, k) − i_s w‖²/2σ² − log p(g, k) − log p(i_d) −
    log p(i_s), with the prior's law of the table coordinates, a Gaussian one of i_d, an exponential one of i_s.

    Parameters
    ----------
    images : (N, H, W, 3) linear RGB
    mask : (N, H, W) bool
    prior : learnt on training faces
    camera_b, illuminant : (N, 2), (N, 33), where they are known; None is the mean camera, D65
    sigma : deviation of a colour from the model's, linear RGB; None is :data:`SIGMA_LIKELIEST`, or
        :data:`SIGMA_ORACLE` where both camera and light are given

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it, a sigma that is not
        above 0
    """
    return _invert(_likeliest, SIGMA_LIKELIEST, images, mask, prior, camera_b, illuminant, sigma)


def posterior_mean(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray | None = None,
    illuminant: np.ndarray | None = None,
    sigma: float | None = None,
) -> Decomposition:
    """The expectation of every map, pigments in table coordinates, under the same laws; and of the albedo.

    Parameters, errors: as :func:`maximum_a_posteriori`, with :data:`SIGMA_EXPECTED`. Both shadings are integrated out
    in closed form, where i_d ≥ 0 is left out: 0 is some deviations away from its mean.
    """
    return _invert(_expected, SIGMA_EXPECTED, images, mask, prior, camera_b, illuminant, sigma)


@dataclass(frozen=True)
class _Skins:
    """The skins of a grid that the prior leaves: coordinates (M, 2), log prior (M,), colours (M, 3), white (3,)."""

    coordinates: Tensor
    log_prior: Tensor
    colours: Tensor
    white: Tensor

    @classmethod
    def under(cls, prior: Prior, b: np.ndarray, e: np.ndarray) -> _Skins:
        g = torch.linspace(-1, 1, GRID)
        coordinates = torch.cartesian_prod(g, g)
        log_prior = torch.from_numpy(prior.law).flatten()
        keep = log_prior > -NEGLIGIBLE
        to_rgb = _to_rgb(b, e)
        colours = (to_rgb @ skin.reflectance_table(size=GRID).reshape(-1, 33).T).T
        return cls(coordinates[keep], log_prior[keep].float(), colours[keep], to_rgb.sum(-1))

    def with_law(self, log_prior: Tensor) -> _Skins:
        """The same under another law (M,), of which those that it hardly knows are left out."""
        keep = log_prior > log_prior.max() - NEGLIGIBLE
        return _Skins(self.coordinates[keep], log_prior[keep], self.colours[keep], self.white)


@dataclass(frozen=True)
class _Quadratic:
    """The exponent −½ xᵀA x + bᵀx in x = (i_d, i_s) of n pixels with M skins, and what follows from it.

    ``aa``, ``ab`` (M,), ``bb`` (): A. ``a`` (n, M), ``b`` (n, 1): b. Without i_d, which is found or integrated out,
    there remains ½ a²/aa + lean i_s − ½ stiffness i_s²; ``z`` (n, M) is lean/√stiffness.
    """

    aa: Tensor
    ab: Tensor
    bb: Tensor
    a: Tensor
    b: Tensor
    stiffness: Tensor
    z: Tensor

    @classmethod
    def of(cls, colours: Tensor, skins: _Skins, prior: Prior, sigma: float) -> _Quadratic:
        t, w, precision = skins.colours / sigma, skins.white / sigma, prior.diffuse_deviation**-2
        aa, ab, bb = (t * t).sum(-1) + precision, t @ w, w @ w
        a = torch.addmm(torch.tensor(prior.diffuse * precision), colours / sigma, t.T)
        b = (colours / sigma @ w - 1 / prior.specular)[:, None]
        stiffness = bb - ab * ab / aa
        z = torch.addcmul(b, a, -ab / aa) * stiffness.rsqrt()
        return cls(aa, ab, bb, a, b, stiffness, z)


def _likeliest(q: _Quadratic, skins: _Skins) -> Tensor:
    """(n, 7) of the best skin: coordinates, shadings, colour."""
    z = q.z.clamp_min(0)
    gain = (q.a.square() / q.aa).addcmul_(z, z)
    specular = z * q.stiffness.rsqrt()
    dark = q.a < q.ab * specular  # a highlight alone
    gain = torch.where(dark, q.b.clamp_min(0).square() / q.bb, gain)
    best = gain.mul_(0.5).add_(skins.log_prior).argmax(-1, keepdim=True)
    diffuse = ((q.a - q.ab * specular) / q.aa).gather(-1, best)
    alone = (q.b / q.bb).clamp_min(0)
    specular = torch.where(diffuse < 0, alone, specular.gather(-1, best))
    best = best[:, 0]
    return torch.cat([skins.coordinates[best], diffuse.clamp_min(0), specular, skins.colours[best]], -1)


def _expected(q: _Quadratic, skins: _Skins) -> Tensor:
    """(n, 7) expectation over the skins, with the shadings integrated out: coordinates, shadings, albedo."""
    evidence, tail = _evidence(q, skins.log_prior)
    weight = evidence.softmax(-1)
    mills = tail.neg_().exp_().mul_((2 * torch.pi) ** -0.5)  # φ(z)/Φ(z)
    specular = (q.z + mills).clamp_min_(0) * q.stiffness.rsqrt()
    diffuse = (q.a - q.ab * specular) / q.aa
    shadings = [(weight * v).sum(-1, keepdim=True).clamp_min(0) for v in (diffuse, specular)]
    return torch.cat([weight @ skins.coordinates, *shadings, weight @ skins.colours], -1)


def _evidence(q: _Quadratic, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """(n, M) how likely each colour and skin are together, as a logarithm but for a constant of the colour's.

    And log Φ(z) + z²/2, which i_s ≥ 0 has a part in.
    """
    log_tail = torch.special.log_ndtr(q.z)  # of the half line i_s ≥ 0
    half = 0.5 * q.z.square()
    evidence = (q.a.square() / (2 * q.aa)).add_(half).add_(log_tail)
    return evidence.add_(log_prior - 0.5 * (q.aa * q.stiffness).log()), half.add_(log_tail)


@torch.no_grad()
def _invert(
    find: Callable[[_Quadratic, _Skins], Tensor],
    usual_sigma: float,
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray | None,
    illuminant: np.ndarray | None,
    sigma: float | None,
) -> Decomposition:
    mask = _checked(images, mask)
    known = camera_b is not None and illuminant is not None
    sigma = _checked_sigma(sigma, SIGMA_ORACLE if known else usual_sigma)
    mean_b, d65 = _mean_camera_d65(len(mask))
    b = mean_b if camera_b is None else np.asarray(camera_b, np.float32)
    e = d65 if illuminant is None else np.asarray(illuminant, np.float32)
    for name, values, expected in (("camera_b", b, mean_b), ("illuminant", e, d65)):
        if values.shape != expected.shape or not np.isfinite(values).all():
            raise BiofaceError(f"expected finite {name} of shape {expected.shape}, found {values.shape}")
    found = np.zeros((*mask.shape, 7), np.float32)
    found[..., :2] = prior.pigments
    skins = None
    for face, pixels in enumerate(_pixels(images, mask)):
        if skins is None or camera_b is not None or illuminant is not None:
            skins = _Skins.under(prior, b[face], e[face])
        found[face, mask[face]] = _found(find, torch.from_numpy(pixels.astype(np.float32)), skins, prior, sigma).numpy()
    return _of_found(found, b, e, images, mask)


def _found(
    find: Callable[[_Quadratic, _Skins], Tensor], colours: Tensor, skins: _Skins, prior: Prior, sigma: float
) -> Tensor:
    """(n, 7) what ``find`` says of colours (n, 3)."""
    return torch.cat([find(_Quadratic.of(c, skins, prior, sigma), skins) for c in colours.split(CHUNK)])


def _of_found(found: np.ndarray, b: np.ndarray, e: np.ndarray, images: np.ndarray, mask: np.ndarray) -> Decomposition:
    """Of maps (N, H, W, 7): coordinates, shadings, albedo."""
    melanin, haemoglobin = _fractions(found[..., :2])
    made = Decomposition.of_maps(melanin, haemoglobin, found[..., 2], found[..., 3], b, e, images, mask)
    return dataclasses.replace(made, albedo=found[..., 4:])


# --- by Bayes: the pixels of a face together ----------------------------------------------------------------


@torch.no_grad()
def image_posterior(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray,
    illuminant: np.ndarray,
    sigma: float | None = None,
) -> Decomposition:
    """The expectation of every map where the pixels of a face share what they do share: camera, light and person.

    A face is seen by one of n cameras and lights, all equally likely beforehand, and is one person's, whose skin u
    follows the law of the faces' medians; its pixels scatter around u, independently, by the law of the training faces.
    Each camera j and skin u is as likely as the photo's colours c under them,

        log w(j, u) = log p(u) + κ · mean over pixels of log Σ_skins p(skin | u) p(c | skin, j),

    where κ is how many pixels a face counts for and p(c | skin, j) has the shadings integrated out as in
    :func:`posterior_mean`. The mean is over some of the pixels (:data:`LOOKED_AT`), and κ is small
    (:data:`FACE_COUNTS`), because neighbours are not independent. Maps and albedo are those of :func:`posterior_mean`
    under camera j and the skins Σ_u w(u | j) p(skin | u), averaged over j; a few of them that stand for all
    (:data:`REPRESENTATIVES`). It knows nothing of where in the face a pixel is.

    Parameters
    ----------
    images, mask, prior : as :func:`maximum_a_posteriori`
    camera_b, illuminant : (n, 2), (n, 33), draws from the law of cameras and lights, the same for all faces; 64 do
        nearly as well as 192, and a single one is a camera and light that are known
    sigma : deviation of a colour from the model's under the nearest of the draws, linear RGB; None is
        :data:`SIGMA_FACE`

    Returns
    -------
    with each face's ``camera_b`` and ``illuminant`` their expectation over all draws

    Raises
    ------
    BiofaceError : as :func:`maximum_a_posteriori`; not one draw or not as many of both, a prior without faces
    """
    mask = _checked(images, mask)
    sigma = _checked_sigma(sigma, SIGMA_FACE)
    b, e = np.asarray(camera_b, np.float32), np.asarray(illuminant, np.float32)
    for name, values, width in (("camera_b", b, 2), ("illuminant", e, 33)):
        if values.shape != (len(b), width) or not len(values) or not np.isfinite(values).all():
            raise BiofaceError(f"expected finite {name} (n, {width}), n ≥ 1 draws of both, found {values.shape}")
    if not np.isfinite(prior.scatter).all():
        raise BiofaceError("expected a prior learnt on faces, found one that never saw the pixels of a face scatter")
    skins = [_Skins.under(prior, *draw) for draw in zip(b, e, strict=True)]
    people = _People.of(prior, skins[0].coordinates)
    found = np.zeros((*mask.shape, 7), np.float32)
    found[..., :2] = prior.pigments
    cameras, lights = np.zeros((len(mask), 2), np.float32), np.zeros((len(mask), 33), np.float32)
    for face, pixels in enumerate(_pixels(images, mask)):
        colours = torch.from_numpy(pixels.astype(np.float32))
        weight = _weight_of_draws(colours, skins, people, prior, sigma)
        of_draw = weight.sum(1)
        cameras[face], lights[face] = of_draw.numpy() @ b, of_draw.numpy() @ e
        parts = []
        for j, count in _representatives(of_draw, weight @ people.coordinates[:, 1] / of_draw):
            law = (weight[j] / of_draw[j] @ people.scatter).log()
            parts.append(count * _found(_expected, colours, skins[j].with_law(law), prior, sigma))
        found[face, mask[face]] = sum(parts, torch.zeros(())).numpy() / REPRESENTATIVES
    return _of_found(found, cameras, lights, images, mask)


@dataclass(frozen=True)
class _People:
    """The skins a person may have: coordinates (U, 2), log prior (U,), and how pixels scatter over M skins (U, M)."""

    coordinates: Tensor
    log_prior: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, prior: Prior, skins: Tensor) -> _People:
        """Those of every :data:`BASE_STEP`-th point that are likely enough; skins (M, 2) are points of the grid."""
        some = prior.base[::BASE_STEP, ::BASE_STEP]
        points = BASE_STEP * np.argwhere(some > -NEGLIGIBLE)
        to = np.rint((skins.numpy() + 1) / 2 * (GRID - 1)).astype(int)
        steps = to - points[:, None] + GRID - 1  # (U, M, 2)
        scatter = torch.from_numpy(prior.scatter[steps[..., 0], steps[..., 1]]).softmax(-1)
        log_prior = torch.from_numpy(prior.base[tuple(points.T)]).log_softmax(0)
        return cls(torch.from_numpy(2 * points / (GRID - 1) - 1).float(), log_prior.float(), scatter.float())


def _weight_of_draws(colours: Tensor, skins: list[_Skins], people: _People, prior: Prior, sigma: float) -> Tensor:
    """(draws, U), of sum 1: how likely each camera and light and each person's skin are given colours (n, 3)."""
    some = colours[np.unique(np.linspace(0, len(colours) - 1, LOOKED_AT).astype(int))]
    flat = torch.zeros(len(people.scatter.T))
    logs = []
    for under in skins:
        evidence, _ = _evidence(_Quadratic.of(some, under, prior, sigma), flat)
        top = evidence.amax(-1, keepdim=True)
        likelihood = evidence.sub_(top).exp_() @ people.scatter.T  # (n, U)
        logs.append((likelihood.clamp_min_(1e-30).log_() + top).mean(0))
    return (people.log_prior + FACE_COUNTS * torch.stack(logs)).flatten().softmax(0).view(len(skins), -1)


def _representatives(weight: Tensor, value: Tensor) -> list[tuple[int, int]]:
    """Which draws (n,) stand for all, and how often each: those in the middle of equal shares of the weight.

    In the order of ``value``, the person's haemoglobin under each draw: of all maps it depends most on the camera.
    """
    order = value.argsort(stable=True)
    middles = (torch.arange(REPRESENTATIVES) + 0.5) / REPRESENTATIVES
    at = torch.searchsorted(weight[order].cumsum(0), middles).clamp_max(len(weight) - 1)
    chosen, counts = order[at].unique(return_counts=True)
    return list(zip(chosen.tolist(), counts.tolist(), strict=True))


# --- shared ------------------------------------------------------------------------------------------------


def _checked(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask, once it and the photos are what they must be."""
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


def _checked_sigma(sigma: float | None, usual: float) -> float:
    sigma = usual if sigma is None else sigma
    if not (isinstance(sigma, numbers.Real) and np.isfinite(sigma) and sigma > 0):
        raise BiofaceError(f"expected sigma to be one number above 0, found {sigma!r}")
    return sigma


def _pixels(images: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    return [image[inside].astype(float) for image, inside in zip(images, mask, strict=True)]


def _fractions(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Melanin and haemoglobin, float32, of table coordinates (..., 2)."""
    tops = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
    return tuple(skin.table_fraction(np.float32(coordinates[..., k]), top) for k, top in enumerate(tops))


def _mean_camera_d65(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (count, 2) and spectra (count, 33), float32."""
    d65 = illumination.standard("D65").numpy().astype(np.float32)
    return np.zeros((count, 2), np.float32), np.tile(d65, (count, 1))


def _to_rgb(b: np.ndarray, e: np.ndarray) -> Tensor:
    """(3, 33) float32, from reflectance to linear RGB."""
    S = camera.CameraModel.load().sensitivity(torch.from_numpy(b))
    return camera.reflectance_to_rgb(torch.from_numpy(e), S).float()
