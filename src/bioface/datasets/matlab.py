"""MATLAB .mat files, v5 and v7.3, and HDF5, as dictionaries: arrays, strings, and dictionaries for structs or groups.

v5 is read by scipy, once the tags of the file were found to make sense. v7.3 is HDF5 with reversed axes, which are
brought to MATLAB's order. Large arrays of HDF5 stay on disk and are read by rows.
"""

from __future__ import annotations

import math
import mmap
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from bioface.errors import DataError

SLAB = 8_000_000  # numbers read at once from an array on disk: 64 MB in double precision


def read(path: str | Path) -> dict[str, Any]:
    """The variables of a .mat or HDF5 file, in HDF5 with its attributes.

    Large arrays of HDF5 are :class:`Lazy`: read by rows, when they are asked for.

    Raises
    ------
    DataError : when the file is missing, damaged, or neither HDF5 nor .mat of v5 or v7.3

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.mat"
    ...     scipy.io.savemat(path, {"light": {"wave": [400, 410]}, "name": "D65"})
    ...     read(path)
    {'light': {'wave': array([[400, 410]])}, 'name': 'D65'}
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(path, "a MATLAB .mat file", "no such file")
    is_hdf5 = h5py.is_hdf5(path)
    with path.open("rb") as file:
        header = file.read(128)
    is_matlab = path.suffix.lower() == ".mat" or header.startswith(b"MATLAB")
    if not is_hdf5 and header[126:] not in (b"IM", b"MI"):  # how a v5 file marks its byte order
        raise DataError(
            path, "a MATLAB .mat file, v5 or v7.3, or HDF5", f"{path.stat().st_size} bytes of something else"
        )
    try:
        if not is_hdf5:
            return _read_v5(path, "<" if header[126:] == b"IM" else ">")
        with h5py.File(path, "r") as file:
            return _fields(path, file, file, is_matlab)
    except Exception as error:  # of any type: as scipy and h5py happen to stumble over the damage
        raise DataError(
            path, f"a whole {path.suffix or '.mat'} file", f"a damaged or truncated one ({error})"
        ) from error


def _read_v5(path: Path, order: str) -> dict[str, Any]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for kind, start, stop in _parts(whole, order, 128, len(whole)):
            _check_matrix(whole, order, kind, start, stop)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # "returned data may be corrupt"
        content = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False)
    return {name: _plain(value) for name, value in content.items() if not name.startswith("__")}


# The parts of a v5 file (MathWorks, "MAT-File Format", table 1-1): types of data, and classes that hold matrices.
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}
_UINT32, _MATRIX, _COMPRESSED = 6, 14, 15
_CONTAINERS = {1, 2, 3, 16, 17}  # cell, struct, object, function handle, opaque
_SPARSE = 5
_DEEPEST = 32  # structs within structs


def _parts(data: bytes | mmap.mmap, order: str, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, stop) of the content of each part of ``data[start:stop]``."""
    while start < stop:
        if start + 8 > stop:
            raise ValueError("the file or a variable ends within a tag")
        kind, size = struct.unpack(order + "II", data[start : start + 8])
        if kind >> 16:  # a small part has its data inside the tag
            yield kind & 0xFFFF, start + 4, start + 8
            start += 8
        else:
            start += 8
            if size > stop - start:
                raise ValueError(f"a part of {size} bytes where {stop - start} are left")
            yield kind, start, start + size
            start += size if kind == _COMPRESSED else -(-size // 8) * 8


def _check_matrix(data: bytes | mmap.mmap, order: str, kind: int, start: int, stop: int, depth: int = 0) -> None:
    """Walk the tags of a part of type ``kind``, which is to be a matrix, maybe compressed; its data are skipped.

    It has flags, size and name, then numbers or matrices. scipy takes tags at their word and crashes on some.

    Raises
    ------
    ValueError : a type that does not exist or is out of place, a part that is larger than what it is in
    zlib.error : damaged compression
    """
    if kind == _COMPRESSED and depth == 0:
        inside = zlib.decompress(data[start:stop])
        for k, first, end in _parts(inside, order, 0, len(inside)):
            _check_matrix(inside, order, k, first, end, 1)
        return
    if kind != _MATRIX or depth > _DEEPEST:
        raise ValueError(f"a part of type {kind} where a variable belongs, or structs without end")
    parts = list(_parts(data, order, start, stop))
    if not parts:
        return
    kind, first, end = parts[0]
    if kind != _UINT32 or end - first != 8:
        raise ValueError("a variable without its class")
    (flags,) = struct.unpack(order + "I", data[first : first + 4])
    matrix_class, is_complex = flags & 0xFF, bool(flags & 0x800)
    holds_matrices = matrix_class in _CONTAINERS
    # flags, size and name; a sparse matrix says where its numbers are, complex ones come twice
    wanted = 1 if holds_matrices else 4 + 2 * (matrix_class == _SPARSE) + is_complex
    if len(parts) < wanted:
        raise ValueError(f"a variable of {len(parts)} parts where it has {wanted}")
    if holds_matrices and len(parts) > 1:
        _, first, end = parts[1]
        size = struct.unpack(f"{order}{(end - first) // 4}I", data[first : end - (end - first) % 4])
        if math.prod(size) > stop - start:
            raise ValueError("more elements than a variable has bytes")
    for kind, first, end in parts[1:]:
        if kind == _MATRIX and holds_matrices:
            _check_matrix(data, order, kind, first, end, depth + 1)
        elif kind not in _NUMBERS:
            raise ValueError(f"a part of type {kind}")


def _plain(value: Any) -> Any:
    """scipy's view of a MATLAB value as arrays, strings and dictionaries."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.flat[0]  # a struct or a cell with one element
    if isinstance(value, scipy.io.matlab.mat_struct):
        return {name: _plain(getattr(value, name)) for name in value._fieldnames}  # type: ignore[attr-defined]  # set by loadmat
    if isinstance(value, np.ndarray) and value.dtype.kind in "US" and value.size <= 1:
        return str(value.flat[0]) if value.size else ""
    return value


class Lazy:
    """An array in an HDF5 file, read along its first axis: ``lazy[start:stop]``.

    Axes may stand in another order than on disk (MATLAB's are reversed there), so that a few rows lie scattered over
    the whole file. It is read in slabs of rows, of which the last is kept.

    Parameters
    ----------
    axes : which axis on disk each axis is
    """

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype, axes: tuple[int, ...]):
        self.path, self.key, self.shape, self.dtype, self.ndim, self.axes = path, key, shape, dtype, len(shape), axes
        self.step = max(1, SLAB // int(np.prod(shape[1:])))
        self._first, self._slab = -1, np.empty((0, *shape[1:]), dtype)

    def transpose(self, *order: int) -> Lazy:
        """The same with its axes in another order, as NumPy's."""
        shape, axes = ([of[i] for i in order] for of in (self.shape, self.axes))
        return Lazy(self.path, self.key, tuple(shape), self.dtype, tuple(axes))

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        firsts = range(start // self.step * self.step, stop, self.step)
        parts = [self._slab_from(first)[max(0, start - first) : stop - first] for first in firsts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._slab[:0]])

    def _slab_from(self, first: int) -> np.ndarray:
        """The slab that begins with row ``first``."""
        if self._first != first:
            self._first, self._slab = -1, self._slab[:0]  # free the old one before reading
            where = [slice(None)] * self.ndim
            where[self.axes[0]] = slice(first, first + self.step)
            try:
                with h5py.File(self.path, "r") as file:
                    self._slab = np.ascontiguousarray(file[self.key][tuple(where)].transpose(self.axes))
            except Exception as error:
                raise DataError(self.path, f"readable values in {self.key}", f"damage ({error})") from error
            self._first = first
        return self._slab


def _fields(path: Path, file: h5py.File, group: h5py.Group, is_matlab: bool) -> dict[str, Any]:
    """The members of a group, and the attributes of it and of them, as wavelengths are kept in some files."""
    nodes = {name: group[name] for name in map(str, group) if not name.startswith("#")}
    notes = {} if is_matlab else {k: v for node in (group, *nodes.values()) for k, v in node.attrs.items()}
    notes |= {f"{n}.{k}": node.attrs[k] for n, node in nodes.items() for k in ("unit", "units") if k in node.attrs}
    return notes | {name: _value(path, file, node, is_matlab) for name, node in nodes.items()}


def _value(path: Path, file: h5py.File, node: h5py.Group | h5py.Dataset, is_matlab: bool) -> Any:
    """One variable, or a part of one."""
    if isinstance(node, h5py.Group):  # a struct
        return _fields(path, file, node, is_matlab)
    kind = node.attrs.get("MATLAB_class", b"")
    if node.attrs.get("MATLAB_empty", 0):
        return "" if kind == b"char" else np.empty(0)
    if h5py.check_string_dtype(node.dtype):
        text = node.asstr()[()]
        return text if isinstance(text, str) else np.asarray(text, dtype=np.str_)
    if h5py.check_ref_dtype(node.dtype):  # a struct array or a cell: its one element, or its elements
        elements = [_value(path, file, file[reference], is_matlab) for reference in node[()].flat]
        return elements[0] if len(elements) == 1 else elements
    if kind == b"char":
        return "".join(map(chr, node[()].ravel(order="F")))
    axes = tuple(range(node.ndim))[:: -1 if is_matlab else 1]
    if node.ndim == 3 and node.size > SLAB:
        return Lazy(path, node.name, tuple(node.shape[i] for i in axes), node.dtype, axes)
    return np.transpose(node[()], axes)
