"""What pictures say of their colours, against colour-science where it knows better than we do."""

import struct
import warnings
import zlib

import colour
import numpy as np
import pytest
import tifffile
from conftest import refuses
from PIL import Image, ImageCms

from bioface import image_formation, pictures
from bioface.datasets import colours, photos

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SKIN = (200, 120, 100)
#: the same numbers as Display P3, in sRGB
P3_SKIN = colour.RGB_to_RGB(np.array(SKIN) / 255, "Display P3", "sRGB", None, True, True) * 255
P3 = bytes([12, 13, 0, 1])
P3_CHRM = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_CHRM = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
GAMMA_1 = struct.pack(">I", 100_000)


def icc(space=b"GRAY", gamma=1.0):
    """A small profile of grey with a gamma; of another kind only in name."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, int(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2) + b"kTRC" + struct.pack(">II", 156, len(curve))
    tags += b"wtpt" + struct.pack(">II", 156 + len(curve), len(white))
    size = 156 + len(curve) + len(white)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061).ljust(60, b"\0") + tags + curve + white


def chunk(name, data):
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path, value=SKIN, chunks=(), profile=None, mode="RGB"):
    """A picture of one colour, with more chunks behind its header."""
    Image.new(mode, (20, 20), value).save(path, icc_profile=profile)
    content = path.read_bytes()
    for name, data in chunks:
        content = content[:33] + chunk(name, data) + content[33:]
    path.write_bytes(content)
    return path


def shown(path):
    return photos.read(path).rgb[0, 0] * 255


@pytest.mark.parametrize(
    ("chunks", "value", "expected"),
    [
        ([], SKIN, SKIN),
        ([(b"gAMA", GAMMA_1)], (128, 128, 128), (188, 188, 188)),
        ([(b"cICP", bytes([1, 8, 0, 1]))], (128, 128, 128), (188, 188, 188)),
        ([(b"cICP", bytes([2, 2, 0, 1]))], SKIN, SKIN),
        ([(b"cICP", bytes([1, 13, 0, 0]))], (126, 126, 126), (128, 128, 128)),  # narrow range
        ([(b"cICP", P3)], SKIN, (213, 115, 95)),
        ([(b"cHRM", P3_CHRM)], SKIN, P3_SKIN),
        ([(b"cHRM", SRGB_CHRM), (b"gAMA", struct.pack(">I", 45455))], (10, 100, 200), (10, 100, 200)),
        ([(b"sRGB", b"\0"), (b"gAMA", GAMMA_1)], SKIN, SKIN),
        ([(b"sRGB", b"\0"), (b"cICP", P3)], SKIN, P3_SKIN),
        ([(b"gAMA", GAMMA_1), (b"cICP", P3)], SKIN, P3_SKIN),
        ([(b"cHRM", bytes(32))], SKIN, SKIN),  # no colours at all
    ],
)
@pytest.mark.parametrize("profile", [None, SRGB])
def test_png_chunks_and_their_order(chunks, value, expected, profile, tmp_path):
    """cICP wins over a profile, that over sRGB and gAMA and cHRM."""
    path = png(tmp_path / "me.png", value, chunks, profile)
    wins = profile and not (chunks and chunks[-1][0] == b"cICP")
    np.testing.assert_allclose(shown(path), value if wins else expected, atol=1)
    said = photos.colours_of(path)
    assert ("as its profile says" in said) >= bool(wins)
    assert profile or ("assumed" in said) == (not chunks or chunks[0][1] == bytes(32))


WHITES = {1: (0.3127, 0.329), 4: (0.310, 0.316), 11: (0.314, 0.351)} | dict.fromkeys((5, 6, 7, 9, 12), (0.3127, 0.329))
#: x and y of red, green and blue by H.273's code
PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    **dict.fromkeys((6, 7), (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    **dict.fromkeys((11, 12), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
}


@pytest.mark.parametrize("code", PRIMARIES)
def test_codes_of_primaries_are_those_of_h273(code):
    space = colour.RGB_COLOURSPACES[colours.PRIMARIES[code]]
    np.testing.assert_allclose(space.primaries.ravel(), PRIMARIES[code])
    np.testing.assert_allclose(space.whitepoint, WHITES[code], atol=1e-3)


@pytest.mark.parametrize(("value", "linear"), [(0.05, 0.0111), (0.5, 0.2596), (0.9, 0.8090)])
def test_transfers_of_television(value, linear):
    found = colours.Colours(transfer=colours.TRANSFERS[1]).apply(np.full((1, 1, 3), value, np.float32))
    np.testing.assert_allclose(image_formation.srgb_decode(found), linear, atol=1e-3)


@pytest.mark.parametrize(
    ("codes", "said"), [((9, 16), "one in PQ: convert it"), ((99, 13), "primaries 99, transfer 13")]
)
def test_colours_that_cannot_be_shown(codes, said, tmp_path):
    path = png(tmp_path / "me.png", SKIN, [(b"cICP", bytes([*codes, 0, 1]))])
    refuses(f"me.png: expected .*{said}", photos.read, path)


def test_avif_by_its_nclx(tmp_path):
    path = tmp_path / "me.avif"
    Image.new("RGB", (64, 64), SKIN).save(path, quality=100)
    content = path.read_bytes()
    at = content.index(b"colrnclx") + 8
    for primaries, expected in ((1, SKIN), (12, P3_SKIN)):
        path.write_bytes(content[:at] + struct.pack(">HH", primaries, 13) + content[at + 4 :])
        np.testing.assert_allclose(shown(path), expected, atol=4)


def test_tiff_and_exif_say_it_too(tmp_path):
    primaries = dict(zip((318, 319), [(0.3127, 0.329), (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)], strict=True))
    Image.new("RGB", (4, 4), SKIN).save(tmp_path / "me.tif", tiffinfo=primaries)
    np.testing.assert_allclose(shown(tmp_path / "me.tif"), P3_SKIN, atol=1)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    Image.new("RGB", (4, 4), SKIN).save(tmp_path / "me.webp", exif=exif, lossless=True)
    expected = colour.RGB_to_RGB(np.array(SKIN) / 255, "Adobe RGB (1998)", "sRGB", None, True, True) * 255
    np.testing.assert_allclose(shown(tmp_path / "me.webp"), expected, atol=1)


@pytest.mark.parametrize("kind", ["16 bits", "float", "8 bits"])
def test_grey_with_a_profile_of_grey(kind, tmp_path):
    """A gamma of 1: 14 000 of 65 535 shows as one half."""
    level = {"16 bits": np.uint16(14_000), "float": np.float32(14_000 / 65_535), "8 bits": np.uint8(54)}[kind]
    Image.fromarray(np.full((3, 3), level)).save(tmp_path / "me.tif", icc_profile=icc())
    np.testing.assert_allclose(photos.read(tmp_path / "me.tif").rgb, 0.5, atol=0.004)


#: what a profile is, and what is said of it
IGNORED = {kind: (icc(kind.encode()), f"for {kind.strip()}") for kind in ("CMYK", "GRAY", "Lab ")}
DAMAGED = {"text": b"not a profile", "cut": SRGB[:300], "without curves": SRGB.replace(b"TRC", b"CRT")}
IGNORED |= {kind: (profile, "damaged") for kind, profile in (DAMAGED | {"its compression": SRGB}).items()}


@pytest.mark.parametrize("kind", IGNORED)
def test_a_profile_of_another_kind_or_damaged_is_ignored_and_said(kind, tmp_path):
    """As every viewer does: what is damaged says nothing."""
    profile, said = IGNORED[kind]
    path = png(tmp_path / "me.png", SKIN, [], profile)
    if kind == "its compression":
        content = bytearray(path.read_bytes())
        at = content.index(b"iCCP")
        (size,) = struct.unpack(">I", content[at - 4 : at])
        content[at + 40 : at + 80] = bytes(40)
        content[at + 4 + size : at + 8 + size] = struct.pack(">I", zlib.crc32(content[at : at + 4 + size]))
        path.write_bytes(content)
    words = r"damaged \(.+\)" if said == "damaged" else f"{said}, and it is RGB"
    with pytest.warns(colours.Ignored, match=f"me.png: its colour profile is {words}: ignored"):
        photo = photos.read(path)
    np.testing.assert_allclose(photo.rgb[0, 0] * 255, SKIN, atol=1e-3)
    assert photos.colours_of(path) == f"sRGB, assumed: its profile is {said}"


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_one_colour_after_the_other(byteorder, channels, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (channels, 8, 6), np.uint16)
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"] * (channels - 3)}
    tifffile.imwrite(tmp_path / "me.tif", values, byteorder=byteorder, **options)
    photo = photos.read(tmp_path / "me.tif")
    np.testing.assert_allclose(photo.rgb, np.moveaxis(values[:3], 0, -1) / 65535, atol=0.003)
    assert photo.mask.all() == (channels == 3)


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "LAB", "YCbCr", "HSV", "LA", "La", "PA", "1", "I;16", "F"])
def test_pictures_that_pillow_opened(mode, tmp_path):
    """As their files, and not by the numbers of their mode."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(60, 200, (24, 20, 3), np.uint8))
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image, grey = ImageCms.applyTransform(rgb, to_lab), False
    else:
        grey = mode in ("LA", "La", "1", "I;16", "F")
        image = rgb.convert("L") if grey else rgb
        image = image.convert("LA") if mode == "La" else image
        deep = {"I;16": np.uint16(257), "F": np.float32(1 / 255)}
        image = Image.fromarray(np.asarray(image) * deep[mode]) if mode in deep else image.convert(mode)
    expected = np.asarray(rgb.convert("L").convert("RGB") if grey else rgb) / 255
    found = photos.read(image)
    np.testing.assert_array_equal(pictures.read(image, None)[0], image_formation.srgb_decode(found.rgb))
    close = {"1": 1, "P": 0.2, "PA": 0.2}.get(mode, 0.04)
    np.testing.assert_allclose(found.rgb, expected, atol=close)
    if mode not in ("YCbCr", "HSV", "La", "PA", "LAB"):
        image.save(tmp_path / "me.tif")
        np.testing.assert_array_equal(photos.read(tmp_path / "me.tif").rgb, found.rgb)


