"""What is painted on a head: melanin and haemoglobin of the skin, hair, eyes.

Everything is a function of a point of the *neutral* head (see :mod:`bioface.datasets.heads`), so that lips
stay on the lips whoever the person is and however the head is turned. Distances are decimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bioface.datasets.heads import Hits, Shape

MELANIN_RANGE = (0.013, 0.43)  #: the paper's range; maps stay inside
HAEMOGLOBIN_RANGE = (0.005, 0.07)  #: the table's upper end; the paper's lower end, 0.02, cuts off pale skin

#: What a sample of the image shows. Only FACE counts for the mask; SKIN is ears, neck and scalp.
BACKGROUND, SKIN, FACE, HAIR, SCLERA, IRIS, PUPIL, LASHES, MOUTH = range(9)

EYE = (0.308, 7.284, 1.245)  #: centre of the eyeball at x > 0
EYE_RADIUS = 0.147
LIPS = (0.262, 6.61)  #: half width of the mouth, height of the line between the lips

# Hair covers what lies behind z at height y: sideburn, temple, forehead. The face's mask ends at the same line.
_HAIRLINE_Y = (6.95, 7.20, 7.45, 7.60, 7.75, 7.86, 7.93)
_HAIRLINE_Z = (0.70, 0.76, 0.86, 0.99, 1.12, 1.28, 1.60)


def _step(distance: np.ndarray, softness: float) -> np.ndarray:
    """Smooth 0 → 1 where ``distance`` passes 0."""
    return 0.5 + 0.5 * np.tanh(distance / softness)


def _blob(P: np.ndarray, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Gaussian around ``centre`` and its mirror image; 1 at the centre."""
    d = (np.abs(P[..., 0]) - centre[0]) / radii[0]
    return np.exp(-0.5 * (d**2 + ((P[..., 1] - centre[1]) / radii[1]) ** 2 + ((P[..., 2] - centre[2]) / radii[2]) ** 2))


@dataclass(frozen=True)
class Noise:
    """A smooth random function of a point, zero mean, unit variance: a sum of cosines of random waves."""

    waves: np.ndarray  # (K, 3)
    phases: np.ndarray  # (K,)

    @classmethod
    def draw(cls, rng: np.random.Generator, length: float, terms: int = 12) -> Noise:
        """``length``: distance over which it changes, dm."""
        return cls(rng.normal(0, 1 / length, (terms, 3)), rng.uniform(0, 2 * np.pi, terms))

    def __call__(self, P: np.ndarray) -> np.ndarray:
        """(...) values at points (..., 3)."""
        x, y, z = (P[..., k].astype(np.float32) for k in range(3))  # single precision: four times faster
        total = np.zeros(P.shape[:-1], np.float32)
        for wave, phase in zip(self.waves.astype(np.float32), self.phases.astype(np.float32), strict=True):
            total += np.cos(x * wave[0] + y * wave[1] + z * wave[2] + phase)
        return total * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Complexion:
    """How one person is coloured; strengths are logarithms, lengths dm."""

    melanin: float  # base volume fractions
    haemoglobin: float
    broad: Noise  # smooth variation of melanin
    fine: Noise
    blotches: Noise  # of haemoglobin
    flush: float  # strength of red cheeks and nose
    lips: float  # how far their haemoglobin goes towards 7 %
    lips_melanin: float  # factor on their melanin
    shadows: float  # strength of the darkness around the eyes
    spots: np.ndarray  # (K, 3) places of freckles and moles
    spot_sizes: np.ndarray  # (K,) radii
    spot_strengths: np.ndarray  # (K,)
    brow: float  # melanin of the brows
    brow_height: float  # shift
    brow_thickness: float  # half of it
    brow_cover: float  # 0–1
    beard: float  # melanin added by stubble
    hairline: float  # how far it has receded (negative: low); infinite for a bald head
    hair_volume: float  # how far hair stands off the scalp
    hair_behind: float  # and off the neck (long hair)
    hair: np.ndarray  # linear RGB reflectance
    iris: np.ndarray  # the same
    lashes: float  # thickness of the dark line of the upper lid
    gaze: np.ndarray  # (2,) shift of the irises


