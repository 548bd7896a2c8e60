"""The report's own experiment on its own kind of data: 27 photos of NFE's first file, overfitted at once.

These photos and one face with all its channels were read back from published figures, so that a reader cannot have
them. What is measured on them goes into the record (:mod:`study.record`), as numbers alone. Their normals are Face
Mesh's, their lights those that fit the photos best over skin of one albedo, as in :mod:`bioface.datasets.prepare`.
"""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage

from bioface import faces, image_formation, objective, recipes, shading
from bioface.datasets import nfe, prepare, registry
from study import experiments

FILES = registry.Entry(
    name="nfe_real",
    title="27 photos of NFE with masks, and one of its faces with all channels, read back from published figures",
    kind="manual",
    files=("nfe_real/nfe_27_photos_masks_64x64.npz", "nfe_real/nfe_file01_face0_10channels_uint8.npz"),
    home="https://github.com/zhixinshu/NeuralFaceEditing",
    instructions="Not to be had; figures/recorded/measurements.json holds what was measured.",
)
SEEDS, STEPS, EPOCHS = (0, 1), 900, 200  #: EPOCHS are those of the authors' script, one step each here
PARTED = "file01_000015"  #: parted lips; by its number it may be the report's sample #15
COPY = recipes.PAPER_LITERAL.but("paper_literal, copy × 1", copy_shading=1.0)


def mesh_normals(display: np.ndarray) -> np.ndarray:
    """(64, 64, 3) unit normals of Face Mesh, the nearest beyond the mesh, of a photo in display sRGB, 0–1."""
    normals = faces.search(image_formation.srgb_decode(display))[0].normals()
    beyond = np.linalg.norm(normals, axis=-1) < 0.5
    nearest = scipy.ndimage.distance_transform_edt(beyond, return_distances=False, return_indices=True)
    return np.asarray(normals[tuple(nearest)])


def lit(rgb: np.ndarray, mask: np.ndarray, names: tuple[str, ...], normals: np.ndarray | None = None) -> nfe.Faces:
    """Photos, with the light that fits them best, as the loader would give them.

    Parameters
    ----------
    rgb : (N, 64, 64, 3) uint8, display sRGB
    mask : (N, 64, 64) bool
    normals : (N, 64, 64, 3) of unit length; None for :func:`mesh_normals`
    """
    display, lights = rgb.astype(np.float32) / 255, np.zeros((len(rgb), 3, 9), np.float32)
    normals = np.stack([mesh_normals(photo) for photo in display]) if normals is None else normals
    for light, linear, inside, n in zip(lights, image_formation.srgb_decode(display), mask, normals, strict=True):
        light[:] = prepare.light_of(linear, n, inside)
    return nfe.Faces(display, normals * mask[..., None], mask, lights, np.zeros_like(display), names)


def measure() -> Iterator[tuple[str, float, str]]:
    """Claims, each with its number and what to read it against; two hours of training, shared by the processors."""
    many, one = (np.load(file) for file in registry.fetch(FILES))
    photos = lit(many["photos"], many["masks"], tuple(many["names"].tolist()))
    yield from mouths(photos)
    yield from stored(one["rgb"], one["mask"] > 127, one["normals_encoded"] / 127.5 - 1)
    yield from trained(objective.Batch.of(photos))


def trained(batch: objective.Batch) -> Iterator[tuple[str, float, str]]:
    """How near each recipe comes to the photos."""

    code = recipes.get("authors_code")
    lengths = ((recipes.WORKING, STEPS), (recipes.PAPER_LITERAL, STEPS), (COPY, STEPS), (code, EPOCHS))
    runs = experiments.run_all(*(experiments.Plan(batch, [recipe], SEEDS, steps=n) for recipe, n in lengths))
    score = experiments.summary(runs, batch)
    flat = experiments.reconstruction(experiments.constant_colour(batch), batch)
    ours, by_code = score["working"], score["authors_code"]
    evaluated = max(experiments.reconstruction(run.image_eval, batch) for run in runs["working"])
    told = f"a constant colour {flat:.3f}; before training {ours['start'].min():.3f}; {STEPS} steps"
    yield "02.photos_working", ours["rmse"].max(), f"{told}; luminance {ours['luminance'].min():.3f}"
    yield "02.photos_evaluated", evaluated, f"{told}; with the batch norm of training {ours['rmse'].max():.4f}"
    told = f"working {(ours['rmse'] / ours['start']).max():.2f}"
    for name, recipe in (("02.photos_literal", recipes.PAPER_LITERAL), ("03.photos_copy", COPY)):
        share = score[recipe.name]["rmse"] / score[recipe.name]["start"]
        yield name, share.min(), f"{told}; by seed {', '.join(f'{value:.3f}' for value in share)}"
    yield "A2.photos_code", by_code["rmse"].max() / flat, f"before training {by_code['start'].min() / flat:.1f}"


def mouths(photos: nfe.Faces) -> Iterator[tuple[str, float, str]]:
    """Whether Face Mesh's normals fit the mouth and nose of the photo with parted lips, by the audit's score."""
    score, parted = shading.mismatch_score(photos), photos.names.index(PARTED)
    told = (
        f"its score {score[parted]:.2f}; of all {score.min():.2f} to {score.max():.2f}, median {np.median(score):.2f}"
    )
    yield "A2.parted_lips", int((score > score[parted]).sum()), told


def stored(rgb: np.ndarray, mask: np.ndarray, normals: np.ndarray) -> Iterator[tuple[str, float, str]]:
    """The normals that NFE stores of one face (64, 64, 3) against Face Mesh's, over the face and by the score."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = (normals / np.maximum(length, 1e-9)).astype(np.float32)  # there may be none outside the face
    ours, flat = mesh_normals(rgb.astype(np.float32) / 255), np.array([0, 0, 1], np.float32)
    angle = [np.degrees(np.arccos((normals * n).sum(-1).clip(-1, 1)))[mask].mean() for n in (ours, flat)]
    twice = lit(np.stack([rgb] * 2), np.stack([mask] * 2), ("stored", "mesh"), np.stack([normals, ours]))
    scores = shading.mismatch_score(twice)
    told = f"a flat face {angle[1]:.0f}; mismatch score {scores[0]:.2f} with the stored, {scores[1]:.2f} with the mesh"
    yield "A2.mesh_angle", float(angle[0]), told
