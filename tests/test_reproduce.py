"""The notebook runner: order, parameters, resuming, failing, publishing and comparing; test_drills kills it."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bioface import paths
from bioface.errors import BiofaceError, DataError
from study import claims, fingerprint, notebook_file, reproduce

# what a notebook that imports nothing heavy can do to leave a figure and a claim
RESULTS = """\
from bioface import paths
from study import claims, figures
c = claims.Claims(NUMBER, CLAIMS)
c.check("n", n)
c.table()
c.save()
with paths.whole_file(paths.figures() / f"{NUMBER}_x.png") as file:
    _ = file.write_text(f"drawn with {n}")"""
SHOW_DATA = "from bioface import paths\nprint(sorted(p.name for p in paths.data().rglob('*')))"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with notebooks/, build/, figures/ and data/ of its own."""
    for name in ("build", "figures", "data"):
        monkeypatch.setenv(f"BIOFACE_{name.upper()}", str(tmp_path / name))
    for name in ("notebooks", "data"):
        (tmp_path / name).mkdir()
    # others may be editing the packages while the tests run; their part of the key has a test of its own
    monkeypatch.setattr(fingerprint, "sources", list)
    return tmp_path


def _declared(place):
    rows = (f'[{k:02d}.n]\nwhat = "a number"\ndata = "none"\nat_most = 3\n' for k in range(1, 10))
    (place / "claims.toml").write_text("".join(rows))
    return place / "claims.toml"


def write(place, name, *sources, parameters='profile = "default"  # or full\nseed = 0\nn = 1'):
    cells = [
        new_markdown_cell("# A notebook"),
        new_code_cell(f'NUMBER, CLAIMS = "{name[:2]}", {str(_declared(place))!r}'),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources or [RESULTS]),
    ]
    path = place / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=notebook_file.METADATA), path)
    return path


def run(place, *arguments):
    with mock.patch.dict(os.environ):  # the runner sets it, as the process that it is
        try:
            return reproduce.main(["--folder", str(place / "notebooks"), *arguments])
        except SystemExit as error:  # of argparse
            return error.code


def ran(place):
    """When each executed copy was written."""
    return {p.stem: p.stat().st_mtime_ns for p in (place / "build" / "notebooks").glob("[0-9]*.ipynb")}


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# --- what is asked for


