"""Pictures of the model: what is drawn is what is saved."""

import json

import pytest
import torch

from bioface import illumination, image_formation, paths
from bioface.camera import CameraModel
from bioface.network import BioFaceNet
from study import drawings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))


def saved(name):
    assert (paths.figures() / f"{name}.png").stat().st_size > 5000
    return json.loads((paths.figures() / f"{name}.json").read_text())["numbers"]


def test_curves_keep_their_numbers():
    S, D65 = CameraModel.load().sensitivity(), illumination.standard("D65")
    drawings.camera_curves("00_x", {"the mean": S}, {"D65": D65, "flat": 2 * torch.ones(33)})
    numbers = saved("00_x")
    assert len(numbers["cameras"]["the mean"]) == 3 and numbers["lights"]["flat"] == [1.0] * 33
    drawings.skin_curves("00_y", {"blood": torch.arange(1, 34)}, [0.1], [0.02], torch.ones(1, 33))
    assert saved("00_y")["reflectance of skin"] == {"melanin 0.10, haemoglobin 0.02": [1.0] * 33}


def test_the_table_and_the_network():
    table = image_formation.colour_table(illumination.standard("D65"), CameraModel.load().sensitivity())
    drawings.skin_table("00_x", table)
    corners = torch.tensor(saved("00_x")["corners"])
    assert corners.shape == (3, 2, 2) and bool((corners[:, 0] > corners[:, 1]).all())  # melanin darkens
    net = BioFaceNet(2)
    drawings.architecture("00_y", net)
    assert sum(saved("00_y")["weights"].values()) == sum(p.numel() for p in net.parameters())


def test_a_face_and_its_truth():
    maps = {"linear_rgb": torch.rand(1, 8, 8, 3), "melanin": torch.rand(1, 8, 8)}
    drawings.face_and_truth("00_x", maps, maps, torch.ones(1, 8, 8, dtype=torch.bool), {"rmse": 0.5})
    assert saved("00_x") == {"rmse": 0.5}
