"""The widgets for real: JupyterLab on loopback, a notebook run in headless Chromium, keys pressed, pixels looked at."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import skimage.data
from browser import WAIT, chromium
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from bioface.training import LOSSES

pytestmark = pytest.mark.slow

SAMPLES = """
import os
import numpy as np
import torch
from bioface import illumination, maps, widgets
from test_widgets import history

torch.set_num_threads(1)
row, column = np.mgrid[:64, :64] / 63
ramps = np.stack([row, column, 1 - row]).astype(np.float32)
mask = np.hypot(row - 0.5, column - 0.5)[None].repeat(3, 0) < 0.5
samples = {"melanin": 0.4 * ramps, "rgb": np.stack([ramps, ramps[::-1], 0 * ramps], -1)}
os.getpid()"""
SCRUB = 'widgets.scrub(samples, mask=mask, names=["first", "second", "third"], scores=[0.1, 0.3, 0.2])'
EDIT = """
face = maps.Decomposition.of_maps(
    0.1 + 0.1 * row, 0.03 + 0 * row, 0.3 + 0.5 * column, 0.02 + 0 * row,
    np.zeros(2), illumination.standard("D65").numpy(), np.zeros((64, 64, 3)), mask[0])
face.image[:] = face.reconstruction
widgets.edit(face)"""
COMPARE = 'widgets.compare({"slow": [history(100, 0.01), history(100, 0.02)], "fast": history(100, 0.1)})'
UPLOAD = "widgets.edit()"
ONE = 'widgets.scrub({"melanin": ramps[:1]})'
NONE = 'widgets.scrub({"melanin": ramps[:0]})'
QUIET = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
ASTRONAUT = skimage.data.astronaut()[20:240, 110:330]
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": QUIET,
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The notebook in a JupyterLab of its own, run to its end; what all tests made it complain of is seen there."""
    home = tmp_path_factory.mktemp("home")
    (home / ".jupyter" / "labconfig").mkdir(parents=True)
    (home / ".jupyter" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
    cells = [new_code_cell(source.strip()) for source in (SAMPLES, SCRUB, EDIT, COMPARE, ONE, NONE, UPLOAD)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), home / "demo.ipynb")
    others = ("JUPYTER", "IPYTHON", "XDG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    env |= {"HOME": str(home), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--LabApp.expose_app_in_browser=True"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={home}"]
    with (
        chromium() as new_page,
        open(home / "log", "wb") as log,
        subprocess.Popen(command, env=env, stdout=log, stderr=log) as process,
    ):
        try:  # once it listens it writes a page that leads to it
            until(lambda: process.poll() is not None or any(home.rglob("jpserver-*.html")), "JupyterLab")
            assert process.poll() is None, (home / "log").read_text()
            server = json.loads(next(home.rglob("jpserver-*.json")).read_text())
            page = new_page()
            page.open(f"{server['url']}lab/tree/demo.ipynb?token={server['token']}")
            opened = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find((w) => w.context)"
            page.wait(f"{opened}?.context.sessionContext.session?.kernel?.status === 'idle'")
            page.run(f"jupyterapp.shell.activateById({opened}.id)")
            page.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
            page.wait("document.querySelectorAll('.bioface').length === 6")
            yield page
            # of the widgets: JupyterLab has its own, as when its server is slow or the kernel dead
            assert [error for error in page.errors if "anywidget" in error or "blob:" in error] == []
        finally:
            process.terminate()  # it ends its kernels first


def until(condition, what):
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {WAIT} s for {what}")
        time.sleep(0.05)


def first(page, selector):
    return page.page.locator(selector).first


def text(page, selector):
    return first(page, selector).text_content().replace("\xa0", " ")


def press(page, selector, *keys):
    """Focus an element and press keys there."""
    first(page, selector).focus()
    for key in keys:
        page.press(key)


def move(page, selector, x, y):
    """The pointer to a place within an element, in shares of its width and height."""
    first(page, selector).scroll_into_view_if_needed()
    box = first(page, selector).bounding_box()
    page.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def at(picture, row, column):
    """The mean colour around a place given in shares of height and width."""
    y, x = (int(share * n) for share, n in zip((row, column), picture.shape, strict=False))
    return picture[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))


