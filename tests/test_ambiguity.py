"""What a photo and losses without a scale leave open: where the answer follows from the set of skins alone."""

import numpy as np
import pytest

from bioface.datasets import twin
from study import ambiguity, augmentation


@pytest.fixture(scope="module")
def faces():
    return twin.load("test", 8, progress=False)


@pytest.mark.slow
def test_the_losses_move_from_a_wrong_start_towards_more_light(faces):
    batch = augmentation.Augmented(faces, recolour=False, halved=2).batch
    soon, later = (ambiguity.minimised(batch, -1.0, steps) for steps in (1, 60))
    assert soon == pytest.approx(np.full(8, -1), abs=0.2)
    assert (later > soon).mean() > 0.8
