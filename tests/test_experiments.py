"""Runs side by side, their cache and their scores; costs and step sizes."""

import numpy as np
import pytest
import torch

from bioface import image_formation, objective, recipes, training
from bioface.datasets import photos
from bioface.errors import BiofaceError
from bioface.network import Output
from study import experiments

SMALL = dict(width=2, steps=3)


def a_batch(faces=2, size=16, seed=0):
    """Smooth faces of known maps, rendered by the decoder itself."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, faces, 1, 4, 4, generator=g)
    maps = torch.stack([torch.nn.functional.interpolate(m, size, mode="bilinear").squeeze(1) for m in coarse])
    said = Output(
        maps[0] - 0.5,
        maps[1] - 0.5,
        0.4 + maps[2],
        0.1 * maps[3],
        torch.zeros(faces, 2),
        torch.eye(14)[torch.arange(faces) % 14],
        torch.full((faces,), 6500.0),
    )
    blank = objective.Batch(torch.zeros(faces, size, size, 3), torch.ones(faces, size, size, dtype=torch.bool))
    image, _ = objective.decode(said, blank, recipes.WORKING)
    return objective.Batch(image, blank.mask)


def first_run(batch, recipe=recipes.WORKING, **changes):
    return experiments.run_all(experiments.Plan(batch, [recipe], **SMALL | changes))[recipe.name][0]


@pytest.fixture
def times_run(folders, monkeypatch):
    """What was trained, not found; in this process."""
    found, run = [], experiments.run
    monkeypatch.setattr(experiments, "run", lambda *job: found.append(job) or run(*job))
    monkeypatch.setattr(experiments.notebook, "processors", lambda: 1)
    return found


def test_runs_are_kept_and_found_again(times_run):
    batch, recipe = a_batch(), recipes.WORKING
    first = experiments.run_all(experiments.Plan(batch, [recipe], seeds=(0, 1), **SMALL))["working"]
    assert [found.seed for found in first] == [0, 1] and len(times_run) == 2
    assert not np.array_equal(first[0].image, first[1].image)
    renamed = recipe.but("other name")
    second = experiments.run_all(experiments.Plan(batch, [renamed], seeds=(0, 1), **SMALL))["other name"]
    assert len(times_run) == 2
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.image_eval, other.image_eval)
        assert all(torch.equal(a, b) for a, b in zip(one.output, other.output, strict=True))
        assert np.array_equal(one.history.total, other.history.total)
        assert one.history.seconds == other.history.seconds
        assert other.recipe == renamed


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_cache_is_run_again(folders, times_run, damage):
    batch = a_batch()
    first = first_run(batch)
    (file,) = (folders.parent / "build" / "cache").rglob("output.pkl")
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no archive"}[damage])
    assert np.array_equal(first_run(batch).image, first.image)
    assert len(times_run) == 2 and len(file.read_bytes()) == len(whole)


def test_another_recipe_seed_or_face_is_another_run(times_run):
    batch, faster = a_batch(), recipes.WORKING.but("working", learning_rate=1e-4)
    for others in (dict(), dict(recipe=faster), dict(width=4), dict(seeds=(1,)), dict(steps=4)):
        first_run(batch, **others)
    first_run(a_batch(seed=1))
    assert len(times_run) == 6


@pytest.mark.slow
def test_several_processes_give_what_one_gives(folders, monkeypatch, tmp_path):
    batch, both = a_batch(), [recipes.WORKING, recipes.PAPER_LITERAL]
    monkeypatch.setattr(experiments.notebook, "processors", lambda: 2)
    side_by_side = experiments.run_all(experiments.Plan(batch, both, **SMALL))
    monkeypatch.setenv("BIOFACE_BUILD", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(experiments.notebook, "processors", lambda: 1)
    alone = experiments.run_all(experiments.Plan(batch, both, **SMALL))
    for name in alone:
        assert np.array_equal(alone[name][0].image, side_by_side[name][0].image)


def test_recipes_of_one_name_are_refused(folders):
    with pytest.raises(BiofaceError, match="names that differ"):
        experiments.run_all(
            experiments.Plan(a_batch(), [recipes.WORKING, recipes.WORKING.but("working", scale=255.0)], **SMALL)
        )


def test_a_run_starts_at_the_untrained_network(folders):
    batch = a_batch()
    still = recipes.WORKING.but("still", optimiser="sgd", learning_rate=1e-30)
    found = experiments.run(batch, still, **SMALL)
    assert np.allclose(found.start, found.image)
    assert found.history.output_change.max() < 1e-6
    assert torch.get_num_threads() >= 1


def test_scores_of_known_images():
    batch = a_batch()
    image = batch.image.numpy()
    assert experiments.reconstruction(image + 0.1, batch) == pytest.approx(0.1, rel=1e-5)
    assert experiments.luminance_correlation(2 * image, batch) == pytest.approx(1)
    flat = experiments.constant_colour(batch)
    assert np.ptp(flat, (1, 2)).max() == 0
    assert experiments.reconstruction(flat, batch) == pytest.approx(
        image.std((1, 2)).__pow__(2).mean(-1).__pow__(0.5).mean(), rel=1e-4
    )


def test_scores_of_the_truth_are_perfect(twin_truth):
    samples, batch = twin_truth
    said = objective.true_output(samples.truth)
    image, _ = objective.decode(said, batch, recipes.WORKING)
    row = np.zeros(1)
    nothing = training.History(dict.fromkeys(training.LOSSES, row), row, row, row)
    found = experiments.Run(recipes.WORKING, 8, 0, 1, image.numpy(), image.numpy(), image.numpy(), said, nothing)
    s = experiments.scores(found, batch, samples.truth)
    for name in ("melanin", "haemoglobin", "diffuse", "specular"):
        assert s[name] < 1e-4
        assert s[f"{name}_correlation"] > 0.999
    assert s["rmse"] < 0.01 and s["luminance"] > 0.999


@pytest.fixture(scope="module")
def twin_truth(issa_build, tmp_path_factory):
    """Two faces of a tiny twin."""
    from bioface.datasets import twin

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFACE_BUILD", str(issa_build))
        config = twin.TwinConfig(train=2, validation=1, test=1, cubes=0)
        samples = twin.load(split="train", config=config)
    return samples, objective.Batch.of(samples)


def test_step_sizes_add_up():
    batch = a_batch()
    paper, code = recipes.PAPER_LITERAL, recipes.get("weight_decay")
    pixels = 64 * 16 * 16 / 224**2
    gain = np.mean([(1 - 0.9**k) / 0.1 for k in range(1, 11)])
    assert experiments.step_size_ratio(code, paper, batch, 10) == pytest.approx(255**2 * pixels * gain)
    with pytest.raises(BiofaceError, match="sgd"):
        experiments.step_size_ratio(recipes.WORKING, paper, batch, 10)


def test_measured_step_sizes_agree_with_the_arithmetic():
    batch = a_batch(8, 32)  # two faces of 16 × 16 leave batch norm two values to compare: chaos
    slow = [r.but(r.name, learning_rate=1e-9) for r in (recipes.get("momentum"), recipes.PAPER_LITERAL)]
    travelled = [experiments.displacement(batch, r, 5, width=2) for r in slow]
    computed = experiments.step_size_ratio(*slow, batch, 5)
    assert 0.5 < travelled[0] / travelled[1] / computed < 2


def test_tiny_steps_are_lost_in_single_precision():
    batch = a_batch()
    vanishing = recipes.PAPER_LITERAL.but("vanishing", learning_rate=1e-12)
    assert experiments.moved_share(batch, vanishing, width=2) < 0.1
    assert experiments.moved_share(batch, recipes.WORKING, width=2) > 0.5


@pytest.mark.alone
def test_a_step_costs_little_more_than_the_bare_network():
    batch = a_batch(16, 64)
    costs = []
    for _ in range(4):  # another process can only make a ratio worse than it is, so one quiet look is enough
        costs.append(experiments.step_cost(batch, recipes.WORKING, width=8, steps=3))
        if costs[-1].table_ratio <= 1.1 and costs[-1].spectral_ratio > costs[-1].table_ratio:
            return
    pytest.fail(f"a step takes more than 1.1 times the bare network: {costs}")


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_process_of_its_own():
    batch = a_batch(4, 64)
    bare = experiments.peak_memory(batch, None)
    spectral = experiments.peak_memory(batch, recipes.WORKING.but("s", decoder="spectral"))
    assert 10 < bare < spectral < 5000


def test_the_dictionary_of_a_summary():
    batch = a_batch()
    table = experiments.summary(
        {"working": [experiments.run(batch, recipes.WORKING, seed=s, **SMALL) for s in (0, 1)]}, batch
    )
    assert set(table["working"]) == {"rmse", "luminance", "start"}
    assert table["working"]["rmse"].shape == (2,)


@pytest.fixture(scope="module")
def real_crops(real_data):
    """Thirteen photos of faces with masks, 64 × 64; for tests only."""
    folder = real_data / "photos"
    masks = sorted(folder.glob("*_mask.png"))
    if not masks:
        pytest.skip(f"no real data: {folder} has no masks")
    found = [photos.read(str(mask).replace("_mask", "_face"), mask, resize_mask=True) for mask in masks]
    rgb = np.stack([p.rgb.reshape(64, 2, 64, 2, 3).mean((1, 3)) for p in found])
    mask = np.stack([p.mask.reshape(64, 2, 64, 2).all((1, 3)) for p in found])
    image = image_formation.srgb_decode(rgb.astype(np.float32))
    return objective.Batch(torch.from_numpy(image), torch.from_numpy(mask), names=tuple(p.name for p in found))


@pytest.mark.slow
def test_real_faces_are_overfitted(real_crops):
    """Masks but no normals: nothing supervises the shading."""
    four = real_crops[:4]
    found = experiments.run(four, recipes.WORKING, width=8, steps=300)
    flat = experiments.reconstruction(experiments.constant_colour(four), four)
    s = experiments.scores(found, four)
    assert s["rmse"] <= 0.025 and s["luminance"] >= 0.98, s
    assert s["rmse"] < 0.5 * flat, (s, flat)
    literal = experiments.run(four, recipes.PAPER_LITERAL, width=8, steps=20)
    s = experiments.scores(literal, four)
    assert s["rmse"] > flat and s["luminance"] < 0.2, s
