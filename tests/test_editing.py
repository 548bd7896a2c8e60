"""Edits held against edits of the truth, on maps that are off by known amounts; colours and spectra."""

import dataclasses

import numpy as np
import pytest

from bioface import camera, decomposition, illumination, spectra
from bioface import maps as maps_module
from bioface.datasets import skin_spectra, twin
from study import editing, figures


@pytest.fixture(scope="module")
def truth():
    return maps_module.of_twin(twin.load("test", 2, progress=False))


def test_true_maps_are_edited_without_error(truth):
    for change in (*editing.PAPER_EDITS.values(), {"illuminant": "A"}, {"camera": (2.0, -2.0)}):
        errors = editing.edit_errors(truth, truth, change)
        assert errors["edit"].max() < 0.004  # the rounding of eight bits
        assert errors["maps alone"].max() == 0
        assert (errors["no edit"] > 2 * errors["edit"]).all()


def test_errors_are_of_the_edited_faces_inside_the_masks(truth):
    change = {"melanin": 0.4}
    off = dataclasses.replace(truth, diffuse_shading=truth.diffuse_shading * 1.1)
    errors = editing.edit_errors(off, truth, change)
    for n, mask in enumerate(truth.mask):
        brighter, expected = (decomposition.edit(d[n], rest="none", **change) for d in (off, truth))
        rmse = np.sqrt(((brighter - expected)[mask] ** 2).mean())
        assert errors["maps alone"][n] == pytest.approx(rmse, rel=1e-3)
        assert errors["edit"][n] < 0.2 * rmse  # the photo says how bright it is
    assert set(errors) == {"edit", "residual stays", "maps alone", "no edit"}
    some = editing.edit_errors(off, truth, change, ["no edit", "edit"])
    assert list(some) == ["no edit", "edit"] and some["edit"].tolist() == errors["edit"].tolist()


def test_a_mean_camera_sees_the_colours_of_the_standard_observer():
    """Its matrix to XYZ is a fit, so not exactly."""
    R = skin_spectra.load("issa").reflectance[::500]
    C = spectra.colour_matching_functions().numpy() * illumination.standard("D65").numpy()
    assert C[:, 31:].sum() < 1e-3 * C.sum()  # what goes on beyond 700 nm
    padded = np.pad(R, ((0, 0), (0, 2)), mode="edge")
    linear = (padded @ C.T / C.sum(1)) * camera.ROW_SUMS["d65"].numpy() @ camera.XYZ_TO_SRGB.numpy().T
    assert editing.difference(editing.seen(R), editing.lab(linear)).max() < 3
    np.testing.assert_allclose(editing.seen(np.ones((1, 31))), [[100, 0, 0]], atol=0.02)


def test_errors_of_several_methods_as_shares_of_no_edit(truth):
    off = dataclasses.replace(truth, melanin=truth.melanin * 1.5)
    errors = editing.compared(
        {"true": truth, "off": off}, truth, {"darker": {"melanin": 0.4}, "in A": {"illuminant": "A"}}
    )
    assert list(errors) == ["darker", "in A"] and list(errors["darker"]) == ["true", "off", "no edit"]
    share = editing.shares(errors)
    none = errors["darker"]["no edit"].mean()
    assert share["darker"]["off"] == pytest.approx(errors["darker"]["off"].mean() / none)
    assert share["darker"]["true"] < 0.2 * share["darker"]["off"] and "no edit" not in share["darker"]
    worst = editing.worst_group(errors["darker"], np.array(["a", "b"]))
    each = errors["darker"]["off"] / errors["darker"]["no edit"]
    assert worst["off"] == pytest.approx(each.max())
    assert editing.others(share["darker"]) == f"off {share['darker']['off']:.2f}"


def test_the_hue_of_a_darkened_face_beside_those_of_measured_skin(truth, capsys):
    issa = skin_spectra.load("issa")
    found = editing.hues(truth[0], issa.reflectance)
    low, high = found["measured skin"]
    assert 30 < low < high < 90 and low - 15 < found["edited"] < high + 15
    assert "measured skins as light" in capsys.readouterr().out


@pytest.mark.slow
def test_every_face_taken_apart_by_itself_and_the_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))
    faces = twin.load("test", 2, progress=False)
    apart = editing.decomposed(faces)
    assert apart.melanin.shape == faces.mask.shape
    assert apart.camera_b.shape == (2, 2)
    maps, changes = apart[0], editing.PAPER_EDITS
    edited = {name: editing.edit(maps, **change) for name, change in changes.items()}
    editing.show_maps("06_maps", maps, data="twin (synthetic)")
    twice = {"": edited, "again": edited}
    editing.show_edits("06_edits", maps, twice, data="twin (synthetic)")
    found = figures.numbers("06_edits", tmp_path)["mean_difference"]
    assert found["melanin + 0.6, again"] == found["melanin + 0.6"] > 5
    errors = editing.compared({"a": apart}, maps_module.of_twin(faces), {"melanin": {"melanin": 0.1}})
    editing.show_errors("06_errors", errors["melanin"], faces.truth.group, data="twin (synthetic)")
    editing.table(errors)
    assert {file.name for file in tmp_path.glob("*.png")} == {"06_maps.png", "06_edits.png", "06_errors.png"}
