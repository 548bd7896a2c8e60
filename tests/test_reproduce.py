"""The notebook runner: order, parameters, resuming, failing, publishing and comparing; test_drills kills it."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from conftest import refuses
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from bioface import paths
from study import cache, claims, comparison, notebook, reproduce

# what a notebook that imports nothing heavy can do to leave a figure and a claim
RESULTS = """\
from bioface import paths
from study import claims
c = claims.Claims(NUMBER, CLAIMS)
c.check("n", n)
c.table()
c.save()
with paths.whole_file(paths.figures() / f"{NUMBER}_x.png") as file:
    _ = file.write_text(f"drawn with {n}")"""


@pytest.fixture
def place(folders, monkeypatch):
    """A folder with notebooks/, build/, figures/ and data/ of its own."""
    (folders.parent / "notebooks").mkdir()
    # others may be editing the packages while the tests run; their part of the key has a test of its own
    monkeypatch.setattr(cache, "sources", list)
    return folders.parent


def _declared(place):
    numbers = [*(f"{k:02d}" for k in range(1, 10)), "A1"]
    rows = (f'[{number}.n]\nwhat = "a number"\ndata = "none"\nat_most = 3\n' for number in numbers)
    (place / "claims.toml").write_text("".join(rows))
    return place / "claims.toml"


def write(place, name, *sources, parameters='profile = "default"  # or full\nseed = 0\nn = 1', tag="hide-input"):
    cells = [
        new_markdown_cell("# A notebook"),
        new_code_cell(f'NUMBER, CLAIMS = "{name[:2]}", {str(_declared(place))!r}'),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source, metadata={"tags": [tag]}) for source in sources or [RESULTS]),
    ]
    path = place / "notebooks" / ("appendix" if name.startswith("A") else "") / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=notebook.METADATA), path)
    return path


def run(place, *arguments):
    with mock.patch.dict(os.environ):  # the runner sets it, as the process that it is
        try:
            return reproduce.main(["--folder", str(place / "notebooks"), *arguments])
        except SystemExit as error:  # of argparse
            return error.code


def execute_here(job):
    """In place of a kernel: what is run, and when, does not depend on where."""
    cells = nbformat.read(job.notebook, as_version=4).cells
    known = {}
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        exec(cell.source, known)
    with paths.whole_file(job.file("ipynb")) as partial:
        nbformat.write(new_notebook(cells=cells), partial)


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(reproduce, "execute", execute_here)


def ran(place):
    """When each executed copy was written."""
    return {p.stem: p.stat().st_mtime_ns for p in (place / "build/notebooks").glob("[0-9A]*.ipynb")}


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_notebooks_come_in_order_and_by_number_or_name(place):
    for name in ("A2_more", "04_fit", "01_audit", "02_overfit", "A1_data"):
        write(place, name)
    (place / "notebooks/scratch.ipynb").write_text("not a numbered notebook, so not ours")
    folder = place / "notebooks"
    every = ["01_audit", "02_overfit", "04_fit", "A1_data", "A2_more"]
    for only, expected in ([], every), (["04", "01_audit"], ["01_audit", "04_fit"]), (["A1"], ["A1_data"]):
        assert [job.notebook.stem for job in reproduce.jobs(folder, only)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "01_fitt"], "unknown notebook '01_fitt'; did you mean '01_fit'"),
        (["--profile", "ful"], "invalid choice: 'ful' (choose from"),
        (["--parameter", "sead=1"], "unknown notebook parameter 'sead'; did you mean 'seed'"),
        (["--parameter", "seed=1.5"], "notebook parameter seed: expected int as in seed=0, found '1.5'"),
        (["--parameter", "seed"], "parameters: expected NAME=VALUE, found 'seed'"),
        (["--publish", "--profile", "full"], "with their own parameters only"),
        (["--compare", "--parameter", "n=2"], "with their own parameters only"),
    ],
)
def test_a_wrong_request_is_answered_before_anything_runs(place, capsys, arguments, message):
    write(place, "01_fit")
    assert run(place, *arguments) == 2
    assert message in capsys.readouterr().err and not names(place / "build")


def test_a_parameter_takes_the_type_of_its_default_and_goes_where_there_is_one(place):
    write(place, "01_a", parameters='profile = "default"\nseed = 0\nrate = 0.5')
    write(place, "04_b")
    first, second = reproduce.jobs(place / "notebooks", parameters=["rate=2", "seed=7", "profile=3"])
    assert first.parameters == {"rate": 2.0, "seed": 7, "profile": "3"}
    assert [type(value) for value in first.parameters.values()] == [float, int, str]
    assert second.parameters == {"seed": 7, "profile": "3"}
    refuses("unknown notebook parameter 'rate'", reproduce.jobs, place / "notebooks", ["04"], ["rate=2"])
    wanted = [[], ["profile=full"], ["n=2"], ["n=3"]]  # which never write to the same place
    jobs = [reproduce.jobs(place / "notebooks", ["04"], given)[0] for given in wanted]
    assert jobs[0].parameters == {} and jobs[0].figures == paths.figures()
    assert len({job.figures for job in jobs}) == len({job.folder for job in jobs}) == len(wanted)


def test_a_path_is_taken_from_where_make_was_called_and_counts_by_its_content(place, monkeypatch):
    """Notebooks run in their own folder; a parameter whose default is "" is a path."""
    write(place, "06_a", parameters='photo = ""\nmask = ""\nname = "x"')
    monkeypatch.chdir(place)
    (place / "me.png").write_bytes(b"one")
    given = ["photo=me.png", "mask=~/m.png", "name=me.png"]
    (job,) = reproduce.jobs(place / "notebooks", parameters=given)
    home = str(Path("~/m.png").expanduser())
    assert job.parameters == {"photo": str(place / "me.png"), "mask": home, "name": "me.png"}
    before = cache.content(job.parameters["photo"])
    (place / "me.png").write_bytes(b"another")
    assert cache.content(job.parameters["photo"]) != before and cache.content("me.png") == "me.png"
    assert reproduce.jobs(place / "notebooks", parameters=["photo="])[0].parameters == {"photo": ""}


def test_another_version_is_said_and_no_obstacle(place, monkeypatch, capsys):
    here = metadata.version("numpy")
    locked = {"nbformat": metadata.version("nbformat"), "numpy": "0.1", "none-such": "2.0"}
    monkeypatch.setattr(cache, "locked", lambda: locked)
    monkeypatch.setattr(reproduce, "run", lambda *_: 0)
    write(place, "01_a")
    assert run(place) == 0
    said = [f"numpy {here} (locked: 0.1)", "none-such missing (locked: 2.0)"]
    assert cache.differing() == said and capsys.readouterr().err.endswith(f"by {', '.join(said)}\n")
    monkeypatch.setattr(cache, "installed", lambda: locked | {"numpy": "0.1+cpu", "none-such": "2.0"})
    assert cache.differing() == []


def test_a_package_that_is_missing_is_named_with_what_to_do(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "papermill", None)
    write(place, "01_a")
    assert run(place) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "papermill" in told and told.endswith("-m pip install -r requirements.lock")


def test_the_key_follows_bars_packages_and_data(place, monkeypatch):
    seen = set()

    def changes(name=None, text="x"):
        if name:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)
        before = len(seen)
        seen.add(cache.foundation(place / "notebooks"))
        return len(seen) > before

    assert changes() and not changes("data/README.md") and changes("data/nfe/a.hdf5")
    os.utime(place / "data/nfe/a.hdf5", ns=(0, 1))
    assert changes()
    assert changes("notebooks/claims.toml") and changes("notebooks/deviations.toml")
    monkeypatch.setattr(cache, "installed", dict)
    assert changes()
    monkeypatch.setattr(cache, "sources", lambda: [place / "skin.py"])
    assert changes("skin.py") and changes("skin.py", "y") and not changes()


def test_every_file_of_both_packages_counts_and_none_of_pythons_caches():
    found = cache.sources()
    assert {Path(reproduce.__file__), paths.PACKAGE / "bioface.mplstyle", *paths.TABLES.iterdir()} <= set(found)
    assert not [path for path in found if "__pycache__" in path.parts]


def test_data_behind_links_and_in_circles(place):
    (place / "notebooks/big.hdf5").write_text("12345")
    for link, target in (("data/nfe", "notebooks"), ("notebooks/back", "data"), ("data/gone", "nowhere")):
        (place / link).symlink_to(place / target)
    assert [(name, size) for name, size, _ in cache.data_files(place / "data")] == [("nfe/big.hdf5", 5)]


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [{}]}'])
def test_a_file_that_is_no_notebook(tmp_path, text):
    (tmp_path / "01_x.ipynb").write_text(text)
    for name in ("01_x.ipynb", "none.ipynb"):
        refuses(f"{name}: expected a notebook", notebook.source, tmp_path / name)


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_change_runs_what_it_concerns(place, no_kernel, capsys):
    write(place, "01_a")
    write(place, "A1_b")
    assert run(place) == 0
    told = capsys.readouterr().out
    assert "01.n" in told and "A1.n" in told and "2 of 2 claims pass" in told
    assert told.index("01_a") < told.index("A1_b")
    figures, executed = place / "figures", place / "build/notebooks"
    assert names(figures) == ["01_x.png", "A1_x.png", "claims.json"]
    before = ran(place)
    assert sorted(before) == ["01_a", "A1_b"]

    def lose_rows():
        rows = json.loads((figures / "claims.json").read_text())
        rows["claims"] = [row for row in rows["claims"] if row["notebook"] == "01"]
        (figures / "claims.json").write_text(json.dumps(rows))

    for change, concerned in [
        (lambda: None, []),
        (lambda: write(place, "A1_b", RESULTS + "\nprint('more')"), ["A1_b"]),
        (lambda: (figures / "01_x.png").write_text("altered"), ["01_a"]),
        ((figures / "A1_x.png").unlink, ["A1_b"]),
        (lose_rows, ["A1_b"]),
        (lambda: (executed / "01_a.stamp").write_bytes(b"\xff"), ["01_a"]),
        ((executed / "A1_b.ipynb").unlink, ["A1_b"]),
    ]:
        change()
        assert run(place) == 0 and "up to date" in capsys.readouterr().out
        after = ran(place)
        assert [name for name in after if after[name] != before.get(name)] == concerned
        assert (figures / "01_x.png").read_text() == "drawn with 1"
        before = after
    assert run(place, "--notebook", "A1") == 0 and "A1_b  up to date" in capsys.readouterr().out


@pytest.mark.slow
def test_parameters_reach_the_notebook_and_leave_the_committed_figures_alone(place, capsys, monkeypatch):
    """In a kernel of this Python with the packages of its runner, whatever else is installed or PYTHONPATH says."""
    other = place / "notebooks/src/study"  # where a relative one leads from there
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('another checkout')")
    monkeypatch.setenv("PYTHONPATH", "src")
    spec = {"argv": ["false"], "display_name": "x", "language": "python"}
    (place / "kernels/python3").mkdir(parents=True)
    (place / "kernels/python3/kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(place))
    write(place, "01_a", 'import sys\nprint(sys.executable, "profile", profile, n)\n' + RESULTS)
    assert run(place) == 0
    assert run(place, "--profile", "full", "--parameter", "n=5") == 0
    told = capsys.readouterr().out
    assert "1 miss their bar" in told and "FAIL" in told  # n = 5 is over the bar: shown, and not a failure
    assert (place / "figures/01_x.png").read_text() == "drawn with 1"
    (variant,) = (place / "build/variants").iterdir()
    assert (variant / "figures/01_x.png").read_text() == "drawn with 5"
    assert f"{json.dumps(sys.executable)[1:-1]} profile full 5" in (variant / "notebooks/01_a.ipynb").read_text()


@pytest.mark.slow
def test_the_first_failure_stops_the_run_and_the_next_run_resumes_there(place, capsys):
    write(place, "01_a", "x = 1")
    write(place, "02_bad", "x = 2")
    with mock.patch.object(reproduce, "execute", execute_here):
        assert run(place) == 0
    good = (place / "build/notebooks/02_bad.ipynb").read_bytes()
    write(place, "02_bad", "x = 1", "y = x + undefined_name")
    write(place, "04_c", "x = 3")
    first = ran(place)["01_a"]
    for _ in range(2):  # the last good copy is kept, but does not pass for this one
        capsys.readouterr()
        assert run(place) == 1
        told = capsys.readouterr().err
        assert "02_bad: code cell 4 failed with NameError: name 'undefined_name' is not defined" in told
        assert "y = x + undefined_name" in told and "\x1b" not in told
        failed = place / "build/notebooks/02_bad.failed.ipynb"
        assert f"as far as it went: {failed}" in told and "NameError" in failed.read_text()
        assert (place / "build/notebooks/02_bad.ipynb").read_bytes() == good
    assert sorted(ran(place)) == ["01_a", "02_bad", "02_bad.failed"]
    write(place, "02_bad", "x = 4")
    assert run(place) == 0
    assert sorted(ran(place)) == ["01_a", "02_bad", "04_c"] and ran(place)["01_a"] == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message", "left"),
    [("import os\nos._exit(1)", "01_a: its kernel died", []), (RESULTS, "remove the file", ["01_a.failed.ipynb"])],
)
def test_a_dead_kernel_and_damaged_claims_are_errors(place, capsys, source, message, left):
    write(place, "01_a", source)
    (place / "figures/claims.json").write_text("{")
    assert run(place) == 1
    assert message in capsys.readouterr().err and names(place / "build/notebooks") == left
    assert (place / "figures/claims.json").read_text() == "{"


def test_what_a_killed_process_left_half_written_is_swept_up(place, no_kernel):
    write(place, "01_a")
    half = [place / "build/fits" / f".{n}.1234.partial.npz" for n in "12"]
    figure, whole = place / "figures/.01_x.99.partial.png", place / "build/fits/a.npz"
    for file in (*half, figure, whole):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("half")
    being_made = place / "build/twin/.0123-4567-89.partial"  # a folder: the twin looks after it
    being_made.mkdir(parents=True)
    for path in (half[0], being_made, whole):
        os.utime(path, (0, 0))
    assert run(place) == 0
    assert not half[0].exists() and half[1].exists(), "somebody may be writing it"
    assert not figure.exists() and whole.exists() and being_made.is_dir()
    os.utime(half[1], (0, 0))
    assert run(place) == 0 and not half[1].exists(), "also when there is nothing to do"


@pytest.mark.slow
def test_nothing_heavy_is_imported_when_there_is_nothing_to_do(place):
    """Which rows of another notebook in the same claims.json do not change."""
    write(place, "01_a", "x = 1")  # without claims: there is no claims.json yet
    code = f"""