SLIDER = "input[type=range]"
#: Of a choice, and that of its longest option.
WIDTHS = """(choice) => {
  const free = choice.cloneNode(true);
  free.style = "position: absolute; width: max-content";
  choice.after(free);
  const widths = [choice.offsetWidth, free.offsetWidth];
  free.remove();
  return widths;
}"""


def test_the_slider_changes_the_picture_and_the_crosshair_says_the_values(page):
    rgb, frame = ".bioface-scrub figure:nth-child(2) canvas", ".bioface-scrub .bioface-frame"
    value = ".bioface-scrub figure:nth-child({}) output"
    # the first: red grows downwards, green upwards
    assert np.allclose(at(page.picture(rgb), 0.75, 0.25), (191, 64, 0), atol=6)
    press(page, f".bioface-scrub {SLIDER}", "ArrowRight")
    after = page.picture(rgb)
    assert np.allclose(at(after, 0.75, 0.25), (64, 64, 0), atol=6)  # the second: both grow to the right
    assert text(page, ".bioface-caption") == "2 of 3 · second · mismatch score 0.3"
    press(page, frame, "ArrowDown", "ArrowRight", "ArrowRight")  # the first key: to the middle, row 32 and column 32
    assert text(page, value.format(1)) == f"{0.4 * 34 / 63:.3f} volume fraction"
    assert text(page, ".bioface-scrub [role=status]").startswith("row 32, column 34: melanin 0.216")
    marked = page.picture(rgb)
    column = int(34.5 / 64 * marked.shape[1])
    assert np.abs(marked[:, column].astype(int) - after[:, column]).max() > 50, "no crosshair on the other map"
    move(page, rgb, 48.5 / 64, 16.5 / 64)
    assert text(page, value.format(2)) == "R 0.762 G 0.762 B 0"
    move(page, rgb, 1.5 / 64, 1.5 / 64)  # outside the mask, which the photo does not know
    assert text(page, value.format(1)) == "no value here"
    press(page, frame, "Escape")
    assert text(page, value.format(1)) == ""


def test_only_samples_of_a_score(page):
    caption, position = ".bioface-caption", f".bioface-scrub {SLIDER}"
    press(page, ".bioface-scrub input[aria-label='least mismatch score']", "ArrowRight")
    assert text(page, ".bioface-count") == "0.2 to 0.3: 2 of 3"
    first(page, ".bioface-scrub input[type=checkbox]").click()
    press(page, position, "Home")
    assert text(page, caption) == "1 of 2 · second · mismatch score 0.3"
    press(page, position, "ArrowRight", "ArrowRight")
    assert text(page, caption) == "2 of 2 · third · mismatch score 0.2"
    press(page, ".bioface-scrub input[aria-label='highest mismatch score']", "Home")
    assert text(page, caption) == "No sample has a mismatch score within these limits."
    assert first(page, ".bioface-panels").is_hidden()
    single = page.page.locator(".bioface-scrub").last.text_content()
    assert "1 of 1 · sample 0" in single and "mismatch" not in single
    assert text(page, ".bioface-nothing") == "No sample to show."


CURVES = ".bioface-compare polyline"
STEP = f".bioface-compare {SLIDER}"


def said_at_the_step(page):
    return page.page.locator(".bioface-compare output").all_text_contents()


def use_compare(page):
    """Switch a run off and on, choose another curve, go to the last step."""
    first_run = first(page, ".bioface-compare fieldset input")  # of two seeds
    for curves in (1, 3):
        first_run.click()
        assert page.page.locator(CURVES).count() == curves
    first(page, ".bioface-compare select").select_option("gradient norm")
    press(page, STEP, "End")
    assert said_at_the_step(page) == ["100 (100 to 100)", "100"]
    page.press("ArrowLeft", 3)
    assert said_at_the_step(page) == ["97 (97 to 97)", "97"]


