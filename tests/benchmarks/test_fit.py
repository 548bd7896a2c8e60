"""The fit beside other programs: two threads that compute must not wait for one another by spinning."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bioface import smith2019
from bioface.datasets import skin_spectra

BUSY = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
layers = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)])
x = torch.randn(8, 16, 64, 64)
print("at work", flush=True)
while True:
    layers(x).square().sum().backward()
"""


def seconds():
    """Median of five fits of all measured spectra of faces, after one that does not count."""
    issa = skin_spectra.load("issa")
    return np.median([smith2019.fit(issa.reflectance, issa.wavelengths).seconds for _ in range(6)][1:])


@pytest.mark.alone
@pytest.mark.parametrize(("threads", "times"), [(1, 2.5), (2, 4.0)])
def test_a_fit_beside_two_busy_programs_is_not_much_slower(threads, times):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    alone = seconds()
    busy = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(threads)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert [program.stdout.readline() for program in busy] == ["at work\n"] * 2
        beside = seconds()
    finally:
        for program in busy:
            program.kill()
            program.communicate()
        torch.set_num_threads(before)
    assert beside < times * alone, f"{beside:.3f} s, alone {alone:.3f} s"
