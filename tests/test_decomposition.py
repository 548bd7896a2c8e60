"""Decompositions: what their maps render to, and that the twin's truth is one."""

from __future__ import annotations

import numpy as np
import pytest

from bioface import decomposition, metrics, skin
from bioface.datasets import twin
from bioface.decomposition import Decomposition
from bioface.errors import BiofaceError


@pytest.fixture(scope="module")
def truth():
    return decomposition.of_twin(twin.load("test", 3, progress=False))


def test_the_truth_renders_to_the_photo(truth):
    assert metrics.rmse(truth.reconstruction, truth.image, truth.mask).max() < 0.003


def test_the_albedo_is_the_skin_under_plain_light(truth):
    one, none = np.ones_like(truth.diffuse_shading), np.zeros_like(truth.specular_shading)
    maps = truth.melanin, truth.haemoglobin, one, none
    plain = Decomposition.of_maps(*maps, truth.camera_b, truth.illuminant, truth.image, truth.mask)
    np.testing.assert_allclose(plain.reconstruction, truth.albedo, atol=1e-6)


def test_coordinates_are_those_of_the_table(truth):
    g = truth.melanin_coordinate[truth.mask]
    assert -1 <= g.min() < g.max() <= 1
    np.testing.assert_allclose(skin.table_fraction(g, 0.43), truth.melanin[truth.mask], rtol=1e-4)


def test_faces_are_taken_out_by_number_and_by_slice(truth):
    assert len(truth) == 3 and len(truth[:2]) == 2
    assert truth[1].melanin.shape == (64, 64)
    assert np.array_equal(truth[1].albedo, truth.albedo[1])
    with pytest.raises(BiofaceError, match="several faces"):
        len(truth[1])


def test_fractions_beyond_the_table_render_as_its_end(truth):
    one = truth[0]
    maps = np.full_like(one.melanin, 0.9), one.haemoglobin, one.diffuse_shading, one.specular_shading
    dark = Decomposition.of_maps(*maps, one.camera_b, one.illuminant, one.image, one.mask)
    end = np.full_like(one.melanin, 0.43), *maps[1:]
    same = Decomposition.of_maps(*end, one.camera_b, one.illuminant, one.image, one.mask)
    np.testing.assert_array_equal(dark.reconstruction, same.reconstruction)
