"""Every known mistake is named from behaviour alone, sound trainings raise no alarm, and nothing is touched."""

import dataclasses
import functools
import sys
import time

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import camera, diagnosis, illumination, image_formation, objective, recipes, training
from bioface.camera import CameraModel
from bioface.datasets import photos
from bioface.network import BioFaceNet
from bioface.objective import Batch
from bioface.recipes import FAULTS, WORKING, Recipe

pytestmark = pytest.mark.slow  # a diagnosis takes seconds

BY_NAME = {fault.name: fault for fault in FAULTS}
#: Mistakes that sit in the decoder, whatever the recipe says.
IN_DECODER = [f.name for f in FAULTS if (f.decoder, f.skin, f.rows) != (WORKING.decoder, WORKING.skin, WORKING.rows)]
CODE_SCALE = dict(optimiser="sgd", scale=255.0, reduction="sum", momentum=0.9, schedule="constant")
SOUND = {
    "working": WORKING,
    "slower": WORKING.but("slower", learning_rate=1e-3, schedule="constant"),
    "sgd": WORKING.but("sgd", learning_rate=1e-4, **CODE_SCALE),
    "random_start": recipes.get("adam_fast"),
    "code_rows": WORKING.but("code_rows", rows="code"),
    "spectral": WORKING.but("spectral", decoder="spectral"),
    "fitted": WORKING.but("fitted", copy_shading="fitted"),
    "tripled": WORKING.but("tripled", copy_shading=3.0),
}


def faces(count=3, size=32, seed=0) -> Batch:
    """Round heads with smooth random pigments, rendered from exact spectra under lights and cameras of their own."""
    g = torch.Generator().manual_seed(seed)

    def smooth(low, high):
        coarse = torch.rand(count, 1, 4, 4, generator=g)
        fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
        return low + (high - low) * fine[:, 0]

    x = torch.linspace(-1, 1, size).expand(size, size)
    y = -x.T
    mask = (x**2 + y**2 < 0.8).expand(count, size, size)
    z = (1 - x**2 - y**2).clamp_min(0.05).sqrt()
    normals = torch.nn.functional.normalize(torch.stack([x, y, z], -1), dim=-1).expand(count, size, size, 3)
    lighting = 0.3 * torch.randn(count, 9, generator=g)
    lighting[:, 0], lighting[:, 2] = 0.8, 0.5
    weights = torch.softmax(2 * torch.rand(count, 14, generator=g), -1)
    light = illumination.mix(weights, 4500 + 9000 * torch.rand(count, generator=g))
    sensor = CameraModel.load().sensitivity(2 * torch.rand(count, 2, generator=g) - 1)
    maps = smooth(0.02, 0.2), smooth(0.015, 0.06), illumination.sh_shading(normals, lighting), smooth(0, 0.08)
    image = image_formation.render(*maps, light, sensor, method="exact").clamp(0, 1)
    return Batch(image, mask, normals, lighting)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return faces()


def diagnose(recipe, batch, seed=0, width=2, **options):
    return diagnosis.diagnose(training.build(recipe, width, seed), batch, recipe, **options)


@functools.cache
def diagnosed(recipe: Recipe, seed: int = 0) -> diagnosis.Diagnosis:
    """Faces and network of one seed under a recipe: most tests look at the same few."""
    return diagnose(recipe, faces(seed=seed), seed)


def names(found: diagnosis.Diagnosis) -> list[str]:
    return [finding.name for finding in found.findings]


def after(change):
    """The sound decoder with something done to its image."""

    def decode(output, batch, recipe):
        image, maps = objective.decode(output, batch, recipe)
        return change(image), maps

    return decode


@pytest.mark.parametrize("fault", FAULTS, ids=lambda r: r.name)
def test_each_fault_is_the_one_finding(fault):
    found = diagnosed(fault)
    assert names(found) == [fault.name], str(found)
    assert found.cause == fault.name