def test_trainings_are_compared(page):
    press(page, STEP, "Home")
    used = len(LOSSES) - 1  # each of them begins at 1
    assert said_at_the_step(page) == [f"{used} ({used} to {used})", f"{used}"]
    second_run = page.page.locator(".bioface-compare fieldset input").last
    orange = []  # pixels in the colour of the second run
    for _ in range(2):
        picture = page.picture(".bioface-compare svg").astype(int)
        orange.append((np.abs(picture - [213, 94, 0]).max(-1) < 40).sum())
        second_run.click()
    assert orange[0] > 200 and orange[1] == 0
    move(page, ".bioface-compare svg", 0.5, 0.5)
    assert 46 <= int(first(page, STEP).input_value()) <= 49
    use_compare(page)


def test_a_photo_is_edited_and_put_back(page):
    edited = ".bioface-edit figure:nth-child(2) canvas"
    before = page.picture(edited)
    press(page, f".bioface-edit {SLIDER}", *["ArrowRight"] * 12)
    assert "+0.6" in text(page, ".bioface-edit .bioface-sliders")
    until(lambda: at(page.picture(edited), 0.5, 0.5).sum() < 0.85 * at(before, 0.5, 0.5).sum(), "darker skin")
    assert np.allclose(at(page.picture(edited), 0.03, 0.03), at(before, 0.03, 0.03), atol=2), "outside the mask"
    first(page, ".bioface-edit button").click()
    until(lambda: np.abs(page.picture(edited).astype(int) - before).max() <= 3, "the photo as it was")


def test_a_photo_of_ones_own_is_uploaded_and_edited(page, tmp_path):
    cell = page.page.locator(".jp-Cell").last

    def upload(name, content):
        (tmp_path / name).write_bytes(content)
        with page.page.expect_file_chooser() as chooser:
            cell.locator(".widget-upload").click()
        chooser.value.set_files(tmp_path / name)

    photo = io.BytesIO()
    Image.fromarray(ASTRONAUT).save(photo, "PNG")
    upload("me.png", photo.getvalue())
    cell.locator(".bioface-edit canvas").nth(1).wait_for()
    assert cell.locator(".bioface-nothing").text_content() == "me.png, 220 × 220 pixels."
    upload("broken.png", photo.getvalue()[:999])
    cell.locator(".bioface-nothing", has_text="broken.png: expected a picture").wait_for()
    edited = cell.locator(".bioface-edit .bioface-frame").nth(1)  # it is still there
    before = edited.screenshot()
    cell.locator(SLIDER).first.focus()
    page.press("ArrowRight", 12)
    until(lambda: edited.screenshot() != before, "darker skin")
    for choice in cell.locator("select").all():
        wide, wanted = choice.evaluate(WIDTHS)
        assert wide >= wanted > 50, f"cut off: {choice.text_content()}"


@pytest.mark.alone
def test_ten_pictures_a_second(page):
    """Slider to slider: what is drawn at 64 × 64 while one drags."""
    drawn = page.run(
        """new Promise((done) => {
          const root = document.querySelector('.bioface-edit'), input = root.querySelector('input[type=range]');
          let drawn = 0, k = 0; // a picture is drawn each time that it is said anew
          const edited = root.querySelectorAll('.bioface-frame')[1];
          new MutationObserver(() => drawn++).observe(edited, {attributeFilter: ['aria-label']});
          const drag = setInterval(() => {
            input.value = (k++ % 80) / 40 - 1;
            input.dispatchEvent(new Event('input', {bubbles: true}));
          }, 5);
          setTimeout(() => done(clearInterval(drag) ?? drawn), 3000);
        })"""
    )
    print(f"{drawn / 3:.0f} pictures a second")
    assert drawn / 3 >= 10


def test_without_a_kernel_all_but_the_editor_works_and_that_says_so(page):
    """The last test of the page, as its kernel stays dead."""
    os.kill(int(text(page, ".jp-OutputArea-output pre")), signal.SIGKILL)
    first(page, ".jp-Dialog .jp-mod-accept").click()  # JupyterLab noticed
    press(page, f".bioface-edit {SLIDER}", "ArrowRight")
    first(page, ".bioface-edit [role=status]:has-text('The kernel does not answer')").wait_for()
    press(page, ".bioface-scrub input[aria-label='highest mismatch score']", "End")
    press(page, f".bioface-scrub {SLIDER}", "Home")
    before = page.picture(".bioface-scrub canvas").astype(int)
    page.press("ArrowRight")
    assert np.abs(page.picture(".bioface-scrub canvas") - before).max() > 50
    use_compare(page)
