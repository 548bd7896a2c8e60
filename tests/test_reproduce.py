"""The notebook runner: order, parameters, resuming, failing, being killed, and comparing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bioface import paths
from bioface.errors import BiofaceError, DataError
from study import claims, figures, notebook_file, reproduce

# what a notebook that imports nothing heavy can do to leave a figure and a claim
RESULTS = """\
from bioface import paths
from study import claims
c = claims.Claims(NUMBER)
c.check("n", "a number", n, at_most=3, data="none")
c.table()
c.save()
with paths.whole_file(paths.figures() / f"{NUMBER}_x.png") as file:
    _ = file.write_text(f"drawn with {n}")
figures.declare_output(f"{NUMBER}_x.png")"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with notebooks/, build/, figures/ and data/ of its own."""
    for name in ("build", "figures", "data"):
        monkeypatch.setenv(f"BIOFACE_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("BIOFACE_OUTPUTS", raising=False)
    for name in ("notebooks", "data"):
        (tmp_path / name).mkdir()
    # others may be editing the package while the tests run; its part of the key has a test of its own
    monkeypatch.setattr(reproduce, "source_hashes", dict)
    return tmp_path


def write(place, name, *sources, parameters='profile = "default"\nseed = 0\nn = 1'):
    cells = [
        new_markdown_cell("# A notebook"),
        new_code_cell(f'NUMBER = "{name[:2]}"'),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources or [RESULTS]),
    ]
    path = place / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def run(place, *arguments):
    return reproduce.main(["--folder", str(place / "notebooks"), *arguments])


def ran(place, folder="build"):
    """When each executed copy was written."""
    return {p.stem: p.stat().st_mtime_ns for p in (place / folder / "notebooks").glob("[0-9]*.ipynb")}


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# --- what is asked for


