"""Measurements on real files that a reader may not have, kept with their date, data and commit.

``python -m study.record`` measures what the files in the folder of data allow (:mod:`study.measurements`)
and adds a row for each claim to ``figures/recorded/measurements.json``. Rows of earlier commits stay. Where the files
are absent, the claims of the notebooks stand as recorded there (:meth:`study.claims.Claims.skip`).

``python -m study.record --run FOLDER NAME ...`` records what a longer run of the notebooks found, from the folder of
its figures: claims ("A3.b_skill") as such rows, the numbers behind figures ("A3_trained") as files beside them.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bioface import paths
from bioface.datasets import registry
from bioface.errors import BiofaceError
from study import cache, claims, figures, measurements


def commit() -> str:
    """The commit of the sources, ten digits.

    Raises
    ------
    BiofaceError : not a checkout by git, or sources that are not committed
    """
    git = ["git", "-C", str(paths.root())]
    found = subprocess.run([*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=False)
    if found.returncode or found.stdout:
        said = (found.stderr or found.stdout).strip().splitlines()[0]
        raise BiofaceError(f"a record names its commit: expected committed sources, found {said}")
    return subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True).strip()


def measure() -> list[dict[str, Any]]:
    """Rows for every source whose files are in the data folder, with date, data, commit and machine."""
    rows, made = list[dict[str, Any]](), _made()
    for name, (measured, _) in measurements.SOURCES.items():
        if registry.is_placed(name):
            data = []
            for file in registry.fetch(name):  # held to their checksums
                content = file.read_bytes()
                data.append({"name": file.name, "size": len(content), "sha256": cache.digest(content)})
            for m in measured():
                row = {"id": m.id, "measured": float(f"{m.measured:.6g}"), "bar": m.bar, "control": m.control}
                rows.append(row | {"model": m.model, **made, "data": data})
    return rows


def of_run(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows for claims of a run, by id, with date, machine and commit; other names are figures, whose numbers are kept.

    Raises
    ------
    BiofaceError : a claim that was not measured there; no such file
    """
    made = _made()
    found, rows = {c.id: c for c in claims.read(folder / claims.FILE)}, list[dict[str, Any]]()
    contents = {name: made | {"numbers": figures.numbers(name, folder)} for name in names if "." not in name}
    for name in (name for name in names if name not in contents):
        c = found.get(name)
        if c is None or c.measured is None or c.recorded:
            raise BiofaceError(f"{folder / claims.FILE}: expected {name} as measured there, found none")
        rows.append(
            {"id": name, "measured": c.measured, "bar": {}, "control": c.control, "model": "", **made, "data": []}
        )
    for name, content in contents.items():  # once nothing is missing
        with paths.whole_file(recorded_file(name)) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return rows


def recorded_file(name: str) -> Path:
    """Where the numbers behind a figure of a longer run are."""
    return paths.root() / "figures" / claims.RECORDED.parent / f"{name}.json"


def numbers(name: str) -> tuple[dict[str, Any], str]:
    """What a longer run found, and in words when and where.

    Raises
    ------
    DataError : nothing on record under that name, or a damaged file
    """
    file = recorded_file(name)
    found = figures.numbers(name, file.parent)
    made = json.loads(file.read_text(encoding="utf-8"))
    return found, f"recorded on {made['date']}, not measured here: on {made['machine']}, at commit {made['commit']}"


def _made() -> dict[str, str]:
    """When, from which sources and on what; a graphics processor counts where it trains."""
    cards = {torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
    told = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    machine = ", ".join([told, *sorted(cards)])
    return {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine}


def add(rows: list[dict[str, Any]], file: Path) -> None:
    """Add rows to a file of records; one of the same claim, model, commit and data takes the other's place."""

    def same(row: dict[str, Any]) -> str:
        return json.dumps([row[key] for key in ("id", "model", "commit", "data")], sort_keys=True)

    new = {same(row) for row in rows}
    kept = [row for row in claims.records(file) if same(row) not in new]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in [*kept, *rows])
    with paths.whole_file(file) as partial:
        partial.write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure, record and print; 2 when something is missing or damaged."""
    parser = argparse.ArgumentParser(prog="python -m study.record", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="of the figures of a longer run of the notebooks")
    parser.add_argument("name", nargs="*", help="with --run: claims and figures to record")
    given = parser.parse_args(argv)
    if bool(given.run) != bool(given.name):
        parser.error("expected --run FOLDER and names of its claims or figures together, found one without the other")
    try:
        rows = of_run(given.run, given.name) if given.run else measure()
        add(rows, paths.figures() / claims.RECORDED)
    except (BiofaceError, OSError) as error:
        print(paths.describe(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return 2
    for row in rows:
        print(f"{row['id']}: {row['measured']:.4g}{', beside it: ' * bool(row['control'])}{row['control']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
