"""A whole face taken apart by Bayes' rule: its pixels share a camera, a light, an exposure and a person's skin.

What they share is found on a sample of pixels (:class:`Scene`). From then on every map is a function of a pixel's three
colours alone: it is tabulated over log RGB and looked up, so that a photo of any size costs little more than a small
one. Shading is smooth, pigment need not be: a smooth field of shading is fitted to a first answer, leaving out what is
darker than its surroundings, the photo is divided by it, and what is left of the shading is held close to even. So a
brow is pigment, not shadow.

References
----------
Tsumura et al. (2003), "Image-based skin color and texture analysis/synthesis by extracting hemoglobin and melanin
information in the skin", SIGGRAPH: shading taken out of the log colours of a face.
Barron & Malik (2015), "Shape, illumination, and reflectance from shading", PAMI 37: a prior on each of them.
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

from bioface import bayes, colour_table, pictures, threads
from bioface.arrays import extent, torch_as_it_starts
from bioface.bayes import GRID, NEGLIGIBLE, Prior, _Quadratic, _Skins
from bioface.maps import Decomposition, checked_mask

EXPOSURES = (-2.0, 0.6)  #: octaves around the prior's mean shading within which a photo's exposure is drawn
DRAWS = 256  #: cameras, lights and exposures that a photo is held against

#: Deviation of a colour from the model's, noise apart, in brightnesses of the face, and how many independent pixels a
#: face counts for: neighbours say the same again, and no law of theirs is the true one.
SIGMA, COUNTS = 0.008, 4.0
EVERY, ROUGH = 2, 4  # of GRID, along both pigments, whose skins are judged by, and at a rough look
UNLIKELY = 1e-5  # share of the likeliest person, from which on people are left out at that look
TOGETHER = 8  # draws: the working arrays (draws × pixels × skins) stay in the processor's cache
LOOKED_AT = 128  # pixels of a face, evenly over its mask, that judge: so many that which they are matters little
REPRESENTATIVES = 4, 2  # draws under which all pixels are inverted, and those that do for highlights alone
BASE_STEP = 2  # steps of GRID from one person's skin to the next that is tried
STRANGE = 0.02  # share of pixels that are not like the person's skin: moles, brows, lips
WIDTH = 0.07  # of the shading's field, standard deviation of its low pass, in roots of the face's area
OUTLIER = 0.1  # of log shading: pixels this far from the field count half
#: Deviation of what the field leaves of the shading, of its mean. Chosen on validation faces of the twin (seed 71),
#: darker, painted with measured spectra and JPEG, by all errors as shares of a constant's: 0.70 at 0.07, 0.67 at 0.10.
#: At 0.14 a pigmented patch of a light-stage face would pass for shadow, so that face had a say.
LEFT = 0.1
#: A tone curve x − a sin 2πx of display values that a photo may have: the first |a| that is tried, and by how many nats
#: one has to be better than none: "very strong" evidence (Kass & Raftery 1995, "Bayes factors"). On 16 validation faces
#: of the twin (seed 71) of each kind 10 of those with a curve of ± 0.08 are better by more, of others 2 JPEG files.
MILD, CURVED = 0.04, 5.0
QUIET = 0.006  # noise, linear RGB, down to which that picture is averaged, but for 20 pixels
SIDE = 96  # pixels of the longer side of the picture that the field is fitted to
#: Highlights, in brightnesses of the skin below, at which a pixel counts half for the fields, and share of what is
#: around it below which skin under them does not fall. On 8 such faces of each of four kinds the error hardly depends
#: on either: 0.567, 0.563, 0.561 at 0.1, 0.2, 0.4; 0.564, 0.563, 0.562, 0.563 at 0.7, 0.85, 0.95, 1.05.
SHINY, EVEN = 0.2, 0.85
#: What deviations of coordinates, shadings and albedo are multiplied by, for no law is the true one: observed over
#: predicted on 16 such faces of five kinds (usual, darker, measured spectra, JPEG, noise), geometric means.
TRUER = (1.66, 1.25, 1.78, 1.29, 1.71, 1.71, 1.71)


_Drawn = tuple[float, _Skins, Prior]  # what a draw stands for, its share, and what it knows of a face


@torch_as_it_starts()
@torch.no_grad()
def image_posterior(
    images: np.ndarray,
    mask: np.ndarray,
    prior: Prior,
    camera_b: np.ndarray,
    illuminant: np.ndarray,
    exposure: np.ndarray,
) -> Decomposition:
    """The expectation of every map, and its standard deviation, where the pixels of a face share what they do share.

    A face is seen by one of n cameras and lights with an exposure, all equally likely beforehand, and is one person's,
    whose skin u follows the law of the faces' medians; its pixels scatter around u, independently, by the law of the
    training faces, but for a share of strangers (:data:`STRANGE`), which are any skin. Each draw j and skin u is as
    likely as the photo's colours c under them,

        log w(j, u) = log p(u) + κ · mean over pixels of log Σ_skins p(skin | u) p(c | skin, j),

    where κ is how many pixels a face counts for (:data:`COUNTS`) and p(c | skin, j) has the shadings integrated out as
    in :func:`bioface.bayes.posterior_mean`, with shadings exposure times the prior's. Maps are those of that function
    under draw j and the skins Σ_u w(u | j) p(skin | u), averaged over j; a few of them that stand for all
    (:data:`REPRESENTATIVES`). Deviations take in how much those differ. A tone curve of which there is very strong
    evidence (:data:`CURVED`) is undone before: maps and reconstruction are those of the light before it.

    Parameters
    ----------
    images : (N, H, W, 3) linear RGB
    mask : (N, H, W) bool
    prior : what is known of faces
    camera_b, illuminant, exposure : (n, 2), (n, 33), (n,) > 0, draws, the same for all faces. 64 do nearly as well as
        192, and a single one is what is known. Exposures are taken for even draws of their logarithm, and brought into
        the part of their range that a photo leaves

    Returns
    -------
    with each face's ``camera_b``, ``illuminant`` and ``exposure`` their expectation over all draws

    Raises
    ------
    BiofaceError : shapes that do not agree, no face, an empty mask, NaN or infinity inside it
    """
    mask = checked_mask(images, mask)
    scene = Scene(prior, camera_b, illuminant, exposure)
    looks = [scene.look(np.asarray(i, np.float32), m) for i, m in zip(images, mask, strict=True)]
    found = [look.maps(i, m)[m] for look, i, m in zip(looks, images, mask, strict=True)]
    b, e, f = (np.stack([getattr(look, name) for look in looks]) for name in ("camera_b", "illuminant", "exposure"))
    return bayes.decomposed([torch.from_numpy(v) for v in found], prior, b, e, images, mask, f)


class Scene:
    """What faces may be: a prior, and draws of cameras, lights and exposures; see :func:`image_posterior`."""

    def __init__(self, prior: Prior, camera_b: np.ndarray, illuminant: np.ndarray, exposure: np.ndarray):
        self.prior = prior
        self.camera_b, self.illuminant, self.exposure = (
            np.asarray(v, np.float32) for v in (camera_b, illuminant, exposure)
        )
        self.skins = _Skins.every(self.camera_b, self.illuminant)
        # skins that a person may have: coordinates (U, 2), log prior (U,), and scatter over all skins (U, M)
        points = BASE_STEP * np.argwhere(prior.base[::BASE_STEP, ::BASE_STEP] > -NEGLIGIBLE)
        self.people = torch.from_numpy(2 * points / (GRID - 1) - 1).float()
        self.log_people = torch.from_numpy(prior.base[tuple(points.T)]).log_softmax(0).float()
        to = np.rint((self.skins.coordinates.numpy() + 1) / 2 * (GRID - 1)).astype(int)
        steps = to - points[:, None] + GRID - 1  # (U, M, 2)
        self.scatter = torch.from_numpy(prior.scatter[steps[..., 0], steps[..., 1]]).softmax(-1).float()
        self.any_skin = torch.from_numpy(prior.law).flatten().float().softmax(0)

    @torch.no_grad()
    def look(self, image: np.ndarray, mask: np.ndarray, margin: float = 0.0) -> Look:
        """Find what the pixels of a face share: linear RGB (H, W, 3) float32, mask (H, W).

        The maps can be had up to ``margin`` sides of the mask beyond it.
        """
        noise = noise_of(image, mask)
        small = _Small.of(image, mask, margin, noise)
        judges = np.unique(np.linspace(0, small.mask.sum() - 1, LOOKED_AT).astype(int))
        tone, exposure, people = self._narrowed(small.image[small.mask][judges], noise / small.step)
        small = dataclasses.replace(small, image=colour_table.straightened(small.image, tone)[0])
        colours = torch.from_numpy(small.image[small.mask])
        some, typical = colours[judges], _typical(colours)
        sigma = math.hypot(SIGMA * typical, noise / small.step)
        weight = self.log_weights(some, sigma, typical, exposure, people, EVERY)
        weight = weight.flatten().softmax(0).view(weight.shape)
        of_draw = weight.sum(1)
        persons = (weight @ self.people[people]) / of_draw.clamp_min(1e-30)[:, None]
        says = torch.cat([torch.from_numpy(exposure).float().log()[:, None], persons], -1)

        def stand_in(j: int, share: float) -> _Drawn:
            law = (1 - STRANGE) * (weight[j] / of_draw[j] @ self.scatter[people]) + STRANGE * self.any_skin
            return share, self.skins.under_draw(j).with_law(law.log()), self.prior.exposed(float(exposure[j]))

        chosen, few = ([stand_in(*of) for of in representatives(of_draw, says, n)] for n in REPRESENTATIVES)
        b, e = (of_draw.numpy() @ v for v in (self.camera_b, self.illuminant))
        exposed = np.asarray(np.exp(of_draw.numpy() @ np.log(exposure)), np.float32)
        expected = functools.partial(_expected, typical=typical)
        sigma_here = math.hypot(SIGMA * typical, noise)
        plain = functools.partial(expected, chosen=few, sigma=sigma_here)  # these do for highlights
        first = colour_table.looked_up(colours, functools.partial(expected, chosen=few, sigma=sigma), 1.5)
        field, skin = _fields(first, small.mask)
        even = some / torch.from_numpy(field[small.mask][judges])[:, None]
        left = math.hypot(LEFT, noise / max(float(colours.mean(0).norm()), colour_table.DARKEST))
        held = [(n, s, _held(p, even, s, sigma, typical, left)) for n, s, p in chosen]
        smoothed = functools.partial(expected, chosen=held, sigma=sigma_here)
        return Look(b, e, exposed, tone, mask.shape, small, field, skin, first.median(0).values, smoothed, plain)

    def _narrowed(self, colours: np.ndarray, noise: float) -> tuple[float, np.ndarray, Tensor]:
        """What a rough look at a few colours leaves: tone curve, exposures in a part of their range, and who it may be.

        There the draws do not thin out. They count as even in their logarithm before and after. People by number.
        """

        def seen_by(tone: float) -> tuple[float, Tensor]:
            straight, slope = (torch.from_numpy(v) for v in colour_table.straightened(colours, tone))
            typical = _typical(straight)
            sigma = math.hypot(SIGMA * typical, noise)
            logs = self.log_weights(straight, sigma, typical, self.exposure, torch.arange(len(self.people)), ROUGH)
            apart = (slope.log() - 0.5 * (straight / sigma).square()).sum(-1).mean() - 3 * math.log(sigma)
            return float(logs.flatten().logsumexp(0) + COUNTS * apart) - CURVED * (tone != 0), logs

        found = {tone: seen_by(tone) for tone in (0.0, MILD, -MILD)}
        side = max(found, key=lambda tone: found[tone][0])
        tries = [found[0.0], found[side], seen_by(2 * side)] if side else [found[0.0]]
        likely = torch.tensor([gain for gain, _ in tries])
        tone, logs = side * float(likely.softmax(0) @ torch.arange(float(len(tries)))), tries[int(likely.argmax())][1]
        weight, log_f = logs.flatten().softmax(0).view(logs.shape), np.log(self.exposure)
        people = (weight.sum(0) > UNLIKELY * weight.sum(0).max()).nonzero()[:, 0]
        of_draw = weight.sum(1).numpy()
        low, high = log_f.min(), log_f.max()
        mean = of_draw @ log_f
        reach = 3 * max(math.sqrt(of_draw @ (log_f - mean) ** 2), 0.1)
        if high - low <= 2 * reach:
            return tone, self.exposure, people
        start, end = max(low, mean - reach), min(high, mean + reach)
        return tone, np.exp(start + (log_f - low) / (high - low) * (end - start)), people

    def log_weights(
        self, colours: Tensor, sigma: float, typical: float, exposure: np.ndarray, people: Tensor, every: int
    ) -> Tensor:
        """(draws, U) but for a constant, how likely each draw and person's skin, all or some, are given colours (n, 3).

        By every so many skins of the grid, those that one of the people has.
        """
        some = torch.arange(GRID**2).view(GRID, GRID)[::every, ::every].flatten()
        some = some[self.scatter[people][:, some].amax(0) > 1e-7]
        scatter = self.scatter[people][:, some]
        scatter = (scatter / scatter.sum(-1, keepdim=True)).T.contiguous()
        f = torch.from_numpy(exposure).float()
        judged = self.skins[some]

        def mean_log(draws: Tensor) -> Tensor:
            q = _Quadratic.of(colours, judged.under_draw(draws), self.prior, sigma, typical, f[draws])
            found, top, _, _ = bayes.likelihood(q, torch.zeros(()))
            return ((found @ scatter).clamp_min_(1e-30).log_() + top).mean(-2) - 2 * f[draws, None].log()

        logs = torch.cat(list(threads.blocks(mean_log, torch.arange(len(f)).split(TOGETHER))))
        return self.log_people[people] + COUNTS * logs


def _typical(colours: Tensor) -> float:
    return float(colours.mean(-1).median().clamp_min(colour_table.DARKEST))


def representatives(weight: Tensor, values: Tensor, count: int) -> list[tuple[int, float]]:
    """Which draws (n,) stand for all, and for what share of the weight each: those in the middle of ``count`` clusters.

    Clusters in ``values`` (n, k), what the draws say of the face, in its standard deviations (Lloyd's k-means).
    """
    values = values - weight @ values
    values = values / (weight @ values.square()).sqrt().clamp_min(1e-6)
    order = values[:, -1].argsort(stable=True)
    which = torch.empty_like(order)
    which[order] = (weight[order].cumsum(0) * count).long().clamp_max(count - 1)

    def clusters(which: Tensor) -> tuple[Tensor, Tensor]:
        inside = weight * (which == torch.arange(count)[:, None])  # (count, n)
        inside = inside[inside.sum(1) > 1e-6]
        return inside, torch.cdist(inside @ values / inside.sum(1, keepdim=True), values)

    inside, away = clusters(which)
    for _ in range(4):
        inside, away = clusters(away.argmin(0))
    unlikely = inside <= 0.02 * inside.amax(1, keepdim=True)  # of its own cluster, and those of others
    middle = away.masked_fill(unlikely, torch.inf).argmin(1)
    return list(zip(middle.tolist(), inside.sum(1).tolist(), strict=True))


def _expected(colours: Tensor, chosen: list[_Drawn], sigma: float, typical: float) -> Tensor:
    """(n, 14) expectations and deviations of colours (n, 3) under some draws."""

    def average(some: Tensor) -> Tensor:
        under = (share * bayes.expected(_Quadratic.of(some, s, p, sigma, typical), s) for share, s, p in chosen)
        return bayes.with_deviations(sum(under, torch.zeros(())) / sum(share for share, _, _ in chosen))

    return torch.cat(list(threads.blocks(average, colours.split(bayes.CHUNK))))


def _held(prior: Prior, colours: Tensor, skins: _Skins, sigma: float, typical: float, left: float) -> Prior:
    """The prior with shadings close to the median that colours (n, 3), already divided by the field, have under it."""
    level = float(bayes.expected(_Quadratic.of(colours, skins, prior, sigma, typical), skins)[:, 2].median())
    level = max(level, 0.02 * prior.diffuse)  # of what is no skin
    return dataclasses.replace(prior, diffuse=level, diffuse_deviation=left * level)


def noise_of(image: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the noise of a photo (H, W, 3) inside its mask: of second differences along some rows.

    Of each only what is across the mean colour: shading, so pores and wrinkles, is along it. Their median is hardly
    moved by what else is in the picture: edges are few.
    """
    rows = slice(None, None, max(1, len(mask) // 256))
    inside = mask[rows, :-2] & mask[rows, 1:-1] & mask[rows, 2:]
    if not inside.any():
        return 0.0
    second = (image[rows, :-2] - 2 * image[rows, 1:-1] + image[rows, 2:])[inside]
    along = image[rows, 1:-1][inside].mean(0)
    along /= max(float(np.linalg.norm(along)), 1e-6)
    across = second - (second @ along)[:, None] * along
    return float(np.median(np.linalg.norm(across, axis=1))) / (1.1774 * 6**0.5)  # the median of a Rayleigh law


# --- the field of shading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Small:
    """A face in few pixels: image (h, w, 3), mask (h, w); the box of the photo that it is, and its step in pixels."""

    image: np.ndarray
    mask: np.ndarray
    box: tuple[slice, slice]
    step: float

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray, margin: float, noise: float) -> _Small:
        face = extent(mask)
        beyond = math.ceil(margin * max(mask[face].shape))
        lines = zip(face, mask.shape, strict=True)
        rows, columns = (slice(max(0, line.start - beyond), min(n, line.stop + beyond)) for line, n in lines)
        box = rows, columns
        sides = mask[box].shape
        step = max(1.0, max(sides) / SIDE, min(noise / QUIET, max(sides) / 20))
        if step == 1:
            return cls(image[box], mask[box], box, step)
        down, across = (pictures.windows(n, 0, n / math.ceil(n / step), math.ceil(n / step)) for n in sides)
        share = pictures.resample(mask[box].astype(np.float32), down, across)
        light = pictures.resample(np.where(mask[box][..., None], image[box], 0), down, across)
        small = share >= min(0.5, share.max())
        return cls(light / np.maximum(share, 1e-6)[..., None], small, box, step)

    def enlarged(self, values: np.ndarray) -> np.ndarray:
        """Values (h, w) as large as the box, by linear interpolation."""
        if self.step == 1:
            return values
        sides = [line.stop - line.start for line in self.box]
        over = [pictures.windows(n, 0, n / side, side) for n, side in zip(values.shape, sides, strict=True)]
        return pictures.resample(values, *over)


def _fields(found: Tensor, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth fields (h, w) of maps (n, 14) in a mask (h, w): shading, of mean 1, and how bright skin is by itself."""
    diffuse, shine = found[:, 2].clamp_min(1e-3), found[:, 3]
    lit = diffuse * found[:, 4:7].mean(-1).clamp_min(1e-3)
    matte = 1 / (1 + (shine / (SHINY * lit)).square())
    field, skin = (_smooth(v.numpy(), mask, matte.numpy()) for v in (diffuse.log(), lit.log()))
    return np.exp(field - field[mask].mean()), np.exp(skin)


def _smooth(values: np.ndarray, mask: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A smooth field (h, w) of values (n,) in a mask: a low pass in which what is far from it counts little."""
    width = WIDTH * math.sqrt(mask.sum())
    known, field = np.zeros(mask.shape), np.zeros(mask.shape)
    known[mask] = values
    for n in range(5):
        share = np.zeros(mask.shape)
        share[mask] = weight / (1 + ((values - field[mask]) / OUTLIER) ** 2 * (n > 0))
        over, under = (
            scipy.ndimage.gaussian_filter(v, width, mode="constant", truncate=6) for v in (share * known, share)
        )
        field = over / np.maximum(under, 1e-9)
    return field.astype(np.float32)


# --- a photo looked up -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What a photo says of its face: camera (2,), light (33,), exposure (), tone, and what its maps are looked up with.

    field, skin : (h, w) of the small picture, relative diffuse shading and the brightness of skin without highlights;
    usual : (7,) median of the maps
    """

    camera_b: np.ndarray
    illuminant: np.ndarray
    exposure: np.ndarray
    tone: float
    size: tuple[int, ...]
    small: _Small
    field: np.ndarray
    skin: np.ndarray
    usual: Tensor
    expected: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]

    def region(self, margin: float) -> np.ndarray:
        """(H, W) bool, the mask with what is up to ``margin`` of its sides away."""
        small, found = self.small, np.zeros(self.size, bool)
        reach = margin * max(small.mask[extent(small.mask)].shape)
        near = scipy.ndimage.distance_transform_edt(~small.mask) <= reach + 1
        found[small.box] = small.enlarged(near.astype(np.float32)) > 0.5
        return found

    @torch.no_grad()
    def maps(self, image: np.ndarray, region: np.ndarray) -> np.ndarray:
        """(H, W, 14) coordinates, shadings, albedo and the deviations of all seven in a region (H, W), else NaN.

        Highlights are the weaker ones of the answers with and without the field: with it alone, hair that is greyer
        than skin shines, without it, skin under a highlight is dark.
        """
        box, maps = self.small.box, np.full((*region.shape, 14), np.nan, np.float32)
        inside = region[box]
        field = torch.from_numpy(self.small.enlarged(self.field)[inside])[:, None].clamp_min(1e-3)
        colours = torch.from_numpy(colour_table.straightened(image[box][inside].astype(np.float32), self.tone)[0])
        found = colour_table.looked_up(colours / field, self.expected)
        found[:, [2, 3, 9, 10]] *= field
        other = colour_table.looked_up(colours, lambda some: self.plain(some)[:, [3, 10]])
        found[:, [3, 10]] = torch.where(other[:, :1] < found[:, 3:4], other, found[:, [3, 10]])
        even = EVEN * torch.from_numpy(self.small.enlarged(self.skin)[inside])
        _evened(found, colours.mean(-1), even, self.usual)
        found[:, 7:] *= torch.tensor(TRUER)
        maps[box][inside] = found.numpy()
        return maps


def _evened(found: Tensor, brightness: Tensor, even: Tensor, usual: Tensor) -> None:
    """Highlights (of maps (n, 14), changed in place) so strong that they leave holes, made weaker.

    Where a pixel is brighter than even skin (n,) is around it, and its skin without the highlight darker, the skin is
    as bright as around, and its pigments more and more the face's usual (7,): clipped light tells nothing of them.
    """
    lit = found[:, 2] * found[:, 4:7].mean(-1)
    over = torch.minimum(torch.minimum(even - lit, brightness - even), found[:, 3]).clamp_min(0)
    share = (4 * over / even.clamp_min(1e-4)).clamp_max(1)[:, None]
    for part in (slice(0, 2), slice(4, 7)):
        found[:, part] += share * (usual[part] - found[:, part])
    found[:, 3] -= over
    found[:, 2] = (lit + over) / found[:, 4:7].mean(-1).clamp_min(1e-3)
