"""Table 1 on cubes whose maps are known, and on faces beyond the usual, where errors stand beside a constant's."""

import dataclasses

import numpy as np
import pytest
from conftest import refuses
from test_metrics import made_up

from bioface import camera, illumination, image_formation, metrics, skin, spectra
from bioface.datasets import cubes, twin
from bioface.maps import of_twin
from study import figures, table1
from study import table1_drawings as draw

NM = spectra.WAVELENGTHS.numpy()


def known_maps(height, width, seed=0):
    rng = np.random.default_rng(seed)
    spans = ((0.02, 0.3), (0.02, 0.06), (0.5, 1.2), (0.0, 0.1))
    return [rng.uniform(*span, (height, width)) for span in spans]


def cube_of(maps, wavelengths=NM, mask=None):
    """A cube of the skin model, under a tilted light."""
    light = 1 + (wavelengths - 400) / 300
    R = skin.reflectance(maps[0], maps[1], wavelengths=wavelengths)
    factor = maps[2][..., None] * R + maps[3][..., None]
    return cubes.Cube.from_array(factor * light, wavelengths, light, mask)


def test_known_maps_come_back():
    maps = known_maps(8, 8)
    mask = np.arange(8) < np.full((8, 1), 6)
    truth = table1.pseudo_truth(cube_of(maps, mask=mask), size=8)
    np.testing.assert_array_equal(truth.mask, mask)
    for name, expected in zip(("melanin", "haemoglobin", "diffuse_shading", "specular_shading"), maps, strict=True):
        np.testing.assert_allclose(getattr(truth, name)[mask], expected[mask], rtol=2e-3, atol=1e-5, err_msg=name)
    assert truth.reconstruction[mask] == pytest.approx(truth.image[mask], abs=2e-3)
    assert (truth.camera_b == 0).all() and truth.illuminant.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [8, 4])
def test_what_is_missing_outside_the_mask_does_not_matter(size):
    maps, mask = known_maps(8, 8), np.arange(8) < np.full((8, 1), 5)
    there = table1.pseudo_truth(cube_of(maps, mask=mask), size=size)
    maps[2][~mask] = np.nan
    missing = table1.pseudo_truth(cube_of(maps, mask=mask), size=size)
    np.testing.assert_allclose(missing.melanin, there.melanin, atol=1e-6)
    assert np.isfinite(missing.image).all()


def test_the_image_is_what_the_mean_camera_takes_under_d65():
    maps = known_maps(8, 8)
    S, d65 = camera.CameraModel.load().sensitivity(), illumination.standard("D65")
    expected = image_formation.render(*maps, d65.numpy(), S.numpy(), method="exact")
    np.testing.assert_allclose(table1.pseudo_truth(cube_of(maps), size=8).image, expected, atol=1e-5)


def test_missing_bands_are_not_invented():
    """31 bands give the maps back as 33 do, and all but the same image."""
    maps = known_maps(6, 6)
    full, fewer = (table1.pseudo_truth(cube_of(maps, nm), size=6) for nm in (NM, NM[2:]))
    np.testing.assert_allclose(fewer.melanin, full.melanin, rtol=1e-3)
    difference = np.abs(fewer.image - full.image).max()
    assert 1e-6 < difference < 0.02


def test_a_large_cube_is_cut_to_its_face_and_averaged():
    """Blocks of 5 × 5 pixels of one skin each come out as one pixel each, whatever lies outside the mask."""
    maps = known_maps(10, 10)
    large = [np.kron(m, np.ones((5, 5))) for m in maps]
    whole = table1.pseudo_truths([cube_of(large)] * 2, size=10)
    np.testing.assert_allclose(whole.melanin, [maps[0]] * 2, rtol=5e-3)
    mask = np.zeros((50, 50), bool)
    mask[10:40, 15:45] = True
    spoilt = [np.where(mask, m, 0.01) for m in large]
    face = table1.pseudo_truth(cube_of(spoilt, mask=mask), size=12)  # 30 pixels and a tenth on each side: 36, by 3
    assert face.mask.sum() == 100 and face.mask[1:11, 1:11].all()
    assert face.melanin[1:11, 1:11].mean() == pytest.approx(large[0][mask].mean(), rel=0.1)
    assert face.melanin[1, 1] == pytest.approx(maps[0][2, 3], rel=5e-3)


