"""Cubes: every layout, ISET's in both .mat formats, and each way a file can be wrong.

The v7.3 files are written as MATLAB writes them: axes reversed, structs as groups, a 512-byte header first.
"""

import h5py
import numpy as np
import pytest
import scipy.constants
import scipy.io
from conftest import refuses
from PIL import Image

from bioface.datasets import cubes
from bioface.errors import DataError

HYSPEX = np.linspace(415, 950, 148)
GRID = np.arange(400.0, 721, 10)
COARSE = np.arange(400.0, 961, 20)
FIVE = np.ones(5)


def matlab73(path, variables):
    """Write variables (arrays, strings, dictionaries for structs) in MATLAB's v7.3 layout."""

    def put(group, name, value):
        kind = "struct" if isinstance(value, dict) else "char" if isinstance(value, str) else "double"
        if kind == "struct":
            node = group.create_group(name)
            for field, content in value.items():
                put(node, field, content)
        else:
            if kind == "char":
                value = [[ord(c)] for c in value]
            value = np.array(value, np.uint16) if kind == "char" else np.atleast_2d(value).T
            node = group.create_dataset(name, data=value)
        node.attrs["MATLAB_class"] = np.bytes_(kind)

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            put(file, name, value)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def matlab5(path, variables, **options):
    scipy.io.savemat(path, variables, **options)
    return path


