"""MATLAB .mat files, v5 and v7.3, as one mapping: arrays with MATLAB's axes, strings, and dictionaries for
structs.

v5 is read by scipy. v7.3 is HDF5 with reversed axes; its large arrays stay on disk and are read by rows.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import scipy.io

from bioface.errors import DataError

SLAB = 8_000_000  # numbers read at once from an array on disk: 64 MB in double precision

# What scipy's and h5py's readers raise on a damaged file, as they happen to stumble.
_DAMAGE = (
    ValueError,
    TypeError,
    OSError,
    IndexError,
    KeyError,
    ArithmeticError,  # OverflowError, ZeroDivisionError
    AttributeError,
    NameError,
    AssertionError,
    MemoryError,
    RuntimeError,  # with NotImplementedError
    UserWarning,
    zlib.error,
    scipy.io.matlab.MatReadError,
)


def read(path: str | Path) -> Mapping[str, Any]:
    """The variables of a .mat file. Those of v7.3 are read when they are asked for.

    Raises
    ------
    DataError : when the file is missing, damaged or no .mat of v5 or v7.3

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
    if h5py.is_hdf5(path):
        return _V73(path)
    with path.open("rb") as file:
        header = file.read(128)
    if header[126:128] not in (b"IM", b"MI"):  # how a v5 file marks its byte order
        raise DataError(path, "a MATLAB .mat file, v5 or v7.3", f"{path.stat().st_size} bytes of something else")
    try:
        with path.open("rb") as file:
            _check_v5(file)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # "returned data may be corrupt"
            content = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False)
    except _DAMAGE as error:
        raise DataError(path, "a whole .mat file", f"a damaged or truncated one ({error})") from error
    return {name: _plain(value) for name, value in content.items() if not name.startswith("__")}


# The parts of a v5 file (MathWorks, "MAT-File Format", table 1-1): types of data, and classes that hold matrices.
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}
_MATRIX, _COMPRESSED = 14, 15
_CONTAINERS = {1, 2, 3, 16, 17}  # cell, struct, object, function handle, opaque
_SPARSE = 5
_DEEPEST = 32  # structs within structs


def _check_v5(file: BinaryIO) -> None:
    """Walk the tags of a v5 file, whose data are skipped: scipy takes them at their word and crashes on some.

    Raises
    ------
    ValueError : a type that does not exist or is out of place, a part that is larger than what it is in
    zlib.error : damaged compression
    """
    order = "<" if file.read(128)[126:] == b"IM" else ">"
    while tag := file.read(8):
        if len(tag) < 8:
            raise ValueError("the file ends within a tag")
        kind, size = struct.unpack(order + "II", tag)
        if kind == _COMPRESSED:
            read = _inflated(file.read, size)
            inner, length = struct.unpack(order + "II", read(8).ljust(8, b"\0"))
            if inner != _MATRIX:
                raise ValueError(f"a part of type {inner} where a variable belongs")
            _check_matrix(read, order, length, 0)
            while read(2**20):
                pass
        elif kind == _MATRIX:
            _check_matrix(file.read, order, size, 0)
        else:
            raise ValueError(f"a part of type {kind} where a variable belongs")


def _inflated(read: Callable[[int], bytes], left: int) -> Callable[[int], bytes]:
    """``read`` of what ``left`` compressed bytes stand for; fewer bytes at their end."""
    inflate, waiting = zlib.decompressobj(), b""

    def inflated(size: int) -> bytes:
        nonlocal left, waiting
        parts, missing = [], size
        while missing and not inflate.eof:
            if not waiting:
                waiting = read(min(left, 2**16))
                left -= len(waiting)
                if not waiting:
                    break
            parts.append(inflate.decompress(waiting, missing))
            missing -= len(parts[-1])
            waiting = inflate.unconsumed_tail
            if not parts[-1] and not waiting and not left:
                break
        if inflate.eof and left:  # what follows the end of the compression belongs to nothing
            while left and (skipped := read(min(left, 2**16))):
                left -= len(skipped)
        return b"".join(parts)

    return inflated


