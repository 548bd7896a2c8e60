"""The benchmarks: every row is a ratio of two measured times, and what is made of them."""

import dataclasses
import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from test_nfe import write_pair

from bioface import __main__ as cli
from bioface import camera, paths, smith2019, training
from bioface.datasets import nfe
from bioface.errors import BiofaceError, DataError
from study import bench

NAMES = (
    *("table", "fit_scipy", "fit_sgd", "step_table", "step_spectral", "twin"),
    *("streaming_sequential", "streaming_shuffled", "threads_step", "threads_image", "threads_fit"),
)

COSTS = {
    "parameters": 25,
    "norm_layers": 50,
    "step_arithmetic": 10,
    "step_operations": 1000,
    "step_memory": 50,
    "step_seconds": 0.1,
    "face_bytes": 327_896,
    "reading_speed": 1000,
}
PLANNED = {name: bench.Cost(name.replace("_", " "), value, "unit") for name, value in COSTS.items()}


def is_a_ratio(row):
    numbers = (row.numerator, row.denominator, row.low, row.ratio, row.high)
    return all(math.isfinite(n) and n > 0 for n in numbers) and row.low <= row.ratio <= row.high


@pytest.fixture(scope="module")
def work(issa_build):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFACE_BUILD", str(issa_build))
        yield bench._Work(bench.QUICK, progress=False)


@pytest.fixture
def results():
    """Such as a quick run gives, without running anything."""
    seconds = np.array([2.0, 3.0, 5.0])
    rows = (bench.Row.of(n, f"slow {n} / fast {n}", k * seconds, np.ones(3)) for k, n in enumerate(NAMES, 1))
    kinds = [("image", "pixels"), ("fit", "pixels"), ("fit", "bands"), ("step", "faces")]
    grown = (
        bench.Growth.of(f"{what}_{along}", f"{what} by {along}", along, {n: n * k * seconds for n in (8, 16, 32)})
        for k, (what, along) in enumerate(kinds, 1)
    )
    machine = {"processor": "some processor", "cores": 2, "system": "Linux", "torch": "2.0"}
    return bench.Results(machine, True, tuple(rows), tuple(grown), PLANNED)


# --- the clock -------------------------------------------------------------------------------------------------------


def test_a_row_is_the_median_of_the_ratios_of_the_rounds():
    row = bench.Row.of("a", "slow / fast", np.array([2.0, 6.0, 10.0]), np.array([1.0, 2.0, 1.0]))
    assert (row.numerator, row.denominator, row.rounds) == (6.0, 1.0, 3)
    assert (row.low, row.ratio, row.high) == (2.0, 3.0, 10.0)


def test_an_exponent_is_the_slope_of_the_logarithms():
    seconds = {n: np.array([3e-3 * n, 1e-5 * n**2, 2.0 * n**0]) for n in (16, 64, 256)}
    found = bench.Growth.of("a", "work", "pixels", seconds)
    assert (found.low, found.exponent, found.high) == pytest.approx((0, 1, 2), abs=1e-3)
    assert found.sizes == (16, 64, 256) and found.rounds == 3 and len(found.seconds) == 3


def test_tasks_take_turns_and_the_first_round_only_warms_up(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    done = []
    seconds = bench.in_turns({name: lambda name=name: done.append(name) for name in "abc"}, 2)
    assert "".join(done) == "cbaabccba"
    assert {name: list(values) for name, values in seconds.items()} == {name: [1, 1] for name in "abc"}


def test_the_number_of_threads_comes_back_also_after_a_failure():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), bench.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_measured(issa_build, monkeypatch):
    monkeypatch.setenv("BIOFACE_BUILD", str(issa_build))
    before = torch.get_num_threads()
    found = bench.measure(quick=True)
    assert torch.get_num_threads() == before
    assert found.quick and tuple(row.name for row in found.rows) == NAMES
    assert all(is_a_ratio(row) and row.rounds == 1 and " / " in row.what for row in found.rows)
    assert {g.along for g in found.growth} == {"pixels", "bands", "faces"}
    for g in found.growth:
        assert len(g.sizes) == len(g.seconds) > 1 and min(g.seconds) > 0 and math.isfinite(g.exponent)
    assert set(COSTS) <= set(found.costs)
    assert all(math.isfinite(cost.value) and cost.value > 0 for cost in found.costs.values())
    assert found.machine["torch"] == torch.__version__ and found.machine["cores"] >= 1
    costs_are_those_of_the_network({name: cost.value for name, cost in found.costs.items()})


def costs_are_those_of_the_network(costs):
    model = training.build("working", bench.QUICK.full_width)
    convolutions = 0

    def count(layer, inputs, output):
        nonlocal convolutions
        convolutions += 2 * output[0, 0].numel() * layer.weight.numel()

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.rand(2, 64, 64, 3))
    # the way back is two more convolutions for each; the rest is the tables and the losses
    assert 2.9 < 1e9 * costs["step_arithmetic"] / convolutions < 4
    assert 1e6 * costs["parameters"] == pytest.approx(sum(p.numel() for p in model.parameters()))
    assert costs["norm_layers"] == 63
    assert costs["face_bytes"] == 8 * (10 * 64 * 64 + 3 * 9)
    assert costs["step_operations"] > 500


