"""Pictures of the notebooks: what is drawn is what is saved."""

import json

import numpy as np
import pytest
import torch

from bioface import illumination, image_formation, paths, plotting, skin, smith2019
from bioface.camera import CameraModel
from bioface.datasets import skin_spectra, twin
from bioface.network import BioFaceNet
from study import drawings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def saved(name):
    assert (paths.figures() / f"{name}.png").stat().st_size > 5000
    return json.loads((paths.figures() / f"{name}.json").read_text())["numbers"]


def test_curves_keep_their_numbers():
    S, flat = CameraModel.load().sensitivity(), torch.ones(33)
    drawings.curves("00_x", {"cameras": {"the mean": S}, "absorption": {"flat": flat}}, data="x")
    cameras, absorbers = saved("00_x").values()
    assert len(cameras["the mean"]) == 3 and absorbers["flat"] == [1.0] * 33


def test_the_table_and_the_network():
    table = image_formation.colour_table(illumination.standard("D65"), CameraModel.load().sensitivity())
    drawings.skin_table("00_x", table)
    corners = torch.tensor(saved("00_x")["corners"])
    assert corners.shape == (3, 2, 2) and bool((corners[:, 0] > corners[:, 1]).all())  # melanin darkens
    net = BioFaceNet(2)
    drawings.architecture("00_y", net)
    assert sum(saved("00_y")["weights"].values()) == sum(p.numel() for p in net.parameters())


def test_a_curve_of_learning():
    drawings.learning_curve("00_x", [0.3, 0.2], 0.1)
    assert saved("00_x") == {"rmse": [0.3, 0.2], "constant": 0.1}


def test_rows_of_a_face_have_one_range_for_each_map(monkeypatch):
    kept, panel_grid = {}, plotting.panel_grid
    monkeypatch.setattr(plotting, "panel_grid", lambda rows, **how: panel_grid(rows, **(kept.update(how) or how)))
    mask = torch.arange(64).reshape(8, 8) < 40
    rows = {f"row {v}": [torch.rand(8, 8, 3), torch.where(mask, v, 9.0)] for v in (0.1, 0.2, 5.0)}
    below = [["", "0.5"]] * 3
    drawings.by_row("00_x", rows, ["rgb", "melanin"], mask, below=below, numbers={}, data="x", alt="x")
    assert kept["quantities"][1].high == pytest.approx(0.2) and kept["row_labels"] == list(rows)


# --- the audit ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces():
    return twin.load("test", progress=False)[[0, 1, 2, 3]]


def test_the_channels_of_files_and_what_is_taken_for_shading(faces, rng):
    shading = rng.random(faces.mask.shape).astype(np.float32)
    drawings.channels("01_x", faces, shading, data="x")
    assert saved("01_x") == {"faces": list(faces.names[:2])}
    costs = {name: (np.arange(4) / 4, np.ones(4)) for name in drawings.MISTAKES}
    drawings.mistakes("01_y", faces, dict.fromkeys(costs, shading), costs, data="x")
    assert saved("01_y")["light of another face"] == {"correlation": [0, 0.25, 0.5, 0.75], "error": [1.0] * 4}


@pytest.mark.slow
def test_the_faces_of_highest_score_are_shown_first(faces):
    drawings.belied("01_x", faces, np.array([0.1, 0.4, 0.2, 0.3]), data="x")
    assert saved("01_x") == {"face": [faces.names[i] for i in (1, 3, 2)], "score": [0.4, 0.3, 0.2]}


# --- the multispectral fit ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_of_a_fit(rng):
    maps = np.array([0.05, 0.02, 0.8, 0.03]) * rng.uniform(0.9, 1.1, (4, 4))
    drawings.fitted_maps("04_x", {"ours": maps, "truth": maps}, np.eye(4, dtype=bool), {"ours": [0.0]})
    assert saved("04_x") == {"rmse": {"ours": [0.0]}}


def test_a_measured_spectrum_of_each_group():
    issa = skin_spectra.load("issa")
    rows = np.concatenate([np.flatnonzero(issa.group == group)[:3] for group in issa.groups])
    some = issa[rows]
    fits = {model: smith2019.fit(some.reflectance, some.wavelengths, model=model) for model in skin.MODELS}
    drawings.fitted_spectra("04_x", some, fits)
    first = fits["layered"].residual[some.group == issa.groups[0]]
    assert saved("04_x")["layered"][0] == pytest.approx(np.median(first), rel=1e-5)
