"""Claims: what a notebook says it shows, the measured number, the bar it is held to, and whether it passed.

A notebook collects its claims with :class:`Claims`, prints them as a table and saves them as its rows of
``figures/claims.json``. A missed bar stays in the table as FAIL; what could not be measured says why.
``python -m study.claims`` prints the table of all notebooks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioface import paths
from bioface.errors import BiofaceError, DataError

FILE = "claims.json"
Number = int | float


@dataclass(frozen=True)
class Claim:
    """One row. ``passed`` is None when the claim was not measured, and ``reason`` then says why."""

    id: str  #: "NN.name": the notebook's number and a short name, unique
    what: str  #: what was measured, in words
    measured: float | None  #: the number, None when there is none or it is not finite
    shown: str  #: the number as printed
    bar: str  #: what it is held to, as printed
    unit: str
    passed: bool | None
    data: str  #: the data set, and whether it is synthetic or measured
    control: str  #: the number or row to read it against
    notebook: str  #: "NN"
    timing: bool  #: wall-clock, so different on every run
    reason: str  #: why it was not measured
    optional: bool = False  #: measured on files that a reader may not have

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or not measured here."""
        return "not measured" if self.passed is None else "PASS" if self.passed else "FAIL"


def number(value: Number, digits: int = 3) -> str:
    """A number with so many significant digits, in full where that stays readable.

    >>> number(0.00512345), number(54321.0), number(7553, 4), number(1e-9), number(0.3)
    ('0.00512', '54 300', '7 553', '1e-09', '0.3')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.{digits}g}")
    if not 1e-4 <= abs(rounded) < 1e7:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}".replace(",", " ")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _bar(at_most: Any, at_least: Any, between: Any, equals: Any, tol: Number) -> tuple[float, float, str]:
    """The bar as (lowest, highest, text)."""
    given = [bar for bar in (at_most, at_least, between, equals) if bar is not None]
    if len(given) != 1:
        raise BiofaceError(f"a claim has one bar: at_most, at_least, between or equals; found {len(given)}")
    if at_most is not None:
        bounds = (-math.inf, float(at_most), f"≤ {number(at_most, 6)}")
    elif at_least is not None:
        bounds = (float(at_least), math.inf, f"≥ {number(at_least, 6)}")
    elif between is not None:
        low, high = map(float, between)
        bounds = (low, high, f"{number(low, 6)} to {number(high, 6)}")
    else:
        around = f" ± {number(tol, 6)}" if tol else ""
        bounds = (float(equals) - tol, float(equals) + tol, f"= {number(equals, 6)}{around}")
    if not bounds[0] <= bounds[1] or math.isinf(bounds[0]) and math.isinf(bounds[1]):
        raise BiofaceError(f"a claim's bar must be a number, or a lower and a higher one, found {bounds[2]}")
    return bounds


class Claims:
    """Collects the claims of one notebook.

    >>> claims = Claims("04")
    >>> claims.check("rmse", "median RMSE", 0.0047, at_most=0.005, data="ISSA (measured)")
    True
    >>> claims.skip("cheeks", "median RMSE, cheeks", reason="no data", data="ISET cheeks (measured)")
    >>> claims.table()
    claim      what                 measured  bar      verdict       data
    04.rmse    median RMSE          0.0047    ≤ 0.005  PASS          ISSA (measured)
    04.cheeks  median RMSE, cheeks  –         –        not measured  ISET cheeks (measured)
                 not measured: no data
    1 of 2 claims pass, 0 miss their bar, 1 not measured.
    """

    def __init__(self, notebook: str):
        if not re.fullmatch(r"\d\d", notebook):
            raise BiofaceError(f"claims belong to a notebook's two-digit number such as '04', found {notebook!r}")
        self.notebook = notebook
        self._rows: dict[str, Claim] = {}

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._rows.values())

    def check(
        self,
        id: str,
        what: str,
        measured: Any,
        *,
        at_most: Number | None = None,
        at_least: Number | None = None,
        between: tuple[Number, Number] | None = None,
        equals: Number | None = None,
        tol: Number = 0.0,
        data: str,
        unit: str = "",
        control: str = "",
        digits: int = 3,
        timing: bool = False,
        optional: bool = False,
    ) -> bool:
        """Hold a number against a bar; a number that is not finite never passes.

        Parameters
        ----------
        id : short name, ``[a-z0-9_]+``
        what : what was measured, in words
        measured : one number (Python, NumPy or torch)
        at_most, at_least, between, equals : the bar, one of them (``equals`` within ``tol``)
        data : the data set, with "(synthetic)" or "(measured)"; "none (arithmetic)" where there is none
        control : the number to read it against
        digits : significant digits to print, as many as come out the same on any machine
        timing : wall-clock: goes to :meth:`timing_table`, whose output is never compared
        optional : measured on files that a reader may not have: goes to :meth:`optional_table`, likewise

        Returns
        -------
        whether the bar was met, judged on the unrounded number
        """
        low, high, bar = _bar(at_most, at_least, between, equals, tol)
        try:
            value = float(measured)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BiofaceError(f"claim {id!r}: expected one number, found {type(measured).__name__}") from error
        finite = math.isfinite(value)
        passed = finite and low <= value <= high
        self._add(
            id,
            what=what,
            measured=float(f"{value:.6g}") if finite else None,
            shown=number(value, digits),
            bar=bar,
            unit=unit,
            passed=passed,
            data=data,
            control=control,
            timing=timing,
            reason="",
            optional=optional,
        )
        return passed

    def skip(self, id: str, what: str, *, reason: str, data: str, optional: bool = False) -> None:
        """Note a claim that could not be measured here, and why (say, a data set that is not there)."""
        if not reason:
            raise BiofaceError(f"claim {id!r}: say why it was not measured")
        self._add(
            id,
            what=what,
            measured=None,
            shown="–",
            bar="–",
            unit="",
            passed=None,
            data=data,
            control="",
            timing=False,
            reason=reason,
            optional=optional,
        )

    def _add(self, id: str, *, what: str, **rest: Any) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", id):
            raise BiofaceError(f"a claim's id is made of a-z, 0-9 and _, found {id!r}")
        known = self._rows.get(id)
        if known is not None and known.what != what:  # a copied line must not hide another claim
            raise BiofaceError(f"claim id {id!r} is taken by {known.what!r}")
        self._rows[id] = Claim(id=f"{self.notebook}.{id}", what=what, notebook=self.notebook, **rest)

    def table(self) -> None:
        """Print every claim that depends neither on the clock nor on files that a reader may not have."""
        print(format_table(c for c in self if not c.timing and not c.optional))

    def timing_table(self) -> None:
        """Print the claims about time; for a cell tagged ``nbval-ignore-output``."""
        print(format_table(c for c in self if c.timing))

    def optional_table(self) -> None:
        """Print every claim on optional data; for a cell tagged ``nbval-ignore-output``."""
        print(format_table(c for c in self if c.optional))

    def save(self) -> None:
        """Replace this notebook's rows of ``figures/claims.json`` by these.

        Raises
        ------
        DataError : the file there is damaged; nothing is written over it
        """
        file = paths.figures() / FILE
        rows = [c for c in read(file) if c.notebook != self.notebook] if file.exists() else []
        rows = sorted([*rows, *self], key=lambda c: c.id)
        lines = ",\n".join(json.dumps(dataclasses.asdict(c), ensure_ascii=False, allow_nan=False) for c in rows)
        with paths.whole_file(file) as partial:
            partial.write_text(f'{{"claims": [\n{lines}\n]}}\n', encoding="utf-8")


def read(file: str | Path | None = None) -> list[Claim]:
    """The claims of all notebooks, by id.

    Raises
    ------
    DataError : no such file, or not a file of claims
    """
    file = Path(file or paths.figures() / FILE)
    expected = "claims as the notebooks write them (remove the file and run `make reproduce`)"
    try:
        rows = [_claim(row) for row in json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)["claims"]]
    except FileNotFoundError:
        raise DataError(file, "claims, written by `make reproduce`", "no such file") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(file, expected, f"{type(error).__name__}: {error}") from error
    if len({c.id for c in rows}) < len(rows):
        raise DataError(file, expected, "one claim twice")
    return sorted(rows, key=lambda c: c.id)


_TYPES = {"measured": Number | None, "passed": bool | None, "timing": bool, "optional": bool}  # and text


def _claim(row: dict[str, Any]) -> Claim:
    """One row of the file.

    Raises
    ------
    TypeError, ValueError : fields that are missing, unknown or of another type, a number that is not finite
    """
    claim = Claim(**row)
    for name, value in dataclasses.asdict(claim).items():
        wrong_number = name == "measured" and (isinstance(value, bool) or value in (math.inf, -math.inf))
        if wrong_number or not isinstance(value, _TYPES.get(name, str)):
            raise ValueError(f"{name} {value!r}")
    return claim


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def digest(notebook: str, file: str | Path | None = None) -> str:
    """SHA-256 of one notebook's rows, whatever the other notebooks say."""
    rows = [dataclasses.asdict(c) for c in read(file) if c.notebook == notebook]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def format_table(claims: Iterable[Claim], width: int = 44) -> str:
    """A plain-text table: a line per claim (``what`` folded at ``width``), its control or reason below."""
    claims = list(claims)
    rows = [("claim", "what", "measured", "bar", "verdict", "data")]
    below: list[list[str]] = [[]]
    for c in claims:
        what, *more = textwrap.wrap(c.what, width) or [""]
        rows.append((c.id, what, f"{c.shown} {c.unit}".strip(), f"{c.bar} {c.unit}".strip(), c.verdict, c.data))
        notes = [f"beside it: {c.control}"] if c.control else []
        notes += [f"not measured: {c.reason}"] if c.reason else []
        below.append(more + ["  " + line for note in notes for line in textwrap.wrap(note, 88)])
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    lines = []
    for row, more in zip(rows, below, strict=True):
        lines.append("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
        lines += [" " * (widths[0] + 2) + line for line in more]
    passed = sum(c.passed is True for c in claims)
    missed = sum(c.passed is False for c in claims)
    lines.append(
        f"{passed} of {len(claims)} claims pass, {missed} miss their bar, {len(claims) - passed - missed} not measured."
    )
    return "\n".join(lines)


def main() -> int:
    """Print the claims of all notebooks."""
    try:
        print(format_table(read()))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
