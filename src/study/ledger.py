"""The deviations ledger, ``notebooks/deviations.toml``, with the numbers that the notebooks measured put into it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Markdown

from bioface import paths
from bioface.errors import DataError
from study import claims
from study.figures import numbers

REFERENCE = re.compile(r"\{(?P<notebook>[0-9A]\d)[^{}]*\}")
COLUMNS = ("topic", "paper", "code", "ours", "effect", "source")  # the file says what they are
STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.nanmean, "median": np.nanmedian}
Ledger = dict[str, list[dict[str, str]]]  #: rows by what they belong to


def load() -> Ledger:
    """The ledger as it is written."""
    return tomllib.loads((paths.notebooks() / "deviations.toml").read_text(encoding="utf-8"))


def measured(reference: str, figures: Path) -> str:
    """A measured number as text, by its reference.

    Raises
    ------
    DataError : no such file, claim or number, or one that was not measured
    """
    name, colon, rest = reference.partition(":")
    path, _, statistic = rest.partition("|")
    try:
        if not colon:
            (claim,) = (c for c in claims.read(figures / claims.FILE) if c.id == name and c.measured is not None)
            return f"{claim.shown} {claim.unit}".strip()
        value: Any = numbers(name, figures)
        for step in path.split("/"):
            value = value[int(step) if isinstance(value, list) else step]
        values = np.asarray(value, float)
        if not np.isfinite(values).any():
            raise ValueError("not a finite number")
        found = float(STATISTICS[statistic or "mean"](values))
    except (ValueError, TypeError, LookupError) as error:
        expected = f"the number {reference} of the ledger"
        raise DataError(figures, expected, f"{type(error).__name__}: {error}") from error
    return claims.number(found, 2).replace("-", "−")


def resolved(row: dict[str, str], figures: Path) -> dict[str, str]:
    """A row with numbers in place of references, and with who measured them; errors as in :func:`measured`."""
    notebooks = sorted({found["notebook"] for found in REFERENCE.finditer(row["effect"])})
    effect = REFERENCE.sub(lambda found: measured(found[0][1:-1], figures), row["effect"])
    told = "; effect: " * bool(notebooks) + ", ".join(f"notebook {number}" for number in notebooks)
    return row | {"effect": effect, "source": row["source"] + told}


def table(figures: str | Path | None = None) -> Markdown:
    """The ledger as Markdown, a table for each part; errors as in :func:`measured`."""
    lines, figures = [], Path(figures or paths.figures())
    for part, rows in load().items():
        lines += [f"## {part}", "", "| what | paper | code | ours | effect measured | source |", "|---" * 6 + "|"]
        cells = [[cell.replace("|", "\\|") for cell in resolved(row, figures).values()] for row in rows]
        lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
    return Markdown("\n".join(lines))
