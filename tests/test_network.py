"""The network: what goes in and comes out, separate decoders, weights files and everything wrong with one."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import refuses
from torch import nn

from bioface import illumination, network, skin
from bioface.network import BioFaceNet

MAPS = ("melanin", "haemoglobin", "diffuse", "specular")


def images(count=2, height=16, width=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, height, width or height, 3, generator=g)


def small(width=2, shading="exp", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioFaceNet(width, shading)


def used(model, steps=3):
    """A network whose running statistics are those of some images, for inference."""
    model.train()
    with torch.no_grad():
        for step in range(steps):
            model(images(4, 32, seed=step))
    return model.eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 48), (16, 16), (32, 80), (96, 16)])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_ranges(height, width, training):
    said = small().train(training)(images(2, height, width))
    assert all(getattr(said, name).shape == (2, height, width) for name in MAPS)
    assert said.camera.shape == (2, 2) and said.weights.shape == (2, 14) and said.cct.shape == (2,)
    assert all(bool(torch.isfinite(value).all()) for value in said)
    assert said.melanin.abs().max() < 1 and said.haemoglobin.abs().max() < 1
    assert said.diffuse.min() > 0 and said.specular.min() > 0
    assert said.camera.abs().max() < 3
    assert said.weights.min() > 0 and torch.allclose(said.weights.sum(1), torch.ones(2), atol=1e-6)
    low, high = illumination.CCT_RANGE
    assert low < said.cct.min() and said.cct.max() < high


@pytest.mark.parametrize("sign", [-1, 1])
def test_outputs_stay_in_their_physical_ranges_however_large_the_raw_values(sign):
    """At the ends of float32 sigmoids are exactly 0 or 1: every consumer must still take what comes out."""
    model = small().eval()
    for decoder in (model.melanin, model.haemoglobin):
        nn.init.constant_(decoder.last.bias, sign * 200.0)
    nn.init.constant_(model.vector[-1].bias, sign * 200.0)
    said = network.Output(*(value.detach() for value in model(images())))
    assert torch.equal(said.melanin, torch.full_like(said.melanin, sign))
    assert torch.equal(said.camera, torch.full_like(said.camera, 3 * sign))
    assert float(said.cct[0]) == illumination.CCT_RANGE[sign > 0]
    assert torch.isfinite(illumination.mix(said.weights, said.cct)).all()
    assert said.melanin_fraction.min() > 0 and said.melanin_fraction.max() <= skin.MELANIN_RANGE[1] * (1 + 1e-6)
    assert said.haemoglobin_fraction.max() <= skin.HAEMOGLOBIN_RANGE[1] * (1 + 1e-6)


def test_fractions_are_those_of_the_table_and_the_precision_of_the_images_does_not_matter():
    model = small().eval()
    said, again = model(images()), model(images().double())
    assert again.diffuse.dtype == torch.float32 and torch.equal(said.diffuse, again.diffuse)
    for name, top in (("melanin", skin.MELANIN_RANGE[1]), ("haemoglobin", skin.HAEMOGLOBIN_RANGE[1])):
        back = skin.table_coordinate(getattr(said, f"{name}_fraction"), top)
        assert torch.allclose(back, getattr(said, name), atol=1e-5)


def test_shadings_are_exp_or_relu_of_the_same_raw_values():
    exp, relu = (small(shading=shading) for shading in network.SHADINGS)
    for name in ("diffuse", "specular"):
        for model in (exp, relu):
            decoder = getattr(model, name)
            decoder.last.weight.data.copy_(torch.tensor([1.0, -1.0])[None, :, None, None])
            decoder.last.bias.data.zero_()
        raw = getattr(exp(images()), name).log()
        assert raw.min() < -0.1 and raw.max() > 0.1  # the premise: both sides of the bend are looked at
        assert torch.allclose(getattr(relu(images()), name), raw.clamp_min(0), atol=1e-6)


def test_the_mean_colour_is_subtracted():
    model, seen = small().eval(), []
    model.encoder[0][0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(torch.tensor(network.MEAN_RGB).expand(1, 16, 16, 3))
    assert seen[0].shape == (1, 3, 16, 16) and seen[0].abs().max() < 1e-6


@pytest.mark.parametrize(("width", "count"), [(32, 28_003_893), (8, 1_755_549)])
def test_the_authors_network_has_as_many_weights(width, count):
    assert sum(p.numel() for p in BioFaceNet(width).parameters()) == count


def test_batch_of_one():
    model = small()
    alone = images(1, 64)
    assert torch.isfinite(model.train()(alone).diffuse).all()
    model = used(model)
    both = torch.cat([alone, images(1, 64, seed=1)])
    assert torch.allclose(model(alone).diffuse, model(both).diffuse[:1], atol=1e-5)  # in eval the others do not matter
    refuses("batch of one of 16 × 16", model.train(), images(1, 16))
    refuses("multiples of 16, found 24 × 16", model, torch.zeros(1, 24, 16, 3))


@pytest.mark.parametrize("name", [*MAPS, "vector"])
def test_the_gradient_of_a_map_or_of_camera_and_light_reaches_its_own_layers_and_the_encoder(name):
    model = small()
    said = model(images())
    values = said[4:] if name == "vector" else [getattr(said, name)]
    sum((value / value.detach().abs().max()).square().sum() for value in values).backward()
    touched = {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None}
    assert touched == {"encoder", name}
    assert all(bool(p.grad.abs().max() > 0) for p in getattr(model, name).parameters())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(16, 16, 3), r"expected images of shape \(B, H, W, 3\), found \(16, 16, 3\)$"),
        (torch.zeros(2, 3, 16, 32), r"found \(2, 3, 16, 32\); the colours are in another place: move them last"),
        (torch.zeros(2, 16, 16, 4), r"found \(2, 16, 16, 4\)$"),
        (torch.zeros(2, 20, 16, 3), "multiples of 16, found 20 × 16"),
        (torch.zeros(2, 0, 16, 3), "multiples of 16, found 0 × 16"),
        (torch.zeros(0, 16, 16, 3), "at least one image"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), "floating-point colours, about 0–1, found torch.uint8"),
    ],
)
def test_wrong_images_are_refused(image, message):
    refuses(message, network.check_image, image)


@pytest.mark.parametrize(
    ("options", "message"),
    [*(((width,), "width of at least 1") for width in (0, -4, True)), ((2, "reluu"), "did you mean 'relu'")],
)
def test_impossible_networks_are_refused(options, message):
    refuses(message, BioFaceNet, *options)


@pytest.mark.parametrize("shading", network.SHADINGS)
def test_a_weights_file_brings_back_every_bit(tmp_path, shading):
    model = used(small(3, shading))
    model.save(tmp_path / "net.safetensors", recipe="working", architecture="other", config="{}")
    again = BioFaceNet.from_file(tmp_path / "net.safetensors")
    assert again.config() == {"width": 3, "shading": shading} and not again.training
    own, other = model.state_dict(), again.state_dict()
    assert list(own) == list(other)
    for name, value in own.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name
    assert all(torch.equal(a, b) for a, b in zip(model(images()), again(images()), strict=True))
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        about = file.metadata()  # notes do not replace what the file says of itself
    assert about["recipe"] == "working" and about["architecture"] == network.ARCHITECTURE


def test_half_precision_is_half_the_size_and_predicts_nearly_the_same(tmp_path):
    model = used(small(8))
    for name, half in (("whole", False), ("half", True)):
        model.save(tmp_path / f"{name}.safetensors", half=half)
    size = {name: (tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.52 * size["whole"]
    again = BioFaceNet.from_file(tmp_path / "half.safetensors")
    assert all(v.dtype != torch.float16 for v in again.state_dict().values())
    said, close = model(images(2, 64)), again(images(2, 64))
    for name, bar in (("melanin", 5e-3), ("haemoglobin", 5e-3), ("diffuse", 1e-2), ("camera", 1e-2), ("weights", 1e-3)):
        error = (getattr(said, name) - getattr(close, name)).abs().max()
        assert 0 < error < bar, name


def test_weights_that_do_not_fit_in_half_precision_are_not_written(tmp_path):
    model = small()
    model.encoder[0][1].running_var.fill_(1e6)
    refuses(r"NaN or infinity in encoder\.0\.1\.running_var", model.save, tmp_path / "net.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path / "net.safetensors")


class Bomb:
    """What an attacker puts into a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain 2", "plain 3", "plain 4", "plain 5"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path, how):
    path, hole = tmp_path / "net.safetensors", tmp_path / "hole"
    if how.startswith("plain"):
        path.write_bytes(pickle.dumps(Bomb(hole), protocol=int(how[-1])))
    else:
        torch.save(Bomb(hole), path, _use_new_zipfile_serialization=how == "zip")
    refuses("a pickle, which could run code and is never opened", BioFaceNet.from_file, path)
    assert not hole.exists()


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda whole, end=end: whole[:end] for end in (0, 4, 100, -1)),
        # what begins like a pickle
        *(lambda _, length=length: length.to_bytes(8, "little") + b'{"a":' for length in (0x0280, 0x0480, 0x4B50)),
    ],
)
def test_a_damaged_file_is_refused_and_not_called_a_pickle(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    small().save(path)
    path.write_bytes(damage(path.read_bytes()))
    refuses(r"net\.safetensors: expected BioFaceNet weights .*found something else", BioFaceNet.from_file, path)


@pytest.mark.parametrize("name", ["net.safetensors", "."])
def test_a_missing_file(tmp_path, name):
    refuses(r": expected BioFaceNet weights .*no such file", BioFaceNet.from_file, tmp_path / name)


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [  # dict changes nothing
        (dict, {"architecture": "UNet"}, "expected the architecture BioFaceNet, found UNet"),
        (dict, {"architecture": None, "config": None}, "expected the architecture BioFaceNet, found none stated"),
        (dict, {"config": None}, "a BioFaceNet configuration inside"),
        (dict, {"config": "{"}, "a BioFaceNet configuration inside"),
        (dict, {"config": '{"width": 0}'}, "a BioFaceNet configuration inside.*width of at least 1"),
        (dict, {"config": '{"depth": 3}'}, "a BioFaceNet configuration inside"),
        (dict, {"config": '{"width": 3}'}, "weights of BioFaceNet of width 3, found .* of shape .* instead of"),
        (dict, {"config": '{"width": 1000000}'}, "weights of BioFaceNet of width 1000000, found .* of shape"),
        (lambda t: t.pop("diffuse.last.bias"), {}, r"found diffuse\.last\.bias missing"),
        (lambda t: t.update(extra=torch.zeros(1)), {}, "found extra left over"),
        (lambda t: t.update({"diffuse.last.bias": torch.zeros(2)}), {}, r"bias of shape \(2,\) instead of \(1,\)"),
        (lambda t: t.update({"diffuse.last.bias": torch.zeros(1, dtype=torch.int32)}), {}, "bias of torch.int32"),
        (lambda t: t["diffuse.last.bias"].fill_(np.nan), {}, r"finite weights, found NaN or infinity in diffuse\.last"),
    ],
)
def test_files_of_other_networks_or_weights_are_refused(tmp_path, change, metadata, message):
    path, tensors = tmp_path / "net.safetensors", small().state_dict()
    change(tensors)
    config = json.dumps({"width": 2, "shading": "exp"})
    about = {"architecture": network.ARCHITECTURE, "config": config} | metadata
    stated = {name: value for name, value in about.items() if value is not None}
    safetensors.torch.save_file(tensors, path, stated or None)
    refuses(f"net.safetensors: expected .*{message.removeprefix('expected ')}", BioFaceNet.from_file, path)
