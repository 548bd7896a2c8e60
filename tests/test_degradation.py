"""Noise, tone curve and JPEG do to a photo what they say, and nothing where they are off."""

import numpy as np
import pytest
from conftest import refuses

from bioface import degradation
from bioface.degradation import Chain


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def image(rng):
    """Two smooth photos in eight bits, as JPEG likes them."""
    x = np.linspace(0, 1, 32)
    ramps = np.stack([np.outer(x, x), np.outer(1 - x, x), np.outer(x, 1 - x)], -1)
    return np.rint(255 * np.stack([ramps, 1 - ramps])) / 255


@pytest.mark.parametrize("strength", [-degradation.TONE, degradation.TONE])
def test_a_tone_curve_rises_and_keeps_black_grey_and_white(strength):
    x = np.linspace(0, 1, 101)[:, None, None].repeat(3, -1)
    y = degradation.tone_curve(x, strength)
    assert (np.diff(y[:, 0, 0]) > 0).all()
    assert np.allclose(y[[0, 50, 100]], x[[0, 50, 100]])
    assert np.isclose(y[25, 0, 0], 0.25 - strength)
    refuses("strength within", degradation.tone_curve, x, 2 * strength)  # it would fall


def test_jpeg_loses_the_more_the_lower_its_quality(image):
    errors = [np.sqrt(np.mean((degradation.jpeg(image, q) - image) ** 2)) for q in (100, 75, 40)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.1
    steps = 255 * degradation.jpeg(image, 75)
    assert np.allclose(steps, np.rint(steps), atol=1e-9)


def test_noise_has_its_deviation_and_stays_in_range(rng):
    flat = np.full((64, 64, 3), 0.5)
    assert abs(np.std(degradation.sensor_noise(flat, 0.02, rng)) - 0.02) < 0.001
    black = degradation.sensor_noise(np.zeros((8, 8, 3)), 0.02, rng)
    assert black.min() == 0 and black.max() > 0


def test_an_empty_chain_changes_nothing_and_a_full_one_is_its_parts(image):
    assert np.array_equal(degradation.apply(image, Chain(), np.random.default_rng(1)), image)
    found = degradation.apply(image, Chain(0.05, 80, 0.01), np.random.default_rng(1))
    noisy = degradation.sensor_noise(image, 0.01, np.random.default_rng(1))
    assert np.array_equal(found, degradation.jpeg(degradation.tone_curve(noisy, 0.05), 80))


def test_chains_cover_what_they_should(rng):
    chains = [degradation.draw(rng) for _ in range(2000)]
    tones, qualities, noises = zip(*chains, strict=True)
    compressed = [q for q in qualities if q is not None]
    assert -0.08 <= min(tones) < -0.07 and 0.07 < max(tones) <= 0.08
    assert (min(compressed), max(compressed)) == (60, 100)
    assert 0 <= min(noises) < 0.001 and 0.019 < max(noises) <= 0.02
    assert abs(1 - len(compressed) / len(chains) - degradation.UNCOMPRESSED) < 0.04