def test_a_cube_at_the_edge_or_smaller_than_the_picture():
    maps = known_maps(6, 9)
    mask = np.zeros((6, 9), bool)
    mask[:3, :4] = True
    truth = table1.pseudo_truth(cube_of(maps, mask=mask), size=16)
    assert truth.image.shape == (16, 16, 3) and np.isfinite(truth.image).all()
    assert truth.mask.any() and not truth.mask.all()


def test_what_cannot_be_scored_is_refused():
    white = cubes.Cube.from_array(np.full((4, 4, 33), 0.5), NM, np.ones(33))
    refuses("converges", table1.pseudo_truth, white, size=4)


@pytest.fixture
def truth():
    return made_up(3, 8, 8)


def off_by(truth, amount):
    """A method that is off by so much in the diffuse shading of each face."""
    wrong = truth.diffuse_shading + np.asarray(amount, np.float32)[..., None, None]
    return lambda image, mask: dataclasses.replace(truth, diffuse_shading=wrong)


def test_a_row_has_a_number_for_each_seed_and_face(truth):
    seeds = np.random.default_rng(5).uniform(0.5, 1.5, (2, 3)) * np.array([[0.1], [0.3]])
    row = table1.row([off_by(truth, amounts) for amounts in seeds], truth)
    assert row.errors["diffuse_raw"].shape == (2, 3) and row.seconds > 0 and len(row.predictions) == 2
    assert row.mean("diffuse_raw") == pytest.approx(row.errors["diffuse_raw"].mean())
    assert row.mean("melanin") == 0
    of_faces = row.errors["diffuse_raw"].mean(0).var(ddof=1) / 3
    of_seeds = row.errors["diffuse_raw"].mean(1).var(ddof=1) / 2
    assert row.standard_error("diffuse_raw") == pytest.approx(np.sqrt(of_faces + of_seeds))
    assert row.of(np.array([2])).mean("diffuse_raw") == pytest.approx(row.errors["diffuse_raw"][:, 2].mean())


def test_lead_pairs_faces(truth):
    hard = np.array([0.1, 0.5, 0.9])  # some faces are harder, for both alike
    better, worse = (table1.row(off_by(truth, hard + amount), truth) for amount in (0.0, 0.1))
    apart, error = table1.lead(better, worse, "diffuse_raw")
    assert apart == pytest.approx(0.1, abs=1e-5) and error < 1e-5 < better.standard_error("diffuse_raw")
    assert table1.lead(worse, better, "diffuse_raw")[0] == pytest.approx(-0.1, abs=1e-5)
    nothing = dataclasses.replace(truth, specular_shading=np.full_like(truth.melanin, np.nan))
    silent = table1.row(lambda image, mask: nothing, truth)
    assert np.isnan(table1.lead(better, silent, "specular")).all() and np.isnan(silent.mean("specular"))
    assert table1.least_lead(better, {"silent": silent, "worse": worse}, ("specular",)) == (
        0,
        "against worse: specular",
    )
    scores = table1.scores({"silent": silent}, ("specular", "diffuse")) | {
        "on record": {"specular": (None, None), "diffuse": (0.1, 0.02)}
    }
    lines = table1.as_text(scores, ("specular", "diffuse")).splitlines()
    assert [line.split() for line in lines[:2]] == [["specular", "diffuse"], ["silent", "–", "0.000", "±", "0.000"]]
    assert lines[2].split() == ["on", "record", "–", "0.100", "±", "0.020"]


def a_row(value, faces=4):
    return row_of(dict.fromkeys(metrics.TABLE1, [value] * faces))


def row_of(errors):
    """A row of one seed; ``errors`` holds a number for each face."""
    return table1.Row({column: np.array([values], float) for column, values in errors.items()}, (), 0.0)


