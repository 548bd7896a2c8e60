"""Measurements on real files that a reader may not have, kept with their date, data and commit.

``python -m study.record [--data FOLDER]`` measures what the files in a folder of data allow and adds a row for each
claim to ``figures/recorded/measurements.json``. Rows of earlier commits stay. Where the files are absent, the claims of
the notebooks stand as recorded there (:meth:`study.claims.Claims.skip`).
"""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bioface import camera, illumination, image_formation, paths, smith2019
from bioface.datasets import registry, skin_spectra
from bioface.errors import BiofaceError, DataError
from study import claims


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number for a claim ("NN.name"); ``bar`` holds ``at_most=`` or ``at_least=`` where that is measured too."""

    id: str
    measured: float
    model: str = ""
    control: str = ""
    bar: dict[str, float] = field(default_factory=dict)


def issa() -> Iterator[Measured]:
    """How closely the skin model fits the face spectra of ISSA, left free."""
    spectra = skin_spectra.load("issa")
    rmse = smith2019.fit(spectra.reflectance, spectra.wavelengths, model="layered").residual
    by_group = [np.median(rmse[spectra.group == group]) for group in spectra.groups]
    told = ", ".join(f"{g} {v:.4f}" for g, v in zip(spectra.groups, by_group, strict=True))
    yield Measured(id="04.issa_layered", measured=np.median(rmse), model="layered", control=told)
    yield Measured(id="04.issa_layered_groups", measured=float(np.median(by_group)), model="layered", control=told)


def cheeks() -> Iterator[Measured]:
    """How closely the skin models fit ISET's cheeks, as a share of each spectrum's root mean square."""
    spectra = skin_spectra.load("iset")
    level, relative = np.sqrt(np.mean(spectra.reflectance**2, -1)), {}
    for model, bounds in (("published", "paper"), ("published", "free"), ("layered", "free")):
        fit = smith2019.fit(spectra.reflectance, spectra.wavelengths, model=model, bounds=bounds)
        relative[model, bounds] = float(np.median(fit.residual / level))
    free, bounded = relative["published", "free"], relative["published", "paper"]
    told = f"published free {free:.4f}, in the paper's bounds {bounded:.4f}"
    yield Measured(
        id="04.cheeks_layered",
        measured=relative["layered", "free"],
        model="layered",
        control=told,
        bar={"at_most": free},
    )


def cameras() -> Iterator[Measured]:
    """The shipped camera table made again from the raw data base, and our colours against the authors' MATLAB."""
    raw = registry.fetch("cameras")[0]
    shipped, again, S = (
        camera.CameraModel.load(),
        camera.CameraModel.from_database(raw),
        camera.read_database(raw)[1].numpy(),
    )
    worst = max(
        float((getattr(again, k) - getattr(shipped, k)).abs().max()) for k in ("mean", "components", "deviations")
    )
    yield Measured(id="04.camera_table", measured=worst)
    known = np.loadtxt(paths.TABLES / "reference_linear_rgb.csv", delimiter=",")
    m, h = known[:, :2].T[:, None]
    light, first = illumination.standard("A").numpy(), S[0] / S[0].sum(-1, keepdims=True)
    rgb = image_formation.render(m, h, np.ones_like(m), 0 * m, light, first, "published", "code", method="exact")
    yield Measured(id="04.published_colour", measured=np.abs(rgb[0] - known[:, 2:]).max(), model="published")


#: What measures, by the name of its files in ``bioface.datasets.registry``, and the claims that it is for.
SOURCES: dict[str, tuple[Callable[[], Iterator[Measured]], tuple[str, ...]]] = {
    "issa": (issa, ("issa_layered", "issa_layered_groups")),
    "cheeks": (cheeks, ("cheeks_layered",)),
    "cameras": (cameras, ("camera_table", "published_colour")),
}


def hand_in(to: claims.Claims, source: str) -> None:
    """Give a notebook's claims what is measured now, or was recorded, where the files of a source are absent."""
    measure, names = SOURCES[source]
    if registry.is_placed(source):
        for row in measure():
            to.check(row.id[3:], row.measured, control=row.control, **row.bar)
    else:
        for name in names:
            to.skip(name, reason=f"no {registry.ENTRIES[source].files[0]} in data/ (see data/README.md)")


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
    """Rows for every source whose files are in the data folder, with date, data and commit."""
    rows, at, today = list[dict[str, Any]](), commit(), datetime.date.today().isoformat()
    for name, (source, _) in SOURCES.items():
        if registry.is_placed(name):
            files = registry.fetch(name)  # held to their checksums
            sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
            data = [
                {"name": file.name, "size": file.stat().st_size, "sha256": digest}
                for file, digest in zip(files, sums, strict=True)
            ]
            for m in source():
                row = {"id": m.id, "measured": float(f"{m.measured:.6g}"), "bar": m.bar, "control": m.control}
                rows.append(row | {"model": m.model, "date": today, "commit": at, "data": data})
    return rows


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
    parser.add_argument(
        "--data", type=Path, help="folder of real data, laid out as data/README.md says (default: data/)"
    )
    given = parser.parse_args(argv)
    if given.data:
        os.environ["BIOFACE_DATA"] = str(given.data)
    try:
        rows = measure()
        add(rows, paths.figures() / claims.RECORDED)
    except (BiofaceError, DataError, OSError) as error:
        print(paths.describe(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return 2
    for row in rows:
        print(f"{row['id']}: {row['measured']:.4g}{', beside it: ' * bool(row['control'])}{row['control']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
