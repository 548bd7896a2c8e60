"""The audit on small made-up faces: a bump for a nose, a ridge for a mouth, in any light, with known faults."""

import dataclasses

import h5py
import numpy as np
import pytest
from conftest import refuses

from bioface import image_formation, metrics, shading
from bioface.datasets import nfe, twin
from bioface.errors import DataError
from study import audit

ROW, COLUMN = np.mgrid[:64, :64].astype(float)


#: The part of the twin's truth that the audit reads.
KnownTruth = dataclasses.make_dataclass("KnownTruth", ["diffuse_shading", "normals", "mismatch", "identity"])


def relief(rng):
    """(64, 64) height of a nose and a mouth of somebody."""
    nose_row, mouth_row = rng.uniform(32, 40), rng.uniform(46, 53)
    wide, thick = rng.uniform(2.5, 6), rng.uniform(1.2, 2.5)
    nose = rng.uniform(4, 9) * np.exp(-((COLUMN - 31.5) ** 2) / wide**2 - (ROW - nose_row) ** 2 / 60)
    mouth = rng.uniform(1, 3) * np.exp(-((COLUMN - 31.5) ** 2) / 60 - (ROW - mouth_row) ** 2 / thick**2)
    return nose + mouth


def normals_of(height):
    """Unit normals, x right, y up, z to the viewer; rows go down, so the slope in y changes sign."""
    down, right = np.gradient(height)
    vectors = np.stack([-right, down, np.ones_like(height)], axis=-1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_faces(count=24, seed=0, share=0.5, noise=0.01):
    """Faces with truth: photo from the true relief, stored normals from another one where mismatched."""
    rng = np.random.default_rng(seed)
    mask = ((COLUMN - 31.5) / 22) ** 2 + ((ROW - 32) / 27) ** 2 < 1
    head = 30 * np.sqrt(np.clip(1.6 - ((COLUMN - 31.5) / 30) ** 2 - ((ROW - 32) / 36) ** 2, 0.05, None))
    mismatch = np.arange(count) < share * count
    fields = []
    for wrong in mismatch:
        true, other = (normals_of(head + relief(rng)) * mask[..., None] for _ in range(2))
        light = np.array([0.8, *rng.uniform(-0.35, 0.35, 1), 0.35, *rng.uniform(-0.35, 0.35, 1), 0, 0, 0, 0, 0])
        albedo = rng.uniform(0.2, 0.6) * np.array([1.0, 0.6, 0.4])
        colours = albedo * rng.normal(1, noise, (64, 64, 1))
        fields.append((colours, other if wrong else true, np.tile(light, (3, 1)), true))
    colours, normals, lighting, true = (np.array(values, np.float32) for values in zip(*fields, strict=True))
    faces = nfe.Faces(
        rgb=np.zeros((count, 64, 64, 3), np.float32),
        normals=true,
        mask=np.tile(mask, (count, 1, 1)),
        lighting=lighting,
        coordinates=np.tile(np.stack([COLUMN, 63 - ROW, 0 * ROW], -1) / 63, (count, 1, 1, 1)).astype(np.float32),
        names=tuple(f"made_up:{i}" for i in range(count)),
    )
    stored = shading.stored_shading(faces)
    linear = colours * stored[..., None]
    rgb = np.rint(255 * image_formation.srgb_encode(linear.clip(0, 1))) / 255
    truth = KnownTruth(stored, true, mismatch, np.arange(count))
    return dataclasses.replace(faces, rgb=rgb.astype(np.float32), normals=normals, truth=truth)


@pytest.fixture(scope="module")
def faces():
    return make_faces()


def write(folder, number, faces, **channels):
    """The faces as a pair of NFE files; ``channels`` replaces stored parts by name."""
    stored = {
        "rgb": faces.rgb,
        "normals": (faces.normals + 1) / 2,
        "mask": faces.mask[..., None],
        "coordinates": faces.coordinates,
    } | channels
    folder.mkdir(exist_ok=True)
    images = np.moveaxis(np.concatenate([np.asarray(v, float) for v in stored.values()], axis=-1), -1, 1)
    for kind, values in (("d10_inmc", images), ("d3_lrgb", faces.lighting.astype(float))):
        with h5py.File(folder / f"zx_7_{kind}_celebA_{number:02d}.hdf5", "w") as file:
            file["zx_7"] = values


def source_of(folder, faces, **channels):
    """A source that reads such files."""
    write(folder / "nfe", 1, faces, **channels)
    return audit.open_source()


def verdicts(checks):
    return {c.check.strip(): c.verdict for c in checks}


def test_score_finds_the_wrong_relief(faces):
    score = shading.mismatch_score(faces)
    assert metrics.auc(score, faces.truth.mismatch) > 0.95
    assert np.median(score[~faces.truth.mismatch]) < 0.1 < 0.2 < np.median(score[faces.truth.mismatch])


def test_score_of_a_face_is_its_own_without_truth_exposure_and_colour_cast(faces):
    """Camera and light multiply the channels of an image by constants, shading by its exposure."""
    score = shading.mismatch_score(faces)
    np.testing.assert_array_equal(shading.mismatch_score(dataclasses.replace(faces, truth=None)), score)
    np.testing.assert_allclose(shading.mismatch_score(faces[5:9]), score[5:9], atol=1e-12)
    linear = image_formation.srgb_decode(faces.rgb) * np.array([0.8, 0.6, 1.0], np.float32)
    cast = dataclasses.replace(faces, rgb=image_formation.srgb_encode(linear), lighting=2 * faces.lighting)
    np.testing.assert_allclose(shading.mismatch_score(cast), score, atol=0.02)  # dark pixels stop at DARKEST


def test_alignment_forgives_one_pixel(faces, monkeypatch):
    matched = faces[~faces.truth.mismatch]
    moved = dataclasses.replace(matched, normals=np.roll(matched.normals, (1, -1), (1, 2)) * matched.mask[..., None])
    assert (np.median(shading.compare(moved).shift, axis=0) == (-1, 1)).all()
    forgiven = np.median(shading.mismatch_score(moved))
    monkeypatch.setattr(shading, "SHIFTS", ((0, 0),))
    assert forgiven < 0.5 * np.median(shading.mismatch_score(moved))


def test_flat_shading_shows_nothing_of_the_photo(faces):
    ambient = np.broadcast_to(np.arange(9) == 0, faces.lighting.shape).astype(np.float32)
    for change in ({"lighting": ambient}, {"rgb": np.zeros_like(faces.rgb)}):
        assert shading.mismatch_score(dataclasses.replace(faces, **change)) == pytest.approx(np.ones(len(faces)))


def test_photo_gives_its_shading_back():
    faces = make_faces(6, share=0.0, noise=0.0)
    stored = shading.stored_shading(faces)
    error = shading.shading_of_photo(faces, stored) - np.log(np.maximum(stored, 0.05))
    assert np.sqrt(np.mean(error[faces.mask] ** 2)) < 0.02


def test_window_follows_the_face():
    mask = make_faces(2).mask
    window = shading.mouth_and_nose(mask)
    assert (window <= mask).all() and 0.1 < window.sum() / mask.sum() < 0.5
    moved = shading.mouth_and_nose(np.roll(mask, (-3, 2), (1, 2)))
    np.testing.assert_array_equal(moved, np.roll(window, (-3, 2), (1, 2)))
    refuses("empty mask", shading.mouth_and_nose, np.zeros((1, 64, 64), bool))


def test_detail_keeps_what_is_small_and_drops_what_is_wide():
    mask = make_faces(1).mask
    plane = (COLUMN + 2 * ROW + 7)[None]
    assert np.abs(shading.detail(plane, mask)[:, 20:44, 20:44]).max() < 0.05
    np.testing.assert_allclose(shading.detail(np.full((1, 64, 64), 3.0), mask), 0, atol=1e-12)
    dot = ((COLUMN == 32) & (ROW == 32))[None].astype(float)
    assert 0.8 < shading.detail(dot, mask)[0, 32, 32] < 1
    outside = np.where(mask, plane, np.nan)
    np.testing.assert_array_equal(shading.detail(outside, mask), shading.detail(plane, mask))


@pytest.mark.parametrize("kinds", [(), *((kind,) for kind in audit.DEGRADATIONS), audit.DEGRADATIONS])
def test_degraded_faces_are_still_faces(faces, kinds):
    worse, again = (audit.degrade(faces, np.random.default_rng(0), kinds) for _ in range(2))
    np.testing.assert_array_equal(worse.rgb, again.rgb)
    assert worse.rgb.min() >= 0 and worse.rgb.max() <= 1 and worse.rgb.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(worse.normals, axis=-1), faces.mask, atol=1e-5)
    assert np.array_equal(worse.rgb, faces.rgb) == ("photo" not in kinds)
    assert np.array_equal(worse.lighting, faces.lighting) == ("light" not in kinds)
    assert np.array_equal(worse.normals, faces.normals) == (not {"normals", "offset"} & set(kinds))


