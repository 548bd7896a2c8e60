"""What a face is taken apart into by Bayes' rule, without a network.

Methods take photos (N, H, W, 3), linear RGB, with masks (N, H, W), and what is known of faces (:class:`Prior`); they
give a :class:`~bioface.maps.Decomposition`. :func:`maximum_a_posteriori` and :func:`posterior_mean` see each pixel by
itself, under the mean camera and D65; told the true ones, which no network is, they are an oracle that shows what those
cost. The mean has the least squared error of all that see one pixel, as far as the laws it takes for the faces are
theirs. :mod:`bioface.face_posterior` sees a whole face, whose pixels share a camera, a light and a person's skin.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from bioface import camera, illumination, skin, threads
from bioface.arrays import torch_as_it_starts
from bioface.errors import BiofaceError
from bioface.maps import DEVIATIONS, Decomposition, checked_mask, slope

#: Deviation of a colour from the model's, linear RGB, by the sum of the errors of diffuse and specular shading, albedo
#: and pigments on 32 training faces of the twin, with a prior learnt on 64 others. Under the mean camera and D65 it is
#: mostly the camera and the light that differ: likeliest 0.449 at 0.014, 0.457 at 0.020, smaller ones not tried;
#: expectation 0.403, 0.401, 0.408 at 0.007, 0.010, 0.014. Under the true ones it is the photo's eight bits, 0.0012 rms:
#: with a Gaussian law of skin 0.30 for both from 0.001 to 0.0015, rising above.
SIGMA_LIKELIEST, SIGMA_EXPECTED, SIGMA_ORACLE = 0.014, 0.010, 0.0015

SPREAD = 0.3  # of diffuse shading over a face, of its mean, where none is known; 0.26 on the training faces of the twin
FRESNEL = (0.4 / 2.4) ** 2  # ((n − 1)/(n + 1))² at the refractive index of skin, n = 1.4

GRID = 48  # skins along either pigment, even in table coordinates
SCATTER_SMOOTHING = 0.4  # steps of GRID, of the law of pixels around their face's; 0.233, 0.234, 0.246 for 0, 0.4, 1.2
SMOOTHING = 2.5  # steps of that grid, of the law of skin; 1.5 does as well, 4 and one Gaussian law worse
NEGLIGIBLE = 12.0  # nats below the likeliest skin, where the prior leaves a skin out
OUT_OF_REACH = 25.0  # nats below the likeliest skin of a pixel, with more than any highlight takes
DEEP = 60.0  # nats: exponentials of less are ten times slower
CHUNK = 256  # pixels at a time: the working arrays (pixels × skins) stay in the processor's cache

#: Cameras or lights where they are known.
Known = np.ndarray | None

_TOPS = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
_Find = Callable[["_Quadratic", "_Skins"], Tensor]


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
        same grid, none in the middle
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

    @classmethod
    @torch_as_it_starts()
    def learn(cls, truth: Decomposition) -> Prior:
        """From training faces (N, H, W) with their truth.

        Raises
        ------
        BiofaceError : see :func:`maximum_a_posteriori`; maps that are NaN inside a mask, or the same everywhere
        """
        mask = checked_mask(truth.image, truth.mask)
        names = "melanin_coordinate", "haemoglobin_coordinate", "diffuse_shading", "specular_shading", "albedo"
        g, k, diffuse, specular, albedo = (getattr(truth, name)[mask].astype(float) for name in names)
        if not all(np.isfinite(values).all() for values in (g, k, diffuse, specular, albedo)):
            raise BiofaceError("expected the truth of training faces, found NaN or infinity inside a mask")
        if not (min(g.std(), k.std(), diffuse.std()) > 0 and specular.mean() > 0):
            raise BiofaceError("expected maps that vary from pixel to pixel to learn from, found constants")
        coordinates = np.stack([g, k])
        faces = np.split(coordinates, np.cumsum(mask.sum((1, 2)))[:-1], axis=1)
        shadings = float(diffuse.mean()), float(diffuse.std()), float(specular.mean())
        colours = albedo.mean(0), truth.image[mask].mean(0, dtype=float)
        return cls(coordinates.mean(1), _law(coordinates), *shadings, *colours, *_between_and_within(faces))

    @classmethod
    @torch_as_it_starts()
    def measured(
        cls,
        melanin: np.ndarray,
        haemoglobin: np.ndarray,
        images: np.ndarray | None,
        mask: np.ndarray | None,
        person: np.ndarray,
    ) -> Prior:
        """Without any truth: the law of measured skin, and shadings from how bright the photos are.

        The mean photo over the mean colour of the skins, under the mean camera and D65, is the mean diffuse shading:
        over many people the brightness ambiguity averages out. Without photos it is 1, the light that makes a white
        surface just not clip. Its deviation, :data:`SPREAD`, is assumed; highlights are on average what smooth skin
        reflects straight back, :data:`FRESNEL` of the light. Places on the face of one person stand for its pixels.

        Parameters
        ----------
        melanin, haemoglobin : (M,) volume fractions of measured skins, of as many people as can be had
        images, mask : (N, H, W, 3) linear RGB and (N, H, W), photos of other people, or None
        person : (M,) whose skin it is, some of them measured in several places

        Raises
        ------
        BiofaceError : see :func:`maximum_a_posteriori`; skins that are NaN, or all the same; as many persons as skins
        """
        fractions = np.stack([melanin, haemoglobin]).astype(float)
        if not np.isfinite(fractions).all() or not fractions.std(1).min() > 0:
            raise BiofaceError("expected measured skins that vary and are finite, found others")
        coordinates = np.stack([skin.table_coordinate(f, top) for f, top in zip(fractions, _TOPS, strict=True)])
        if np.shape(person) != fractions.shape[1:]:
            raise BiofaceError(f"expected a person for each of {fractions.shape[1]} skins, found {np.shape(person)}")
        of_each = (coordinates[:, person == who] for who in np.unique(person))
        places = [part for part in of_each if part.shape[1] > 1]
        if not places:
            raise BiofaceError("expected persons who were measured in several places, found none")
        to_rgb = rgb_of_reflectance(*(v[0] for v in mean_camera_d65(1))).double()
        albedo = (to_rgb @ torch.from_numpy(skin.reflectance(*fractions).mean(0))).numpy()
        colour = albedo
        if images is not None and mask is not None:
            colour = images[checked_mask(images, mask)].astype(float).mean(0)
        level = float(colour.mean() / albedo.mean())
        shadings = level, SPREAD * level, FRESNEL * level
        return cls(coordinates.mean(1), _law(coordinates), *shadings, albedo, colour, *_between_and_within(places))

    def exposed(self, factor: float) -> Prior:
        """The same faces with so many times the light."""
        diffuse, deviation, specular = (factor * v for v in (self.diffuse, self.diffuse_deviation, self.specular))
        return dataclasses.replace(self, diffuse=diffuse, diffuse_deviation=deviation, specular=specular)


def _between_and_within(faces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``base`` and ``scatter`` of a :class:`Prior`, of the skins (2, pixels) of each of some faces."""
    medians = np.stack([np.median(face, axis=1) for face in faces], axis=1)
    away = np.hstack([face - median[:, None] for face, median in zip(faces, medians.T, strict=True)])
    return _law(medians), _law(away, reach=2, smoothing=SCATTER_SMOOTHING)


