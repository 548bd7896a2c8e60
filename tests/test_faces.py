"""Faces found by themselves: on the astronaut, on the twin, on real photos where there are any."""

import numpy as np
import pytest
import skimage.data
from conftest import refuses
from PIL import Image, ImageDraw

import bioface
from bioface import __main__ as cli
from bioface import decomposition, face_mesh, faces, image_formation, pictures, training
from bioface.datasets import heads, photos, portrait

ASTRONAUT = skimage.data.astronaut()
CROP = ASTRONAUT[64:176, 166:278]
#: Without a face, as they ship with scikit-image; what is missing from an installation is left out.
QUICK = ("coins", "page")
NO_FACES = ["brick", "cat", "cell", "chelsea", "clock", "coffee", "colorwheel", "grass", "gravel"]
NO_FACES += ["hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket", "text"]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def find(photo, everyone=False):
    return faces.search(pictures.read(photo, None)[0], everyone)


def box(face):
    """Left, top, right and bottom in pixels."""
    xy = face.points[:, :2]
    return [*xy.min(0), *xy.max(0)]


def of_size(face, size):
    """The same face in a photo of size × size."""
    return face_mesh.Face(face.score, face.points * (size / face.shape[0]), (size, size))


@pytest.fixture(scope="module")
def face():
    (found,) = find(ASTRONAUT)
    return found


@pytest.fixture(scope="module")
def photo_files(real_data):
    files = sorted((real_data / "photos").glob("*_face.png"))
    if not files:
        pytest.skip(f"no photos in {real_data}")
    return files


def with_its_mask(file):
    """A photo of 128 × 128 with the mask beside it, of another size."""
    return photos.read(file, photos.nearest(photos.read_mask(str(file).replace("_face", "_mask")), (128, 128)))


def dark(photo):
    """Two stops darker."""
    linear = np.asarray(image_formation.srgb_decode(photo.astype(np.float32) / 255)) / 4
    return np.rint(255 * np.asarray(image_formation.srgb_encode(linear))).astype(np.uint8)


def grey(photo):
    return np.rint(photo @ (0.299, 0.587, 0.114)).astype(np.uint8)


def half(photo):
    return np.rot90(photo, 2)


def small(photo):
    return np.array(Image.fromarray(photo).resize((32, 32), Image.Resampling.BOX))


def found_where_it_is(photo, change, truth, angle=0.0):
    """Whether a face is found in the changed photo, where its mask is and the right way up."""
    there = change(truth) if change in (np.rot90, half, small) else truth
    return any(
        overlap(found.mask(filled=True), there) > 0.75 and abs((found.angle - angle + 180) % 360 - 180) < 30
        for found in find(change(photo))
    )


# --- where ---------------------------------------------------------------------------------------------------


def test_the_astronaut(face):
    """A detector of another make puts the face at row 70, column 175, 93 pixels wide (data/README.md)."""
    left, top, right, bottom = box(face)
    assert face.score > 0.99 and abs(face.angle) < 10 and face.shape == (512, 512)
    assert abs(left - 175) < 8 and abs(top - 70) < 8 and abs(right - left - 93) < 8 and bottom > top
    assert face.points.shape == (468, 3)


@pytest.mark.parametrize(("change", "angle"), [(np.rot90, -90), (half, 180), (dark, 0), (grey, 0)])
def test_turned_dark_and_grey(change, angle, face):
    assert found_where_it_is(ASTRONAUT, change, face.mask(filled=True), angle)


def crop(size):
    """The astronaut's face, 0.85 times as wide."""
    return np.array(Image.fromarray(CROP).resize((size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("size", [32, 20])
def test_small(size, face):
    (found,) = find(crop(size))
    whole = face.mask(filled=True)[64:176, 166:278]
    assert found.shape == (size, size) and overlap(of_size(found, 112).mask(filled=True), whole) > 0.8


@pytest.mark.parametrize("size", [112, pytest.param(24, marks=pytest.mark.slow)])
def test_a_face_in_a_corner_of_a_large_photo(size):
    """As it is, and 20 pixels wide in 600 × 800."""
    scene = np.full((600, 800, 3), 90, np.uint8)
    scene[-38 - size : -38, -28 - size : -28] = crop(size)
    (found,) = find(scene)
    left, _, right, bottom = box(found)
    assert left > 772 - size and bottom < 562 + size / 10 and right - left < size


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in NO_FACES)])
def test_no_face(name):
    try:
        picture = getattr(skimage.data, name)()
    except (AttributeError, OSError, ModuleNotFoundError) as error:
        pytest.skip(f"not installed with scikit-image: {error}")
    assert find(picture) == []


