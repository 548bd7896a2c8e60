"""Drills: the run is killed, the disk is full, the checkout may only be read, two runs start at once.

The two notebooks here are small, but do what those of the study do: one imports nothing heavy, the other fits skin,
keeps the result and draws a figure; both hold claims. That the twin is whole after a kill has a test in test_twin.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import scipy.io
from conftest import no_room
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from test_widgets import faces

from bioface import __main__ as cli
from bioface import datasets, paths, skin, training
from bioface.datasets import twin
from study import notebook

SQUARES = """\
from bioface import paths
from study import claims
squares = [k**2 for k in range(size)]
with paths.whole_file(paths.figures() / "01_squares.json") as partial:
    _ = partial.write_text(str(squares))
number, claim, value = "01", "mean", sum(squares) / size
"""

FIT = """\
import numpy as np
from bioface import paths, plotting, skin, smith2019
from study import claims, figures
kept = paths.build() / "fits" / f"{size}.npz"
if not kept.exists():
    melanin = np.linspace(0.03, 0.3, size * size).reshape(size, size)
    found = smith2019.fit(0.9 * skin.reflectance(melanin, np.full_like(melanin, 0.04)))
    with paths.whole_file(kept) as partial:
        np.savez(partial, truth=melanin, melanin=found.melanin, cube=found.residual, ballast=np.zeros(ballast))
with np.load(kept) as found:
    error = np.abs(found["melanin"] - found["truth"]).max()
    figure, _ = plotting.panel_grid([[found["truth"], found["melanin"]]], quantities=["melanin", "melanin"])
    figures.save(figure, "04_fit", numbers={"found": found["melanin"]}, data="none (arithmetic)", alt="Two maps.")
