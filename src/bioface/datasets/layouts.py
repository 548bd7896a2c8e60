"""Multispectral cubes as files store them: each layout becomes a :class:`Stored`, which ``cubes`` checks.

* *.mat* of MATLAB v5 or v7.3 and plain *HDF5*, told apart by their variables (any case):

  =========================================== =================================================================
  ``mcCOEF``, ``basis.basis``, ``basis.wave`` ISET's compressed radiance: coefficients (rows, cols, k) times
                                              basis (bands, k), plus ``imgMean`` (bands) where there is one
  ``scene``                                   ISETCam's struct, with ``data.photons`` and ``spectrum.wave``
  :data:`RADIANCE`                            radiance, which needs ``illuminant``
  :data:`REFLECTANCE`                         reflectance: radiance under a light of 1 at every band
  :data:`EITHER`, or the only 3-D array       radiance where there is an ``illuminant``, else reflectance
  =========================================== =================================================================

  Wavelengths are one of :data:`WAVES`; in HDF5 they may be an attribute. Their unit may be a variable or attribute
  such as ``wavelength_unit``, or the attribute ``units`` of theirs.
* *ENVI*: a header ``NAME.hdr`` beside its data, either of which is given. Reflectance, over its scale factor.
* *A folder of pictures* (PNG or TIFF), one a band, whose names end in a number: of nm (``face_420nm.png``), or
  1–31 for 400–700 nm as in the CAVE data set (Yasuma et al. 2010). Reflectance, 1 being the lightest that fits.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioface.datasets import matlab, photos
from bioface.errors import DataError

REFLECTANCE = ("reflectance", "ref", "refl")
RADIANCE = ("photons", "radiance", "rad")
EITHER = ("cube", "hypercube", "hsi", "hyper_image", "bands")
WAVES = ("wave", "wavelength", "wavelengths", "bands", "lambda", "wl", "nm")
ENDINGS = (".mat", ".h5", ".hdf5", ".hdr")  #: of the files that hold a cube or its header
PICTURES = (".png", ".tif", ".tiff")
CAVE = np.arange(400.0, 701, 10)  # nm


@dataclasses.dataclass(frozen=True)
class Stored:
    """A cube as a file has it, unchecked."""

    values: Any  #: three axes; has ``shape``, ``transpose`` and rows by slicing
    wavelengths: Any = None  #: what the file holds, None where it holds none
    illuminant: Any = None  #: the same
    mask: Any = None  #: the same
    axes: str | None = None  #: "rcb" for rows, columns, bands where the layout says so, else None
    is_reflectance: bool = False  #: whether ``values`` are, so that no illuminant is needed
    notes: tuple[str, ...] = ()  #: what had to be assumed, a sentence each
    unit: str = ""  #: of the wavelengths, as the file states it; "" where it does not
    light_unit: str = ""  #: the same of the illuminant's wavelengths


def read(path: Path) -> Stored:
    """What a file or folder stores; DataError if it is missing, damaged, or holds no cube."""
    if path.is_dir():
        return _pictures(path)
    if not path.is_file():
        raise DataError(path, "a multispectral cube (see data/README.md)", "no such file")
    if path.suffix.lower() == ".hdr":
        return _envi(path, None)
    for header in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        if path.suffix.lower() not in ENDINGS and header.is_file():
            return _envi(header, path)
    return _of_variables(path, matlab.read(path))


def pictures_in(folder: Path) -> list[Path]:
    """What may be pictures of bands, anywhere below a folder but in what begins with a dot."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in PICTURES]
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def mask_beside(path: Path) -> Path | None:
    """``NAME_mask`` beside a cube, in any format of pictures; None where there is none, DataError if there are several.

    Letters may be small or capital, unless that would make it the mask of several cubes.
    """
    folder, name = path.parent, path.name if path.is_dir() else path.stem
    endings = (*PICTURES, ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
    found = [p for p in folder.iterdir() if p.stem.lower() == f"{name}_mask".lower() and p.suffix.lower() in endings]
    found = [p for p in found if p.stem.startswith(name)] or found
    if len(found) > 1:
        raise DataError(path, "one mask beside it", " and ".join(sorted(p.name for p in found)))
    return found[0] if found else None


def numbers(path: Path, name: str, value: Any) -> Any:
    """The value, if it is an array of real numbers; DataError if not."""
    kind = getattr(value, "dtype", np.asarray(value).dtype).kind
    if isinstance(value, dict) or kind not in "biuf":
        found = "a struct" if isinstance(value, dict) else "text" if kind in "US" else f"something else ({kind})"
        raise DataError(path, f"real numbers in {name}", found)
    return value


def _of_variables(path: Path, variables: Mapping[str, Any]) -> Stored:
    variables, is_scene = _unwrapped(variables)
    lowered = {name.lower(): value for name, value in variables.items()}
    light = lowered.get("illuminant")
    common: dict[str, Any] = {"mask": lowered.get("mask"), "illuminant": light}
    if "mccoef" in lowered:
        product, unit = Product(path, lowered), _unit(lowered["basis"])
        common |= {"unit": unit, "light_unit": _unit(light, default=unit)}
        return Stored(product, product.wavelengths, axes="rcb", **common)
    named = [n for n in (*REFLECTANCE, *RADIANCE, *EITHER, "data") if _is_cube(n, lowered.get(n))]
    solid = [n for n, value in lowered.items() if getattr(value, "ndim", 0) == 3]
    name = named[0] if named else solid[0] if len(solid) == 1 else ""
    if not name:
        expected = "a cube: the variables mcCOEF and basis, or one of " + ", ".join((*REFLECTANCE, *RADIANCE, *EITHER))
        raise DataError(path, expected, "the variables " + (", ".join(sorted(variables)) or "(none)"))
    values = numbers(path, name, lowered[name])
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise DataError(path, f"{name} of shape (rows, cols, bands)", f"{values.dtype} {values.shape}")
    waves = [n for n in WAVES if n != name and lowered.get(n) is not None]
    unit = _unit(lowered, waves[0]) if waves else ""
    assumed = light is None and name not in (*REFLECTANCE, *RADIANCE, "data")
    return Stored(
        values,
        lowered[waves[0]] if waves else None,
        axes="rcb" if is_scene else None,
        is_reflectance=name in REFLECTANCE or assumed,
        notes=(f"no illuminant in it, so {name} is taken for reflectance",) if assumed else (),
        unit=unit,
        light_unit=_unit(light, default=unit),
        **common,
    )


def _unit(variables: Any, wave: str = "wave", default: str = "") -> str:
    """The unit that is stated of the wavelengths ``wave``, in a variable such as ``wave_unit``.

    One named ``unit`` alone may be that of the radiance, and counts where it is a frequency's.
    """
    for name, value in variables.items() if isinstance(variables, Mapping) else ():
        found = re.fullmatch(rf"(({re.escape(wave)}|wave(length)?s?)[._ ]?)?units?", name.lower())
        first = next(iter(np.ravel(np.asarray(value, dtype=object))), "") if found else ""
        text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
        if found and text and (found[1] or re.fullmatch("[tgm]?hz", text.lower())):
            return text
    return default


def _is_cube(name: str, value: Any) -> bool:
    """``bands`` can be the cube or its wavelengths, and ``data`` a struct."""
    return value is not None and not isinstance(value, dict) and (name != "bands" or np.ndim(value) == 3)


def _unwrapped(variables: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """With the fields of a ``scene``, or of the one struct that is all of a file, as variables; whether it is one."""
    scene = variables.get("scene", next(iter(variables.values())) if len(variables) == 1 else None)
    if not isinstance(scene, dict):
        return variables, False
    data, spectrum = scene.get("data"), scene.get("spectrum")
    fields = {**scene, **(data if isinstance(data, dict) else {})}
    if isinstance(spectrum, dict):
        fields.setdefault("wave", spectrum.get("wave"))
        fields.setdefault("wave_unit", spectrum.get("unit", spectrum.get("units", "")))
    return {**variables, **fields}, "scene" in variables


class Product:
    """ISET's compressed radiance (rows, cols, bands), multiplied out for the rows that are asked for."""

    def __init__(self, path: Path, variables: Mapping[str, Any]):
        basis = variables.get("basis")
        if not isinstance(basis, dict) or "basis" not in basis:
            raise DataError(path, "a struct basis with the fields basis and wave beside mcCOEF", "none")
        matrix = np.asarray(numbers(path, "basis.basis", basis["basis"]), dtype=float)  # (bands, k)
        coefficients = numbers(path, "mcCOEF", variables["mccoef"])
        shape = coefficients.shape
        if len(shape) == 2 and matrix.ndim == 2 and matrix.shape[1] == 1:
            # MATLAB drops a last axis of one.
            coefficients, shape = np.asarray(coefficients)[..., None], (*shape, 1)
        if matrix.ndim != 2 or len(shape) != 3 or shape[2] != matrix.shape[1]:
            expected = "mcCOEF (rows, cols, k) and basis.basis (bands, k) with one k"
            raise DataError(path, expected, f"{shape} and {matrix.shape}")
        mean = variables.get("imgmean")
        absent = mean is None or np.size(mean) == 0
        mean = np.zeros(len(matrix)) if absent else np.ravel(numbers(path, "imgMean", mean)).astype(float)
        if len(mean) != len(matrix):
            raise DataError(path, f"imgMean with {len(matrix)} bands, as the basis", f"{len(mean)}")
        self.coefficients, self.matrix, self.mean = coefficients, matrix, mean
        self.shape, self.dtype, self.wavelengths = (*shape[:2], len(matrix)), np.dtype(float), basis.get("wave")

    def transpose(self, *order: int) -> Product:
        """Itself: its axes are known."""
        return self

    def __getitem__(self, rows: slice) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            return np.asarray(self.coefficients[rows], dtype=float) @ self.matrix.T + self.mean


def _envi(header: Path, data: Path | None) -> Stored:
    from spectral.io import envi

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names in capitals, which it makes small
            image = envi.open(str(header), None if data is None else str(data))
            values = image.open_memmap(interleave="bip")
        wave, factor = image.metadata.get("wavelength"), float(image.scale_factor)
        unit = _unit(image.metadata, "wavelength")
    except Exception as error:  # of any type: as spectral happens to stumble over the damage
        raise DataError(header, "an ENVI header with its data beside it", f"something else ({error})") from error
    # over a light of that height the numbers are reflectances
    light = np.full(values.shape[2], factor)
    notes = ("an ENVI file states no illuminant: taken for reflectance",)
    return Stored(values, wave, light, axes="rcb", notes=notes, unit=unit)


def _pictures(folder: Path) -> Stored:
    found = pictures_in(folder)
    named = [(float(n[1]), p) for p in found if (n := re.search(r"(\d+(?:\.\d+)?) *(?:nm)?$", p.stem, re.IGNORECASE))]
    if not named:
        raise DataError(folder, "pictures of bands whose names end in a number (see data/README.md)", "none")
    named.sort()
    bands, files = np.array([n for n, _ in named]), [p for _, p in named]
    planes = [_plane(path) for path in files]
    for path, plane in zip(files, planes, strict=True):
        if (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            expected = f"{planes[0].shape} {planes[0].dtype} as {files[0].name}"
            raise DataError(path, expected, f"{plane.shape} {plane.dtype}")
    notes: tuple[str, ...] = ("a folder of pictures states no illuminant: taken for reflectance",)
    wave = bands if bands[0] >= 200 else None
    if wave is None and np.array_equal(bands - bands[0], np.arange(len(CAVE))):
        wave = CAVE
        notes += ("31 numbered pictures: taken for 400–700 nm in steps of 10, as in CAVE",)
    values = np.stack(planes, -1)
    light = np.full(len(files), np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1.0)
    return Stored(values, wave, light, axes="rcb", notes=notes)


def _plane(path: Path) -> np.ndarray:
    """(H, W) numbers of one picture, as they are stored."""
    plane = np.asarray(photos.open_picture(path))
    if plane.ndim == 3 and (plane[..., :3] == plane[..., :1]).all():
        plane = plane[..., 0]  # grey in three channels
    if plane.ndim != 2 or plane.dtype.kind not in "uif":
        raise DataError(path, "a grey picture of one band", f"{plane.dtype} {plane.shape}")
    return plane.astype(np.uint16) if plane.dtype.kind == "i" else plane  # how Pillow gives some 16-bit pictures
