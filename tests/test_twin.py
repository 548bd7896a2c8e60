"""The synthetic twin: what it holds is true, the same every time, and whole or not there."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import time

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import refuses

from bioface import camera, degradation, illumination, image_formation, skin, smith2019
from bioface.datasets import cubes, heads, painting, portrait, skin_spectra, twin
from bioface.identifiability import MAPS
from bioface.maps import of_twin

SMALL = twin.TwinConfig(seed=3, train=6, validation=2, test=2, mismatch_share=0.5, cubes=1)


@pytest.fixture(scope="module")
def made(issa_build):
    """The folder of the small twin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFACE_BUILD", str(issa_build))
        yield twin.make(SMALL, progress=False)


@pytest.fixture
def build(issa_build, tmp_path, monkeypatch):
    """A build folder of the test's own that shares the parsed skin spectra."""
    (tmp_path / "cache").symlink_to(issa_build / "cache", target_is_directory=True)
    monkeypatch.setenv("BIOFACE_BUILD", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def faces(made):
    return twin.load(config=SMALL, progress=False)


def places(faces):
    """Where on the head each pixel lies, (N, H, W, 3)."""
    low, high = np.array(portrait.COORDINATES)
    return faces.coordinates * (high - low) + low


def read(path):
    """The arrays of an HDF5 file."""
    with h5py.File(path) as file:
        return {name: data[()] for name, data in file.items()}


def assert_within(values, limits):
    assert limits[0] - 1e-6 <= values.min() and values.max() <= limits[1] + 1e-6


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("validation", 2), ("test", 2)])
def test_files_have_the_layout_of_the_real_data_set(made, split, count):
    images, lights, truth = (read(made / name) for name in twin.file_names(split))
    assert set(images) == set(lights) == {"zx_7"}
    images, lights = images["zx_7"], lights["zx_7"]
    assert images.shape == (count, 10, 64, 64) and images.dtype == np.float64
    assert images.min() >= 0 and images.max() <= 1
    np.testing.assert_allclose(images[:, :3] * 255, np.rint(images[:, :3] * 255), atol=1e-9)  # eight bits
    assert set(np.unique(images[:, 6])) == {0.0, 1.0}
    outside = images[:, 6:7] == 0
    assert np.all(images[:, 3:6][np.broadcast_to(outside, (count, 3, 64, 64))] == 0.5)
    assert lights.shape == (count, 3, 9) and lights.dtype == np.float64
    np.testing.assert_array_equal(lights[:, 0], lights[:, 2])  # white light
    assert set(truth) == {f.name for f in dataclasses.fields(twin.Truth)}
    assert len(twin.load(split, config=SMALL)) == count


