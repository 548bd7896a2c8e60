"""From the maps to the loss: batches and what they refuse, the decoder against the twin's truth, every mistake."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import refuses
from test_diagnosis import faces as made_up

from bioface import camera, illumination, image_formation, losses, objective, recipes
from bioface.camera import CameraModel
from bioface.datasets import twin
from bioface.network import BioFaceNet, Output
from bioface.objective import Batch
from bioface.recipes import PAPER_LITERAL, WORKING

SMALL = twin.TwinConfig(seed=5, train=4, validation=1, test=1, mismatch_share=0.5, cubes=0)
NAMES = ("ann", "bob", "eve")


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch(count=3, **changes):
    return dataclasses.replace(made_up(count, 16), names=NAMES[:count], **changes)


def spoiled(field, index, value):
    tensor = getattr(batch(), field).clone()
    tensor[index] = value
    return {field: tensor}


def maps(count=3, size=16, seed=0):
    """Random maps, cameras and lights within their ranges."""
    g, k, diffuse, specular = rand(4, count, size, size, seed=seed + 10)
    weights = torch.softmax(4 * rand(count, 14, seed=seed + 11), 1)
    b, cct = 4 * rand(count, 2, seed=seed + 12) - 2, 4500 + 9000 * rand(count, seed=seed + 13)
    return Output(2 * g - 1, 2 * k - 1, diffuse + 0.2, 0.3 * specular, b, weights, cct)


def decoded(output, recipe, photo=None):
    return objective.decode(output, photo or batch(len(output.melanin)), recipe)[0]


def terms_of(output, faces, recipe, count=None):
    rendered, said = objective.decode(output, faces, recipe)
    return rendered, objective.loss_terms(rendered, said, faces, recipe, count)


def all_finite(values):
    return all(bool(torch.isfinite(v).all()) for v in values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (spoiled("mask", 1, False), "bob: expected a mask with a face, found an empty mask"),
        (spoiled("image", (2, 8, 8, 1), np.nan), "eve: expected finite values in image"),
        (spoiled("normals", (1, 8, 8, 0), np.nan), "bob: expected finite values in normals"),
        (spoiled("lighting", (2, 4), np.inf), "eve: expected finite values in lighting"),
        (dict(mask=batch().mask.float()), "mask of booleans, found torch.float32"),
        (dict(mask=batch(2).mask), r"mask of shape \(3, 16, 16\), found \(2, 16, 16\)"),
        (dict(normals=batch().normals.movedim(-1, 1)), r"normals of shape \(3, 16, 16, 3\), found \(3, 3, 16, 16\)"),
        (dict(lighting=torch.ones(3, 3, 9)), r"lighting of shape \(3, 9\), found \(3, 3, 9\)"),
        (dict(normals=None), "normals and lighting together"),
        (dict(names=()) | spoiled("mask", 1, False), "^face 1: expected a mask with a face"),
        (dict(image=rand(0, 16, 16, 3)), "at least one image, found none"),
    ],
)
def test_bad_faces_are_refused(changes, message):
    """Past the type checker of the tests, as a user gets there."""
    raw = Batch.__new__(Batch)
    vars(raw).update({**vars(batch()), **changes})
    refuses(message, raw.__post_init__)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0], np.array([1]), 2, -1])
def test_some_of_the_faces(rows):
    """With their names; those without one are numbered."""
    all_of_them = batch()
    some, expected = all_of_them[rows], np.atleast_1d(np.arange(3)[rows])
    assert len(some) == len(expected) and some.names == tuple(NAMES[i] for i in expected)
    for field in ("image", "mask", "normals", "lighting"):
        assert torch.equal(getattr(some, field), getattr(all_of_them, field)[expected])
    assert batch(normals=None, lighting=None)[rows].normals is None
    assert made_up(3).names == ("face 0", "face 1", "face 2")


def test_a_photo_has_no_shading_to_learn_from():
    rgb = rand(16, 32, 3).numpy()
    photo = Batch.of_photo(rgb, np.ones((16, 32), int), "me")
    assert photo.image.shape == (1, 16, 32, 3) and photo.mask.dtype == torch.bool and photo.names == ("me",)
    np.testing.assert_allclose(image_formation.srgb_encode(photo.image[0].numpy()), rgb, atol=1e-6)
    assert objective.shading_target(photo, WORKING) is None
    output = Output(*rand(4, 1, 16, 32), *maps(1)[4:])
    _, terms = terms_of(output, photo, WORKING)
    assert terms["diffuse"] == 0 and all(terms[name] > 0 for name in ("appearance", "camera", "specular"))


@pytest.mark.parametrize(("value", "mask"), [(255.0, 1), (np.nan, 1), (0.5, 0)])
def test_a_bad_photo_is_refused(value, mask):
    message = "display values within 0–1" if mask else "a mask with a face"
    refuses(f"me: expected {message}", Batch.of_photo, np.full((16, 16, 3), value), np.full((16, 16), mask), "me")


@pytest.fixture(scope="module")
def faces(issa_build):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFACE_BUILD", str(issa_build))
        yield twin.load("train", config=SMALL, progress=False)


def test_a_batch_of_faces_is_their_linear_light(faces):
    together = Batch.of(faces)
    np.testing.assert_allclose(together.image.numpy(), image_formation.srgb_decode(faces.rgb), atol=1e-7)
    np.testing.assert_array_equal(together.mask.numpy(), faces.mask)
    np.testing.assert_array_equal(together.normals.numpy(), faces.normals)
    np.testing.assert_allclose(together.lighting.numpy(), faces.lighting.mean(1), atol=1e-7)
    assert together.names == tuple(faces.names) and Batch.of(together) is together
    refuses("expected faces of a data set or a batch, found ndarray", Batch.of, faces.rgb)


def test_the_shading_that_supervises_is_the_twin_s_pseudo_shading(faces):
    assert faces.truth.mismatch.any() and not faces.truth.mismatch.all()
    target = objective.shading_target(Batch.of(faces), WORKING).numpy()
    np.testing.assert_allclose(target[faces.mask], faces.truth.pseudo_shading[faces.mask], atol=2e-6)
    wrong = np.abs(target - faces.truth.diffuse_shading).max((1, 2), where=faces.mask, initial=0)
    np.testing.assert_array_equal(wrong > 0.05, faces.truth.mismatch)


def test_the_truth_costs_next_to_nothing_and_less_than_other_maps(faces):
    photo, truth = Batch.of(faces), objective.true_output(faces.truth)
    paler = truth._replace(melanin=truth.melanin - 0.2)
    own, paler = (terms_of(output, photo, WORKING)[1] for output in (truth, paler))
    assert own["appearance"] < 1e-3 * 2e-5 and paler["appearance"] > 20 * own["appearance"]
    matched = [k for k in range(len(faces)) if not faces.truth.mismatch[k]]
    photo, truth = photo[matched], Output(*(v[matched] for v in truth))
    for scale in (1, 1.7):  # the scale is free
        output = truth._replace(diffuse=truth.diffuse * scale)
        assert terms_of(output, photo, WORKING)[1]["diffuse"] < 1e-10


def test_albedo_is_skin_in_plain_light(faces):
    truth, S = faces.truth, CameraModel.load().sensitivity(faces.truth.camera_b)
    one, zero = np.ones_like(truth.melanin), np.zeros_like(truth.melanin)
    expected = image_formation.render(truth.melanin, truth.haemoglobin, one, zero, truth.illuminant, S, method="exact")
    found = objective.albedo(objective.true_output(truth), WORKING).numpy()
    assert np.abs(found - expected)[faces.mask].max() < 1e-3


@pytest.mark.parametrize("model", ["layered", "published"])
def test_the_right_decoder_is_the_image_formation(model):
    output, recipe = maps(), WORKING.but("table", skin=model)
    e, S = illumination.mix(output.weights, output.cct), CameraModel.load().sensitivity(output.camera)
    pigments = output.melanin_fraction, output.haemoglobin_fraction
    exact = image_formation.render(*pigments, output.diffuse, output.specular, e, S, model, method="exact")
    assert torch.allclose(decoded(output, recipe), exact, atol=1.5e-3)
    assert torch.allclose(decoded(output, recipe.but("exact", decoder="spectral")), exact, atol=1e-5)
    assert torch.allclose(decoded(output, WORKING), exact, atol=0.02) == (model == "layered")


def whites(recipe):
    """(3, 3) colours of a white surface under A, D65 and F2, with the mean camera."""
    output = maps()
    shades = dict(diffuse=torch.zeros_like(output.diffuse), specular=torch.ones_like(output.specular))
    light = dict(weights=torch.eye(14)[[0, 1, 3]], cct=torch.full((3,), 6504.0), camera=torch.zeros(3, 2))
    output = output._replace(**light, **shades)
    return decoded(output, recipe)[:, 0, 0]


def test_white_is_white_under_any_light_but_for_two_mistakes():
    assert torch.allclose(whites(WORKING), torch.ones(3, 3), atol=1e-4)
    pink = torch.tensor([1.205, 0.948, 0.909]).expand(3, 3)
    assert torch.allclose(whites(recipes.get("rows_sum_1")), pink, atol=1e-3)
    # without white balance it has the light's colour: the raw answers, on a scale where equal energy would be white
    S = CameraModel.load().sensitivity().float()
    e = illumination.mix(torch.eye(14)[[0, 1, 3]], torch.full((3,), 6504.0))
    raw = 33 * e @ S.T / S.sum(-1)
    expected = raw @ (camera.XYZ_TO_SRGB.float() @ camera.raw_to_xyz(S)).T
    assert torch.allclose(whites(recipes.get("no_white_balance")), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_copy_replaces_the_diffuse_map_by_so_many_times_the_luminance(factor):
    output, faces = maps(), batch()
    recipe = WORKING.but("copy", copy_shading=factor)
    rendered, said = objective.decode(output, faces, recipe)
    grey = faces.image[..., 0] * 0.2126 + faces.image[..., 1] * 0.7152 + faces.image[..., 2] * 0.0722
    assert torch.allclose(said.diffuse, factor * grey, atol=1e-6)
    assert torch.equal(said.melanin, output.melanin) and torch.equal(said.specular, output.specular)
    assert torch.allclose(rendered, decoded(output._replace(diffuse=factor * grey), WORKING, faces), atol=1e-6)
    assert objective.loss_terms(rendered, said, faces, recipe)["diffuse"] == 0


@pytest.mark.slow
def test_a_fitted_copy_is_the_best_of_all_factors():
    dimmed = torch.tensor([0.5, 0.8, 0.6])[:, None, None, None]
    output, faces = maps(), batch(image=dimmed * rand(3, 16, 16, 3))
    rendered, said = objective.decode(output, faces, WORKING.but("copy", copy_shading="fitted"))

    def errors(image):
        return torch.where(faces.mask[..., None], (image - faces.image).square(), 0).sum((1, 2, 3))

    factors = torch.linspace(0.01, 6, 600)
    copies = [WORKING.but("k", copy_shading=float(k)) for k in factors]
    tried = torch.stack([errors(decoded(output, copy, faces)) for copy in copies])
    k = said.diffuse[:, 5, 5] / faces.luminance()[:, 5, 5]
    assert k.max() - k.min() > 0.1  # each image has its own
    assert torch.allclose(k, factors[tried.argmin(0)], atol=0.006)
    assert (errors(rendered) <= tried.min(0).values * (1 + 1e-5)).all()
    assert torch.allclose(rendered, decoded(said, WORKING, faces), atol=1e-5)
    # never negative: where highlights are brighter than the face, no light is the best that shading can do
    shiny = output._replace(specular=torch.full((3, 16, 16), 2.0))
    rendered, said = objective.decode(shiny, batch(), WORKING.but("copy", copy_shading="fitted"))
    assert said.diffuse.abs().max() == 0
    assert torch.allclose(rendered, torch.full_like(rendered, 2.0), atol=1e-3)


@pytest.mark.parametrize("recipe", [WORKING, PAPER_LITERAL, recipes.get("rows_of_the_code")], ids=str)
def test_losses_by_hand(recipe):
    """Means over the foreground; or sums over 224² of a batch of 64, whatever the batch is."""
    output, faces = maps(), batch()
    rendered, terms = terms_of(output, faces, recipe)
    m, w, s = faces.mask, recipe.weights, recipe.scale
    target = objective.shading_target(faces, recipe)
    pairs = [(d[seen], t[seen]) for d, t, seen in zip(output.diffuse, target, m, strict=True)]
    diffuse = sum(float(((d @ t) / (d @ d) * d - t).square().sum()) for d, t in pairs)
    over, cameras = (1 / int(m.sum()), 1 / 3) if s == 1 else (64 / 3 / 224**2, 64 / 3)
    squares = float((s * (rendered - faces.image))[m].square().sum())
    assert float(terms["appearance"]) == pytest.approx(w.appearance * over * squares, rel=1e-5)
    assert float(terms["camera"]) == pytest.approx(w.camera * cameras * float(output.camera.square().sum()), rel=1e-5)
    assert float(terms["specular"]) == pytest.approx(w.specular * over * float(output.specular[m].sum()), rel=1e-5)
    assert float(terms["diffuse"]) == pytest.approx(w.diffuse * over * diffuse, rel=1e-4)
    assert list(terms) == list(losses.Weights._fields)


def test_the_code_divides_its_appearance_alone():
    """Highlights are those of the raw image, 3 channels, and count in the background too."""
    output, faces, recipe = maps(), batch(), recipes.get("authors_code")
    _, of_code = terms_of(output, faces, recipe)
    _, alike = terms_of(output, faces, recipe.but("alike", reduction="sum"))
    assert float(of_code["appearance"]) == float(alike["appearance"])
    assert float(of_code["diffuse"]) == pytest.approx(224**2 * float(alike["diffuse"]), rel=1e-6)
    white = [
        float((CameraModel.load().sensitivity(b).double() @ illumination.mix(w, t).double()).sum())
        for b, w, t in zip(output.camera, output.weights, output.cct, strict=True)
    ]
    summed = sum(w * float(face.double().sum()) for w, face in zip(white, output.specular, strict=True))
    assert float(of_code["specular"]) == pytest.approx(recipe.weights.specular * 64 / 3 * summed, rel=1e-5)


@pytest.mark.parametrize("name", ["working", "rows_of_the_code", "authors_code"])
def test_losses_do_not_depend_on_how_faces_are_dealt_out(name):
    """Every face shown twice changes nothing; those of two processes average, though their masks differ in size."""
    recipe, output, mask = recipes.get(name), maps(2), batch(2).mask.clone()
    mask[1, :9] = False
    faces = batch(2, mask=mask)
    _, whole = terms_of(output, faces, recipe)
    _, twice = terms_of(Output(*(torch.cat([v, v]) for v in output)), faces[[0, 1, 0, 1]], recipe)
    count = mask.sum() / 2
    shares = [terms_of(Output(*(v[k : k + 1] for v in output)), faces[k : k + 1], recipe, count)[1] for k in range(2)]
    for n in whole:
        assert float(twice[n]) == pytest.approx(float(whole[n]), rel=1e-5)
        assert float(shares[0][n] + shares[1][n]) / 2 == pytest.approx(float(whole[n]), rel=1e-5)


ALL = [
    *(r for r in recipes.RECIPES.values() if not r.weights.truth),
    WORKING.but("copy", copy_shading=2.0),
    WORKING.but("fitted", copy_shading="fitted"),
    WORKING.but("spectral", decoder="spectral"),
]


@pytest.mark.parametrize("levels", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("recipe", ALL, ids=str)
def test_black_and_saturated_faces_have_finite_losses_and_gradients(recipe, levels):
    faces = batch(2, image=torch.tensor(levels)[:, None, None, None].expand(2, 16, 16, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BioFaceNet(2, recipe.shading)
    model.train(recipe.batch_norm == "train")
    _, terms = terms_of(model(faces.image), faces, recipe)
    sum(terms.values()).backward()
    assert all_finite(terms.values())
    assert all_finite(p.grad for p in model.parameters() if p.grad is not None)


def test_the_truth_costs_nothing_and_anything_else_does_and_it_must_be_there():
    true = maps()
    faces = dataclasses.replace(batch(), truth=true)
    assert terms_of(true, faces, recipes.SUPERVISED)[1]["truth"] == 0
    assert terms_of(true._replace(melanin=true.melanin + 0.1), faces, recipes.SUPERVISED)[1]["truth"] > 0.01
    refuses("truth for the recipe supervised", terms_of, true, batch(), recipes.SUPERVISED)


@pytest.mark.parametrize("name", ["working", "paper_literal", "supervised", "authors_code"])
def test_maps_on_another_device_are_decoded_there(name, monkeypatch):
    """Tensors without content stand for a graphics processor's; no check can look at them, so each one passes."""
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x, look=torch.Tensor.__bool__: x.is_meta or look(x))
    image, mask = torch.rand(2, 16, 16, 3), torch.ones(2, 16, 16, dtype=torch.bool)
    said = BioFaceNet(1)(image)
    here = Batch(image, mask, image, torch.rand(2, 9), truth=Output(*(value.detach() for value in said)))
    monkeypatch.setattr(Batch, "__post_init__", lambda batch: None)
    batch, recipe = here.to(torch.device("meta")), recipes.get(name)
    there = Output(*(value.detach().to("meta").requires_grad_() for value in said))
    rendered, maps = objective.decode(there, batch, recipe)
    total = sum(objective.loss_terms(rendered, maps, batch, recipe, batch.mask.sum()).values())
    total.backward()
    assert rendered.is_meta and total.is_meta and there.melanin.grad.shape == (2, 16, 16)
