"""What results stand on, as hashes, and what is kept by them: joblib, with two promises that it does not make itself.

``joblib.Memory`` sees when a function changes, not when something does that the function calls. So its folder is named
by everything that results stand on. Its workers outlive a parent that is killed. So each watches its parent and ends
with it. The runner goes by content too, and by time only for the reader's data.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib
from joblib.externals import loky
from tqdm import tqdm

from bioface import paths
from study import notebook

Function = Callable[..., Any]  #: of a module, so that another process finds it
Arguments = tuple[Any, ...]


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


def locked() -> dict[str, str]:
    """Name to version of every line of ``requirements.lock``."""
    lines = (paths.root() / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(name.split("==") for line in lines if (name := line.partition("#")[0].strip()))


def installed() -> dict[str, str]:
    """Name to version, as it is here, of every locked package."""
    found = {package.name: package.version for package in importlib.metadata.distributions()}
    return {name: found.get(name, "missing") for name in locked()}


def differing() -> list[str]:
    """What is not as locked, such as "torch 2.12.0 (locked: 2.13.0)"; a build such as "+cpu" makes no difference."""
    lines = zip(installed().items(), locked().values(), strict=True)
    return [f"{name} {here} (locked: {lock})" for (name, here), lock in lines if here.partition("+")[0] != lock]


def sources() -> list[Path]:
    """Every file of both packages: code, tables, assets, style."""
    return [*files(paths.PACKAGE), *files(Path(__file__).parent)]


def code() -> str:
    """Hash of what any result stands on: both packages, Python and the locked packages as installed."""
    hashes = {os.path.relpath(path, paths.PACKAGE): digest(path.read_bytes()) for path in sources()}
    return digest([hashes, sys.version, installed()])


_code = functools.cache(code)  # of the start, whatever is edited while it runs


def foundation(notebooks: Path) -> str:
    """Hash of what all notebooks of a folder stand on: the code, the bars beside them, the data."""
    beside = [(path.name, digest(path.read_bytes())) for path in sorted(notebooks.glob("*.toml"))]
    return digest([code(), beside, data_files(paths.data())])


# --- kept, and side by side --------------------------------------------------------------------------------


def kept(function: Function, arguments: Arguments, made_of: Any = None) -> Any:
    """What a function returns, from ``build/cache/`` or worked out now: a result is whole there, or made again.

    It is known by ``made_of``, the values that it is a function of; None for the arguments.
    """
    return _memory()(_name(function), arguments if made_of is None else made_of, function, arguments)


def missing(calls: Iterable[tuple[Function, Arguments, Any]]) -> list[tuple[Function, Arguments, Any]]:
    """Those of some calls of :func:`kept`, as its three arguments, that are still to be worked out."""
    return [call for call in calls if not _memory().check_call_in_cache(_name(call[0]), call[2], None, None)]


def _name(function: Function) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _memory() -> Any:
    memory = joblib.Memory(paths.build() / "cache" / _code()[:20], verbose=0)
    return memory.cache(_made, ignore=["function", "arguments"])


def _made(name: str, made_of: Any, function: Function, arguments: Arguments) -> Any:
    return function(*arguments)


def _end_with(parent: int, folders: Any = None) -> None:
    """End this worker soon after its parent, which cannot say so when it is killed; other ``folders``, another."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def side_by_side(function: Function, jobs: Sequence[Arguments]) -> list[Any]:
    """What a function returns for the arguments of each job, several at once, each in a process with one thread."""
    if not jobs:
        return []
    workers = min(len(jobs), notebook.processors())
    here = os.getpid(), sorted(item for item in os.environ.items() if item[0].startswith("BIOFACE_"))
    with (
        joblib.parallel_config("loky", initializer=_end_with, initargs=here, max_nbytes=None),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "A worker stopped")  # one that has grown begins anew, which is no news
        parallel = joblib.Parallel(workers, return_as="generator", batch_size=1, pre_dispatch="all")
        try:
            found = parallel(joblib.delayed(function)(*job) for job in jobs)
            return list(tqdm(found, "side by side", len(jobs), unit="job", disable=None))
        except BaseException:  # else they wait for more, a while
            if workers > 1:
                loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
            raise
