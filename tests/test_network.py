"""The network: what goes in and comes out, separate decoders, weights files and everything wrong with one."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bioface import illumination, network, skin
from bioface.errors import BiofaceError, DataError
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


# --- in and out --------------------------------------------------------------------------------------------


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


def test_fractions_are_those_of_the_table():
    said = small().eval()(images())
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


@pytest.mark.parametrize(
    ("width", "count"), [(32, 28_003_893), (16, 7_008_037), (8, 1_755_549)]
)  # the authors' network has these layers, too
def test_number_of_weights(width, count):
    assert sum(p.numel() for p in BioFaceNet(width).parameters()) == count


def test_batch_of_one():
    model = small()
    alone = images(1, 64)
    assert torch.isfinite(model.train()(alone).diffuse).all()
    model = used(model)
    both = torch.cat([alone, images(1, 64, seed=1)])
    assert torch.allclose(model(alone).diffuse, model(both).diffuse[:1], atol=1e-5)  # in eval the others do not matter
    with pytest.raises(BiofaceError, match="batch of one of 16 × 16"):
        model.train()(images(1, 16))


def test_precision_of_the_images_does_not_matter():
    model = small().eval()
    said, again = model(images()), model(images().double())
    assert again.diffuse.dtype == torch.float32 and torch.equal(said.diffuse, again.diffuse)


# --- separate decoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_the_gradient_of_a_map_reaches_its_own_decoder_and_the_encoder(name):
    model = small()
    getattr(model(images()), name).square().sum().backward()
    touched = {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None}
    assert touched == {"encoder", name}
    assert all(bool(p.grad.abs().max() > 0) for p in getattr(model, name).parameters())


def test_the_gradient_of_camera_and_light_reaches_no_decoder():
    model = small()
    said = model(images())
    (said.camera.sum() + said.weights[:, 0].sum() + said.cct.sum() / 1e4).backward()
    assert {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None} == {"encoder", "vector"}


def test_decoders_start_apart_and_see_every_skip():
    model = small()
    first = [getattr(model, name).levels[0][0].weight for name in MAPS]
    assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))
    # the finest level of each decoder sees 2 filters from below and the 2 of the encoder's finest level
    assert all(getattr(model, name).levels[-1][0].weight.shape == (2, 6, 3, 3) for name in MAPS)


# --- batch norm --------------------------------------------------------------------------------------------


def test_on_one_process_batch_norm_is_that_of_torch():
    ours, theirs = network.BatchNorm(5), nn.BatchNorm2d(5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(3):
        x = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(step)) * 3 + 1
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        y = [norm(leaf) for norm, leaf in zip((ours, theirs), leaves, strict=True)]
        grads = [torch.autograd.grad(v.sin().sum(), leaf)[0] for v, leaf in zip(y, leaves, strict=True)]
        assert torch.equal(*y) and torch.equal(*grads)
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def share(rank, folder):
    """One of two processes: its half of a batch through a batch norm, there and back."""
    torch.set_num_threads(1)  # a forked process must not ask for its parent's threads
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm = network.BatchNorm(3).double()
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    x, towards = torch.load(f"{folder}/batch.pt")
    mine = x[rank::2].clone().requires_grad_()
    y = norm(mine)
    (y * towards[rank::2]).sum().backward()
    torch.save([y.detach(), mine.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_normalise_as_one(tmp_path):
    """Values, gradients and running statistics, also where a mean is large beside its deviation."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 6, generator=g, dtype=torch.float64) * torch.tensor([1, 1e-3, 5])[:, None, None]
    x = x + torch.tensor([0, 100, -3])[:, None, None] + torch.arange(4)[:, None, None, None]
    towards = torch.randn(4, 3, 5, 6, generator=g, dtype=torch.float64)
    torch.save((x, towards), tmp_path / "batch.pt")
    torch.multiprocessing.start_processes(share, (str(tmp_path),), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    norm = nn.BatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    y = norm(x)
    (y * towards).sum().backward()
    for rank, (part_y, part_x, *_) in enumerate(parts):
        assert torch.allclose(part_y, y[rank::2], rtol=0, atol=1e-12)
        assert torch.allclose(part_x, x.grad[rank::2], rtol=1e-10, atol=1e-12)
    assert torch.allclose(parts[0][2] + parts[1][2], norm.weight.grad, rtol=1e-11, atol=1e-12)
    assert torch.allclose(parts[0][3] + parts[1][3], norm.bias.grad, rtol=1e-11, atol=1e-12)
    for part in parts:
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(part[4:], norm.buffers(), strict=True))


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 16, 3), r"expected images of shape \(B, H, W, 3\), found \(16, 16, 3\)$"),
        ((1, 1, 16, 16, 3), r"found \(1, 1, 16, 16, 3\)$"),
        ((2, 3, 16, 32), r"found \(2, 3, 16, 32\); the colours are in another place: move them last"),
        ((2, 16, 16, 4), r"found \(2, 16, 16, 4\)$"),
        ((2, 20, 16, 3), "multiples of 16, found 20 × 16"),
        ((2, 64, 60, 3), "multiples of 16, found 64 × 60"),
        ((2, 0, 16, 3), "multiples of 16, found 0 × 16"),
        ((0, 16, 16, 3), "at least one image"),
    ],
)
def test_wrong_shapes_are_refused(shape, message):
    with pytest.raises(BiofaceError, match=message):
        network.check_image(torch.zeros(shape))


def test_the_network_checks_its_images():
    with pytest.raises(BiofaceError, match="multiples of 16, found 24 × 16"):
        small()(torch.zeros(1, 24, 16, 3))


