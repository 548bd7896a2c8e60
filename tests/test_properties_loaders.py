"""Files that came to harm: whatever happens to a valid file, it loads with valid values or is refused by name.

Each kind of file is written whole. Hypothesis draws what happens to a copy: bytes turned, zeroed, overwritten or
cut off, arrays dropped, renamed, exchanged, or of another type and shape. Another process opens the copy, so that a
crash in C, endless work or memory without end is a failing example like any other. The same examples are drawn on
every run; BIOFACE_EXAMPLES=20 draws twenty times as many.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import multiprocessing
import os
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from test_cubes import compressed, matlab5, matlab73, plain
from test_nfe import random_images

from bioface.datasets import colours, cubes, nfe, photos, twin
from bioface.errors import BiofaceError, DataError
from bioface.maps import Decomposition

pytestmark = pytest.mark.slow  # a process that opens files, for each worker

PATIENCE = 20  # seconds for one file
MEMORY = 3 * 2**30  # bytes that opening one file may take


# --- whole files ---


def nfe_arrays():
    lights = np.random.default_rng(0).normal(size=(2, 3, 9))
    return {"images": {"zx_7": random_images(2, dtype=np.float32)}, "lights": {"zx_7": lights}}


IMAGES, LIGHTS = "zx_7_d10_inmc_celebA_01.hdf5", "zx_7_d3_lrgb_celebA_01.hdf5"


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)


def nested(arrays):
    """``{"a/b": value}`` as ``{"a": {"b": value}}``."""
    tree = {}
    for name in sorted(arrays):
        *structs, last = name.split("/")
        level = functools.reduce(lambda level, struct: level.setdefault(struct, {}), structs, tree)
        level[last] = arrays[name]
    return tree


def mat_arrays(layout):
    variables = compressed()[0] if layout == "compressed" else plain(layout)[0]
    if layout == "compressed":
        variables |= {f"basis/{name}": value for name, value in variables.pop("basis").items()}
    if layout == "photons":
        variables |= {"illuminant/data/photons": variables.pop("illuminant"), "mask": np.ones((4, 3), np.uint8)}
        variables["illuminant/wave"] = variables["wave"].copy()
    return variables


def decomposition_arrays():
    maps = np.random.default_rng(0).random((4, 6, 5))
    shared = np.zeros(2), np.full(33, 1 / 33), np.zeros((6, 5, 3)), np.ones((6, 5))
    return dict(vars(Decomposition.of_maps(*maps, *shared)))


PICTURE = Image.fromarray(np.linspace(0, 255, 20 * 24 * 3).reshape(20, 24, 3).astype(np.uint8))


def grey(values):
    return Image.fromarray(values.reshape(20, 24))


def write_photo(path, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    PICTURE.save(path, exif=exif, **options)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def truth_arrays():
    values = np.random.default_rng(0).random((2, 4, 4))
    names = [field.name for field in dataclasses.fields(twin.Truth)]
    return dict.fromkeys(names, values) | {"group": np.array(["a", "b"], dtype=object)}


# --- the process that opens files ---


def is_finite(*values):
    return all(bool(np.isfinite(v).all()) for v in values)


def open_faces(path):
    faces = nfe.NFE(path.with_name(IMAGES))[:]
    assert is_finite(faces.rgb, faces.normals, faces.lighting, faces.coordinates)
    assert faces.rgb.min() >= 0 and faces.rgb.max() <= 1
    assert np.linalg.norm(faces.normals, axis=-1).max() < 1 + 1e-5


def open_truth(path):
    truth = twin.read_truth(path)
    assert len({len(getattr(truth, f.name)) for f in dataclasses.fields(truth)}) == 1


def open_cube(path):
    cube = cubes.load(path)
    assert is_finite(cube.radiance, cube.wavelengths, cube.illuminant) and cube.radiance.shape == cube.shape
    assert (np.diff(cube.wavelengths) > 0).all() and (cube.illuminant > 0).all() and cube.mask.any()


def open_photo(path):
    photo = photos.read(path)
    assert photo.rgb.shape == (*photo.mask.shape, 3) and photo.mask.any()
    assert photo.rgb.min() >= 0 and photo.rgb.max() <= 1


def open_mask(path):
    PICTURE.save(path.with_name("photo.png"))
    assert photos.read(path.with_name("photo.png"), path).mask.any()


def open_decomposition(path):
    d = Decomposition.load(path)
    assert d.albedo.shape == (*d.melanin.shape, 3) == (*d.mask.shape, 3)


def cube_file(write, layout, **options):
    """What writes arrays as such a file, and the arrays of a whole one."""
    return lambda path, arrays: write(path, nested(arrays), **options), mat_arrays(layout)


CUBES = {
    "ISET v5": cube_file(matlab5, "compressed"),
    "ISET v5, photons": cube_file(matlab5, "photons"),
    "ISET v5, reflectance": cube_file(matlab5, "reflectance", do_compression=True),
    "ISET v7.3": cube_file(matlab73, "compressed"),
    "ISET v7.3, photons": cube_file(matlab73, "photons"),
}
#: kind: the name of the file, what writes it whole, and what opens it
WHOLE = {
    "NFE images": (IMAGES, lambda p: write_hdf5(p, nfe_arrays()["images"]), open_faces),
    "NFE lights": (LIGHTS, lambda p: write_hdf5(p, nfe_arrays()["lights"]), open_faces),
    "twin truth": ("twin_truth_01.hdf5", lambda p: write_hdf5(p, truth_arrays()), open_truth),
    "PNG": ("photo.png", lambda p: write_photo(p, icc_profile=PROFILE), open_photo),
    "PNG, 16 bits": ("photo.png", lambda p: grey(np.arange(480, dtype=np.uint16)).save(p), open_photo),
    "PNG, palette": ("photo.png", lambda p: PICTURE.quantize(16).save(p, transparency=3), open_photo),
    "JPEG": ("photo.jpg", lambda p: write_photo(p, icc_profile=PROFILE), open_photo),
    "TIFF": ("photo.tif", write_photo, open_photo),
    "TIFF, float": ("photo.tif", lambda p: grey(np.linspace(0, 1, 480, dtype=np.float32)).save(p), open_photo),
    "mask": ("mask.png", lambda p: Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 255).save(p), open_mask),
    "decomposition": ("face.npz", lambda p: np.savez_compressed(p, **decomposition_arrays()), open_decomposition),
}
WHOLE |= {kind: ("face.mat", functools.partial(write, arrays=a), open_cube) for kind, (write, a) in CUBES.items()}


def outcome(kind, path):
    """ "loaded", "refused", or what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", colours.Ignored)
            warnings.filterwarnings("ignore", module="PIL")  # a photo with a damaged note is still a photo
            WHOLE[kind][2](path)
    except BiofaceError as error:
        named = isinstance(error, DataError) and error.path.parent == path.parent and str(error.path) in str(error)
        return "refused" if named else f"refused without its name: {error}"
    except BaseException:
        return traceback.format_exc()
    return "loaded"


