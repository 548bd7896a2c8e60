"""Two real faces with known highlights: how they are read, and that they are what is said of them."""

import numpy as np
import pytest
from conftest import refuses
from PIL import Image

from bioface.datasets import light_stage


@pytest.fixture
def pictures(folders, monkeypatch):
    """The four pictures in an eighth of their size: squares of two greys, which shrinking averages."""
    monkeypatch.setattr(light_stage, "FULL", (514, 820))
    (folders / "bioskin").mkdir()
    pattern = np.kron(np.ones((410, 257), int), np.eye(2, dtype=int))
    for name in ("1.jpg", "1_spec.jpg", "2.jpg", "2_spec.jpg"):
        grey = Image.fromarray((pattern * 255).astype(np.uint8)).convert("RGB")
        grey.save(folders / "bioskin" / name, quality=100, subsampling=0)
    return folders / "bioskin"


def test_pictures_are_shrunk_by_area_in_linear_light(pictures):
    """A chequerboard of black and white is half the light, not the display value half."""
    faces = light_stage.load()
    assert [face.name for face in faces] == ["1", "2"]
    for face in faces:
        assert face.diffuse.shape == (410, 257, 3) and face.specular.shape == (410, 257)
        assert np.abs(face.diffuse - 0.5).max() < 0.02 and np.abs(face.specular - 0.5).max() < 0.02
        assert face.photo.shape == face.diffuse.shape and 0.95 < face.photo.min() <= face.photo.max() <= 1


def test_regions_lie_within_the_face_and_the_ring_around_the_patch(pictures):
    for face in light_stage.load():
        inside = face.regions["face"]
        assert 0.15 < inside.mean() < 0.35
        for name, region in face.regions.items():
            assert region.shape == (410, 257) and region.any() and (region <= inside).mean() > 0.999, name
    patch, ring = face.regions["patch"], face.regions["ring"]
    assert not (patch & ring).any() and ring.sum() > patch.sum()
    rows, columns = np.nonzero(face.regions["brows"])  # one on each side of the nose
    assert len(np.unique(np.digitize(columns, [90]))) == 2 and np.ptp(rows) < 25


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "a face of the light stage, found no such file. `make data`"),
        (lambda file: file.write_bytes(b"text"), "a picture, found cannot identify"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "a picture, found .*truncated"),
        (lambda file: Image.new("RGB", (9, 9)).save(file), "514 × 820 pixels, found 9 × 9"),
    ],
)
def test_a_file_that_is_absent_or_wrong_is_named(pictures, damage, message):
    damage(pictures / "1_spec.jpg")
    refuses(rf"1_spec\.jpg: expected {message}", light_stage.load)


@pytest.mark.slow
def test_the_real_faces_are_what_is_said_of_them(real_file, monkeypatch):
    """A red nose, a patch darker than the skin around it and nearly neutral, dark brows."""
    monkeypatch.setenv("BIOFACE_DATA", str(real_file("bioskin").parent))
    woman, man = light_stage.load()
    for face in (woman, man):
        inside = face.regions["face"]
        share = face.specular[inside].mean() / face.photo[inside].mean()
        assert share == pytest.approx({"1": 0.058, "2": 0.137}[face.name], abs=0.002)
        colour = {name: np.median(face.diffuse[region], 0) for name, region in face.regions.items()}
        assert (colour["brows"] < colour["forehead"]).all()
        assert (np.diff(colour["forehead"]) < 0).all()  # skin: red above green above blue
        if face is woman:
            redness = {name: colour[name][0] / colour[name][1] for name in ("nose", "forehead")}
            assert redness["nose"] > 1.1 * redness["forehead"]
    photo = {name: np.median(man.photo[man.regions[name]], 0) for name in ("patch", "ring")}
    np.testing.assert_allclose(photo["patch"] / photo["ring"], [0.69, 0.69, 0.73], atol=0.03)
    assert woman.diffuse[woman.regions["face"]].mean() > man.diffuse[man.regions["face"]].mean()
