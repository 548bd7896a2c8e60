"""One face of the twin: a person, a pose, a light and a camera drawn at random, and the photo that they make.

The photo is what the image formation model makes of the maps: rendering the maps gives the photo back to the last of
its eight bits, where light does not go beyond them. The exposure is drawn, too, :data:`EXPOSURES` octaves around what
a photographer takes, so that the brightness of a face says little of its skin.

The base colours are measured: for every face one of the measured face spectra of a group of people is drawn, of which
the ``layered`` skin model tells the pigments that explain it as it is, brightness and all. Spectra outside
:data:`BASE_MELANIN` and :data:`BASE_HAEMOGLOBIN`, about a tenth, are not drawn: lips, cheeks and brows need room up to
the ends of the tables. One "beyond" in being "measured" reflects as the spectrum itself does.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC: the image formation.
Blinn (1977), "Models of light reflection for computer synthesized pictures".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

from bioface import camera, degradation, illumination, image_formation, skin
from bioface.datasets import heads, painting, skin_spectra

SIZE = 64
SAMPLES = 2  #: rays along a pixel's side
SPLITS = {"train": 1, "validation": 2, "test": 3}  #: the number in the names of the files of each split
BASE_MELANIN = (0.008, 0.36)  #: volume fractions of the spectra that are drawn from; see the module's docstring
BASE_HAEMOGLOBIN = (0.003, 0.045)
#: Octaves around what a photographer takes (:func:`exposure`) that faces are drawn in. Upwards it ends where highlights
#: begin to clip: of the default twin 0.4 % of all pixels of faces do, and in 6 % of faces more than 1 % of the pixels.
EXPOSURES = (-2.0, 0.6)
#: The same of faces "beyond": within that range, where nothing clips, and below it, where no usual face is.
DARKER = {"exposure": (-1.5, 0.0), "dark": (-3.5, -2.0)}
SURFACE = 0.028  #: of light comes back from skin's surface into a sphere: Fresnel at normal incidence, n = 1.4
COVERED = 0.7  #: a pixel belongs to the mask when this share of its rays meets the face

#: Ancestry of the shape (African, Asian, Caucasian concentrations) that goes with the groups of the spectra.
SHAPES = {
    "African": (3.0, 0.3, 0.3),
    "Caucasian": (0.3, 0.3, 3.0),
    "Chinese": (0.3, 3.0, 0.3),
    "Japanese": (0.3, 3.0, 0.3),
    "Middle Eastern (Arabian)": (0.5, 0.5, 2.6),
    "Middle Eastern (Iraqi)": (0.4, 0.5, 2.8),
    "South Asian (Pakistani)": (0.7, 0.9, 2.0),
    "Southeast Asian (Thai)": (0.6, 2.6, 0.4),
}

#: Box of the neutral head that the coordinate map is stored in, as shares of its sides.
COORDINATES = ((-0.9, 5.8, -0.4), (0.9, 8.5, 1.7))


#: What happens to display values of the test faces that go "beyond" in their image chain; the S-curve of every second
#: face is turned round.
CHAINS = {
    "tone": (degradation.Chain(tone=-degradation.TONE), degradation.Chain(tone=degradation.TONE)),
    "jpeg": (degradation.Chain(quality=75),) * 2,
    "noise": (degradation.Chain(noise=degradation.NOISE),) * 2,
}


class Paint(NamedTuple):
    """How a face reflects: as the skin model does, and ``rest`` (33,) more, see :func:`measured_paint`."""

    rest: np.ndarray | float = 0.0

    def reflectance(self, melanin: np.ndarray, haemoglobin: np.ndarray) -> np.ndarray:
        """(..., 33) at volume fractions (...), in their precision; never below 0."""
        model = skin.reflectance(melanin, haemoglobin)
        return (model + np.asarray(self.rest, model.dtype)).clip(0)


@functools.lru_cache(maxsize=1)
def _measured() -> tuple[skin_spectra.SkinSpectra, np.ndarray]:
    """ISSA's face spectra and (n, 2) melanin and haemoglobin of each, by the ``layered`` skin model."""
    return skin_spectra.load("issa"), np.stack(skin_spectra.pigments(), axis=-1)


