"""The README's numbers, written into it from ``figures/``, so that none of them is typed.

A README marks the places, which a reader of the page does not see:

* ``<!-- claim 02.working_rmse -->0.016<!-- /claim -->``: what a claim measured, within a sentence
* ``<!-- claims: 02.working_rmse 05.b_skill -->`` … ``<!-- /claims -->``: a table of claims
* ``<!-- table1: training mean; expected = Bayes, a pixel -->`` … ``<!-- /table1 -->``: Table 1, published, then those
  methods of notebook 05 (by the name after ``=`` where there is one), then the verdicts
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bioface import metrics, paths
from bioface.errors import BiofaceError, DataError
from study import claims, table1
from study.claims import Claim

_INLINE = re.compile(r"<!-- claim (\S+) -->.*?<!-- /claim -->", re.DOTALL)
_CLAIMS = re.compile(r"<!-- claims: ([^>]*?) -->\n.*?<!-- /claims -->", re.DOTALL)
_TABLE1 = re.compile(r"<!-- table1: ([^>]*?) -->\n.*?<!-- /table1 -->", re.DOTALL)


def fill(text: str, figures: str | Path) -> str:
    """A README with all its numbers renewed.

    Parameters
    ----------
    text : of the README, with at least one place of each kind
    figures : the folder with ``claims.json``, ``05_table1.json`` and ``05_verdicts.json``

    Raises
    ------
    BiofaceError : no such place, or a claim, method or number that is not there
    DataError : a file that is missing or damaged
    """
    figures = Path(figures)
    known = {c.id: c for c in claims.read(figures / claims.FILE)}
    rows, verdicts = (_numbers(figures / f"05_{name}.json") for name in ("table1", "verdicts"))
    for kind, pattern in (("claim ID", _INLINE), ("claims: IDs", _CLAIMS), ("table1: METHODS", _TABLE1)):
        if not pattern.search(text):
            raise BiofaceError(f"README: expected a place <!-- {kind} --> … <!-- /{kind.split()[0].strip(':')} -->")
    text = _INLINE.sub(lambda m: f"<!-- claim {m[1]} -->{_measured(_find(m[1], known))}<!-- /claim -->", text)
    text = _CLAIMS.sub(lambda m: f"<!-- claims: {m[1]} -->\n{_claims(m[1].split(), known)}\n<!-- /claims -->", text)
    return _TABLE1.sub(lambda m: f"<!-- table1: {m[1]} -->\n{_table1(m[1], rows, verdicts)}\n<!-- /table1 -->", text)


def _numbers(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["numbers"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        expected = "the numbers of a figure (`make reproduce` makes it again)"
        raise DataError(file, expected, f"{type(error).__name__}: {error}") from error


def _find(name: str, known: Mapping[str, Claim]) -> Claim:
    if name not in known:
        raise BiofaceError(f"README: expected claims of the notebooks, found {name}")
    return known[name]


def _measured(c: Claim) -> str:
    return f"{c.shown} {c.unit}".strip()


def _table(lines: Iterable[Iterable[str]]) -> str:
    head, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])


def _claims(ids: list[str], known: Mapping[str, Claim]) -> str:
    """Some claims as a table, and in a sentence how many there are and which of all miss their bar."""
    rows = [_find(name, known) for name in ids]
    lines = [(c.what, _measured(c), f"{c.bar} {c.unit}".strip(), c.verdict, c.data) for c in rows]
    steady = [c for c in known.values() if not c.timing and not c.optional]
    missed = ", ".join(f"`{c.id}`" for c in steady if c.passed is False) or "none"
    passed = sum(c.passed is True for c in steady)
    return (
        _table([("what", "measured", "bar", "", "data"), *lines])
        + f"\n\nOf {len(steady)} claims that need neither a clock nor data of one's own, {passed} pass. "
        f"These miss their bar: {missed}."
    )


def _table1(methods: str, rows: Mapping[str, Any], verdicts: Mapping[str, Any]) -> str:
    lines: list[list[str]] = [["", *metrics.TABLE1]]
    for name, published in table1.AS_PUBLISHED.items():
        found = [f"{published[column]:.4f}" if column in published else "–" for column in metrics.TABLE1]
        lines.append([f"{name}, as published", *found])
    for method in methods.split(";"):
        key, _, label = (part.strip() for part in method.partition("="))
        try:
            found = ["–" if rows[key][column][0] is None else _spread(*rows[key][column]) for column in metrics.TABLE1]
        except (KeyError, TypeError, IndexError) as error:
            raise BiofaceError(f"README: expected methods of figures/05_table1.json, found {key!r}") from error
        lines.append([label or key, *found])
    try:
        judged = [verdicts[column] for column in metrics.TABLE1]
        lines.append(["**verdict** on BioFaceNet's number", *(v["verdict"] for v in judged)])
        beaten = ["yes" if v["published"] > v["constant"] else "no" for v in judged]
    except (KeyError, TypeError) as error:
        raise BiofaceError(f"README: expected six verdicts in figures/05_verdicts.json, found {error}") from error
    lines.append(["is it larger than a constant's error here?", *beaten])
    return _table(lines)


def _spread(mean: float, error: float) -> str:
    return f"{mean:.3f} ± {error:.3f}"


def main() -> None:
    """Renew the checkout's README from its figures."""
    file = paths.root() / "README.md"
    text = fill(file.read_text(encoding="utf-8"), paths.figures())
    with paths.whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