@pytest.mark.parametrize("name", IN_DECODER)
def test_a_decoder_is_judged_by_what_it_does_not_by_its_recipe(name, batch):
    def decode(output, batch, recipe):
        return objective.decode(output, batch, BY_NAME[name])

    found = diagnose(WORKING, batch, decode=decode)
    assert names(found) == [name]
    # and the same numbers as under a recipe that says so
    assert found.measurements == pytest.approx(diagnosed(BY_NAME[name]).measurements, rel=1e-3, abs=1e-6)


def test_a_mistake_in_the_batch_or_the_network_itself(batch):
    """Normals left as stored; relu under a recipe that says exp; a network that freezes its own batch norm."""
    stored = dataclasses.replace(batch, normals=(batch.normals + 1) / 2)
    assert names(diagnose(WORKING, stored)) == ["undecoded_normals"]
    model = training.build("relu_for_exp", 2)
    assert names(diagnosis.diagnose(model, batch, WORKING)) == ["relu_for_exp"]
    assert diagnosis.diagnose(training.build(WORKING, 2), batch, "relu_for_exp").cause == "none found"

    class Frozen(BioFaceNet):
        def train(self, mode: bool = True):
            return super().train(False)

    model = Frozen(2)
    model.load_state_dict(training.build(WORKING, 2).state_dict())
    assert names(diagnosis.diagnose(model, batch, WORKING)) == ["batch_norm_frozen"]


@pytest.mark.parametrize("name", ["working", "sgd"])
def test_a_network_that_has_been_trained_raises_no_alarm(name, batch):
    """Nor does its batch norm when frozen, as its statistics fit."""
    model = training.build(SOUND[name], 2)
    training.train(model, batch, SOUND[name], 40, progress=False)
    found = diagnosis.diagnose(model, batch, SOUND[name])
    assert found.cause == "none found", str(found)
    if name == "working":
        found = diagnosis.diagnose(model, batch, WORKING.but("frozen", batch_norm="eval"))
        assert found.measurements["statistics_moved"] == 0
        assert found.cause == "none found", str(found)


def test_no_field_that_could_hold_a_mistake_is_read(batch):
    class Watched(Recipe):
        def __getattribute__(self, name):
            reader = sys._getframe(1).f_globals.get("__name__")
            if reader == "bioface.diagnosis" and name in {f.name for f in dataclasses.fields(Recipe)}:
                read.add(name)
            return super().__getattribute__(name)

    read: set[str] = set()
    fields = {f.name: getattr(BY_NAME["no_white_balance"], f.name) for f in dataclasses.fields(Recipe)}
    found = diagnosis.diagnose(training.build(WORKING, 2), batch, Watched(**fields))
    assert found.cause == "no_white_balance"
    assert read == {"batch_norm"}  # to put the network in the mode in which it would train


def test_two_mistakes_at_once_are_both_found_the_graver_first(batch):
    recipe = WORKING.but("two", decoder="reshaped", skin="published", normals="undecoded", rows="paper")
    expected = ["reshape_for_permute", "undecoded_normals", "rows_sum_1", "published_skin"]
    assert names(diagnose(recipe, batch)) == expected


def test_red_and_blue_swapped_in_the_images_or_in_the_decoder(batch):
    swapped = dataclasses.replace(batch, image=batch.image.flip(-1))
    in_images = diagnose(WORKING, swapped)
    in_decoder = diagnose(WORKING, batch, decode=after(lambda image: image.flip(-1)))
    assert names(in_images) == names(in_decoder) == ["wrong_channel_order"]
    assert "in the images" in in_images.findings[0].evidence
    assert "in the decoder" in in_decoder.findings[0].evidence
    both = diagnose(WORKING, swapped, decode=after(lambda image: image.flip(-1)))
    assert both.cause == "none found"  # another order, kept throughout


