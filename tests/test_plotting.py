"""Pictures: fixed colours per quantity, and grids."""

import matplotlib
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


def test_every_quantity_has_a_colour_map_and_a_range():
    for name, quantity in plotting.QUANTITIES.items():
        assert quantity.cmap is None or quantity.cmap in matplotlib.colormaps, name
        assert quantity.low < quantity.high, name
        if name.endswith("_error"):
            assert quantity.low == -quantity.high, "zero error is the middle of the colours"


def test_a_map_keeps_its_limits_whatever_its_values():
    _, (left, right) = plt.subplots(1, 2)
    low = plotting.show_map(left, np.full((4, 4), 0.1), "melanin")
    high = plotting.show_map(right, torch.full((4, 4), 0.4, requires_grad=True), "melanin")
    assert low.get_clim() == high.get_clim() == (0.0, 0.43)
    assert plotting.show_map(left, np.zeros((4, 4)), "melanin", limits=(0, 1)).get_clim() == (0, 1)


@pytest.mark.parametrize("name", ["melanin", "diffuse_shading_error", "rgb", "linear_rgb", "normals"])
def test_painted_is_what_is_shown(name):
    """Many at once, in the very colours that matplotlib draws one in, grey where nothing is known."""
    rng = np.random.default_rng(0)
    colour = plotting.QUANTITIES[name].cmap is None
    images = rng.uniform(-0.5, 1.5, (2, 5, 4, *[3] * colour)).astype(np.float32)
    images[1, 2, 2] = np.nan
    mask = rng.random((2, 5, 4)) > 0.3
    painted = plotting.painted(images, name, mask=mask)
    for image, where, found in zip(images, mask, painted, strict=True):
        shown = plotting.show_map(plt.subplots()[1], image, name, mask=torch.from_numpy(where))
        drawn = shown.to_rgba(shown.get_array(), bytes=True)[..., :3]
        assert np.abs(drawn.astype(int) - found).max() <= 1
    assert not mask[0].all()
    assert (painted[1, 2, 2] == round(255 * plotting.BACKGROUND)).all() and len(np.unique(painted[~mask])) == 1


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
    drawn = plotting.show_map(plt.subplots()[1], np.full((2, 2, 3), value), quantity).get_array()
    np.testing.assert_allclose(drawn, shown, atol=1e-4)


