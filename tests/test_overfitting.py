"""Pictures of overfitted faces, and what is measured on NFE's own photos."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from test_experiments import a_batch

from bioface import illumination, image_formation, recipes, training
from bioface.datasets import photos
from study import experiments, figures, nfe_photos, overfitting

PAPER, WORKING = recipes.PAPER_LITERAL, recipes.WORKING


@pytest.fixture
def saved(monkeypatch):
    """What was saved: {name: (figure, numbers, alternative text)}; nothing is written."""
    found = {}
    keep = lambda figure, name, *, numbers, data, alt: found.update({name: (figure, numbers, alt)})  # noqa: E731
    monkeypatch.setattr(figures, "save", keep)
    yield found
    plt.close("all")


def test_a_face_taken_apart_stands_in_the_columns_of_the_report(saved):
    batch = a_batch()
    with torch.no_grad():
        said = training.build("working", 2)(batch.image)
    rows = {
        "noise": (batch.image, said, PAPER),
        "ours": (batch.image, said._replace(diffuse=2 * said.diffuse), WORKING),
    }
    overfitting.decompositions("02_x", rows, batch, 1, numbers={}, data="made up")
    figure, _, alt = saved["02_x"]
    shown = [ax for ax in figure.axes if ax.get_images() and not ax.get_label().startswith("<colorbar")]
    assert [ax.get_title() for ax in shown[:7]] == list(overfitting.COLUMNS) and len(shown) == 14
    grey = [ax.get_images()[0].get_array()[batch.mask[1].numpy()].mean() for ax in (shown[2], shown[9])]
    assert grey[0] < grey[1] and "noise; ours" in alt  # panels that are compared have one range


@pytest.mark.slow
def test_ladder_copies_floors_and_the_same_photo(saved, folders):
    batch, kinds = a_batch(), {"no": None, "×": 1.0}
    grid = {("working", kind): WORKING.but(kind, copy_shading=k) for kind, k in kinds.items()}
    score = {r.name: {"start": np.ones(2), "rmse": np.full(2, 0.5)} for r in (*recipes.LADDER, *grid.values())}
    steps = list(zip(recipes.LADDER, recipes.LADDER[1:], strict=False))
    overfitting.ladder("02_l", {"up": steps}, score, 0.1, data="x")
    labels = [text.get_text() for text in saved["02_l"][0].axes[0].get_yticklabels()]
    assert labels[0] == "paper literal" and len(labels) == len(recipes.LADDER) and "→" in labels[1]
    assert overfitting.change(*recipes.LADDER[-2:]) == "weight of diffuse 1e-05 → 0.001"
    runs = experiments.run_all(experiments.Plan(batch, list(grid.values()), width=2, steps=1))
    overfitting.copies("03_c", grid, runs, score, batch, data="x")
    assert [ax.get_xlabel() for ax in saved["03_c"][0].axes[1:3]] == ["0.500"] * 2
    overfitting.floors("03_f", np.ones(2), {"code": [1.0, 2.0, 3.0]}, 1.0)
    assert saved["03_f"][1]["code, none"] == [1, 2, 3]
    maps, matrix = np.full((8, 8, 4), 0.1), np.full((3, 33), 1 / 33)
    overfitting.same_photo("02_s", {"a": maps, "b": 2 * maps}, matrix, np.ones((8, 8), bool))
    first, _, alt = saved["02_s"]
    assert len(first.axes[0].get_images()) == 1 and "a, b" in alt
    assert saved["02_s"][1]["highest"] == pytest.approx(np.full(4, 0.2))


@pytest.fixture(scope="module")
def portrait():
    """(1, 64, 64, 3) uint8 of a real face, and its mask."""
    found = photos.astronaut()
    return np.rint(255 * found.rgb).astype(np.uint8)[None], found.mask[None]


def test_normals_and_light_of_a_photo_explain_it(portrait):
    found = nfe_photos.lit(*portrait, ("astronaut",))
    inside = found.mask[0]
    assert np.allclose(np.linalg.norm(found.normals[0], axis=-1), inside, atol=1e-5)
    shading = illumination.sh_shading(found.normals, found.lighting.mean(1))[0]
    luminance = image_formation.srgb_decode(found.rgb[0]).mean(-1)
    assert np.corrcoef(shading[inside], luminance[inside])[0, 1] > 0.5
    (row,) = nfe_photos.stored(portrait[0][0], inside, found.normals[0])
    assert row[0] == "A2.mesh_angle" and row[1] == pytest.approx(0, abs=0.1)  # the mesh against itself
    two = dataclasses.replace(found, names=("other",)), dataclasses.replace(found, names=(nfe_photos.PARTED,))
    assert next(nfe_photos.mouths(type(found).concatenate(two)))[:2] == ("A2.parted_lips", 0)


@pytest.mark.slow
def test_what_is_measured_of_trainings_are_their_claims(folders, monkeypatch):
    monkeypatch.setattr(nfe_photos, "STEPS", 2)
    monkeypatch.setattr(nfe_photos, "EPOCHS", 1)
    found = {name: value for name, value, _ in nfe_photos.trained(a_batch(size=32))}
    assert list(found) == [
        "02.photos_working",
        "02.photos_evaluated",
        "02.photos_literal",
        "03.photos_copy",
        "A2.photos_code",
    ]
    assert found["02.photos_literal"] > 0.9 and all(value > 0 for value in found.values())