def test_scipy_fits_the_same_model_as_well(work):
    """The ratio of the two is at equal quality, or it says nothing."""
    cube, nm, light = work.cube(40)
    ours, scipys = smith2019.fit(cube, nm, light).residual, bench.scipy_residuals(cube, nm, light)
    np.testing.assert_allclose(ours, scipys, rtol=1e-3)
    assert np.median(ours) == pytest.approx(bench.NOISE, rel=0.15)
    clean = cube - np.random.default_rng(0).normal(0, bench.NOISE, cube.shape)
    assert np.median(bench.scipy_residuals(clean, nm, light)) < 1e-5


def test_both_ways_to_an_image_give_the_same_gradients(work):
    exact, table = (work.image(32, 2, method)() for method in ("exact", "table"))
    assert len(exact) == 6
    for a, b in zip(exact, table, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=0, atol=0.05 * float(a.abs().max()))


def test_bands_of_a_cube_span_the_range(work):
    cube, nm, light = work.cube(7, 8)
    assert cube.shape == (7, 8) and (nm[0], nm[-1]) == (400, 720) and light.mean() == pytest.approx(1)
    assert camera.CameraModel.load().sensitivity(work.b).shape == (1, 3, 33)


def test_streaming_is_measured_against_reading_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(nfe, "BLOCK", 8)
    images, lights, stored, _ = write_pair(tmp_path, 1, 30)
    rows = bench.streaming(images, lights, rounds=3, size=4)
    assert [row.name for row in rows] == ["streaming_sequential", "streaming_shuffled"]
    assert all(is_a_ratio(row) and row.rounds == 3 and row.ratio > 1 for row in rows)
    blocks = list(bench._raw_blocks(nfe.NFE(images)))
    np.testing.assert_array_equal(np.concatenate(blocks[:4]), stored)
    assert sum(map(len, blocks)) == 60


def test_streaming_of_nothing(tmp_path):
    images, *_ = write_pair(tmp_path, 1, 2)
    with pytest.raises(BiofaceError, match="at least 1 round, found 0"):
        bench.streaming(images, rounds=0)
    with pytest.raises(BiofaceError, match="positive batch size, found 0"):
        bench.streaming(images, size=0)
    with pytest.raises(DataError, match="no such file"):
        bench.streaming(tmp_path / "zx_7_d10_inmc_celebA_09.hdf5")


# --- what is made of it ----------------------------------------------------------------------------------------------


def test_the_file_gives_back_what_was_measured(results, tmp_path):
    (tmp_path / "bench.json").write_text(results.to_json())
    assert bench.read(tmp_path / "bench.json") == results
    about = json.loads(results.to_json())
    assert about["title"] and about["description"] and about["data"] == "twin (synthetic)"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}', '{"machine": {}, "quick": false, "rows": [{}]}'])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(DataError, match="bench.json: expected results of `make bench`"):
        bench.read(tmp_path / "bench.json")
    with pytest.raises(DataError, match="nowhere.json"):
        bench.read(tmp_path / "nowhere.json")


def test_the_table_says_everything(results):
    text = bench.table(results)
    for item in (*results.rows, *results.growth, *results.costs.values()):
        assert item.what in text
    assert str(results.machine["processor"]) in text and "mean nothing" in text
    assert "mean nothing" not in bench.table(dataclasses.replace(results, quick=False))


def test_the_picture_shows_every_row_and_every_line(results):
    figure = bench.plot(results)
    try:
        figure.canvas.draw()
        top, *below = figure.axes
        assert [label.get_text() for label in top.get_yticklabels()] == [row.what for row in results.rows[::-1]]
        lines = {line.get_label() for ax in below for line in ax.lines}
        assert len(lines) == len(results.growth)
        ratios = top.lines[0].get_xdata()
        np.testing.assert_allclose(ratios, [row.ratio for row in results.rows[::-1]])
    finally:
        plt.close(figure)


# --- the plan --------------------------------------------------------------------------------------------------------

SURE = bench.Assumed(teraflops=(20.0, 20.0), launch_us=(5.0, 5.0), link_gb=(35.0, 35.0), exchange_us=(30.0, 30.0))


def test_the_plan_is_arithmetic():
    one, eight = (bench.plan(PLANNED, n, SURE) for n in (1, 8))
    assert one.arithmetic[0] == pytest.approx(32) and eight.arithmetic[0] == pytest.approx(4)  # 64 · 1e10 / 2e13 s
    assert one.launching[0] == eight.launching[0] == pytest.approx(5)
    assert one.reducing == one.norms == (0, 0)
    assert eight.reducing[0] == pytest.approx(5)  # 2 · 7/8 · 100 MB at 35 GB/s
    assert eight.norms[0] == pytest.approx(3)
    assert (one.reading, eight.reading) == (64, 8)
    assert one.memory == pytest.approx(3.2 + 0.4) and eight.memory == pytest.approx(0.4 + 0.4)
    assert one.speed[0] == pytest.approx(2000) and eight.speed[0] == pytest.approx(64 / 0.013)
    assert (one.loaders[0], eight.loaders[0]) == (2, 5)
    steps = 200 * 793
    assert one.hours[0] == pytest.approx(steps * 0.032 / 3600)
    assert eight.hours[0] == pytest.approx(steps * 0.013 / 3600)
    assert one.hours_reading[0] == pytest.approx(steps * 0.096 / 3600)