def test_notebooks_come_in_order_and_by_number_or_name(place):
    for name in ("04_fit", "01_audit", "02_overfit"):
        write(place, name)
    (place / "notebooks" / "scratch.ipynb").write_text("not a numbered notebook, so not ours")
    folder = place / "notebooks"
    assert [job.notebook.stem for job in reproduce.jobs(folder)] == ["01_audit", "02_overfit", "04_fit"]
    assert [job.notebook.stem for job in reproduce.jobs(folder, ["04", "01_audit"])] == ["01_audit", "04_fit"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "01_fitt"], "unknown notebook '01_fitt'; did you mean '01_fit'"),
        (["--profile", "ful"], "invalid choice: 'ful' (choose from"),
        (["--parameter", "sead=1"], "unknown notebook parameter 'sead'; did you mean 'seed'"),
        (["--parameter", "seed=a"], "notebook parameter seed: expected int as in seed=0, found 'a'"),
        (["--parameter", "seed=1.5"], "notebook parameter seed: expected int as in seed=0, found '1.5'"),
        (["--parameter", "seed"], "parameters: expected NAME=VALUE, found 'seed'"),
        (["--parameter", "sead=1", "--parameter", "seed=2"], "unknown notebook parameter 'sead'"),
        (["--publish", "--profile", "full"], "with their own parameters only"),
        (["--compare", "--parameter", "n=2"], "with their own parameters only"),
    ],
)
def test_a_wrong_request_is_answered_before_anything_runs(place, capsys, arguments, message):
    write(place, "01_fit")
    assert run(place, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (place / "build").exists()


def test_no_notebooks(place, capsys):
    assert run(place) == 2
    assert "expected notebooks named NN_*.ipynb, found none" in capsys.readouterr().err


def test_a_parameter_takes_the_type_of_its_default_and_goes_where_there_is_one(place):
    write(place, "01_a", parameters='profile = "default"\nseed = 0\nrate = 0.5')
    write(place, "04_b")
    first, second = reproduce.jobs(place / "notebooks", parameters=["rate=2", "seed=7", "profile=3"])
    assert first.parameters == {"rate": 2.0, "seed": 7, "profile": "3"}
    assert [type(value) for value in first.parameters.values()] == [float, int, str]
    assert second.parameters == {"seed": 7, "profile": "3"}
    with pytest.raises(BiofaceError, match="unknown notebook parameter 'rate'"):
        reproduce.jobs(place / "notebooks", ["04"], ["rate=2"])


def test_other_parameters_never_write_where_the_notebooks_own_do(place):
    write(place, "01_a")
    wanted = [[], ["profile=full"], ["n=2"], ["n=3"]]
    found = [reproduce.jobs(place / "notebooks", parameters=given)[0] for given in wanted]
    assert found[0].parameters == {} and found[0].figures == paths.figures()
    assert len({job.figures for job in found}) == len({job.folder for job in found}) == len(wanted)


# --- what makes a notebook run again


def test_the_key_follows_bars_packages_and_data(place, monkeypatch):
    seen = set()

    def changes():
        before = len(seen)
        seen.add(fingerprint.foundation(place / "notebooks"))
        return len(seen) > before

    assert changes()
    (place / "data" / "README.md").write_text("x")
    assert not changes()
    (place / "data" / "nfe").mkdir()
    (place / "data" / "nfe" / "a.hdf5").write_text("abc")
    assert changes()
    os.utime(place / "data" / "nfe" / "a.hdf5", ns=(0, 1))
    assert changes()
    for name in ("claims.toml", "deviations.toml"):
        (place / "notebooks" / name).write_text("bar = 1")
        assert changes()
    monkeypatch.setattr(fingerprint, "installed", dict)
    assert changes()
    (place / "skin.py").write_text("x")
    monkeypatch.setattr(fingerprint, "sources", lambda: [place / "skin.py"])
    assert changes()
    (place / "skin.py").write_text("y")
    assert changes()
    assert not changes()


def test_every_file_of_both_packages_counts(tmp_path, monkeypatch):
    for name in ("skin.py", "tables/a.csv", "bioface.mplstyle", "__pycache__/skin.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in fingerprint.sources() if tmp_path in path.parents}
    assert found == {"bioface.mplstyle", "skin.py", "tables/a.csv"}
    assert Path(reproduce.__file__) in fingerprint.sources()


def test_data_behind_links_and_in_circles(place):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "big.hdf5").write_text("12345")
    (place / "data" / "nfe").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(place / "data")
    (place / "data" / "gone").symlink_to(place / "nowhere")
    assert [(name, size) for name, size, _ in fingerprint.data_files(place / "data")] == [("nfe/big.hdf5", 5)]


def test_the_source_is_what_was_written(place):
    path = write(place, "01_a", "x = 1")
    before = notebook_file.source(path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1] |= {"execution_count": 9, "outputs": [nbformat.v4.new_output("stream", text="1")]}
    notebook.metadata = {}
    nbformat.write(notebook, path)
    assert notebook_file.source(path) == before
    for change in ({"source": "x = 2"}, {"metadata": {"tags": ["nbval-ignore-output"]}}, {"cell_type": "markdown"}):
        other = copy.deepcopy(notebook)
        other.cells[-1].update(change)
        path.write_text(json.dumps(other))
        assert notebook_file.source(path) != before, change


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cells": [{}]}', '{"cells": 3}'])
def test_a_file_that_is_no_notebook(tmp_path, text):
    (tmp_path / "01_x.ipynb").write_text(text)
    for name in ("01_x.ipynb", "none.ipynb"):
        with pytest.raises(DataError, match=f"{name}: expected a notebook"):
            notebook_file.source(tmp_path / name)


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_change_runs_what_it_concerns(place, capsys):
    write(place, "01_a")
    write(place, "04_b")
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
        changed = [name for name in after if after[name] != before.get(name)]
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
    (place / "build" / "notebooks" / "01_a.stamp").write_bytes(b"\xff")
    assert rerun() == ["01_a"]
    executed = place / "build" / "notebooks" / "04_b.ipynb"
    executed.write_text(executed.read_text() + " ")
    assert rerun() == ["04_b"]
    executed.unlink()
    assert rerun() == ["04_b"]
    assert rerun() == []


@pytest.mark.slow
def test_a_notebook_s_claims_are_its_own(place):
    """Two notebooks write one claims.json: the later one does not make the earlier one stale."""
    write(place, "01_a", "x = 1")  # without claims: there is no claims.json yet
    assert run(place) == 0
    before = ran(place)
    made = claims.Claims("09", _declared(place))
    made.check("n", 1.0)
    made.save()
    assert run(place) == 0 and ran(place) == before


@pytest.mark.slow
def test_parameters_reach_the_notebook_and_leave_the_committed_figures_alone(place, capsys):
    write(place, "01_a", 'print("profile", profile, n)\n' + RESULTS)
    assert run(place) == 0
    assert run(place, "--profile", "full", "--parameter", "n=5") == 0
    told = capsys.readouterr().out
    assert "1 miss their bar" in told and "FAIL" in told  # n = 5 is over the bar: shown, and not a failure
    assert (place / "figures" / "01_x.png").read_text() == "drawn with 1"
    (variant,) = (place / "build" / "variants").iterdir()
    assert (variant / "figures" / "01_x.png").read_text() == "drawn with 5"
    assert "profile full 5" in (variant / "notebooks" / "01_a.ipynb").read_text()


# --- failing


@pytest.mark.slow
def test_the_first_failure_stops_the_run_and_the_next_run_resumes_there(place, capsys):
    write(place, "01_a")
    write(place, "02_bad")
    assert run(place) == 0
    good = (place / "build" / "notebooks" / "02_bad.ipynb").read_bytes()
    write(place, "02_bad", "x = 1", "y = x + undefined_name")
    write(place, "04_c")
    first = ran(place)["01_a"]
    for _ in range(2):  # the last good copy is kept, but does not pass for this one
        capsys.readouterr()
        assert run(place) == 1
        told = capsys.readouterr().err
        assert "02_bad: code cell 4 failed with NameError: name 'undefined_name' is not defined" in told
        assert "y = x + undefined_name" in told and "\x1b" not in told
        failed = place / "build" / "notebooks" / "02_bad.failed.ipynb"
        assert f"as far as it went: {failed}" in told and "NameError" in failed.read_text()
        assert (place / "build" / "notebooks" / "02_bad.ipynb").read_bytes() == good
    assert sorted(ran(place)) == ["01_a", "02_bad", "02_bad.failed"]
    write(place, "02_bad")
    assert run(place) == 0
    assert sorted(ran(place)) == ["01_a", "02_bad", "04_c"] and ran(place)["01_a"] == first


@pytest.mark.slow
def test_a_kernel_that_dies_is_an_error_of_one_line(place, capsys):
    write(place, "01_a", "import os\nos._exit(1)")
    assert run(place) == 1
    assert "01_a: its kernel died" in capsys.readouterr().err
    assert names(place / "build" / "notebooks") == []


@pytest.mark.slow
def test_damaged_claims_are_not_written_over(place, capsys):
    write(place, "01_a")
    (place / "figures").mkdir()
    (place / "figures" / "claims.json").write_text("{")
    assert run(place) == 1
    assert "remove the file" in capsys.readouterr().err
    assert (place / "figures" / "claims.json").read_text() == "{"


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_is_swept_up(place):
    write(place, "01_a")
    half = [place / "build" / "fits" / f".{n}.1234.partial.npz" for n in "12"]
    figure, whole = place / "figures" / ".01_x.99.partial.png", place / "build" / "fits" / "a.npz"
    for file in (*half, figure, whole):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("half")
    being_made = place / "build" / "twin" / ".0123-4567-89.partial"  # a folder: the twin looks after it
    being_made.mkdir(parents=True)
    for path in (half[0], being_made, whole):
        os.utime(path, (0, 0))
    assert run(place) == 0
    assert not half[0].exists() and half[1].exists(), "somebody may be writing it"
    assert not figure.exists() and whole.exists() and being_made.is_dir()
    os.utime(half[1], (0, 0))
    assert run(place) == 0 and not half[1].exists(), "also when there is nothing to do"


def test_a_build_folder_that_cannot_be_written_to_is_named(place, monkeypatch, capsys):
    write(place, "01_a")
    (place / "file").write_text("in the way")
    monkeypatch.setenv("BIOFACE_BUILD", str(place / "file"))
    assert run(place) == 2
    told = capsys.readouterr().err
    assert str(place / "file") in told and "BIOFACE_BUILD" in told


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


@pytest.mark.parametrize(("torch", "said"), [("1.2.3", "by torch 1.2.3 (locked: 2.0)\n"), ("2.0+cpu", "")])
def test_another_version_is_said_and_no_obstacle(place, monkeypatch, capsys, torch, said):
    monkeypatch.setattr(fingerprint, "locked", lambda: {"torch": "2.0"})
    monkeypatch.setattr(fingerprint, "installed", lambda: {"torch": torch})
    monkeypatch.setattr(reproduce, "run", lambda todo, publish: 0)
    write(place, "01_a")
    assert run(place) == 0
    assert capsys.readouterr().err.endswith(said) and fingerprint.differing() == ([said[3:-1]] if said else [])


def test_a_package_that_is_not_there_counts_as_another_version(monkeypatch):
    monkeypatch.setattr(fingerprint, "locked", lambda: {"no-such-package": "2.0", "torch": "2.0"})
    assert fingerprint.installed()["no-such-package"] == "missing" != fingerprint.installed()["torch"]


@pytest.mark.slow
def test_nothing_heavy_is_imported_when_there_is_nothing_to_do(place):
    write(place, "01_a", "x = 1")
    code = f"""
import sys
from study import reproduce
assert reproduce.main(["--folder", {str(place / "notebooks")!r}]) == 0
print(sorted({{"torch", "colour", "matplotlib", "papermill", "nbformat"}} & set(sys.modules)))"""
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)]
    assert "running" in told[0] and "up to date" in told[1]
    assert told[1].endswith("[]\n")