@functools.lru_cache(maxsize=1)
def base_rows() -> dict[str, np.ndarray]:
    """Which of ISSA's face spectra faces of each group are made from, by number."""
    measured, pairs = _measured()
    low, high = zip(BASE_MELANIN, BASE_HAEMOGLOBIN, strict=True)
    inside = ((pairs >= low) & (pairs <= high)).all(-1)
    return {group: np.flatnonzero(inside & (measured.group == group)) for group in measured.groups}


def measured_paint(row: int) -> Paint:
    """Skin that *is* one of ISSA's face spectra where it has its pigments, and changes from there as the model does.

    The instrument sees the surface, a photo's diffuse reflection does not: :data:`SURFACE` is taken off. What the model
    misses is ``rest``; 710 and 720 nm, which were not measured, have that of 700.
    """
    spectra, pigments = _measured()
    bands, model = len(spectra.wavelengths), skin.reflectance(*pigments[row])
    rest = spectra.reflectance[row] - SURFACE - model[:bands]
    return Paint(np.pad(rest, (0, len(model) - bands), mode="edge"))


def spherical_harmonics(direction: np.ndarray, width: float = 0.0) -> np.ndarray:
    """Coefficients (9,) of a light of unit strength from ``direction`` (3,), blurred by a Gaussian of ``width`` rad.

    >>> normal = np.array([[[0.0, 0.0, 1.0]]])
    >>> light = spherical_harmonics(np.array([0.0, 0.0, 1.0]))
    >>> round(float(illumination.sh_shading(normal, light)[0, 0]), 4)  # the second order overshoots 1 a little
    1.0625
    """
    x, y, z = direction
    strength = np.array([0.282095, *[0.488603] * 3, 1.092548, 1.092548, 0.315392, 1.092548, 0.546274])
    values = strength * (1, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y)
    degree = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])
    return values * np.exp(-0.5 * degree * (degree + 1) * width**2)


@dataclass(frozen=True)
class Light:
    """Before exposure: ``lighting`` (9,), ``key_direction`` (3,), and the highlight's lobes: (strength, exponent)."""

    lighting: np.ndarray
    key_direction: np.ndarray
    lobes: tuple[tuple[float, float], tuple[float, float]]


def draw_light(rng: np.random.Generator, beyond: bool = False) -> Light:
    """A portrait's light: a key light from the front, a side or above, sky, and what the surroundings return.

    With ``beyond`` the key light comes from 75–100° at the side, or from below, 15–45°, where no portrait's does.
    """
    kind = rng.choice(["front", "side", "top"], p=[0.45, 0.40, 0.15])
    azimuth, elevation = {
        "front": (rng.normal(0, 18), rng.uniform(0, 35)),
        "side": (rng.choice([-1, 1]) * rng.uniform(30, 70), rng.uniform(5, 45)),
        "top": (rng.normal(0, 30), rng.uniform(45, 68)),
    }[kind]
    if beyond:
        aside = rng.choice([-1, 1]) * rng.uniform(75, 100), rng.uniform(0, 30)
        below = rng.normal(0, 20), rng.uniform(-45, -15)
        azimuth, elevation = aside if rng.random() < 0.5 else below
    azimuth, elevation = np.deg2rad((azimuth, elevation))
    key = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    strength = rng.uniform(0.45, 0.95)
    width = rng.uniform(0.15, 0.65)
    opposite = np.array([-key[0], 0.2, key[2]])
    lighting = (
        strength * spherical_harmonics(key, width)
        + rng.uniform(0.05, 0.25) * spherical_harmonics(opposite / np.linalg.norm(opposite), 0.8)
        + rng.uniform(0.0, 0.25) * spherical_harmonics(np.array([0.0, 1.0, 0.0]), 0.8)
    )
    lighting[0] += rng.uniform(0.12, 0.35) / 0.886227  # from everywhere; the constant is that of the shading
    # Skin shines in a narrow lobe and in a wide one, the sheen; a wide light makes the narrow one wider.
    narrow = (strength * rng.gamma(3.0, 0.03), rng.uniform(12, 50) * (1 - 0.8 * (width - 0.15)))
    wide = (strength * rng.uniform(0.01, 0.05), rng.uniform(3, 6))
    return Light(lighting, key, (narrow, wide))


