"""Claims: what a notebook says it shows, the measured number, the bar it is held to, and whether it passed.

``notebooks/claims.toml`` declares them; :class:`Claims` takes a notebook's numbers, prints tables and writes its rows
of ``figures/claims.json``, where a missed bar stays. ``python -m study.claims`` prints those of all notebooks. What was
measured on files that are not here stays as it was recorded (:mod:`study.record`), and says so.
"""

import datetime
import json
import math
import sys
import textwrap
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from bioface import paths
from bioface.errors import BiofaceError, DataError, print_anywhere

FILE = "claims.json"
RECORDED = Path("recorded", "measurements.json")  #: in the folder of the figures
BARS = ("at_least", "at_most", "equals")
HELD = (*BARS, "tol", "digits", "set", "headline", "refuted_by")  #: what is declared of a claim beside its words
Number = int | float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row. ``passed`` is None when the claim was not measured, and ``reason`` then says why."""

    id: str  #: "NN.name": the notebook's number and a short name
    what: str  #: what was measured, in words
    measured: Number | None = None  #: the number, None when there is none or it is not finite
    shown: str = "–"  #: the number as printed
    bar: str = "–"  #: what it is held to, as printed
    unit: str = ""
    passed: bool | None = None
    data: str  #: the data set, and whether it is synthetic or measured
    control: str = ""  #: the number or method to read it against
    notebook: str  #: "NN"
    timing: bool = False  #: wall-clock, so different on every run
    reason: str = ""
    optional: bool = False  #: measured on files that a reader may not have
    recorded: str = ""  #: the day when it was, if it was not measured in this run; ``reason`` then says on what

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or not measured here."""
        return "not measured" if self.passed is None else "PASS" if self.passed else "FAIL"


class Claims:
    """Collects what a notebook ("NN") measured for its claims in ``claims.toml``, whose {braces} ``words`` fill."""

    def __init__(self, notebook: str, file: str | Path | None = None, **words: Any):
        self.notebook, self.file = notebook, Path(file or paths.notebooks() / "claims.toml")
        self.declared, self.rows = dict[str, tuple[Claim, dict[str, Any]]](), dict[str, Claim]()
        for id, row in declared(self.file).items():
            if id.startswith(f"{notebook}."):
                held = {key: row.pop(key) for key in HELD if key in row}
                texts: dict[str, Any] = {k: v.format(**words) if isinstance(v, str) else v for k, v in row.items()}
                self.declared[id[3:]] = Claim(id=id, notebook=notebook, **texts), held

    def check(self, name: str, measured: Any, *, control: str = "", **bar: Number) -> bool:
        """Whether one number (Python, NumPy or torch) meets a claim's bar, unrounded; what is not finite never does.

        Parameters
        ----------
        control : the number or method to read it against
        bar : ``at_least=`` or ``at_most=`` of a claim whose bar is itself measured, and so not declared

        Raises
        ------
        BiofaceError : a claim that is not declared, no bar, a second one, or not one number
        """
        claim, held = self._find(name)
        try:
            value, (low, high, text) = float(measured), limits(**held, **bar)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BiofaceError(f"claim {claim.id}: expected one number, and one bar for it, found {error}") from error
        passed = math.isfinite(value) and low <= value <= high
        kept, shown = float(f"{value:.6g}") if math.isfinite(value) else None, number(value, held.get("digits", 3))
        self.rows[name] = replace(claim, measured=kept, shown=shown, bar=text, passed=passed, control=control)
        return passed

    def skip(self, name: str, *, reason: str) -> None:
        """Note a claim that could not be measured here, and why (say, a data set that is not there).

        Where it is on record, what was measured last is held to today's bar.

        Raises
        ------
        DataError : the record is damaged
        """
        claim, held = self._find(name)
        self.rows[name] = replace(claim, unit="", reason=reason)
        for row in [row for row in records() if row["id"] == claim.id][-1:]:
            self.check(name, row["measured"], control=row["control"], **{} if held.keys() & BARS else row["bar"])
            on = ", ".join([*(file["name"] for file in row["data"]), *([row["machine"]] if "machine" in row else [])])
            told = f"recorded on {row['date']}, not measured here: {reason}; on {on}, at commit {row['commit']}"
            self.rows[name] = replace(self.rows[name], recorded=row["date"], reason=told)

    def _find(self, name: str) -> tuple[Claim, dict[str, Any]]:
        if name not in self.declared:
            raise DataError(self.file, f"a claim [{self.notebook}.{name}]", "none")
        return self.declared[name]

    def table(self, kind: str = "") -> None:
        """Print the claims about time ("timing"), on files that a reader may not have ("optional"), or all others."""
        kinds = kind == "timing", kind == "optional"
        print(format_table(c for c in self.rows.values() if (c.timing, c.optional) == kinds))

    def save(self) -> None:
        """Replace this notebook's rows of ``figures/claims.json`` by these.

        Raises
        ------
        DataError : a declared claim was not handed in, or the file is damaged; nothing is written over it
        """
        if missing := ", ".join(sorted(self.declared.keys() - self.rows.keys())):
            raise DataError(self.file, f"only claims that notebook {self.notebook} hands in", missing)
        file = paths.figures() / FILE
        others = [c for c in read(file) if c.notebook != self.notebook] if file.exists() else []
        rows = sorted([*others, *self.rows.values()], key=lambda c: c.id)
        lines = ",\n".join(json.dumps(asdict(c), ensure_ascii=False, allow_nan=False) for c in rows)
        with paths.whole_file(file) as partial:
            partial.write_text(f'{{"claims": [\n{lines}\n]}}\n', encoding="utf-8")


