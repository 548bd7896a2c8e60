"""Every figure as PNG, with where it comes from in the file's own metadata, and the numbers behind it as JSON."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bioface import paths
from bioface.errors import DataError
from bioface.plotting import to_numpy
from study import notebook


def save(figure: Figure, name: str, *, numbers: Mapping[str, Any], data: str, alt: str) -> None:
    """Write ``figures/NAME.png`` and, beside it, the numbers behind it as ``figures/NAME.json``; a notebook shows it.

    The PNG's metadata (and the JSON) say title, description, notebook, data and version, but no date, so that the same
    sources give the same file.

    Parameters
    ----------
    name : "NN_what_it_shows", NN (or A1, of an appendix) being the notebook that draws it
    numbers : what is plotted: arrays, tensors, numbers, text, and lists and dicts of them; kept to 6 significant
        digits, NaN (no value there) as null
    data : the data set, with "(synthetic)" or "(measured)"
    alt : what the picture shows, in a sentence, for those who do not see it

    Raises ValueError: a number is infinite.
    """
    title = name[3:].replace("_", " ")
    home = paths.notebooks()
    drawn = [path for path in notebook.every(home) if path.name[:2] == name[:2]]
    source = drawn[0].relative_to(home).as_posix() if drawn else name[:2]
    about = {"title": title, "description": alt, "notebook": source, "data": data}
    software = f"bioface {importlib.metadata.version('bioface')}, matplotlib {matplotlib.__version__}"
    told = {"Title": title, "Description": alt, "Source": f"notebooks/{source}", "Data": data, "Software": software}
    png = paths.figures() / f"{name}.png"
    with paths.whole_file(png) as picture, paths.whole_file(png.with_suffix(".json")) as text:
        figure.savefig(picture, format="png", metadata=told)
        text.write_text(f'{{\n{_rows(about)},\n"numbers": {{\n{_rows(_plain(numbers))}\n}}\n}}\n', encoding="utf-8")
    if "inline" in matplotlib.get_backend():  # a notebook, whose own way has no alternative text
        from IPython.display import display

        display(figure, metadata={"image/png": {"alt": alt}})
        plt.close(figure)


def numbers(name: str, folder: str | Path) -> dict[str, Any]:
    """The numbers behind a figure, as :func:`save` wrote them into a folder.

    Raises
    ------
    DataError : no such file, or one without numbers
    """
    file = Path(folder) / f"{name}.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["numbers"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        expected = "the numbers of a figure (`make reproduce` makes it again)"
        raise DataError(file, expected, f"{type(error).__name__}: {error}") from error


def _rows(values: Mapping[str, Any]) -> str:
    """What stands in a JSON object, a line for each value."""
    as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    return ",\n".join(f"{as_json(key)}: {as_json(value)}" for key, value in values.items())


def _plain(value: Any) -> Any:
    """Plain JSON values, rounded, NaN as None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    return value if isinstance(value, int | str | None) else _plain(to_numpy(value).tolist())