def test_the_twin_decides_no_verdict():
    found = table1.verdicts({"a constant": a_row(0.2), "zero": a_row(0.5)})
    assert list(found) == list(table1.AS_PUBLISHED["BioFaceNet"])
    for column, v in found.items():
        assert v["verdict"] == "cannot be judged" and v["measured"] is None and "no ISET faces" in v["reason"]
        assert v["published"] == table1.AS_PUBLISHED["BioFaceNet"][column] and v["constant"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("factors", "verdict", "count"),
    [
        ([1.1] * 4, "reproduced", "4 ISET faces"),
        ([0.5] * 4, "not reproduced", "4 ISET faces"),
        ([0.2, 1.8], "cannot be judged", ""),  # too wide
        ([1], "cannot be judged", ""),
    ],
)
def test_iset_faces_decide_unless_their_errors_are_too_wide_or_of_one_face(factors, verdict, count):
    published = table1.AS_PUBLISHED["BioFaceNet"]
    ours = row_of({column: np.multiply(factors, value) for column, value in published.items()})
    found = table1.verdicts({"a constant": a_row(9), "better": a_row(0.2)}, ours)
    assert {v["verdict"] for v in found.values()} == {verdict}
    assert found["diffuse"]["measured"] == pytest.approx(np.mean(factors) * published["diffuse"])
    assert count in found["diffuse"]["reason"] and found["diffuse"]["constant"] == pytest.approx(0.2)


FACES = 3


@pytest.fixture(scope="module")
def found():
    """Rows of a constant, and of one that knows the truth but for a fifth of the light and a bit of melanin."""
    known = {kind: of_twin(table1.beyond(kind, FACES)) for kind in ("", "exposure")}

    def close(image, mask):
        true = next(t for t in known.values() if np.array_equal(t.image, image))
        shading = 1.2 * true.diffuse_shading
        return dataclasses.replace(true, diffuse_shading=shading, melanin=1.05 * true.melanin.clip(0, 0.4))

    def constant(image, mask):
        true = known[""]
        names = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading", "albedo", "reconstruction")
        flat = {n: np.full_like(getattr(true, n), getattr(true, n)[true.mask].mean()) for n in names}
        return dataclasses.replace(true, **flat, image=image)

    return table1.rows({"close": close, "constant": constant}, known, FACES)


def test_the_usual_faces_are_those_of_the_test_set():
    face = twin.make_face(0, "test", *twin.plan(twin.TwinConfig(), "test")[FACES - 1])
    np.testing.assert_array_equal(of_twin(table1.beyond("", FACES)).diffuse_shading[-1], face["diffuse_shading"])


@pytest.mark.slow
def test_brightness_is_counted_in_octaves_of_the_shading(found):
    for of_kind in found.values():
        np.testing.assert_allclose(of_kind["close"].errors["brightness"], np.log2(1.2), atol=1e-3)
        assert table1.error(of_kind["close"], "brightness") == pytest.approx(np.log2(1.2), abs=1e-3)
    wrong = found[""]["constant"].errors["brightness"]
    assert wrong.min() < 0 < wrong.max()  # a mean of what is signed would call it nearly right
    assert table1.error(found[""]["constant"], "brightness") > np.abs(wrong).mean() > abs(wrong.mean())


@pytest.mark.slow
def test_a_share_is_of_the_constants_error_on_the_same_faces(found):
    for of_kind in found.values():
        assert table1.share(of_kind, "constant", "constant", "melanin") == 1
        expected = of_kind["close"].mean("melanin") / of_kind["constant"].mean("melanin")
        assert table1.share(of_kind, "close", "constant", "melanin") == expected < 0.5
    words = "melanin: close {:.3f}, constant {:.3f}".format(*(r.mean("melanin") for r in found[""].values()))
    assert table1.beside(found[""], "melanin") == words


# --- pictures ----------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The numbers beside a figure that was saved."""
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))
    return lambda name: figures.numbers(name, tmp_path)


@pytest.mark.slow
def test_methods_are_drawn_by_column_whatever_they_have_and_however_far_they_are(truth, drawn):
    names = ("training mean", "published", "density, fixed")
    scores = {name: dict.fromkeys(metrics.TABLE1, (0.1 * 3**k, 0.01)) for k, name in enumerate(names)}
    scores["U-Net, no skin model"] = dict.fromkeys(metrics.TABLE1, (None, None))
    draw.methods("05_x", scores, ["published"], data="x")
    assert drawn("05_x")["density, fixed"]["melanin"] == [0.9, 0.01]
    mean = table1.row(off_by(truth, 0.1), truth)
    draw.published("05_z", table1.verdicts({"training mean": mean}), data="x")
    assert drawn("05_z")["melanin"]["verdict"] == "cannot be judged"


@pytest.mark.slow
def test_shares_are_drawn_as_they_are(drawn):
    shares = {"published": {"": {"melanin": 0.5, "brightness": 0.2}, "tone": {"melanin": 1.5, "brightness": 0.1}}}
    draw.beyond("05_x", shares, data="x")
    assert drawn("05_x") == shares
