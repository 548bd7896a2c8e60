"""What makes a notebook's results, as hashes: the runner goes by content, and by time only for the reader's data."""

import hashlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

from bioface import paths


def digest(value: Any) -> str:
    """SHA-256 of bytes, else of a value as JSON."""
    content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def content(value: Any) -> Any:
    """A value, or the hash of the file of which it is the absolute path."""
    is_file = isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value)
    return digest(Path(value).read_bytes()) if is_file else value


def files(folder: Path) -> list[Path]:
    """Every file below a folder, links followed, without Python's caches."""
    found: list[Path] = []
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited or place.endswith("__pycache__"):  # visited: a link back up
            folders.clear()
            continue
        visited.add(real)
        found += [Path(place, name) for name in names]
    return sorted(path for path in found if path.is_file())


def data_files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change (ns) of every file of the data folder but its README and dotfiles."""
    every = [path for path in files(folder) if path != folder / "README.md" and not path.name.startswith(".")]
    found = [(path, path.stat()) for path in every]
    return [(os.path.relpath(path, folder), status.st_size, status.st_mtime_ns) for path, status in found]


def locked(lock: Path | None = None) -> dict[str, str]:
    """Name to version of every line of ``requirements.lock``."""
    lines = (lock or paths.root() / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(name.split("==") for line in lines if (name := line.partition("#")[0].strip()))


def installed() -> dict[str, str]:
    """Name to version, as it is here, of every locked package."""
    found = {package.name: package.version for package in importlib.metadata.distributions()}
    return {name: found.get(name, "missing") for name in locked()}


def differing() -> list[str]:
    """What is not as locked, such as "torch 2.12.0 (locked: 2.13.0)"; a build such as "+cpu" makes no difference."""
    here = installed()
    return [
        f"{name} {here[name]} (locked: {version})"
        for name, version in locked().items()
        if here[name].partition("+")[0] != version
    ]


def sources() -> list[Path]:
    """Every file of both packages: code, tables, assets, style."""
    return [*files(paths.PACKAGE), *files(Path(__file__).parent)]


def code() -> str:
    """Hash of what any result stands on: both packages, Python and the locked packages as installed."""
    hashes = {os.path.relpath(path, paths.PACKAGE): digest(path.read_bytes()) for path in sources()}
    return digest([hashes, sys.version, installed()])


def foundation(notebooks: Path) -> str:
    """Hash of what all notebooks of a folder stand on: the code, the bars beside them, the data."""
    beside = [(path.name, digest(path.read_bytes())) for path in sorted(notebooks.glob("*.toml"))]
    return digest([code(), beside, data_files(paths.data())])
