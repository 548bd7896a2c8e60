"""Photos: every kind of picture becomes the same array, and what is none is an error."""

import struct
import zlib

import numpy as np
import pytest
import skimage.data
import tifffile
from conftest import refuses
from PIL import Image, ImageOps
from test_colours import SRGB, chunk

from bioface import pictures
from bioface.datasets import photos


@pytest.fixture
def picture():
    """(6, 4, 3) uint8 with every pixel different."""
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_in_colour_and_grey(tmp_path, picture, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    photo = photos.read(save(tmp_path / f"me{suffix}", picture, **options))
    np.testing.assert_allclose(photo.rgb, picture / 255, atol=1e-7)
    assert photo.rgb.dtype == np.float32 and photo.mask.all() and photo.name == "me"
    grey = photos.read(save(tmp_path / f"grey{suffix}", picture[..., 0].copy(), **options))
    np.testing.assert_allclose(grey.rgb, np.repeat(picture[..., :1] / 255, 3, axis=-1), atol=1e-7)


def test_16_bit_grey_and_floating_point_keep_their_precision(tmp_path):
    values = np.array([[0, 1, 2], [40_000, 65_534, 65_535]], np.uint16)
    for name in ("me.png", "me.tif"):
        photo = photos.read(save(tmp_path / name, values))
        np.testing.assert_allclose(photo.rgb[..., 1], values / 65535, atol=1e-7)
    path = save(tmp_path / "me.tif", np.array([[0.25, 0.5]], np.float32))
    np.testing.assert_allclose(photos.read(path).rgb[0, :, 0], [0.25, 0.5])
    save(path, np.array([[0.25, 200.0]], np.float32))
    refuses(r"me.tif: expected values within \[0, 1\], found 0.25 to 200", photos.read, path)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 3), (np.uint32, 3), (np.float64, 4)])
def test_a_tiff_of_more_bits_than_are_read_is_said(tmp_path, dtype, size):
    tifffile.imwrite(tmp_path / "me.tif", np.ones((6, 4, size), dtype), photometric="rgb")
    refuses(r"me.tif: .*something unreadable \(more than 16 bits a colour\?\)", photos.read, tmp_path / "me.tif")


def test_16_bit_colour_to_8_bits(tmp_path):
    """Pillow cannot write such a PNG, so here is one by hand."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 3, 3))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", 3, 5, 16, 2, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "me.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    np.testing.assert_allclose(photos.read(tmp_path / "me.png").rgb, values / 65535, atol=1 / 255)


def test_transparency_is_the_mask(tmp_path, picture):
    alpha = np.zeros((6, 4, 1), np.uint8)
    alpha[2:4] = 255
    photo = photos.read(save(tmp_path / "me.png", np.concatenate([picture, alpha], -1)))
    np.testing.assert_array_equal(photo.mask, alpha[..., 0] == 255)
    np.testing.assert_allclose(photo.rgb, picture / 255, atol=1e-7)
    even = np.concatenate([np.full((6, 4, 3), (200, 100, 50), np.uint8), alpha], -1)
    small = photos.read(save(tmp_path / "me.png", even), limit=6)  # what is transparent keeps its colour
    np.testing.assert_allclose(small.rgb, np.broadcast_to([200, 100, 50], (3, 2, 3)) / 255, atol=1e-6)
    np.testing.assert_array_equal(small.mask, [[False] * 2, [True] * 2, [False] * 2])
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 255, 128, 0])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "me.png", transparency=0)
    photo = photos.read(tmp_path / "me.png")
    np.testing.assert_allclose(photo.rgb[1, 1], [1, 128 / 255, 0], atol=1e-6)
    assert not photo.mask[0, 0] and photo.mask.sum() == 5


def test_a_colour_profile_is_converted(tmp_path):
    """A linear-light profile, which is sRGB's with other curves: a stored ½ shows as 0.735 in sRGB."""
    where = SRGB.index(b"para")  # type, nothing, function, nothing, five numbers
    linear = b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, 65536)
    profile = SRGB.replace(SRGB[where : where + 32], linear.ljust(32, b"\0"))
    path = save(tmp_path / "me.png", np.full((2, 2, 3), 128, np.uint8), icc_profile=profile)
    np.testing.assert_allclose(photos.read(path).rgb, 0.735, atol=0.01)


def test_a_profile_of_colour_on_grey_changes_nothing(tmp_path, picture):
    grey = photos.read(save(tmp_path / "grey.png", picture[..., 0].copy(), icc_profile=SRGB))
    np.testing.assert_allclose(grey.rgb[..., 0], picture[..., 0] / 255, atol=1.5 / 255)