# --- publishing and comparing


def test_cleaning(tmp_path):
    """Executed out of order by Jupyter, with all that must not be committed."""

    def stream(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    def shown(kind, **data):
        return nbformat.v4.new_output(kind, data=data, metadata={"x": 1})

    widget = nbformat.v4.new_output("display_data", data={notebook_file.WIDGET: {"model_id": "7"}})
    noise = [stream("stderr", "50%"), stream("stdout", "ä\n"), stream("stderr", "99%"), stream("stdout", "two\n")]
    figures = [shown("display_data", **{"image/png": "AA"}), widget, shown("execute_result", **{"text/plain": "7"})]
    timed = {"tags": ["keep"], "papermill": {"duration": 1.5}, "execution": {"iopub.busy": "now"}}
    cells = [
        new_markdown_cell("# T", metadata={"papermill": {"duration": 0.1}}),
        new_code_cell("a", outputs=noise, execution_count=3),
        new_code_cell("b", outputs=figures, execution_count=7, metadata=timed),
        new_code_cell("b", execution_count=1),
    ]
    made = new_notebook(cells=cells, metadata={"papermill": {"duration": 3.0}, "widgets": {}})
    (tmp_path / "n.ipynb").write_text(json.dumps(made))
    text = notebook_file.clean(tmp_path / "n.ipynb")
    cleaned = nbformat.reads(text, as_version=4)
    title, a, b, again = cleaned.cells
    assert [cell.id for cell in cleaned.cells] == [cell.id for cell in cells]
    assert [cell.execution_count for cell in (a, b, again)] == [1, 2, 3]
    assert a.outputs == [stream("stdout", "ä\ntwo\n")]
    assert [(output.output_type, output.metadata) for output in b.outputs] == [
        ("display_data", {}),
        ("execute_result", {}),
    ]
    assert b.outputs[1].execution_count == 2
    assert (title.metadata, a.metadata, b.metadata) == ({}, {}, {"tags": ["keep"]})
    assert cleaned.metadata == notebook_file.METADATA
    (tmp_path / "n.ipynb").write_text(text)
    assert notebook_file.clean(tmp_path / "n.ipynb") == text, "cleaning twice changes nothing"


def test_publishing_writes_the_executed_notebook_clean_and_once(place):
    path = write(place, "01_a", "import sys\nprint('progress', file=sys.stderr)\n" + RESULTS)
    assert run(place, "--publish") == 0
    text = path.read_text()
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3]
    assert "01.n" in text and "progress" not in json.dumps([cell["outputs"] for cell in code])
    before = ran(place)
    assert run(place, "--publish") == 0
    assert path.read_text() == text and ran(place) == before, "publishing is no reason to run again"