def test_decoders_with_a_mistake_of_their_own(batch):
    """An index from 0 to 1, which reaches half of the table; a wrong matrix that keeps white; another order."""

    def decode(output, batch, recipe):
        half = output._replace(melanin=(output.melanin + 1) / 2, haemoglobin=(output.haemoglobin + 1) / 2)
        return objective.decode(half, batch, recipe)

    found = diagnose(WORKING, batch, decode=decode)
    assert names(found) == ["misscaled_index"]
    assert "(g + 1) / 2" in found.findings[0].evidence
    M = camera.XYZ_TO_SRGB
    wrong = M.T @ torch.linalg.inv(M)
    wrong = (wrong / wrong.sum(1, keepdim=True)).float()
    assert names(diagnose(WORKING, batch, decode=after(lambda image: image @ wrong.T))) == ["transposed_matrix"]
    found = diagnose(WORKING, batch, decode=after(lambda image: image.transpose(1, 2)))
    assert found.cause == "reshape_for_permute" and found.measurements["locality"] == 0


@pytest.mark.parametrize(
    ("changes", "bias"),
    [
        (dict(learning_rate=50.0), 0.0),
        (dict(learning_rate=1e9, optimiser="sgd"), 0.0),
        (dict(learning_rate=1e38, optimiser="sgd"), 0.0),  # to NaN: not to be decoded, which is a finding, not an error
        ({}, torch.inf),  # weights that are not finite are the end of such steps
    ],
)
def test_steps_that_are_too_large(changes, bias, batch):
    recipe = WORKING.but("large", **changes)
    model = training.build(recipe, 2)
    model.diffuse.last.bias.data.fill_(bias)
    assert names(diagnosis.diagnose(model, batch, recipe)) == ["step_too_large"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_paper_at_its_word_hardly_moves_and_the_authors_code_differs_by_its_skin_alone(seed):
    """The paper's step is what stops it; its rows and its skin are true findings too."""
    found = diagnosed(recipes.get("paper_literal"), seed)
    assert names(found) == ["step_too_small", "rows_sum_1", "published_skin"], str(found)
    assert seed == 2 or names(diagnosed(recipes.get("authors_code"), seed)) == ["published_skin"]


def test_a_grey_copy_too_dark_for_the_image(batch):
    for rows, ceiling in (("code", 0.243), ("d65", 0.71)):  # skin reflects at most 71 %, and white may be 0.342
        found = diagnose(WORKING.but("copy", copy_shading=1.0, rows=rows), batch)
        assert names(found) == ["copy_shading_too_dark"]
        assert found.measurements["copy_ceiling"] == pytest.approx(ceiling, abs=0.02)
    fitted = diagnose(WORKING.but("fit", copy_shading="fitted", rows="code"), batch)
    assert fitted.cause == "none found" and fitted.measurements["copy_ceiling"] > 0.95


@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 0) for name in SOUND), *((n, s) for n in ("working", "slower", "sgd") for s in (1, 2))]
)
def test_sound_recipes_raise_no_alarm_whatever_faces_and_weights(name, seed):
    found = diagnosed(SOUND[name], seed)
    assert found.cause == "none found", str(found)


def test_few_and_small_faces_and_none_after_the_sixteenth():
    for count, size in ((1, 32), (1, 64), (2, 16)):
        found = diagnose(WORKING, faces(count, size))
        assert found.cause == "none found", str(found)
    many = faces(18, 16)
    assert diagnose(WORKING, many).measurements == pytest.approx(diagnose(WORKING, many[:16]).measurements, rel=1e-6)


def test_a_photo_has_no_normals_to_judge():
    photo = photos.astronaut()
    batch = Batch.of_photo(photo.rgb, photo.mask)
    found = diagnose(WORKING, batch)
    assert found.cause == "none found", str(found)
    assert "shading_target_error" not in found.measurements
    assert diagnose("undecoded_normals", batch).cause == "none found"  # nothing to decode
    assert diagnose("no_white_balance", batch).cause == "no_white_balance"


@pytest.mark.parametrize("number", [7, 9])  # the two of 13 that come nearest to an alarm
def test_real_photos_have_the_colours_of_skin(number, real_file):
    mask = photos.nearest(photos.read_mask(real_file(f"photos/{number}_mask.png")), (128, 128))
    photo = photos.read(real_file(f"photos/{number}_face.png"), mask)
    every = photo.rgb.shape[0] // 64
    batch = Batch.of_photo(photo.rgb[::every, ::every][:64, :64], photo.mask[::every, ::every][:64, :64])
    found = diagnose(WORKING, batch)
    assert found.cause == "none found", str(found)
    if number == 9:
        swapped = diagnose(WORKING, dataclasses.replace(batch, image=batch.image.flip(-1)))
        assert swapped.cause == "wrong_channel_order", str(swapped)


