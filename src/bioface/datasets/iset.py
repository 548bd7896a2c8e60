"""Multispectral faces in the .mat layouts of ISET (Stanford), MATLAB v5 or v7.3.

Three layouts are read, told apart by the variables in the file:

=========================================== ==================================================================
``mcCOEF``, ``basis.basis``, ``basis.wave`` compressed radiance: coefficients (rows, cols, k) times basis
                                            (bands, k), plus ``imgMean`` (bands) where there is one
``photons`` (or ``data``), ``wave``         radiance (rows, cols, bands); ``wavelength`` is read too
``reflectance``, ``wave``                   reflectance, taken as radiance under a light of 1 at every band
=========================================== ==================================================================

Radiance needs ``illuminant``: a vector over the same bands, or ISET's struct: ``data`` or ``data.photons``
with ``wave``, ``wavelength`` or ``spectrum.wave``. Reflectance is radiance / illuminant.

* *Units.* ISET stores radiance in photons, but the illuminant of its older files in energy. The two differ by
  λ / hc, a factor of 10¹⁸, so sizes tell them apart; the illuminant is brought to the unit of the radiance.
* *An illuminant image* (rows, cols, bands) is accepted when it is one spectrum times a brightness per pixel,
  as in ISET's face cubes; the brightness then stays in the shadings. Anything else is an error.
* *Zero-filled bands.* ISET resamples with zeros beyond the measured range (400 and 410 nm of its faces).
  Bands that are zero everywhere at either end of the grid are dropped and named in ``Cube.dropped``; they are
  never filled in. One in the middle is an error: nothing says what happened to it.
* *Mask.* A variable ``mask``, or ``NAME_mask.png`` beside ``NAME.mat`` (which wins), else the whole image.

Reference: ISETCam (MIT licence), ``ieSaveMultiSpectralImage`` and ``vcReadImage``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import scipy.constants

from bioface import paths
from bioface.datasets import matlab, photos
from bioface.errors import DataError
from bioface.spectra import WAVELENGTHS

GRID = (float(WAVELENGTHS[0]), float(WAVELENGTHS[-1]))  # nm
FEWEST_BANDS = 5  # within the grid: a pixel has four unknowns
ONE_LIGHT = 0.02  # relative deviation that an illuminant image may have from one spectrum
BLOCK_VALUES = 2_000_000  # numbers held at once while a cube is checked: 16 MB in double precision
EXTRAS = ("twin_index", "twin_file", "comment", "name")

Rows = Callable[[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Cube:
    """A multispectral image. Its radiance is computed or read when it is asked for, not before.

    Attributes
    ----------
    name : the file's name without its ending
    wavelengths : (D,) float64 nm, rising; bands outside 400–720 nm are kept
    illuminant : (D,) float64, with mean 1 over the bands within 400–720 nm
    mask : (H, W) bool, where there is skin
    dropped : wavelengths of zero-filled bands that were left out
    extra : further small variables of the file (comment, the twin's face)
    read_rows : the source, ``read_rows(start, stop)`` → radiance (stop − start, W, D) in the file's units
    scale : what radiance is divided by, so that radiance / illuminant is the reflectance of the file
    """

    name: str
    wavelengths: np.ndarray
    illuminant: np.ndarray
    mask: np.ndarray
    read_rows: Rows = dataclasses.field(repr=False)
    scale: float = 1.0
    dropped: tuple[float, ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, D)."""
        return (*self.mask.shape, len(self.wavelengths))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop − start, W, D) radiance of some rows; radiance / illuminant is like a reflectance."""
        return self.read_rows(start, stop) / self.scale

    def __getitem__(self, rows: slice) -> np.ndarray:
        """``cube[start:stop]``: the radiance of these rows, so that a fit reads a cube block by block.

        Raises
        ------
        TypeError : on anything but a slice of neighbouring rows.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"expected a slice of neighbouring rows, found {rows!r}")
        return self.rows(*rows.indices(self.shape[0])[:2])

    @property
    def radiance(self) -> np.ndarray:
        """(H, W, D) radiance, the whole of it in memory: 1.2 GB for 1 000 × 1 000 × 148."""
        return self.rows(0, self.shape[0])

    @property
    def reflectance(self) -> np.ndarray:
        """(H, W, D) radiance / illuminant."""
        return self.radiance / self.illuminant

    def blocks(self, pixels: int = 65_536) -> Iterator[tuple[slice, np.ndarray]]:
        """The cube in bands of whole rows, each at most ``pixels`` large (one row at least).

        Yields (rows as a slice, radiance of these rows (h, W, D)).
        """
        for start, stop in _spans(self.mask.shape[0], self.mask.shape[1], pixels):
            yield slice(start, stop), self.rows(start, stop)

    @classmethod
    def from_array(
        cls,
        radiance: np.ndarray,
        wavelengths: np.ndarray,
        illuminant: np.ndarray,
        mask: np.ndarray | None = None,
        name: str = "array",
    ) -> Cube:
        """A cube of arrays in memory, checked like a file.

        Parameters
        ----------
        radiance : (H, W, D);  wavelengths : (D,) nm;  illuminant : (D,) in the radiance's units
        mask : (H, W) bool, default everywhere

        Raises
        ------
        DataError : as :func:`load`

        >>> cube = Cube.from_array(np.full((2, 3, 33), 0.4), np.arange(400, 721, 10), np.full(33, 2.0))
        >>> cube.shape, float(cube.reflectance[0, 0, 0])
        ((2, 3, 33), 0.2)
        """
        source = {"photons": np.asarray(radiance), "wave": wavelengths, "illuminant": illuminant}
        return _assemble(Path(name), source, mask)


