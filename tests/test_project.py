"""The files around the code agree: pyproject.toml, requirements.lock, environment.yml, Makefile, imports."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from test_house import imported

from bioface import paths
from study import claims, notebook, readme
from study.cache import locked

ROOT = paths.root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = {canonicalize_name(name): version for name, version in locked().items()}
EXTRAS = PROJECT["project"]["optional-dependencies"].values()
LINES = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *EXTRAS]
DECLARED = [Requirement(line) for lines in LINES for line in lines]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_the_lock_is_exact_plain_and_in_order_and_within_the_declared_bounds():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert names == sorted(set(names))
    for requirement in DECLARED:
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


@pytest.mark.skipif(sys.prefix != str(ROOT / ".venv"), reason="an environment of the reader's own")
def test_the_running_environment_is_the_locked_one():
    assert {name: importlib.metadata.version(name).split("+")[0] for name in LOCK} == LOCK


def test_python_is_the_same_everywhere_and_conda_installs_the_lock():
    (pip,) = (line["pip"] for line in CONDA if isinstance(line, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    plain = dict(re.split(r"[<>=]", f"{line}=", maxsplit=1) for line in CONDA if isinstance(line, str))
    assert plain.keys() == {"python", "pip"}, "everything else comes from the lock"
    minor = plain["python"].removesuffix("=")
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [f"3.{k}" for k in range(8, 16) if allowed.contains(f"3.{k}.0")] == [minor]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + minor.replace(".", "")
    assert f"python{minor}" in (ROOT / "Makefile").read_text()
    assert allowed.contains(".".join(map(str, sys.version_info[:3])))


def _sources():
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        yield path, path.read_text(encoding="utf-8")
    for path in notebook.every(paths.notebooks()):
        yield path, "\n".join(text for kind, text, _ in notebook.source(path) if kind == "code")


@pytest.mark.slow
def test_every_import_is_declared():
    names = {canonicalize_name(requirement.name) for requirement in DECLARED}
    own = {".", "bioface", "study", "conftest", *(path.stem for path in ROOT.glob("tests/*.py"))}
    providers = importlib.metadata.packages_distributions()
    undeclared = []
    for path, source in _sources():
        for module in imported(source) - set(sys.stdlib_module_names) - own:
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


def shell(*command, cwd=ROOT, **environment):
    """As if typed in a shell, also when these tests run under make."""
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(command, cwd=cwd, env=outside | environment, capture_output=True, text=True, timeout=120)


def test_make_alone_lists_every_target():
    listed = shell("make").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    for target in set(phony) - {"help", "environment"}:
        assert re.search(rf"^make {target} ", listed, re.M), target


@pytest.fixture
def checkout(tmp_path):
    """``checkout(*arguments)``: make in a folder with what it needs and with its own Pythons before all others."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return lambda *arguments: shell("make", *arguments, cwd=tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")


def pretend(place, body, *names):
    """Programs of the place's own, which do that."""
    (place / "bin").mkdir(exist_ok=True)
    for name in names:
        (place / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["python3.11", "python3", "python"], ["check"], "Python 3.11 is needed"),
        (["mine"], ["reproduce", "PY=bin/mine"], "bin/mine -m pip install -r requirements.lock"),
    ],
)
def test_without_what_is_needed_make_says_what_to_do(checkout, tmp_path, names, arguments, message):
    pretend(tmp_path, "exit 1", *names)
    done = checkout(*arguments)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / ".venv").exists()


# stands for `python3.11`, `python -m venv`, `pip` and everything else; it notes what was asked of it
FAKE = """
echo "$@" >> log
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp bin/python3.11 .venv/bin/python ;;
  *"-r requirements.lock") if [ -e broken ]; then exit 1; fi ;;
esac
"""


def test_an_installation_is_taken_up_again_and_not_repeated(checkout, tmp_path):
    pretend(tmp_path, FAKE, "python3.11")

    def installations():
        (tmp_path / "log").write_text("")
        done = checkout("reproduce")
        log = (tmp_path / "log").read_text()
        return done.returncode, log.count("install"), log.count("-m study.reproduce")

    (tmp_path / "broken").touch()
    assert installations() == (2, 1, 0)  # the lock fails: nothing after it
    (tmp_path / "broken").unlink()
    for line in ("", "another==1.0\n"):
        with open(tmp_path / "requirements.lock", "a") as stream:
            stream.write(line)
        assert installations() == (0, 2, 1)  # the lock, then the package itself
        assert installations() == (0, 0, 1)


def test_an_own_python_variables_and_a_failure_are_passed_on(checkout, tmp_path):
    pretend(tmp_path, 'echo "$@" >> log; case "$*" in *pytest*) exit 1;; esac', "mine")
    variables = ["PROFILE=full", "NOTEBOOK=01 04", "PARAMS=seed=3 n=4"]
    assert checkout("reproduce", "PY=bin/mine", *variables).returncode == 0
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "-m study.reproduce --notebook 01 04 --profile full --parameter seed=3 n=4"
    assert checkout("test", "PY=bin/mine").returncode != 0
    log = (tmp_path / "log").read_text()
    assert "pytest" in log and "--compare" not in log and not (tmp_path / ".venv").exists()


def test_clean_removes_only_what_can_be_made_again(checkout, tmp_path):
    kept = ["data/nfe/mine.hdf5", "figures/04_x.png", "notebooks/04_x.ipynb", ".venv/x", "src/a.py", "notes.txt"]
    gone = ["build/notebooks/x", ".ruff_cache/x", ".pytest_cache/x", "src/__pycache__/a.pyc"]
    files = [tmp_path / name for name in [*kept, *gone, "tests/__pycache__/b.pyc"]]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    assert checkout("clean").returncode == 0
    assert [file.exists() for file in files[:10]] == [True] * 6 + [False] * 4


def test_readme_and_verdicts_are_those_of_the_commit(tmp_path):
    """What `make reproduce` wrote since is this machine's: other last digits, but what is claimed holds there too."""
    for name in ("claims.json", "05_table1.json", "05_verdicts.json"):
        shown = subprocess.run(["git", "show", f"HEAD:figures/{name}"], cwd=ROOT, capture_output=True, check=False)
        (tmp_path / name).write_bytes((ROOT / "figures" / name).read_bytes() if shown.returncode else shown.stdout)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.fill(text, tmp_path) == text, "run `make notebooks`"
    assert all(f"{{{{ {kind}(" in text for kind in ("measured", "headlines", "published", "table1"))
    here, there = (
        {row.id: row.verdict for row in claims.read(file) if not row.timing and not row.optional}
        for file in (None, tmp_path / claims.FILE)
    )
    assert here == there
