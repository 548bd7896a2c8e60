"""Plans and their cached weights, and the network that ships."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from bioface import by_network, image_formation, maps, metrics, objective, paths, recipes
from bioface.datasets import portrait, skin_spectra, twin
from bioface.network import BioFaceNet
from study import generalisation, notebook
from study.generalisation import Plan, Stage

TINY = Plan(
    "tiny",
    (
        Stage(recipes.SUPERVISED, 2, batch=2, recolour=True, halved=2),
        Stage(recipes.SUPERVISED, 1, batch=2, recolour=True, maps="inverted", halved=1),
        Stage(recipes.PUBLISHED_LOSSES, 1, batch=2),
    ),
    width=2,
    faces=4,
)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty cache for weights; the twin stays where it is."""
    here = twin.folder()
    monkeypatch.setattr(twin, "folder", lambda config=None: here)
    monkeypatch.setattr(paths, "build", lambda: tmp_path)
    return tmp_path


def same(a: BioFaceNet, b: BioFaceNet) -> bool:
    return all(torch.equal(v, b.state_dict()[name]) for name, v in a.state_dict().items())


@pytest.mark.slow
def test_weights_are_a_function_of_plan_and_seed():
    a, b, other = (generalisation.train(TINY, seed) for seed in (1, 1, 2))
    assert same(a, b) and not same(a, other)
    only = generalisation.train(TINY.but("first", stages=TINY.stages[:1]), 1)
    assert not same(a, only)  # the second stage went on


@pytest.fixture
def times_trained(build, monkeypatch):
    """What was trained, not found; a training takes no time."""
    found = []
    monkeypatch.setattr(generalisation, "train", lambda plan, seed: found.append((plan, seed)) or BioFaceNet(2))
    return found


@pytest.mark.slow
def test_weights_are_kept_and_another_plan_is_another_training(build, times_trained):
    first = generalisation.weights(TINY)
    assert same(first, generalisation.weights(TINY.but("another name")))  # a name is not what it is made of
    assert not first.training and len(times_trained) == 1
    longer = (dataclasses.replace(TINY.stages[0], steps=3),)
    plain = dict(stages=TINY.stages[:1], skin_model=False)
    for change in (dict(width=3), dict(faces=5), dict(stages=TINY.stages[:1]), dict(stages=longer), plain):
        generalisation.weights(TINY.but("other", **change))
    generalisation.weights(TINY, 1)
    assert len(times_trained) == 7


@pytest.mark.slow
def test_networks_are_trained_once_where_they_are_missing(times_trained, monkeypatch):
    monkeypatch.setattr(notebook, "processors", lambda: 1)
    generalisation.weights(TINY, 0)
    found = generalisation.networks({TINY: range(2)})
    assert times_trained == [(TINY, 0), (TINY, 1)] and list(found) == ["tiny"] and len(found["tiny"]) == 2


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_faces():
    truth = maps.of_twin(twin.load("test", 3, progress=False))
    model = generalisation.train(TINY)
    together, alone = (generalisation.predict(model, truth.image[k], truth.mask[k]) for k in (slice(3), slice(1, 2)))
    assert np.allclose(together.melanin[1], alone.melanin[0], atol=1e-6)
    assert np.allclose(together.reconstruction[1], alone.reconstruction[0], atol=1e-5)
    assert together.melanin.min() >= 0 and together.melanin.max() <= 0.43


def test_training_paints_with_spectra_of_nobody_who_is_judged():
    subject = skin_spectra.load("issa").subject
    unseen, every = generalisation.unseen_spectra(), portrait.base_rows()
    assert set(unseen) == set(every) and all(len(unseen[g]) > 0.5 * len(every[g]) for g in every)
    painted = set(subject[np.concatenate(list(unseen.values()))])
    for split in ("validation", "test"):
        truth = twin.load(split, progress=False).truth
        assert painted.isdisjoint(subject[truth.spectrum])
        assert (skin_spectra.load("issa").group[truth.spectrum] == truth.group).all()


@pytest.fixture(scope="module")
def faces():
    return twin.load("validation", 3, progress=False)


@pytest.mark.slow
def test_inverted_maps_know_nothing_of_the_truth_yet_render_to_the_photo_and_are_of_its_order(faces):
    found, without = (generalisation.inverted(f) for f in (faces, dataclasses.replace(faces, truth=None)))
    assert np.array_equal(found.melanin, without.melanin)
    batch = objective.Batch.of(dataclasses.replace(faces, truth=found))
    image, _ = objective.decode(batch.truth, batch, recipes.WORKING)
    assert float(metrics.rmse(image, batch.image, batch.mask).max()) < 0.05
    true = torch.from_numpy(faces.truth.diffuse_shading)
    assert float(metrics.correlation(batch.truth.diffuse, true, batch.mask).median()) > 0.8  # dark skin is worse


def test_half_of_the_measured_people_give_another_prior_of_the_same_kind(faces):
    image = image_formation.srgb_decode(faces.rgb)
    subject = skin_spectra.load("issa").subject
    half = np.isin(subject, np.unique(subject)[::2])
    whole, some = (generalisation.measured_prior(image, faces.mask, of) for of in (None, half))
    assert not np.array_equal(whole.law, some.law)
    assert np.allclose(whole.pigments, some.pigments, atol=0.1)


CARD = by_network.WEIGHTS.with_suffix(".md").read_text()


@pytest.mark.slow
def test_the_weights_that_ship_are_small_and_do_what_their_card_says():
    """Every number of the card, of all that it was measured on."""
    assert by_network.WEIGHTS.stat().st_size <= 4_000_000
    assert "synthetic" in CARD and "**Not for**" in CARD
    measured = generalisation.model_card(BioFaceNet.from_file(by_network.WEIGHTS))
    digits = re.compile(r"\b\d\.\d{2,3}\b|\d\d%")  # another processor rounds to other last digits
    assert digits.sub("", measured) == digits.sub("", CARD)
    for decimals, apart in ((3, 0.003), (2, 0.011)):  # errors, and their shares
        said, found = (re.findall(rf"\b\d\.\d{{{decimals}}}\b", text) for text in (CARD, measured))
        assert [float(v) for v in found] == pytest.approx([float(v) for v in said], abs=apart) and len(said) > 30
