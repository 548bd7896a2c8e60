"""Files that came to harm: whatever happens to a valid file, it loads with valid values or is refused by name.

Each kind of file is written whole, once. Hypothesis draws what happens to a copy: bytes turned, zeroed, overwritten or
cut off, arrays dropped, renamed, exchanged, or of another type and shape. Another process opens the copy, so that a
crash in C, endless work or memory without end is a failing example like any other. That process is this file, run as
a script. The same examples are drawn on every run; BIOFACE_EXAMPLES=20 draws twenty times as many.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import select
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from test_iset import compressed, matlab5, matlab73, plain

from bioface import training
from bioface.datasets import iset, nfe, photos, twin
from bioface.errors import BiofaceError, DataError
from bioface.maps import Decomposition
from bioface.network import BioFaceNet
from bioface.objective import Batch
from bioface.recipes import WORKING
from study import claims

PATIENCE = 20  # seconds for one file
MEMORY = 3 * 2**30  # bytes that opening one file may take
RECIPE = WORKING.but("plain", optimiser="adam", learning_rate=1e-3, schedule="constant")


def examples(count):
    """Settings for so many examples."""
    slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=count * int(os.environ.get("BIOFACE_EXAMPLES", "1")),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=slow_is_fine,
    )


# --- whole files -------------------------------------------------------------------------------------------


def nfe_arrays():
    y, x = np.mgrid[:64, :64] / 63
    images = np.full((2, 10, 64, 64), 0.5, np.float32)
    images[:, 0:3] = x * y
    images[:, 5] = 1
    images[:, 6] = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.2
    lights = np.random.default_rng(0).normal(size=(2, 3, 9))
    return {"images": {"zx_7": images}, "lights": {"zx_7": lights}}


IMAGES, LIGHTS = "zx_7_d10_inmc_celebA_01.hdf5", "zx_7_d3_lrgb_celebA_01.hdf5"


def write_hdf5(path, arrays, **options):
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value, **options)


def nested(arrays):
    """``{"a/b": value}`` as ``{"a": {"b": value}}``; what it cannot be (a value and a struct) is the struct."""
    tree = {}
    for name, value in arrays.items():
        *structs, last = name.split("/")
        level = tree
        for struct in structs:
            if not isinstance(level.get(struct), dict):
                level[struct] = {}
            level = level[struct]
        level[last] = value
    return tree


def flat(tree, prefix=""):
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


def mat_arrays(layout):
    variables = compressed()[0] if layout == "compressed" else plain(layout)[0]
    if layout == "photons":
        data = {"photons": variables["illuminant"]}
        variables["illuminant"] = {"data": data, "wave": variables["wave"].copy()}
        variables["mask"] = np.ones((4, 3), np.uint8)
    return flat(variables)


def decomposition_arrays():
    random = np.random.default_rng(0)
    maps = {name: random.random((6, 5), np.float32) for name in ("melanin", "haemoglobin", "diffuse_shading")}
    maps["specular_shading"] = random.random((6, 5), np.float32)
    maps |= {name: random.random((6, 5, 3), np.float32) for name in ("albedo", "reconstruction", "image")}
    light = np.full(33, 1 / 33, np.float32)
    return maps | {"mask": np.ones((6, 5), bool), "camera_b": np.zeros(2, np.float32), "illuminant": light}


def batch():
    image = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    normals = torch.tensor([0.0, 0.0, 1.0]).expand(2, 16, 16, 3)
    return Batch(image, torch.ones(2, 16, 16, dtype=torch.bool), normals, torch.full((2, 9), 0.5))


def write_checkpoint(path):
    training.train(training.build(RECIPE, 1), batch(), RECIPE, 2, checkpoint=path, progress=False)


def write_claims(path):
    made = claims.Claims("04", sigma=0.002, lm_starts=32, lm_pixels=500)
    made.check("issa_layered", 0.0047, control="≤ 0.1")
    made.skip("cheeks_layered", reason="no data")
    rows = [dataclasses.asdict(c) for c in made.rows.values()]
    path.write_text(json.dumps({"claims": rows}, ensure_ascii=False, indent=0), encoding="utf-8")


def picture():
    x = np.linspace(0, 255, 20 * 24 * 3).reshape(20, 24, 3)
    return Image.fromarray(x.astype(np.uint8))


def write_photo(path, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture().save(path, exif=exif, **options)


def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def truth_arrays():
    shapes = {"group": None}
    random = np.random.default_rng(0)
    for field in dataclasses.fields(twin.Truth):
        shapes.setdefault(field.name, random.random((2, 4, 4)))
    shapes["group"] = np.array(["a", "b"], dtype=object)
    return shapes


#: kind: the name of the file and what writes it whole
WHOLE = {
    "NFE images": (IMAGES, lambda p: write_hdf5(p, nfe_arrays()["images"])),
    "NFE images, compressed": (IMAGES, lambda p: write_hdf5(p, nfe_arrays()["images"], compression="gzip")),
    "NFE lights": (LIGHTS, lambda p: write_hdf5(p, nfe_arrays()["lights"])),
    "twin truth": ("twin_truth_01.hdf5", lambda p: write_hdf5(p, truth_arrays())),
    "ISET v5": ("face.mat", lambda p: matlab5(p, nested(mat_arrays("compressed")))),
    "ISET v5, photons": ("face.mat", lambda p: matlab5(p, nested(mat_arrays("photons")))),
    "ISET v5, zipped": ("face.mat", lambda p: scipy.io.savemat(p, nested(mat_arrays("photons")), do_compression=True)),
    "ISET v7.3": ("face.mat", lambda p: matlab73(p, nested(mat_arrays("compressed")))),
    "ISET v7.3, photons": ("face.mat", lambda p: matlab73(p, nested(mat_arrays("photons")))),
    "PNG": ("photo.png", lambda p: write_photo(p, icc_profile=profile())),
    "PNG, 16 bits": ("photo.png", lambda p: Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24)).save(p)),
    "PNG, palette": ("photo.png", lambda p: picture().quantize(16).save(p, transparency=3)),
    "JPEG": ("photo.jpg", lambda p: write_photo(p, icc_profile=profile())),
    "TIFF": ("photo.tif", lambda p: write_photo(p)),
    "TIFF, LZW": ("photo.tif", lambda p: write_photo(p, compression="tiff_lzw")),
    "TIFF, floating point": (
        "photo.tif",
        lambda p: Image.fromarray(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24)).save(p),
    ),
    "mask": ("mask.png", lambda p: Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 255).save(p)),
    "weights": ("net.safetensors", lambda p: training.build("working", 1).save(p)),
    "checkpoint": ("run.safetensors", write_checkpoint),
    "decomposition": ("face.npz", lambda p: np.savez_compressed(p, **decomposition_arrays())),
    "claims": ("claims.json", write_claims),
}


# --- the process that opens files --------------------------------------------------------------------------


def is_finite(*values):
    return all(bool(np.isfinite(v).all()) for v in values)


def open_faces(path):
    faces = nfe.NFE(path.with_name(IMAGES), path.with_name(LIGHTS))[:]
    assert is_finite(faces.rgb, faces.normals, faces.lighting, faces.coordinates)
    assert faces.rgb.min() >= 0 and faces.rgb.max() <= 1
    assert np.linalg.norm(faces.normals, axis=-1).max() < 1 + 1e-5


def open_truth(path):
    truth = twin.read_truth(path)
    assert len({len(getattr(truth, f.name)) for f in dataclasses.fields(truth)}) == 1


def open_cube(path):
    cube = iset.load(path)
    assert is_finite(cube.radiance, cube.wavelengths, cube.illuminant) and cube.radiance.shape == cube.shape
    assert (np.diff(cube.wavelengths) > 0).all() and (cube.illuminant > 0).all() and cube.mask.any()


def open_photo(path):
    photo = photos.read(path)
    assert photo.rgb.shape == (*photo.mask.shape, 3) and photo.mask.any()
    assert photo.rgb.min() >= 0 and photo.rgb.max() <= 1


def open_mask(path):
    values = np.full((20, 24, 3), 9, np.uint8)
    Image.fromarray(values).save(path.with_name("photo.png"))
    assert photos.read(path.with_name("photo.png"), path).mask.any()


def open_weights(path):
    assert is_finite(*(value.numpy() for value in BioFaceNet.from_file(path).state_dict().values()))


def open_checkpoint(path):
    """Taken up for one step more."""
    with contextlib.suppress(training.Diverged):  # huge numbers are numbers
        history = training.train(training.build(RECIPE, 1), batch(), RECIPE, 3, checkpoint=path, progress=False)
        assert len(history) == 3


def open_decomposition(path):
    d = Decomposition.load(path)
    assert d.albedo.shape == (*d.melanin.shape, 3) == (*d.mask.shape, 3)


def open_claims(path):
    rows = claims.read(path)
    assert claims.format_table(rows).endswith("not measured.")
    for row in rows:
        claims.digest(row.notebook, path)


def opener(kind):
    openers = {"NFE": open_faces, "twin": open_truth, "ISET": open_cube, "mask": open_mask, "weights": open_weights}
    openers |= {"checkpoint": open_checkpoint, "decomposition": open_decomposition, "claims": open_claims}
    return openers.get(kind.split()[0].rstrip(","), open_photo)


def outcome(kind, path):
    """ "loaded", "refused", or what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="PIL")  # a photo with a damaged note is still a photo
            opener(kind)(path)
    except BiofaceError as error:
        named = isinstance(error, DataError) and error.path.parent == path.parent and str(error.path) in str(error)
        return "refused" if named else f"refused without its name: {error}"
    except BaseException:
        return traceback.format_exc()
    return "loaded"