def test_truth_has_the_stated_shapes_and_ranges(faces):
    truth, n = faces.truth, len(faces)
    assert n == 10
    maps = (*MAPS, "pseudo_shading")
    assert {getattr(truth, name).shape for name in maps} == {(n, 64, 64)}
    assert {getattr(truth, name).dtype for name in (*maps, "albedo", "exposure")} == {np.dtype(np.float32)}
    m = faces.mask
    assert all(not getattr(truth, name)[~m].any() for name in (*maps, "normals", "albedo"))
    assert_within(truth.melanin[m], painting.MELANIN_RANGE)
    assert_within(truth.haemoglobin[m], painting.HAEMOGLOBIN_RANGE)
    assert truth.diffuse_shading.min() >= 0 and truth.specular_shading.min() >= 0
    assert np.abs(truth.camera_b).max() <= 3
    for directions in (truth.normals[m], truth.key_direction):
        np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(truth.illuminant.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(illumination.mix(truth.illuminant_weights, truth.cct), truth.illuminant, atol=1e-6)


def test_truth_is_sliced_with_the_faces(faces):
    for rows in ([4, 1], [-1]):
        np.testing.assert_array_equal(faces[rows].truth.identity, faces.truth.identity[rows])
        assert list(faces[rows].truth.group) == list(faces.truth.group[rows])


def test_rendering_the_truth_gives_the_stored_photo_to_its_last_bit(faces):
    truth, maps = faces.truth, [getattr(faces.truth, name) for name in MAPS]
    S = camera.CameraModel.load().sensitivity(truth.camera_b)
    linear = image_formation.render(*maps, truth.illuminant, S, method="exact")
    display = image_formation.srgb_encode(linear.clip(0, 1))
    assert np.abs(display - faces.rgb)[faces.mask].max() <= 0.5 / 255 + 1e-5
    found = of_twin(faces)
    np.testing.assert_allclose(found.reconstruction[faces.mask], linear[faces.mask], atol=1e-5)
    one, none = np.ones_like(maps[2]), np.zeros_like(maps[3])
    albedo = image_formation.render(*maps[:2], one, none, truth.illuminant, S, method="exact")
    np.testing.assert_allclose(found.albedo[faces.mask], albedo[faces.mask], atol=1e-6)


def test_shading_of_the_stored_normals_is_the_pseudo_shading_and_true_where_they_match(faces):
    truth, m = faces.truth, faces.mask
    pairs = (faces.normals, truth.pseudo_shading), (truth.normals, truth.diffuse_shading)
    for normals, expected in pairs:
        shading = illumination.sh_shading(normals, truth.lighting)
        np.testing.assert_allclose(shading[m], expected[m], atol=2e-6)
    for k in np.flatnonzero(~truth.mismatch):
        np.testing.assert_array_equal(truth.pseudo_shading[k], truth.diffuse_shading[k])
        np.testing.assert_allclose(faces.normals[k], truth.normals[k], atol=2e-7)
    np.testing.assert_array_equal(faces.lighting[:, 1], truth.lighting)


def test_mismatched_normals_are_wrong_around_mouth_and_nose_and_nothing_else_is(faces):
    wrong = np.flatnonzero(faces.truth.mismatch)
    assert 0 < len(wrong) < len(faces)
    energy = ((faces.normals - faces.truth.normals) ** 2).sum(-1)
    x, y, _ = np.moveaxis(places(faces), -1, 0)
    near = (np.abs(x) < 0.42) & (y > 6.35) & (y < 7.40)
    for k in wrong:
        assert energy[k].sum() > 3  # square radians, summed over pixels
        assert energy[k][near[k]].sum() > 0.85 * energy[k].sum()
    # and nothing else changes with them
    index, _, group = twin.plan(SMALL, "train")[0]
    right, wrong = (twin.make_face(3, "train", index, flag, group) for flag in (False, True))
    assert changed(right, wrong) == {"stored_normals", "pseudo_shading", "mismatch"}


def test_faces_are_bright_enough_to_be_seen_and_fill_the_picture(faces):
    for photo, mask in zip(faces.rgb, faces.mask, strict=True):
        assert 0.35 < mask.mean() < 0.8
        assert (photo[mask].max(-1) >= 1).mean() < 0.2 and photo[mask].mean() > 0.08
        # in one piece, around the middle of the picture
        assert mask[28:52, 24:40].mean() > 0.8 and not mask[0].all() and not mask[-1].any()


def test_lips_are_redder_with_blood_and_brows_darker_with_melanin(faces):
    P, truth = places(faces), faces.truth
    x, y = np.abs(P[..., 0]), P[..., 1]
    cheeks, forehead = (np.abs(x - 0.35) < 0.1) & (np.abs(y - 6.75) < 0.1), (x < 0.2) & (np.abs(y - 7.7) < 0.08)
    where = {"lips": painting.lips(P) > 0.9, "cheeks": cheeks, "forehead": forehead}
    where["brows"] = painting.brows(P, 0.0, 0.02) > 0.9
    for k, mask in enumerate(faces.mask):
        blood, melanin = (
            {n: m[k][w[k] & mask].mean() for n, w in where.items()} for m in (truth.haemoglobin, truth.melanin)
        )
        assert blood["lips"] > blood["cheeks"]
        assert melanin["brows"] > 1.05 * melanin["forehead"]


def test_base_colours_are_those_of_measured_people():
    colours = {group: np.stack(skin_spectra.pigments(), -1)[rows] for group, rows in portrait.base_rows().items()}
    assert len(colours) == 8 and set(colours) == set(portrait.SHAPES)
    assert min(map(len, colours.values())) >= 20
    melanin, haemoglobin = np.concatenate([*colours.values()]).T
    assert_within(melanin, portrait.BASE_MELANIN)
    assert_within(haemoglobin, portrait.BASE_HAEMOGLOBIN)
    median = {group: np.median(pairs[:, 0]) for group, pairs in colours.items()}
    assert median["African"] > 2 * median["Caucasian"]


def test_every_eight_faces_come_from_eight_groups_and_mismatches_are_spread():
    config = twin.TwinConfig(train=64)
    faces = twin.plan(config, "train")
    for k in range(0, 64, 8):
        assert len({group for _, _, group in faces[k : k + 8]}) == 8
    for k in range(0, 64, 16):
        assert sum(mismatch for _, mismatch, _ in faces[k : k + 16]) == pytest.approx(0.3 * 16, abs=1.5)
    for share in (0, 1):
        planned = twin.plan(dataclasses.replace(config, mismatch_share=float(share)), "train")
        assert {mismatch for _, mismatch, _ in planned} == {bool(share)}


def test_light_from_one_direction_is_brightest_there():
    direction = np.array([0.6, 0.0, 0.8])
    sharp, wide = (portrait.spherical_harmonics(direction, width) for width in (0.0, 0.6))
    normals = np.array([[direction, [0.0, 1.0, 0.0], -direction]])
    shading = illumination.sh_shading(normals, sharp)[0]
    assert shading[0] == pytest.approx(1.0625, abs=1e-3) and shading[0] > 5 * shading[1]
    assert illumination.sh_shading(normals, wide)[0, 0] < shading[0]


def test_exposure_is_even_in_octaves_and_nearly_nothing_clips(faces):
    octaves = np.log2(portrait.draw_exposure(4000, np.random.default_rng(0)))
    assert_within(octaves, portrait.EXPOSURES)
    np.testing.assert_allclose(np.histogram(octaves, 4, portrait.EXPOSURES)[0], 1000, atol=100)
    drawn = np.log2(faces.truth.exposure)
    assert_within(drawn, portrait.EXPOSURES)
    assert np.std(drawn) > 0.4
    clipped = [photo[mask].max(-1) >= 1 for photo, mask in zip(faces.rgb, faces.mask, strict=True)]
    assert np.concatenate(clipped).mean() < 0.02


def test_a_photographer_opens_up_for_dark_skin_but_not_all_the_way():
    fair, dark = (np.full((100, 3), albedo) * 0.5 for albedo in (0.5, 0.1))
    shading = np.full(100, 0.5)
    taken = [portrait.exposure(colours, shading, np.random.default_rng(0)) for colours in (fair, dark)]
    assert 1 < taken[1] / taken[0] < 5


@pytest.fixture(scope="module")
def by_kind():
    """The same face in all ways."""
    group = sorted(portrait.SHAPES)[0]
    return {kind: twin.make_face(3, "test", 1, False, group, kind) for kind in twin.BEYOND}


def changed(one, other):
    return {name for name in one if name != "paint" and not np.array_equal(one[name], other[name])}


@pytest.mark.parametrize("beyond", ("pose", "light", "colour"))
def test_beyond_is_the_same_person_in_what_no_usual_face_shows(by_kind, beyond):
    usual, other = by_kind[""], by_kind[beyond]
    shown_by = {"pose": "mask", "light": "key_direction", "colour": "camera_b"}
    assert changed(usual, other) & {*shown_by.values(), "identity"} == {shown_by[beyond]}
    skins = [np.median(face["melanin"][face["mask"]]) for face in (usual, other)]
    assert skins[0] == pytest.approx(skins[1], rel=0.1)


def test_another_exposure_multiplies_the_light_and_clips_nothing(by_kind):
    usual, darker = by_kind[""], by_kind["exposure"]
    lit = {"diffuse_shading", "specular_shading", "pseudo_shading", "lighting"}
    assert changed(usual, darker) == {"exposure", "rgb", *lit}
    for name in lit:
        np.testing.assert_allclose(darker[name] / darker["exposure"], usual[name] / usual["exposure"], atol=1e-5)
    assert darker["rgb"][darker["mask"]].max() < 1
    draws = [twin.make_face(3, "test", k, False, "Chinese", "exposure")["exposure"] for k in range(6)]
    assert_within(np.log2(draws), portrait.DARKER["exposure"])


@pytest.mark.parametrize("kind", ["tone", "jpeg", "noise"])
def test_an_image_chain_changes_the_photo_and_nothing_that_is_true(by_kind, kind):
    usual, other = by_kind[""], by_kind[kind]
    assert changed(usual, other) == {"rgb"}
    plain, seen = usual["rgb"], other["rgb"]
    expected = {
        "tone": degradation.tone_curve(plain, degradation.TONE),  # the index is odd; even ones are turned round
        "jpeg": degradation.jpeg(plain, 75),
        "noise": plain,
    }[kind]
    error = np.std((seen - expected)[usual["mask"]])
    assert 0.015 < error < 0.025 if kind == "noise" else error < 0.5 / 255
    np.testing.assert_allclose(255 * seen, np.rint(255 * seen), atol=1e-9)
    if kind == "tone":
        plain, seen = (twin.make_face(3, "test", 2, False, "African", way)["rgb"] for way in ("", kind))
        np.testing.assert_allclose(seen, degradation.tone_curve(plain, -degradation.TONE), atol=1.5 / 255)


@pytest.mark.parametrize("row", [0, 3000, 7000])
def test_measured_skin_is_the_measurement_without_its_surface(row):
    spectra, pigments = skin_spectra.load("issa"), np.stack(skin_spectra.pigments(), -1)
    paint, (m, h) = portrait.measured_paint(row), pigments[row, :, None]
    found, measured = paint.reflectance(m, h)[0], spectra.reflectance[row]
    assert found.shape == (33,)
    surface = measured - found[:31]  # the same at all bands, and no more than the surface's
    np.testing.assert_allclose(surface, surface.mean(), atol=1e-9)
    assert 0 <= surface.mean() <= portrait.SURFACE + 1e-9
    rest = found - skin.reflectance(m, h)[0]
    np.testing.assert_allclose(rest[31:], rest[30], atol=1e-9)  # 710 and 720 nm were not measured
    assert np.std(rest[:31]) > 1e-4  # skin is not the model
    more = paint.reflectance(1.1 * m, h)[0]  # other pigments move it as they move the model
    step = (skin.reflectance(1.1 * m, h) - skin.reflectance(m, h))[0]
    np.testing.assert_allclose(more - found, step, atol=1e-9)
    assert (paint.reflectance(0 * m + 0.43, 0 * h + 0.07) >= 0).all()


def test_faces_of_measured_skin_have_its_albedo_and_the_pigments_of_its_fit(by_kind):
    usual, other = by_kind[""], by_kind["measured"]
    same = {"melanin", "haemoglobin", "mask", "camera_b", "illuminant", "exposure", "normals", "key_direction"}
    assert not changed(usual, other) & same
    mask = other["mask"]
    apart = np.abs(other["albedo"] - usual["albedo"])[mask].mean() / usual["albedo"][mask].mean()
    assert 0.02 < apart < 0.5
    to_rgb = camera.reflectance_to_rgb(other["illuminant"], camera.CameraModel.load().sensitivity(other["camera_b"]))
    reflectance = other["paint"].reflectance(other["melanin"], other["haemoglobin"])
    np.testing.assert_allclose((reflectance @ to_rgb.T)[mask], other["albedo"][mask], atol=1e-5)
    linear = other["diffuse_shading"][..., None] * other["albedo"]
    linear += other["specular_shading"][..., None] * to_rgb.sum(-1)
    display = image_formation.srgb_encode(linear.clip(0, 1))
    assert np.abs(display - other["rgb"])[mask].max() <= 0.5 / 255 + 1e-5


def test_a_cube_of_measured_skin_is_measured(by_kind, tmp_path):
    face = by_kind["measured"]
    twin.write_cube(tmp_path / "cube.mat", face, face["mask"], "images.hdf5", 1)
    cube, mask = cubes.Cubes([tmp_path / "cube.mat"])[0], face["mask"]
    factor = cube.radiance / cube.illuminant - face["specular_shading"][..., None]
    albedo = factor / face["diffuse_shading"][..., None].clip(1e-6)
    expected = face["paint"].reflectance(face["melanin"], face["haemoglobin"])
    np.testing.assert_allclose(albedo[mask], expected[mask], atol=1e-4)


def test_beyond_is_outside_of_the_usual_range():
    rng = np.random.default_rng(0)
    poses = [(heads.draw_pose(rng), heads.draw_pose(rng, True)) for _ in range(200)]
    for usual, other in (np.abs([[getattr(p, angle) for p in pair] for pair in poses]).T for angle in ("yaw", "roll")):
        assert max(usual) < min(other)
    lights = [(portrait.draw_light(rng), portrait.draw_light(rng, True)) for _ in range(200)]
    usual, other = ([light[k].key_direction for light in lights] for k in (0, 1))
    assert all(key[1] < -0.2 or key[2] < 0.27 for key in other) and all(key[1] >= 0 and key[2] > 0.2 for key in usual)
    colours = [portrait.draw_camera_and_illuminant(rng, True) for _ in range(200)]
    assert all(2 <= np.linalg.norm(b) <= 3 + 1e-6 and weights.argmax() >= 2 for b, weights, _ in colours)


def test_no_person_is_in_two_splits_or_twice_in_one(faces):
    assert len(set(faces.truth.identity)) == len(faces)
    # another person, not another number: the first of each split differ in shape and colour
    first = [twin.load(split, 1, SMALL) for split in twin.SPLITS]
    for a, b in itertools.combinations(first, 2):
        assert np.abs(a.truth.melanin - b.truth.melanin).max() > 0.01
        assert np.abs(a.coordinates - b.coordinates).max() > 0.1


def test_a_face_depends_on_its_number_only(faces):
    """Not on the size of its split or the faces before it."""
    index, mismatch, group = twin.plan(SMALL, "train")[4]
    alone = twin.make_face(SMALL.seed, "train", index, mismatch, group)
    np.testing.assert_array_equal(alone["rgb"].astype(np.float32), faces.rgb[4])
    np.testing.assert_array_equal(alone["melanin"], faces.truth.melanin[4])
    assert twin.plan(dataclasses.replace(SMALL, train=20), "train")[:6] == twin.plan(SMALL, "train")
    other = twin.make_face(SMALL.seed + 1, "train", index, mismatch, group)
    assert np.abs(other["melanin"] - faces.truth.melanin[4]).max() > 0.01


def manifest(folder):
    return (folder / "manifest.json").read_text()


@pytest.mark.slow
def test_another_process_with_one_thread_writes_the_same_bytes(made, build, monkeypatch):
    for library in ("OMP", "OPENBLAS"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    process = multiprocessing.get_context("spawn").Process(target=twin.make, args=(SMALL, False))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert manifest(build / "twin" / made.name) == manifest(made)


def test_a_second_call_makes_nothing_and_neither_does_one_that_had_to_wait(made, monkeypatch):
    monkeypatch.setattr(twin, "make_face", lambda *_: pytest.fail("made again"))
    assert twin.make(SMALL) == made
    answers, intact = [False], twin._intact  # whole only once the other process has let go of the lock
    monkeypatch.setattr(twin, "_intact", lambda folder: answers.pop() if answers else intact(folder))
    assert twin.make(SMALL) == made and not answers


def test_an_interrupted_run_leaves_nothing(build, monkeypatch):
    real, left = twin.make_face, iter(range(3))

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(twin, "make_face", interrupted)
    with pytest.raises(KeyboardInterrupt):
        twin.make(SMALL, progress=False)
    assert list((build / "twin").iterdir()) == []


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_whole_and_is_cleaned_up(made, build):
    large = dataclasses.replace(SMALL, train=2000)
    process = multiprocessing.get_context("spawn").Process(target=twin.make, args=(large, False))
    process.start()
    limit = time.monotonic() + 60
    while not list((build / "twin").glob(".*.partial/*.hdf5")):
        assert time.monotonic() < limit and process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    left = list((build / "twin").iterdir())
    assert len(left) == 1 and left[0].name.endswith(".partial") and not (left[0] / "manifest.json").exists()
    again = twin.make(SMALL, progress=False)
    assert list((build / "twin").iterdir()) == [again]
    assert manifest(again) == manifest(made)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_twin_is_made_again(made, damage):
    path = made / twin.file_names("test")[0]
    before, content = manifest(made), path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "manifest":
        (made / "manifest.json").write_text("{")
    else:  # one bit, the size stays; or the size
        flipped = content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]
        path.write_bytes(flipped if damage == "flip" else content[:1000])
    assert twin.make(SMALL, progress=False) == made
    assert manifest(made) == before and path.read_bytes() == content
    assert twin._intact(made)


def test_the_name_of_the_folder_follows_what_it_is_made_from(monkeypatch):
    names = {twin.folder(config).name for config in (SMALL, dataclasses.replace(SMALL, seed=4))}
    monkeypatch.setattr(twin, "_CODE", b"other code")
    names.add(twin.folder(SMALL).name)
    assert len(names) == 3


@pytest.mark.parametrize("change", [{"seed": -1}, {"train": 0}, {"cubes": 3}, {"beyond": "poses"}])
def test_impossible_configurations_are_refused(change):
    refuses("cubes ≤ test, found Twin|did you mean 'pose'", dataclasses.replace, SMALL, **change)


def test_cubes_hold_the_radiance_of_the_truth_and_the_fit_finds_it(made):
    found, faces = twin.load_cubes(SMALL)
    assert len(found) == len(faces) == 1
    cube, truth = found[0], faces.truth
    assert isinstance(cube, cubes.Cube)
    stored = scipy.io.loadmat(found.files[0])
    assert stored["twin_index"].item() == 0 and stored["twin_file"].item() == twin.file_names("test")[0]
    np.testing.assert_array_equal(cube.mask, faces.mask[0])
    # the radiance is in no unit at all: the illuminant must not be taken for energy
    assert cube.illuminant.mean() == pytest.approx(1) and cube.scale == pytest.approx(1) and cube.dropped == ()
    e = truth.illuminant[0].astype(np.float64)
    maps = [getattr(truth, name)[0].astype(np.float64) for name in MAPS]
    expected = image_formation.render_spectral(*maps, e / e.mean())
    np.testing.assert_allclose(cube.radiance[cube.mask], expected[cube.mask], atol=1e-6)
    some = cube.mask & (np.arange(64) % 8 == 0)
    fit = smith2019.fit(cube.radiance, cube.wavelengths, cube.illuminant, mask=some)
    for found, true in zip((fit.melanin, fit.haemoglobin), maps, strict=False):
        np.testing.assert_allclose(found[some], true[some], atol=1e-3)
