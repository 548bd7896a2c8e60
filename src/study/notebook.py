"""Notebooks: their first and last lines, and each as a file: what was written, its parameters, its clean form."""

import ast
import importlib.metadata
import json
import os
import platform
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from bioface.errors import BiofaceError, DataError, unknown_name

#: What any Python 3 kernel would say of itself, so that the file does not depend on who ran it.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBER = r"(?:\d\d|A\d)"  #: with which a notebook's name, its claims and its figures begin; a pattern


def start(seed: Any) -> np.random.Generator:
    """Seed everything random, set the plot style and torch's threads: ``BIOFACE_THREADS``, else :func:`processors`.

    Returns
    -------
    a NumPy generator, to hand to whatever draws random numbers

    Raises
    ------
    BiofaceError : a seed that is no whole number, at least 0, or a number of threads that is none, at least 1
    """
    import torch

    from bioface import plotting

    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BiofaceError(f"seed: expected a whole number, at least 0, found {seed!r}")
    threads = os.environ.get("BIOFACE_THREADS", str(processors()))
    if not threads.isdigit() or int(threads) < 1:
        raise BiofaceError(f"BIOFACE_THREADS: expected a whole number, at least 1, found {threads!r}")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries without a generator argument draw from here
    torch.manual_seed(seed)
    torch.set_num_threads(int(threads))
    plotting.use_style()
    return np.random.default_rng(seed)


def processors() -> int:
    """How many processors this process may use."""
    return int(joblib.cpu_count())


def pick(profile: str, **choices: Any) -> Any:
    """What the profile calls for.

    >>> pick("default", default=500, full=5000)
    500
    """
    if profile not in choices:
        raise unknown_name("profile", profile, choices)
    return choices[profile]


def versions() -> None:
    """Print what the notebook ran with; its last cell, tagged ``nbval-ignore-output``."""
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    names = ("bioface", "torch", "numpy", "scipy", "matplotlib", "colour-science", "trimesh", "embreex")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))


# --- as files ----------------------------------------------------------------------------------------------


def every(folder: str | Path) -> list[Path]:
    """The notebooks of a folder in the order in which they run: ``NN_*.ipynb``, then ``appendix/AN_*.ipynb``."""
    patterns = ("[0-9][0-9]_*.ipynb", "appendix/A[0-9]_*.ipynb")
    return [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]


def source(path: str | Path) -> list[tuple[str, str, list[str]]]:
    """Kind, text and tags of every cell, whatever it printed when it ran.

    Raises
    ------
    DataError : not a notebook
    """
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, "a notebook", f"{type(error).__name__}: {error}") from error


def parameters(notebooks: Sequence[Path], given: Sequence[str]) -> dict[Path, dict[str, Any]]:
    """For each notebook those of the given parameters (``name=value``) that it has, of the type of its default.

    Text whose default is "" is a path, from the folder that this runs in: notebooks run in another.

    Raises
    ------
    BiofaceError : a name that none of them has (the nearest is suggested), or text of another type
    """
    import papermill  # seconds to import, and seldom needed

    defaults = {path: papermill.inspect_notebook(path) for path in notebooks}
    values: dict[Path, dict[str, Any]] = {path: {} for path in notebooks}
    for name, equals, text in (line.partition("=") for line in given):
        if not equals:
            raise BiofaceError(f"parameters: expected NAME=VALUE, found {name!r}")
        having = [path for path in notebooks if name in defaults[path]]
        if not having:
            raise unknown_name("notebook parameter", name, {known for own in defaults.values() for known in own})
        for path in having:
            default = defaults[path][name]["default"]
            kind = type(ast.literal_eval(default))  # text or a number: a test holds the notebooks to that
            try:
                values[path][name] = kind(text)
                if kind is str and text and not ast.literal_eval(default):
                    values[path][name] = str(Path(text).expanduser().absolute())
            except ValueError:
                expected = f"expected {kind.__name__} as in {name}={default}"
                raise BiofaceError(f"notebook parameter {name}: {expected}, found {text!r}") from None
    return values


def clean(path: str | Path) -> str:
    """The text of an executed notebook as it is committed: no times, warnings, progress bars or widgets' state.

    Code cells count 1..n, and cleaning twice changes nothing.
    """
    import nbformat
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(path, as_version=4)
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
            if "metadata" in output:  # of a picture, what it shows
                told = output.metadata.get("image/png", {}).get("alt")
                output.metadata = {"image/png": {"alt": told}} if told else {}
            if "execution_count" in output:
                output.execution_count = count
        cell.outputs = [
            output for output in cell.outputs if output.get("name") != "stderr" and output.get("data") != {}
        ]
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:  # nbconvert's ClearMetadataPreprocessor leaves text cells as they are
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    notebook.metadata = METADATA
    return nbformat.writes(notebook) + "\n"
