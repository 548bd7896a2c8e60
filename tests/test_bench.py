"""The benchmarks: every row is a ratio of two measured times, and what is made of them."""

import math

import numpy as np
import pytest
from test_nfe import write_pair

from bioface import bench
from bioface.datasets import nfe
from bioface.errors import BiofaceError, DataError


def is_a_ratio(row):
    numbers = (row.numerator, row.denominator, row.low, row.ratio, row.high)
    return all(math.isfinite(n) and n > 0 for n in numbers) and row.low <= row.ratio <= row.high


def test_a_row_is_the_median_of_the_ratios_of_the_rounds():
    row = bench.Row.of("a", "slow / fast", np.array([2.0, 6.0, 10.0]), np.array([1.0, 2.0, 1.0]))
    assert (row.numerator, row.denominator, row.rounds) == (6.0, 1.0, 3)
    assert (row.low, row.ratio, row.high) == (2.0, 3.0, 10.0)


def test_tasks_take_turns_and_the_first_round_only_warms_up(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    done = []
    seconds = bench.in_turns({name: lambda name=name: done.append(name) for name in "abc"}, 2)
    assert "".join(done) == "cbaabccba"
    assert {name: list(values) for name, values in seconds.items()} == {name: [1, 1] for name in "abc"}


def test_streaming_is_measured_against_reading_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(nfe, "BLOCK", 8)
    images, lights, stored, _ = write_pair(tmp_path, 1, 30)
    rows = bench.streaming(images, lights, rounds=3, size=4)
    assert [row.name for row in rows] == ["streaming_sequential", "streaming_shuffled"]
    assert all(is_a_ratio(row) and row.rounds == 3 and row.ratio > 1 for row in rows)
    blocks = list(bench._raw_blocks(nfe.NFE(images)))
    np.testing.assert_array_equal(np.concatenate(blocks[:4]), stored)
    assert sum(map(len, blocks)) == 60


def test_streaming_of_nothing(tmp_path):
    images, *_ = write_pair(tmp_path, 1, 2)
    with pytest.raises(BiofaceError, match="at least 1 round, found 0"):
        bench.streaming(images, rounds=0)
    with pytest.raises(BiofaceError, match="positive batch size, found 0"):
        bench.streaming(images, size=0)
    with pytest.raises(DataError, match="no such file"):
        bench.streaming(tmp_path / "zx_7_d10_inmc_celebA_09.hdf5")
