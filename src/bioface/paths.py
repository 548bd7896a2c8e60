"""Where everything lives: the only module that knows the project's folders, and how a file is written whole."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
TABLES = PACKAGE / "tables"  #: small text tables that ship with the package
ASSETS = PACKAGE / "assets"  #: binary assets that ship with the package

#: What it means that there is no room to write: a full disk, a used-up quota, a limit on the size of files.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "BIOFACE_BUILD, BIOFACE_FIGURES and BIOFACE_DATA name other folders"


def root() -> Path:
    """The checkout, or the current folder when the package was installed without one."""
    checkout = PACKAGE.parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or root() / default).expanduser().resolve()


def data() -> Path:
    """Folder of the real data sets, placed or downloaded by the reader (``BIOFACE_DATA``, else ``data/``)."""
    return _folder("BIOFACE_DATA", "data")


def build() -> Path:
    """Folder of what can be made again: the twin, caches, executed notebooks (``BIOFACE_BUILD``, else ``build/``)."""
    return _folder("BIOFACE_BUILD", "build")


def figures() -> Path:
    """Folder of the figures and the claims (``BIOFACE_FIGURES``, else ``figures/``)."""
    return _folder("BIOFACE_FIGURES", "figures")


def notebooks() -> Path:
    """Folder of the committed notebooks."""
    return root() / "notebooks"


def make_folder(path: str | Path) -> None:
    """Make a folder for results, before anything is computed that could not be written to it.

    Raises OSError: it cannot be made, or cannot be written to.
    """
    expected = "expected a folder that can be written to, found"
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{expected} {error.strerror}", str(path)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{expected} one that cannot", str(path))


def describe(error: OSError, elsewhere: str = ELSEWHERE) -> str:
    """A line on a file that could not be written or read: which one, why, and what to do (``elsewhere``).

    >>> print(describe(OSError(errno.ENOSPC, "No space left on device", "maps.npz"), "--out names another folder"))
    maps.npz: No space left on device; make room, or else --out names another folder
    """
    file = error.filename2 or error.filename  # the second is where something was going to
    where = f"{file}: " if file else ""
    room = "make room, or else " if error.errno in NO_ROOM else ""
    return f"{where}{' '.join((error.strerror or str(error)).split())}; {room}{elsewhere}"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: gives a name beside ``path`` and renames it on success.

    Raises OSError: it cannot be written; the error names ``path``, not the name beside it.

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
    except OSError as error:
        # a write that fails names no file; NumPy's does not even say what was wrong. Errors of other types are
        # not about writing (a connection that broke)
        if type(error) in (OSError, PermissionError) and error.filename in (None, str(partial)):
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # a folder that may not be written to has nothing to remove
            partial.unlink()
