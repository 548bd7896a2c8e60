"""Saved figures: files that say where they come from, and the numbers behind them."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from study import figures


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))
    return tmp_path


def save(name="04_line", **change):
    figure, ax = plt.subplots()
    ax.plot([1, 2, 3])
    given = {"numbers": {"y": [1.0, 2.0]}, "data": "twin (synthetic)", "alt": "A line goes up."} | change
    figures.save(figure, name, **given)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_saved_figure_says_where_it_comes_from(folder):
    save(alt="A line goes up, from 1 to 2 μm.")
    with Image.open(folder / "04_line.png") as image:
        assert image.size[0] > 300
        about = image.text
    assert about["Title"] == "line" and about["Description"] == "A line goes up, from 1 to 2 μm."
    assert about["Source"].startswith("notebooks/04") and about["Data"] == "twin (synthetic)"
    assert about["Software"].startswith("bioface ")
    beside = json.loads((folder / "04_line.json").read_text())
    assert beside["title"] == "line" and beside["description"] == about["Description"]
    assert sorted(contents(folder)) == ["04_line.json", "04_line.png"]


def test_a_notebook_shows_it_with_its_alternative_text(folder, monkeypatch):
    monkeypatch.setattr(figures.matplotlib, "get_backend", lambda: "inline")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda figure, metadata: shown.append(metadata))
    save(alt="A line goes up.")
    assert shown == [{"image/png": {"alt": "A line goes up."}}] and not plt.get_fignums()


def test_the_same_figure_is_the_same_file_and_a_failure_keeps_it(folder, monkeypatch):
    save()
    first = contents(folder)
    save()
    assert contents(folder) == first
    with pytest.raises(ValueError, match="JSON"):
        save(numbers={"y": {"z": [1.0, np.inf]}})
    monkeypatch.setattr(plt.Figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(numbers={"y": [9.0]})
    assert contents(folder) == first


def test_numbers_of_every_kind(folder):
    nested = {"n": 7553, "x": np.float32(0.1), "none": None, "list": [torch.tensor(1), 2.0]}
    numbers = {
        "array": (np.array([[1 / 3, np.nan], [2e-9, 4]]), [[0.333333, None], [2e-9, 4.0]]),
        "tensor": (torch.tensor([1.5, 2.5], requires_grad=True), [1.5, 2.5]),
        "bools": (np.array([True, False]), [True, False]),
        "groups": (["a", "b"], ["a", "b"]),
        "nested": (nested, {"n": 7553, "x": 0.1, "none": None, "list": [1, 2.0]}),
    }
    save(numbers={name: given for name, (given, _) in numbers.items()})
    text = (folder / "04_line.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["numbers"] == {name: kept for name, (_, kept) in numbers.items()}
