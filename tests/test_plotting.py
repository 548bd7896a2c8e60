"""Pictures: fixed colours per quantity, and grids."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import plotting


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("quantity", "value", "shown"),
    [
        ("rgb", 0.5, 0.5),
        ("rgb", np.uint8(51), 0.2),
        ("linear_rgb", 0.214041, 0.5),
        ("linear_rgb", 0.002, 0.02584),
        ("albedo", 7.0, 1.0),
        ("normals", -1.0, 0.0),
        ("normals", 0.0, 0.5),
    ],
)
def test_colour_images_are_shown_as_srgb(quantity, value, shown):
    np.testing.assert_allclose(plotting.painted(np.full((2, 2, 3), value), quantity) / 255, shown, atol=0.002)


def test_black_is_nothing_white_the_top_and_grey_what_is_outside_or_unknown():
    shading = np.array([[0.0, 1.5], [0.75, 0.75], [np.nan, 0.0]])
    mask = np.array([[1, 1], [1, 0], [1, 1]])
    grey = plotting.BACKGROUND
    for many in (torch.tensor(shading, requires_grad=True), mask), (np.stack([shading] * 3), np.stack([mask] * 3)):
        for channel in np.moveaxis(plotting.painted(many[0], "diffuse_shading", mask=many[1]), -1, 0) / 255:
            np.testing.assert_allclose(channel - [[0, 1], [0.5, grey], [grey, 0]], 0, atol=0.005)


MAP, PHOTO = np.zeros((4, 4)), np.zeros((4, 4, 3))


@pytest.mark.parametrize(
    ("image", "quantity", "options", "message"),
    [
        (MAP, "melanine", {}, "did you mean 'melanin'"),
        (PHOTO.T, "rgb", {}, r"expected an image \(H, W, 3\), found \(3, 4, 4\)"),
        (MAP, "rgb", {}, r"\(H, W, 3\), found \(4, 4\)"),
        (MAP, "melanin", {"mask": np.ones((4, 5))}, r"expected a mask \(4, 4\), found \(4, 5\)"),
    ],
)
def test_bad_images_are_refused(image, quantity, options, message):
    refuses(message, plotting.painted, image, quantity, **options)


def test_in_a_grid_nothing_overlaps_and_panels_are_in_line():
    quantities = ["rgb", plotting.known_quantity("haemoglobin", (0, 0.2)), "specular_shading", "mask"]
    rows = [[np.zeros((8, 6, 3)), *np.zeros((3, 8, 6))]] * 3
    figure, axes = plotting.panel_grid(rows, quantities=quantities, row_labels=["a", "b", "c"])
    figure.canvas.draw()
    assert [ax.get_title() for ax in axes[0]] == ["sRGB image", "haemoglobin", "specular shading", "mask"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["a", "b", "c"]
    bars = [ax for ax in figure.axes if ax not in set(axes.flat) and ax.axison]
    assert [bar.get_xlabel() for bar in bars] == ["volume fraction", ""]
    assert bars[0].get_xlim() == (0, 0.2)
    boxes = [ax.get_tightbbox() for ax in [*axes.flat, *bars]]
    for k, box in enumerate(boxes):
        assert box.width > 20 and not any(box.overlaps(other) for other in boxes[k + 1 :])
    panels = np.array([[ax.get_position().bounds for ax in line] for line in axes])
    np.testing.assert_allclose(panels[..., 1], np.broadcast_to(panels[:, :1, 1], axes.shape), atol=1e-6)
    np.testing.assert_allclose(panels[..., 0], np.broadcast_to(panels[:1, :, 0], axes.shape), atol=1e-6)


def test_a_users_latex_and_origin_change_nothing():
    """LaTeX may not be there, and would not take a "%" or "µ"."""
    panels, words = [[np.full((4, 4, 3), 0.5), np.full((4, 4), 0.1)]], {"row_labels": ["100 %"], "titles": ["µ", ""]}
    with plt.rc_context({"text.usetex": True, "image.origin": "lower"}):
        figure, axes = plotting.panel_grid(panels, quantities=["rgb", "melanin"], **words)
        figure.canvas.draw()
    assert axes[0, 0].images[0].origin == "upper"
