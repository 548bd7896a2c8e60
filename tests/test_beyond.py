"""Faces beyond the usual are the same people, and errors on them stand beside a constant's."""

import dataclasses

import numpy as np
import pytest

from bioface.datasets import twin
from bioface.maps import of_twin
from study import beyond

FACES = 3


@pytest.fixture(scope="module")
def found():
    """Rows of a constant, and of one that knows the truth but for a fifth of the light and a bit of melanin."""
    known = {kind: of_twin(beyond.faces(kind, FACES)) for kind in ("", "exposure")}

    def close(image, mask):
        true = next(t for t in known.values() if np.array_equal(t.image, image))
        shading = 1.2 * true.diffuse_shading
        return dataclasses.replace(true, diffuse_shading=shading, melanin=1.05 * true.melanin.clip(0, 0.4))

    def constant(image, mask):
        true = known[""]
        names = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading", "albedo", "reconstruction")
        flat = {n: np.full_like(getattr(true, n), getattr(true, n)[true.mask].mean()) for n in names}
        return dataclasses.replace(true, **flat, image=image)

    return beyond.rows({"close": close, "constant": constant}, known, FACES)


def test_the_people_are_the_usual_ones_and_the_faces_are_not():
    usual, *others = (of_twin(beyond.faces(kind, FACES)) for kind in ("", "exposure", "measured", "jpeg"))
    for other in others:
        np.testing.assert_array_equal(other.melanin, usual.melanin)
        assert np.abs(other.image - usual.image)[usual.mask].mean() > 1e-3


def test_the_usual_faces_are_those_of_the_test_set():
    face = twin.make_face(0, "test", *twin.plan(twin.TwinConfig(), "test")[FACES - 1])
    np.testing.assert_array_equal(of_twin(beyond.faces("", FACES)).diffuse_shading[-1], face["diffuse_shading"])


def test_brightness_is_counted_in_octaves_of_the_shading(found):
    for of_kind in found.values():
        np.testing.assert_allclose(of_kind["close"].errors["brightness"], np.log2(1.2), atol=1e-3)
        assert beyond.error(of_kind["close"], "brightness") == pytest.approx(np.log2(1.2), abs=1e-3)
    wrong = found[""]["constant"].errors["brightness"]
    assert wrong.min() < 0 < wrong.max()  # a mean of what is signed would call it nearly right
    assert beyond.error(found[""]["constant"], "brightness") > np.abs(wrong).mean() > abs(wrong.mean())


def test_a_share_is_of_the_constants_error_on_the_same_faces(found):
    for of_kind in found.values():
        assert beyond.share(of_kind, "constant", "constant", "melanin") == 1
        expected = of_kind["close"].mean("melanin") / of_kind["constant"].mean("melanin")
        assert beyond.share(of_kind, "close", "constant", "melanin") == expected < 0.5
    words = "melanin: close {:.3f}, constant {:.3f}".format(*(r.mean("melanin") for r in found[""].values()))
    assert beyond.beside(found[""], "melanin") == words
