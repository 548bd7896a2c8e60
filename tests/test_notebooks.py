"""The committed notebooks: executed in order, seeded, clean, short; and the rules themselves."""

import ast
import copy
import json
import re
from pathlib import Path

import pytest

from bioface import paths
from study import notebook_file

NOTEBOOKS = sorted(paths.notebooks().glob("*.ipynb"))
FIGURES = sorted(paths.root().glob("figures/[0-9][0-9]_*.png"))
# absolute places that depend on who ran it, in Unix and in Windows
MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|mnt|media|Users|usr|opt|var|private)/|[A-Z]:\\")


def faults(notebook):
    """Everything that a committed notebook must not be, as sentences."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = []
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"executed out of order: {counts}")
    if not code or not notebook["cells"][0]["source"].startswith("# "):
        found.append("no title")
    tagged = [cell for cell in code if notebook_file.PARAMETERS in cell["metadata"]["tags"]]
    if len(tagged) != 1:
        found.append(f"{len(tagged)} cells tagged parameters")
    else:
        values = notebook_file.parameters(notebook, "notebook")
        if values.get("profile") != "default" or type(values.get("seed")) is not int:
            found.append(f'parameters without profile = "default" and a whole seed: {values}')
    for number, cell in enumerate(code, 1):
        found += [f"cell {number}: {fault}" for fault in _cell_faults(cell)]
    last = code[-1] if code else None
    if last and ("notebook.versions()" not in last["source"] or "torch" not in _text(last)):
        found.append("the last code cell does not print the versions")
    if last and "nbval-ignore-output" not in last["metadata"]["tags"]:
        found.append("the versions are compared from machine to machine")
    if set(notebook["metadata"]) - set(notebook_file.METADATA):
        found.append(f"metadata {sorted(notebook['metadata'])}")
    return found


def _cell_faults(cell):
    found = []
    lines = cell["source"].splitlines()
    if len(lines) > 25:
        found.append(f"{len(lines)} lines of code")
    if set(cell["metadata"]["tags"]) & notebook_file.ADDED_TAGS:
        found.append("a cell that papermill put in")
    if set(cell["metadata"]) - {"tags"}:
        found.append(f"metadata {sorted(cell['metadata'])}")
    for node in ast.walk(ast.parse(cell["source"])):
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef) and node.end_lineno - node.lineno >= 8:
            found.append(f"{getattr(node, 'name', 'a lambda')} belongs into src/")
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            found.append(f"failed: {output['ename']}")
        if output.get("name") == "stderr":
            found.append("writes to stderr")
        if notebook_file.WIDGET in output.get("data", {}):
            found.append("keeps the state of a widget")
    if match := MACHINE.search(_text(cell)):
        found.append(f"shows a place on somebody's machine: {match.group()}")
    return found


def _text(cell):
    parts = []
    for output in cell["outputs"]:
        parts += [output.get("text", "")] + [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join("".join(part) for part in parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook(path):
    assert not faults(notebook_file.read(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_clean(path):
    """Cleaning it again changes nothing, so it was written by `make notebooks` and not by hand."""
    notebook = notebook_file.read(path)
    assert notebook_file.to_text(notebook_file.clean(notebook)) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_its_number_for_itself(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    assert [other.stem for other in NOTEBOOKS if other.stem[:2] == path.stem[:2]] == [path.stem]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figure_is_drawn_by_its_notebook(path):
    drawn = [p for p in NOTEBOOKS if p.stem[:2] == path.stem[:2]]
    assert drawn, "no notebook of this number"
    source = "\n".join(cell["source"] for cell in notebook_file.read(drawn[0])["cells"])
    assert f'"{path.stem}"' in source
    beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert beside["notebook"] == drawn[0].name and beside["description"] and beside["data"]


# The rules must be able to fail: a good notebook, and one thing wrong with it at a time.


def _cell(source, count, *, tags=(), text=None, **output):
    outputs = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    outputs += [output] if output else []
    return {
        "cell_type": "code",
        "source": source,
        "execution_count": count,
        "metadata": {"tags": list(tags)},
        "outputs": outputs,
    }


GOOD = {
    "cells": [
        {"cell_type": "markdown", "source": "# Title", "metadata": {"tags": []}},
        _cell("from bioface import notebook", 1),
        _cell('profile = "default"\nseed = 0', 2, tags=["parameters"]),
        _cell("print(0.5)", 3, text="0.5 of data/nfe/x.hdf5"),
        _cell("notebook.versions()", 4, tags=["nbval-ignore-output"], text="bioface 0.1.0, torch 2.13.0"),
    ],
    "metadata": dict(notebook_file.METADATA),
    "nbformat": 4,
    "nbformat_minor": 5,
}

BAD = {
    "out of order": lambda n: n["cells"][3].update(execution_count=7),
    "not executed": lambda n: n["cells"][3].update(execution_count=None),
    "no title": lambda n: n["cells"].pop(0),
    "no parameters": lambda n: n["cells"][2]["metadata"].update(tags=[]),
    "two parameters": lambda n: n["cells"][3]["metadata"].update(tags=["parameters"]),
    "no seed": lambda n: n["cells"][2].update(source='profile = "default"'),
    "another profile": lambda n: n["cells"][2].update(source='profile = "full"\nseed = 0'),
    "error": lambda n: n["cells"][3]["outputs"].append({"output_type": "error", "ename": "E"}),
    "stderr": lambda n: n["cells"][3]["outputs"][0].update(name="stderr"),
    "home": lambda n: n["cells"][3]["outputs"][0].update(text=["see /home/me/data"]),
    "windows": lambda n: n["cells"][3]["outputs"][0].update(text="C:\\data"),
    "path in a repr": lambda n: n["cells"][3]["outputs"].append(
        {"output_type": "execute_result", "data": {"text/plain": "PosixPath('/tmp/x')"}}
    ),
    "widget": lambda n: n["cells"][3]["outputs"].append(
        {"output_type": "display_data", "data": {notebook_file.WIDGET: {}}}
    ),
    "long cell": lambda n: n["cells"][3].update(source="x = 1\n" * 26),
    "long function": lambda n: n["cells"][3].update(source="def f():\n" + "    x = 1\n" * 8),
    "injected": lambda n: n["cells"][3]["metadata"].update(tags=["injected-parameters"]),
    "timings": lambda n: n["cells"][3]["metadata"].update(papermill={"duration": 1}),
    "notebook metadata": lambda n: n["metadata"].update(papermill={}),
    "no versions": lambda n: n["cells"].pop(),
    "versions compared": lambda n: n["cells"][4]["metadata"].update(tags=[]),
    "versions not run": lambda n: n["cells"][4].update(outputs=[]),
}


def test_the_rules_pass_a_good_notebook():
    assert faults(GOOD) == []


@pytest.mark.parametrize("fault", BAD)
def test_the_rules_find(fault):
    notebook = copy.deepcopy(GOOD)
    BAD[fault](notebook)
    assert faults(notebook)


def test_notebooks_are_where_the_rules_look():
    others = [p for p in paths.root().rglob("*.ipynb") if not {".venv", "build", ".ipynb_checkpoints"} & set(p.parts)]
    assert sorted(others) == NOTEBOOKS
    assert all(isinstance(path, Path) for path in NOTEBOOKS)