def declared(file: Path | None = None) -> dict[str, dict[str, Any]]:
    """What ``claims.toml`` says of every claim, by id: its words, its bar, the day of the bar, what would refute it.

    Raises
    ------
    DataError : no such file, or not a file of claims
    """
    file = file or paths.notebooks() / "claims.toml"
    try:
        notebooks = tomllib.loads(file.read_text(encoding="utf-8"))
        return {f"{number}.{name}": row for number, rows in notebooks.items() for name, row in rows.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(file, "claims, by notebook and name", f"{type(error).__name__}: {error}") from error


def limits(
    at_least: Number = -math.inf, at_most: Number = math.inf, equals: Number | None = None, tol: Number = 0, **_: Any
) -> tuple[float, float, str]:
    """A bar as lowest and highest number, and as text.

    >>> limits(at_most=0.5), limits(0.8, 1.25), limits(equals=2, tol=0.1)[2]
    ((-inf, 0.5, '≤ 0.5'), (0.8, 1.25, '0.8 to 1.25'), '= 2 ± 0.1')
    """
    low, high, least, most = float(at_least), float(at_most), number(at_least, 6), number(at_most, 6)
    text = f"≤ {most}" if low == -math.inf else f"≥ {least}" if high == math.inf else f"{least} to {most}"
    if equals is not None:
        low, high = float(equals - tol), float(equals + tol)
        text = f"= {number(equals, 6)}" + (f" ± {number(tol, 6)}" if tol else "")
    if not low <= high or math.isinf(low) and math.isinf(high):
        raise ValueError(f"a bar from {low} to {high}")
    return low, high, text


def number(value: Number, digits: int = 3) -> str:
    """A number with so many significant digits, in full where that stays readable.

    >>> number(0.00512345), number(54321.0), number(7553, 4), number(1e-9), number(0.3)
    ('0.00512', '54 300', '7 553', '1e-09', '0.3')
    """
    text = f"{value:.{digits}g}"
    return f"{Decimal(text):,f}".replace(",", " ") if 1e-4 <= abs(float(text)) < 1e7 else text


def read(file: str | Path | None = None) -> list[Claim]:
    """The claims of all notebooks, by id.

    Raises
    ------
    DataError : no such file, or not a file of claims
    """
    file = Path(file or paths.figures() / FILE)
    try:
        rows = [Claim(**row) for row in json.loads(file.read_text(encoding="utf-8"))["claims"]]
        if not all(math.isfinite(c.measured or 0) for c in rows):
            raise ValueError("a number that is not finite")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        expected = "claims (remove the file and run `make reproduce`)"
        raise DataError(file, expected, f"{type(error).__name__}: {error}") from error
    return sorted(rows, key=lambda c: c.id)


def records(file: str | Path | None = None) -> list[dict[str, Any]]:
    """What :mod:`study.record` measured, oldest first; none where there is no such file.

    Each with ``id``, ``measured``, ``model``, ``control``, ``bar`` (one that is itself measured), ``date``, ``commit``,
    and ``data``: the ``name``, ``size`` and ``sha256`` of every file, none of a long run; and the ``machine``, which
    the oldest of files do not say.

    Raises
    ------
    DataError : not a file of records
    """
    # a variant and a comparison draw elsewhere; the record is of the project
    places = [Path(file)] if file else [paths.figures() / RECORDED, paths.root() / "figures" / RECORDED]
    file = next((place for place in places if place.exists()), places[0])
    if not file.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            datetime.date.fromisoformat(row["date"])
            if not {"id", "model", "control", "commit", "data"} <= row.keys() or not math.isfinite(row["measured"]):
                raise ValueError(f"a row with {row}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(file, "records of `python -m study.record`", f"{type(error).__name__}: {error}") from error
    return rows


def format_table(claims: Iterable[Claim]) -> str:
    """A plain-text table: a line per claim (``what`` folded), its control or reason below."""
    table, below = [("claim", "what", "measured", "bar", "verdict", "data")], [list[str]()]
    for c in claims:
        what, *notes = textwrap.wrap(c.what, 44) or [""]
        table.append((c.id, what, f"{c.shown} {c.unit}".strip(), f"{c.bar} {c.unit}".strip(), c.verdict, c.data))
        for name, note in (("beside it: ", c.control), ("" if c.recorded else "not measured: ", c.reason)):
            notes += textwrap.wrap(f"  {name}{note}", 90, subsequent_indent="  ") if note else []
        below.append(notes)
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row, notes in zip(table, below, strict=True):
        cells = "  ".join(map(str.ljust, row, widths)).rstrip()
        lines += [cells, *(" " * (widths[0] + 2) + line for line in notes)]
    passed, missed, absent = map(columns[4].count, ("PASS", "FAIL", "not measured"))
    lines.append(f"{passed} of {len(table) - 1} claims pass, {missed} miss their bar, {absent} not measured.")
    return "\n".join(lines)


if __name__ == "__main__":
    print_anywhere()
    try:
        print(format_table(read()))
    except DataError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