@pytest.mark.parametrize(("colour", "count"), [("lime", 0), ((250, 220, 190), 1)])
def test_a_drawing_is_a_face_only_in_the_colours_of_one(colour, count):
    image = Image.new("RGB", (300, 300), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((50, 30, 250, 270), outline="black", width=4, fill=colour)
    for x in (110, 190):
        pen.ellipse((x - 18, 110, x + 18, 130), outline="black", fill="white")
        pen.ellipse((x - 7, 113, x + 7, 127), fill="black")
    pen.line((150, 130, 140, 180, 155, 182), fill="black", width=3)
    pen.arc((105, 180, 195, 230), 20, 160, fill="black", width=4)
    assert len(find(np.asarray(image))) == count


@pytest.fixture(scope="module")
def real_faces(photo_files):
    """Photos (H, W, 3) and the face of each."""
    photos = [np.array(Image.open(file).convert("RGB")) for file in photo_files]
    found = [find(photo) for photo in photos]
    assert len(found) == 13 and all(len(one) == 1 for one in found)
    return [(photo, one) for photo, (one,) in zip(photos, found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "angle", "least"),
    [(np.array, 0, 13), (np.rot90, -90, 12), (half, 180, 12), (grey, 0, 13), (dark, 0, 13), (small, 0, 12)],
)
def test_real_photos(change, angle, least, real_faces):
    assert least <= sum(
        found_where_it_is(photo, change, whole.mask(filled=True), whole.angle + angle) for photo, whole in real_faces
    )


@pytest.mark.slow
def test_the_outline_is_that_of_the_given_masks(photo_files, real_faces):
    """Landmark hulls from the brows down, of another make; those of other photos are the control."""
    given = [with_its_mask(file).mask for file in photo_files]
    found = [whole.mask(filled=True) for _, whole in real_faces]
    assert np.mean([overlap(a, b) for a, b in zip(given, found, strict=True)]) > 0.86
    assert np.mean([overlap(a, b) for a, b in zip(given, found[1:] + found[:1], strict=True)]) < 0.83


# --- mask and normals ----------------------------------------------------------------------------------------


def test_the_skin_leaves_out_eyes_mouth_and_nostrils(face):
    skin, whole = face.mask(), face.mask(filled=True)
    assert (whole | ~skin).all() and 0.9 < skin.sum() / whole.sum() < 0.97

    def at(*points):
        x, y = face.points[list(points), :2].mean(0).astype(int)
        return skin[y, x], whole[y, x]

    for hole in ((33, 133), (362, 263), (13, 14), (60, 79)):  # corners of the eyes, the lips, a nostril
        assert at(*hole) == (False, True), hole
    for place in ((4,), (151,), (205,), (425,), (199,), (0, 267)):  # nose, forehead, cheeks, chin, the upper lip
        assert at(*place) == (True, True), place
    assert not whole[:60].any() and not whole[:, :150].any()


def test_a_hand_and_a_fringe_are_left_out_of_the_skin_and_a_spot_is_not(face):
    linear, whole = np.full((512, 512, 3), (0.5, 0.3, 0.2), np.float32), face.mask()
    rows, columns = (np.flatnonzero(whole.any(axis)) for axis in (1, 0))
    linear += np.random.default_rng(0).normal(scale=0.02, size=linear.shape).astype(np.float32)
    assert faces.skin(linear, face).sum() > 0.97 * whole.sum()
    strange = np.zeros_like(whole)
    strange[: rows[0] + 8] = strange[:, : columns[0] + 3] = True  # a fringe, a hand
    assert 0.03 < (whole & strange).sum() / whole.sum() < 0.09
    spot = np.zeros_like(whole)
    y, x = face.points[425, :2].astype(int)[::-1]  # on a cheek
    spot[y - 3 : y + 4, x - 3 : x + 4] = True
    linear[strange | spot] = (0.2, 0.3, 0.5)
    skin = faces.skin(linear, face)
    assert not skin[strange].any() and skin[spot & whole].all()
    assert (skin & ~strange).sum() > 0.95 * (whole & ~strange).sum()
    small = of_size(face, 8)
    np.testing.assert_array_equal(faces.skin(linear[::64, ::64], small), small.mask())  # too few pixels to tell
    for flat in (0, 0.5):
        assert faces.skin(np.full_like(linear, flat), face).sum() == whole.sum()


def test_normals_of_a_sphere(face):
    """The mesh bent onto a sphere: its normals are known everywhere."""
    xy = face.points[:, :2]
    centre, radius = (xy.min(0) + xy.max(0)) / 2, 0.8 * np.ptp(xy, 0).max()
    depth = -np.sqrt(radius**2 - ((xy - centre) ** 2).sum(-1, keepdims=True))
    ball = face_mesh.Face(1.0, np.concatenate([xy, depth], 1), face.shape)
    normals, mask = ball.normals(), ball.mask(filled=True)
    assert (np.abs(normals).sum(-1) > 0).tolist() == mask.tolist()
    y, x = np.nonzero(mask)
    across, up = (x + 0.5 - centre[0]) / radius, -(y + 0.5 - centre[1]) / radius
    true = np.stack([across, up, np.sqrt(1 - across**2 - up**2)], -1)
    angles = np.degrees(np.arccos((normals[mask] * true).sum(-1).clip(-1, 1)))
    assert np.mean(angles) < 1.5 and np.percentile(angles, 99) < 8
    depth = ball.depth()
    np.testing.assert_array_equal(np.isfinite(depth), mask)
    expected = radius * (true[:, 2] - true[:, 2].max())
    assert np.abs(depth[mask] - depth[mask].max() - expected).mean() < 0.02 * radius


@pytest.mark.parametrize(
    ("beyond", "count", "most"),
    [
        pytest.param("", 24, 13.0, marks=pytest.mark.slow),
        pytest.param("pose", 24, 15.0, marks=pytest.mark.slow),  # a yaw of 30–50°
    ],
)
def test_normals_of_rendered_heads(beyond, count, most, monkeypatch):
    monkeypatch.setattr(portrait, "SIZE", 256)
    groups, found, flat, covered = sorted(portrait.SHAPES), [], [], []
    for k in range(count):
        head = portrait.make_face(7, "test", k, False, groups[k % len(groups)], beyond)
        (face,) = find(np.rint(255 * head["rgb"]).astype(np.uint8))
        normals = face.normals()
        both = head["mask"] & (np.abs(normals).sum(-1) > 0)
        covered.append(both.sum() / head["mask"].sum())
        for values, cosine in ((found, (normals * head["normals"]).sum(-1)), (flat, head["normals"][..., 2])):
            values.append(np.degrees(np.arccos(cosine.clip(-1, 1)))[both].mean())
    assert np.mean(found) <= most and np.mean(flat) > 1.5 * most and np.mean(covered) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("yaw", "count"), [(60, 1), (90, 0)])