#: Linear RGB reflectance of hair from black to blond, then grey; and of irises from dark brown to blue.
HAIR_COLOURS = np.array([[0.018, 0.015, 0.014], [0.035, 0.022, 0.015], [0.10, 0.055, 0.028], [0.30, 0.20, 0.10]])
GREY_HAIR = np.array([0.35, 0.34, 0.33])
IRIS_COLOURS = np.array([[0.030, 0.016, 0.010], [0.075, 0.040, 0.020], [0.11, 0.11, 0.06], [0.10, 0.15, 0.20]])


def draw_complexion(rng: np.random.Generator, shape: Shape, melanin: float, haemoglobin: float) -> Complexion:
    """Colour a person of a given shape and base skin; light hair and eyes only come with light skin."""
    light = float(np.clip((0.05 - melanin) / 0.035, 0, 1))
    european = light * shape.ancestry[2]
    shade = float(np.clip(rng.beta(1.3, 2.0) * 3.4 * european, 0, 2.999))  # along HAIR_COLOURS
    hair = HAIR_COLOURS[int(shade)] * (1 - shade % 1) + HAIR_COLOURS[min(int(shade) + 1, 3)] * (shade % 1)
    grey = float(np.clip((shape.old - rng.uniform(0.45, 1.0)) * 3, 0, 1))
    eyes = float(np.clip(rng.uniform(0, 3.6) * european + rng.uniform(0, 0.6), 0, 2.999))
    iris = IRIS_COLOURS[int(eyes)] * (1 - eyes % 1) + IRIS_COLOURS[min(int(eyes) + 1, 3)] * (eyes % 1)
    man = shape.male > 0.5

    freckled = rng.random() < 0.15 + 0.35 * european
    n_freckles = int(rng.integers(25, 90)) if freckled else 0
    n_moles = int(rng.poisson(0.6 + 1.5 * shape.old))
    # freckles gather on cheeks and nose, moles and age spots are anywhere on the front of the face
    freckles = rng.normal((0, 7.0, 1.45), (0.30, 0.13, 0.05), (n_freckles, 3))
    moles = rng.uniform((-0.55, 6.3, 1.2), (0.55, 7.8, 1.5), (n_moles, 3))
    sizes = np.concatenate([rng.uniform(0.007, 0.015, n_freckles), rng.uniform(0.008, 0.018, n_moles)])
    strengths = np.concatenate([rng.uniform(0.2, 0.7, n_freckles), rng.uniform(0.4, 1.3, n_moles)])

    stubble = man and rng.random() < 0.6
    return Complexion(
        melanin=melanin,
        haemoglobin=haemoglobin,
        broad=Noise.draw(rng, 0.30),
        fine=Noise.draw(rng, 0.07),
        blotches=Noise.draw(rng, 0.16),
        flush=rng.uniform(0.05, 0.40) + 0.2 * european * rng.random(),
        lips=rng.uniform(0.50, 0.95),
        lips_melanin=rng.uniform(0.8, 1.1) + 0.35 * light,
        shadows=rng.uniform(0, 0.35) + 0.2 * shape.old,
        spots=np.concatenate([freckles, moles]),
        spot_sizes=sizes,
        spot_strengths=strengths,
        brow=float(np.interp(shade + 1.2 * grey, (0, 1, 2, 3, 4.2), (0.43, 0.42, 0.36, 0.24, 0.20))),
        brow_height=rng.normal(0, 0.015),
        brow_thickness=rng.uniform(0.030, 0.042) if man else rng.uniform(0.020, 0.032),
        brow_cover=rng.uniform(0.65, 0.95),
        beard=rng.gamma(2.0, 0.012) if stubble else 0.0,
        hairline=np.inf
        if man and rng.random() < 0.10 + 0.25 * shape.old
        else rng.normal(0.0, 0.03) + man * rng.exponential(0.05) * shape.old,
        hair_volume=rng.uniform(0.02, 0.10) if man else rng.uniform(0.06, 0.16),
        hair_behind=0.0 if man or rng.random() < 0.2 else rng.uniform(0.30, 0.50),
        hair=hair * (1 - grey) + GREY_HAIR * grey,
        iris=iris,
        lashes=rng.uniform(0.004, 0.012) if man else rng.uniform(0.010, 0.022),
        gaze=rng.normal(0, (0.012, 0.006)),
    )


def hairline_depth(P: np.ndarray, receded: float = 0.0) -> np.ndarray:
    """How far a point lies in front of the hairline, dm; negative under the hair."""
    return P[..., 2] - np.interp(P[..., 1] - receded, _HAIRLINE_Y, _HAIRLINE_Z)


