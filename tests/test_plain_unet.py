"""The U-Net without a skin model: as large as BioFaceNet, trained on the same faces, and nothing physical inside."""

import numpy as np
import pytest
import torch

from bioface import maps, objective, recipes
from bioface.datasets import twin
from bioface.network import BioFaceNet
from study import augmentation, generalisation, plain_unet
from study.generalisation import Plan, Stage

TINY = Plan("tiny", (Stage(recipes.SUPERVISED, 2, batch=2, recolour=True, halved=2),), 2, 4, skin_model=False)


@pytest.fixture(scope="module")
def faces():
    return twin.load("train", 4, progress=False)


@pytest.mark.parametrize("width", [2, 8])
def test_it_is_of_the_size_of_biofacenet(width):
    plain, whole = (sum(p.numel() for p in model(width).parameters()) for model in (plain_unet.PlainUNet, BioFaceNet))
    assert 0.97 < plain / whole < 1


def test_its_outputs_are_plain_numbers_of_the_shape_of_maps():
    model = plain_unet.build(recipes.SUPERVISED, 2, 0)
    for decoder in (model.melanin, model.haemoglobin, model.diffuse, model.specular, model.albedo):
        torch.nn.init.constant_(decoder.last.bias, -5)
    said = plain_unet.Maps(*(value.detach() for value in model(torch.rand(2, 32, 48, 3))))
    assert [tuple(value.shape) for value in said] == [(2, 32, 48)] * 4 + [(2, 32, 48, 3)]
    assert all(float(value.max()) < -1 for value in said)  # where nothing physical would be


@pytest.mark.slow
def test_training_lowers_the_error_of_every_map_and_depends_on_plan_and_seed_alone(faces):
    seen = augmentation.Augmented(faces, 0, halved=2)
    batch = seen[np.arange(4)]

    def errors(model):
        with torch.no_grad():
            said = model(batch.image)
        truth = (*batch.truth[:4], objective.albedo(batch.truth, recipes.SUPERVISED))
        inside = batch.mask
        return [float((a - b)[inside].square().mean()) for a, b in zip(said, truth, strict=True)]

    model = plain_unet.build(recipes.SUPERVISED, 4, 0)
    before = errors(model.train())
    plain_unet.train(model, seen, recipes.SUPERVISED, 30, 4, 0)
    assert not model.training
    assert all(after < start for after, start in zip(errors(model.train()), before, strict=True))


def test_a_plan_without_a_skin_model_trains_one_and_its_answer_is_a_decomposition():
    model, again = (generalisation.train(TINY, 1) for _ in range(2))
    assert isinstance(model, plain_unet.PlainUNet)
    assert all(torch.equal(v, again.state_dict()[name]) for name, v in model.state_dict().items())
    truth = maps.of_twin(twin.load("test", 2, progress=False))
    found = generalisation.predict(model, truth.image, truth.mask)
    assert found.albedo.shape == (2, 64, 64, 3) and found.camera_b.shape == (2, 2)
    assert found.melanin.min() >= 0 and found.melanin.max() <= 0.43
    made = found.diffuse_shading[..., None] * found.albedo + found.specular_shading[..., None]
    assert np.allclose(found.reconstruction, made)
