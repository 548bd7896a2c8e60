"""Faces in the layout of Neural Face Editing (NFE): the training set of the paper, streamed from HDF5.

An image file ``zx_7_d10_inmc_celebA_NN.hdf5`` holds ``zx_7``, (N, 10, 64, 64) float64 in [0, 1]: display sRGB
(channels 0–2), surface normals stored as (n + 1) / 2 (3–5), mask (6) and a coordinate map (7–9, not light).
Its partner ``zx_7_d3_lrgb_celebA_NN.hdf5`` holds ``zx_7``, (N, 3, 9): second-order spherical harmonics
lighting the red, green and blue channel. A file takes about 3.2 GB: nothing here reads one whole.

Reference: Shu et al. (2017), "Neural Face Editing with Intrinsic Image Disentangling", arXiv 1704.04131.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bioface import arrays, paths
from bioface.errors import BiofaceError, DataError, unknown_name

KEY = "zx_7"  #: the one data set in each file
SIZE = 64  #: height and width in pixels
CHANNELS = 10
IMAGE_NAME = re.compile(r"zx_7_d10_inmc_celebA_(?P<number>\d+)\.hdf5")

#: Which file numbers make up each split. The paper trains on files 01–05 and 20 (50 765 faces) and names no
#: split; here 05 validates and 20, the smallest (2 533 faces), tests. CelebA's people are not kept apart.
SPLITS: dict[str, tuple[int, ...]] = {"train": (1, 2, 3, 4), "validation": (5,), "test": (20,)}

#: The channels of an image file.
LAYOUT = {"RGB": slice(0, 3), "normals": slice(3, 6), "mask": slice(6, 7), "coordinates": slice(7, 10)}

Index = int | np.integer | slice | np.ndarray | Sequence[int]

BLOCK = 256  # neighbouring rows that are shuffled among themselves
GROUP = 8  # rows of float64 read and decoded at once: 2.6 MB, which stay in the cache
THREADS = min(4, os.cpu_count() or 1)  # that decode
TOLERANCE = 1e-6  # what single precision and image resizing may add to the ends of [0, 1]


@dataclasses.dataclass(frozen=True)
class Faces:
    """Some faces, decoded and checked. Some of them are Faces again."""

    rgb: np.ndarray  #: (N, 64, 64, 3) float32, display sRGB in [0, 1]
    normals: np.ndarray  #: (N, 64, 64, 3) float32, unit length in ``mask``, zero elsewhere; x right, y up, z to us
    mask: np.ndarray  #: (N, 64, 64) bool, the face
    lighting: np.ndarray  #: (N, 3, 9) float32, spherical harmonics of R, G and B: 1, y, z, x, xy, yz, 3z²−1, xz, x²−y²
    coordinates: np.ndarray  #: (N, 64, 64, 3) float32 in [0, 1], a coordinate map
    names: tuple[str, ...]  #: N strings ``file:row``
    truth: Any = None  #: what the twin knows besides (arrays with N rows), None for real data

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, index: Index) -> Faces:
        return arrays.take(self, _as_index(index, len(self)))

    @staticmethod
    def concatenate(parts: Sequence[Faces]) -> Faces:
        """All faces of all parts, one at least, in order."""
        return arrays.join(parts)


def _as_index(index: Any, length: int) -> slice | np.ndarray:
    """A slice as it is, for a view; else row numbers in [0, length), a single number as one row."""
    if isinstance(index, slice):
        return index
    rows = np.asarray(index)
    return np.atleast_1d(np.arange(length)[rows if rows.size else []])


def find(folder: str | Path | None = None) -> dict[int, Path]:
    """The image files in a folder (default ``data/nfe``) by number, rising."""
    folder = paths.data() / "nfe" if folder is None else Path(folder)
    named = ((IMAGE_NAME.fullmatch(file.name), file) for file in folder.glob("*.hdf5"))
    return dict(sorted((int(name["number"]), file) for name, file in named if name))


def _partner(images: Path) -> Path:
    """Where the light file of an image file belongs."""
    name = IMAGE_NAME.fullmatch(images.name)
    if not name:
        raise DataError(images, "a name like zx_7_d10_inmc_celebA_01.hdf5", images.name)
    return images.with_name(f"zx_7_d3_lrgb_celebA_{name['number']}.hdf5")


def open_split(split: str | None = None, folder: str | Path | None = None) -> NFE:
    """Stream one split ("train", "validation", "test", see :data:`SPLITS`), or every file when None.

    BiofaceError on an unknown split, DataError when none of its files is in the folder.
    """
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    folder = paths.data() / "nfe" if folder is None else Path(folder)
    files = find(folder)
    chosen = [file for number, file in files.items() if split is None or number in SPLITS[split]]
    if not chosen:
        wanted = "any number" if split is None else " or ".join(f"{n:02d}" for n in SPLITS[split])
        found = ", ".join(f"{number:02d}" for number in files) or "none"
        expected = f"zx_7_d10_inmc_celebA_NN.hdf5 with NN = {wanted} (see data/README.md)"
        raise DataError(folder, expected, f"file numbers {found}")
    return NFE(chosen)


class NFE:
    """Faces streamed from pairs of files: indexing and :meth:`batches` read what they give.

    A file is opened for the moment of reading, so several processes can, as in a torch DataLoader::

        faces = nfe.open_split("train")
        rows = faces.batch_rows(64, shuffle=True, seed=epoch)  # neighbours: the disk is read in order
        for batch in DataLoader(faces, batch_sampler=rows, collate_fn=Batch.of, num_workers=2):
            ...  # a bioface.objective.Batch of tensors

    Parameters
    ----------
    image_files : one path or several; the light files are those of the same numbers beside them

    Raises
    ------
    DataError : a file that is missing, cut short, not HDF5, or of another name, shape or key; lights of another length.
        Values are checked when they are read: NaN or outside [0, 1] raises then.
    """

    def __init__(self, image_files: str | Path | Sequence[str | Path]):
        files = [image_files] if isinstance(image_files, str | Path) else image_files
        self.image_files = tuple(map(Path, files))
        self.light_files = tuple(map(_partner, self.image_files))
        counts = [0]
        for images, lights in zip(self.image_files, self.light_files, strict=True):
            counts.append(_check_header(images, (CHANNELS, SIZE, SIZE)))
            if (found := _check_header(lights, (3, 9))) != counts[-1]:
                raise DataError(lights, f"{counts[-1]} lights, one for each face of {images.name}", str(found))
        self._starts = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Index) -> Faces:
        rows = np.arange(len(self))[_as_index(index, len(self))]
        rising, back = np.unique(rows, return_inverse=True)  # what HDF5 reads well
        shape = (len(rising), SIZE, SIZE)
        rgb, normals, coordinates = (np.empty((*shape, 3), np.float32) for _ in range(3))
        lighting, parts = np.empty((len(rising), 3, 9), np.float32), list(self._by_file(rising))
        names = tuple(f"{self.image_files[file].name}:{row}" for file, local, _ in parts for row in local)
        faces = Faces(rgb, normals, np.empty(shape, bool), lighting, coordinates, names)
        for file, local, mine in parts:
            _decode_images(self.image_files[file], local, faces[mine])
            lighting[mine] = _checked_lights(self.light_files[file], local)
        return faces if np.array_equal(rising, rows) else faces[back]

    def __getitems__(self, rows: Index) -> Faces:
        """The rows of a batch, as a torch DataLoader asks for them: all in one reading."""
        return self[rows]

    def raw(self, index: Index) -> np.ndarray:
        """(n, 10, 64, 64): the stored channels, checked but not decoded."""
        rows = np.arange(len(self))[_as_index(index, len(self))]
        rising, back = np.unique(rows, return_inverse=True)
        parts = [_checked_images(self.image_files[file], local) for file, local, _ in self._by_file(rising)]
        return np.concatenate(parts)[back] if parts else np.empty((0, CHANNELS, SIZE, SIZE))

    def batches(self, size: int, shuffle: bool = False, seed: int = 0) -> Iterator[Faces]:
        """Every face once, ``size`` at a time, fewer at the end; BiofaceError when that is not positive.

        Files are read in blocks of neighbouring rows. ``shuffle`` permutes the blocks and the faces within
        each, which is fast on disk and nearly as good as a full shuffle; ``seed`` fixes the order.
        """
        return (self[rows] for rows in self.batch_rows(size, shuffle, seed))

    def batch_rows(self, size: int, shuffle: bool = False, seed: int = 0) -> list[np.ndarray]:
        """The row numbers of each of :meth:`batches`: the ``batch_sampler`` of a torch DataLoader."""
        if size < 1:
            raise BiofaceError(f"expected a positive batch size, found {size}")
        order, random = np.arange(len(self)), np.random.default_rng(seed)
        if shuffle:
            starts = np.arange(0, len(self), BLOCK)
            random.shuffle(starts)
            order = np.concatenate([random.permutation(order[start : start + BLOCK]) for start in starts])
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _by_file(self, rising: np.ndarray) -> Iterator[tuple[int, np.ndarray, slice]]:
        """(file, its rows, their places) for rising rows, one file after the other."""
        ends = np.searchsorted(rising, self._starts)
        for file, (first, last) in enumerate(itertools.pairwise(ends)):
            if first < last:
                yield file, rising[first:last] - self._starts[file], slice(first, last)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for as long as it is read; the error says what is wrong with it."""
    if not path.is_file():
        raise DataError(path, "an NFE file in HDF5 (see data/README.md)", "no such file")
    if not h5py.is_hdf5(path):
        raise DataError(path, "an HDF5 file", f"{path.stat().st_size} bytes of something else")
    expected, found = "a whole HDF5 file", "a damaged or truncated one"
    try:
        with h5py.File(path, "r") as file:
            expected, found = "readable rows", "damage"
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(path, expected, f"{found} ({error})") from error