WRITERS = {"v5": matlab5, "v7.3": matlab73}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Write variables into a .mat file of either format."""
    return lambda variables, name="face.mat": WRITERS[request.param](tmp_path / name, variables)


def light(wavelengths):
    """A smooth, tilted light, in any unit."""
    return 1 + (np.asarray(wavelengths) - 400) / 400


def compressed(wavelengths=HYSPEX, rows=5, columns=4, k=3, seed=0):
    """Variables of a compressed cube, and the radiance they stand for."""
    random = np.random.default_rng(seed)
    coefficients = random.normal(size=(rows, columns, k))
    basis = random.normal(size=(len(wavelengths), k)) * 0.01
    mean = 0.3 * light(wavelengths)
    variables = {
        "mcCOEF": coefficients,
        "basis": {"basis": basis, "wave": np.asarray(wavelengths, float)},
        "imgMean": mean,
        "illuminant": light(wavelengths),
        "comment": "a test",
    }
    return variables, coefficients @ basis.T + mean


def plain(name="photons", wavelengths=GRID, rows=4, columns=3, seed=0):
    """Variables of an uncompressed cube, and its radiance."""
    radiance = np.random.default_rng(seed).uniform(0.1, 0.9, (rows, columns, len(wavelengths)))
    variables = {name: radiance, "wave": np.array(wavelengths, float)}
    if name != "reflectance":
        variables["illuminant"] = light(wavelengths)
    return variables, radiance


def test_compressed_cube(write):
    variables, radiance = compressed()
    cube = cubes.load(write(variables))
    assert cube.shape == (5, 4, 148) and cube.name == "face" and cube.dropped == ()
    np.testing.assert_allclose(cube.wavelengths, HYSPEX)
    np.testing.assert_allclose(cube.reflectance, radiance / light(HYSPEX), rtol=1e-12)
    assert cube.mask.all() and cube.mask.shape == (5, 4)
    ours = (HYSPEX >= 400) & (HYSPEX <= 720)
    assert cube.illuminant[ours].mean() == pytest.approx(1)
    np.testing.assert_allclose(cube.illuminant / cube.illuminant[0], light(HYSPEX) / light(HYSPEX)[0])
    del variables["imgMean"]
    expected = variables["mcCOEF"] @ variables["basis"]["basis"].T / light(HYSPEX)
    np.testing.assert_allclose(cubes.load(write(variables)).reflectance, expected, rtol=1e-10, atol=1e-15)


def test_one_basis_function(write):
    variables, radiance = compressed(k=1)
    variables["mcCOEF"] = variables["mcCOEF"][..., 0]  # as MATLAB stores it
    cube = cubes.load(write(variables))
    np.testing.assert_allclose(cube.reflectance, radiance / light(HYSPEX), rtol=1e-12)


def test_single_precision_stays(write):
    variables, values = plain("reflectance")
    cube = cubes.load(write(variables | {"reflectance": values.astype(np.float32)}))
    assert cube.read_rows(0, 1).dtype == np.float32
    np.testing.assert_allclose(cube.reflectance, values, rtol=1e-5)
    assert (cube.illuminant == 1).all()


def test_rows_blocks_and_slices_agree(write):
    cube = cubes.load(write(compressed(rows=7)[0]))
    whole = cube.radiance
    np.testing.assert_array_equal(cube[2:5], whole[2:5])
    np.testing.assert_array_equal(cube[3:], whole[3:])
    blocks = list(cube.blocks(pixels=9))  # two rows of four
    assert [b.stop - b.start for b, _ in blocks] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([values for _, values in blocks]), whole)
    assert len(list(cube.blocks(pixels=1))) == 7  # never less than a row
    with pytest.raises(TypeError, match="neighbouring rows"):
        cube[::2]


def test_a_cube_of_arrays_is_checked_like_a_file():
    variables, radiance = plain()
    wave = variables["wave"]
    cube = cubes.Cube.from_array(radiance, wave, light(wave), name="mine")
    np.testing.assert_allclose(cube.reflectance, radiance / light(wave), rtol=1e-12)
    with pytest.raises(DataError, match="array: expected finite radiance"):
        cubes.Cube.from_array(np.where(radiance == radiance.max(), np.nan, radiance), wave, light(wave))


@pytest.mark.parametrize("layout", ["photons", "mcCOEF"])
def test_zero_filled_bands_are_dropped_and_named(write, layout):
    wave = np.arange(400.0, 721, 10)
    if layout == "photons":
        variables, radiance = plain(wavelengths=wave)
        variables["photons"][..., [0, 1, -1]] = 0
    else:
        variables, radiance = compressed(wave)
        variables["basis"]["basis"][[0, 1, -1]], variables["imgMean"][[0, 1, -1]] = 0, 0
    variables["illuminant"] = np.where(wave < 420, 0, light(wave))  # zero-filled as well
    cube = cubes.load(write(variables))
    assert cube.dropped == (400.0, 410.0, 720.0)
    np.testing.assert_array_equal(cube.wavelengths, wave[2:-1])
    np.testing.assert_allclose(cube.reflectance, (radiance / light(wave))[..., 2:-1], rtol=1e-12)
    assert cube.shape[2] == len(cube.illuminant) == 30


#: what happens to a plain or a compressed cube, and what is said
WRONG = {
    "photons": [
        (lambda v: v.pop("wave"), "the wavelengths of its bands in nm .*found none"),
        (lambda v: v.update(wave=v["wave"][:-1]), "a wavelength a band along 4 × 3 × 33, found 32"),
        (lambda v: v["wave"].__setitem__(3, 420), "each wavelength once, found two bands at 420 nm"),
        (lambda v: v["wave"].__setitem__(3, 0.43), "wavelengths in nm, µm or m"),
        (lambda v: v.pop("illuminant"), "an illuminant .*found none"),
        (lambda v: v["illuminant"].__setitem__(5, 0.0), "above zero.*found zero or less at 450 nm"),
        (lambda v: v["illuminant"].__setitem__(5, np.nan), "a finite illuminant, found NaN"),
        (lambda v: v.update(illuminant=np.ones(30)), "an illuminant with 33 bands.*found 30"),
        (
            lambda v: v.update(illuminant=np.ones((4, 3, 33))),
            r"one illuminant for all pixels.*found shape \(4, 3, 33\)",
        ),
        (lambda v: v.update(illuminant={"data": FIVE, "wave": 500 + 10 * FIVE.cumsum()}), "covers 400–720 nm, found"),
        (lambda v: v.update(illuminant={"data": FIVE, "wave": GRID[:4]}), "an illuminant with 4 bands, found 5"),
        (lambda v: v["photons"].__setitem__((2, 1, 3), np.nan), "finite radiance inside the mask.*in row 2"),
        (lambda v: v["photons"].__setitem__((..., 10), 0), "radiance at every band .*zeros at 500 nm"),
        (lambda v: v["photons"].__imul__(0), "radiance, found zero everywhere"),
        (lambda v: v.update(photons=v["photons"][0]), r"photons of shape \(rows, cols, bands\)"),
        (lambda v: v.update(mask=np.ones((3, 3))), "a mask of 4 × 3.*found 3 × 3"),
        (lambda v: v.update(mask=np.zeros((4, 3))), "at least one pixel, found an empty one"),
        (lambda v: (v.clear(), v.update({"something": FIVE, "else": FIVE})), "found the variables else, something"),
        (lambda v: v.update(wave="400:10:720"), "real numbers in wave, found text"),
        (lambda v: v["wave"].__setitem__(3, np.nan), "wavelengths in nm, µm or m, found others"),
        (lambda v: v["wave"].__iadd__(290), "at least 5 bands within 400–720 nm, found 4 of 33 bands"),
        (lambda v: v.update(illuminant="D65"), "real numbers in illuminant, found text"),
    ],
    "mcCOEF": [
        (lambda v: v["basis"].pop("wave"), "the wavelengths of its bands in nm .*found none"),
        (lambda v: v["mcCOEF"].__setitem__((4, 1, 0), np.inf), "finite radiance inside the mask.*in row 4"),
        (lambda v: v.pop("basis"), "a struct basis .*found none"),
        (lambda v: v["basis"].update(basis=np.ones((148, 2))), r"one k, found \(5, 4, 3\) and \(148, 2\)"),
        (lambda v: v.update(imgMean=np.ones(7)), "imgMean with 148 bands.*found 7"),
    ],
}


WRONG = [(layout, *case) for layout, cases in WRONG.items() for case in cases]


@pytest.mark.parametrize(("layout", "harm", "said"), WRONG)
def test_what_is_wrong_is_said(write, layout, harm, said):
    variables, _ = plain() if layout == "photons" else compressed()
    harm(variables)
    path = write(variables)
    with pytest.raises(DataError, match=said) as raised:
        cubes.load(path)
    assert str(raised.value).startswith(f"{path}: expected ")


def test_cubes_are_read_one_at_a_time(tmp_path):
    for i in range(3):
        matlab5(tmp_path / f"face{i}.mat", plain(seed=i)[0])
    (tmp_path / "face1.mat").write_bytes(b"damaged")
    several = cubes.Cubes(cubes.find(tmp_path))  # nothing is opened yet
    assert len(several) == 3
    assert several[0].name == "face0" and several[-1].name == "face2"
    assert [c.name for c in several[::2]] == ["face0", "face2"]
    refuses("face1.mat", list, several)
    assert cubes.find(tmp_path / "nowhere") == []
    (tmp_path / "unpacked").mkdir()  # a folder without pictures is no cube
    assert len(cubes.find(tmp_path)) == 3


REFLECTANCE = np.random.default_rng(3).uniform(0.1, 0.9, (5, 4, 33))
RADIANCE = REFLECTANCE * light(GRID)
SHUFFLED = np.random.default_rng(4).permutation(33)
DOWN = slice(None, None, -1)


RGB = np.ones((5, 4, 3))
SCENE = {
    "data": {"photons": RADIANCE, "luminance": 3.0},
    "spectrum": {"wave": GRID},
    "name": "x",
    "illuminant": {"data": {"photons": light(GRID)}, "spectrum": {"wave": GRID}, "name": "D65"},
}


def hdf5(path, variables, unit=None):
    """The wavelengths are variables or an attribute."""
    with h5py.File(path, "w") as file:
        for name, value in variables.items():
            file[name] = value
            file[name].attrs["wavelength"] = GRID
        if unit:
            file["wave"].attrs["units"] = unit


def hdf5_text(path, variables):
    """Text beside the cube, and wavelengths in text, a variable or an attribute of it."""
    with h5py.File(path, "w") as file:
        file["comment"], file["cube"] = "a face", REFLECTANCE
        (file if variables else file["cube"].attrs)["wavelength"] = [f"{w:g}" for w in GRID]


def raw_envi(path, interleave, unit="", wave=GRID / 1000, units="Micrometers"):
    """A header in the capitals that some cameras write, and its data in big-endian numbers."""
    scale, header = (5000, "reflectance scale factor = 5000\n") if interleave == "bsq" else (1, "")
    axes = {"bip": (0, 1, 2), "bil": (0, 2, 1), "bsq": (2, 0, 1)}[interleave]
    path.with_suffix(".raw").write_bytes((REFLECTANCE * scale).transpose(axes).astype(">f4").tobytes())
    wave = ", ".join(f"{w:.12g}{unit}" for w in wave)
    path.write_text(
        f"ENVI\nSamples = 4\nLines = 5\nBands = 33\ndata type = 4\ninterleave = {interleave}\nbyte order = 1\n"
        f"header offset = 0\n{header}wavelength units = {units}\nWavelength = {{{wave}}}\n"
    )


def pictures(folder, name):
    dtype, depth = (np.uint8, 255) if name.endswith("tif") else (np.uint16, 65535)
    folder.mkdir()
    (folder / "._face_01.png").write_bytes(b"a dotfile is no data")
    (folder / ".thumbnails").mkdir()
    Image.new("L", (3, 3)).save(folder / ".thumbnails" / "face_01.png")
    Image.new("L", (3, 3)).save(folder / "preview.png")
    for i, w in enumerate(GRID):
        plane = np.rint(REFLECTANCE[..., i] * depth).astype(dtype)
        Image.fromarray(plane).save(folder / name.format(i + 1, w))


LIGHT = light(GRID)
LAMP = {"data": LIGHT[DOWN], "wavelength": GRID[DOWN]}
COARSER = {"data": light(COARSE), "wave": COARSE}
#: ISET's older files have radiance in photons, about 1e16, and a light in watts
PER_JOULE = GRID * 1e-9 / (scipy.constants.h * scipy.constants.c)
LAYOUTS = {  # a name, what writes it, and what of
    "bands first": ("a.mat", matlab5, {"cube": REFLECTANCE.transpose(2, 0, 1), "wavelengths": GRID}),
    "bands between, v7.3": ("a.mat", matlab73, {"ref": REFLECTANCE.transpose(0, 2, 1), "lambda": GRID}),
    "bands are wavelengths": ("a.mat", matlab73, {"rad": RADIANCE, "bands": GRID, "illuminant": LIGHT, "rgb": RGB}),
    "bands are the cube": ("a.mat", matlab5, {"bands": REFLECTANCE, "wave": GRID}),
    "data and light": ("a.mat", matlab5, {"data": RADIANCE, "wavelength": GRID, "illuminant": LIGHT}),
    "the light, v7.3": ("a.mat", matlab73, {"rad": RADIANCE, "wave": GRID, "illuminant": LAMP | {"comment": "x"}}),
    "a coarser light": ("a.mat", matlab73, {"rad": RADIANCE, "wave": GRID, "illuminant": COARSER}),
    "the light in watts": ("a.mat", matlab5, {"photons": RADIANCE * PER_JOULE, "wave": GRID, "illuminant": LAMP}),
    "a name of one's own": ("a.mat", matlab5, {"Gesicht": REFLECTANCE, "Wavelength": GRID}),
    "µm, any order": ("a.mat", matlab5, {"REF": REFLECTANCE[..., SHUFFLED], "wl": GRID[SHUFFLED] / 1e3}),
    "m": ("a.mat", matlab5, {"reflectance": REFLECTANCE, "wave": GRID * 1e-9}),
    "down": ("a.mat", matlab5, {"photons": RADIANCE[..., DOWN], "wave": GRID[DOWN], "illuminant": LIGHT[DOWN]}),
    "the light down": ("a.mat", matlab5, {"photons": RADIANCE, "wave": GRID, "illuminant": LAMP}),
    "ISETCam's scene": ("a.mat", matlab5, {"scene": SCENE}),
    "ISETCam's scene, v7.3": ("a.mat", matlab73, {"scene": SCENE, "comment": "x"}),
    "a struct": ("a.mat", matlab5, {"s": {"ref": REFLECTANCE, "wave": GRID}}),
    "a cell of text": ("a.mat", matlab5, {"ref": REFLECTANCE, "wave": np.array([f"{w:g}" for w in GRID], object)}),
    "a cell of numbers": ("a.mat", matlab5, {"ref": REFLECTANCE, "wave": np.array([*GRID], object)}),
    "HDF5, text": ("a.h5", hdf5_text, True),
    "HDF5, text as an attribute": ("a.h5", hdf5_text, False),
    "HDF5": ("a.h5", hdf5, {"cube": REFLECTANCE}),
    "HDF5, bands first, grouped": ("a.hdf5", hdf5, {"x/ref": REFLECTANCE.transpose(2, 0, 1), "x/wl": GRID}),
    "ENVI, bil": ("a.hdr", raw_envi, "bil"),
    "ENVI, bip": ("a.hdr", raw_envi, "bip"),
    "ENVI, bsq, scaled": ("a.hdr", raw_envi, "bsq"),
    "pictures": ("a", pictures, "face_{1:.0f}nm.png"),
    "pictures, 8 bits": ("a", pictures, "{1:g}.tif"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_cube(layout, tmp_path):
    name, write, content = LAYOUTS[layout]
    write(tmp_path / name, content)
    np.testing.assert_array_equal(cubes.find(tmp_path), [tmp_path / name])
    cube = cubes.load(tmp_path / name)
    np.testing.assert_allclose(cube.wavelengths, GRID, rtol=1e-12)
    depth = 5e-3 if "8 bits" in layout else 1e-5
    np.testing.assert_allclose(cube.reflectance, REFLECTANCE, atol=depth)
    np.testing.assert_allclose(cube[1:3] / cube.illuminant, REFLECTANCE[1:3], atol=depth)
    if name.endswith("hdr"):
        np.testing.assert_array_equal(cubes.load(tmp_path / "a.raw").radiance, cube.radiance)
    assumed = name == "a" or layout.startswith(("ENVI", "bands first", "bands are the", "a name", "HDF5, x", "µ"))
    assert assumed <= bool(cube.notes)


@pytest.mark.parametrize("kind", ["ENVI", "HDF5", "variable", "of the light"])
def test_a_unit_of_wavelengths_that_is_none_of_length_is_refused(kind, tmp_path):
    """400–720 THz would pass for nm. A unit alone may be that of the radiance."""

    def write(unit):
        if kind == "ENVI":
            raw_envi(tmp_path / "a.hdr", "bil", wave=GRID, units=unit)
        elif kind == "HDF5":
            hdf5(tmp_path / "a.h5", {"ref": REFLECTANCE, "wave": GRID}, unit.encode())
        else:
            variables = {"rad": RADIANCE, "wave": GRID, "illuminant": dict(LAMP), "unit": "W/sr/m2/Hz"}
            stating = variables["illuminant"] if kind == "of the light" else variables
            stating["wave_unit"] = unit
            matlab5(tmp_path / "a.mat", variables)
        return cubes.find(tmp_path)[0]

    for unit in ("Wavelength (nm)", "nanometres [nm]", "Unknown"):
        np.testing.assert_allclose(cubes.load(write(unit)).reflectance, REFLECTANCE, atol=1e-5)
    for unit in ("fathoms", "Index", "Frequency/THz", "Wavenumber"):
        refuses(f"expected wavelengths in nm.*found the unit '{unit}'", cubes.load, write(unit))
    by_hand = cubes.load(write("THz"), wavelengths=GRID, illuminant={"data": light(GRID), "wave": GRID})
    np.testing.assert_allclose(by_hand.wavelengths, GRID)


def test_31_numbered_pictures_are_those_of_cave(tmp_path):
    pictures(tmp_path / "face", "face_ms_{0:02d}.png")
    refuses(r"face: expected the wavelengths .*--wavelengths of the command\), found", cubes.load, tmp_path / "face")
    cube = cubes.load(tmp_path / "face", wavelengths=GRID)
    np.testing.assert_allclose(cube.reflectance, REFLECTANCE, atol=1e-5)
    for last in (32, 33):
        (tmp_path / "face" / f"face_ms_{last}.png").unlink()
    cube = cubes.load(tmp_path / "face")
    np.testing.assert_array_equal(cube.wavelengths, np.arange(400, 701, 10))
    assert any("as in CAVE" in note for note in cube.notes)
    Image.new("L", (4, 5)).save(tmp_path / "face" / "face_ms_03.png")
    refuses(r"face_ms_03.png: expected \(5, 4\) uint16 as face_ms_01.png", cubes.load, tmp_path / "face")
    Image.new("RGB", (4, 5), "red").save(tmp_path / "face" / "face_ms_03.png")
    refuses("face_ms_03.png: expected a grey picture of one band", cubes.load, tmp_path / "face")


def test_axes_that_the_wavelengths_do_not_tell_apart_are_asked_for(write):
    cube = np.random.default_rng(0).uniform(0.1, 0.9, (33, 33, 33))
    path = write({"reflectance": cube, "wave": GRID})
    refuses(r"face.mat: expected axes that .* or stated \(axes='rcb'.*found 33 × 33 × 33", cubes.load, path)
    np.testing.assert_allclose(cubes.load(path, axes="rcb").reflectance, cube)
    np.testing.assert_allclose(cubes.load(path, axes="brc").reflectance, cube.transpose(1, 2, 0))
    np.testing.assert_allclose(cubes.load(path, axes="cbr").reflectance, cube.transpose(2, 0, 1))
    refuses("axes in an order like 'rcb'.*found 'rgb'", cubes.load, path, axes="rgb")
    path = write({"reflectance": cube[:4, :3], "wave": GRID})
    refuses("4 wavelengths, one for each band, found 33", cubes.load, path, axes="brc")


@pytest.mark.parametrize("given", ["a variable", "NAME_mask.PNG", "face_Mask.jpg"])
def test_outside_the_mask_anything_may_be_missing(write, tmp_path, given):
    """And a mask beside the cube is found in every format of pictures."""
    inside = np.ones((5, 4), bool)
    inside[1] = False
    values = np.where(inside[..., None], RADIANCE, np.nan)
    variables = {"photons": values, "wave": GRID, "illuminant": light(GRID)}
    path = write(variables | ({"mask": inside * 1.0} if given == "a variable" else {}))
    if given != "a variable":
        refuses("finite radiance inside the mask, found NaN or infinity in row 1", cubes.load, path)
        drawn = Image.fromarray(inside.astype(np.uint8) * 255)
        drawn.save(tmp_path / given.replace("NAME", "face"), quality=100)
    cube = cubes.load(path)
    np.testing.assert_array_equal(cube.mask, inside)
    np.testing.assert_allclose(cube.reflectance[inside], REFLECTANCE[inside])
    Image.new("L", (4, 5)).save(tmp_path / "FACE_mask.tif")  # another cube's
    if given == "face_Mask.jpg":
        write(variables | {"mask": 1.0 - inside})  # the picture wins
        np.testing.assert_array_equal(cubes.load(path).mask, inside)
        drawn.transpose(Image.Transpose.TRANSPOSE).save(tmp_path / given)
        refuses("a mask of 5 × 4, as the cube, found 4 × 5", cubes.load, path)
    if given == "NAME_mask.PNG":
        Image.new("L", (4, 5)).save(tmp_path / "face_mask.png")
        refuses("one mask beside it, found face_mask.PNG and face_mask.png", cubes.load, path)


def test_what_is_no_envi_file_and_no_stack(tmp_path):
    raw_envi(tmp_path / "face.hdr", "bil")
    (tmp_path / "face.raw").write_bytes(b"short")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.hdr").write_bytes(b"#?RADIANCE\n\xff")
    raw_envi(tmp_path / "nm.hdr", "bil", " nm")
    refuses("nm.hdr: expected real numbers in wave, found text", cubes.load, tmp_path / "nm.hdr")
    for name in ("face.hdr", "other.hdr"):
        refuses(f"{name}: expected an ENVI header with its data beside it", cubes.load, tmp_path / name)
    refuses("empty: expected pictures of bands whose names end in a number", cubes.load, tmp_path / "empty")


def test_real_scenes_of_isetcam(real_file):
    for path in sorted(real_file("iset_scenes").glob("*.mat")):
        cube = cubes.load(path)
        assert cube.shape == (161, 150, 29) and cube.wavelengths[-1] == 680
        assert 0.02 < np.median(cube.reflectance) < 0.9
