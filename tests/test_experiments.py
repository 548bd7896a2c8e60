"""Runs side by side, their cache and their scores; costs and step sizes."""

import dataclasses

import numpy as np
import pytest
import torch

from bioface import objective, recipes, training
from bioface.datasets import twin
from bioface.network import Output
from study import experiments, notebook

SMALL = dict(width=2, steps=3)


def a_batch(faces=2, size=16, seed=0):
    """Smooth faces of known maps, rendered by the decoder itself."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, faces, 1, 4, 4, generator=g)
    maps = torch.stack([torch.nn.functional.interpolate(m, size, mode="bilinear").squeeze(1) for m in coarse])
    light = torch.eye(14)[torch.arange(faces) % 14], torch.full((faces,), 6500.0)
    said = Output(maps[0] - 0.5, maps[1] - 0.5, 0.4 + maps[2], 0.1 * maps[3], torch.zeros(faces, 2), *light)
    blank = objective.Batch(torch.zeros(faces, size, size, 3), torch.ones(faces, size, size, dtype=torch.bool))
    image, _ = objective.decode(said, blank, recipes.WORKING)
    return objective.Batch(image, blank.mask)


def runs_of(batch, *recipes_, **changes):
    return experiments.run_all(experiments.Plan(batch, recipes_ or [recipes.WORKING], **SMALL | changes))


def same(one, other):
    both = ([r.start, r.image, r.image_eval, r.history.total, *r.output] for r in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*both, strict=True))


@pytest.fixture
def times_run(folders, monkeypatch):
    """What was trained, not found; in this process."""
    found, run = [], experiments.run
    monkeypatch.setattr(experiments, "run", lambda *job: found.append(job) or run(*job))
    monkeypatch.setattr(notebook, "processors", lambda: 1)
    return found


def test_runs_are_kept_and_found_again(times_run):
    batch, recipe = a_batch(), recipes.WORKING
    first = runs_of(batch, recipe, seeds=(0, 1))["working"]
    assert [job[3] for job in times_run] == [0, 1]
    assert not np.array_equal(first[0].image, first[1].image)
    named = dataclasses.replace(batch, names=("a", "b"))
    second = runs_of(named, recipe.but("other name"), seeds=(0, 1))["other name"]  # names make no other run
    assert len(times_run) == 2 and all(map(same, first, second))
    assert first[0].history.seconds == second[0].history.seconds
    table = experiments.summary({"working": first}, batch)["working"]
    assert set(table) == {"rmse", "luminance", "start"} and table["rmse"].shape == (2,)


@pytest.mark.slow
def test_another_recipe_seed_face_or_truth_is_another_run(times_run):
    batch, faster = a_batch(), recipes.WORKING.but("working", learning_rate=1e-4)
    for others in (dict(), dict(width=4), dict(seeds=(1,)), dict(steps=4)):
        runs_of(batch, **others)
    runs_of(batch, faster)
    with torch.no_grad():
        truth = training.build("working", 2)(batch.image)
    for other in (a_batch(seed=1), dataclasses.replace(batch, truth=truth)):
        runs_of(other)
    assert len(times_run) == 7


def test_a_run_starts_untrained_and_tiny_steps_are_lost(folders):
    batch = a_batch()
    still = recipes.WORKING.but("still", optimiser="sgd", learning_rate=1e-30)
    found = experiments.run(batch, still, **SMALL)
    assert np.allclose(found.start, found.image)
    vanishing = recipes.PAPER_LITERAL.but("vanishing", learning_rate=1e-12)
    assert experiments.moved_share(batch, vanishing, width=2) < 0.1
    assert experiments.moved_share(batch, recipes.WORKING, width=2) > 0.5


def a_run(image, said):
    row = np.zeros(1)
    nothing = training.History(dict.fromkeys(training.LOSSES, row), row, row)
    return experiments.Run(image, image, image, said, nothing)


def test_scores_of_known_images():
    batch = a_batch()
    image = batch.image.numpy()
    assert experiments.reconstruction(image + 0.1, batch) == pytest.approx(0.1, rel=1e-5)
    said = training.build("working", 2)(batch.image)
    assert experiments.scores(a_run(2 * image, said), batch)["luminance"] == pytest.approx(1)
    flat = experiments.constant_colour(batch)
    assert np.ptp(flat, (1, 2)).max() == 0
    deviation = np.sqrt(image.var((1, 2)).mean(-1)).mean()
    assert experiments.reconstruction(flat, batch) == pytest.approx(deviation, rel=1e-4)


def test_scores_of_the_truth_are_perfect(issa_build, monkeypatch):
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    samples = twin.load("train", config=twin.TwinConfig(train=2, validation=1, test=1, cubes=0))
    batch = objective.Batch.of(samples)
    said = objective.true_output(samples.truth)
    image, _ = objective.decode(said, batch, recipes.WORKING)
    s = experiments.scores(a_run(image.numpy(), said), batch, samples.truth)
    for name in ("melanin", "haemoglobin", "diffuse", "specular"):
        assert s[name] < 1e-4 and s[f"{name}_correlation"] > 0.999
    assert s["rmse"] < 0.01 and s["luminance"] > 0.999


@pytest.mark.slow
def test_step_sizes_add_up_as_measured():
    batch = a_batch()
    paper, code = recipes.PAPER_LITERAL, recipes.get("weight_decay")
    pixels = 64 * 16 * 16 / 224**2
    gain = np.mean([(1 - 0.9**k) / 0.1 for k in range(1, 11)])
    assert experiments.step_size_ratio(code, paper, batch, 10) == pytest.approx(255**2 * pixels * gain)
    batch = a_batch(8, 32)  # two faces of 16 × 16 leave batch norm two values to compare: chaos
    slow = [r.but(r.name, learning_rate=1e-9) for r in (recipes.get("momentum"), recipes.PAPER_LITERAL)]
    travelled = [experiments.displacement(batch, r, 5, width=2) for r in slow]
    computed = experiments.step_size_ratio(*slow, batch, 5)
    assert 0.5 < travelled[0] / travelled[1] / computed < 2
