"""Work in blocks side by side, each on one torch thread: small arrays gain nothing from more, which wait by spinning.

Torch has two numbers of threads: each Python thread's own, and one that new Python threads start with. To set the first
sets the second too; it is put back at once, so that calls that overlap do not disturb one another. Pools end with the
call, so that a forked process finds no dead ones.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

P = TypeVar("P")
R = TypeVar("R")

_lock = threading.Lock()  # of the number that new threads start with
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _set(count: int) -> None:
    if torch.get_num_threads() == count:  # to ask sets the number of a Python thread that is new
        return
    with _lock, ThreadPoolExecutor(1) as new_thread:
        start = new_thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        new_thread.submit(torch.set_num_threads, start).result()


@contextlib.contextmanager
def number(count: int) -> Iterator[None]:
    """So many torch threads in this Python thread, and afterwards as many as before."""
    before = torch.get_num_threads()
    _set(count)
    try:
        yield
    finally:
        _set(before)


def blocks(function: Callable[[P], R], pieces: Iterable[P]) -> Iterator[R]:
    """Results of a function of one piece of work, in the order of the pieces, several worked out at a time.

    In as many Python threads as the caller has torch threads, each with one of these. Pieces are taken in the caller's
    thread, a few ahead of the results. What the function raises is raised here; no further piece begins then.

    >>> list(blocks(abs, [-3, 2, -1]))
    [3, 2, 1]
    """
    workers, waiting = torch.get_num_threads(), list[Future[R]]()
    if workers == 1:
        yield from map(function, pieces)
        return
    work = torch.set_grad_enabled(torch.is_grad_enabled())(function)  # each thread has its own, too
    with ThreadPoolExecutor(workers, initializer=_set, initargs=(1,)) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)
