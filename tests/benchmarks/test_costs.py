"""What the work costs: `make bench`. A group times a fast way beside the plain one; read the ratios, not the times.

Torch has one thread. Everything is synthetic: the first faces of the twin.
"""

import numpy as np
import pytest
import torch

from bioface import camera, decompose, image_formation, objective, recipes, smith2019, threads, training
from bioface.datasets import twin

pytestmark = pytest.mark.slow  # nothing for the fast loop
FACES, WIDTH = 16, 8
MAPS = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading")
CONFIG = twin.TwinConfig(train=FACES, validation=1, test=1, cubes=0)


@pytest.fixture(autouse=True)
def one_thread():
    with threads.number(1):
        yield


@pytest.fixture(scope="module")
def faces():
    return twin.load("train", config=CONFIG, progress=False)


@pytest.fixture(scope="module")
def pixels(faces):
    """Maps of all pixels of skin."""
    return [getattr(faces.truth, name)[faces.mask].astype(float) for name in MAPS]


@pytest.mark.benchmark(group="image and its gradient")
@pytest.mark.parametrize("method", ["table", "exact"])
def test_an_image(benchmark, faces, pixels, method):
    sensitivity = camera.CameraModel.load().sensitivity(faces.truth.camera_b[:1])
    shared = [np.repeat(values, FACES, 0) for values in (faces.truth.illuminant[:1], sensitivity)]
    maps = [np.resize(p, (FACES, 64, 64)).astype(np.float32) for p in pixels]
    inputs = [torch.from_numpy(values).requires_grad_() for values in (*maps, *shared)]

    def work():
        return torch.autograd.grad(image_formation.render(*inputs, method=method).square().sum(), inputs)

    assert all(torch.isfinite(gradient).all() for gradient in benchmark(work))


@pytest.mark.benchmark(group="fit of 50 pixels")
@pytest.mark.parametrize("solver", ["varpro", "lm", "sgd"])
def test_fifty_pixels(benchmark, faces, pixels, solver):
    light = faces.truth.illuminant[0].astype(float)
    light /= light.mean()
    clean = image_formation.render_spectral(*(np.resize(p, (1, 65536))[:, ::1311] for p in pixels), light)[0]
    few = clean + np.random.default_rng(0).normal(0, 0.002, clean.shape)

    def work():
        return smith2019.fit(few, illuminant=light, solver=solver, steps=100).residual

    assert np.median(benchmark(work)) < (1 if solver == "sgd" else 0.003)


@pytest.mark.benchmark(group="photo taken apart")
@pytest.mark.parametrize("side", [64, 256, 1024])
def test_a_photo(benchmark, faces, side):
    rows = np.arange(side) * 64 // side
    photo, mask = (values[0][np.ix_(rows, rows)] for values in (faces.rgb, faces.mask))
    assert benchmark(decompose, photo, mask).melanin.shape == (side, side)


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize("what", ["bare network", "table", "spectral"])
def test_a_training_step(benchmark, faces, what):
    batch, model = objective.Batch.of(faces), training.build("working", WIDTH).train()
    recipe = recipes.WORKING.but("timed", decoder="spectral" if what == "spectral" else "table")

    def work():
        model.zero_grad()
        said = model(batch.image)
        if what == "bare network":
            loss = sum(value.square().mean() for value in said)
        else:
            loss = sum(objective.loss_terms(*objective.decode(said, batch, recipe), batch, recipe).values())
        loss.backward()
        return loss.item()

    assert np.isfinite(benchmark.pedantic(work, rounds=5, warmup_rounds=1))
