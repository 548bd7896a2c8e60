"""The real data sets at their real size: memory, and what a fit takes.

The files are made for the purpose, of random faces and of skin spectra, and removed again. Memory is that of a
process of its own: this file, run as a script.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_cubes import HYSPEX, light, matlab5, matlab73
from test_nfe import random_images

from bioface import __main__ as cli
from bioface import skin, training
from bioface.datasets import cubes, nfe

pytestmark = [pytest.mark.slow, pytest.mark.alone]

FACES = 10_000  # a real file: 3.3 GB of float64
ROOM = 8e9  # bytes that the largest test leaves on the disk for a while
SIDE = 1000  # pixels of a cube
GIGABYTE = 1e9


def memory(what: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most until now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"no {what} in /proc/self/status")


def stream(folder: str) -> dict[str, float]:
    """Read every face twice, in order and shuffled."""
    faces = nfe.NFE(nfe.find(folder)[1])
    for shuffle in (False, True):
        assert sum(len(batch) for batch in faces.batches(64, shuffle=shuffle)) == len(faces)
    return {"peak": memory("VmHWM")}


def fit(cube: str, out: str) -> dict[str, float]:
    """The command line's fit of one cube."""
    began = time.perf_counter()
    assert cli.main(["fit", cube, "--out", out]) == 0
    return {"seconds": time.perf_counter() - began, "peak": memory("VmHWM")}


def train(folder: str) -> dict[str, float]:
    """A short training on the whole file; memory over that of a process that has yet to begin."""
    faces, model = nfe.NFE(nfe.find(folder)[1]), training.build("only_adam", width=4)
    before = memory("VmRSS")
    training.train(model, faces, "only_adam", 8, batch_size=64, progress=False)
    return {"peak": memory("VmHWM") - before}


def run(*arguments) -> dict[str, float]:
    """This file as a script, in a process of its own; the last line that it prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder with room, which is emptied in the end."""
    folder = tmp_path_factory.mktemp("real_size")
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        pytest.skip(f"{free / GIGABYTE:.1f} GB free on the disk, {ROOM / GIGABYTE:.0f} are needed")
    if not Path("/proc/self/status").exists():
        pytest.skip("the largest memory of a process is read from /proc, which is not here")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def full_file(scratch):
    """One pair of files as large as the real ones, in a folder of its own; the image file."""
    folder = scratch / "nfe"
    folder.mkdir()
    with h5py.File(folder / "zx_7_d3_lrgb_celebA_01.hdf5", "w") as file:
        file["zx_7"] = np.random.default_rng(1).normal(size=(FACES, 3, 9))
    with h5py.File(folder / "zx_7_d10_inmc_celebA_01.hdf5", "w") as file:
        images = file.create_dataset("zx_7", (FACES, 10, 64, 64), np.float64)
        for start in range(0, FACES, 100):
            images[start : start + 100] = random_images(100, seed=start)
    return folder / "zx_7_d10_inmc_celebA_01.hdf5"


@pytest.mark.parametrize("what", ["stream", "train"])
def test_a_file_is_streamed_and_trained_on_in_constant_memory(full_file, what):
    peak = run(what, full_file.parent)["peak"]
    print(f"\n{what}: {peak / GIGABYTE:.2f} GB at most, of a file of {full_file.stat().st_size / GIGABYTE:.1f} GB")
    assert peak <= GIGABYTE


def tile() -> np.ndarray:
    """Radiance (100, 100, 148) of skin with noise; 10 × 10 of these are a cube."""
    random = np.random.default_rng(0)
    count = (SIDE // 10) ** 2
    melanin, haemoglobin = random.uniform(0.02, 0.3, count), random.uniform(0.02, 0.07, count)
    inside = np.less_equal(HYSPEX, cubes.GRID[1])
    reflectance = skin.reflectance(melanin, haemoglobin, wavelengths=HYSPEX[inside])
    reflectance = np.pad(reflectance, ((0, 0), (0, int((~inside).sum()))), mode="edge")
    radiance = random.uniform(0.4, 1, (count, 1)) * reflectance + random.uniform(0, 0.1, (count, 1))
    radiance = radiance * light(HYSPEX) + random.normal(0, 1e-3, radiance.shape)
    return radiance.reshape(SIDE // 10, SIDE // 10, -1)


def photons() -> dict:
    """Variables of an uncompressed cube, 1 000 × 1 000 × 148 float64."""
    return {"photons": np.tile(tile(), (10, 10, 1)), "wave": HYSPEX, "illuminant": light(HYSPEX)}


def coefficients() -> dict:
    """Variables of a cube as ISET compresses its faces, by six principal components."""
    radiance = tile()
    mean = radiance.mean((0, 1))
    basis = np.linalg.svd((radiance - mean).reshape(-1, len(mean)), full_matrices=False)[2][:6].T
    return {
        "mcCOEF": np.tile((radiance - mean) @ basis, (10, 10, 1)),
        "basis": {"basis": basis, "wave": HYSPEX},
        "imgMean": mean,
        "illuminant": light(HYSPEX),
    }


@pytest.mark.parametrize(("write", "variables"), [(matlab73, photons), (matlab5, coefficients)])
def test_a_whole_cube_is_fitted_within_two_gigabytes(scratch, write, variables):
    cube = write(scratch / "cube.mat", variables())
    try:
        found = run("fit", cube, scratch / "fit")
        with np.load(scratch / "fit" / "cube_fit.npz") as maps:
            assert maps["melanin"].shape == (SIDE, SIDE) and np.isfinite(maps["melanin"]).all()
    finally:
        cube.unlink()
    print(
        f"\n{write.__name__}, {variables.__name__}: {SIDE**2 / found['seconds']:.0f} pixels/s from the file to the "
        f"maps, {found['peak'] / GIGABYTE:.2f} GB at most"
    )
    assert found["peak"] <= 2 * GIGABYTE


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