def under_hair(P: np.ndarray, c: Complexion) -> np.ndarray:
    """True where hair grows: behind the hairline above the ears, and behind the neck when it is long."""
    if not np.isfinite(c.hairline):
        return np.zeros(P.shape[:-1], bool)
    grows = (P[..., 1] > 7.15) & (hairline_depth(P, c.hairline) < 0.015 * c.fine(P))
    if c.hair_behind > 0:
        grows |= (P[..., 2] < 0.30) & (P[..., 1] < 7.3)
    return grows


def with_hair(vertices: np.ndarray, normals: np.ndarray, neutral: np.ndarray, c: Complexion) -> np.ndarray:
    """Vertices (V, 3) of a head whose hair stands off the scalp; the face itself does not move.

    ``normals`` (V, 3) are the head's, ``neutral`` (V, 3) the vertices of the neutral head.
    """
    if not np.isfinite(c.hairline):
        return vertices
    depth = -hairline_depth(neutral, c.hairline)
    ear = (np.abs(neutral[:, 0]) > 0.70) & (neutral[:, 2] > 0.25) & (neutral[:, 2] < 0.72) & (neutral[:, 1] < 7.42)
    rise = ((depth - 0.02) / 0.15).clip(0, 1) * ((neutral[:, 1] - 7.15) / 0.1).clip(0, 1) * ~ear
    stand = c.hair_volume * rise * (1 + 0.25 * c.broad(neutral)).clip(0.3)
    behind = ((0.35 - neutral[:, 2]) / 0.15).clip(0, 1) * ((7.5 - neutral[:, 1]) / 0.3).clip(0, 1)
    stand = np.maximum(stand, c.hair_behind * behind)
    return vertices + stand[:, None] * normals


def on_face(P: np.ndarray) -> np.ndarray:
    """True on the region that a face model covers: hairline to jaw, up to the ears; no mouth, no nostrils."""
    x, y, z = np.abs(P[..., 0]), P[..., 1], P[..., 2]
    jaw = 6.20 + 0.56 * (1.32 - z).clip(0)
    return (z > 0.72) & (hairline_depth(P) > 0) & (y > jaw) & (x < 0.735) & ~in_mouth(P) & ~in_nostril(P)


def in_mouth(P: np.ndarray) -> np.ndarray:
    """True behind the lips."""
    x = np.abs(P[..., 0])
    gap = np.abs(P[..., 1] - LIPS[1])
    edge = np.where(gap < 0.03, 1.548, 1.535) - 2.6 * x**2  # the lips' inner edge, curved like the teeth
    return (P[..., 2] < edge) & (x < LIPS[0]) & (gap < 0.115) & (P[..., 2] > 0.7)


def in_nostril(P: np.ndarray) -> np.ndarray:
    """True inside the nose."""
    return (np.abs(P[..., 0]) < 0.14) & (np.abs(P[..., 1] - 6.92) < 0.10) & (P[..., 2] < 1.42)


def lips(P: np.ndarray) -> np.ndarray:
    """1 on the lips, 0 elsewhere, soft at the rim."""
    x, y = np.abs(P[..., 0]) / LIPS[0], P[..., 1] - LIPS[1]
    rim = np.sqrt((1 - x**2).clip(0))
    upper = 0.092 * rim**0.9 - 0.014 * np.exp(-((x / 0.09) ** 2))  # the dip is Cupid's bow
    lower = 0.112 * rim
    inside = np.where(y > 0, upper - y, lower + y)
    return _step(inside, 0.012) * _step(P[..., 2] - 1.30, 0.02) * (x < 1.05)


def brows(P: np.ndarray, height: float, thickness: float) -> np.ndarray:
    """1 on the brows, 0 elsewhere, frayed at the ends."""
    x, y = np.abs(P[..., 0]), P[..., 1]
    t = (x - 0.115) / 0.41  # 0 at the nose, 1 at the temple
    arc = 7.415 + height + 0.080 * np.sin(np.pi * np.clip(0.25 + 0.60 * t, 0, 1))
    half = thickness * np.interp(t, (0, 0.15, 0.6, 1), (0.85, 1.0, 0.8, 0.25))
    ends = _step(t, 0.05) * _step(1 - t, 0.06)
    return _step(half - np.abs(y - arc), 0.010) * ends * (P[..., 2] > 0.9)


