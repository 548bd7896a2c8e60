"""The files around the code agree: pyproject.toml, requirements.lock, environment.yml, Makefile, imports."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bioface import paths
from study import claims, readme
from study.fingerprint import locked

ROOT = paths.root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = {canonicalize_name(name): version for name, version in locked(ROOT / "requirements.lock").items()}
EXTRAS = PROJECT["project"]["optional-dependencies"].values()
LINES = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *EXTRAS]
DECLARED = [Requirement(line) for lines in LINES for line in lines]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_the_lock_is_exact_plain_and_in_order():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert names == sorted(set(names))


def test_everything_declared_is_locked_within_its_bounds():
    for requirement in DECLARED:
        assert LOCK.get(canonicalize_name(requirement.name)), requirement.name
        assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)]), requirement


def _needed():
    """What the declared packages need, as installed here, with what needs it."""
    todo, done = [(requirement, "pyproject.toml") for requirement in DECLARED], {}
    while todo:
        requirement, by = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in done:
            continue
        done[key] = by
        for line in importlib.metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((needed, requirement.name))
    return {name: by for (name, _), by in done.items()}


def test_the_lock_holds_all_that_is_needed_and_nothing_else():
    needed = _needed()
    for_graphics_processors = {name for name, by in needed.items() if by == "torch"} - set(LOCK)
    beyond = {n for n in set(needed) - set(LOCK) if not n.startswith(("nvidia-", "cuda-"))}
    assert beyond <= for_graphics_processors
    assert set(LOCK) <= set(needed)


def test_the_running_environment_is_the_locked_one():
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("an environment of the reader's own")
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in LOCK}
    assert installed == LOCK


def test_python_is_the_same_everywhere():
    minor = next(line for line in CONDA if str(line).startswith("python=")).removeprefix("python=")
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [f"3.{k}" for k in range(8, 16) if allowed.contains(f"3.{k}.0")] == [minor]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + minor.replace(".", "")
    assert f"python{minor}" in (ROOT / "Makefile").read_text()
    assert allowed.contains(".".join(map(str, sys.version_info[:3])))


def test_conda_installs_the_lock_and_the_package():
    (pip,) = (line["pip"] for line in CONDA if isinstance(line, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    plain = {re.split(r"[<>=]", line)[0] for line in CONDA if isinstance(line, str)}
    assert plain == {"python", "pip"}, "everything else comes from the lock"


def _sources():
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        yield path, path.read_text(encoding="utf-8")
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_import_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in DECLARED}
    own = {"bioface", "study", "conftest", "tests", *(path.stem for path in ROOT.glob("tests/*.py"))}
    providers = importlib.metadata.packages_distributions()
    undeclared = []
    for path, source in _sources():
        for node in ast.walk(ast.parse(source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - own:
                if not names & {canonicalize_name(name) for name in providers.get(module, [])}:
                    undeclared.append(f"{path.relative_to(ROOT)}: {module}")
    assert undeclared == []


@pytest.mark.parametrize("package", ["bioface", "study"])
def test_everything_beside_the_modules_is_packaged(package):
    folder = paths.PACKAGE.parent / package
    patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    files = {p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert {path for path in files if not path.name.startswith(".")} <= packaged


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


# as if typed in a shell, also when these tests run under make
OUTSIDE_MAKE = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*arguments, cwd=ROOT, **environment):
    environment = OUTSIDE_MAKE | environment
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_make_alone_lists_every_target():
    listed = make().stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    for target in set(phony) - {"help", "environment"}:
        assert re.search(rf"^make {target} ", listed, re.M), target


@pytest.fixture
def checkout(tmp_path):
    """``checkout(*arguments)``: make in a folder with what it needs and with its own Pythons before all others."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return lambda *arguments: make(*arguments, cwd=tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")