def test_a_mask_of_another_size(tmp_path, picture):
    path = save(tmp_path / "me.png", picture)
    mask_file = save(tmp_path / "mask.png", np.kron(np.eye(6, 4, dtype=np.uint8), np.full((2, 2), 255, np.uint8)))
    refuses(r"mask.png: expected a mask of 6 × 4 as me.png, found shape \(12, 8\)", photos.read, path, mask_file)
    np.testing.assert_array_equal(photos.nearest(photos.read_mask(mask_file), (6, 4)), np.eye(6, 4, dtype=bool))
    refuses("expected a mask of 6 × 4", photos.read, path, np.ones((6, 4, 3), bool))


def masks():
    """The same face, painted in every way that is met: arrays, and pictures that are no arrays of one colour."""
    inside = np.zeros((60, 40), bool)
    inside[10:50, 8:32] = True
    noise = np.random.default_rng(0).integers(0, 20, inside.shape)
    soft = np.where(inside, 255 - noise, noise)
    wide = soft.copy()
    wide[5:10, 8:32] = 90  # feathered outwards
    red, black = np.zeros((60, 40, 3), np.uint8), np.zeros((60, 40, 4), np.uint8)
    red[inside] = 255, 0, 0
    black[..., 3] = 255 * inside
    palette = Image.fromarray(inside.astype(np.uint8))
    palette.putpalette([0, 0, 0, 128, 0, 0])
    bright = np.dstack([255 * inside.astype(np.uint8)] * 3 + [np.full((60, 40), 255, np.uint8)])
    made = {
        "0 and 1": inside.astype(np.uint8),
        "0 and 7": inside * 7,
        "true": inside,
        "noise": soft.astype(np.uint8),
        "feather": wide.astype(np.uint8),
        "8 bits in 16": soft.astype(np.uint16),
        "12 bits": (inside * 4095).astype(np.uint16),
        "float32": (soft / 255).astype(np.float32),
        "floats": soft / 255,
        "0 to 255.": soft * 1.0,
    }
    files = {"red": red, "black, with opacity": black, "white": bright}
    return inside, made | {kind: Image.fromarray(mask) for kind, mask in files.items()} | {"palette": palette}


@pytest.mark.parametrize("kind", masks()[1])
def test_one_rule_for_masks_whether_arrays_or_files(kind, tmp_path):
    inside, mask = masks()[0], masks()[1][kind]
    photo = save(tmp_path / "me.png", np.zeros((60, 40, 3), np.uint8))
    if isinstance(mask, np.ndarray):
        np.testing.assert_array_equal(photos.read(photo, mask).mask, inside)
        np.testing.assert_array_equal(pictures.read(np.zeros((60, 40, 3)), mask)[1], inside)
    if isinstance(mask, Image.Image) or mask.dtype.itemsize < 8:
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        file = tmp_path / ("mask.tif" if image.mode == "F" else "mask.png")
        image.save(file)
        for given in (file, Image.open(file)):
            np.testing.assert_array_equal(photos.read(photo, given).mask, inside)