def test_mistakes_and_their_cost(faces):
    shadings = audit.mistakes(faces, np.random.default_rng(0))
    cost = {name: audit.cost(s, shadings[audit.RIGHT], faces.mask) for name, s in shadings.items()}
    correlation, error = cost.pop(audit.RIGHT)
    assert error.max() < 1e-3 and correlation.min() > 0.9999
    assert all(np.median(error) > 0.1 for _, error in cost.values())
    assert cost["min–max stretched"][0].min() > 0.999
    assert np.median(cost["normals not decoded"][0]) > np.median(cost["light of another face"][0])
    for seed in range(5):  # nobody gets his own light
        wrong = audit.mistakes(faces, np.random.default_rng(seed))["light of another face"]
        assert (np.abs(wrong - shadings[audit.RIGHT]).max((1, 2)) > 0.01).all()
    flat = audit.cost(np.ones_like(faces.mask, np.float32), shadings[audit.RIGHT], faces.mask)
    assert (flat[0] == 0).all()  # a constant correlates with nothing
    np.testing.assert_allclose(flat[1], 1, rtol=1e-3)  # and costs one standard deviation


def test_good_files_pass_every_check(faces, folders):
    source = source_of(folders, faces)
    assert source.name == "NFE (measured)" and list(source.streams) == ["01"]
    found = verdicts(
        audit.check_files(source)
        + audit.check_coordinates(source.faces)
        + audit.check_shading(source.faces, np.random.default_rng(0))
        + audit.check_duplicates(source)
    )
    to_look_at = {"normals, channels 3–5, as stored", "people in more than one split"}
    assert {name for name, verdict in found.items() if verdict != "ok"} == to_look_at