def test_measurements_of_a_sound_pipeline_are_what_physics_says():
    m = diagnosed(WORKING).measurements
    assert all(isinstance(value, float) and np.isfinite(value) for value in m.values())
    for light in ("A", "D65"):
        assert all(m[f"white_{light}_{c}"] == pytest.approx(1, abs=1e-3) for c in ("red", "green", "blue"))
    assert m["difference_to_layered"] < 1e-3 < 0.1 < m["difference_to_published"]
    assert m["locality"] == 1 and m["shading_target_error"] == 0
    assert m["round_trip_after"] < 0.3 * m["round_trip_before"]
    assert min(m[f"gradient_{name}"] for name in ("melanin", "haemoglobin", "diffuse", "specular", "camera")) > 0
    assert m["statistics_moved"] > 0 and m["image_change"] > 0.05
    assert m["loss_after"] < m["loss_before"]


def test_it_reads_as_a_small_table():
    found = diagnosed(recipes.get("paper_literal"))
    lines = str(found).splitlines()
    assert lines[0].split() == ["severity", "finding", "evidence"]
    assert [line.split()[1] for line in lines[1:]] == names(found)
    assert "(1.205, 0.948, 0.909)" in str(found)
    severities = [finding.severity for finding in found.findings]
    assert severities == sorted(severities, reverse=True)
    sound = diagnosed(WORKING)
    assert str(sound) == f"none found in {len(sound.measurements)} measurements"


def test_every_known_mistake_has_its_place_in_the_order():
    severities = list(diagnosis.SEVERITY.values())
    assert set(BY_NAME) < set(diagnosis.SEVERITY)
    assert severities == sorted(set(severities), reverse=True) and severities[0] == 1 and severities[-1] == 0.35


def test_the_model_the_faces_and_the_random_numbers_stay_as_they_were(batch):
    model = training.build(WORKING, 2)
    model.melanin.eval()  # a mixture of modes
    model.diffuse.last.weight.grad = torch.full_like(model.diffuse.last.weight, 7.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    image, normals = batch.image.clone(), batch.normals.clone()
    torch.manual_seed(5)
    random = torch.get_rng_state()
    with torch.no_grad():  # as a notebook might have it
        found = diagnosis.diagnose(model, batch, WORKING)
        assert not torch.is_grad_enabled()
    assert found.cause == "none found" and found.measurements["gradient_melanin"] > 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert bool((model.diffuse.last.weight.grad == 7).all())
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(batch.image, image) and torch.equal(batch.normals, normals)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "decode, found",
    [
        (after(lambda image: image.movedim(-1, 1)), r"\(4, 3, 16, 16\)"),
        (after(lambda image: image.numpy()), "ndarray"),
        (lambda output, batch, recipe: objective.decode(output, batch, recipe)[0], r"\(4, 16, 16, 3\)"),
        (after(lambda image: image * torch.nan), "NaN or infinity"),
    ],
)
def test_a_decoder_that_gives_no_image_is_refused(decode, found, batch):
    refuses(f"expected decode .*found .*{found}", diagnose, WORKING, batch, decode=decode)


def test_bad_input_is_refused(batch):
    refuses("did you mean 'working'", diagnosis.diagnose, training.build(WORKING, 2), batch, "workin")
    refuses("found one face of 16 × 16", diagnose, WORKING, faces(1, 16))


@pytest.mark.alone
def test_a_diagnosis_takes_seconds():
    batch, model = faces(16, 64), training.build(WORKING, 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.perf_counter()
        diagnosis.diagnose(model, batch, WORKING)
        seconds = time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
    print(f"\ndiagnosis of 16 faces at width 8: {seconds:.1f} s")
    assert seconds < 60