def _law(coordinates: np.ndarray, reach: int = 1, smoothing: float = SMOOTHING) -> np.ndarray:
    """Log density of pairs (2, n) at the points of the grid, or of one of the same steps from −reach to reach."""
    half = 1 / (GRID - 1)
    edges = np.linspace(-reach - half, reach + half, reach * (GRID - 1) + 2)  # around the points
    counts = np.histogram2d(coordinates[0], coordinates[1], [edges, edges])[0]
    density = scipy.ndimage.gaussian_filter(counts, smoothing, mode="constant")
    return np.log(density / density.max() + 1e-9)


# --- each pixel for itself ---------------------------------------------------------------------------------


def maximum_a_posteriori(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: Known = None,
    illuminant: Known = None,
) -> Decomposition:
    """The likeliest skin and shadings of every pixel for itself.

    min over (g, k) on a grid, i_d ≥ 0, i_s ≥ 0 of ‖c − i_d t(g, k) − i_s w‖²/2σ² − log p(g, k) − log p(i_d) −
    log p(i_s), with the prior's law of the table coordinates, a Gaussian one of i_d, an exponential one of i_s.

    Parameters
    ----------
    images : (N, H, W, 3) linear RGB
    mask : (N, H, W) bool
    prior : learnt on training faces
    camera_b, illuminant : (N, 2), (N, 33), where they are known; None is the mean camera, D65. σ, the deviation of a
        colour from the model's, is :data:`SIGMA_LIKELIEST`, or :data:`SIGMA_ORACLE` where both are given

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it
    """
    return _each_pixel(_likeliest, SIGMA_LIKELIEST, images, mask, prior, camera_b, illuminant)