def _check_header(path: Path, shape: tuple[int, ...]) -> int:
    """N, after checking the key, the (N, *shape) and the type without reading a value."""
    with _opened(path) as file:
        if KEY not in file:
            raise DataError(path, f"the key {KEY!r}", "the keys " + (", ".join(map(repr, file)) or "(none)"))
        data = file[KEY]
        is_array = isinstance(data, h5py.Dataset)
        if not is_array or data.shape[1:] != shape:
            wanted = f"{KEY!r} of shape (N, {', '.join(map(str, shape))})"
            raise DataError(path, wanted, f"shape {data.shape}" if is_array else "a group")
        if data.dtype.kind != "f":
            raise DataError(path, f"{KEY!r} in floating point", f"{data.dtype}")
        if len(data) == 0:
            raise DataError(path, "at least one row", "none")
        return len(data)


def _runs(rising: np.ndarray, longest: int) -> Iterator[tuple[int, int, int]]:
    """Rising rows as (place of the first, first row, end) of neighbours, at most ``longest`` at once."""
    breaks = np.flatnonzero(np.diff(rising) != 1) + 1
    for first, last in itertools.pairwise([0, *breaks.tolist(), len(rising)]):
        for place in range(first, last, longest):
            row = int(rising[place])
            yield place, row, row + min(longest, last - place)


