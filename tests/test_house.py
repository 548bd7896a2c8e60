"""How the house is built: what imports what, and how large a module may be."""

import ast

import pytest

from bioface import paths

SOURCES = sorted(paths.PACKAGE.parent.rglob("*.py"))
BIOFACE = [path for path in SOURCES if paths.PACKAGE in path.parents]


def imported(source):
    """The first word of everything that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.partition(".")[0])
    return found


def test_bioface_never_imports_study():
    """The model and the physics stand alone; ``study`` is what only the notebooks share."""
    assert {path.name for path in BIOFACE} >= {"skin.py", "network.py"}
    found = {path.relative_to(paths.PACKAGE).as_posix(): imported(path.read_text(encoding="utf-8")) for path in BIOFACE}
    assert [name for name, modules in found.items() if {"study", "."} & modules] == []


@pytest.mark.parametrize(
    "source",
    ["import study", "def f():\n    import study.claims as c", "from study.claims import Claims", "from . import a"],
)
def test_a_wrong_import_is_found(source):
    assert imported(source) & {"study", "."}
    assert not imported("import numpy.linalg\nfrom bioface import paths") & {"study", "."}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_module_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
