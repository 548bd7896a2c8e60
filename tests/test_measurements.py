"""Two faces of a light stage held against their own highlights and BioSkin's encoder, with small stand-ins for all."""

import dataclasses

import numpy as np
import pytest
import torch

from bioface.datasets import light_stage, registry
from bioface.errors import DataError
from study import measurements

SHAPES = {"in": (70, 3), "": (70, 70), "out": (6, 70)}


@pytest.fixture
def face():
    """A made-up face whose highlights go with its red, with brows, forehead and a nose."""
    rng = np.random.default_rng(0)
    diffuse = rng.uniform(0.1, 0.6, (20, 16, 3))
    regions = {name: np.zeros((20, 16), bool) for name in ("face", "brows", "forehead", "nose")}
    regions["face"][1:19, 1:15] = regions["brows"][6, 2:6] = regions["forehead"][2:4] = regions["nose"][10:12, 7:9] = (
        True
    )
    return light_stage.StageFace(diffuse, 0.1 * diffuse[..., 0], regions, "1")


@pytest.fixture
def weights(folders):
    """Random weights in the layout of BioSkin's; returns their file."""
    dice = torch.Generator().manual_seed(0)
    names = {f"module.fc_enc_{layer}".rstrip("_"): shape for layer, shape in SHAPES.items()}
    state = {f"{name}.weight": torch.randn(shape, generator=dice) / 9 for name, shape in names.items()}
    state |= {f"{name}.bias": torch.randn(shape[0], generator=dice) for name, shape in names.items()}
    (folders / "bioskin").mkdir()
    file = folders / "bioskin" / "BioSkinAO.pt"
    torch.save(state, file)
    return file


def test_the_encoder_is_three_layers(weights, face):
    melanin, haemoglobin, specular = measurements.bioskin(face.diffuse)
    p, x = torch.load(weights, weights_only=True), torch.from_numpy(face.diffuse[3, 4]).float()
    for layer, squash in (("in", torch.tanh), ("", torch.tanh), ("out", torch.sigmoid)):
        name = f"module.fc_enc_{layer}".rstrip("_")
        x = squash(p[f"{name}.weight"] @ x + p[f"{name}.bias"])
    assert specular is None and melanin.shape == haemoglobin.shape == (20, 16)
    assert melanin[3, 4] == pytest.approx(float(x[0]) ** 3, rel=1e-5)
    assert haemoglobin[3, 4] == pytest.approx(float(x[1]) ** 4, rel=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), r"BioSkinAO\.pt: expected BioSkin's encoder\. `make data`.*found no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:900]), "expected BioSkin's encoder"),
        (lambda file: torch.save({"module.fc_enc_in.weight": torch.zeros(3, 3)}, file), "found .*bias"),
    ],
)
def test_weights_that_are_absent_or_others_are_named(weights, face, damage, message):
    damage(weights)
    with pytest.raises(DataError, match=message):
        measurements.bioskin(face.diffuse)


def test_numbers_are_those_of_the_regions(face):
    melanin, haemoglobin = face.diffuse[..., 1].copy(), face.diffuse[..., 2].copy()
    melanin[face.regions["forehead"]], melanin[face.regions["brows"]] = 0.02, 0.05
    haemoglobin[face.regions["forehead"]], haemoglobin[face.regions["nose"]] = 0.01, 0.03
    melanin[0] = haemoglobin[0] = np.nan  # outside the face
    peer = (melanin**2, -haemoglobin, None)
    found = measurements.numbers(face, (melanin, haemoglobin, 0.5 * face.specular + 0.01), peer)
    assert found["brows"] == pytest.approx(2.5) and found["nose"] == pytest.approx(3) and "patch" not in found
    assert found["highlights_1"] == pytest.approx(1) and found["melanin"] == pytest.approx(1)
    assert found["haemoglobin"] == pytest.approx(-1)
    inside = face.specular[face.regions["face"]].mean()
    assert found["highlights_mean"] == pytest.approx(inside / (0.5 * inside + 0.01))
    flat = measurements.numbers(face, (melanin, haemoglobin, 0 * face.specular), peer)
    assert flat["highlights_1"] == 0 and flat["highlights_mean"] > 1e3
    assert "highlights_mean" not in measurements.numbers(face, peer, peer)


def test_colour_alone_finds_what_is_in_the_colour(face):
    fitted = measurements.by_colour(face, face.photo[..., 0] * face.photo[..., 1])
    inside = face.regions["face"]
    np.testing.assert_allclose(fitted[inside], (face.photo[..., 0] * face.photo[..., 1])[inside], atol=1e-9)
    assert np.isnan(fitted[~inside]).all()


def test_what_is_recorded_is_the_worse_face_with_its_opponents(weights, face, monkeypatch):
    """Every declared claim of the source, and only those, in terms of `decompose` by Bayes."""
    patch = {"patch": face.regions["brows"], "ring": face.regions["forehead"]}
    regions = {name: region for name, region in face.regions.items() if name != "nose"} | patch
    other = dataclasses.replace(face, regions=regions, name="2")
    monkeypatch.setattr(light_stage, "load", lambda: [face, other])
    size = {"bayes": 1.0, "network": 3.0}

    def decomposed(of, method):
        darker = 0.1 + 0.1 * size[method] * of.regions["brows"] * (1 if of is face else 2)
        return darker, 0.02 + 0.01 * of.regions.get("nose", 0) + 0 * darker, size[method] * of.specular

    monkeypatch.setattr(measurements, "decomposed", decomposed)
    with np.errstate(invalid="ignore"):
        rows = {row.id: row for row in measurements.SOURCES["bioskin"][0]()}
    assert set(rows) == {f"05.{name}" for name in measurements.SOURCES["bioskin"][1]}
    assert registry.ENTRIES["bioskin"].files
    brows = rows["05.light_brows"]
    assert brows.measured == pytest.approx(2) and brows.control.startswith("Bayes 2, 3; network 4, 7; BioSkin of")
    assert rows["05.light_highlights_mean"].measured == pytest.approx(1)
    assert "colour alone, fitted to the answers" in rows["05.light_highlights_1"].control


@pytest.mark.slow
def test_the_encoder_of_the_real_faces_sees_the_patch_and_the_brows(real_file, monkeypatch):
    monkeypatch.setenv("BIOFACE_DATA", str(real_file("bioskin").parent))
    for face in light_stage.load():
        peer = measurements.bioskin(face.diffuse)
        found = measurements.numbers(face, peer, peer)
        assert found["brows"] > 1.5 and found.get("patch", 2) > 1.25 and found["melanin"] == pytest.approx(1)
        fitted, where = measurements.by_colour(face, face.specular), face.regions["face"]
        assert np.corrcoef(fitted[where], face.specular[where])[0, 1] > 0.4