def test_faults_of_files_are_found(faces, folders):
    raw, bright = faces.normals.clip(0, 1), (3 * faces.rgb).clip(0, 1)
    soft = np.where(faces.mask, 0.7, 0)[..., None]
    found = verdicts(audit.check_files(source_of(folders, faces, normals=raw, rgb=bright, mask=soft)))
    assert found["decoded by 2x − 1"] == found["mask, channel 6"] == "wrong"
    assert found["clipped at 0 or 1, inside the mask"] == "look"


def test_lights_out_of_step_are_found(faces):
    shifted = dataclasses.replace(faces, lighting=np.roll(faces.lighting, 1, axis=0))
    rng = np.random.default_rng(0)
    assert audit.own_light(faces, rng) > 0.9
    assert 0.3 < audit.own_light(shifted, rng) < 0.7
    assert verdicts(audit.check_shading(shifted, rng))["own light beats a stranger's"] == "wrong"


def test_shading_for_display_values_is_found():
    matched = make_faces(8, share=0.0)
    display = dataclasses.replace(matched, rgb=image_formation.srgb_decode(matched.rgb) ** 0.999)
    slopes = [audit.check_shading(faces, np.random.default_rng(0))[2] for faces in (matched, display)]
    assert [slope.verdict for slope in slopes] == ["ok", "look"]
    low, high = (float(slope.found.split()[1].rstrip(",")) for slope in slopes)
    assert low == pytest.approx(1, abs=0.05) and high > 1.6