def test_notebooks_come_in_order_and_by_number_or_name(place):
    for name in ("04_fit", "01_audit", "02_overfit"):
        write(place, name)
    (place / "notebooks" / "scratch.ipynb").write_text("not a numbered notebook, so not ours")
    folder = place / "notebooks"
    assert [job.name for job in reproduce.jobs(folder)] == ["01_audit", "02_overfit", "04_fit"]
    assert [job.name for job in reproduce.jobs(folder, ["04", "01_audit"])] == ["01_audit", "04_fit"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "01_fitt"], "unknown notebook '01_fitt'; did you mean '01_fit'"),
        (["--profile", "ful"], "unknown profile 'ful'; did you mean 'full'"),
        (["--parameter", "sead=1"], "unknown notebook parameter 'sead'; did you mean 'seed'"),
        (["--parameter", "seed=a"], "notebook parameter seed: expected int as in seed=0, found 'a'"),
        (["--parameter", "seed"], "expected NAME=VALUE, found 'seed'"),
        (["--publish", "--profile", "full"], "with their own parameters only"),
        (["--compare", "--parameter", "n=2"], "with their own parameters only"),
    ],
)
def test_a_wrong_request_is_answered_before_anything_runs(place, capsys, arguments, message):
    write(place, "01_fit")
    assert run(place, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (place / "build" / "notebooks").exists()


def test_no_notebooks(place, capsys):
    assert run(place) == 2
    assert "expected notebooks named NN_*.ipynb, found none" in capsys.readouterr().err


def test_a_parameter_goes_to_the_notebooks_that_have_it(place):
    write(place, "01_a", parameters='profile = "default"\nseed = 0\nonly_here = 0.5')
    write(place, "04_b")
    first, second = reproduce.jobs(place / "notebooks", parameters={"only_here": "2", "seed": "7"})
    assert (first.parameters, second.parameters) == ({"only_here": 2.0, "seed": 7}, {"seed": 7})
    with pytest.raises(BiofaceError, match="unknown notebook parameter 'only_here'"):
        reproduce.jobs(place / "notebooks", ["04"], parameters={"only_here": "2"})


def test_other_parameters_never_write_where_the_notebooks_own_do(place):
    write(place, "01_a")
    folder = place / "notebooks"
    wanted = [{}, {"profile": "full"}, {"parameters": {"n": "2"}}, {"parameters": {"n": "3"}}]
    found = [reproduce.jobs(folder, **given)[0] for given in wanted]
    assert found[0].parameters == {} and found[0].figures == paths.figures()
    assert len({job.figures for job in found}) == len({job.folder for job in found}) == len(wanted)


# --- what makes a notebook run again


def test_the_key_follows_the_package_the_packages_and_the_data(place, monkeypatch):
    (place / "data" / "README.md").write_text("x")
    before = reproduce.common_key()
    (place / "data" / "README.md").write_text("changed")
    assert reproduce.common_key() == before
    (place / "data" / "nfe").mkdir()
    (place / "data" / "nfe" / "a.hdf5").write_text("abc")
    with_data = reproduce.common_key()
    assert with_data["data"] != before["data"]
    os.utime(place / "data" / "nfe" / "a.hdf5", ns=(0, 1))
    assert reproduce.common_key()["data"] != with_data["data"]
    monkeypatch.setattr(reproduce, "_version", lambda name: "0")
    assert reproduce.common_key()["installed"] != before["installed"]
    monkeypatch.setattr(reproduce, "source_hashes", lambda: {"skin.py": "changed"})
    assert reproduce.common_key()["package"] != before["package"]


def test_every_file_of_the_package_counts(tmp_path, monkeypatch):
    for name in ("skin.py", "tables/a.csv", "bioface.mplstyle", "__pycache__/skin.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    before = reproduce.source_hashes()
    assert sorted(before) == ["bioface.mplstyle", "skin.py", "tables/a.csv"]
    (tmp_path / "tables" / "a.csv").write_text("y")
    assert reproduce.source_hashes() != before


def test_data_behind_links_and_in_circles(place):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "big.hdf5").write_text("12345")
    (place / "data" / "nfe").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(place / "data")
    (place / "data" / "gone").symlink_to(place / "nowhere")
    assert [(name, size) for name, size, _ in reproduce.data_fingerprint(place / "data")] == [("nfe/big.hdf5", 5)]


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_change_runs_what_it_concerns(place, capsys):
    first, second = write(place, "01_a"), write(place, "04_b")
    assert run(place) == 0
    told = capsys.readouterr().out
    assert "01.n" in told and "04.n" in told and "2 of 2 claims pass" in told
    assert told.index("01_a") < told.index("04_b")
    assert names(place / "figures") == ["01_x.png", "04_x.png", "claims.json"]
    before = ran(place)
    assert sorted(before) == ["01_a", "04_b"]

    def rerun():
        nonlocal before
        assert run(place) == 0
        after = ran(place)
        changed = [name for name in after if after[name] != before[name]]
        before = after
        return changed

    assert rerun() == []
    assert "up to date" in capsys.readouterr().out
    write(place, "04_b", RESULTS + "\nprint('more')")
    assert rerun() == ["04_b"]
    (place / "figures" / "01_x.png").write_text("altered")
    assert rerun() == ["01_a"]
    assert (place / "figures" / "01_x.png").read_text() == "drawn with 1"
    (place / "figures" / "04_x.png").unlink()
    assert rerun() == ["04_b"]
    rows = json.loads((place / "figures" / "claims.json").read_text())
    rows["claims"] = [row for row in rows["claims"] if row["notebook"] == "01"]
    (place / "figures" / "claims.json").write_text(json.dumps(rows))
    assert rerun() == ["04_b"]
    (place / "build" / "notebooks" / "01_a.stamp.json").write_text("{")
    assert rerun() == ["01_a"]
    executed = place / "build" / "notebooks" / "04_b.ipynb"
    executed.write_text(executed.read_text() + " ")
    assert rerun() == ["04_b"]
    assert rerun() == []
    assert first.exists() and second.exists()


@pytest.mark.slow
def test_parameters_reach_the_notebook_and_leave_the_committed_figures_alone(place, capsys):
    write(place, "01_a", 'print("profile", profile, n)\n' + RESULTS)
    assert run(place) == 0
    before = (place / "figures" / "01_x.png").read_text()
    assert run(place, "--profile", "full", "--parameter", "n=5") == 0
    told = capsys.readouterr().out
    assert "1 miss their bar" in told and "FAIL" in told  # n = 5 is over the bar: shown, and not a failure
    assert (place / "figures" / "01_x.png").read_text() == before == "drawn with 1"
    (variant,) = (place / "build" / "variants").iterdir()
    assert (variant / "figures" / "01_x.png").read_text() == "drawn with 5"
    assert "profile full 5" in (variant / "notebooks" / "01_a.ipynb").read_text()


# --- failing and being interrupted


@pytest.mark.slow
def test_the_first_failure_stops_the_run_and_the_next_run_resumes_there(place, capsys):
    write(place, "01_a")
    bad = write(place, "02_bad", "x = 1", "y = x + undefined_name")
    write(place, "04_c")
    assert run(place) == 1
    told = capsys.readouterr().err
    assert "02_bad: code cell 4 failed with NameError: name 'undefined_name' is not defined" in told
    assert "y = x + undefined_name" in told and "\x1b" not in told
    assert names(place / "build" / "notebooks") == ["01_a.ipynb", "01_a.stamp.json", "02_bad.failed.ipynb"]
    before = ran(place)["01_a"]
    write(place, "02_bad")
    assert run(place) == 0
    assert bad.exists() and ran(place)["01_a"] == before
    assert "02_bad.failed.ipynb" not in names(place / "build" / "notebooks")
    assert sorted(ran(place)) == ["01_a", "02_bad", "04_c"]


@pytest.mark.slow
def test_a_failed_run_keeps_the_last_good_copy_but_does_not_pass_for_it(place):
    write(place, "01_a")
    assert run(place) == 0
    good = (place / "build" / "notebooks" / "01_a.ipynb").read_bytes()
    write(place, "01_a", "1 / 0")
    assert run(place) == 1 and run(place) == 1
    assert (place / "build" / "notebooks" / "01_a.ipynb").read_bytes() == good


def test_a_kernel_that_dies_is_an_error_of_one_line(place, capsys):
    write(place, "01_a", "import os\nos._exit(1)")
    assert run(place) == 1
    assert "01_a: its kernel died" in capsys.readouterr().err
    assert names(place / "build" / "notebooks") == []


def test_damaged_claims_are_not_written_over(place, capsys):
    write(place, "01_a")
    (place / "figures").mkdir()
    (place / "figures" / "claims.json").write_text("{")
    assert run(place) == 1
    assert "remove the file" in capsys.readouterr().err
    assert (place / "figures" / "claims.json").read_text() == "{"


def test_what_a_killed_process_left_half_written_is_swept_up(tmp_path):
    old, new, whole = (
        tmp_path / ".a.1234.partial.png",
        tmp_path / "x" / ".b.99.partial.h5",
        tmp_path / "a.png",
    )
    new.parent.mkdir()
    for file in (old, new, whole):
        file.write_text("x")
    being_made = tmp_path / "twin" / ".0123-4567-89.partial"  # another process may be making it: not ours to remove
    being_made.mkdir(parents=True)
    for path in (old, being_made):
        os.utime(path, (0, 0))
    reproduce.sweep(tmp_path, older_than=600)
    assert not old.exists() and new.exists() and whole.exists() and being_made.is_dir()


def test_a_run_sweeps_also_when_there_is_nothing_to_do(place):
    write(place, "01_a")
    assert run(place) == 0
    left = place / "build" / "fits" / ".6.1234.partial.npz"
    left.parent.mkdir()
    left.write_text("half")
    assert run(place) == 0 and left.exists(), "somebody may be writing it"
    os.utime(left, (0, 0))
    assert run(place) == 0 and not left.exists()


def test_a_build_folder_that_cannot_be_written_to_is_named(place, monkeypatch, capsys):
    write(place, "01_a")
    (place / "file").write_text("in the way")
    monkeypatch.setenv("BIOFACE_BUILD", str(place / "file"))
    assert run(place) == 2
    told = capsys.readouterr().err
    assert str(place / "file") in told and "BIOFACE_BUILD" in told


SLOW = """\
import os, time
from pathlib import Path
mark = paths.build() / "started"
first = not mark.exists()
mark.write_text(str(os.getpid()))
time.sleep(60 if first else 0)"""


def start(place, **options):
    command = [sys.executable, "-m", "study.reproduce", "--folder", str(place / "notebooks")]
    environment = os.environ | {"BIOFACE_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_killed_in_the_middle_and_run_again_ends_like_an_undisturbed_run(place, kill):
    write(place, "01_a")
    write(place, "04_b", RESULTS, SLOW, RESULTS)
    (place / "build").mkdir()
    process = start(place, start_new_session=True)
    mark = place / "build" / "started"
    wait_for(lambda: mark.exists() and mark.read_text())
    kernel = int(mark.read_text())
    assert alive(kernel)
    os.killpg(process.pid, kill)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # Python loses a Ctrl-C that comes within a finaliser; people press it again
        assert kill == signal.SIGINT
        os.killpg(process.pid, kill)
        process.communicate(timeout=30)
    assert process.returncode == (130 if kill == signal.SIGINT else -kill)
    wait_for(lambda: not alive(kernel), seconds=5)
    assert "04_b.ipynb" not in names(place / "build" / "notebooks")
    first = ran(place)["01_a"]
    again = start(place)
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert ran(place)["01_a"] == first, "what was done is not done again"
    killed = _results(place)
    subprocess.run(["rm", "-rf", place / "build", place / "figures"], check=True)
    (place / "build").mkdir()
    mark.touch()  # this time it does not wait
    whole = start(place)
    told, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, told
    assert _results(place) == killed


def _results(place):
    copies = {
        p.name: notebook_file.clean(notebook_file.read(p)) for p in (place / "build" / "notebooks").glob("*.ipynb")
    }
    assert not list((place / "build" / "notebooks").glob(".partial*"))
    return copies, {p.name: p.read_bytes() for p in (place / "figures").iterdir()}


@pytest.mark.slow
def test_two_at_once_take_turns(place):
    write(place, "01_a", RESULTS, "import time\ntime.sleep(2)")
    (place / "build").mkdir()
    first = start(place)
    wait_for(lambda: (place / "build" / "notebooks").exists())
    second = start(place)
    told = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert "01_a  running" in told[0] and "waiting" not in told[0]
    assert "Another run is at work" in told[1] and "up to date" in told[1]


# --- the environment


@pytest.mark.slow
def test_the_kernel_is_this_python_whatever_else_is_installed(place, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("jupyter")
    (other / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "x", "language": "python"}
    (other / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(other))
    write(place, "01_a", "import sys\nprint(sys.executable)")
    assert run(place) == 0
    assert json.dumps(sys.executable)[1:-1] in (place / "build" / "notebooks" / "01_a.ipynb").read_text()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(reproduce, "_version", lambda name: None if name == "trimesh" else "1.0")
    with pytest.raises(BiofaceError, match="lacks trimesh; run: .* -m pip install -r requirements.lock"):
        reproduce.check_environment()


def test_another_version_is_said_and_no_obstacle(monkeypatch):
    locked = reproduce.locked(paths.root() / "requirements.lock")
    monkeypatch.setattr(reproduce, "_version", lambda name: "1.2.3" if name == "torch" else locked.get(name, "1"))
    assert reproduce.check_environment() == [f"torch 1.2.3 (locked: {locked['torch']})"]
    monkeypatch.setattr(reproduce, "_version", lambda name: locked.get(name, "1") + "+cpu")
    assert reproduce.check_environment() == []


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    with pytest.raises(DataError, match="expected the checkout"):
        reproduce.check_environment()


def test_nothing_heavy_is_imported_when_there_is_nothing_to_do():
    heavy = "'torch', 'colour', 'matplotlib', 'papermill'"
    code = f"import sys, study.reproduce; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- publishing and comparing


def test_publishing_writes_the_executed_notebook_clean_and_once(place, capsys):
    path = write(place, "01_a", "import sys\nprint('progress', file=sys.stderr)\n" + RESULTS)
    assert run(place, "--publish") == 0
    text = path.read_text()
    published = notebook_file.read(path)
    code = [cell for cell in published["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3]
    assert "01.n" in json.dumps(published) and "progress" not in json.dumps([c["outputs"] for c in code])
    before = ran(place)
    assert run(place, "--publish") == 0
    assert path.read_text() == text and ran(place) == before, "publishing is no reason to run again"
    assert "has it already" in capsys.readouterr().out


def test_publishing_leaves_the_reader_s_own_data_aside(place, monkeypatch, capsys):
    (place / "data" / "mine.mat").write_text("x")
    path = write(place, "01_a", "from bioface import paths\nprint(sorted(p.name for p in paths.data().glob('*')))")
    assert run(place) == 0
    assert "mine.mat" in (place / "build" / "notebooks" / "01_a.ipynb").read_text()
    monkeypatch.setenv("BIOFACE_DATA", str(place / "data"))
    assert run(place, "--publish") == 0
    assert "no data of one's own" in capsys.readouterr().out and "mine.mat" not in path.read_text()


def test_publishing_may_show_the_small_public_files(place, monkeypatch, capsys):
    (place / "data" / "skin").mkdir()
    (place / "data" / "skin" / "cheeks.mat").write_text("x")
    path = write(place, "01_a", "from bioface import paths\nprint(sorted(p.name for p in paths.data().rglob('*')))")
    monkeypatch.setenv("BIOFACE_DATA", str(place / "data"))
    assert run(place, "--publish") == 0
    assert "no data" not in capsys.readouterr().out and "skin" in path.read_text()


@pytest.mark.slow
def test_comparing_passes_the_same_and_catches_a_changed_number(place, capfd):
    path = write(place, "01_a", "x = 0.125\nprint(f'rmse {x:.3f}')\nx", RESULTS)
    assert run(place, "--publish") == 0
    figures = _results(place)[1]
    assert run(place, "--compare") == 0
    assert _results(place)[1] == figures, "comparing writes its figures elsewhere"
    text = path.read_text()
    assert "rmse 0.125" in text
    for other in (text.replace("rmse 0.125", "rmse 0.126"), text.replace("print(f'rmse", "print(f'RMSE")):
        path.write_text(other)
        capfd.readouterr()
        assert run(place, "--compare") == 1
        assert "Cell outputs differ" in capfd.readouterr().out


@pytest.mark.slow
def test_comparing_ignores_cells_that_say_so_and_catches_warnings(place):
    path = write(place, "01_a", "import time\nprint(time.time())")
    assert run(place, "--publish") == 0
    assert run(place, "--compare") == 1
    notebook = notebook_file.read(path)
    notebook["cells"][-1]["metadata"]["tags"] = ["nbval-ignore-output"]
    path.write_text(notebook_file.to_text(notebook_file.clean(notebook)))
    assert run(place, "--compare") == 0
    write(place, "01_a", "import warnings\nwarnings.warn('careful')")
    assert run(place, "--publish") == 0
    assert run(place, "--compare") == 1


def test_claims_are_the_notebook_s_own(place):
    """Two notebooks write one claims.json: the later one does not make the earlier one stale."""
    write(place, "01_a")
    assert run(place) == 0
    before = ran(place)
    made = claims.Claims("09")
    made.check("z", "later", 1.0, at_most=1, data="none")
    made.save()
    assert run(place) == 0 and ran(place) == before


def test_a_repeated_flag_adds_to_the_first(place):
    path = write(place, "01_a", RESULTS)
    before = path.read_text()
    assert run(place, "--parameter", "sead=1", "--parameter", "seed=2") == 2
    assert path.read_text() == before
