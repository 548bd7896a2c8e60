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
def test_the_losses_move_from_a_wrong_start_towards_more_light(faces):
    batch = augmentation.Augmented(faces, recolour=False, halved=2).batch
    soon, later = (ambiguity.minimised(batch, -1.0, steps) for steps in (1, 60))
    assert soon == pytest.approx(np.full(8, -1), abs=0.2)
    assert (later > soon).mean() > 0.8
