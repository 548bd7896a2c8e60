"""Notebooks as files: parameters, source hash, and the clean form."""

import copy
import json

import nbformat
import pytest

from bioface.errors import BiofaceError, DataError
from study import notebook_file


def code(source, *outputs, count=1, tags=()):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": list(tags), "papermill": {"duration": 1.5}, "execution": {"iopub.busy": "now"}},
        "execution_count": count,
        "outputs": list(outputs),
        "id": "random",
    }


def stream(name, text):
    return {"output_type": "stream", "name": name, "text": text}


def notebook(*cells):
    title = {"cell_type": "markdown", "source": "# T", "metadata": {"tags": []}, "id": "x"}
    return {
        "cells": [title, *cells],
        "metadata": {"papermill": {"duration": 3.0}, "widgets": {}, "kernelspec": {"name": "mine"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


DEFAULTS = {"profile": "default", "seed": 0, "rate": 0.5, "slow": False, "sizes": [1, 2], "path": None}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("profile", "full", "full"),
        ("profile", "3", "3"),
        ("seed", "12", 12),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 1e-3),
        ("slow", "true", True),
        ("slow", "False", False),
        ("sizes", "[3, 4]", [3, 4]),
        ("path", "x.mat", "x.mat"),
        ("path", "none", None),
    ],
)
def test_values_take_the_type_of_the_default(name, text, value):
    parsed = notebook_file.parse_parameter(name, text, DEFAULTS)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sead", "1", "unknown notebook parameter 'sead'; did you mean 'seed'"),
        ("seed", "1.5", "seed: expected int as in seed=0, found '1.5'"),
        ("seed", "one", "seed: expected int"),
        ("seed", "true", "seed: expected int"),
        ("slow", "1", "slow: expected bool"),
        ("rate", "fast", "rate: expected float"),
        ("sizes", "3", "sizes: expected list"),
    ],
)
def test_a_wrong_name_or_type_is_refused(name, text, message):
    with pytest.raises(BiofaceError, match=message):
        notebook_file.parse_parameter(name, text, DEFAULTS)


def test_parameters_are_read_from_their_cell():
    made = notebook(
        code('profile = "default"  # or full\nseed: int = 3\nxs = (1, -2)', tags=["parameters"]),
        code("y = 1"),
    )
    assert notebook_file.parameters(made, "n") == {"profile": "default", "seed": 3, "xs": (1, -2)}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([code("seed = 0")], "one cell tagged 'parameters', found 0"),
        ([code("seed = 0", tags=["parameters"])] * 2, "found 2"),
        ([code("seed = f(0)", tags=["parameters"])], "literals"),
        ([code("seed = ", tags=["parameters"])], "literals"),
        ([code("import os", tags=["parameters"])], "literals"),
        ([code("a.b = 1", tags=["parameters"])], "literals"),
    ],
)
def test_parameters_that_cannot_be_read(cells, message):
    with pytest.raises(DataError, match=message):
        notebook_file.parameters(notebook(*cells), "01_x.ipynb")


def test_the_source_hash_is_of_what_was_written():
    first = notebook(code("x = 1", stream("stdout", "1")), code("y = 2", tags=["nbval-ignore-output"]))
    same = copy.deepcopy(first)
    same["cells"][1] |= {"outputs": [], "execution_count": 9, "id": "other"}
    same["cells"].insert(1, code("x = 3", tags=["injected-parameters"]))
    same["metadata"] = {}
    assert notebook_file.source_hash(same) == notebook_file.source_hash(first)
    for change in ({"source": "x = 2"}, {"metadata": {"tags": ["parameters"]}}, {"cell_type": "raw"}):
        other = copy.deepcopy(first)
        other["cells"][1].update(change)
        assert notebook_file.source_hash(other) != notebook_file.source_hash(first), change


def test_cleaning():
    image = {
        "output_type": "display_data",
        "metadata": {"x": 1},
        "data": {"image/png": "AA", "text/plain": ["<Fig", "ure>"]},
    }
    widget = {
        "output_type": "display_data",
        "metadata": {},
        "data": {notebook_file.WIDGET: {"model_id": "7"}},
    }
    made = notebook(
        code(
            "a",
            stream("stderr", "50%"),
            stream("stdout", "one\n"),
            stream("stderr", "99%"),
            stream("stdout", "two\n"),
            count=3,
        ),
        code("seed = 4", count=4, tags=["injected-parameters"]),
        code(
            "b",
            image,
            widget,
            {
                "output_type": "execute_result",
                "execution_count": 5,
                "metadata": {},
                "data": {"text/plain": "7"},
            },
            count=5,
            tags=["keep"],
        ),
        code("b", count=6),
    )
    before = copy.deepcopy(made)
    cleaned = notebook_file.clean(made)
    assert made == before, "it is left as it was"
    title, a, b, again = cleaned["cells"]
    assert [cell["execution_count"] for cell in (a, b, again)] == [1, 2, 3]
    assert a["outputs"] == [stream("stdout", "one\ntwo\n")]
    assert [output["output_type"] for output in b["outputs"]] == ["display_data", "execute_result"]
    assert b["outputs"][0]["metadata"] == {} and b["outputs"][1]["execution_count"] == 2
    assert (a["metadata"], b["metadata"]) == ({}, {"tags": ["keep"]})
    assert len({cell["id"] for cell in cleaned["cells"]}) == 4
    assert set(cleaned["metadata"]) == {"kernelspec", "language_info"}
    assert "papermill" not in json.dumps(cleaned) and "iopub" not in json.dumps(cleaned)


def test_cleaning_twice_changes_nothing(tmp_path):
    made = notebook(code("print('ä')\nx", stream("stdout", ["ä\n", "b"])), code("y", count=2), code("y", count=3))
    text = notebook_file.to_text(notebook_file.clean(made))
    (tmp_path / "n.ipynb").write_text(text)
    assert notebook_file.to_text(notebook_file.clean(notebook_file.read(tmp_path / "n.ipynb"))) == text
    nbformat.validate(nbformat.read(tmp_path / "n.ipynb", as_version=4))


def test_a_cell_added_keeps_the_names_of_the_others():
    def ids(*cells):
        return [cell["id"] for cell in notebook_file.clean(notebook(*cells))["cells"]]

    before, after = ids(code("a"), code("b")), ids(code("new"), code("a"), code("b"))
    assert [before[0], *after[2:]] == before


def test_what_did_not_run_is_not_cleaned_into_looking_as_if():
    with pytest.raises(BiofaceError, match="code cell 1 was not executed:\nx"):
        notebook_file.clean(notebook(code("x", count=None)))
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    with pytest.raises(BiofaceError, match="code cell 1 failed: ValueError: no"):
        notebook_file.clean(notebook(code("x", error)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"nbformat": 3}', '{"nbformat": 4, "cells": [{}]}', '{"nbformat": 4, "cells": 3}'],
)
def test_a_file_that_is_no_notebook(tmp_path, text):
    (tmp_path / "01_x.ipynb").write_text(text)
    with pytest.raises(DataError, match="01_x.ipynb: expected a notebook"):
        notebook_file.read(tmp_path / "01_x.ipynb")
    with pytest.raises(DataError, match="expected a notebook"):
        notebook_file.read(tmp_path / "none.ipynb")


def test_terminal_colours_are_stripped():
    assert notebook_file.strip_ansi("\x1b[0;31mValueError\x1b[0m: no") == "ValueError: no"