@pytest.mark.parametrize("name", ["mine.mat", "iset/mine.mat", "skin/cheeks.mat", "bioskin/a.csv", "cameras/b.txt"])
def test_publishing_shows_the_small_public_files_and_none_of_one_s_own(place, capsys, name):
    (place / "data" / name).parent.mkdir(exist_ok=True)
    (place / "data" / name).write_text("x")
    with (
        mock.patch.object(fingerprint, "foundation", lambda folder: ""),
        mock.patch.object(reproduce, "execute") as ran,
    ):
        found = []
        ran.side_effect = lambda job: found.append(fingerprint.data_files(paths.data()))
        with mock.patch.object(notebook_file, "clean", lambda path: "{}"):
            write(place, "01_a", SHOW_DATA)
            assert run(place, "--publish") == 0
    shown = [file for file, *_ in found[0]]
    assert shown == ([] if "mine" in name else [name])
    assert ("no data of one's own" in capsys.readouterr().out) == ("mine" in name)


@pytest.mark.slow
def test_comparing_catches_a_changed_number_and_warnings_but_not_what_is_marked(place):
    same = write(place, "01_same", "import time\nprint(time.time())", RESULTS)
    changed = write(place, "02_changed", "print(f'rmse {0.125:.3f}')")
    write(place, "03_warns", "import warnings\nwarnings.warn('careful')")
    write(place, "04_timed", "import time\nprint(time.time())")
    assert run(place, "--publish") == 0
    notebook = nbformat.read(same, as_version=4)
    notebook.cells[3].metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(notebook, same)
    assert "rmse 0.125" in changed.read_text()
    changed.write_text(changed.read_text().replace("rmse 0.125", "rmse 0.126"))
    figures = {p.name: p.read_bytes() for p in (place / "figures").iterdir()}
    command = [sys.executable, "-m", "study.reproduce", "--compare", "--folder", str(place / "notebooks")]
    done = subprocess.run(command, capture_output=True, text=True)  # nbval runs in a pytest, which is not to be ours
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout
    assert set(re.findall(r"FAILED .*?(\d\d_\w+)\.ipynb", done.stdout)) == {"02_changed", "03_warns", "04_timed"}
    assert {p.name: p.read_bytes() for p in (place / "figures").iterdir()} == figures, "its own are elsewhere"