number, claim, value = "04", "error", error
print("x" * printed)
"""

HAND_IN = """\
c = claims.Claims(number, "claims.toml")
c.check(claim, value)
c.table()
c.save()"""

CLAIMS = """\
01.mean = { what = "mean of the squares", data = "none (arithmetic)", at_most = 100 }
04.error = { what = "largest error of melanin", data = "none (arithmetic)", at_most = 0.01 }
"""

# as notebooks of the study, since figures say which notebook drew them
AUDIT, SGD_FIT = "01_dataset_audit", "04_smith2019_sgd_fit"


def place_at(place: Path, size: int = 6, ballast: int = 0, printed: int = 0) -> Path:
    for name in ("notebooks", "data"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "notebooks/claims.toml").write_text(CLAIMS)
    of_fit = f"size = {size}\nballast = {ballast}\nprinted = {printed}"
    for name, own, source in ((AUDIT, "size = 9", SQUARES), (SGD_FIT, of_fit, FIT)):
        cells = [
            new_markdown_cell("# A notebook", id="title"),
            new_code_cell(own, metadata={"tags": ["parameters"]}, id="parameters"),
            new_code_cell(source + HAND_IN, id="source"),
        ]
        made = new_notebook(cells=cells, metadata=notebook.METADATA)
        nbformat.write(made, place / f"notebooks/{name}.ipynb")
    return place


def start(place: Path) -> subprocess.Popen:
    """Run the notebooks of a place in a group of processes of its own."""
    command = [sys.executable, "-m", "study.reproduce", "--folder", str(place / "notebooks")]
    # what is killed while it writes coverage would leave a broken file of it
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    own = {f"BIOFACE_{name.upper()}": str(place / name) for name in ("build", "figures", "data")}
    own |= {"BIOFACE_THREADS": "1", "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(place / "ipython")}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=kept | own, start_new_session=True, **pipes)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    told, _ = process.communicate(timeout=300)
    assert process.returncode == code, told
    return told


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def results(place: Path) -> dict[str, object]:
    """Everything that a run leaves, by name: executed notebooks without their times, all other files as bytes."""
    files = [file for top in ("build", "figures") for file in (place / top).rglob("*") if file.is_file()]
    # a stamp is of the executed copy, which says how long it took
    read = {".ipynb": notebook.clean, ".stamp": lambda file: None}
    found = {str(file.relative_to(place)): read.get(file.suffix, Path.read_bytes)(file) for file in files}
    return {name: value for name, value in found.items() if not name.endswith(".failed.ipynb")}  # as far as it went


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A place where the notebooks ran with nobody disturbing them, and how long that took."""
    place = place_at(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    finish(start(place))
    seconds = time.monotonic() - began
    expected = {"figures/01_squares.json", "figures/04_fit.json", "figures/claims.json", "build/fits/6.npz"}
    assert expected <= set(results(place))
    return place, seconds


def different(place: Path, expected: dict) -> set[str]:
    found = results(place)
    return {name for name in {*found, *expected} if found.get(name, 0) != expected.get(name, 0)}


def different_in_the_end(place: Path, expected: dict) -> set[str]:
    """After another run, to which everything half written is old: in caches it has ten minutes."""
    for partial in (place / "build").rglob(".*.partial*"):
        os.utime(partial, (0, 0))
    finish(start(place))
    return different(place, expected)


TRAINING = """\
import torch
from bioface import objective, recipes
from study import experiments
torch.manual_seed(0)
faces = objective.Batch(torch.rand(2, 16, 16, 3), torch.ones(2, 16, 16, dtype=torch.bool))
runs = experiments.run_all(experiments.Plan(faces, [recipes.WORKING], seeds=range(4), width=2, steps=10))
print(len(runs["working"]), "runs")"""


def processes(place: Path) -> dict[int, str]:
    """Number and command line of every living process of a run, told by its environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ProcessLookupError):
            if f"BIOFACE_BUILD={place / 'build'}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.skipif(notebook.processors() < 2, reason="works without workers")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_no_process_outlives_a_run_that_is_killed_while_workers_train(tmp_path, how):
    place = tmp_path
    # long enough to be killed, but where it is taken up again
    source = TRAINING if how == signal.SIGKILL else TRAINING.replace("steps=10", "steps=5000")
    training = new_notebook(cells=[new_code_cell(source)], metadata=notebook.METADATA)
    (place / "notebooks").mkdir()
    nbformat.write(training, place / "notebooks/02_training.ipynb")
    process = start(place)
    deadline = time.monotonic() + 300
    while sum(bool(re.search("spawn_main|popen_loky", line)) for line in processes(place).values()) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "no workers"
        time.sleep(0.05)
    os.kill(process.pid, how)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:  # Python loses a Ctrl-C that comes within a finaliser; people press it again
        assert how == signal.SIGINT
        os.kill(process.pid, how)
        process.wait(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    time.sleep(3)
    assert processes(place) == {}
    process.communicate()
    if how == signal.SIGKILL:  # which leaves the least time to tidy up
        finish(start(place))
        assert "4 runs" in (place / "build/notebooks/02_training.ipynb").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a kernel outlives its parent by a second")
def test_killed_at_ten_random_moments_it_ends_like_an_undisturbed_run(tmp_path, undisturbed):
    expected, seconds = results(undisturbed[0]), undisturbed[1]
    place, killed = place_at(tmp_path / "place"), 0
    for moment in np.random.default_rng(0).uniform(0, seconds, 10):
        process = start(place)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(process)
            killed += 1
        else:  # what earlier runs had done left too little for this one: begin again
            assert process.returncode == 0 and not different(place, expected)
            shutil.rmtree(place / "build")
            shutil.rmtree(place / "figures")
    assert killed >= 5
    finish(start(place))
    assert not different_in_the_end(place, expected)


@pytest.mark.slow
@pytest.mark.parametrize("first_is_killed", [False, True])
def test_the_second_of_two_runs_waits_and_ends_like_a_single_one(tmp_path, undisturbed, first_is_killed):
    place = place_at(tmp_path / "place")
    first = start(place)
    assert first.stdout.readline().startswith(AUDIT)
    second = start(place)
    assert "Another run is at work" in second.stdout.readline()
    (kill if first_is_killed else finish)(first)
    told = finish(second)
    assert (f"{SGD_FIT}  running" in told) == first_is_killed
    compared = different_in_the_end if first_is_killed else different
    assert not compared(place, results(undisturbed[0]))


@pytest.mark.slow
def test_a_file_that_has_no_room_stops_the_run_and_harms_nothing(tmp_path, undisturbed):
    """All that there was is still there, and nothing half written; with room, the same command goes on."""
    place = Path(shutil.copytree(undisturbed[0], tmp_path / "place"))
    stamp, before = f"build/notebooks/{SGD_FIT}.stamp", results(place)
    del before[stamp]  # so that it is taken up again
    for grows, named in (
        ({"size": 7, "ballast": 300_000}, "build/fits/7.npz"),
        ({"printed": 3_000_000}, f"build/notebooks/{SGD_FIT}.ipynb"),
    ):
        place_at(place, **grows)
        with no_room(1_500_000):
            process = start(place)
        told = finish(process, code=2)
        assert str(place / named) in told and "File too large" in told
        assert "make room" in told and "BIOFACE_BUILD" in told and "Traceback" not in told
        assert not different(place, before)
    told = finish(start(place))
    assert re.search(f"{AUDIT} +up to date", told) and "2 of 2 claims pass" in told
    assert (place / stamp).is_file()


@pytest.fixture
def commands(folders, monkeypatch):
    """For each command: its arguments, and what it names when there is no room."""
    Image.fromarray(np.full((80, 60, 3), (180, 120, 100), np.uint8)).save(folders / "me.png")
    training.build("working", 2).save(folders / "w.safetensors")
    wave = np.arange(420.0, 721, 10)
    radiance = skin.reflectance(np.full((2, 4), 0.1), np.full((2, 4), 0.04), wavelengths=wave)
    scipy.io.savemat(folders / "face.mat", {"photons": radiance, "wave": wave, "illuminant": np.ones(31)})
    monkeypatch.setattr(datasets, "load", lambda *_: faces(2))
    return {
        "decompose": (["decompose", str(folders / "me.png"), "--weights", str(folders / "w.safetensors")], "me_"),
        "fit": (["fit", str(folders / "face.mat")], "face_fit.npz"),
        "train": (["train", "--recipe", "working", "--width", "1", "--steps", "1"], "working.safetensors"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", ["decompose", "fit", "train"])
def test_no_room_for_the_files_of_a_command(tmp_path, commands, command, capsys):
    arguments, named = commands[command]
    out = tmp_path / "out"
    assert cli.main([*arguments, "--out", str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    with no_room(400):
        assert cli.main([*arguments, "--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {out / named}") and "too large" in told and "partial" not in told
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert cli.main([*arguments, "--out", str(out)]) == 0


@pytest.mark.slow
def test_no_room_for_the_faces_to_train_on(tmp_path, issa_build, commands, monkeypatch, capsys):
    shutil.copytree(issa_build / "cache", tmp_path / "build/cache")
    tiny = twin.TwinConfig(train=2, validation=1, test=1, cubes=0)
    monkeypatch.setattr(datasets, "load", lambda *_: twin.load("train", config=tiny, progress=False))
    arguments = [*commands["train"][0], "--out", str(tmp_path / "out")]
    with no_room(100_000):
        assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "zx_7_d10_inmc_celebA_01.hdf5" in told and "make room" in told
    assert not list((tmp_path / "build/twin").iterdir()) and not list((tmp_path / "out").iterdir())
    assert cli.main(arguments) == 0


# a superuser may write anywhere; without the capabilities he is the owner of his files, whose modes then count
AS_OWNER = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """A copy of the checkout with two notebooks, which nobody may write to."""
    copy = tmp_path_factory.mktemp("read_only") / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(paths.root() / "src", copy / "src", ignore=ignored)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(paths.root() / name, copy)
    place_at(copy)
    subprocess.run(["chmod", "-R", "a-w", copy], check=True)
    assert subprocess.run([*AS_OWNER, "touch", copy / "src/a"], capture_output=True).returncode != 0
    yield copy
    subprocess.run(["chmod", "-R", "u+w", copy], check=True)


def make_reproduce(checkout: Path, **folders: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE_", "BIOFACE_", "MAKE", "MFLAGS"))}
    kept |= {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [*AS_OWNER, "make", "reproduce", f"PY={sys.executable}"]
    pipes = dict(capture_output=True, text=True, timeout=300)
    return subprocess.run(command, cwd=checkout, env=kept | folders, **pipes)


@pytest.mark.slow
def test_a_checkout_that_may_only_be_read_runs_with_folders_elsewhere(tmp_path, read_only, undisturbed):
    folders = {f"BIOFACE_{name.upper()}": str(tmp_path / name) for name in ("build", "figures")}
    done = make_reproduce(read_only, HOME=str(read_only), **folders)  # a user with no home of his own
    assert done.returncode == 0, done.stderr
    assert "2 of 2 claims pass" in done.stdout
    assert not different(tmp_path, results(undisturbed[0]))


@pytest.mark.parametrize(("given", "missing"), [([], "build"), (["build"], "figures")])
def test_a_checkout_that_may_only_be_read_says_so(tmp_path, read_only, given, missing):
    done = make_reproduce(read_only, **{f"BIOFACE_{name.upper()}": str(tmp_path / name) for name in given})
    told = done.stderr.splitlines()
    assert "Error 2" in told[-1] and len(told) == 2
    assert told[0].startswith(f"{read_only / missing}: expected a folder that can be written to")
    assert "BIOFACE_BUILD, BIOFACE_FIGURES" in told[0] and "running" not in done.stdout