def _check_matrix(read: Callable[[int], bytes], order: str, size: int, depth: int) -> None:
    """One matrix of ``size`` bytes after its tag."""
    if depth > _DEEPEST:
        raise ValueError("structs without end")
    whole, place, matrix_class, is_complex = size, 0, None, False
    while size > 0:
        tag = read(8)
        if len(tag) < 8 or size < 8:
            raise ValueError("a variable ends within a tag")
        size -= 8
        kind, length = struct.unpack(order + "II", tag)
        if kind >> 16:  # a small part has its data inside the tag
            kind, length, data = kind & 0xFFFF, 0, tag[4:]
        else:
            padded = -(-length // 8) * 8
            if length > size:
                raise ValueError(f"a part of {length} bytes in a variable with {size} left")
            size -= min(padded, size)
            if kind == _MATRIX and matrix_class in _CONTAINERS:
                _check_matrix(read, order, length, depth + 1)
                padded -= length
                length, data = 0, b""
            data = read(min(length, 64))
            left = padded - len(data)
            while left > 0 and (skipped := read(min(left, 2**20))):
                left -= len(skipped)
        if kind not in _NUMBERS and not (kind == _MATRIX and matrix_class in _CONTAINERS):
            raise ValueError(f"a part of type {kind}")
        if place == 0:
            if kind != 6 or len(data) != 8:
                raise ValueError("a variable without its class")
            flags = int.from_bytes(data[:4], "little" if order == "<" else "big")
            matrix_class, is_complex = flags & 0xFF, bool(flags & 0x800)
        elif place == 1 and matrix_class in _CONTAINERS:
            size_of = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
            if math.prod(size_of) > whole:
                raise ValueError("more elements than a variable has bytes")
        place += 1
    # flags, size and name; a sparse matrix says where its numbers are, complex ones come twice
    wanted = 0 if matrix_class in _CONTAINERS else 4 + 2 * (matrix_class == _SPARSE) + is_complex
    if whole and place < wanted:
        raise ValueError(f"a variable of {place} parts where it has {wanted}")


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
    """An array (rows, ...) in a v7.3 file, read by rows: ``lazy[start:stop]``.

    On disk MATLAB's axes are reversed, so a few rows lie scattered over the whole file. It is read in slabs
    of rows, of which the last is kept.
    """

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.key, self.shape, self.dtype, self.ndim = path, key, shape, dtype, len(shape)
        self.step = max(1, SLAB // int(np.prod(shape[1:])))
        self._first, self._slab = 0, np.empty((0, *shape[1:]), dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        parts = []
        while start < stop:
            slab, offset = self._around(start)
            part = slab[start - offset : stop - offset]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._slab[:0]])

    def _around(self, row: int) -> tuple[np.ndarray, int]:
        """The slab that holds a row, and its first row."""
        if not self._first <= row < self._first + len(self._slab):
            first = row // self.step * self.step
            self._slab = self._slab[:0]  # free the old one before reading
            try:
                with h5py.File(self.path, "r") as file:
                    self._slab = np.ascontiguousarray(file[self.key][..., first : first + self.step].T)
            except _DAMAGE as error:
                raise DataError(self.path, f"readable values in {self.key}", f"damage ({error})") from error
            self._first = first
        return self._slab, self._first


class _V73(Mapping[str, Any]):
    """Variables of a v7.3 file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with h5py.File(path, "r") as file:
                self.names = [str(name) for name in file if not str(name).startswith("#")]
        except _DAMAGE as error:
            raise DataError(path, "a whole .mat file", f"a damaged or truncated one ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        try:
            with h5py.File(self.path, "r") as file:
                return self._value(file, file[name])
        except _DAMAGE as error:
            raise DataError(self.path, f"a readable variable {name}", f"damage ({error})") from error

    def _value(self, file: h5py.File, node: h5py.Group | h5py.Dataset) -> Any:
        if isinstance(node, h5py.Group):  # a struct
            return {name: self._value(file, node[name]) for name in node}
        kind = node.attrs.get("MATLAB_class", b"")
        if node.attrs.get("MATLAB_empty", 0):
            return "" if kind == b"char" else np.empty(0)
        if node.dtype == h5py.ref_dtype:  # a struct array or a cell: its one element, or its elements
            elements = [self._value(file, file[reference]) for reference in node[()].flat]
            return elements[0] if len(elements) == 1 else elements
        if kind == b"char":
            return "".join(map(chr, node[()].ravel(order="F")))
        if node.ndim == 3 and node.size > SLAB:
            return Lazy(self.path, node.name, node.shape[::-1], node.dtype)
        return node[()].T