def draw_camera_and_illuminant(
    rng: np.random.Generator, beyond: bool = False
) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Camera coefficients (2,), illuminant weights (14,) and daylight temperature, float32.

    With ``beyond`` what is rare otherwise: coefficients at 2 to 3 deviations from the mean camera (13 % of the usual
    ones), under a fluorescent lamp (15 %).
    """
    b = rng.normal(0, 1, 2).clip(-3, 3)
    shares = [0, 0, *[1 / 12] * 12] if beyond else [0.20, 0.65, *[0.15 / 12] * 12]
    if beyond:
        b *= rng.uniform(2, 3) / np.linalg.norm(b)
    main = np.zeros(14)
    main[rng.choice(14, p=shares)] = 1
    stray = rng.uniform(0, 0.3)
    weights = (1 - stray) * main + stray * rng.dirichlet(np.full(14, 0.2))
    cct = np.clip(np.exp(rng.normal(np.log(6200), 0.22)), *illumination.CCT_RANGE)
    return b.astype(np.float32), weights.astype(np.float32), np.float32(cct)


def draw_cameras(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (count, 2), illuminant weights (count, 14) and daylight temperatures (count,) of several photos."""
    drawn = [draw_camera_and_illuminant(rng) for _ in range(count)]
    b, weights, cct = (np.stack(values) for values in zip(*drawn, strict=True))
    return b, weights, cct


def draw_exposure(count: int, rng: np.random.Generator, octaves: tuple[float, float] = EXPOSURES) -> np.ndarray:
    """(count,) factors on what a photographer takes (:func:`exposure`), even in octaves.

    >>> factors = draw_exposure(1000, np.random.default_rng(0))
    >>> [round(float(f), 1) for f in np.log2([factors.min(), factors.max()])]
    [-2.0, 0.6]
    """
    return 2.0 ** rng.uniform(*octaves, count)


def exposure(colours: np.ndarray, shading: np.ndarray, rng: np.random.Generator) -> float:
    """The factor on both shadings that a photographer gives a face: opened for dark skin, with nearly nothing clipped.

    ``colours`` (P, 3) are linear RGB of the face before exposure, ``shading`` (P,) its diffuse shading.
    """
    brightness = float(colours.mean())
    albedo = brightness / float(shading.mean())
    wanted = 0.36 * (albedo / 0.4) ** 0.55 * np.exp(rng.normal(0, 0.15))
    most = min(wanted / brightness, 0.95 / float(np.quantile(colours.max(-1), 0.99)))
    return min(most, 1.4 / float(np.quantile(shading, 0.9)))


