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
    panels = {"camera": {"the mean": S}, "light": {"D65": D65, "flat": torch.ones(33)}}
    drawings.curves("00_x", panels, data="none", alt="curves", logarithmic=["light"])
    numbers = saved("00_x")
    assert len(numbers["camera"]["the mean"]) == 3 and numbers["light"]["flat"] == [1.0] * 33


def test_the_table_and_the_network():
    table = image_formation.colour_table(illumination.standard("D65"), CameraModel.load().sensitivity())
    drawings.skin_table("00_x", table, alt="skins")
    corners = torch.tensor(saved("00_x")["corners"])
    assert corners.shape == (3, 2, 2) and bool((corners[:, 0] > corners[:, 1]).all())  # melanin darkens
    net = BioFaceNet(2)
    drawings.architecture("00_y", net, alt="network")
    assert sum(saved("00_y")["weights"].values()) == sum(p.numel() for p in net.parameters())
