"""What is kept between runs, and work side by side: joblib, with two promises that it does not make by itself.

``joblib.Memory`` sees when a function changes, not when something does that the function calls. So its folder is named
by everything that results stand on: both packages, Python and the installed versions. Its workers outlive a parent
that is killed. So each watches its parent and ends with it.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import joblib
from joblib.externals import loky
from tqdm import tqdm

from bioface import paths
from study import fingerprint, notebook

_code = functools.cache(fingerprint.code)  # of the start, whatever is edited while it runs
LOOK = 0.5  #: seconds between two looks at whether the parent lives
Function = Callable[..., Any]  #: of a module, so that another process finds it
Arguments = tuple[Any, ...]


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


def _end_with(parent: int) -> None:
    """End this worker soon after its parent, which cannot say so when it is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def side_by_side(function: Function, jobs: Sequence[Arguments], workers: int = 0, progress: bool | None = None) -> Any:
    """List of what a function returns for each job, several at once, each in a process with one thread.

    Parameters
    ----------
    jobs : the function's arguments, started in this order
    workers : how many at once, 1 in this process; 0 for as many as there are processors
    progress : show a bar; None does so on a terminal
    """
    if not jobs:
        return []
    workers = workers or min(len(jobs), notebook.processors())
    hidden = None if progress is None else not progress
    with joblib.parallel_config("loky", initializer=_end_with, initargs=(os.getpid(),), max_nbytes=None):
        parallel = joblib.Parallel(workers, return_as="generator", batch_size=1, pre_dispatch="all")
        try:
            found = parallel(joblib.delayed(function)(*job) for job in jobs)
            return list(tqdm(found, "training runs", len(jobs), unit="run", disable=hidden))
        finally:
            if workers > 1:  # they would wait for more with the environment of today
                loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