def serve():
    """Answer each line of the standard input (kind and path, as JSON) with a line on the standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    faulthandler.enable()
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError, OSError):  # where there is /proc
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for line in sys.stdin:
        kind, path = json.loads(line)
        print(json.dumps(outcome(kind, Path(path))), file=answers)
        answers.flush()


class Opener:
    """Opens files in a process of its own, a new one when that has died."""

    def __init__(self, log):
        self.log, self.process = log, None

    def __call__(self, kind, path):
        if self.process is None:
            with self.log.open("wb") as errors:
                self.process = subprocess.Popen(
                    [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
            self._ask("claims", Path("nowhere") / "claims.json", 120)
        return self._ask(kind, path, PATIENCE)

    def _ask(self, kind, path, patience):
        self.process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
        self.process.stdin.flush()
        line = b""
        if select.select([self.process.stdout], [], [], patience)[0]:
            line = self.process.stdout.readline()
            if line:
                return json.loads(line)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        ended = self.process.poll()
        self.close()
        return f"hung for {patience} s" if ended is None else f"crashed ({ended}): {self.log.read_text()[-4000:]}"

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def open_there(tmp_path_factory):
    opener = Opener(tmp_path_factory.mktemp("opener") / "stderr")
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``whole(kind)``: the whole file of a kind in a folder of its own, with what belongs beside it."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("kind")
            name, write = WHOLE[kind]
            if kind.startswith("NFE"):
                for beside, which in ((IMAGES, "images"), (LIGHTS, "lights")):
                    write_hdf5(folder / beside, nfe_arrays()[which])
            write(folder / name)
            made[kind] = folder / name, (folder / name).read_bytes()
        return made[kind]

    return make


# --- harm to bytes -----------------------------------------------------------------------------------------

TELLING = [b"\xff" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0", b"\1", b"\x80", b"9", b"99", b"-"]
TELLING += [b"e", b'"', b",", b"{", b"[", b"]", b"}", b"\n", b"\xc3", b"\x00\x10\x00\x00", b"\x00\x00\x00\x10"]


@st.composite
def harms(draw, size):
    """Up to three things that happen to the bytes of a file, nearer to its ends as often as anywhere."""
    near = min(2048, size - 1)
    place = st.one_of(st.integers(0, min(200, near)), st.integers(0, near), st.integers(size - 1 - near, size - 1))
    place = st.one_of(place, st.integers(0, size - 1))
    harm = st.one_of(
        st.tuples(st.just("turn"), place, st.integers(1, 255)),
        st.tuples(st.just("zero"), place, st.sampled_from([4, 16, 64, 512, 4096])),
        st.tuples(st.just("put"), place, st.sampled_from(TELLING)),
        st.tuples(st.just("take out"), place, st.sampled_from([1, 4, 8, 100])),
        st.tuples(st.just("cut"), place, st.just(0)),
    )
    return draw(st.lists(harm, min_size=1, max_size=3))


def harmed(content, things):
    content = bytearray(content)
    for what, place, how in things:
        if what == "cut":
            del content[place:]
        elif what == "take out":
            del content[place : place + how]
        elif what == "turn" and place < len(content):
            content[place] ^= how
        elif what == "zero":
            content[place : place + how] = bytes(len(content[place : place + how]))
        elif what == "put":
            content[place : place + len(how)] = how
    return bytes(content)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files_load(kind, whole, open_there):
    assert open_there(kind, whole(kind)[0]) == "loaded"


@pytest.mark.parametrize("kind", WHOLE)
def test_harmed_bytes(kind, whole, open_there):
    path, content = whole(kind)

    @examples(80)
    @given(harms(len(content)))
    def hold(things):
        path.write_bytes(harmed(content, things))
        assert open_there(kind, path) in ("loaded", "refused")

    hold()
    path.write_bytes(content)


# --- harm to arrays ----------------------------------------------------------------------------------------

TYPES = ["f2", "f4", ">f8", "i1", "i4", "u8", "?", "c8", "S3", "U2"]
VALUES = [np.nan, np.inf, -1.0, 0.0, 1e300, -1e-300, 3e38]


@st.composite
def changes(draw, arrays, types=TYPES):
    """One or two changes to a dictionary of arrays, as (what, name, how)."""
    names = st.sampled_from(sorted(arrays))
    change = st.one_of(
        st.tuples(st.just("drop"), names, st.none()),
        st.tuples(
            st.just("rename"), names, st.sampled_from(["x", "", "a/b", "ä", "record", "mask", "optimiser.x.y.z"])
        ),
        st.tuples(st.just("exchange"), names, names),
        st.tuples(st.just("cast"), names, st.sampled_from(types)),
        st.tuples(st.just("shape"), names, st.sampled_from(["T", "flat", "part", "axis", "empty", "scalar", "twice"])),
        st.tuples(st.just("fill"), names, st.sampled_from(VALUES)),
        st.tuples(st.just("one value"), names, st.sampled_from(VALUES)),
    )
    return draw(st.lists(change, min_size=1, max_size=2))


def changed(arrays, things):
    arrays = dict(arrays)
    for what, name, how in things:
        if name not in arrays:
            continue
        value = np.asarray(arrays[name])
        if what == "drop":
            del arrays[name]
        elif what == "rename":
            if how:
                arrays[how] = arrays.pop(name)
        elif what == "exchange":
            arrays[name], arrays[how] = arrays.get(how, value), value
        elif what == "cast":
            arrays[name] = cast(value, how)
        elif what == "shape":
            shaped = {"T": value.T, "flat": value.ravel(), "part": value[1:] if value.ndim else value}
            shaped |= {"axis": value[None], "empty": value.ravel()[:0]}
            shaped |= {"scalar": value.ravel()[:1].reshape(()) if value.size else value}
            shaped |= {"twice": np.concatenate([value, value]) if value.ndim else value}
            arrays[name] = shaped[how]
        elif value.dtype.kind == "f" and value.size:
            value = value.copy()
            with np.errstate(over="ignore"):
                value[... if what == "fill" else (value.ndim * (0,))] = how
            arrays[name] = value
    return arrays


def cast(value, dtype):
    if isinstance(dtype, torch.dtype) or value.dtype.kind not in "fiub":
        return value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return value.astype(dtype)


ARRAYS = {
    "NFE images": (nfe_arrays()["images"], write_hdf5),
    "NFE lights": (nfe_arrays()["lights"], write_hdf5),
    "ISET v5": (mat_arrays("compressed"), lambda p, a: matlab5(p, nested(a))),
    "ISET v5, photons": (mat_arrays("photons"), lambda p, a: matlab5(p, nested(a))),
    "ISET v5, reflectance": (mat_arrays("reflectance"), lambda p, a: matlab5(p, nested(a))),
    "ISET v7.3": (mat_arrays("compressed"), lambda p, a: matlab73(p, nested(a))),
    "ISET v7.3, photons": (mat_arrays("photons"), lambda p, a: matlab73(p, nested(a))),
    "decomposition": (decomposition_arrays(), lambda p, a: np.savez(p, **a)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_changed_arrays(kind, whole, open_there):
    arrays, write = ARRAYS[kind]
    path, content = whole(kind if kind in WHOLE else "ISET v5")

    @examples(50)
    @given(changes(arrays))
    def hold(things):
        try:
            write(path, changed(arrays, things))
        except (TypeError, ValueError, OSError):
            return  # no such file can be written
        assert open_there(kind, path) in ("loaded", "refused")

    hold()
    path.write_bytes(content)


# --- harm to tensors, and to what is said of them ----------------------------------------------------------

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_subnormal=False), st.text(max_size=3))
JSON = st.recursive(PLAIN, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3), x, max_size=2))
WIDTHS = st.fixed_dictionaries({"width": st.integers(-1, 2**70) | JSON, "shading": JSON | st.just("exp")})
TENSOR_TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.int32, torch.bool]
TENSOR_TYPES += [torch.complex64, torch.uint16]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_changed_tensors(kind, whole, open_there):
    path, content = whole(kind)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    arrays = {name: value.numpy() for name, value in tensors.items()}
    known = json.loads(metadata.get("run", "{}"))
    said = {
        "architecture": st.text(max_size=3),
        "config": (WIDTHS | JSON).map(json.dumps) | st.text(max_size=5),
        "run": (JSON.map(json.dumps) | st.fixed_dictionaries(dict.fromkeys(known, JSON)).map(json.dumps)),
    }
    said = {name: value for name, value in said.items() if name in metadata}

    @examples(80)
    @given(
        changes(arrays, TENSOR_TYPES),
        st.fixed_dictionaries({}, optional=said) if kind == "weights" else st.just({}),
    )
    def hold(things, metadata_changes):
        cast_to = {name: how for what, name, how in things if what == "cast"}
        kinds = {name: tensor.dtype for name, tensor in tensors.items()} | cast_to
        changed_tensors = {
            name: torch.from_numpy(np.array(value, order="C")).to(kinds.get(name, torch.float32))
            for name, value in changed(arrays, things).items()
        }
        safetensors.torch.save_file(changed_tensors, path, metadata | metadata_changes)
        assert open_there(kind, path) in ("loaded", "refused")

    @examples(30)
    @given(st.fixed_dictionaries({}, optional=said))
    def hold_what_is_said(metadata_changes):
        safetensors.torch.save_file(tensors, path, metadata | metadata_changes)
        assert open_there(kind, path) in ("loaded", "refused")

    hold()
    hold_what_is_said()
    path.write_bytes(content)


def test_changed_claims(whole, open_there):
    path, content = whole("claims")
    rows = json.loads(content)["claims"]

    @examples(80)
    @given(st.integers(0, 1), st.sampled_from([*rows[0], "x"]), JSON | st.sampled_from(["04.rmse", 1e400]))
    def hold(row, field, value):
        new = [dict(r) for r in rows]
        new[row][field] = value
        path.write_text(json.dumps({"claims": new}))
        assert open_there("claims", path) in ("loaded", "refused")

    hold()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["claims", "weights", "checkpoint"])
def test_nesting_without_end(kind, whole, open_there):
    path, content = whole(kind)
    deep = "[" * 100_000
    if kind == "claims":
        path.write_text(deep)
    else:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        said = {name: deep for name in metadata if name != "architecture"}
        safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata | said)
    assert open_there(kind, path) == "refused"
    path.write_bytes(content)


if __name__ == "__main__":
    serve()
