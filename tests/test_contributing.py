"""What CONTRIBUTING.md shows is true: its diffs apply to this tree, and the tests they add pass by what they add."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from bioface import paths

ROOT = paths.root()
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
ADDED = re.findall(r"^\+def (test_\w+)", "".join(DIFFS), re.M)


def files(diff):
    return re.findall(r"^\+\+\+ b/(.*)$", diff, re.M)


@pytest.fixture
def copy(tmp_path):
    """The package, its tests and settings, where a diff can be applied."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def apply(folder, *options):
    for diff in DIFFS:
        command = ["git", "apply", *options, "-"]
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        subprocess.run(command, input=diff, text=True, cwd=folder, env=environment, check=True)


def test_an_addition_is_one_file_and_one_test():
    assert len(DIFFS) == len(ADDED) == 4
    for diff in DIFFS:
        source, test = files(diff)
        assert source.startswith(("src/bioface/", "src/study/")) and test.startswith("tests/test_")


def test_the_diffs_apply_and_are_in_the_house_style(copy):
    apply(copy)
    changed = [name for diff in DIFFS for name in files(diff)]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *changed], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def passed(folder):
    """How many of the added tests pass in the copy, as pytest says."""
    names = sorted({name for diff in DIFFS for name in files(diff) if name.startswith("tests/")})
    uncounted = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it is a copy
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " or ".join(ADDED), *names],
        cwd=folder,
        env=uncounted | {"PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}


@pytest.mark.slow
def test_the_added_tests_pass_by_what_is_added(copy):
    apply(copy, "--include=tests/*")
    assert passed(copy) == {"failed": len(ADDED)}
    apply(copy, "--include=src/*")
    assert passed(copy) == {"passed": len(ADDED)}