def _read_rows(path: Path, rising: np.ndarray) -> np.ndarray:
    contiguous = rising[-1] - rising[0] + 1 == len(rising)
    with _opened(path) as file:
        return file[KEY][slice(int(rising[0]), int(rising[-1]) + 1) if contiguous else rising]


def _checked_images(path: Path, rows: np.ndarray) -> np.ndarray:
    """(n, 10, 64, 64) stored channels of rising rows; the error says what is wrong, and where."""
    images = _read_rows(path, rows)
    for what, channels in LAYOUT.items():
        part = images[:, channels]
        low, high = part.min((1, 2, 3)), part.max((1, 2, 3))  # NaN where there is one
        bad = ~(np.isfinite(low) & np.isfinite(high))
        if bad.any():
            raise DataError(path, f"finite {what}", f"NaN or infinity in row {rows[int(bad.argmax())]}")
        bad = (low < -TOLERANCE) | (high > 1 + TOLERANCE)
        if bad.any():
            found = f"{low.min():.4g} to {high.max():.4g}, first in row {rows[int(bad.argmax())]}"
            raise DataError(path, f"{what} stored within [0, 1]", found)
    return images


def _checked_lights(path: Path, rows: np.ndarray) -> np.ndarray:
    lights = _read_rows(path, rows)
    # what single precision cannot hold is no light either
    finite = (np.abs(lights.reshape(len(lights), -1)) <= np.finfo(np.float32).max).all(1)
    if not finite.all():
        raise DataError(path, "finite lighting", f"NaN or infinity in row {rows[int(np.argmin(finite))]}")
    return lights


def decode_normals(stored: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit normals from their storage as (n + 1) / 2; zero outside the mask.

    Parameters
    ----------
    stored : (..., 3) in [0, 1]
    mask : (...) bool

    >>> decode_normals(np.array([[0.5, 0.5, 1.0], [0.5, 1.0, 0.5]]), np.array([True, False])).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    inside = mask[..., None].astype(stored.dtype)
    normals = stored * (2 * inside)  # 2 stored − 1, or 0
    normals -= inside
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    length = np.sqrt(x * x + y * y + z * z)
    # A stored (½, ½, ½) has no direction; it stays zero rather than becoming NaN.
    normals /= np.maximum(length, np.finfo(length.dtype).tiny)[..., None]
    return normals


def _decode_images(path: Path, rising: np.ndarray, faces: Faces) -> None:
    """Check and decode the images of some rows into ``faces``: a few at a time, on several threads.

    NumPy and HDF5 let other threads work meanwhile. The threads end with this call, so that nothing is in the way
    of a fork.
    """
    with _opened(path) as file:
        stored = file[KEY]
        step = GROUP if stored.chunks is None else min(max(GROUP, stored.chunks[0]), BLOCK)  # a chunk is read whole
        runs = list(_runs(rising, step))
        threads = max(1, min(THREADS, len(runs) // 2))

        def decode(share: list[tuple[int, int, int]]) -> None:
            buffer = np.empty((min(step, len(rising)), *stored.shape[1:]), stored.dtype)
            for place, start, stop in share:
                images = buffer[: stop - start]
                stored.read_direct(images, np.s_[start:stop])
                if not (images.min() >= -TOLERANCE and images.max() <= 1 + TOLERANCE):  # NaN is neither
                    _checked_images(path, rising)  # says what it is
                _decode(images.transpose(0, 2, 3, 1), faces[place : place + len(images)])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, [runs[i::threads] for i in range(threads)]))


def _decode(stored: np.ndarray, faces: Faces) -> None:
    """Stored channels (n, 64, 64, 10) into the arrays of ``faces``; channel by channel is three times as fast."""
    np.greater(stored[..., 6], 0.5, out=faces.mask)
    normals = decode_normals(stored[..., 3:6], faces.mask)
    for c in range(3):
        faces.rgb[..., c] = stored[..., c]
        faces.normals[..., c] = normals[..., c]
        faces.coordinates[..., c] = stored[..., 7 + c]
    np.clip(faces.rgb, 0, 1, out=faces.rgb)  # within TOLERANCE of [0, 1] already
