"""Mirrored, recoloured and halved faces are still faces: what they say of themselves renders to what they show."""

import dataclasses

import numpy as np
import pytest
import torch

from bioface import datasets, illumination, image_formation, metrics, objective, recipes
from bioface.errors import BiofaceError
from study import augmentation

ROWS = np.arange(6)


@pytest.fixture(scope="module")
def faces():
    return datasets.load("twin", "train", 8)


def rendered(batch):
    image, _ = objective.decode(batch.truth, batch, recipes.WORKING)
    return image


@pytest.fixture(scope="module")
def batch(faces):
    """Recoloured."""
    return augmentation.Augmented(faces, 1)[ROWS]


@pytest.mark.parametrize("recolour", [False, True])
def test_the_truth_renders_to_the_photo(faces, recolour):
    batch = augmentation.Augmented(faces, 1, recolour)[ROWS]
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
    assert torch.equal(batch.image, augmentation.Augmented(faces, 1)[ROWS].image)
    assert not torch.equal(batch.image, augmentation.Augmented(faces, 2)[ROWS].image)
    assert not torch.equal(batch.image[1:], augmentation.Augmented(faces, 1)[ROWS + 1].image[:-1])


def test_halved(faces):
    batch = augmentation.Augmented(faces, 1, halved=True)[ROWS]
    assert tuple(batch.image.shape) == (6, 32, 32, 3)
    # where a pixel holds skin of several colours, the average of colours is not the colour of averages
    assert float(metrics.rmse(rendered(batch), batch.image, batch.mask).median()) < 0.01
    length = batch.normals.norm(dim=-1)[batch.mask]
    assert torch.allclose(length, torch.ones_like(length), atol=1e-5)


def test_mirroring_needs_no_truth_and_recolouring_does(faces):
    unknown = dataclasses.replace(faces, truth=None)
    batch = augmentation.Augmented(unknown, 0, recolour=False)[ROWS]
    assert batch.truth is None and len(batch) == 6
    with pytest.raises(BiofaceError, match="truth"):
        augmentation.Augmented(unknown, 0)


def test_the_brightness_is_that_of_the_twin(faces, batch):
    level = torch.stack([batch.image[i][batch.mask[i]].mean() for i in range(6)])
    assert float(level.min()) > 0.05 and float(level.max()) < 0.6
    stored = image_formation.srgb_decode(torch.from_numpy(faces.rgb))
    before = torch.stack([stored[i][batch.mask[i] | batch.mask[i].flip(1)].mean() for i in range(6)])
    assert 0.5 < float(level.mean() / before.mean()) < 2


def test_no_skin_is_lit_more_than_the_twin_lights_any(faces):
    """Dark skin is exposed longer, but not without end; a mean shading of 2 would be on no face of the twin."""
    truth = dataclasses.replace(faces.truth, melanin=(4 * faces.truth.melanin).clip(0, 0.43))
    darkest = dataclasses.replace(faces, truth=truth)
    batch = augmentation.Augmented(darkest, 1)[ROWS]
    bright = [batch.truth.diffuse[i][batch.mask[i]].quantile(0.9) for i in range(6)]
    assert float(max(bright)) < 1.4 + 1e-3
