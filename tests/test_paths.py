"""Folders, and files that are whole or absent."""

import pickle

import pytest

from bioface import paths
from bioface.errors import DataError, unknown_name


def test_environment_moves_the_folders(folders, tmp_path):
    assert paths.data() == folders
    assert paths.build() == tmp_path / "build"
    assert paths.figures() == tmp_path / "figures"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), paths.whole_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_data_error_names_the_file_and_survives_pickling(tmp_path):
    error = pickle.loads(pickle.dumps(DataError(tmp_path / "x.mat", "wavelengths", "none")))
    assert str(error) == f"{tmp_path / 'x.mat'}: expected wavelengths, found none"


def test_unknown_name_without_a_near_one():
    assert "did you mean" not in str(unknown_name("solver", "zzz", ["lm"]))