def posterior_mean(
    images: np.ndarray, mask: np.ndarray, prior: Prior, camera_b: Known = None, illuminant: Known = None
) -> Decomposition:
    """The expectation of every map, pigments in table coordinates, under the same laws; and of the albedo.

    Parameters, errors: as :func:`maximum_a_posteriori`, with :data:`SIGMA_EXPECTED`. Both shadings are integrated out
    in closed form, where i_d ≥ 0 is left out: 0 is some deviations away from its mean.
    """
    return _each_pixel(expected, SIGMA_EXPECTED, images, mask, prior, camera_b, illuminant)


@torch_as_it_starts()
@torch.no_grad()
def _each_pixel(
    find: _Find, sigma: float, images: np.ndarray, mask: np.ndarray, prior: Prior, camera_b: Known, illuminant: Known
) -> Decomposition:
    mask = checked_mask(images, mask)
    b, e = mean_camera_d65(len(mask))
    b = b if camera_b is None else finite("camera_b", camera_b, b.shape)
    e = e if illuminant is None else finite("illuminant", illuminant, e.shape)
    sigma = sigma if camera_b is None or illuminant is None else SIGMA_ORACLE
    skins = (_Skins.under(prior, *known) for known in zip(b, e, strict=True))
    found = [_found(find, *face, prior, sigma) for face in zip(_colours(images, mask), skins, strict=True)]
    found = [with_deviations(of_face) if of_face.shape[-1] == 14 else of_face for of_face in found]
    return decomposed(found, prior, b, e, images, mask)


@dataclass(frozen=True)
class _Skins:
    """The skins of a grid that the prior leaves: coordinates (M, 2), log prior (M,), colours (M, 3), white (3,)."""

    coordinates: Tensor
    log_prior: Tensor
    colours: Tensor
    white: Tensor

    @classmethod
    def under(cls, prior: Prior, b: np.ndarray, e: np.ndarray) -> _Skins:
        return cls.every(b, e).with_law(torch.from_numpy(prior.law).flatten())

    @classmethod
    def every(cls, b: np.ndarray, e: np.ndarray) -> _Skins:
        """All of the grid, equally likely."""
        g, to_rgb = torch.linspace(-1, 1, GRID), rgb_of_reflectance(b, e)
        return cls(torch.cartesian_prod(g, g), torch.zeros(GRID**2), (to_rgb @ _reflectance().T).T, to_rgb.sum(-1))

    def with_law(self, log_prior: Tensor) -> _Skins:
        """The same under another law (M,), of which those that it hardly knows are left out."""
        keep = log_prior > log_prior.max() - NEGLIGIBLE
        return dataclasses.replace(self[keep], log_prior=log_prior[keep].float())

    def __getitem__(self, some: Tensor) -> _Skins:
        return _Skins(self.coordinates[some], self.log_prior[some], self.colours[some], self.white)


