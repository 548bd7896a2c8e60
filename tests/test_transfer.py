"""Radiative transfer: the table against its own cells, adding–doubling, and what others computed by other means."""

import importlib
import shutil

import numpy as np
import pytest
from conftest import refuses

from bioface import skin, transfer


@pytest.fixture(scope="module")
def table():
    return transfer.load()


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("iadpython", reason="iadpython, which makes the table, is not installed (extra `test`)")
    return importlib.import_module("bioface.assets.build_transfer")


def test_between_the_nodes_the_table_is_off_by_less_than_it_says(table):
    """Its cells are not nodes, so they measure the interpolation."""
    R, cells = transfer.reflectance(table.melanin[:, None], table.haemoglobin), table.cells[0, 0]
    assert np.sqrt(((R - cells) ** 2).mean()) < 1e-5
    assert np.abs(R - cells).max() < 2e-4 and np.abs(R / cells - 1).max() < 1e-3
    # and at the nodes it is what stands there
    m, h = map(transfer.nodes, transfer.NODES, transfer.RANGE)
    R = transfer.reflectance(m[:, None], h)
    np.testing.assert_allclose(R, table.reflectance[0, 0], rtol=1e-6)


def test_the_table_was_made_with_the_constants_of_today(table):
    """Other constants ask for `python src/bioface/assets/build_transfer.py`."""
    np.testing.assert_allclose(table.coefficients, skin.SkinModel("layered").coefficients, rtol=1e-9)


def test_coefficients_are_the_skin_models():
    """Depths and absorptions of both layers, put together again from the four coefficients."""
    for name, c in skin.MODELS.items():
        model = skin.SkinModel(name)
        baseline, melanin, blood, scattering = skin.SkinModel(name).coefficients.numpy()
        depth = c.epidermis_melanin_cm * 0.3 * melanin + c.epidermis_baseline_cm * 0.7 * baseline
        depth += c.epidermal_scattering_cm * scattering
        np.testing.assert_allclose(model.offset + 0.3 * model.per_melanin, depth)
        absorption = c.diffuse_path * (0.05 * blood + 0.95 * baseline)
        np.testing.assert_allclose(model.bloodless + 0.05 * model.per_blood, absorption)
        np.testing.assert_allclose(c.scattering_share * scattering, model.scattering)


def test_more_pigment_and_a_surface_leave_less_light(table):
    R = transfer.reflectance(
        np.array([[0.0], [0.05], [0.2]]),
        np.array([0.0, 0.02, 0.06]),
    )
    assert R.shape == (3, 3, 33)
    assert (np.diff(R, axis=0) < 0).all() and (np.diff(R, axis=1) < 0).all()
    assert (table.cells[1] > table.cells[0]).all()  # "matched", without a surface
    refuses("between 0 and 0.6, where the table ends", transfer.reflectance, 0.61, 0.02)
    refuses("between 0 and 0.25", transfer.reflectance, 0.1, -0.01)


def test_a_damaged_table_is_refused_by_name(tmp_path):
    file = shutil.copy(transfer.FILE, tmp_path / "table.npz")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    file.write_bytes(damaged)
    refuses(r"table\.npz: expected a table of reflectances", transfer.load, file)
    refuses("no such file", transfer.load, tmp_path / "none.npz")


def test_a_few_cells_come_out_again(script, table):
    bands = slice(3, 33, 14)
    again = script.table(table.melanin[::3], table.haemoglobin[::2], bands=bands)
    np.testing.assert_allclose(again, table.cells[:, :, ::3, ::2, bands], rtol=1e-6)


def test_more_angles_change_nothing_that_matters(script, table):
    """From 24 to 36 to 48 angles the change shrinks, and is below 0.0001 at the end."""
    cells = table.melanin[[2]], table.haemoglobin[[2]]
    R = [script.table(*cells, angles, slice(3, 33, 14)) for angles in (24, 36, 48)]
    change = [np.sqrt(((x - R[-1]) ** 2).mean()) for x in R]
    assert change[1] < change[0] / 2 and change[1] < 1e-4


@pytest.mark.parametrize("albedo", [0.5, 0.9, 0.99])
def test_half_space_follows_chandrasekhars_h_functions(script, albedo):
    """Isotropic scattering, no surface, infinitely deep: reflectance is 1 − √(1−a) H(μ), and its mean for diffuse."""
    x, w = np.polynomial.legendre.leggauss(64)
    x, w, root, H = (x + 1) / 2, w / 2, np.sqrt(1 - albedo), np.ones(64)
    for _ in range(400):
        H = (H + 1 / (root + albedo / 2 * (w * x * H / (x[:, None] + x)).sum(1))) / 2
    at_8 = 1 / (root + albedo / 2 * (w * x * H / (script.INCIDENCE + x)).sum())
    slab = script.Slab(1.0)
    found = slab.reflectance(slab.layer(100 * (1 - albedo), 100 * albedo, 1000.0)[0])
    np.testing.assert_allclose(found, [1 - root * at_8, 1 - 2 * root * (w * x * H).sum()], atol=2e-6)


def test_half_space_with_a_surface_is_giovanellis_and_a_clear_layer_beers(script):
    """Giovanelli (1955): 0.2600 for n = 1.5 and albedo 0.9, the surface's 0.04 included."""
    slab = script.Slab(1.5)
    found, _ = slab.reflectance(slab.layer(10.0, 90.0, 100.0)[0])
    assert found + 0.04 == pytest.approx(0.2600, abs=5e-4)
    # and a clear layer keeps Beer's and Lambert's law
    slab = script.Slab(1.0)
    reflection, transmission = slab.layer(500.0, 0.0, 0.006)
    assert not reflection.any()
    through = np.diag(transmission) * slab.sample.twonuw
    np.testing.assert_allclose(through, np.exp(-3 / slab.sample.nu), atol=1e-7)


def test_the_script_writes_the_table(script, tmp_path, monkeypatch):
    # a whole table takes a quarter of a minute
    monkeypatch.setattr(transfer, "NODES", (2, 1))
    monkeypatch.setattr(transfer, "LAYERS", {"matched": (1.0, True)})
    monkeypatch.setattr(script, "CELLS", ((0.05,), (0.02,)))
    script.main(tmp_path / "small.npz")
    assert transfer.load(tmp_path / "small.npz").reflectance.shape == (1, 2, 2, 1, 33)
