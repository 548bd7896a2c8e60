"""What is kept between runs, and work side by side: joblib, with two promises that it does not make by itself.

``joblib.Memory`` sees when a function changes, not when something does that the function calls. So its folder is named
by everything that results stand on: both packages, Python and the installed versions. Its workers outlive a parent
that is killed. So each watches its parent and ends with it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import joblib
from joblib.externals import loky
from tqdm import tqdm

from bioface import paths
from study import fingerprint

_code = functools.cache(fingerprint.code)  # of the start, whatever is edited while it runs
LOOK = 0.5  #: seconds between two looks at whether the parent lives


def kept(function: Callable[..., Any], ignore: Sequence[str] = ()) -> Any:
    """The function with a cache on disk, ``build/cache/``: a result is whole there, or made again.

    Parameters
    ----------
    function : of a module, and of its arguments alone
    ignore : names of arguments that do not change the result

    Returns
    -------
    it, with joblib's ``check_call_in_cache``
    """
    memory = joblib.Memory(paths.build() / "cache" / _code()[:20], verbose=0)
    return memory.cache(function, ignore=list(ignore))


def _end_with(parent: int) -> None:
    """End this worker soon after its parent, which cannot say so when it is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def side_by_side(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int, progress: bool | None = None
) -> list[Any]:
    """Call a function with the arguments of each job, several at once, each in a process with one thread.

    Parameters
    ----------
    function : of a module, so that another process finds it
    jobs : its arguments, started in this order
    workers : how many at once; 1 works in this process
    progress : show a bar; None does so on a terminal

    Returns
    -------
    what it returned, in the order of the jobs
    """
    if not jobs:
        return []
    hidden = not sys.stderr.isatty() if progress is None else not progress
    with tqdm(total=len(jobs), desc="training runs", unit="run", disable=hidden) as bar:
        tied = joblib.parallel_config("loky", initializer=_end_with, initargs=(os.getpid(),), max_nbytes=None)
        with tied:
            parallel = joblib.Parallel(workers, return_as="generator", batch_size=1, pre_dispatch="all")
            try:
                found = []
                for result in parallel(joblib.delayed(function)(*job) for job in jobs):
                    found.append(result)
                    bar.update()
                return found
            finally:
                if workers > 1:  # they would wait for more with the environment of today
                    loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
