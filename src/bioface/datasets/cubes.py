"""Multispectral faces, in whatever layout (:mod:`bioface.datasets.layouts`), as checked cubes read by blocks of rows.

* *Wavelengths* may be in nm, µm, m or Å, which their size tells, in any order: bands are sorted. A file that states
  another unit, as of frequency, is refused.
* *Axes* may be in any order: bands lie along the axis that is as long as there are wavelengths, rows come before
  columns. Where that does not decide (33 × 33 × 33) it is asked for, unless the layout says it.
* *Illuminant.* Radiance needs one: a vector over the same bands, or ISET's struct: ``data`` or ``data.photons`` with
  ``wave``, ``wavelength`` or ``spectrum.wave``. Reflectance is radiance / illuminant.
* *Units.* ISET stores radiance in photons, but the illuminant of its older files in energy. The two differ by
  λ / hc, a factor of 10¹⁸, so sizes tell them apart; the illuminant is brought to the unit of the radiance.
* *Zero-filled bands.* ISET resamples with zeros beyond the measured range (400 and 410 nm of its faces). Such bands at
  either end are dropped, never filled in, and named in ``Cube.dropped``; one in the middle is an error.
* *Mask.* A variable ``mask``, or a picture ``NAME_mask`` beside the cube (which wins), else the whole image. Outside
  it, values may be missing (NaN).

Reference: ISETCam (MIT licence), ``ieSaveMultiSpectralImage`` and ``vcReadImage``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.constants

from bioface import paths
from bioface.arrays import as_mask
from bioface.datasets import layouts, photos
from bioface.datasets.layouts import Stored, numbers
from bioface.errors import DataError
from bioface.spectra import WAVELENGTHS

GRID = (float(WAVELENGTHS[0]), float(WAVELENGTHS[-1]))  # nm
FEWEST_BANDS = 5  # within the grid: a pixel has four unknowns
BLOCK_VALUES = 2_000_000  # numbers held at once while a cube is checked: 16 MB in double precision
#: What each unit is in nm; skin's wavelengths make sense in one of them only.
UNITS = {"nm": 1.0, "µm": 1e3, "m": 1e9, "Å": 0.1}
LENGTHS = re.compile("(nano|micro|milli|centi)?met(er|re)s?|[nµμum]?m|mic(ron)?s?|(å|a)(ngstr(ö|o)ms?)?|unknown")
SPECTRUM = (200.0, 3000.0)  # nm

Rows = Callable[[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Cube:
    """A multispectral image. Its radiance is computed or read when it is asked for, not before."""

    name: str  #: the file's name without its ending
    wavelengths: np.ndarray  #: (D,) float64 nm, rising; bands outside 400–720 nm are kept
    illuminant: np.ndarray  #: (D,) float64, with mean 1 over the bands within 400–720 nm
    mask: np.ndarray  #: (H, W) bool, where there is skin
    read_rows: Rows = dataclasses.field(repr=False)  #: (start, stop) → radiance (h, W, D) in the file's units
    scale: float = 1.0  #: what radiance is divided by for radiance / illuminant to be the file's reflectance
    dropped: tuple[float, ...] = ()  #: wavelengths of zero-filled bands that were left out
    notes: tuple[str, ...] = ()  #: what had to be assumed, a sentence each

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        return (*self.mask.shape, len(self.wavelengths))

    def __getitem__(self, rows: slice) -> np.ndarray:
        """``cube[start:stop]``: radiance (h, W, D), as a fit reads it; TypeError unless neighbours."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"expected a slice of neighbouring rows, found {rows!r}")
        return self.read_rows(*rows.indices(self.shape[0])[:2]) / self.scale

    @property
    def radiance(self) -> np.ndarray:
        """(H, W, D) radiance, the whole of it in memory: 1.2 GB for 1 000 × 1 000 × 148."""
        return self[:]

    @property
    def reflectance(self) -> np.ndarray:
        """(H, W, D) radiance / illuminant."""
        return self.radiance / self.illuminant

    def blocks(self, pixels: int = 65_536) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows as a slice, and their radiance (h, W, D): at most ``pixels`` at a time, one row at least."""
        for start, stop in _spans(self.mask.shape, 1, pixels):
            yield slice(start, stop), self[start:stop]

    @classmethod
    def from_array(
        cls,
        radiance: np.ndarray,
        wavelengths: np.ndarray,
        illuminant: np.ndarray,
        mask: np.ndarray | None = None,
        name: str = "array",
    ) -> Cube:
        """A cube of arrays in memory, checked like a file; errors as of :func:`load`.

        Parameters
        ----------
        radiance : (H, W, D);  wavelengths : (D,) nm;  illuminant : (D,) in the radiance's units
        mask : (H, W) bool, default everywhere

        >>> cube = Cube.from_array(np.full((2, 3, 33), 0.4), np.arange(400, 721, 10), np.full(33, 2.0))
        >>> cube.shape, float(cube.reflectance[0, 0, 0])
        ((2, 3, 33), 0.2)
        """
        return _assemble(Path(name), name, Stored(np.asarray(radiance), wavelengths, illuminant, mask, "rcb"))


def find(folder: str | Path | None = None) -> list[Path]:
    """The cubes in a folder (default ``data/iset``), by name: files of a known ending, and folders of pictures.

    Names that begin with a dot are no data.
    """
    folder = paths.data() / "iset" if folder is None else Path(folder)
    seen = sorted(folder.iterdir()) if folder.is_dir() else []
    seen = [p for p in seen if not p.name.startswith(".")]
    return [p for p in seen if p.suffix.lower() in layouts.ENDINGS or (p.is_dir() and layouts.pictures_in(p))]


class Cubes(Sequence[Cube]):
    """Cubes of several files, each read when it is reached. A slice gives Cubes, a number a Cube."""

    def __init__(self, files: Sequence[str | Path]):
        self.files = tuple(Path(f) for f in files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        return Cubes(self.files[index]) if isinstance(index, slice) else load(self.files[index])


def load(path: str | Path, axes: str | None = None, wavelengths: Any = None, illuminant: Any = None) -> Cube:
    """Open one cube and check all of it, in blocks of rows.

    Parameters
    ----------
    path : a file of any layout of :mod:`bioface.datasets.layouts`, or a folder of pictures
    axes : the order of its axes, where the file leaves it open: "rcb" is rows, columns, bands; "brc" bands first
    wavelengths, illuminant : instead of the file's own

    Raises
    ------
    DataError : a file that is missing, damaged or no cube; no wavelengths, doubled ones, none within 400–720 nm, or
        in a unit that is not known; axes that they do not tell apart; no illuminant, or one that is zero at a band in
        use; shapes that differ; NaN inside the mask; a zero-filled band in the middle; a mask that is empty or of
        another size.
    """
    path = Path(path)
    stored = layouts.read(path)
    beside = layouts.mask_beside(path)
    given: dict[str, Any] = {"axes": axes, "wavelengths": wavelengths, "illuminant": illuminant}
    given["mask"] = None if beside is None else photos.read_mask(beside)
    if wavelengths is not None:
        given["unit"] = ""
    if illuminant is not None:
        given |= {"is_reflectance": False, "notes": (), "light_unit": ""}
    stored = dataclasses.replace(stored, **{name: value for name, value in given.items() if value is not None})
    return _assemble(path, path.name if path.is_dir() else path.stem, stored)


# --- from variables to a cube -----------------------------------------------------------------------------


def _spans(size: tuple[int, ...], each: int, most: int = BLOCK_VALUES) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows, at most ``most`` values in them; ``each`` a pixel; one row at least."""
    height, width = size
    step = max(1, most // (width * each))
    for start in range(0, height, step):
        yield start, min(start + step, height)


def _assemble(path: Path, name: str, stored: Stored) -> Cube:
    own, unit = _checked_wavelengths(path, stored.wavelengths, stored.unit)
    axes = _order(path, stored.values.shape, len(own), stored.axes)
    values = stored.values.transpose(*axes)
    mask = np.ones(values.shape[:2], bool)
    if stored.mask is not None:
        mask = _checked_mask(path, stored.mask, mask.shape)

    def read(start: int, stop: int) -> np.ndarray:
        return np.asarray(values[start:stop], dtype=np.result_type(values.dtype, np.float32))

    largest = _survey(path, read, mask, len(own))
    rising = np.argsort(own)
    keep, dropped = _kept_bands(path, own[rising], largest[rising])
    bands = rising[keep]
    nm = own[bands]
    usable = (nm >= GRID[0]) & (nm <= GRID[1])
    if usable.sum() < FEWEST_BANDS:
        found = f"{usable.sum()} of {len(nm)} bands, at {nm[0]:g}–{nm[-1]:g} nm"
        raise DataError(path, f"at least {FEWEST_BANDS} bands within {GRID[0]:g}–{GRID[1]:g} nm", found)
    illuminant = np.ones(len(nm))
    if not stored.is_reflectance:
        illuminant = _checked_illuminant(path, stored, own, nm, float(np.median(largest[bands])))
    scale = float(illuminant[usable].mean())
    order = ", ".join(("rows", "columns", "bands")[axes.index(i)] for i in range(3))
    notes = *stored.notes, unit, "" if axes == (0, 1, 2) else f"axes: {order}"
    # in order they are a slice, which copies nothing
    chosen = slice(int(bands[0]), int(bands[-1]) + 1) if (np.diff(bands) == 1).all() else bands
    return Cube(
        name=name,
        wavelengths=nm,
        illuminant=illuminant / scale,
        mask=mask,
        read_rows=lambda start, stop: read(start, stop)[..., chosen],
        scale=scale,
        dropped=dropped,
        notes=tuple(note for note in notes if note),
    )


def _checked_wavelengths(path: Path, wave: Any, unit: str) -> tuple[np.ndarray, str]:
    """(bands,) float64 nm in the file's order, and a note if they were in another unit."""
    if wave is None or isinstance(wave, dict) or np.size(wave) == 0:
        stated = "in nm (wave; or stated: wavelengths= of load, --wavelengths of the command)"
        raise DataError(path, f"the wavelengths of its bands {stated}", "none")
    if np.asarray(wave).dtype.kind in "OUS":  # text, or MATLAB's cells, which some files keep numbers in
        wave = np.concatenate([np.ravel(cell) for cell in np.ravel(np.asarray(wave))]).astype(np.str_)
        with contextlib.suppress(ValueError):
            wave = wave.astype(float)
    values = np.ravel(numbers(path, "wave", wave)).astype(float)
    words = re.sub("^(frequency|wavelength)s?/?|[][()]", " ", unit.lower()).split()
    if words and not any(map(LENGTHS.fullmatch, words)):
        expected = "wavelengths in nm, µm or m (or stated: wavelengths= of load, --wavelengths)"
        raise DataError(path, expected, f"the unit {unit!r}")
    low, high = SPECTRUM
    fits = [name for name, nm in UNITS.items() if ((values >= low / nm) & (values <= high / nm)).all()]
    if not fits:
        raise DataError(path, "wavelengths in nm, µm or m", "others: " + np.array2string(np.ravel(wave), threshold=6))
    if fits[0] != "nm":
        values = np.round(values * UNITS[fits[0]], 6)  # 0.42 µm are 420 nm to the last bit
    once, count = np.unique(values, return_counts=True)
    if (count > 1).any():
        twice = ", ".join(f"{w:g}" for w in once[count > 1][:5])
        raise DataError(path, "each wavelength once", f"two bands at {twice} nm")
    return values, "" if fits[0] == "nm" else f"wavelengths are in {fits[0]}"


def _order(path: Path, shape: tuple[int, ...], bands: int, axes: str | None) -> tuple[int, ...]:
    """Which axes are rows, columns and bands."""
    if axes is not None and sorted(axes) != ["b", "c", "r"]:
        raise DataError(path, "axes in an order like 'rcb' (rows, columns, bands)", repr(axes))
    if len(shape) != 3 or 0 in shape:
        raise DataError(path, "a cube with pixels, of three axes", f"shape {shape}")
    fits = [i for i in range(3) if shape[i] == bands] if axes is None else [axes.index("b")]
    size = " × ".join(map(str, shape))
    if not fits or shape[fits[0]] != bands:
        expected = f"{shape[fits[0]]} wavelengths, one for each band" if fits else f"a wavelength a band along {size}"
        raise DataError(path, expected, f"{bands}")
    if len(fits) > 1:
        ask = "or stated (axes='rcb' of load, --axes rcb: rows, columns, bands)"
        raise DataError(path, f"axes that {bands} wavelengths tell apart, {ask}", size)
    if axes is not None:
        return tuple(axes.index(axis) for axis in "rcb")
    return (*(i for i in range(3) if i != fits[0]), fits[0])


def _survey(path: Path, read: Rows, mask: np.ndarray, bands: int) -> np.ndarray:
    """(bands,) largest absolute value of each band inside the mask; one pass in blocks that also finds NaN."""
    largest = np.zeros(bands)
    for start, stop in _spans(mask.shape, bands):
        inside = mask[start:stop]
        if not inside.any():
            continue
        block = read(start, stop)[inside]
        part = np.maximum(block.max(0), -block.min(0))  # NaN stays NaN in both
        if not np.isfinite(part).all():
            row = start + int(np.nonzero(inside)[0][np.argmin(np.isfinite(block).all(1))])
            raise DataError(path, "finite radiance inside the mask", f"NaN or infinity in row {row}")
        largest = np.maximum(largest, part)
    return largest


def _kept_bands(path: Path, nm: np.ndarray, largest: np.ndarray) -> tuple[slice, tuple[float, ...]]:
    """The bands without the zero-filled ones at either end, and the wavelengths of those."""
    filled = np.flatnonzero(largest > 0)
    if not len(filled):
        raise DataError(path, "radiance", "zero everywhere")
    keep = slice(int(filled[0]), int(filled[-1]) + 1)
    if len(filled) < keep.stop - keep.start:
        holes = [f"{w:g}" for w, value in zip(nm[keep], largest[keep], strict=True) if value == 0]
        raise DataError(path, "radiance at every band inside the measured range", f"zeros at {', '.join(holes)} nm")
    return keep, tuple(float(w) for i, w in enumerate(nm) if not keep.start <= i < keep.stop)


def _checked_illuminant(path: Path, stored: Stored, own: np.ndarray, nm: np.ndarray, level: float) -> np.ndarray:
    """(D,) illuminant at wavelengths ``nm`` of the cube's ``own``, in the unit of the radiance."""
    values, wave = _illuminant_fields(stored.illuminant)
    if values is None:
        raise DataError(path, "an illuminant (a vector, or a struct with data and wave)", "none")
    values = numbers(path, "illuminant", values)
    if math.prod(np.shape(values)) != max(np.shape(values), default=1):
        raise DataError(path, "one illuminant for all pixels, a vector", f"shape {np.shape(values)}")
    values = np.ravel(values).astype(float)
    wave = own if wave is None else _checked_wavelengths(path, wave, stored.light_unit)[0]
    if len(wave) != len(values):
        expected = f"an illuminant with {len(wave)} bands"
        raise DataError(path, expected, f"{len(values)}")
    if nm[0] < wave.min() or nm[-1] > wave.max():
        covered = f"an illuminant that covers {nm[0]:g}–{nm[-1]:g} nm"
        raise DataError(path, covered, f"one at {wave.min():g}–{wave.max():g} nm")
    rising = np.argsort(wave)
    values = np.interp(nm, wave[rising], values[rising])
    if not np.isfinite(values).all():
        raise DataError(path, "a finite illuminant", "NaN or infinity")
    if (values <= 0).any():
        dark = ", ".join(f"{w:g}" for w in nm[values <= 0])
        raise DataError(path, "an illuminant above zero at every band", f"zero or less at {dark} nm")
    return _same_unit(values, nm, level)


def _illuminant_fields(illuminant: Any) -> tuple[Any, np.ndarray | None]:
    """(values, wavelengths), None where there are none, from any of ISET's ways to store a light."""
    wave = None
    if isinstance(illuminant, dict):
        spectrum = illuminant.get("spectrum")
        wave = illuminant.get("wave", illuminant.get("wavelength"))
        if wave is None and isinstance(spectrum, dict):
            wave = spectrum.get("wave")
        illuminant = illuminant.get("data")
    if isinstance(illuminant, dict):
        illuminant = illuminant.get("photons", illuminant.get("energy"))
    return (None if illuminant is None or np.size(illuminant) == 0 else illuminant), wave


def _same_unit(illuminant: np.ndarray, nm: np.ndarray, level: float) -> np.ndarray:
    """The illuminant as photons when the radiance is in photons and it is not, and the other way round.

    A photon at 560 nm carries 3.5e-19 J: numbers in the two units cannot be mistaken for each other.
    """
    photons_per_joule = nm * 1e-9 / (scipy.constants.h * scipy.constants.c)
    ratio = level / np.median(illuminant)
    if ratio > 1e9:
        return illuminant * photons_per_joule
    return illuminant / photons_per_joule if ratio < 1e-9 else illuminant


def _checked_mask(path: Path, mask: Any, shape: tuple[int, int]) -> np.ndarray:
    mask = as_mask(numbers(path, "mask", mask), path)
    if mask.shape != shape:
        raise DataError(path, f"a mask of {shape[0]} × {shape[1]}, as the cube", " × ".join(map(str, mask.shape)))
    if not mask.any():
        raise DataError(path, "a mask with at least one pixel", "an empty one")
    return mask