import sys
from study import reproduce
assert reproduce.main(["--folder", {str(place / "notebooks")!r}]) == 0
print(sorted({{"torch", "colour", "matplotlib", "papermill", "nbformat"}} & set(sys.modules)))"""
    for expected in (r"running", r"up to date(?s:.*)\n\[\]\n$"):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        assert re.search(expected, told)
        others = claims.Claims("09", _declared(place))
        others.check("n", 1.0)
        others.save()


def test_cleaning(tmp_path):
    """Executed out of order by Jupyter, with all that must not be committed."""
    file, noise = tmp_path / "n.ipynb", {"papermill": {"duration": 1.5}, "execution": {"iopub.busy": "now"}}
    said = [("stderr", "50%"), ("stdout", "ä\n"), ("stderr", "99%"), ("stdout", "two\n")]
    shown = ("display_data", "image/png"), ("display_data", notebook.WIDGET), ("execute_result", "text/plain")
    streams = [new_output("stream", name=name, text=text) for name, text in said]
    alt = {"image/png": {"alt": "A line."}}
    figures = [new_output(kind, data={mime: "AA"}, metadata=alt | {"x": 1}) for kind, mime in shown]
    cells = [
        new_markdown_cell("# T", metadata=noise),
        new_code_cell("a", outputs=streams, execution_count=3),
        new_code_cell("b", outputs=figures, execution_count=7, metadata={"tags": ["keep"], **noise}),
        new_code_cell("b", execution_count=1),
    ]
    file.write_text(json.dumps(new_notebook(cells=cells, metadata={"widgets": {}, **noise})))
    text = notebook.clean(file)
    cleaned = nbformat.reads(text, as_version=4)
    title, a, b, again = cleaned.cells
    assert [cell.id for cell in cleaned.cells] == [cell.id for cell in cells]
    assert [cell.execution_count for cell in (a, b, again)] == [1, 2, 3]
    assert a.outputs == [new_output("stream", text="ä\ntwo\n")]
    assert [output.output_type for output in b.outputs] == ["display_data", "execute_result"]
    assert [output.metadata for output in b.outputs] == [alt] * 2 and b.outputs[1].execution_count == 2
    assert (title.metadata, a.metadata, b.metadata) == ({}, {}, {"tags": ["keep"]})
    assert cleaned.metadata == notebook.METADATA
    file.write_text(text)
    assert notebook.clean(file) == text, "cleaning twice changes nothing"


@pytest.mark.slow
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
def test_publishing_shows_the_small_public_files_and_none_of_one_s_own(place, monkeypatch, capsys, name):
    (place / "data" / name).parent.mkdir(exist_ok=True)
    (place / "data" / name).write_text("x")
    shown = []
    monkeypatch.setattr(cache, "foundation", lambda folder: "")
    monkeypatch.setattr(reproduce, "execute", lambda job: shown.extend(cache.data_files(paths.data())))
    monkeypatch.setattr(notebook, "clean", lambda path: "{}")
    write(place, "01_a")
    assert run(place, "--publish") == 0
    assert [file for file, *_ in shown] == ([] if "mine" in name else [name])
    assert ("no data of one's own" in capsys.readouterr().out) == ("mine" in name)


TIMED = "import time\nprint(time.time())"
COMPARED = [  # what a cell does, its tag, how what is committed differs, and whether that is a failure
    (TIMED, "nbval-ignore-output", "", "", False),
    ("print(f'rmse {0.125}')", "hide-input", "rmse 0.125", "rmse 0.126", True),
    ("import warnings\nwarnings.warn('careful')", "hide-input", "", "", True),
    (TIMED, "hide-input", "", "", True),
    ("import ipywidgets\nprint(f'near {1.25}')\nipywidgets.Text()", "tolerance-5", "near 1.25", "near 1.22", False),
    ("print(f'far {1.29}')", "tolerance-5", "far 1.29", "far 1.22", True),
    ("print(open('data').read())", "optional-data", "the author", "the reader", False),
]


@pytest.mark.slow
def test_comparing_catches_what_changed_beyond_what_a_tag_allows(place):
    (place / "notebooks/data").write_text("the author")
    file = write(place, "01_all", *(source for source, *_ in COMPARED), RESULTS)
    made = nbformat.read(file, as_version=4)
    for cell, (_, tag, *_) in zip(made.cells[3:], COMPARED, strict=False):  # after title, names and parameters
        cell.metadata["tags"] = [tag]
    nbformat.write(made, file)
    assert run(place, "--publish") == 0
    text = file.read_text()
    for *_, old, new, _ in COMPARED:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    (place / "data/skin").mkdir()
    (place / "data/skin/a.mat").write_text("x")
    figures = {p.name: p.read_bytes() for p in (place / "figures").iterdir()}
    command = [sys.executable, "-m", "study.reproduce", "--compare", "--folder", str(place / "notebooks")]
    done = subprocess.run(command, capture_output=True, text=True)  # nbval runs in a pytest, which is not to be ours
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout
    failed = {number for number, (*_, fails) in enumerate(COMPARED, 2) if fails}  # of cells of code, from 0
    assert set(map(int, re.findall(r"FAILED .*01_all\.ipynb::Cell (\d+)", done.stdout))) == failed
    assert {p.name: p.read_bytes() for p in (place / "figures").iterdir()} == figures, "its own are elsewhere"


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "expected"),
    [
        ("rmse  0.0124", "rmse 0.0126", 0.02, True),  # however spaced
        ("rmse 0.0124", "rmse 0.0128", 0.02, False),
        ("0.02", "0.03", 0.0, True),  # a unit of the last digit
        ("0.02", "−0.01", 0.0, False),
        ("54 300 px, 492,456", "54 900 px, 492,999", 0.02, True),
        ("8 of 12", "9 of 12", 0.05, False),  # a count is a count
        ("1e-09", "2e-09", 0.1, True),
        ("PASS 1", "FAIL 1", 0.5, False),
        ("1 2", "1", 0.5, False),
    ],
)
def test_two_texts_agree_within_a_tolerance(one, other, tolerance, expected):
    assert comparison.agree(one, other, tolerance) is comparison.agree(other, one, tolerance) is expected