def test_the_fast_end_is_faster():
    for processors in (1, 2, 8):
        found = bench.plan(PLANNED, processors)
        assert found.hours[0] < found.hours[1] and found.speed[0] > found.speed[1]
        assert found.hours[0] < found.hours_reading[0]


@pytest.mark.parametrize("processors", [0, -1, 5, 128])
def test_a_batch_is_shared_evenly(processors):
    with pytest.raises(BiofaceError, match="share a batch of 64 evenly"):
        bench.plan(PLANNED, processors)


def whole(results):
    return dataclasses.replace(results, quick=False)


def test_a_page_is_filled_and_filling_it_again_changes_nothing(results):
    page = "before\n<!-- bench: plan -->\nold\n<!-- /bench -->\nafter\n"
    filled = bench.fill_plan(page, whole(results))
    assert filled.startswith("before\n") and filled.endswith("\nafter\n") and "old" not in filled
    assert bench.fill_plan(filled, whole(results)) == filled
    other = dataclasses.replace(
        whole(results), costs=results.costs | {"reading_speed": bench.Cost("reading", 500, "faces/s")}
    )
    assert bench.fill_plan(filled, other) != filled


def test_what_cannot_be_filled(results):
    with pytest.raises(BiofaceError, match="block <!-- bench: plan -->"):
        bench.fill_plan("no block", whole(results))
    with pytest.raises(BiofaceError, match="quick one"):
        bench.fill_plan("<!-- bench: plan -->\n<!-- /bench -->", results)


def test_the_committed_plan_follows_from_the_committed_numbers():
    results = bench.read(paths.root() / "figures" / "bench.json")
    page = (paths.root() / "data" / "README.md").read_text(encoding="utf-8")
    assert bench.fill_plan(page, results) == page, "run `make bench`"
    assert not results.quick and tuple(row.name for row in results.rows) == NAMES
    assert all(is_a_ratio(row) and row.rounds == bench.FULL.rounds for row in results.rows)
    assert "never run on" in " ".join(page.partition("## Training at full size")[2].split())


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(results, monkeypatch, folders):
    """The command line, with its minutes of measuring done already."""
    monkeypatch.setattr(bench, "measure", lambda quick, progress: dataclasses.replace(results, quick=quick))
    return folders.parent


def test_the_command_writes_numbers_picture_and_plan(measured, capsys):
    page = measured / "page.md"
    page.write_text("<!-- bench: plan -->\n<!-- /bench -->\n")
    assert cli.main(["bench", "--plan", str(page)]) == 0
    results = bench.read(measured / "figures" / "bench.json")
    assert page.read_text() == bench.fill_plan(page.read_text(), results) and "8 GPUs" in page.read_text()
    picture = Image.open(measured / "figures" / "bench.png")
    assert min(picture.size) > 500 and picture.text["Title"] and "bioface" in picture.text["Software"]
    assert sorted(p.name for p in (measured / "figures").iterdir()) == ["bench.json", "bench.png"]
    said = capsys.readouterr()
    assert bench.table(results) in said.out and said.err == ""


def test_a_quick_run_leaves_the_figures_alone(measured, tmp_path):
    assert cli.main(["bench", "--quick"]) == 0
    assert bench.read(measured / "build" / "bench" / "bench.json").quick
    assert not list((measured / "figures").iterdir())
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "mine")]) == 0
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["bench.json", "bench.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "nowhere.md"], "nowhere.md: expected a page of text, found No such file"),
        (["--plan", "empty.md"], "empty.md: expected a block <!-- bench: plan -->"),
        (["--quick", "--plan", "empty.md"], "expected --quick or --plan, found both"),
        (["--out", "empty.md"], "expected a folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(arguments, message, folders, monkeypatch, capsys):
    def too_late(*_):
        raise AssertionError("measured all the same")

    monkeypatch.setattr(bench, "measure", too_late)
    monkeypatch.chdir(folders)
    (folders / "empty.md").touch()
    assert cli.main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not list(folders.parent.rglob("bench.*"))


def test_all_files_are_written_or_none(measured, monkeypatch, capsys):
    page = measured / "page.md"
    page.write_text("<!-- bench: plan -->\n<!-- /bench -->\n")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(bench, "fill_plan", full)
    assert cli.main(["bench", "--plan", str(page)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not list((measured / "figures").iterdir())
    assert re.fullmatch("<!-- bench: plan -->\n<!-- /bench -->\n", page.read_text())
    assert not list(measured.rglob("*partial*"))