def prepare(log):
    """The process that opens files: what libraries print goes to ``log``, and memory has an end."""
    with log.open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    faulthandler.enable()
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError, OSError):  # where there is /proc
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


@pytest.fixture(scope="module")
def open_there(tmp_path_factory):
    """``open_there(kind, path)``: the outcome in a process of its own, a new one when that has died."""
    log = tmp_path_factory.mktemp("opener") / "said"
    pools = []

    def start():
        pools[:] = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare, (log,))]
        pools[0].submit(outcome, "PNG", Path("nowhere") / "photo.png").result(120)

    def ask(kind, path):
        try:
            return pools[0].submit(outcome, kind, path).result(PATIENCE)
        except (BrokenProcessPool, TimeoutError) as error:
            said = f"{error!r}: {log.read_text()[-4000:]}"
        for child in multiprocessing.active_children():  # where it hangs
            child.kill()
        pools[0].shutdown()
        start()
        return said

    start()
    yield ask
    pools[0].shutdown()


def hold(open_there, kind, path, count, strategy, harm):
    """After each of so many harms the file loads or is refused."""

    @settings(
        max_examples=count * int(os.environ.get("BIOFACE_EXAMPLES", "1")),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(strategy)
    def each(things):
        try:
            harm(things)
        except (TypeError, ValueError, OSError, AttributeError):
            return  # no such file can be written
        outcomes.append(open_there(kind, path))
        assert outcomes[-1] in ("loaded", "refused")

    outcomes = []
    each()
    assert outcomes


def whole(folder, kind):
    """The path of a whole file of a kind, written in a folder with what belongs beside it."""
    name, write, _ = WHOLE[kind]
    if kind.startswith("NFE"):
        for beside, which in ((IMAGES, "images"), (LIGHTS, "lights")):
            write_hdf5(folder / beside, nfe_arrays()[which])
    write(folder / name)
    return folder / name


# --- harm to bytes ---

TELLING = [b"\xff" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0", b"\1", b"\x80", b"9", b"99", b"-"]
TELLING += [b"\x00\x10\x00\x00", b"\x00\x00\x00\x10"]


def harms(size):
    """Up to three times, at a place: how many bytes go and which come; nearer to the ends as often as anywhere."""
    near = min(2048, size - 1)
    place = st.one_of(st.integers(0, min(200, near)), st.integers(0, near), st.integers(size - 1 - near, size - 1))
    harm = st.one_of(
        st.binary(min_size=1, max_size=1).map(lambda new: (1, new)),
        st.sampled_from([4, 16, 64, 512, 4096]).map(lambda count: (count, bytes(count))),
        st.sampled_from(TELLING).map(lambda new: (len(new), new)),
        st.sampled_from([1, 4, 8, 100]).map(lambda count: (count, b"")),
        st.just((size, b"")),  # cut off
    )
    return st.lists(st.tuples(place | st.integers(0, size - 1), harm), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files_load_and_harmed_ones_load_or_are_refused(kind, tmp_path, open_there):
    path = whole(tmp_path, kind)
    content = path.read_bytes()
    assert open_there(kind, path) == "loaded"

    def harm(things):
        harmed = content
        for place, (count, new) in things:
            harmed = harmed[:place] + new + harmed[place + count :]
        path.write_bytes(harmed)

    hold(open_there, kind, path, 80, harms(len(content)), harm)


# --- harm to arrays ---

TYPES = ["f2", "f4", ">f8", "i1", "i4", "u8", "?", "c8", "S3", "U2"]
VALUES = [np.nan, np.inf, -1.0, 0.0, 1e300, -1e-300, 3e38]
SHAPES = ["T", "flat", "part", "axis", "empty", "scalar", "twice"]
NAMES = ["x", "a/b", "ä", "record", "mask", "optimiser.x.y.z"]


def changes(arrays):
    """One or two changes to a dictionary of arrays, as (what, name, how)."""
    names = st.sampled_from(sorted(arrays))
    ways = {
        "drop": st.none(),
        "rename": st.sampled_from(NAMES),
        "exchange": names,
        "cast": st.sampled_from(TYPES),
        "shape": st.sampled_from(SHAPES),
        "fill": st.sampled_from(VALUES),
        "one value": st.sampled_from(VALUES),
    }
    change = st.one_of([st.tuples(st.just(what), names, how) for what, how in ways.items()])
    return st.lists(change, min_size=1, max_size=2)


def changed(arrays, things):
    arrays = dict(arrays)
    for what, name, how in things:
        if name not in arrays:
            continue
        value = np.asarray(arrays[name])
        if what == "drop":
            del arrays[name]
        elif what == "rename":
            arrays[how] = arrays.pop(name)
        elif what == "exchange":
            arrays[name], arrays[how] = arrays.get(how, value), value
        elif what == "cast":
            if value.dtype.kind in "fiub":
                with np.errstate(all="ignore"):
                    arrays[name] = value.astype(how)
        elif what == "shape":
            several = np.atleast_1d(value)
            shaped = value.T, value.ravel(), several[1:], value[None], several[:0]
            shaped += value.ravel()[0] if value.size else value, np.concatenate([several, several])
            arrays[name] = dict(zip(SHAPES, shaped, strict=True))[how]
        elif value.dtype.kind == "f" and value.size:
            value = value.copy()
            with np.errstate(over="ignore"):
                value[... if what == "fill" else (value.ndim * (0,))] = how
            arrays[name] = value
    return arrays


ARRAYS = CUBES | {
    "NFE images": (write_hdf5, nfe_arrays()["images"]),
    "NFE lights": (write_hdf5, nfe_arrays()["lights"]),
    "decomposition": (lambda p, a: np.savez(p, **a), decomposition_arrays()),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_changed_arrays(kind, tmp_path, open_there):
    (write, arrays), path = ARRAYS[kind], whole(tmp_path, kind)
    hold(open_there, kind, path, 50, changes(arrays), lambda things: write(path, changed(arrays, things)))
