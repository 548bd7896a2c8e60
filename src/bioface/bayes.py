"""What a face is taken apart into by Bayes' rule, without a network.

Methods take photos (N, H, W, 3), linear RGB, with masks (N, H, W), and what is known of faces (:class:`Prior`); they
give a :class:`~bioface.maps.Decomposition`. :func:`maximum_a_posteriori` and :func:`posterior_mean` see each pixel by
itself, under the mean camera and D65. The mean has the least squared error of all that see one pixel, as far as the
laws it takes for the faces are theirs. :mod:`bioface.face_posterior` sees a whole face, whose pixels share a camera, a
light and a person's skin.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from bioface import camera, illumination, skin, threads
from bioface.arrays import torch_as_it_starts
from bioface.maps import DEVIATIONS, Decomposition, checked_mask

#: Deviation of a colour from the model's, linear RGB, by the sum of the errors of all maps on 32 training faces of the
#: twin, with a prior learnt on 64 others: likeliest 0.449 at 0.014, 0.457 at 0.020, smaller ones not tried; expectation
#: 0.403, 0.401, 0.408 at 0.007, 0.010, 0.014. It is mostly the camera and the light that differ.
SIGMA_LIKELIEST, SIGMA_EXPECTED = 0.014, 0.010

SPREAD = 0.3  # of diffuse shading over a face, of its mean, where none is known; 0.26 on the training faces of the twin
FRESNEL = (0.4 / 2.4) ** 2  # ((n − 1)/(n + 1))² at the refractive index of skin, n = 1.4

GRID = 48  # skins along either pigment, even in table coordinates
SCATTER_SMOOTHING = 0.4  # steps of GRID, of the law of pixels around their face's; 0.233, 0.234, 0.246 for 0, 0.4, 1.2
SMOOTHING = 2.5  # steps of that grid, of the law of skin; 1.5 does as well, 4 and one Gaussian law worse
NEGLIGIBLE = 12.0  # nats below the likeliest skin, where the prior leaves a skin out
DEEP = 60.0  # nats: exponentials of less are ten times slower
CHUNK = 128  # pixels at a time: the working arrays (pixels × skins) stay in the processor's cache

_TOPS = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]


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
        """From training faces (N, H, W) with their truth; errors as :func:`maximum_a_posteriori`."""
        mask = checked_mask(truth.image, truth.mask)
        names = "melanin_coordinate", "haemoglobin_coordinate", "diffuse_shading", "specular_shading", "albedo"
        g, k, diffuse, specular, albedo = (getattr(truth, name)[mask].astype(float) for name in names)
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
        """
        fractions = np.stack([melanin, haemoglobin]).astype(float)
        coordinates = np.stack([skin.table_coordinate(f, top) for f, top in zip(fractions, _TOPS, strict=True)])
        of_each = (coordinates[:, person == who] for who in np.unique(person))
        places = [part for part in of_each if part.shape[1] > 1]
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


