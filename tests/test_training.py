"""The training loop: steps by hand, runs that go on exactly, what is refused, and several processes."""

import errno
import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import refuses
from test_diagnosis import faces
from test_nfe import write_pair
from torch import nn

from bioface import __main__ as cli
from bioface import losses, objective, training
from bioface.datasets import nfe
from bioface.errors import DataError
from bioface.network import BioFaceNet
from bioface.recipes import WORKING
from bioface.training import Diverged, build, train

pytestmark = pytest.mark.slow  # so many short trainings add up

SGD = WORKING.but("plain", optimiser="sgd", learning_rate=1.0, schedule="constant")
MOMENTUM = SGD.but("with_momentum", momentum=0.9, weight_decay=1e-3)


def batch(count=4, size=16):
    return faces(count, size)


def run(recipe, steps=10, dataset=None, seed=0, **options):
    """A new network, trained; the network and its history."""
    model = build(recipe, 2, seed=1)
    history = train(model, dataset or batch(), recipe, steps, seed=seed, progress=False, **options)
    return model, history


def flat(model):
    """Weights alone, in a row."""
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def assert_same(model, other):
    """Bit for bit, running statistics and all."""
    own, theirs = model.state_dict(), other.state_dict()
    different = [name for name in own if not torch.equal(own[name], theirs[name])]
    assert different == []