def test_bytes_are_not_colours():
    with pytest.raises(BiofaceError, match="floating-point colours, about 0–1, found torch.uint8"):
        network.check_image(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))


@pytest.mark.parametrize("width", [0, -4, True])
def test_impossible_widths_are_refused(width):
    with pytest.raises(BiofaceError, match="width of at least 1"):
        BioFaceNet(width)


def test_a_misspelt_shading_is_refused():
    with pytest.raises(BiofaceError, match="did you mean 'relu'"):
        BioFaceNet(2, "reluu")


# --- weights files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shading", network.SHADINGS)
def test_a_weights_file_brings_back_every_bit(tmp_path, shading):
    model = used(small(3, shading))
    model.save(tmp_path / "net.safetensors", recipe="working")
    again = BioFaceNet.from_file(tmp_path / "net.safetensors")
    assert again.config() == {"width": 3, "shading": shading} and not again.training
    own, other = model.state_dict(), again.state_dict()
    assert list(own) == list(other)
    for name, value in own.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name
    assert all(torch.equal(a, b) for a, b in zip(model(images()), again(images()), strict=True))
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.metadata()["recipe"] == "working"


def test_notes_do_not_replace_what_the_file_says_of_itself(tmp_path):
    model = small()
    model.save(tmp_path / "net.safetensors", architecture="other", config="{}")
    assert BioFaceNet.from_file(tmp_path / "net.safetensors").width == 2


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
    with pytest.raises(BiofaceError, match=r"NaN or infinity in encoder\.0\.1\.running_var"):
        model.save(tmp_path / "net.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path / "net.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    small(seed=1).save(path)
    before = path.read_bytes()

    def breaks(tensors, partial, metadata):
        partial.write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", breaks)
    with pytest.raises(DataError, match=r"net\.safetensors: expected a file that can be written.*No space left"):
        small(seed=2).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="net.safetensors: expected a file that can be written"):
        small().save(tmp_path / "file" / "net.safetensors")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"net\.safetensors: expected BioFaceNet weights .*no such file"):
        BioFaceNet.from_file(tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="no such file"):
        BioFaceNet.from_file(tmp_path)


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
    with pytest.raises(DataError, match="a pickle, which could run code and is never opened"):
        BioFaceNet.from_file(path)
    assert not hole.exists()


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file(tmp_path, length):
    path = tmp_path / "net.safetensors"
    small().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"net\.safetensors: expected BioFaceNet weights .*found something else"):
        BioFaceNet.from_file(path)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x4B50])
def test_a_truncated_file_whose_length_looks_like_a_pickle_is_not_called_one(tmp_path, length):
    path = tmp_path / "net.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":')
    with pytest.raises(DataError, match="found something else"):
        BioFaceNet.from_file(path)


def edited(path, change, **metadata):
    """A weights file of width 2 with its tensors or metadata changed."""
    tensors = small().state_dict()
    change(tensors)
    known = {"architecture": network.ARCHITECTURE, "config": json.dumps({"width": 2, "shading": "exp"})} | metadata
    safetensors.torch.save_file(tensors, path, {k: v for k, v in known.items() if v is not None})
    return path


def nothing(tensors):
    pass


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "UNet"}, "expected the architecture BioFaceNet, found UNet"),
        ({"architecture": None}, "expected the architecture BioFaceNet, found none stated"),
        ({"config": None}, "a BioFaceNet configuration inside"),
        ({"config": "{"}, "a BioFaceNet configuration inside"),
        ({"config": "[1]"}, "a BioFaceNet configuration inside"),
        ({"config": '{"width": 0}'}, "a BioFaceNet configuration inside.*width of at least 1"),
        ({"config": '{"depth": 3}'}, "a BioFaceNet configuration inside"),
        ({"config": '{"width": 3}'}, r"weights of BioFaceNet of width 3, found .* of shape .* instead of"),
        ({"config": '{"width": 1000000}'}, r"weights of BioFaceNet of width 1000000, found .* of shape .* instead of"),
    ],
)
def test_metadata_that_does_not_describe_the_weights(tmp_path, metadata, message):
    path = edited(tmp_path / "net.safetensors", nothing, **metadata)
    with pytest.raises(DataError, match=f"net.safetensors: expected .*{message.removeprefix('expected ')}"):
        BioFaceNet.from_file(path)


def test_a_safetensors_file_without_any_metadata(tmp_path):
    safetensors.torch.save_file(small().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="found none stated"):
        BioFaceNet.from_file(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("diffuse.last.bias"), r"found diffuse\.last\.bias missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "found extra left over"),
        (lambda t: t.update({"diffuse.last.bias": torch.zeros(2)}), r"bias of shape \(2,\) instead of \(1,\)"),
        (lambda t: t["diffuse.last.bias"].fill_(np.nan), r"finite weights, found NaN or infinity in diffuse\.last"),
        (lambda t: t["encoder.0.1.running_var"].fill_(np.inf), r"NaN or infinity in encoder\.0\.1\.running_var"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    path = edited(tmp_path / "net.safetensors", change)
    with pytest.raises(DataError, match=f"net.safetensors: .*{message}"):
        BioFaceNet.from_file(path)


def test_weights_of_another_width_are_refused_before_anything_is_taken_over(tmp_path):
    small(4).save(tmp_path / "wide.safetensors")
    tensors, _ = network.read_safetensors(tmp_path / "wide.safetensors", network.ARCHITECTURE)
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        DataError, match=r"wide\.safetensors: expected weights of BioFaceNet of width 2, found .* shape"
    ):
        model.load(tensors, tmp_path / "wide.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
