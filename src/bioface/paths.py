"""Where everything lives: the only module that knows the project's folders.

``data/`` holds the real data sets, placed or downloaded by the reader; the environment variable
``BIOFACE_DATA`` points somewhere else. ``build/`` holds what can be made again (the twin, caches, executed
notebooks); ``BIOFACE_BUILD`` moves it. ``figures/`` holds every figure as PNG with its numbers as JSON;
``BIOFACE_FIGURES`` moves it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
TABLES = PACKAGE / "tables"  #: small text tables that ship with the package
ASSETS = PACKAGE / "assets"  #: binary assets that ship with the package


def root() -> Path:
    """The checkout, or the current folder when the package was installed without one."""
    checkout = PACKAGE.parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or root() / default).expanduser().resolve()


def data() -> Path:
    """Folder of the real data sets (``BIOFACE_DATA``, else ``data/``)."""
    return _folder("BIOFACE_DATA", "data")


def build() -> Path:
    """Folder of everything that can be made again (``BIOFACE_BUILD``, else ``build/``)."""
    return _folder("BIOFACE_BUILD", "build")


def figures() -> Path:
    """Folder of the figures and the claims (``BIOFACE_FIGURES``, else ``figures/``)."""
    return _folder("BIOFACE_FIGURES", "figures")


def notebooks() -> Path:
    """Folder of the committed notebooks."""
    return root() / "notebooks"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: gives a name beside ``path`` and renames it on success.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.txt") as partial:
    ...         _ = partial.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
