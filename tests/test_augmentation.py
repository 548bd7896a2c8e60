"""Mirrored, recoloured and halved faces are still faces: what they say of themselves renders to what they show."""

import dataclasses

import numpy as np
import pytest
import torch

from bioface import datasets, illumination, metrics, objective, recipes
from bioface.datasets import portrait, skin_spectra
from study import augmentation

ROWS = np.arange(6)


@pytest.fixture(scope="module")
def faces():
    return datasets.load("twin", "train", 8)


def rendered(batch):
    image, _ = objective.decode(batch.truth, batch, recipes.WORKING)
    return image


def unprocessed(*arguments, rows=ROWS, **options):
    """Faces as a camera without processing would show them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "_processed", lambda image, rng: image)
        return augmentation.Augmented(*arguments, **options)[rows]


@pytest.fixture(scope="module")
def batch(faces):
    return unprocessed(faces, 1)


@pytest.mark.parametrize("recolour", [False, True])
def test_the_truth_renders_to_the_photo(faces, recolour):
    batch = unprocessed(faces, 1, recolour)
    error = metrics.rmse(rendered(batch).clamp(0, 1), batch.image, batch.mask)
    assert float(error.max()) < 0.003  # eight bits of the stored photos


def test_the_light_fits_the_shading(faces, batch):
    shading = illumination.sh_shading(batch.normals, batch.lighting)
    error = metrics.rmse(shading, batch.truth.diffuse, batch.mask)
    assert float(error[~torch.from_numpy(faces.truth.mismatch)[ROWS]].max()) < 1e-4


def test_recolouring_changes_the_skin_and_keeps_the_shape(faces, batch):
    plain = augmentation.Augmented(faces, 1, recolour=False).batch[ROWS]
    base = [b.truth.melanin[b.mask].median() for b in (plain, batch)]
    assert abs(float(base[0] - base[1])) > 1e-3
    same, mirrored = ((mask == plain.mask).flatten(1).all(1) for mask in (batch.mask, batch.mask.flip(2)))
    assert bool((same | mirrored).all())
    assert bool(mirrored.any()) and bool(same.any())
    assert float(batch.image.min()) >= 0 and float(batch.image.max()) <= 1
    for name in ("melanin", "haemoglobin"):
        assert float(getattr(batch.truth, name)[batch.mask].abs().max()) <= 1


def test_the_same_rows_give_the_same_faces(faces, batch):
    first, again, other = (augmentation.Augmented(faces, seed)[ROWS].image for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[1:], augmentation.Augmented(faces, 1)[ROWS + 1].image[:-1])


def test_halved(faces):
    batch = unprocessed(faces, 1, halved=1)
    assert tuple(batch.image.shape) == (6, 32, 32, 3)
    # where a pixel holds skin of several colours, the average of colours is not the colour of averages
    assert float(metrics.rmse(rendered(batch), batch.image, batch.mask).median()) < 0.01
    length = batch.normals.norm(dim=-1)[batch.mask]
    assert torch.allclose(length, torch.ones_like(length), atol=1e-5)


def test_mirroring_needs_no_truth(faces):
    batch = augmentation.Augmented(dataclasses.replace(faces, truth=None), 0, recolour=False)[ROWS]
    assert batch.truth is None and len(batch) == 6


def test_the_exposure_is_drawn_over_the_octaves_of_the_twin(faces, monkeypatch):
    """The same faces at another exposure: light, shading, highlights and photo times one factor, the skin as it was."""
    found = []
    for factor in (1.0, 0.25):
        monkeypatch.setattr(portrait, "draw_exposure", lambda n, rng, factor=factor: np.full(n, factor))
        found.append(unprocessed(faces, 1))
    usual, darker = found
    assert torch.equal(usual.truth.melanin, darker.truth.melanin)
    for name in ("diffuse", "specular"):
        assert torch.allclose(getattr(darker.truth, name), 0.25 * getattr(usual.truth, name))
    assert torch.allclose(darker.lighting, 0.25 * usual.lighting)
    unclipped = usual.mask[..., None] & (usual.image < 1)
    assert torch.allclose(darker.image[unclipped], 0.25 * usual.image[unclipped], atol=1e-6)
    level = torch.stack([usual.image[i][usual.mask[i]].mean() for i in range(6)])
    assert float(level.min()) > 0.05 and float(level.max()) < 0.6  # a photographer's


def test_processing_changes_the_photo_and_not_the_truth(faces, batch):
    processed = augmentation.Augmented(faces, 1)[ROWS]
    assert all(map(torch.equal, processed.truth, batch.truth))
    error = metrics.rmse(processed.image, batch.image, batch.mask)
    assert float(error.median()) > 0.003 and float(error.max()) < 0.15
    assert float(processed.image.min()) >= 0 and float(processed.image.max()) <= 1


def test_painted_faces_have_the_colour_of_their_spectrum(faces):
    """Half of them: their photos are no longer what the skin model makes of their pigments."""
    row = int(portrait.base_rows()["African"][0])
    painted = {"African": np.array([row])}
    base, rest = augmentation.Augmented(faces, 1, painted=painted)._skins(200, np.random.default_rng(0))
    ours = rest.any(1)
    assert 70 < ours.sum() < 130
    assert np.allclose(rest[ours], portrait.measured_paint(row).rest, atol=1e-6)
    assert np.allclose(base[ours], np.stack(skin_spectra.pigments(), -1)[row])
    batch = unprocessed(faces, 1, painted=painted)
    error = metrics.rmse(rendered(batch).clamp(0, 1), batch.image, batch.mask)
    assert (error > 0.001).any() and (error < 1e-5).any()