def test_a_coordinate_channel_that_is_shading_is_found(faces):
    lit = faces.coordinates.copy()
    lit[..., 2] = shading.stored_shading(faces)
    found = audit.check_coordinates(dataclasses.replace(faces, coordinates=lit))
    assert [c.verdict for c in found] == ["ok", "ok", "look"]
    assert "column +1.00" in found[0].found and "height +1.00" in found[1].found


def test_duplicates_are_found(faces):
    named = dataclasses.replace(faces, names=tuple(f"{'ab'[i % 2]}:{i}" for i in range(len(faces))))
    source = audit.Source("twin (synthetic)", {}, named)
    assert {c.verdict for c in audit.check_duplicates(source)} == {"ok"}
    twice = dataclasses.replace(source, faces=dataclasses.replace(named, rgb=named.rgb[np.r_[0, 0:23]]))
    assert audit.check_duplicates(twice)[0].found == "1 of 24"
    identity = faces.truth.identity.copy()
    identity[1] = identity[0]  # in files a and b
    shared = dataclasses.replace(named, truth=dataclasses.replace(faces.truth, identity=identity))
    assert audit.check_duplicates(dataclasses.replace(source, faces=shared))[1][1:] == ("1", "wrong")


def test_source_takes_faces_from_all_files_and_leaves_out_empty_ones(faces, folders):
    write(folders / "nfe", 1, faces[:10])
    mask = faces.mask[10:].copy()
    mask[3] = False
    write(folders / "nfe", 5, dataclasses.replace(faces[10:], mask=mask))
    source = audit.open_source()
    assert list(source.streams) == ["01", "05"] and len(source.faces) == 23 and source.left_out == 1
    assert verdicts(audit.check_files(source))["hardly a face, left out below"] == "look"
    some = audit.open_source(limit=6)
    assert {name.split("_")[-1].split(".")[0] for name in some.faces.names} == {"01", "05"}
    assert len(some.faces) + some.left_out == 6
    for number in (1, 5):
        write(folders / "nfe", number, dataclasses.replace(faces[:3], mask=np.zeros_like(faces.mask[:3])))
    with pytest.raises(DataError, match="400 pixels"):
        audit.open_source()


def test_floor_is_nothing_for_matched_faces(faces):
    floor, wrong = audit.floor(faces), faces.truth.mismatch
    for values in floor.values():
        assert values[~wrong].max() < 1e-6 < 0.005 < values[wrong].min()
    assert (floor["mouth and nose"] > floor["face"])[wrong].mean() > 0.9  # that is where they are wrong


def test_bias_is_told_from_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (60, 12, 12))
    mask, where = np.ones(noise.shape, bool), np.ones((12, 12), bool)
    share, flipped = audit.biased_share(noise, mask, where, rng)
    assert share <= np.quantile(flipped, 0.999) and flipped.mean() == pytest.approx(0.05, abs=0.015)
    share, flipped = audit.biased_share(noise + 0.5, mask, where, rng)
    assert share > 0.8 and share > flipped.max()


def test_source_is_the_twin_without_files(faces, folders, monkeypatch):
    made = folders / "twin"
    for split, number in twin.SPLITS.items():
        write(made, number, faces[:2])
        assert (made / twin.file_names(split)[0]).exists()
    monkeypatch.setattr(twin, "make", lambda: made)
    monkeypatch.setattr(twin, "load", lambda: faces)
    source = audit.open_source()
    assert source.name == "twin (synthetic)" and source.left_out == 0
    assert list(source.streams) == ["train", "validation", "test"] and len(source.faces) == len(faces)
