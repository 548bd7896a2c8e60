"""A folder of photos as training data: what comes out, what is left out, and runs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import skimage.data
from conftest import no_room, refuses
from PIL import Image

from bioface import __main__ as cli
from bioface import camera, illumination, image_formation, paths, pictures
from bioface.datasets import nfe, prepare

FACE = skimage.data.astronaut()[20:240, 110:330]


def bytes_of(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve faces, and what else lies in a folder of photos."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for k in range(10):
        moved = np.roll(FACE, k, 1) // (1 + k / 10)
        Image.fromarray(moved.astype(np.uint8)).save(folder / f"{k}.png")
    Image.fromarray(np.rot90(FACE, -1)).save(folder / "more" / "顔 – Gesicht.png")  # on its right side
    Image.fromarray(FACE).convert("L").save(folder / "more" / "grey.PNG")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    os.symlink(folder / "1.png", folder / "link.png")
    os.symlink(folder / "gone.png", folder / "broken link.png")
    os.symlink(folder, folder / "more" / "loop")
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:9000])
    (folder / "tiny.png").write_bytes(b"")
    (folder / ".hidden.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "notes.txt").write_text("no photo")
    Image.fromarray(np.full((90, 90, 3), 128, np.uint8)).save(folder / "grey wall.png")
    Image.fromarray(FACE[:, :138]).save(folder / "half a face.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """What a run gives that nobody disturbed, and the folder it is in."""
    before, out = bytes_of(photos), tmp_path_factory.mktemp("out") / "nfe"
    made = prepare.prepare(photos, out)
    assert bytes_of(photos) == before  # only read
    return made, out


@pytest.mark.slow
def test_the_loader_reads_what_was_prepared(undisturbed):
    made, out = undisturbed
    assert made.faces == 12
    splits = {split: nfe.open_split(split, out) for split in nfe.SPLITS}
    assert {split: len(faces) for split, faces in splits.items()} == {"train": 10, "validation": 1, "test": 1}
    faces = splits["train"][:]
    for k in range(10):
        mask = faces.mask[k]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 56 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 60  # as the twin's
        np.testing.assert_allclose(np.linalg.norm(faces.normals[k][mask], axis=-1), 1, atol=1e-5)
        assert faces.normals[k][mask][:, 2].mean() > 0.6
        assert (faces.coordinates[k][~mask] == 0).all() and 0.4 < faces.coordinates[k][mask].mean() < 0.6
        # the light explains the photo better than one brightness does
        linear = np.asarray(image_formation.srgb_decode(faces.rgb[k]))
        shading = np.stack([illumination.sh_shading(faces.normals[k], light) for light in faces.lighting[k]], -1)
        fitted = shading * prepare.ALBEDO
        assert np.corrcoef(fitted[mask].sum(-1), linear[mask].sum(-1))[0, 1] > 0.5


@pytest.mark.slow
def test_every_photo_is_accounted_for(undisturbed, photos):
    made, out = undisturbed
    entries = [json.loads(line) for line in (out / prepare.LIST).read_text().splitlines()]
    assert [e["photo"] for e in entries] == sorted(e["photo"] for e in entries)
    assert made.left_out == {"a copy": 2, "unreadable": 4, "without a face": 1, "with a face cut off": 1}
    reasons = {e["photo"]: e["left_out"] for e in entries if "left_out" in e}
    assert reasons["copy.png"] == "a copy: of 0.png" and reasons["link.png"] == "a copy: of 1.png"
    assert reasons["grey wall.png"] == "without a face"
    assert reasons["half a face.png"] == "with a face cut off"
    damaged = {"broken link.png", "cut.png", "damaged.jpg", "tiny.png"}
    assert {n for n, r in reasons.items() if r.startswith("unreadable")} == damaged
    places = [(e["file"], e["row"]) for e in entries if "file" in e]
    assert len(set(places)) == 12 and all(0.9 < e["score"] <= 1 for e in entries if "file" in e)
    assert {e["photo"] for e in entries} == set(prepare._photos(photos))
    assert not (out / ".prepare").exists()


@pytest.mark.slow
def test_a_face_on_its_side_is_turned_upright(undisturbed):
    upright, _, _ = prepare.channels(FACE)
    for turns in (1, 2, 3):
        turned, _, _ = prepare.channels(np.rot90(FACE, turns))
        both = (turned[6] > 0) & (upright[6] > 0)
        assert both.mean() > 0.5
        assert np.corrcoef(turned[:3, both].ravel(), upright[:3, both].ravel())[0, 1] > 0.95


class Killed(BaseException):
    """As if the process ended here."""


def quick(path):
    """In place of finding the face: something that depends on the photo."""
    linear, _ = pictures.read(path, None)
    if linear.std() < 1e-3:
        raise prepare.LeftOut("without a face")
    value = np.float32(linear.mean())
    return np.full((10, 64, 64), value), np.full((3, 9), value), 0.95


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run that nobody disturbed, with :func:`quick`, and its folder."""
    out = tmp_path_factory.mktemp("quick") / "nfe"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "channels", quick)
        return prepare.prepare(photos, out), out


@pytest.mark.parametrize(("after", "rest"), [(0, b""), (3, b"half a line"), (9, b""), (12, b"half")])
def test_a_killed_run_goes_on_to_the_same_files(after, rest, photos, whole, tmp_path, monkeypatch):
    made, out = whole
    asked = []

    def dies(path):
        asked.append(path)
        if len(asked) > after:
            raise Killed
        return quick(path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prepare, "channels", dies)
        prepare.prepare(photos, tmp_path / "nfe")
    work = tmp_path / "nfe" / ".prepare"
    for file in ["journal", *(f.name for f in work.glob("d10_inmc_*"))]:  # what it was writing
        with (work / file).open("ab") as stream:
            stream.write(rest)
    monkeypatch.setattr(prepare, "channels", quick)
    again = prepare.prepare(photos, tmp_path / "nfe")
    assert (again.faces, again.left_out) == (made.faces, made.left_out)
    assert bytes_of(tmp_path / "nfe") == bytes_of(out)