def find(folder: str | Path | None = None) -> list[Path]:
    """The .mat files in a folder (default ``data/iset``), by name; empty when there is none."""
    folder = paths.data() / "iset" if folder is None else Path(folder)
    return sorted(folder.glob("*.mat"))


class Cubes(Sequence[Cube]):
    """Cubes of several files, each read when it is reached. A slice gives Cubes, a number a Cube."""

    def __init__(self, files: Sequence[str | Path]):
        self.files = tuple(Path(f) for f in files)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"Cubes({', '.join(f.name for f in self.files)})"

    @overload
    def __getitem__(self, index: int) -> Cube: ...
    @overload
    def __getitem__(self, index: slice) -> Cubes: ...
    def __getitem__(self, index: int | slice) -> Cube | Cubes:
        return Cubes(self.files[index]) if isinstance(index, slice) else load(self.files[index])


def load(path: str | Path) -> Cube:
    """Open one cube and check all of it, in blocks of rows.

    Raises
    ------
    DataError : a file that is missing, damaged or no .mat; no wavelengths, or none within 400–720 nm; no
        illuminant, or one that is zero at a band in use; shapes that disagree; NaN; a zero-filled band in
        the middle; a mask that is empty or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(path, "an ISET cube in a .mat file (see data/README.md)", "no such file")
    beside = path.with_name(f"{path.stem}_mask.png")
    return _assemble(path, matlab.read(path), photos.read_mask(beside) if beside.is_file() else None)


# --- from variables to a cube -----------------------------------------------------------------------------


def _spans(height: int, size: int, most: int = BLOCK_VALUES) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows of ``size`` values, at most ``most`` values in each; one row at least."""
    step = max(1, most // size)
    for start in range(0, height, step):
        yield start, min(start + step, height)


def _assemble(path: Path, variables: Mapping[str, Any], mask: np.ndarray | None = None) -> Cube:
    read, shape, wavelengths, is_reflectance = _source(path, variables)
    wavelengths = _checked_wavelengths(path, wavelengths, shape[2])
    largest = _survey(path, read, shape)
    keep, dropped = _kept_bands(path, wavelengths, largest)
    wavelengths = wavelengths[keep]
    usable = (wavelengths >= GRID[0]) & (wavelengths <= GRID[1])
    if usable.sum() < FEWEST_BANDS:
        found = f"{usable.sum()} of {len(wavelengths)} bands, at {wavelengths[0]:g}–{wavelengths[-1]:g} nm"
        raise DataError(path, f"at least {FEWEST_BANDS} bands within {GRID[0]:g}–{GRID[1]:g} nm", found)
    illuminant = np.ones(len(wavelengths))
    if not is_reflectance:
        level = float(np.median(largest[keep]))
        illuminant = _checked_illuminant(path, variables.get("illuminant"), wavelengths, keep, shape, level)
    scale = float(illuminant[usable].mean())
    return Cube(
        name=path.stem if path.suffix == ".mat" else path.name,
        wavelengths=wavelengths,
        illuminant=illuminant / scale,
        mask=_checked_mask(path, variables.get("mask") if mask is None else mask, shape[:2]),
        read_rows=lambda start, stop: read(start, stop)[..., keep],
        scale=scale,
        dropped=dropped,
        extra={name: _simple(variables[name]) for name in EXTRAS if name in variables},
    )


def _numbers(path: Path, name: str, value: Any) -> Any:
    """The value, if it is an array of real numbers."""
    kind = getattr(value, "dtype", np.asarray(value).dtype).kind
    if isinstance(value, dict) or kind not in "biuf":
        found = "a struct" if isinstance(value, dict) else "text" if kind in "US" else f"something else ({kind})"
        raise DataError(path, f"real numbers in {name}", found)
    return value


def _source(path: Path, variables: Mapping[str, Any]) -> tuple[Rows, tuple[int, int, int], Any, bool]:
    """How to read rows of the cube, its shape, its wavelengths, and whether it is a reflectance."""
    if "mcCOEF" in variables:
        return (*_compressed(path, variables), False)
    wave = variables.get("wave", variables.get("wavelength"))
    for name in ("photons", "reflectance", "data"):
        values = variables.get(name)
        if values is None or isinstance(values, dict):
            continue
        values = _numbers(path, name, values)
        if values.ndim != 3 or values.dtype.kind not in "fiu":
            raise DataError(path, f"{name} of shape (rows, cols, bands)", f"{values.dtype} {values.shape}")

        def read(start: int, stop: int, values: Any = values) -> np.ndarray:
            return np.asarray(values[start:stop], dtype=np.result_type(values.dtype, np.float32))

        return read, values.shape, wave, name == "reflectance"
    expected = "the variables mcCOEF and basis, or photons and wave, or reflectance and wave"
    raise DataError(path, expected, "the variables " + (", ".join(sorted(variables)) or "(none)"))


def _compressed(path: Path, variables: Mapping[str, Any]) -> tuple[Rows, tuple[int, int, int], Any]:
    basis = variables.get("basis")
    if not isinstance(basis, dict) or "basis" not in basis:
        raise DataError(path, "a struct basis with the fields basis and wave beside mcCOEF", "none")
    matrix = np.asarray(_numbers(path, "basis.basis", basis["basis"]), dtype=float)  # (bands, k)
    coefficients = _numbers(path, "mcCOEF", variables["mcCOEF"])
    shape = coefficients.shape
    if len(shape) == 2 and matrix.ndim == 2 and matrix.shape[1] == 1:
        # MATLAB drops a last axis of one.
        coefficients, shape = np.asarray(coefficients)[..., None], (*shape, 1)
    if matrix.ndim != 2 or len(shape) != 3 or shape[2] != matrix.shape[1]:
        expected = "mcCOEF (rows, cols, k) and basis.basis (bands, k) with one k"
        raise DataError(path, expected, f"{shape} and {matrix.shape}")
    mean = variables.get("imgMean")
    absent = mean is None or np.size(mean) == 0
    mean = np.zeros(len(matrix)) if absent else np.ravel(_numbers(path, "imgMean", mean)).astype(float)
    if len(mean) != len(matrix):
        raise DataError(path, f"imgMean with {len(matrix)} bands, as the basis", f"{len(mean)}")

    def read(start: int, stop: int) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            return np.asarray(coefficients[start:stop], dtype=float) @ matrix.T + mean

    return read, (*shape[:2], len(matrix)), basis.get("wave")


def _checked_wavelengths(path: Path, wave: Any, bands: int) -> np.ndarray:
    if wave is None or isinstance(wave, dict) or np.size(wave) == 0:
        raise DataError(path, "the wavelengths of its bands in nm (wave)", "none")
    nm = np.ravel(_numbers(path, "wave", wave)).astype(float)
    if len(nm) != bands:
        raise DataError(path, f"{bands} wavelengths, one for each band", f"{len(nm)}")
    if not _is_rising(nm):
        raise DataError(path, "rising wavelengths in nm", "others: " + np.array2string(nm, threshold=6))
    return nm


def _is_rising(nm: np.ndarray) -> bool:
    return bool(np.isfinite(nm).all() and (np.diff(nm) > 0).all())


def _survey(path: Path, read: Rows, shape: tuple[int, int, int]) -> np.ndarray:
    """(bands,) largest absolute value of each band; one pass in blocks that also finds NaN."""
    height, width, bands = shape
    if 0 in shape:
        raise DataError(path, "a cube with pixels", f"shape {shape}")
    largest = np.zeros(bands)
    for start, stop in _spans(height, width * bands):
        block = read(start, stop).reshape(-1, bands)
        part = np.maximum(block.max(0), -block.min(0))  # NaN stays NaN in both
        if not np.isfinite(part).all():
            row = start + int(np.argmin(np.isfinite(block).all(1))) // width
            raise DataError(path, "finite radiance", f"NaN or infinity in row {row}")
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


def _checked_illuminant(
    path: Path, illuminant: Any, nm: np.ndarray, keep: slice, shape: tuple[int, int, int], level: float
) -> np.ndarray:
    """(D,) illuminant at the kept bands, in the unit of the radiance, whose size is ``level``."""
    values, wave = _illuminant_fields(illuminant)
    if values is None:
        raise DataError(path, "an illuminant (a vector, or a struct with data and wave)", "none")
    values = _numbers(path, "illuminant", values)
    if values.ndim == 3 and values.shape[:2] == shape[:2]:
        values = _one_light(path, values)
    values = np.ravel(values).astype(float)
    if wave is None:
        if len(values) != shape[2]:
            raise DataError(path, f"an illuminant with {shape[2]} bands, as the cube", f"{len(values)}")
        values = values[keep]
    else:
        wave = np.ravel(_numbers(path, "illuminant.wave", wave)).astype(float)
        if len(wave) != len(values) or not _is_rising(wave):
            expected = "one illuminant value for each of its rising wavelengths"
            raise DataError(path, expected, f"{len(values)} and {len(wave)}")
        if nm[0] < wave[0] or nm[-1] > wave[-1]:
            covered = f"an illuminant that covers {nm[0]:g}–{nm[-1]:g} nm"
            raise DataError(path, covered, f"one at {wave[0]:g}–{wave[-1]:g} nm")
        values = np.interp(nm, wave, values)
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
    if isinstance(illuminant, matlab.Lazy):  # an illuminant image
        return illuminant, wave
    return (None if illuminant is None or np.size(illuminant) == 0 else np.asarray(illuminant)), wave


def _one_light(path: Path, image: Any) -> np.ndarray:
    """The spectrum of an illuminant image (rows, cols, bands) that is one spectrum times a brightness."""
    height, width, bands = image.shape

    def blocks() -> Iterator[np.ndarray]:
        for start, stop in _spans(height, width * bands):
            yield np.asarray(image[start:stop], dtype=float).reshape(-1, bands)

    mean = sum(block.sum(0) for block in blocks()) / (height * width)
    if not np.isfinite(mean).all():
        raise DataError(path, "a finite illuminant", "NaN or infinity")
    worst = 0.0
    for block in blocks():
        weight = block @ mean / (mean @ mean)
        size = np.linalg.norm(block, axis=1)
        deviation = np.linalg.norm(block - weight[:, None] * mean, axis=1)
        worst = max(worst, float((deviation / np.where(size > 0, size, 1)).max()))
    if worst > ONE_LIGHT:
        raise DataError(path, "an illuminant image with one spectrum throughout", f"spectra that differ by {worst:.1%}")
    return mean


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
    if mask is None:
        return np.ones(shape, bool)
    mask = photos.as_mask(np.asarray(_numbers(path, "mask", mask)))
    if mask.shape != shape:
        raise DataError(path, f"a mask of {shape[0]} × {shape[1]}, as the cube", " × ".join(map(str, mask.shape)))
    if not mask.any():
        raise DataError(path, "a mask with at least one pixel", "an empty one")
    return mask


def _simple(value: Any) -> Any:
    """A small variable as a Python value where it is one."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
