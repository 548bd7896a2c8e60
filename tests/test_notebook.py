"""What every notebook starts and ends with."""

import os
import random

import numpy as np
import pytest
import torch
from conftest import refuses

from study import notebook


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _draws(seed):
    rng = notebook.start(seed)
    return rng.random(), random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


@pytest.mark.parametrize("seed", [3, 2**40])
def test_one_seed_sets_every_generator(seed):
    first = _draws(seed)
    assert _draws(seed) == first
    assert all(a != b for a, b in zip(_draws(seed + 1), first, strict=True))


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_seed_is_a_whole_number(seed):
    refuses("seed: expected a whole number", notebook.start, seed)


def test_threads(monkeypatch):
    monkeypatch.setenv("BIOFACE_THREADS", "1")
    notebook.start(0)
    assert torch.get_num_threads() == 1
    monkeypatch.delenv("BIOFACE_THREADS")
    notebook.start(0)
    assert 1 <= torch.get_num_threads() <= os.cpu_count()
    monkeypatch.setenv("BIOFACE_THREADS", "two")
    refuses("BIOFACE_THREADS: .* found 'two'", notebook.start, 0)


def test_profile_and_versions(capsys):
    assert notebook.pick("full", default=1, full=2) == 2
    refuses("unknown profile 'ful'; did you mean 'full'", notebook.pick, "ful", default=1, full=2)
    notebook.versions()
    assert f"torch {torch.__version__}" in capsys.readouterr().out