def _fake_python(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_without_python_3_11_make_says_so(checkout, tmp_path):
    for name in ("python3.11", "python3", "python"):
        _fake_python(tmp_path / "bin", name, "exit 1")
    done = checkout("check")
    assert done.returncode != 0 and "Python 3.11 is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


# stands for `python3.11`, `python -m venv`, `pip` and everything else; it notes what was asked of it
FAKE = """
echo "$@" >> log
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp bin/python3.11 .venv/bin/python ;;
  *"-r requirements.lock") if [ -e broken ]; then exit 1; fi ;;
esac
"""


def test_an_interrupted_installation_is_taken_up_again_and_a_whole_one_is_not_repeated(checkout, tmp_path):
    _fake_python(tmp_path / "bin", "python3.11", FAKE)

    def installations():
        (tmp_path / "log").write_text("")
        done = checkout("reproduce")
        log = (tmp_path / "log").read_text()
        return done.returncode, log.count("install"), log.count("-m study.reproduce")

    (tmp_path / "broken").touch()
    assert installations() == (2, 1, 0)  # the lock fails: nothing after it
    (tmp_path / "broken").unlink()
    assert installations() == (0, 2, 1)  # the lock, then the package itself
    assert installations() == (0, 0, 1)
    with open(tmp_path / "requirements.lock", "a") as stream:
        stream.write("another==1.0\n")
    assert installations() == (0, 2, 1)
    assert installations() == (0, 0, 1)


def test_make_passes_its_variables_on(checkout, tmp_path):
    _fake_python(tmp_path / "bin", "python3.11", FAKE)
    assert checkout("reproduce", "PROFILE=full", "NOTEBOOK=01 04", "PARAMS=seed=3 n=4").returncode == 0
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "-m study.reproduce --notebook 01 04 --profile full --parameter seed=3 n=4"


def test_an_own_python_is_used_as_it_is_and_told_what_to_do_without_the_package(checkout, tmp_path):
    _fake_python(tmp_path / "bin", "mine", 'echo "$@" >> log')
    assert checkout("reproduce", "PY=bin/mine").returncode == 0
    assert "-m study.reproduce" in (tmp_path / "log").read_text()
    _fake_python(tmp_path / "bin", "mine", "exit 1")
    done = checkout("reproduce", "PY=bin/mine")
    assert done.returncode != 0 and "bin/mine -m pip install -r requirements.lock" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_failing_step_of_make_test_fails_it(checkout, tmp_path):
    _fake_python(tmp_path / "bin", "mine", 'echo "$@" >> log; case "$*" in *pytest*) exit 1;; esac')
    assert checkout("test", "PY=bin/mine").returncode != 0
    log = (tmp_path / "log").read_text()
    assert "pytest" in log and "--compare" not in log


@pytest.mark.slow
def test_coverage_under_the_bar_fails_and_says_the_figure(tmp_path):
    (tmp_path / "test_little.py").write_text("from bioface import errors\n\n\ndef test_little():\n    assert errors")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_little.py"]
    flags = re.search(r'^\t\$\(PYTEST\) -m "not alone" (.*); \\$', (ROOT / "Makefile").read_text(), re.M).group(1)
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    given = {"env": outside | {"COVERAGE_FILE": str(tmp_path / ".coverage")}, "capture_output": True, "timeout": 120}
    command += [*flags.split(), f"--cov-config={ROOT / 'pyproject.toml'}"]
    done = subprocess.run(command, cwd=tmp_path, text=True, **given)
    assert done.returncode == 1 and "1 passed" in done.stdout
    line = r"^FAIL Required test coverage of ([0-9.]+)% not reached. Total coverage: ([0-9.]+)%$"
    said = re.search(line, done.stdout, re.M)
    assert float(said[1]) >= 95 and 0 < float(said[2]) < 5


def test_clean_removes_only_what_can_be_made_again(checkout, tmp_path):
    kept = ["data/nfe/mine.hdf5", "figures/04_x.png", "notebooks/04_x.ipynb", ".venv/x", "src/a.py", "notes.txt"]
    gone = ["build/notebooks/x", ".ruff_cache/x", ".pytest_cache/x", "src/__pycache__/a.pyc"]
    for name in [*kept, *gone, "tests/__pycache__/b.pyc"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert checkout("clean").returncode == 0
    assert all((tmp_path / name).exists() for name in kept)
    assert not any((tmp_path / name).exists() for name in gone)


@pytest.fixture
def continuous_integration(tmp_path):
    """Runs ``.ci/run`` in a folder of its own, where ``make test`` does ``recipe``, as root, with apt-get pretended."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    for folder in (".ci", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".ci" / "run").write_text(script.read_text())
    for tool in ("bash", "dirname", "echo", "make", "sh"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    _fake_python(tmp_path / "bin", "id", "echo 0")
    _fake_python(tmp_path / "bin", "apt-get", 'echo installing; echo "$@" >> log')

    def run(recipe="@echo tested here"):
        (tmp_path / "Makefile").write_text(f"test:\n\t{recipe}\n")
        given = {"cwd": tmp_path, "env": OUTSIDE_MAKE | {"PATH": str(tmp_path / "bin")}}
        return subprocess.run(["bash", ".ci/run"], **given, capture_output=True, text=True)

    return run


def test_continuous_integration_runs_make_test(continuous_integration, tmp_path):
    _fake_python(tmp_path / "bin", "chromium", "exit 0")
    assert continuous_integration().stdout == "tested here\n"
    assert continuous_integration("@exit 1").returncode != 0
    assert not (tmp_path / "log").exists()


def test_continuous_integration_installs_a_browser_where_it_can(continuous_integration, tmp_path):
    done = continuous_integration()
    assert done.returncode == 0 and done.stdout == "tested here\n"
    update, install = (tmp_path / "log").read_text().splitlines()
    assert update.startswith("update") and install.startswith("install") and install.endswith(" chromium")
    _fake_python(tmp_path / "bin", "apt-get", "exit 1")
    assert continuous_integration().returncode != 0
    _fake_python(tmp_path / "bin", "id", "echo 1000")
    assert continuous_integration().stdout == "tested here\n"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The figures of the commit; what `make reproduce` wrote since is this machine's."""
    folder = tmp_path_factory.mktemp("committed")
    for name in ("claims.json", "05_table1.json", "05_verdicts.json"):
        shown = subprocess.run(["git", "show", f"HEAD:figures/{name}"], cwd=ROOT, capture_output=True, check=False)
        (folder / name).write_bytes((ROOT / "figures" / name).read_bytes() if shown.returncode else shown.stdout)
    return folder


def test_readme_numbers_are_those_of_the_committed_figures(committed):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.fill(text, committed) == text, "run `make notebooks`"
    assert all(f"{{{{ {kind}(" in text for kind in ("measured", "table", "table1"))


def test_verdicts_are_those_of_the_commit(committed):
    """Another processor trains to other last digits; what is claimed must hold there too."""
    verdicts = [
        {row.id: row.verdict for row in rows if not row.timing and not row.optional}
        for rows in (claims.read(None), claims.read(committed / claims.FILE))
    ]
    assert verdicts[0] == verdicts[1]