def beard(P: np.ndarray) -> np.ndarray:
    """1 where a beard grows, 0 elsewhere: jaw, chin and above the upper lip."""
    x, y = np.abs(P[..., 0]), P[..., 1]
    edge = np.interp(x, (0, 0.20, 0.30, 0.36, 0.58, 0.70), (6.84, 6.79, 6.70, 6.69, 6.86, 6.97))
    below_lip = _blob(P, (0.09, 6.475, 1.47), (0.07, 0.02, 0.2))
    philtrum = 0.5 * _blob(P, (0.0, 6.76, 1.56), (0.025, 0.05, 0.2))
    return _step(edge - y, 0.04) * (1 - lips(P)) * (1 - 0.7 * below_lip) * (1 - philtrum)


def pigments(P: np.ndarray, c: Complexion) -> tuple[np.ndarray, np.ndarray]:
    """Melanin and haemoglobin (volume fractions) of the skin at points P (..., 3)."""
    # a person's skin varies by tens of per cent, so everything multiplies: sums of logarithms
    fine = c.fine(P)
    m = 0.09 * c.broad(P) + 0.05 * fine
    m += c.shadows * (
        _blob(P, (0.30, 7.19, 1.3), (0.13, 0.05, 0.3)) + 0.6 * _blob(P, (0.30, 7.37, 1.3), (0.15, 0.04, 0.3))
    )
    m += 0.10 * _step(P[..., 1] - 7.55, 0.12)  # foreheads see more sun
    near = [k for k, s in enumerate(c.spots) if abs(s[0]) < 0.7]
    for k in near:
        d2 = ((P[..., :2] - c.spots[k, :2]) ** 2).sum(-1)
        m += c.spot_strengths[k] * np.exp(-0.5 * d2 / c.spot_sizes[k] ** 2) * (P[..., 2] > 1.0)
    on_lips = lips(P)
    melanin = c.melanin * np.exp(m) * (1 + (c.lips_melanin - 1) * on_lips)

    h = 0.08 * c.blotches(P)
    h += c.flush * (
        _blob(P, (0.36, 6.98, 1.3), (0.13, 0.13, 0.4)) + 0.9 * _blob(P, (0.0, 6.94, 1.62), (0.12, 0.10, 0.2))
    )
    h += 0.5 * c.flush * (P[..., 2] < 0.72)  # ears
    haemoglobin = c.haemoglobin * np.exp(h)
    haemoglobin += c.lips * on_lips * (HAEMOGLOBIN_RANGE[1] - haemoglobin)

    if c.beard > 0:
        melanin = melanin + c.beard * beard(P) * (1 + 0.25 * fine).clip(0.4)
    cover = c.brow_cover * brows(P, c.brow_height, c.brow_thickness) * (1 + 0.15 * fine).clip(0, 1.05)
    melanin = melanin + cover * (np.maximum(c.brow, melanin) - melanin)
    return melanin.clip(*MELANIN_RANGE), haemoglobin.clip(*HAEMOGLOBIN_RANGE)


def parts(hits: Hits, c: Complexion) -> np.ndarray:
    """What every sample shows: one of BACKGROUND … MOUTH, (n, n) uint8."""
    P, eye = hits.neutral[hits.hit], hits.eye[hits.hit]  # (h, 3), (h,)
    x, y, z = np.abs(P[:, 0]), P[:, 1], P[:, 2]
    shown = np.full(len(P), SKIN, np.uint8)
    shown[on_face(P)] = FACE
    ear = (x > 0.735) & (z > 0.30) & (z < 0.70) & (y < 7.40)
    shown[under_hair(P, c) & ~ear] = HAIR
    shown[in_mouth(P) | in_nostril(P)] = MOUTH
    # the upper lid's rim: a band just outside of the opening of the eye
    along, above = (x - 0.325) / 0.135, y - 7.285
    rim = 0.048 * np.sqrt((1 - along**2).clip(0))
    shown[(above > 0) & (above > rim - 0.004) & (above < rim + c.lashes) & (np.abs(along) < 1) & (z > 1.1)] = LASHES
    from_axis = np.hypot(P[:, 0] - np.sign(P[:, 0]) * EYE[0] - c.gaze[0], y - EYE[1] - 0.006 - c.gaze[1])
    shown[eye] = SCLERA
    shown[eye & (from_axis < 0.50 * EYE_RADIUS)] = IRIS
    shown[eye & (from_axis < 0.20 * EYE_RADIUS)] = PUPIL
    out = np.full(hits.hit.shape, BACKGROUND, np.uint8)
    out[hits.hit] = shown
    return out