def test_the_picture_on_screen_has_the_pixels_of_the_map():
    """Drawn and read back: black where shading is 0, white at the top of its range, grey outside the mask."""
    figure = plt.figure(figsize=(1, 1), dpi=100, layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    shading = np.array([[0.0, 1.5], [0.75, 0.75]])
    plotting.show_map(ax, shading, "diffuse_shading", mask=np.array([[1, 1], [1, 0]]))
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[25::50, 25::50, :3] / 255.0
    for channel in np.moveaxis(pixels, -1, 0):
        np.testing.assert_allclose(channel, [[0, 1], [0.5, plotting.BACKGROUND]], atol=0.02)


MAP, PHOTO = np.zeros((4, 4)), np.zeros((4, 4, 3))


@pytest.mark.parametrize(
    ("image", "quantity", "options", "message"),
    [
        (MAP, "melanine", {}, "did you mean 'melanin'"),
        (PHOTO, "melanin", {}, r"melanin: expected an image \(H, W\), found \(4, 4, 3\)"),
        (PHOTO.T, "rgb", {}, r"expected an image \(H, W, 3\), found \(3, 4, 4\)"),
        (MAP, "rgb", {}, r"\(H, W, 3\), found \(4, 4\)"),
        (MAP, "melanin", {"mask": np.ones((4, 5))}, r"expected a mask \(4, 4\), found \(4, 5\)"),
        (MAP, "melanin", {"limits": (1, 0)}, r"limits of melanin: expected \(low, high\), found \(1, 0\)"),
    ],
)
def test_bad_images_are_refused(image, quantity, options, message):
    refuses(message, plotting.show_map, plt.subplots()[1], image, quantity, **options)


def _bars(figure, panels):
    return [ax for ax in figure.axes if ax not in set(panels.flat) and ax.axison]


@pytest.mark.slow
def test_a_grid_by_column():
    rgb, mapped = np.zeros((6, 4, 3)), np.zeros((6, 4))
    rows = [[rgb, mapped, mapped], [rgb, None, mapped]]
    figure, axes = plotting.panel_grid(
        rows, quantities=["rgb", "melanin", "mask"], row_labels=["a", "b"], limits={"melanin": (0, 0.2)}
    )
    figure.canvas.draw()
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["sRGB image", "melanin", "mask"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["a", "b"]
    assert not axes[1, 1].images and not axes[1, 1].axison
    assert axes[0, 1].images[0].get_clim() == (0, 0.2)
    assert [bar.get_xlabel() for bar in _bars(figure, axes)] == ["volume fraction"]


def test_a_grid_by_row():
    mapped = torch.zeros(5, 5)
    figure, axes = plotting.panel_grid(
        [[mapped, mapped, mapped], [mapped, mapped, mapped]],
        quantities=["haemoglobin", "specular_shading"],
        titles=["x", "y", "z"],
        masks=[None, np.ones((5, 5)), np.zeros((5, 5))],
        by="row",
    )
    figure.canvas.draw()
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["haemoglobin", "specular shading"]
    assert len(_bars(figure, axes)) == 2
    assert axes[0, 2].images[0].get_array().mask.all() and not axes[0, 1].images[0].get_array().mask.any()


@pytest.mark.parametrize("by", ["column", "row"])
def test_nothing_in_a_grid_overlaps_and_panels_are_in_line(by):
    quantities = ["rgb", "haemoglobin", "specular_shading", "diffuse_shading_error"]
    mapped = np.zeros((8, 8))
    rows = [[np.zeros((8, 8, 3)), mapped, mapped, mapped]] * 3
    if by == "row":
        rows = [list(column) for column in zip(*rows, strict=True)]
    figure, axes = plotting.panel_grid(rows, quantities=quantities, by=by)
    figure.canvas.draw()
    bars = _bars(figure, axes)
    assert len(bars) == 3
    boxes = [ax.get_tightbbox() for ax in [*axes.flat, *bars]]
    for k, box in enumerate(boxes):
        assert box.width > 20 and not any(box.overlaps(other) for other in boxes[k + 1 :])
    panels = np.array([[ax.get_position().bounds for ax in line] for line in axes])
    np.testing.assert_allclose(panels[..., 1], np.broadcast_to(panels[:, :1, 1], axes.shape), atol=1e-6)
    np.testing.assert_allclose(panels[..., 0], np.broadcast_to(panels[:1, :, 0], axes.shape), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": []}, "equally many"),
        ({"rows": [[np.zeros((2, 2))], []]}, r"equally many in each, found \[1, 0\]"),
        ({"rows": [[None, None]]}, "at least one image"),
        ({"quantities": ["melanin"]}, "quantities: expected 2"),
        ({"titles": ["a"]}, "titles: expected 2"),
        ({"row_labels": ["a", "b"]}, "row_labels: expected 1"),
        ({"masks": [None, None]}, "masks: expected 1"),
        ({"limits": {"melanim": (0, 1)}}, "did you mean 'melanin'"),
        ({"by": "columns"}, "did you mean 'column'"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(change, message):
    given = {"rows": [[np.zeros((2, 2)), np.zeros((2, 2))]], "quantities": "melanin"} | change
    refuses(message, plotting.panel_grid, given.pop("rows"), **given)


def test_the_style_is_complete_and_its_colours_differ_in_lightness_or_hue():
    with plt.style.context("default"):
        plotting.use_style()
        assert plt.rcParams["savefig.dpi"] == 150
        assert plt.rcParams["figure.constrained_layout.use"]
        colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colours)) == 7


def test_a_users_latex_and_origin_change_nothing():
    """LaTeX may not be there, and would not take a "%" or "µ"."""
    panels, words = [[np.full((4, 4, 3), 0.5), np.full((4, 4), 0.1)]], {"row_labels": ["100 %"], "titles": ["µ", ""]}
    with plt.rc_context({"text.usetex": True, "image.origin": "lower"}):
        figure, axes = plotting.panel_grid(panels, quantities=["rgb", "melanin"], **words)
        figure.canvas.draw()
    assert axes[0, 0].images[0].origin == "upper"
