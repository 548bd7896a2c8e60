"""Work in blocks, each on one torch thread, and torch's number of threads afterwards."""

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bioface import decomposition, network, smith2019, threads


@pytest.fixture(autouse=True, params=[1, 3])
def count(request):
    """Numbers of torch threads that a caller may have; new threads start with the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == of_a_new_thread() == request.param
    torch.set_num_threads(before)


def of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_results_come_in_order_from_one_torch_thread_each(count):
    """Pieces are taken a few ahead, in the caller's thread."""
    taken = []

    def pieces():
        for n in range(20):
            taken.append(threading.get_ident())
            yield n

    def work(n):
        time.sleep(0.01 * (n % 3))
        return n, torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    where = set()
    with torch.no_grad():
        for n, (*found, ident) in enumerate(threads.blocks(work, pieces())):
            assert found == [n, 1, False]
            assert n < len(taken) <= n + 2 * count + 1
            where.add(ident)
    assert len(taken) == 20 and set(taken) == {threading.get_ident()}
    assert len(where) == count
    assert list(threads.blocks(work, [])) == []


def test_what_a_block_raises_is_raised_and_the_rest_never_begin(count):
    begun = []

    def work(n):
        begun.append(n)
        time.sleep(0.01)
        return 1 / n

    with pytest.raises(ZeroDivisionError):
        list(threads.blocks(work, [1, 0, *range(1, 100)]))
    assert len(begun) < 10


def test_two_calls_that_overlap_leave_the_numbers_alone(count):
    """The first to begin is the first to end, and a thread that starts meanwhile sees nothing of it."""
    began, over = threading.Event(), threading.Event()

    def second():
        with threads.number(2):
            began.set()
            assert len(list(threads.blocks(torch.sin, torch.ones(4, 3)))) == 4 and over.wait(10)
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        with threads.number(1):
            other = pool.submit(second)
            assert began.wait(10)
            assert (torch.get_num_threads(), of_a_new_thread()) == (1, count)
        over.set()
        assert other.result() == (2, count)


def test_the_number_comes_back_after_a_failure(count):
    with pytest.raises(ZeroDivisionError), threads.number(count + 1):
        assert torch.get_num_threads() == count + 1
        raise ZeroDivisionError


def fit_and_decompose(seed):
    rng = np.random.default_rng(seed)
    found = smith2019.fit(rng.uniform(0.2, 0.9, (5000, 33)), bounds=smith2019.BOUNDS["free"])  # given: no word of doubt
    torch.manual_seed(0)
    d = decomposition.decompose(rng.random((64, 64, 3)), np.ones((64, 64), bool), network.BioFaceNet(width=2).eval())
    return found.residual.sum(), d.melanin.sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_everything_works_after_a_fork(count):
    """Torch's own threads are not there any more: a second one would be waited for for ever."""
    expected = [fit_and_decompose(seed) for seed in range(2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(fit_and_decompose, range(2)).get(60)
    assert np.allclose(found, expected, rtol=1e-5)