@functools.cache
def _reflectance() -> Tensor:
    """(GRID², 33) of every skin of the grid."""
    return skin.reflectance_table(size=GRID).reshape(-1, 33)


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
    def of(cls, colours: Tensor, skins: _Skins, prior: Prior, sigma: float, typical: float = 0.0) -> _Quadratic:
        """With a ``typical`` brightness of the face, highlights are weaker where a pixel is darker than that."""
        shine = prior.specular * (colours.mean(-1) / typical).clamp(0.1, 3) if typical else prior.specular
        t, w, precision = skins.colours / sigma, skins.white / sigma, prior.diffuse_deviation**-2
        aa, ab, bb = (t * t).sum(-1) + precision, t @ w, w @ w
        a = torch.addmm(torch.tensor(prior.diffuse * precision), colours / sigma, t.T)
        b = (colours / sigma @ w - 1 / shine)[:, None]
        stiffness = bb - ab * ab / aa
        z = torch.addcmul(b, a, -ab / aa) * stiffness.rsqrt()
        return cls(aa, ab, bb, a, b, stiffness, z)

    def within_reach(self, log_prior: Tensor) -> Tensor:
        """Which skins (M,) may count for any of the pixels: Φ(z) exp(z²/2) is at most exp(z²/2), and 1 for z < 0."""
        z = self.z.clamp_min(0)
        most = (self.a.square() / self.aa).addcmul_(z, z).mul_(0.5).add_(log_prior)
        return (most > most.amax(-1, keepdim=True) - OUT_OF_REACH).any(0)

    def of_skins(self, some: Tensor) -> _Quadratic:
        aa, ab, stiffness = self.aa[some], self.ab[some], self.stiffness[some]
        return _Quadratic(aa, ab, self.bb, self.a[:, some], self.b, stiffness, self.z[:, some])


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


def expected(q: _Quadratic, skins: _Skins) -> Tensor:
    """(n, 14) expectation over the skins, shadings integrated out: of coordinates, shadings, albedo, and their squares.

    Of a skin's i_s there is left a Gaussian law cut at 0, and of i_d, given i_s, a Gaussian one.
    """
    some = q.within_reach(skins.log_prior)
    q, skins = q.of_skins(some), skins[some]
    log_weight, tail = evidence(q, skins.log_prior)
    weight = log_weight.sub_(log_weight.amax(-1, keepdim=True)).clamp_min_(-DEEP).exp_()  # as a softmax
    weight /= weight.sum(-1, keepdim=True)
    mills = tail.neg_().clamp_min_(-DEEP).exp_().mul_((2 * torch.pi) ** -0.5)  # φ(z)/Φ(z)
    specular = (q.z + mills).clamp_min_(0) * q.stiffness.rsqrt()
    variance = (1 - mills * (mills + q.z)).clamp_(0, 1) / q.stiffness
    slope = q.ab / q.aa
    diffuse = q.a / q.aa - slope * specular
    second = diffuse.square() + 1 / q.aa + slope.square() * variance, specular.square() + variance
    shadings = [(weight * v).sum(-1, keepdim=True).clamp_min(0) for v in (diffuse, specular, *second)]
    both = weight @ torch.cat([skins.coordinates, skins.colours, skins.coordinates**2, skins.colours**2], -1)
    return torch.cat([both[:, :2], *shadings[:2], both[:, 2:7], *shadings[2:], both[:, 7:]], -1)


