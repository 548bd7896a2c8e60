"""Both .mat formats through one mapping."""

import h5py
import numpy as np
import pytest
from conftest import refuses

from bioface.datasets import matlab
from bioface.errors import DataError


def test_v73_arrays_come_with_matlab_axes_and_cells_become_lists(tmp_path):
    path = tmp_path / "a.mat"
    values = np.random.default_rng(0).random((4, 3, 2))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["a"] = values.T
        text = file.create_dataset("name", data=np.array([[68], [54], [53]], np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        refs = file.create_group("#refs#")
        refs["x"], refs["y"] = np.ones((1, 1)), 2 * np.ones((1, 1))
        both = np.array([[refs["x"].ref, refs["y"].ref]], dtype=h5py.ref_dtype)
        file.create_dataset("cell", data=both)
        file.create_dataset("one", data=both[:, 1:])
        file.create_dataset("none", data=np.zeros(2, np.uint64)).attrs["MATLAB_empty"] = 1
    read = matlab.read(path)
    np.testing.assert_array_equal(read["a"], values)
    assert read["name"] == "D65" and [value.item() for value in read["cell"]] == [1, 2]
    assert read["one"].item() == 2  # as of a struct array of one
    assert read["none"].size == 0
    assert list(read) == ["a", "cell", "name", "none", "one"]


def test_large_arrays_are_read_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "SLAB", 20)  # three rows of six numbers
    path = tmp_path / "a.mat"
    values = np.random.default_rng(0).random((10, 3, 2))
    with h5py.File(path, "w") as file:
        file["a"] = values.T
    lazy = matlab.read(path)["a"]
    assert isinstance(lazy, matlab.Lazy) and lazy.shape == (10, 3, 2) and lazy.step == 3
    for rows in (slice(0, 10), slice(4, 5), slice(2, 8), slice(8, None), slice(5, 5), slice(None)):
        np.testing.assert_array_equal(lazy[rows], values[rows])
    turned = lazy.transpose(2, 0, 1).transpose(0, 2, 1)  # as of a cube that stores its bands first
    np.testing.assert_array_equal(turned[1:2], values.transpose(2, 1, 0)[1:2])
    path.unlink()
    with pytest.raises(DataError, match="a.mat: expected readable values in /a"):
        lazy[0:1]


@pytest.mark.parametrize("content", [b"", b"x" * 300])
def test_something_else(tmp_path, content):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    refuses(f"v5 or v7.3, or HDF5, found {len(content)} bytes of something else", matlab.read, path)
    refuses("b.mat: expected a MATLAB .mat file, found no such file", matlab.read, tmp_path / "b.mat")