def maximum_a_posteriori(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """The likeliest skin and shadings of every pixel for itself.

    min over (g, k) on a grid, i_d ≥ 0, i_s ≥ 0 of ‖c − i_d t(g, k) − i_s w‖²/2σ² − log p(g, k) − log p(i_d) −
    log p(i_s), with the prior's law of the table coordinates, a Gaussian one of i_d, an exponential one of i_s.

    Parameters
    ----------
    images : (N, H, W, 3) linear RGB
    mask : (N, H, W) bool
    prior : learnt on training faces; σ, the deviation of a colour from the model's, is :data:`SIGMA_LIKELIEST`

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it
    """
    return _each_pixel(_likeliest, SIGMA_LIKELIEST, images, mask, prior)


def posterior_mean(images: np.ndarray, mask: np.ndarray, prior: Prior) -> Decomposition:
    """The expectation of every map, pigments in table coordinates, under the same laws; and of the albedo.

    Parameters, errors: as :func:`maximum_a_posteriori`, with :data:`SIGMA_EXPECTED`. Both shadings are integrated out
    in closed form, where i_d ≥ 0 is left out: 0 is some deviations away from its mean.
    """

    def find(q: _Quadratic, skins: _Skins) -> Tensor:
        return with_deviations(expected(q, skins))

    return _each_pixel(find, SIGMA_EXPECTED, images, mask, prior)


@torch_as_it_starts()
@torch.no_grad()
def _each_pixel(
    find: Callable[[_Quadratic, _Skins], Tensor], sigma: float, images: np.ndarray, mask: np.ndarray, prior: Prior
) -> Decomposition:
    """What ``find`` says, (n, 7 or 14), of the colours of each face under the mean camera and D65."""
    mask = checked_mask(images, mask)
    b, e = mean_camera_d65(len(mask))
    skins = _Skins.every(b[0], e[0]).with_law(torch.from_numpy(prior.law).flatten())
    faces = (torch.from_numpy(image[face].astype(np.float32)) for image, face in zip(images, mask, strict=True))
    chunks = (colours for of_face in faces for colours in of_face.split(CHUNK))
    parts = threads.blocks(lambda c: find(_Quadratic.of(c, skins, prior, sigma), skins), chunks)
    return decomposed(list(parts), prior, b, e, images, mask)


@dataclass(frozen=True)
class _Skins:
    """The skins of a grid that the prior leaves: coordinates (M, 2), log prior (M,).

    Under one draw of camera and light, or several: colours (..., M, 3), white (..., 3).
    """

    coordinates: Tensor
    log_prior: Tensor
    colours: Tensor
    white: Tensor

    @classmethod
    def every(cls, b: np.ndarray, e: np.ndarray) -> _Skins:
        """All of the grid, equally likely."""
        g, to_rgb = torch.linspace(-1, 1, GRID), rgb_of_reflectance(b, e)
        return cls(torch.cartesian_prod(g, g), torch.zeros(GRID**2), (to_rgb @ _reflectance().T).mT, to_rgb.sum(-1))

    def with_law(self, log_prior: Tensor) -> _Skins:
        """The same under another law (M,), of which those that it hardly knows are left out."""
        keep = log_prior > log_prior.max() - NEGLIGIBLE
        return dataclasses.replace(self[keep], log_prior=log_prior[keep].float())

    def __getitem__(self, some: Tensor) -> _Skins:
        return _Skins(self.coordinates[some], self.log_prior[some], self.colours[..., some, :], self.white)

    def under_draw(self, j: int | Tensor) -> _Skins:
        return dataclasses.replace(self, colours=self.colours[j], white=self.white[j])


@functools.cache
def _reflectance() -> Tensor:
    """(GRID², 33) of every skin of the grid."""
    return skin.reflectance_table(size=GRID).reshape(-1, 33)


@dataclass(frozen=True)
class _Quadratic:
    """The exponent −½ xᵀA x + bᵀx in x = (i_d, i_s) of n pixels with M skins, under a draw or (...) of them.

    ``aa``, ``ab`` (..., 1, M), ``bb`` (..., 1, 1): A. b is ``d`` (..., n, M) times √(2 aa), and ``b`` (..., n, 1).
    Without i_d, which is found or integrated out, there remains d² + z √(2 stiffness) i_s − ½ stiffness i_s².
    """

    aa: Tensor
    ab: Tensor
    bb: Tensor
    d: Tensor
    b: Tensor
    stiffness: Tensor
    z: Tensor

    @classmethod
    def of(
        cls, colours: Tensor, skins: _Skins, prior: Prior, sigma: float, typical: float = 0.0, exposure: Any = 1.0
    ) -> _Quadratic:
        """With a ``typical`` brightness of the face, highlights are weaker where a pixel is darker than that.

        The prior's shadings are times the ``exposure``, one or (...).
        """
        shine = prior.specular * (colours.mean(-1, keepdim=True) / typical).clamp(0.1, 3) if typical else prior.specular
        exposure = torch.as_tensor(exposure, dtype=torch.float32)[..., None, None]
        t, w = skins.colours.mT / sigma, skins.white[..., None] / sigma
        precision = (prior.diffuse_deviation * exposure) ** -2
        aa, ab, bb = t.square().sum(-2, keepdim=True) + precision, w.mT @ t, w.mT @ w
        stiffness = bb - ab * ab / aa
        # both are linear in the colour, 1 and 1/shine
        lean = torch.cat([t, (prior.diffuse * exposure * precision).expand_as(aa)], -2)
        rest = torch.cat([w - t * (ab / aa), lean[..., 3:, :] * (-ab / aa), (-1 / exposure).expand_as(aa)], -2)
        one = torch.ones(len(colours), 1)
        known = torch.cat([colours / sigma, one, one / shine], -1)
        b = known[:, :3] @ w - known[:, 4:] / exposure
        d, z = known[:, :4] @ (lean * (2 * aa).rsqrt()), known @ (rest * (2 * stiffness).rsqrt())
        return cls(aa, ab, bb, d, b, stiffness, z)


def _likeliest(q: _Quadratic, skins: _Skins) -> Tensor:
    """(n, 7) of the best skin: coordinates, shadings, colour."""
    z = q.z.clamp_min(0)
    specular, alone = z * (2 / q.stiffness).sqrt(), (q.b / q.bb).clamp_min(0)
    diffuse = q.d * (2 / q.aa).sqrt() - q.ab / q.aa * specular
    gain = torch.where(diffuse < 0, 0.5 * q.b * alone, q.d.square().addcmul_(z, z))  # a highlight alone
    best = gain.add_(skins.log_prior).argmax(-1, keepdim=True)
    diffuse = diffuse.gather(-1, best)
    specular = torch.where(diffuse < 0, alone, specular.gather(-1, best))
    best = best[:, 0]
    return torch.cat([skins.coordinates[best], diffuse.clamp_min(0), specular, skins.colours[best]], -1)


def expected(q: _Quadratic, skins: _Skins) -> Tensor:
    """(n, 14) expectation over the skins, shadings integrated out: of coordinates, shadings, albedo, and their squares.

    Of a skin's i_s there is left a Gaussian law cut at 0, and of i_d, given i_s, a Gaussian one. With u = z + the mean
    that the cut adds, i_s is √(2/stiffness) u and i_s² (1 + 2 z u)/stiffness: all are sums over products of few maps.
    """
    weight, _, tail, fall = likelihood(q, skins.log_prior)
    u = torch.addcdiv(q.z, fall, tail, value=0.5 * torch.pi**-0.5).clamp_min_(0).mul_(weight)
    of_d, of_s, slope, more = (2 / q.aa).sqrt()[0], (2 / q.stiffness).sqrt()[0], (q.ab / q.aa)[0], (1 / q.stiffness)[0]
    values = torch.cat([skins.coordinates, skins.colours], -1)
    one = torch.stack([torch.ones_like(more), more, 1 / q.aa[0] + slope.square() * more], -1)
    sums = weight @ torch.cat([one, values, values.square()], -1)
    weight *= q.d
    specular, slid = (u @ torch.stack([of_s, of_s * slope], -1)).unbind(-1)
    diffuse = weight @ of_d - slid
    twice = 2 * (q.z * u) @ torch.stack([more, slope.square() * more], -1)
    squares = twice + sums[:, 1:3]
    squares[:, 1] += (weight * q.d) @ of_d.square() - 2 * (u * q.d) @ (of_d * of_s * slope)
    shadings = torch.stack([diffuse, specular, squares[:, 1], squares[:, 0]], -1).clamp_min(0)
    found = torch.cat([sums[:, 3:5], shadings[:, :2], sums[:, 5:10], shadings[:, 2:], sums[:, 10:]], -1)
    return found / sums[:, :1]


def likelihood(q: _Quadratic, log_prior: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(..., n, M) of colour and skin together, over exp of (..., n, 1), but for a constant of the colour's.

    With it what :func:`_tail` gives of z, and exp(−z²) where z > 0.
    """
    square = q.z.clamp_min(0).square_()
    log = q.d.square().add_(square).add_(log_prior - 0.5 * (q.aa * q.stiffness).log())
    top = log.amax(-1, keepdim=True)
    fall = square.clamp_max_(DEEP).neg_().exp_()
    tail = _tail(q.z, fall)
    return log.sub_(top).clamp_min_(-DEEP).exp_().mul_(tail), top, tail, fall


def _tail(z: Tensor, fall: Tensor) -> Tensor:
    """½ erfc(−z), of z < 0 times exp(z²), within 5e-6 of its value; ``fall`` is exp(−z²) where z > 0, else 1.

    By a polynomial in 1/(1 + 0.55 |z|) fitted for that, many times as fast as :mod:`torch.special`, and
    :func:`torch.where` would take longer than all of it.
    """
    t = z.abs().mul_(0.55).add_(1).reciprocal_()
    h = t * _ERFCX[-1]
    for factor in _ERFCX[-2::-1]:
        h.add_(factor).mul_(t)
    return h.mul_(fall).neg_().add_(0.5).copysign_(z).add_(0.5)


_ERFCX = (0.15515208, 0.15509397, 0.13335847, 0.06931209, 0.08858308, -0.15091924, 0.04942167)


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
    """Of what was found in the masks, (n, 7 or 14): coordinates, shadings, albedo, and deviations where known."""
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

    Those of the pigments are the coordinate's times the slope of the fraction (:func:`bioface.skin.table_fraction`).
    """
    roots = [(v / top).clip(1e-6) ** (1 / 3) for v, top in zip(fractions(maps[..., :2]), _TOPS, strict=True)]
    pigments = [maps[..., 7 + i] * (1.485 * _TOPS[i] * roots[i] ** 2) for i in (0, 1)]
    values = *pigments, maps[..., 9], maps[..., 10], maps[..., 11:]
    return dict(zip(DEVIATIONS, values, strict=True))


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
