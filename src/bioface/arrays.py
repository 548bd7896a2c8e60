"""NumPy in, NumPy out; torch in, torch out: the physics is written in torch, and takes NumPy arrays as well.

Plain numbers are in single precision; double precision stays double.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import torch

from bioface.errors import BiofaceError, DataError

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

# Numbers below 1e-38 are slow on most processors, and strongly absorbing skin makes many of them: a
# training run took three times as long with them. To the study they are zero.
torch.set_flush_denormal(True)
# A forked process has none of the threads that torch had started, and would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """New tensors lie there; a context of torch's makes each of its calls slower, so none where none is needed."""
    return contextlib.nullcontext() if torch.get_default_device().type == device.type else device


@contextlib.contextmanager
def torch_as_it_starts() -> Iterator[None]:
    """Gradients on and new tensors on the CPU in single precision, whatever the caller has switched: for decorating."""
    dtype = torch.get_default_dtype()
    with torch.inference_mode(False), torch.enable_grad(), _device(torch.device("cpu")):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _to_torch(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.floating):
        value = np.asarray(value)
        return torch.from_numpy(np.asarray(value, order="C")) if value.dtype.kind in "fbiu" else value
    return value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_to_numpy(v) for v in value)
    return value


@runtime_checkable
class AcceptsNumpy(Protocol[P, R]):
    """A torch function that takes NumPy arrays too. Type checkers know what it makes of tensors, not of arrays."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def accepts_numpy(function: Callable[P, R]) -> AcceptsNumpy[P, R]:
    """Let a torch function take NumPy arrays; the answer is NumPy when an argument was.

    What it makes itself lies where the tensors lie that it is given, else on the CPU.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        numpy_in = any(isinstance(v, np.ndarray | np.generic) for v in given)
        where = next((v.device for v in given if isinstance(v, torch.Tensor)), torch.device("cpu"))
        with _device(where):
            answer = function(*map(_to_torch, args), **{k: _to_torch(v) for k, v in kwargs.items()})
        return _to_numpy(answer) if numpy_in else answer

    return wrapper


def as_float(value: Any) -> torch.Tensor:
    """A floating-point tensor: plain numbers become single precision, double precision stays double."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def as_float64(value: Any, what: str) -> torch.Tensor:
    """A new float64 tensor of any array of real numbers; a BiofaceError says that ``what`` is none of these."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64) if not value.is_complex() else value.numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise BiofaceError(f"expected {what} made of real numbers, found {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=np.float64))


#: Whole numbers that masks have at the white end, by the depth of what they were painted or measured in.
WHITES = (1, 255, 1023, 4095, 16383, 65535)


def as_mask(values: Any, path: str | Path | None = None) -> np.ndarray:
    """Booleans of the same shape: true above half of white, the smallest of :data:`WHITES` that nothing exceeds.

    Of two whole numbers, such as 0 and 128, the other than 0 is true. A mask of zeros is false throughout.

    Raises
    ------
    BiofaceError : not of real numbers, or without anything bright, as labels are; a DataError if there is a ``path``

    >>> as_mask(np.array([0, 1])).tolist(), as_mask(np.array([0, 1, 90, 255])).tolist()
    ([False, True], [False, False, False, True])
    """
    values = np.asarray(values)
    top = float(np.nanmax(values, initial=0)) if values.dtype.kind in "biuf" else math.nan
    white = next((w for w in WHITES if w >= top), top)
    two = values.dtype.kind != "f" and bool(((values == 0) | (values == top)).all())
    if top <= 0 or two:
        return values > 0
    if top > white / 2:
        return values > white / 2
    found = f"{values.dtype}" if math.isnan(top) else f"{top:g} of {white:g} as its brightest (labels?)"
    expected = "a mask of numbers with white in it"
    raise BiofaceError(f"expected {expected}, found {found}") if path is None else DataError(path, expected, found)


def extent(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around a mask (H, W) that has some pixel.

    >>> extent(np.array([[0, 0, 0], [0, 1, 1]]) > 0)
    (slice(1, 2, None), slice(1, 3, None))
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def take(rows: Any, index: Any) -> Any:
    """``rows[index]`` of an array, of a tuple, of every field of a dataclass of those, or None.

    ``index`` is a slice, or an array of row numbers or of booleans.

    >>> take((1, 2, 3), np.array([2, 0]))
    (3, 1)
    """
    if dataclasses.is_dataclass(rows) and not isinstance(rows, type):
        fields = [f.name for f in dataclasses.fields(rows)]
        return dataclasses.replace(rows, **{name: take(getattr(rows, name), index) for name in fields})
    if isinstance(rows, tuple) and not isinstance(index, slice):
        return tuple(rows[row] for row in np.arange(len(rows))[index])
    return None if rows is None else rows[index]


def join(parts: Sequence[Any]) -> Any:
    """One after the other: the inverse of :func:`take`."""
    first = parts[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = [f.name for f in dataclasses.fields(first)]
        return dataclasses.replace(first, **{name: join([getattr(part, name) for part in parts]) for name in fields})
    if isinstance(first, tuple):
        return tuple(value for part in parts for value in part)
    return None if first is None else np.concatenate(parts)


def read_npz(path: str | Path, names: Iterable[str] | None, expected: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz archive by their names (None for all), checksums verified; ``expected`` says what it should be.

    Raises DataError: it is missing, damaged or something else, or one of the arrays is not in it.
    """
    if not Path(path).is_file():
        raise DataError(path, expected, "no such file")
    try:
        # numpy leaves a file that it opened itself open when it is damaged
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in (file.files if names is None else names)}
    except KeyError as error:
        raise DataError(path, expected, f"one without some of its arrays ({error.args[0]})") from error
    except Exception as error:  # of any type: as numpy and zipfile happen to stumble over the damage
        raise DataError(path, expected, f"something else ({error})") from error