def test_what_is_no_mask_is_said(tmp_path, picture):
    photo = save(tmp_path / "me.png", picture)
    labels = np.arange(24, dtype=np.uint8).reshape(6, 4)
    for mask in (labels, save(tmp_path / "mask.png", labels)):
        refuses(r"with white in it, found 23 of 255 as its brightest \(labels\?\)", photos.read, photo, mask)
    flag = np.repeat(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]], np.uint8)[None], 6, 0)
    refuses("a mask of one colour on black, found several", photos.read, photo, save(tmp_path / "mask.png", flag))
    refuses("a mask of numbers", photos.read, photo, np.array([["face"]]))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_drawn_on_the_stored_pixels_of_a_turned_photo(tmp_path, orientation):
    """It is turned with the photo, and said; where sizes do not tell, it is said what was assumed."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    inside = np.arange(24).reshape(6, 4) > 14
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = save(tmp_path / "me.png", rgb, exif=exif)
    drawn = save(tmp_path / "mask.png", inside.astype(np.uint8) * 255)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(photo)))
    truly = save(tmp_path / "own.png", inside.astype(np.uint8) * 255, exif=exif)
    stays = photos.read(photo, truly)  # a mask that says so itself is turned without a word
    np.testing.assert_allclose(stays.rgb, upright / 255, atol=1e-6)
    for mask in (drawn, inside):
        said = "of the photo as it is stored, and turned with it" if orientation > 4 else "as it is shown; turn it if"
        with pytest.warns(photos.Turned, match=said):
            found = photos.read(photo, mask)
        np.testing.assert_array_equal(found.mask, stays.mask if orientation > 4 else inside)
    if orientation > 4:
        np.testing.assert_array_equal(photos.read(photo, stays.mask).mask, stays.mask)


def test_an_empty_mask(tmp_path, picture):
    path = save(tmp_path / "me.png", picture)
    black = save(tmp_path / "mask.png", np.zeros((6, 4), np.uint8))
    refuses("mask.png: expected a mask with at least one pixel", photos.read, path, black)
    refuses("me.png: expected a mask with at least one pixel", photos.read, path, np.zeros((6, 4), bool))
    clear = np.concatenate([picture, np.zeros((6, 4, 1), np.uint8)], -1)
    refuses("clear.png: expected a photo that is opaque somewhere", photos.read, save(tmp_path / "clear.png", clear))
    assert photos.read(tmp_path / "clear.png", np.ones((6, 4))).mask.all()  # where the face is has been said


def test_a_limit_averages_pixels_and_shrinks_the_mask(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    path = save(tmp_path / "me.png", np.kron(blocks, np.ones((3, 3, 1), np.uint8)))
    inside = np.zeros((18, 12), np.uint8)
    inside[3:9, 6:] = 255
    for mask in (inside, save(tmp_path / "mask.png", inside)):
        photo = photos.read(path, mask, limit=24)
        np.testing.assert_allclose(photo.rgb, blocks / 255, atol=1e-6)
        np.testing.assert_array_equal(photo.mask, inside[1::3, 1::3] > 0)
    np.testing.assert_allclose(photos.read(path, limit=216).rgb, photos.read(path).rgb)  # small enough
    assert photos.read(path, limit=100).rgb.shape == (12, 8, 3)
    for small in (np.ones((6, 4), bool), save(tmp_path / "small.png", np.full((6, 4), 255, np.uint8))):
        refuses(r"expected a mask of 18 × 12 as me.png, found shape \(6, 4\)", photos.read, path, small, limit=24)


@pytest.mark.parametrize("kind", ["I;16", "F", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_shrinks(tmp_path, kind):
    if kind in ("I;16", "F"):
        values = {"I;16": np.full((8, 8), 32768, np.uint16), "F": np.full((8, 8), 0.5, np.float32)}[kind]
        path = save(tmp_path / "me.tif", values)
    else:
        path = tmp_path / "me.tif"
        Image.new("RGB", (8, 8), (255, 0, 0)).convert(kind).save(path)
        assert kind == "1" or photos.read(path).rgb[0, 0] == pytest.approx([1, 0, 0], abs=0.01)
    whole, small = photos.read(path), photos.read(path, limit=16)
    assert small.rgb.shape == (4, 4, 3) and small.mask.all()
    np.testing.assert_allclose(small.rgb, whole.rgb.reshape(4, 2, 4, 2, 3).mean((1, 3)), atol=1 / 255)


def test_what_pillow_warns_of_is_read_and_what_it_refuses_is_an_error(tmp_path, monkeypatch):
    assert 2 * Image.MAX_IMAGE_PIXELS == photos.LARGEST
    path = save(tmp_path / "me.png", np.full((20, 20), 128, np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert photos.read(path, limit=100).rgb.shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 199)
    refuses("me.png: .* at most 178 million pixels, found a larger one", photos.read, path, limit=100)


NO_PHOTOS = [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xe0garbage", "the first half of a JPEG"]


@pytest.mark.parametrize("content", NO_PHOTOS)
def test_not_an_image(tmp_path, content):
    path = tmp_path / "me.jpg"
    if isinstance(content, str):
        save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        content = path.read_bytes()[:1500]
    path.write_bytes(content)
    refuses(r"expected a picture \(JPEG, PNG, TIFF, …\), found something unreadable", photos.read, path)
    refuses("no.png: expected a picture, found no such file", photos.read, tmp_path / "no.png")
    refuses("expected a picture, found a folder", photos.read, tmp_path)


def test_the_astronaut_is_a_face_in_an_ellipse():
    photo, own = photos.astronaut(), photos.astronaut(112)
    assert photo.rgb.shape == (64, 64, 3) and photo.rgb.dtype == np.float32
    assert 0.35 < photo.mask.mean() < 0.6
    red, green, blue = photo.rgb[photo.mask].mean(0)
    assert red > green > blue > 0.3  # skin, evenly lit
    np.testing.assert_allclose(own.rgb * 255, skimage.data.astronaut()[64:176, 166:278], atol=1e-3)
    assert own.mask.mean() == pytest.approx(photo.mask.mean(), abs=0.01)
