"""NumPy in, NumPy out; torch in, torch out.

All of the physics is written in torch. A function decorated with :func:`accepts_numpy` takes NumPy arrays
as well and then answers with NumPy arrays. Single precision is the default for plain numbers; double
precision stays double.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

F = TypeVar("F", bound=Callable[..., Any])

# Numbers below 1e-38 are slow on most processors, and strongly absorbing skin makes many of them: a
# training run took three times as long with them. To the study they are zero.
torch.set_flush_denormal(True)


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


def accepts_numpy(function: F) -> F:
    """Let a torch function take NumPy arrays; the answer is NumPy when an argument was."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        numpy_in = any(isinstance(v, np.ndarray) for v in given)
        answer = function(*map(_to_torch, args), **{k: _to_torch(v) for k, v in kwargs.items()})
        return _to_numpy(answer) if numpy_in else answer

    return wrapper  # type: ignore[return-value]


def as_float(value: Any, like: torch.Tensor | None = None) -> torch.Tensor:
    """A floating-point tensor: plain numbers become single precision, or ``like``'s dtype and device."""
    tensor = torch.as_tensor(value)
    if like is not None:
        return tensor.to(dtype=like.dtype, device=like.device)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