def evidence(q: _Quadratic, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """(n, M) log likelihood of colour and skin together, but for a constant of the colour's; and log Φ(z) + z²/2."""
    tail = _log_tail(q.z)  # of the half line i_s ≥ 0
    gain = (q.a.square() / (2 * q.aa)).add_(tail)
    return gain.add_(log_prior - 0.5 * (q.aa * q.stiffness).log()), tail


def _log_tail(z: Tensor) -> Tensor:
    """log Φ(z) + z²/2 within 3e-5, five times as fast as ``torch.special.log_ndtr``.

    Below −3 by the continued fraction of Mills' ratio (Laplace), where 1 + erf would lose its digits.
    """
    y = -z.clamp_max(-3)
    low = -(y + 1 / (y + 2 / (y + 3 / (y + 4 / (y + 5 / y))))).mul_((2 * torch.pi) ** 0.5).log_()
    high = (0.5 + 0.5 * torch.erf(z * 0.5**0.5)).clamp_min_(1e-12).log_().addcmul_(z, z, value=0.5)
    return torch.where(z < -3, low, high)


def _found(find: _Find, colours: Tensor, skins: _Skins, prior: Prior, sigma: float) -> Tensor:
    """(n, 7 or 14) what ``find`` says of colours (n, 3)."""
    parts = threads.blocks(lambda c: find(_Quadratic.of(c, skins, prior, sigma), skins), colours.split(CHUNK))
    return torch.cat(list(parts))


def with_deviations(moments: Tensor) -> Tensor:
    """(n, 14) expectations and standard deviations from expectations of seven quantities and of their squares."""
    mean, square = moments.split(7, -1)
    return torch.cat([mean, (square - mean**2).clamp_min(0).sqrt()], -1)


def decomposed(
    found: list[Tensor],
    prior: Prior,
    b: np.ndarray,
    e: np.ndarray,
    images: np.ndarray,
    mask: np.ndarray,
    exposure: np.ndarray | float = math.nan,
) -> Decomposition:
    """Of what was found in each mask, (n, 7 or 14): coordinates, shadings, albedo, and deviations where known."""
    maps = np.full((*mask.shape, 14), np.nan, np.float32)
    maps[..., :7] = 0
    maps[..., :2] = prior.pigments
    maps[mask, : found[0].shape[-1]] = torch.cat(found).numpy()
    exposed = np.broadcast_to(np.float32(exposure), len(mask))
    with threads.number(1):
        made = Decomposition.of_maps(*fractions(maps[..., :2]), maps[..., 2], maps[..., 3], b, e, images, mask)
    return dataclasses.replace(made, albedo=maps[..., 4:7], exposure=exposed, **deviations(maps))


def deviations(maps: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of a :class:`~bioface.maps.Decomposition` that say how sure it is, of (..., 14) maps.

    Those of the pigments are the coordinate's times the slope of the fraction.
    """
    pigments = [slope(v, top) for v, top in zip(fractions(maps[..., :2]), _TOPS, strict=True)]
    values = *(maps[..., 7 + i] * pigments[i] for i in (0, 1)), maps[..., 9], maps[..., 10], maps[..., 11:]
    return dict(zip(DEVIATIONS, values, strict=True))


def finite(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values as float32, once they are finite and of that shape; else a BiofaceError."""
    values = np.asarray(values, np.float32)
    if values.shape != shape or not np.isfinite(values).all():
        raise BiofaceError(f"expected finite {name} of shape {shape}, found {values.shape}")
    return values


def _colours(images: np.ndarray, mask: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(image[inside].astype(np.float32)) for image, inside in zip(images, mask, strict=True)]


def fractions(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Melanin and haemoglobin, float32, of table coordinates (..., 2)."""
    g, k = np.moveaxis(np.asarray(coordinates, np.float32), -1, 0)
    return skin.table_fraction(g, _TOPS[0]), skin.table_fraction(k, _TOPS[1])


def mean_camera_d65(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (count, 2) and spectra (count, 33), float32, of the mean camera and D65."""
    d65 = illumination.standard("D65").numpy().astype(np.float32)
    return np.zeros((count, 2), np.float32), np.tile(d65, (count, 1))


def rgb_of_reflectance(b: np.ndarray, e: np.ndarray) -> Tensor:
    """(3, 33) float32, from reflectance to linear RGB, for a camera (2,) and light (33,)."""
    S = camera.CameraModel.load().sensitivity(torch.from_numpy(b))
    return camera.reflectance_to_rgb(torch.from_numpy(e), S).float()