def test_a_profile_is_not_found(yaw, count, monkeypatch):
    monkeypatch.setattr(portrait, "SIZE", 256)
    monkeypatch.setattr(heads, "draw_pose", lambda *_: heads.Pose(float(yaw)))
    head = portrait.make_face(7, "test", 0, False, min(portrait.SHAPES), "pose")
    assert len(find(np.rint(255 * head["rgb"]).astype(np.uint8))) == count


def test_a_face_beyond_the_photo_has_no_mask(face):
    for step in ((600, 0, 0), (0, -700, 0)):
        gone = face_mesh.Face(1.0, face.points + step, face.shape)
        assert not gone.mask().any() and not gone.normals().any() and np.isnan(gone.depth()).all()
    half = face_mesh.Face(1.0, face.points - (225, 0, 0), face.shape)
    assert 0.3 < half.mask().sum() / face.mask().sum() < 0.7


# --- decompose without a mask --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_faces():
    scene = np.full((224, 400, 3), 90, np.uint8)
    scene[:, :224] = np.kron(CROP, np.ones((2, 2, 1), np.uint8))
    scene[60:172, 260:372] = CROP
    return scene


@pytest.mark.slow
def test_decompose_takes_the_face_that_is_wanted(two_faces):
    network = training.build("working", 1)  # quick
    largest, second, both = (bioface.decompose(two_faces, weights=network, face=face) for face in (None, 2, "all"))
    assert len(both) == 2 and largest.mask[:, :224].any() and not largest.mask[:, 240:].any()
    assert second.mask[:, 240:].any() and not second.mask[:, :240].any()
    for one, other in zip(both, (largest, second), strict=True):
        assert overlap(one.mask, other.mask) > 0.98
    skin = faces.skin(pictures.read(two_faces, None)[0], find(two_faces)[0])
    np.testing.assert_array_equal(largest.mask, skin)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(face=3), "expected a face number 3 in the photo: 2 were found"),
        (dict(face=0), "expected the number of a face, from 1 on, or 'all', found 0"),
        (dict(face="both"), "found 'both'"),
        (dict(face=1, mask=np.ones((224, 400), bool)), "expected no mask where a face is asked for by number"),
    ],
)
def test_faces_that_cannot_be_wanted(options, message, two_faces):
    refuses(message, bioface.decompose, two_faces, **options)


