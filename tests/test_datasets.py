"""One call for every data set."""

import functools

import numpy as np
import pytest
import scipy.io
from conftest import refuses
from test_nfe import write_pair

from bioface import datasets
from bioface.datasets import cubes, nfe, twin


@pytest.fixture
def placed(folders):
    """Two NFE pairs (train, test) and three ISET cubes in the data folder."""
    (folders / "nfe").mkdir()
    write_pair(folders / "nfe", 1, 4)
    write_pair(folders / "nfe", 20, 3)
    (folders / "iset").mkdir()
    wave = np.arange(420.0, 721, 10)
    for i in range(3):
        cube = {"photons": np.full((2, 2, 31), 0.1 * (i + 1)), "wave": wave, "illuminant": np.ones(31)}
        scipy.io.savemat(folders / "iset" / f"face{i}.mat", cube)
    return folders


def test_nfe_by_split_and_limit(placed, monkeypatch):
    assert len(datasets.load("nfe")) == 7
    train = datasets.load("nfe", split="train")
    assert isinstance(train, nfe.Faces) and len(train) == 4
    assert len(datasets.load("nfe", split="test", limit=2)) == 2
    assert len(datasets.load("nfe", limit=100)) == 7
    monkeypatch.setattr(datasets, "IN_MEMORY", 5)
    refuses(r"at most 5 faces in memory, found 7: give a limit, or stream", datasets.load, "nfe")
    assert len(datasets.load("nfe", limit=5)) == 5


def test_iset_by_limit(placed):
    found = datasets.load("iset", limit=2)
    assert isinstance(found, cubes.Cubes)
    assert [round(float(c.reflectance[0, 0, 0]), 6) for c in found] == [0.1, 0.2]
    assert len(datasets.load("iset", split="test")) == 3
    refuses("split 'test' or None for 'iset', a test set, found 'train'", datasets.load, "iset", split="train")


def test_the_twin_comes_with_its_truth_and_needs_no_download(issa_build, monkeypatch):
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    config = twin.TwinConfig(train=2, validation=1, test=1, cubes=0)
    monkeypatch.setattr(twin, "load", functools.partial(twin.load, config=config, progress=False))
    faces = datasets.load("twin")
    assert isinstance(faces, nfe.Faces) and len(faces) == 4
    assert faces.truth.melanin.shape == (4, 64, 64)
    assert datasets.load("twin", split="train", limit=1).names == faces[:1].names
    assert len(datasets.load("twin", limit=3)) == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "nfe"}, "data/nfe: expected .*data/README.md"),
        ({"name": "iset"}, "data/iset: expected .*data/README.md"),
        ({"name": "twim"}, "unknown data set 'twim'; did you mean 'twin'"),
        ({"name": "nfe", "split": "valid"}, "unknown split 'valid'; did you mean 'validation'"),
        ({"name": "nfe", "limit": 0}, "a limit of at least 1, found 0"),
    ],
)
def test_absent_files_and_misspelt_arguments(folders, arguments, match):
    refuses(match, datasets.load, **arguments)


def test_available(folders, request):
    absent = dict.fromkeys(("nfe", "iset", "cheeks", "cameras"), False)
    assert datasets.available() == {**absent, "issa": True}
    request.getfixturevalue("placed")
    assert datasets.available() == {**absent, "nfe": True, "iset": True, "issa": True}
