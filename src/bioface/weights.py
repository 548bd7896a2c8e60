"""Weights in safetensors files: those of a network, and checkpoints, from which a training run goes on exactly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bioface import paths
from bioface.errors import DataError

CHECKPOINT = "BioFaceNet checkpoint"  #: what the file of one says it is
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  #: what weights may be stored in


def check_tensors(path: str | Path, found: dict[str, Tensor], own: dict[str, Tensor], expected: str) -> None:
    """Refuse tensors read from ``path`` that cannot take the place of one's own; ``expected`` says what those are.

    Raises DataError: tensors that are missing, left over, of other shapes, other kinds of numbers or not finite.
    """
    for name in sorted({*own, *found}):
        if name not in found or name not in own:
            raise DataError(path, expected, f"{name} {'missing' if name in own else 'left over'}")
        value, like = found[name], own[name]
        if value.shape != like.shape:
            raise DataError(path, expected, f"{name} of shape {tuple(value.shape)} instead of {tuple(like.shape)}")
        if value.dtype not in (FLOATS if like.is_floating_point() else (like.dtype,)):
            raise DataError(path, expected, f"{name} of {value.dtype}")
        if not bool(torch.isfinite(value).all()):
            raise DataError(path, "finite weights", f"NaN or infinity in {name}")


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str], expected: str) -> None:
    """Write tensors from any device, whole or not at all; a :class:`DataError` names the file and ``expected``."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with paths.whole_file(path) as partial:
            safetensors.torch.save_file(tensors, partial, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(path, expected, str(error)) from error


def read(path: str | Path, architecture: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that says it is of ``architecture``.

    Raises DataError: missing, not safetensors (a pickle is never opened), truncated, or of another architecture.
    """
    path, expected, start = Path(path), f"{architecture} weights (safetensors)", b""
    if not path.is_file():
        raise DataError(path, expected, "no such file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = metadata.get("architecture", "none stated")
            if found != architecture:
                raise DataError(path, f"the architecture {architecture}", found)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        # safetensors begin with eight bytes of length, any length, and a brace
        is_pickle = start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and start[8:] != b"{"
        found = "a pickle, which could run code and is never opened" if is_pickle else f"something else ({error})"
        raise DataError(path, expected, found) from error


def _digest(tensors: dict[str, Tensor], run: str) -> str:
    """Of all that is in a checkpoint, so that none is taken up of which a part was lost or changed."""
    everything = hashlib.sha256(run.encode())
    for name in sorted(tensors):
        stored = tensors[name].detach().cpu().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
        everything.update(name.encode() + stored.numpy().tobytes())
    return everything.hexdigest()


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: dict[str, Any], record: np.ndarray
) -> None:
    """Write everything that going on exactly takes, whole or not at all: ``run`` as JSON, ``record`` (steps, columns).

    Raises DataError: a file that cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items() if value is not None}
    tensors["record"] = torch.from_numpy(record.copy())
    text = json.dumps(run)
    metadata = {"architecture": CHECKPOINT, "run": text, "digest": _digest(tensors, text)}
    write(path, tensors, metadata, "room to write a checkpoint")


def restore_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: dict[str, Any], record: np.ndarray
) -> int:
    """Go on where a checkpoint left off, its record written into the first rows of ``record``.

    Returns
    -------
    how many steps were done, 0 without a file

    Raises
    ------
    DataError : a file that is damaged, no checkpoint, or that of another run
    """
    if not path.exists():
        return 0
    tensors, metadata = read(path, CHECKPOINT)
    text = metadata.get("run", "")
    if metadata.get("digest") != _digest(tensors, text):
        raise DataError(path, "a checkpoint as it was written", "one that lacks a part or was changed")
    saved, done = json.loads(text), tensors.pop("record").numpy()
    for name, wanted in run.items():
        if saved.get(name) != wanted:
            raise DataError(path, f"a checkpoint of a run with {name} {wanted}", f"{saved.get(name)}")
    if len(done) > len(record):
        raise DataError(path, f"a checkpoint of at most {len(record)} steps", f"one of {len(done)}")
    weights = {name.removeprefix("model."): v for name, v in tensors.items() if name.startswith("model.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name in tensors.keys() - {f"model.{own}" for own in weights}:
        _, index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensors[name]
    check_tensors(path, weights, model.state_dict(), f"weights of width {run['network width']}")
    model.load_state_dict(weights)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    record[: len(done)] = done
    return len(done)