@pytest.mark.slow
def test_no_face_is_said_to_be_none():
    wall = np.full((64, 64, 3), 120, np.uint8)
    with pytest.warns(UserWarning) as said:
        assert bioface.decompose(wall).mask.all()
    assert [one.category for one in said] == [decomposition.NoMask, decomposition.NotSkin]
    assert "no face found for certain" in str(said[0].message)
    refuses("expected a face in the photo: none was found", bioface.decompose, wall, face="all")
    refuses("expected a face number 1 in the photo: none was found", bioface.decompose, wall, face=1)


@pytest.mark.slow
def test_the_command_shows_what_was_found(two_faces, tmp_path):
    Image.fromarray(two_faces).save(tmp_path / "two.png")
    out = tmp_path / "out"
    assert cli.main(["decompose", str(tmp_path / "two.png"), "--face", "all", "--out", str(out)]) == 0
    names = {file.name for file in out.iterdir()}
    assert {"two_found.png", "two_1_maps.npz", "two_2_maps.npz", "two_1_melanin.png"} <= names
    shown = np.array(Image.open(out / "two_found.png"))
    largest = find(two_faces)[0]
    changed = (shown != two_faces).any(-1)
    assert changed[largest.mask(filled=True) & ~largest.mask()].mean() > 0.9 and 0.005 < changed.mean() < 0.2
    assert cli.main(["decompose", str(tmp_path / "two.png"), "--face", "2", "--out", str(tmp_path / "second")]) == 0
    assert (tmp_path / "second" / "two_maps.npz").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bioface.decomposition.NotSkin")  # one photo, under the given mask
def test_maps_with_the_found_mask_are_those_with_the_given_one(photo_files):
    """By their correlation; the given ones go from the brows down, and take in eyes and mouth."""
    names, agreement = ("melanin", "haemoglobin", "diffuse_shading"), []
    for file in photo_files:
        given, found = bioface.decompose(with_its_mask(file)), bioface.decompose(file)
        both = given.mask & found.mask & np.isfinite(given.melanin) & np.isfinite(found.melanin)
        agreement.append([np.corrcoef(getattr(given, n)[both], getattr(found, n)[both])[0, 1] for n in names])
    assert (np.mean(agreement, 0) >= 0.97).all()


# --- the asset -----------------------------------------------------------------------------------------------


def test_the_mesh_is_closed_and_faces_us(face):
    mesh = face_mesh.load()[2]
    sides = {(a, b) for t in mesh["triangles"].tolist() for a, b in zip(t, t[1:] + t[:1], strict=True)}
    assert len(sides) == 3 * len(mesh["triangles"]) == 3 * 898  # no side twice in one direction: one orientation
    rim = {a for a, b in sides if (b, a) not in sides}
    assert rim == set(mesh["outline"].tolist()) and np.bincount(mesh["part"]).tolist()[1:4] == [14, 14, 18]
    assert np.mean(face_mesh._vertex_normals(face.points * (1, 1, -1))[:, 2] > 0) > 0.95