def _pooled(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the rays of each pixel: (n, n, …) and (n, n) to (64, 64, …); 0 where no weight is."""
    total = np.zeros((SIZE, SIZE, *values.shape[2:]))
    weight = np.zeros((SIZE, SIZE, *(1,) * (values.ndim - 2)))
    for row in range(SAMPLES):
        for column in range(SAMPLES):
            ray = slice(row, None, SAMPLES), slice(column, None, SAMPLES)
            w = weights[ray].reshape(weight.shape)
            total += values[ray] * w
            weight += w
    return total / weight.clip(1e-9)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-6)


def _background(rng: np.random.Generator) -> np.ndarray:
    """(64, 64, 3) linear RGB: two muted colours that blend into one another."""
    level = np.exp(rng.uniform(np.log(0.02), np.log(0.6), 2))
    tint = np.exp(rng.normal(0, 0.22, (2, 3)))
    colours = level[:, None] * tint
    grid = (np.arange(SIZE) + 0.5) / SIZE
    points = np.stack([*np.meshgrid(grid, grid), np.zeros((SIZE, SIZE))], axis=-1)
    blend = 0.5 + 0.5 * np.tanh(painting.Noise.draw(rng, 0.25, 8)(points))
    return (colours[0] * blend[..., None] + colours[1] * (1 - blend[..., None])).clip(0, 1)


def make_face(seed: int, split: str, index: int, mismatch: bool, group: str, beyond: str = "") -> dict[str, Any]:
    """One face: the fields of ``Truth``, and ``rgb``, ``mask``, ``stored_normals``, ``coordinates``, ``paint``.

    Depends on its arguments alone; ``mismatch`` changes its stored normals and pseudo shading only.
    """
    sequence = np.random.SeedSequence([seed, SPLITS[split], index])
    for_shape, for_pose, for_skin, for_light, for_camera, for_scene, for_wrong, for_exposure, for_chain = map(
        np.random.default_rng, sequence.spawn(9)
    )
    person = heads.draw_shape(for_shape, np.array(SHAPES[group]))
    rows = base_rows()[group]
    row = int(rows[for_skin.integers(len(rows))])
    base = _measured()[1][row]
    paint = measured_paint(row) if beyond == "measured" else Paint()
    complexion = painting.draw_complexion(for_skin, person, *base)
    pose = heads.draw_pose(for_pose, beyond == "pose")
    light = draw_light(for_light, beyond == "light")
    b, weights, cct = draw_camera_and_illuminant(for_camera, beyond == "colour")

    head = heads.Head.load()

    def grown(shape: heads.Shape) -> np.ndarray:
        bald = head.shaped(shape.macro, shape.local)
        return painting.with_hair(bald, heads.vertex_normals(bald), head.vertices, complexion)

    vertices = grown(person)
    hits = heads.cast(heads.posed(vertices, pose), light.key_direction, SIZE, SAMPLES)
    parts = painting.parts(hits, complexion)
    face = parts == painting.FACE
    mask = _largest_piece(_pooled(face, np.ones(face.shape)) > COVERED)
    used = np.where(mask.repeat(SAMPLES, 0).repeat(SAMPLES, 1), face, hits.hit)  # the mask's pixels show face only
    normals = _unit(_pooled(hits.normals, used)).astype(np.float32)
    of_rays = np.zeros((2, *parts.shape))
    of_rays[:, hits.hit] = painting.pigments(hits.neutral[hits.hit], complexion)
    melanin, haemoglobin = (_pooled(pigment, used).astype(np.float32) for pigment in of_rays)

    half = _unit(light.key_direction + np.array([0.0, 0.0, 1.0]))
    cosine = (normals.astype(np.float64) * half).sum(-1).clip(0)
    lit = _pooled(hits.lit, used)
    specular = sum(strength * cosine**exponent for strength, exponent in light.lobes) * lit

    illuminant = illumination.mix(weights[None].astype(np.float64), np.array([cct], np.float64))[0].astype(np.float32)
    sensitivity = camera.CameraModel.load().sensitivity(b)
    to_rgb = camera.reflectance_to_rgb(illuminant, sensitivity)
    albedo = np.einsum("hwd,cd->hwc", paint.reflectance(melanin, haemoglobin), to_rgb)  # not BLAS: see write_cube
    shading = illumination.sh_shading(normals, light.lighting.astype(np.float32))

    def image_under(shading: np.ndarray, specular: np.ndarray) -> np.ndarray:
        return shading[..., None] * albedo + specular[..., None] * to_rgb.sum(-1)

    usual = exposure(image_under(shading, specular)[mask], shading[mask], for_scene)
    factor = float(draw_exposure(1, for_exposure, DARKER.get(beyond, EXPOSURES))[0])
    lighting = (usual * factor * light.lighting).astype(np.float32)
    specular = (usual * factor * specular).astype(np.float32)
    shading = illumination.sh_shading(normals, lighting)
    rendered = image_under(shading, specular)
    scene = np.where(mask[..., None], rendered, _composed(for_scene, parts, rendered, shading, specular, complexion))
    display = image_formation.srgb_encode(scene.clip(0, 1).astype(np.float32))
    if beyond in CHAINS:
        display = degradation.apply(display, CHAINS[beyond][index % 2], for_chain)
    rgb = np.rint(255 * display) / 255

    stored = normals * mask[..., None]
    if mismatch:
        wrong = heads.draw_wrong_geometry(for_wrong, person)
        other = heads.cast(heads.posed(grown(wrong), pose, like=vertices), None, SIZE, SAMPLES)
        seen = other.hit & ~other.eye & painting.on_face(other.neutral)
        wrong_normals = _unit(_pooled(other.normals, seen)).astype(np.float32)
        known = mask & (np.abs(wrong_normals).sum(-1) > 0)  # else the pixel shows the other mouth's inside
        stored = np.where(known[..., None], wrong_normals, stored)
    low, high = np.array(COORDINATES)
    inside = mask.astype(np.float32)
    return {
        "melanin": melanin * inside,
        "haemoglobin": haemoglobin * inside,
        "diffuse_shading": shading * inside,
        "specular_shading": specular * inside,
        "albedo": albedo.astype(np.float32) * inside[..., None],
        "exposure": np.float32(factor),
        "pseudo_shading": illumination.sh_shading(stored, lighting) * inside,
        "normals": normals * inside[..., None],
        "camera_b": b,
        "illuminant_weights": weights,
        "cct": cct,
        "illuminant": illuminant,
        "lighting": lighting,
        "key_direction": light.key_direction.astype(np.float32),
        "identity": np.int64(SPLITS[split] * 1_000_000 + index),
        "group": group,
        "spectrum": np.int64(row),
        "mismatch": bool(mismatch),
        "rgb": rgb,
        "mask": mask,
        "stored_normals": stored,
        "paint": paint,
        "coordinates": ((_pooled(hits.neutral, used) - low) / (high - low)).clip(0, 1) * mask[..., None],
    }


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    pieces, count = scipy.ndimage.label(mask)
    return mask if count < 2 else pieces == 1 + np.bincount(pieces[mask])[1:].argmax()


def _composed(
    rng: np.random.Generator,
    parts: np.ndarray,
    skin_colour: np.ndarray,
    shading: np.ndarray,
    specular: np.ndarray,
    complexion: painting.Complexion,
) -> np.ndarray:
    """(64, 64, 3) linear RGB around the mask: ears and neck, hair, eyes, the gap between the lips, background.

    Nobody measures these: plain reflectances under the face's shading.
    """
    light = shading[..., None]
    colours = {
        painting.BACKGROUND: _background(rng),
        painting.SKIN: skin_colour,
        painting.FACE: skin_colour,
        painting.HAIR: complexion.hair * light + 0.15 * specular[..., None],
        painting.SCLERA: np.array([0.55, 0.50, 0.48]) * light + specular[..., None],
        painting.IRIS: complexion.iris * light + specular[..., None],
        painting.PUPIL: 0.01 * light + specular[..., None],
        painting.LASHES: 0.25 * skin_colour,
        painting.MOUTH: np.array([0.30, 0.22, 0.22]) * skin_colour,
    }
    total = np.zeros((SIZE, SIZE, 3))
    for part, colour in colours.items():
        share = _pooled(parts == part, np.ones(parts.shape))
        total += share[..., None] * colour
    return total