@pytest.mark.parametrize("at", ["writing", "renaming", "removing"])
def test_killed_while_it_finishes(at, photos, whole, tmp_path, monkeypatch):
    """All is kept until all is written, and then the run is over."""
    _, out = whole
    monkeypatch.setattr(prepare, "channels", quick)
    where = {"writing": (prepare.h5py.File, "create_dataset"), "renaming": (prepare.Path, "rename")}

    def dies(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*where.get(at, (prepare.shutil, "rmtree")), dies)
        prepare.prepare(photos, tmp_path / "nfe")
    if at == "removing":
        refuses("a folder without faces in it", prepare.prepare, photos, tmp_path / "nfe")
    else:
        monkeypatch.setattr(prepare, "channels", lambda path: pytest.fail("looked at again"))
        prepare.prepare(photos, tmp_path / "nfe")
    assert bytes_of(tmp_path / "nfe") == bytes_of(out)


@pytest.mark.slow
def test_a_process_that_is_killed_three_times(photos, undisturbed, tmp_path):
    _, out = undisturbed
    command = [sys.executable, "-m", "bioface", "prepare", str(photos)]
    journal = tmp_path / "nfe" / ".prepare" / "journal"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")} | {"BIOFACE_DATA": str(tmp_path)}
    for lines in (2, 6, 11):
        process, end = subprocess.Popen(command, env=kept), time.monotonic() + 60
        while time.monotonic() < end and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for code, said in ((0, "left out: 4 unreadable"), (2, "expected a folder without faces in it")):
        done = subprocess.run(command, env=kept, capture_output=True, text=True)
        assert done.returncode == code and said in done.stderr
        assert code or (done.stdout.startswith("12 faces in ") and "prepared.jsonl" in done.stdout)
        assert bytes_of(tmp_path / "nfe") == bytes_of(out)


@pytest.mark.parametrize("size", [400_000, 1_300_000])
def test_a_full_disk_stops_it_and_another_run_goes_on(size, photos, whole, tmp_path, capsys, monkeypatch):
    _, out = whole
    monkeypatch.setattr(prepare, "channels", quick)
    with no_room(size):
        assert cli.main(["prepare", str(photos), "--out", str(tmp_path / "nfe")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "make room" in said and len(said.splitlines()) == 1
    assert not list((tmp_path / "nfe").glob("*.hdf5"))
    assert cli.main(["prepare", str(photos), "--out", str(tmp_path / "nfe")]) == 0
    assert bytes_of(tmp_path / "nfe") == bytes_of(out)


def test_folders_that_cannot_be_prepared(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    (tmp_path / "black").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "black" / "black.png")
    for folder, message in (
        ("none", "expected a folder of photos, found no such folder"),
        (photos / "0.png", "expected a folder of photos, found a file"),
        ("empty", "expected a folder with photos in it, found none"),
        ("black", "expected a photo with a face, found 1 without a face"),
    ):
        refuses(message, prepare.prepare, tmp_path / folder, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == {}


def test_an_unfinished_run_is_no_other_folders(photos, tmp_path):
    work = tmp_path / "out" / ".prepare"
    work.mkdir(parents=True)
    run = prepare._Run(work, photos)
    run.add("0.png")
    refuses("expected an unfinished run of", prepare.prepare, photos / "more", tmp_path / "out")
    with prepare.filelock.FileLock(work / "lock"):
        refuses("expected no other run", prepare.prepare, photos, tmp_path / "out")
    os.truncate(run.raw("d10_inmc", 1), 100)  # as a crash of the whole machine may leave it
    refuses("expected as many faces as in its journal", prepare.prepare, photos, tmp_path / "out")


def test_the_light_that_made_a_face_is_found_again():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(64, 64, 3)) * (1, 1, 0) + (0, 0, 1.2)
    normals = (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)
    light = np.array([[0.7, 0.1, 0.2, -0.2, 0.03, 0.02, 0.05, -0.04, 0.03]] * 3) * [[1], [0.8], [0.6]]
    shading = np.stack([illumination.sh_shading(normals, row) for row in light], -1)
    skin, rgb = np.ones((64, 64), bool), shading * prepare.ALBEDO
    np.testing.assert_allclose(prepare.light_of(rgb, normals, skin), light, atol=1e-4)
    rgb[::2] = 1.0  # clipped
    np.testing.assert_allclose(prepare.light_of(rgb, normals, skin), light, atol=1e-4)
    rgb[:] = 1.0
    assert np.isfinite(prepare.light_of(rgb, normals, skin)).all()


def test_the_mean_albedo_is_that_of_measured_faces():
    with np.load(paths.ASSETS / "issa_pigments.npz") as file:
        pigments = [np.full((1, 1), np.nanmedian(file[name]), np.float32) for name in ("melanin", "haemoglobin")]
    sensitivity = np.asarray(camera.CameraModel.load().sensitivity(np.zeros(2, np.float32)))
    light = np.asarray(illumination.standard("D65"), np.float32)
    one, none = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    rendered = image_formation.render(*pigments, one, none, light, sensitivity)
    np.testing.assert_allclose(np.asarray(rendered)[0, 0], prepare.ALBEDO, atol=0.001)
