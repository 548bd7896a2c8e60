"""A notebook as a file: its parameters, the hash of its source, and the clean form that is committed."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioface.errors import BiofaceError, DataError, unknown_name

PARAMETERS = "parameters"  #: tag of the cell with a notebook's parameters
INJECTED = "injected-parameters"  #: tag of the cell that papermill puts after it
ADDED_TAGS = {INJECTED, "papermill-error-cell-tag"}
WIDGET = "application/vnd.jupyter.widget-view+json"
# what any Python 3 kernel would say, so that the file does not depend on who ran it
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


def read(path: str | Path) -> dict[str, Any]:
    """A notebook as plain JSON, the source of each cell as one string.

    Raises
    ------
    DataError : not a notebook of format 4
    """
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        if notebook["nbformat"] != 4:
            raise DataError(path, "a notebook of format 4", f"format {notebook['nbformat']}")
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["metadata"].setdefault("tags", [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, "a notebook", f"{type(error).__name__}: {error}") from error
    return notebook


def source_hash(notebook: Mapping[str, Any]) -> str:
    """SHA-256 of what its author wrote: text, code and tags, without outputs, counts and metadata."""
    written = [
        (cell["cell_type"], cell["source"], sorted(set(cell["metadata"]["tags"]) - ADDED_TAGS))
        for cell in notebook["cells"]
        if INJECTED not in cell["metadata"]["tags"]
    ]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def parameters(notebook: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The parameters and their defaults: the literals assigned in the cell tagged ``parameters``.

    Raises
    ------
    DataError : not exactly one such cell, or one that does more than assign literals
    """
    cells = [cell for cell in notebook["cells"] if PARAMETERS in cell["metadata"]["tags"]]
    if len(cells) != 1:
        raise DataError(path, f"one cell tagged '{PARAMETERS}'", f"{len(cells)}")
    values = {}
    try:
        for line in ast.parse(cells[0]["source"]).body:
            target: Any = line.targets[0] if isinstance(line, ast.Assign) else line.target
            values[target.id] = ast.literal_eval(line.value)
    except (SyntaxError, AttributeError, ValueError) as error:
        raise DataError(path, "parameters that are literals, as in `seed = 0`", f"{error}") from error
    return values


def parse_parameter(name: str, text: str, defaults: Mapping[str, Any]) -> Any:
    """The value of ``name=text``, checked against the type of its default.

    >>> parse_parameter("seed", "3", {"seed": 0})
    3

    Raises
    ------
    BiofaceError : an unknown name (the nearest known one is suggested), or text of another type
    """
    if name not in defaults:
        raise unknown_name("notebook parameter", name, defaults)
    default = defaults[name]
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (SyntaxError, ValueError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise BiofaceError(
            f"notebook parameter {name}: expected {type(default).__name__} as in {name}={default!r}, found {text!r}"
        )
    return value


def clean(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """An executed notebook as it is committed: no timings, widget state, progress bars or injected cell.

    Code cells count 1..n, identifiers follow from the sources, and cleaning twice changes nothing.

    Parameters
    ----------
    notebook : from :func:`read`; it is left as it is

    Raises
    ------
    BiofaceError : a cell that was not executed, or that failed
    """
    cells, count = [], 0
    seen: set[str] = set()
    for cell in notebook["cells"]:
        tags = [tag for tag in cell["metadata"]["tags"] if tag not in ADDED_TAGS]
        if INJECTED in cell["metadata"]["tags"]:
            continue
        kept = {
            "cell_type": cell["cell_type"],
            "id": _identifier(cell["source"], seen),
            "metadata": {"tags": tags} if tags else {},
            "source": cell["source"],
        }
        if cell["cell_type"] == "code":
            count += 1
            if cell["execution_count"] is None:
                raise BiofaceError(f"code cell {count} was not executed:\n{cell['source']}")
            kept |= {"execution_count": count, "outputs": _clean_outputs(cell["outputs"], count)}
        cells.append(kept)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _identifier(source: str, seen: set[str]) -> str:
    stem = hashlib.sha256(source.encode()).hexdigest()[:8]
    identifier = next(i for n in range(len(seen) + 1) if (i := stem if n == 0 else f"{stem}-{n}") not in seen)
    seen.add(identifier)
    return identifier


def _clean_outputs(outputs: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "error":
            raise BiofaceError(f"code cell {count} failed: {output['ename']}: {output['evalue']}")
        if kind == "stream":
            if output["name"] != "stdout":
                continue
            text = "".join(output["text"])
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += text
            else:
                kept.append({"name": "stdout", "output_type": "stream", "text": text})
            continue
        data = {mime: _one_string(value) for mime, value in output["data"].items() if mime != WIDGET}
        if data:
            number = {"execution_count": count} if kind == "execute_result" else {}
            kept.append({"data": data, "metadata": {}, "output_type": kind} | number)
    return kept


def _one_string(value: Any) -> Any:
    return "".join(value) if isinstance(value, list) else value


def strip_ansi(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def to_text(notebook: Mapping[str, Any]) -> str:
    """The file's text, in the same form as Jupyter saves it."""
    import nbformat  # a second to import, and only publishing needs it

    node = nbformat.from_dict(notebook)
    nbformat.validate(node)
    return nbformat.writes(node) + "\n"
