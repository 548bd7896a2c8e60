"""The README's numbers, written into it from ``figures/``, so that none of them is typed.

A README marks the places, which a reader of the page does not see: ``<!-- {{ measured("02.x") }} -->0.06<!-- / -->``
holds the value of a Jinja2 expression, which calls what ``readme.md.j2`` defines; a table stands on lines of its own.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

from bioface import metrics, paths
from bioface.errors import BiofaceError
from study import claims, figures, table1

PLACE = re.compile(r"(<!-- (\{\{.*?\}\}) -->)(\n?).*?(<!-- / -->)", re.DOTALL)
IMPORT = "{% from 'readme.md.j2' import measured, headlines, published, table1 with context %}"
LOADER = jinja2.PackageLoader("study", ".")
TEMPLATES = jinja2.Environment(
    loader=LOADER, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
)


def fill(text: str, folder: str | Path, bars: Path | None = None) -> str:
    """A README with all its numbers renewed.

    Parameters
    ----------
    folder : of the figures, with ``claims.json``, ``05_table1.json`` and ``05_verdicts.json``
    bars : ``claims.toml``, which says what the headline claims are

    Raises
    ------
    BiofaceError : a place that does not open and close, or asks for a claim, method or number that is not there
    DataError : a file that is missing or damaged
    """
    known = {c.id: c for c in claims.read(Path(folder) / claims.FILE)}
    declared = claims.declared(bars)
    heads = [c for c in known.values() if declared.get(c.id, {}).get("headline")]
    rows, verdicts = (figures.numbers(f"05_{name}", folder) for name in ("table1", "verdicts"))
    values: dict[str, Any] = {"claims": known, "rows": rows, "verdicts": verdicts, "declared": declared}
    values["heads"] = sorted(heads, key=lambda c: c.passed is not False)  # the misses first
    values |= {"columns": metrics.TABLE1, "as_published": table1.AS_PUBLISHED}

    def renewed(place: re.Match[str]) -> str:
        try:
            value = TEMPLATES.from_string(IMPORT + place[2]).render(values).strip()
        except (jinja2.TemplateError, TypeError) as error:
            raise BiofaceError(f"README, {place[2]}: {error}") from error
        return place[1] + place[3] + value + place[3] + place[4]

    filled, places = PLACE.subn(renewed, text)
    if not 0 < places == text.count("<!-- {{") == text.count("<!-- / -->"):
        raise BiofaceError(f"README: expected places <!-- {{{{ … }}}} --> … <!-- / -->, found {places} whole ones")
    return filled


if __name__ == "__main__":
    file = paths.root() / "README.md"
    renewed = fill(file.read_text(encoding="utf-8"), paths.figures())
    with paths.whole_file(file) as partial:
        partial.write_text(renewed, encoding="utf-8")
