"""Measured skin spectra: the selection, the scale, the cache, and each way a file can be wrong."""

import shutil

import numpy as np
import openpyxl
import pytest
import scipy.io
from conftest import refuses

from bioface import paths, skin
from bioface.datasets import portrait, registry, skin_spectra
from study import calibration


@pytest.fixture
def issa(issa_build, monkeypatch):
    """The whole of the real archive."""
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    return skin_spectra._issa(registry.placed("issa")[0])


SCHEME = [["CODES"], [], ["ETHNICITY", None, None, "BODY LOCATION"]]
SCHEME += [["CA", "Caucasian", None, 2, "Cheek"], ["AF", "African", None, 8, "Neck"]]
HEADER = [*"ABCDEFGHIJKL", None, *range(360, 741, 10)]


def workbook(path, rows):
    """A small archive in the layout of the real one: rows of (number, group, site, percent, …)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    sheets = {"Coding Scheme": SCHEME, "ISSA": [["before the header"]] * 11 + [HEADER, *rows]}
    for name, lines in sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
    book.save(path)
    return path


def record(number=1, group="CA", site=2, percent=30.0, missing=None):
    """A row of the workbook, measured 400–700 nm."""
    spectrum = [None] * 4 + [percent] * 31 + [None] * 4
    if missing is not None:
        spectrum[4 + missing] = None
    return [number, 1, number, group, "F", 2, site, "SP", "SCI", 400, 700, 10, None, *spectrum]


@pytest.fixture
def small(tmp_path, monkeypatch, folders):
    """Make ``load("issa")`` read a workbook of three records, and return its path."""
    records = [record(1), record(2, "AF", 8, 12.5), record(3, missing=7), record(4, percent=20)]
    path = workbook(tmp_path / "ISSA_test.xlsx", records)
    monkeypatch.setattr(registry, "placed", lambda _: [path])
    return path


def test_the_face_has_7553_spectra_in_eight_groups(issa):
    face = issa[np.isin(issa.site, skin_spectra.FACE_SITES)]
    assert len(issa) == 15256
    assert face.reflectance.shape == (7553, 31)
    assert face.groups == tuple(sorted(portrait.SHAPES))
    counts = [int((face.group == g).sum()) for g in face.groups]
    assert counts == [586, 1387, 1362, 354, 428, 592, 744, 2100]  # counted in the workbook of 17 January 2025
    assert set(face.site) == set(skin_spectra.FACE_SITES)
    np.testing.assert_array_equal(face.wavelengths, np.arange(400, 701, 10))


def test_reflectance_is_a_fraction_and_looks_like_skin(issa):
    r = issa.reflectance
    assert r.dtype == np.float64
    assert r.min() > 0 and r.max() < 0.8  # fractions
    red, blue = r[:, issa.wavelengths == 700].mean(), r[:, issa.wavelengths == 420].mean()
    assert 0.4 < red < 0.7 and 0.1 < blue < 0.25
    first = r[(issa.subject == 1) & (issa.site == "Forehead")][0]
    np.testing.assert_allclose(first[[0, -1]], [0.1712, 0.5244], atol=0.01)
    level = {g: r[issa.group == g].mean() for g in issa.groups}
    assert min(level, key=level.get) == "African"
    people = set(zip(issa.subject, issa.group, strict=True))
    assert len(people) == len(set(issa.subject)), "people of two groups"


def cache_file():
    (path,) = (paths.build() / "cache").glob("issa-*.npz")
    return path


def test_the_default_is_the_face_and_the_second_time_it_comes_from_the_cache(small, monkeypatch):
    spectra = skin_spectra.load()
    assert list(spectra.site) == ["Cheek", "Cheek"]
    np.testing.assert_allclose(spectra.reflectance[:, 0], [0.30, 0.20])
    monkeypatch.setattr(skin_spectra, "_parse_issa", lambda path: pytest.fail("parsed again"))
    np.testing.assert_array_equal(skin_spectra.load().reflectance, spectra.reflectance)
    whole = skin_spectra._issa(small)  # whose third record lacks a band
    assert list(whole.group) == ["Caucasian", "African", "Caucasian"]


@pytest.mark.parametrize("damage", ["a bit", "a missing array"])
def test_a_corrupt_cache_is_rebuilt(small, damage):
    first = skin_spectra.load()
    path = cache_file()
    content = path.read_bytes()
    where = content.index(first.reflectance[0].tobytes())
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    if damage == "a missing array":
        np.savez(path, reflectance=first.reflectance)
    again = skin_spectra.load()
    np.testing.assert_array_equal(first.reflectance, again.reflectance)
    assert cache_file().read_bytes() == content  # written anew, the same


def test_a_damaged_asset_is_named(tmp_path, monkeypatch):
    path = tmp_path / "pigments.npz"
    monkeypatch.setattr(skin_spectra, "PIGMENTS", path)
    refuses("pigments.npz: expected pigments of measured skin, found no such file", skin_spectra.pigments)
    path.write_bytes(b"not an archive")
    refuses("pigments.npz: .*found something else", skin_spectra.pigments)
    np.savez(path, melanin=np.zeros(3))
    refuses("found one without some of its arrays .*haemoglobin", skin_spectra.pigments)


def test_another_file_than_the_known_one_and_unknown_names(tmp_path, folders, monkeypatch):
    """Numbers are read from files whose checksums are known: nothing else can be wrong with them."""
    refuses("unknown skin spectra 'isa'; did you mean 'issa'", skin_spectra.load, "isa")
    cheeks = folders / registry.ENTRIES["cheeks"].files[0]
    refuses("HyspexSkinReflectance.mat: expected .*nothing there. `make data`", skin_spectra.load, "iset")
    cheeks.parent.mkdir()
    scipy.io.savemat(cheeks, {"data": np.full((148, 2), 40.0)})
    refuses("HyspexSkinReflectance.mat: expected SHA-256", skin_spectra.load, "iset")
    other = workbook(tmp_path / registry.ENTRIES["issa"].files[0].split("/")[-1], [record(percent=0.3)])
    monkeypatch.setattr(registry, "_present", lambda entry: [other])
    refuses("ISSA_.*.xlsx: expected SHA-256", skin_spectra.load)


def test_the_real_cheeks(real_file, folders):
    name = registry.ENTRIES["cheeks"].files[0]
    target, source = folders / name, real_file(name)
    target.parent.mkdir()
    shutil.copy(source, target)
    cheeks = skin_spectra.load("iset")
    assert cheeks.reflectance.shape == (71, 31)
    np.testing.assert_array_equal(cheeks.wavelengths, np.arange(420, 721, 10))
    assert cheeks.reflectance.min() > 0.03 and cheeks.reflectance.max() < 0.8
    raw = scipy.io.loadmat(source)
    nm = raw["wavelength"].ravel().astype(float)
    # 440 nm was measured itself; the others lie between their measured neighbours.
    np.testing.assert_allclose(cheeks.reflectance[:, 2], raw["data"][np.flatnonzero(nm == 440)[0]])
    for i, w in enumerate(cheeks.wavelengths):
        near = np.sort(raw["data"][[np.flatnonzero(nm <= w)[-1], np.flatnonzero(nm >= w)[0]]], axis=0)
        assert (cheeks.reflectance[:, i] >= near[0] - 1e-12).all()
        assert (cheeks.reflectance[:, i] <= near[1] + 1e-12).all()


def test_the_pigments_that_ship_are_those_of_a_fit(issa_build, monkeypatch):
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    issa = skin_spectra.load("issa")
    np.testing.assert_array_equal(skin_spectra.people(), issa.subject)
    fitted = calibration.held(issa.reflectance, issa.wavelengths)
    np.testing.assert_allclose(np.stack(skin_spectra.pigments(), -1), fitted[:, :2], atol=1e-5)
    # painted with them, skin is as bright as it was measured, in every group
    painted = skin.reflectance(*fitted[:, :2].T, wavelengths=issa.wavelengths) + calibration.SURFACE
    for group in issa.groups:
        ratio = painted[issa.group == group].mean(1) / issa.reflectance[issa.group == group].mean(1)
        assert abs(np.median(ratio) - 1) < 0.05, group