RAW_TELLS = {"NewSubfileType": {254: 1}, "SubIFDs": {330: 8}, "DNGVersion": {50706: b"\1\4\0\0"}}


@pytest.mark.parametrize("tell", [*RAW_TELLS, "its name", "its name alone"])
def test_raw_photos_are_to_be_developed_first(tell, tmp_path):
    """What can be read of them is a thumbnail."""
    path = tmp_path / ("me.NEF" if tell.startswith("its") else "me.tif")
    Image.new("RGB", (20, 20), SKIN).save(path, "TIFF", tiffinfo=RAW_TELLS.get(tell, {}))
    if tell == "its name alone":
        path.write_bytes(b"FUJIFILMCCD-RAW")
    refuses("expected a developed photo .*found a raw photo: develop it first", photos.read, path)


def test_a_pyramid_is_no_raw_photo(tmp_path):
    with tifffile.TiffWriter(tmp_path / "me.tif") as file:
        file.write(np.full((32, 32, 3), SKIN, np.uint8), photometric="rgb", subifds=1)
        file.write(np.full((16, 16, 3), SKIN, np.uint8), photometric="rgb", subfiletype=1)
    np.testing.assert_allclose(shown(tmp_path / "me.tif"), SKIN, atol=1e-3)


@pytest.mark.parametrize("bad", [{0x9204: (-1, 0)}, {0x011A: (1, 0)}, {0x010E: (72, 1)}])
def test_a_bad_tag_beside_the_orientation(bad, tmp_path):
    """EXIF written by hand: the orientation, and a SRATIONAL of −1 / 0 or a text as a rational."""
    ((tag, value),) = bad.items()
    entries = sorted(
        [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, 10 if value[0] < 0 else 5, 1, struct.pack("<I", 38))]
    )
    ifd = struct.pack("<H", 2) + b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries) + bytes(4)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd + struct.pack("<ii", *value)
    rgb = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "me.png", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(photos.read(tmp_path / "me.png").rgb, np.rot90(rgb, -1) / 255, atol=1e-6)