def test_a_new_network_depends_on_width_and_seed_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    assert_same(build("working", 2, 3), build("working", 2, 3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(build("working", 2, 3).encoder[0][0].weight, build("working", 2, 4).encoder[0][0].weight)
    torch.rand(5)
    own, other = build("working", 2, 3), build("paper_literal", 2, 3)  # another start changes the output layers alone
    different = {n for n, v in own.state_dict().items() if not torch.equal(v, other.state_dict()[n])}
    assert different and all(".last." in name for name in different)
    assert own.shading == "exp" and build("relu_for_exp", 2).shading == "relu"


COSINE = SGD.but("cosine", schedule="cosine")
RATES = {"cosine": [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]}


@pytest.mark.parametrize("recipe", [SGD, MOMENTUM, COSINE], ids=lambda r: r.name)
def test_steps_of_gradient_descent_are_those_by_hand(recipe):
    """v ← μ v + (g + λ w); w ← w − η v; the rate η is constant or falls to 0 along half a cosine."""
    faces, rates = batch(), RATES.get(recipe.name, [1.0] * 2)
    by_hand = build(recipe, 2, seed=1).train()
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    totals, norms = [], []
    for rate in rates:
        rendered, said = objective.decode(by_hand(faces.image), faces, recipe)
        loss = sum(objective.loss_terms(rendered, said, faces, recipe).values())
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        totals.append(float(loss.detach()))
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        with torch.no_grad():
            for p, v, g in zip(by_hand.parameters(), velocity, gradients, strict=True):
                v.mul_(recipe.momentum).add_(g + recipe.weight_decay * p)
                p.sub_(recipe.learning_rate * rate * v)
    model, history = run(recipe, len(rates), faces)
    start = flat(build(recipe, 2, seed=1))
    moved, expected = flat(model) - start, flat(by_hand) - start
    assert (moved - expected).norm() < 1e-3 * expected.norm()
    np.testing.assert_allclose(history.learning_rate, rates)
    np.testing.assert_allclose(history.total, totals, rtol=1e-4)
    np.testing.assert_allclose(history.gradient_norm, norms, rtol=1e-3)


def test_a_history_has_an_entry_for_each_step_the_loss_falls_and_a_bar_is_shown_when_wanted(capsys):
    before = torch.random.get_rng_state()
    model, history = run("working", 60)
    assert torch.equal(torch.random.get_rng_state(), before) and not any(m.training for m in model.modules())
    assert capsys.readouterr() == ("", "")
    train(build("working", 2), batch(), "working", 2, progress=True)
    said = capsys.readouterr()
    assert said.out == "" and "working" in said.err and "2/2" in said.err
    assert len(history) == 60 and set(history.losses) == set(losses.Weights._fields)
    for values in (*history.losses.values(), history.gradient_norm, history.learning_rate):
        assert values.shape == (60,) and np.isfinite(values).all()
    np.testing.assert_allclose(history.total, sum(history.losses.values()))
    assert history.total[-1] < 0.5 * history.total[0] and history.seconds > 0


class Diary:
    """A stream of faces that notes which rows were asked for."""

    def __init__(self, faces):
        self.faces, self.rows = faces, []

    def __len__(self):
        return len(self.faces)

    def __getitem__(self, rows):
        self.rows.append(tuple(int(r) for r in rows))
        return self.faces[rows]


def rows_seen(recipe="working", steps=9, seed=0, count=7, batch_size=2, **options):
    diary = Diary(batch(count))
    run(recipe, steps, diary, seed=seed, batch_size=batch_size, **options)
    return diary.rows


def test_the_faces_of_a_step_depend_on_seed_and_step_alone_and_all_are_seen():
    seen = rows_seen(steps=9)
    assert rows_seen(SGD, steps=5) == seen[:5]
    assert rows_seen(seed=1) != seen
    torch.manual_seed(99)
    np.random.default_rng(5).random()
    assert rows_seen() == seen
    assert rows_seen(batch_size=None, steps=3) == [tuple(range(7))]  # a whole batch is read once, in order
    # 7 faces, 2 a step: 3 steps an epoch, and another face is left out of each
    epochs = [seen[k : k + 3] for k in (0, 3, 6)]
    for epoch in epochs:
        rows = [row for step in epoch for row in step]
        assert len(rows) == len(set(rows)) == 6
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 1
    assert {row for step in rows_seen(steps=30) for row in step} == set(range(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(recipe="wroking"), "did you mean 'working'"),
        (dict(batch_size=5), "a batch of 1 to 4 faces, found 5"),
        (dict(batch_size=0), "a batch of 1 to 4 faces, found 0"),
        (dict(batch_size=1), "batch of one of 16 × 16"),
        (dict(steps=0), "steps of at least 1, found 0"),
        (dict(steps=True), "steps of at least 1, found True"),
        (dict(checkpoint_every=0), "checkpoint_every of at least 1"),
        (dict(seed=-1), "seed of at least 0, found -1"),
    ],
)
def test_impossible_runs_are_refused(options, message):
    refuses(message, run, **{"recipe": SGD, "steps": 2, **options})


def spoil(patch, after, change):
    """From inside: once ``after`` steps have been made, losses are what ``change`` makes of them."""
    real, count = objective.loss_terms, itertools.count()

    def spoiled(*arguments):
        return (change if next(count) >= after else dict)(real(*arguments))

    patch.setattr(objective, "loss_terms", spoiled)


def interrupt(terms):
    raise KeyboardInterrupt


ADAM_COSINE = WORKING.but("adam_cosine", optimiser="adam", schedule="cosine")
RESUMED = [ADAM_COSINE, MOMENTUM, WORKING.but("copy", copy_shading="fitted"), SGD]


@pytest.mark.parametrize("recipe", RESUMED, ids=lambda r: r.name)
@pytest.mark.parametrize("batch_size", [None, 2], ids=["whole", "minibatch"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, monkeypatch, recipe, batch_size):
    """In the same state bit for bit, with the same history, having seen the same faces."""
    steps, options = 9, dict(batch_size=batch_size)
    diary = Diary(batch())
    undisturbed, history = run(recipe, steps, diary, **options)
    for after in (1, 4, 8, (3, 4)):  # before the first checkpoint, right after one, shortly before the end, twice
        options |= dict(checkpoint=tmp_path / f"{after}.safetensors", checkpoint_every=2)
        for made in np.atleast_1d(after):
            with monkeypatch.context() as patch:
                spoil(patch, made, interrupt)
                with pytest.raises(KeyboardInterrupt):
                    run(recipe, steps, **options)
        assert options["checkpoint"].exists() == (after != 1)
        rest = Diary(batch())
        model, resumed = run(recipe, steps, rest, **options)
        assert_same(model, undisturbed)
        assert rest.rows == diary.rows[-len(rest.rows) :]
        np.testing.assert_equal(resumed.losses, history.losses)
        np.testing.assert_array_equal(resumed.gradient_norm, history.gradient_norm)


def test_a_run_at_a_constant_rate_can_be_made_longer_but_not_shorter(tmp_path):
    path = tmp_path / "run.safetensors"
    undisturbed, history = run(MOMENTUM, 6)
    run(MOMENTUM, 3, checkpoint=path)
    longer, whole = run(MOMENTUM, 6, checkpoint=path)
    np.testing.assert_array_equal(whole.total, history.total)
    assert_same(longer, undisturbed)
    assert "at most 3 steps, found one of 6" in refused(path, MOMENTUM, 3, batch_size=None)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import safetensors.torch
import test_training as here

real, saved = safetensors.torch.save_file, [0]

def save_file(tensors, path, metadata):
    saved[0] += 1
    real(tensors, path, metadata)
    if saved[0] == 3:
        os.truncate(path, 1000)
        os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = save_file
here.run(here.ADAM_COSINE, 80, checkpoint=sys.argv[2], checkpoint_every=2, batch_size=2)
"""


def test_a_run_killed_while_it_saves_is_taken_up_again(tmp_path):
    path = tmp_path / "run.safetensors"
    # with the threads of this process: sums in another order have other last bits
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(path)]
    done = subprocess.run(command, env={**os.environ, **threads}, timeout=60)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.glob(".*.partial*"))) == 1
    assert len(safetensors.torch.load_file(path)["record"]) == 4
    undisturbed, resumed = (run(ADAM_COSINE, 80, batch_size=2, checkpoint=place)[0] for place in (None, path))
    assert_same(undisturbed, resumed)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    run(ADAM_COSINE, 4, batch_size=2, checkpoint=path)
    return path


def refused(path, recipe=ADAM_COSINE, steps=4, width=2, dataset=None, batch_size=2, **options):
    """The message of a run that must not take up this checkpoint; the file and the network stay as they are."""
    before = path.read_bytes()
    model = build(recipe, width, seed=1)
    options |= dict(checkpoint=path, batch_size=batch_size, progress=False)
    with pytest.raises(DataError) as found:
        train(model, dataset or batch(), recipe, steps, **options)
    assert path.read_bytes() == before and found.value.path == path
    assert_same(model, build(recipe, width, seed=1))
    assert str(found.value).startswith(f"{path}: expected ") and "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(width=3), "network width 3, found 2"),
        (dict(recipe=ADAM_COSINE.but("adam_cosine", learning_rate=0.5)), "recipe learning_rate 0.5, found 0.002"),
        (dict(recipe=ADAM_COSINE.but("other")), "recipe name other, found adam_cosine"),
        (dict(seed=5), "seed 5, found 0"),
        (dict(batch_size=4), "batch_size 4, found 2"),
        (dict(dataset=batch(5)), "faces 5, found 4"),
        (dict(steps=8), "steps 8, found 4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(checkpoint, change, message):
    assert re.search(message, refused(checkpoint, **change))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-100], "found something else"),
        (lambda whole: whole.replace(b"checkpoint", b"something!"), "architecture BioFaceNet checkpoint, found"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "as it was written, found one that lacks a part"),
    ],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, damage, message):
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert message in refused(checkpoint)


FULL = OSError(errno.ENOSPC, "No space left on device"), safetensors.SafetensorError("I/O")


@pytest.mark.parametrize("raised", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, raised):
    path = tmp_path / "run.safetensors"
    undisturbed, _ = run(MOMENTUM, 6)
    run(MOMENTUM, 2, checkpoint=path)
    before = path.read_bytes()

    def full(tensors, partial, metadata):
        partial.write_bytes(b"a part")
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        for place in (path, path / "run.safetensors"):  # the second in a folder that is a file
            with pytest.raises(DataError, match=r"run\.safetensors: expected room to write a checkpoint, found"):
                run(MOMENTUM, 6, checkpoint=place, checkpoint_every=2)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert_same(run(MOMENTUM, 6, checkpoint=path)[0], undisturbed)


@pytest.mark.parametrize(
    ("name", "value", "culprit"),
    [
        ("encoder.0.0.weight", np.nan, "network's melanin is not finite"),
        ("vector.4.bias", np.nan, "network's camera is not finite"),
        ("specular.last.bias", 100.0, "network's specular is not finite"),  # exp(100) is beyond single precision
        ("specular.last.bias", 60.0, "appearance loss is not finite"),  # exp(60) is not, but its square is
    ],
)
def test_what_is_not_finite_is_named(name, value, culprit):
    model = build(SGD, 2)
    model.get_parameter(name).data.flatten()[0] = value
    with pytest.raises(Diverged, match=f"step 0 of plain: the {re.escape(culprit)}"):
        train(model, batch(), SGD, 2, progress=False)


def test_a_diverged_run_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patch:
        spoil(patch, 3, lambda terms: {**terms, "camera": terms["camera"] * torch.nan})
        with pytest.raises(Diverged, match="step 3 of plain: the camera loss is not finite; the weights are unchanged"):
            run(SGD, 6, checkpoint=path, checkpoint_every=2)
    assert_same(run(SGD, 6, checkpoint=path)[0], run(SGD, 6)[0])


@pytest.fixture
def nfe_faces(folders):
    """Five faces in the data folder; returns the folder above it."""
    (folders / "nfe").mkdir()
    write_pair(folders / "nfe", 1, 5, seed=1)
    return folders.parent


TRAIN = ["train", "--recipe", "working", "--data", "nfe", "--width", "2", "--steps", "3"]


def test_the_command_writes_weights_checkpoint_and_history_and_goes_on_from_them(nfe_faces, monkeypatch, capsys):
    out = nfe_faces / "mine"
    command = [*TRAIN, "--batch-size", "2", "--seed", "4", "--out", str(out)]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 1 and "after 3 steps" in said.out and str(out) in said.out
    names = ["working.checkpoint.safetensors", "working.history.json", "working.safetensors"]
    assert sorted(p.name for p in out.iterdir()) == names

    model = build("working", 2, seed=4)
    history = train(model, nfe.open_split("train")[:], "working", 3, batch_size=2, seed=4, progress=False)
    written = json.loads((out / "working.history.json").read_text(), parse_constant=pytest.fail)
    assert written["recipe"] == "working" and written["steps"] == 3
    np.testing.assert_array_equal(sum(np.array(v) for v in written["losses"].values()), history.total)
    np.testing.assert_array_equal(written["learning_rate"], history.learning_rate)
    assert f"loss {history.total[-1]:.6g} " in said.out
    assert_same(BioFaceNet.from_file(out / "working.safetensors"), model)

    (out / "working.safetensors").unlink()
    monkeypatch.setattr(objective, "loss_terms", lambda *_: pytest.fail("trained again"))
    assert cli.main(command) == 0 and capsys.readouterr().out == said.out  # nothing is repeated
    assert json.loads((out / "working.history.json").read_text())["losses"] == written["losses"]
    assert_same(BioFaceNet.from_file(out / "working.safetensors"), model)


def test_the_command_limits_the_faces(nfe_faces, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda model, faces, *_, **options: seen.append((faces, options)) or 1 / 0)
    for limit in ([], ["--limit", "3"]):
        with pytest.raises(ZeroDivisionError):
            cli.main([*TRAIN, *limit])
    (stream, all_of_them), (few, three) = seen
    assert isinstance(stream, nfe.NFE) and all_of_them["batch_size"] == 5
    assert len(few) == 3 and three["batch_size"] == 3


SHARED = ("working", "authors_code", "rounded_index", "batch_norm_frozen")
TOGETHER = """
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
import torch, test_training as here

found = [here.shared(name) for name in (*here.SHARED, *here.SHARED)]
with open(f"{sys.argv[2]}/{os.environ['RANK']}", "wb") as file:
    pickle.dump(found, file)
torch.distributed.destroy_process_group()
"""


def shared(name):
    """Rows that this process read, losses and weights of a run."""
    diary = Diary(batch(8, 32))
    model, history = run(name, 6, diary, batch_size=4)
    return diary.rows, history.total, {name: value.numpy() for name, value in model.state_dict().items()}


def launched(launcher, *arguments, code=0):
    """Two processes on this machine; what they printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode == 0) == (code == 0), done.stderr
    return done


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


def test_two_processes_share_every_batch_and_end_with_the_same_weights(tmp_path):
    """As one process but for batch norm, whose statistics without a graphics processor are those of the own half."""
    (tmp_path / "together.py").write_text(TOGETHER)
    launched(TORCHRUN, tmp_path / "together.py", os.path.dirname(__file__), tmp_path)
    first, second = (pickle.loads((tmp_path / rank).read_bytes()) for rank in "01")
    for k, name in enumerate(SHARED):
        rows, totals, weights = shared(name)
        halves = first[k][0], second[k][0]
        for whole, *parts in zip(rows, *halves, strict=True):
            assert tuple(sorted(sum(parts, ()))) == whole and {len(part) for part in parts} == {2}
        for other in (second[k], first[k + len(SHARED)], second[k + len(SHARED)]):  # the other process, and once more
            np.testing.assert_array_equal(other[1], first[k][1])
            assert all(np.array_equal(other[2][n], value) for n, value in first[k][2].items())
        deviation = np.abs(first[k][1] / totals - 1)
        print(f"{name}: two processes against one, first step {deviation[0]:.1e}, largest {deviation.max():.1e}")
        if name == "batch_norm_frozen":  # up to the order of sums
            assert deviation.max() < 5e-5
        else:
            assert 1e-6 < deviation[0] < 0.1 and deviation.max() < 0.5


def test_more_processes_than_graphics_processors_are_refused_before_anything_is_read(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cli.main([*TRAIN, "--out", str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err
    assert "expected a graphics processor for each of 2 processes, found 1" in told and told.count("\n") == 1


def test_on_several_graphics_processors_batch_norm_looks_at_all_faces(monkeypatch):
    for device, kind in (("cuda", nn.SyncBatchNorm), ("cpu", nn.BatchNorm2d)):
        monkeypatch.setattr(training.Accelerator, "num_processes", 2)
        monkeypatch.setattr(training.Accelerator, "device", torch.device(device))
        model, other = build("working", 2, 3), build("working", 2, 3)
        parameters = list(model.parameters())
        training._processes(model, WORKING)
        assert type(model.encoder[0][1]) is kind
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        monkeypatch.undo()
        for net in (model, other):
            train(net, batch(), "working", 3, batch_size=2, progress=False)
        assert_same(model, other)  # alone it is that of torch, running statistics and all


def test_the_command_runs_under_two_launchers(nfe_faces, tmp_path):
    done = launched(ACCELERATE, "-m", "bioface", *TRAIN, "--batch-size", "4", "--out", tmp_path / "out")
    assert done.stdout.count("\n") == 1 and "on 2 processes" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 3
    done = launched(TORCHRUN, "-m", "bioface", *TRAIN, "--batch-size", "3", "--out", tmp_path / "none", code=1)
    assert "error: expected a batch that 2 processes share, found 3" in done.stderr
    assert list((tmp_path / "none").iterdir()) == []
