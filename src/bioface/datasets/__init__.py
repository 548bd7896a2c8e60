"""Every data set behind one call: ``load("twin"|"nfe"|"iset", split=, limit=)``.

``twin`` is rendered with known truth and needs no download; ``nfe`` (CelebA with normals) and ``iset``
(multispectral faces) are real and placed by the reader, see ``data/README.md``. Measured spectra are in
:mod:`bioface.datasets.skin_spectra`, photos in :mod:`bioface.datasets.photos`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

from bioface.datasets import cubes, nfe, registry, skin_spectra
from bioface.errors import BiofaceError, DataError, unknown_name
from bioface.paths import data

_LATE = ("twin", "heads", "photos")  # modules that bring ray casting or pictures with them


def __getattr__(name: str) -> ModuleType:
    if name not in _LATE:
        raise AttributeError(f"module 'bioface.datasets' has no attribute {name!r}")
    return importlib.import_module(f"bioface.datasets.{name}")


SPLITS = ("train", "validation", "test")
IN_MEMORY = 20_000  # faces: 3 GB


def _nfe(split: str | None, limit: int | None) -> nfe.Faces:
    stream = nfe.open_split(split)
    count = len(stream) if limit is None else min(limit, len(stream))
    if count > IN_MEMORY:
        raise BiofaceError(
            f"expected at most {IN_MEMORY} faces in memory, found {count}: "
            f"give a limit, or stream them with bioface.datasets.nfe.open_split({split!r})"
        )
    return stream[:count]


def _iset(split: str | None, limit: int | None) -> cubes.Cubes:
    if split in ("train", "validation"):
        raise BiofaceError(f"expected the split 'test' or None for 'iset', a test set, found {split!r}")
    if files := cubes.find():
        return cubes.Cubes(files[:limit])
    raise DataError(data() / "iset", "ISET faces *.mat (see data/README.md)", "none")


#: From a split, None for all, and a limit, None for no limit: the samples.
LOADERS: dict[str, Callable[[str | None, int | None], nfe.Faces | cubes.Cubes]] = {
    "twin": lambda split, limit: __getattr__("twin").load(split, limit),
    "nfe": _nfe,
    "iset": _iset,
}
NAMES = tuple(LOADERS)


def load(name: str, split: str | None = None, limit: int | None = None) -> nfe.Faces | cubes.Cubes:
    """Samples of one data set.

    Parameters
    ----------
    name : "twin", "nfe" or "iset"
    split : "train", "validation" or "test"; None for all. NFE is split by file number (01–04, 05, 20); ISET is a test
        set and has no other split
    limit : at most so many samples, the first ones

    Returns
    -------
    ``nfe.Faces`` of twin (with ``truth``) and nfe; ``cubes.Cubes`` of iset, a sequence of cubes read one at a time.

    Raises
    ------
    BiofaceError : an unknown name or split, a limit below 1, or more faces than fit in memory (``nfe.open_split``
        streams those)
    DataError : the files are absent or damaged; the message says where they belong
    """
    if name not in NAMES:
        raise unknown_name("data set", name, NAMES)
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise BiofaceError(f"expected a limit of at least 1, found {limit}")
    return LOADERS[name](split, limit)


def available() -> dict[str, bool]:
    """Which real data sets are in place: by name, without opening them."""
    return {name: registry.is_placed(name) for name in ("nfe", "iset", "cheeks", "cameras", "issa")}


__all__ = ["LOADERS", "NAMES", "SPLITS", "available", "cubes", "load", "nfe", "registry", "skin_spectra"]
