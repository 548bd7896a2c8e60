"""What a photo and losses without a scale leave open: where the answer follows from the set of skins alone."""

import numpy as np
import pytest

from bioface.datasets import twin
from bioface.maps import of_twin
from study import ambiguity, augmentation


@pytest.fixture(scope="module")
def faces():
    return twin.load("test", 8, progress=False)


def test_the_true_brightness_explains_the_photo_and_too_little_light_does_not(faces):
    error, highlights = ambiguity.least_errors(of_twin(faces), (-2, 0, 1))
    assert error.shape == highlights.shape == (8, 3)
    assert error[:, 1].max() < 0.01  # eight bits, and a grid of skins
    assert (error[:, 0] > 3 * error[:, 1]).all()  # no skin is so pale
    fair = faces.truth.group != "African"
    assert highlights[fair, 2].mean() > 2 * highlights[fair, 1].mean()  # what is too bright is taken for shine


@pytest.mark.slow
def test_the_losses_lower_the_error_from_a_wrong_start_and_move_what_skin_forbids(faces):
    batch = augmentation.Augmented(faces, recolour=False, halved=2).batch
    off = {steps: ambiguity.minimised(batch, -1.0, steps) for steps in (1, 60)}
    assert off[1][0] == pytest.approx(np.full(8, -1), abs=0.2)
    assert off[60][1] < 0.5 * off[1][1]
    assert (off[60][0] > off[1][0]).mean() > 0.8  # towards more light


def test_ends_apart_is_a_share_of_the_starts_and_of_some_faces():
    ends = np.array([[-0.5, 0.0], [0.5, 0.0]])
    assert ambiguity.ends_apart(ends, (-1, 1), np.array([True, False])) == 0.5
    assert ambiguity.ends_apart(ends, (-1, 1), np.array([0, 1])) == 0.25
