"""The widgets for real: JupyterLab on loopback, a notebook run in headless Chromium, keys pressed, pixels looked at."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import nbformat
import numpy as np
import pytest
from browser import CHROMIUM, Page, until
from nbformat.v4 import new_code_cell, new_notebook

from bioface import widgets
from bioface.training import LOSSES, History

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

SAMPLES = """
import os
import numpy as np
import torch
from bioface import decomposition, illumination, widgets
from bioface.training import LOSSES, History

torch.set_num_threads(1)
with open("pid", "w") as file:
    file.write(str(os.getpid()))
row, column = np.mgrid[:64, :64] / 63
ramps = np.stack([row, column, 1 - row]).astype(np.float32)
mask = np.hypot(row - 0.5, column - 0.5)[None].repeat(3, 0) < 0.5
maps = {"melanin": 0.4 * ramps, "rgb": np.stack([ramps, ramps[::-1], 0 * ramps], -1)}"""
SCRUB = 'widgets.scrub(maps, mask=mask, names=["first", "second", "third"], scores=[0.1, 0.3, 0.2])'
EDIT = """
face = maps.Decomposition.of_maps(
    0.1 + 0.1 * row, 0.03 + 0 * row, 0.3 + 0.5 * column, 0.02 + 0 * row,
    np.zeros(2), illumination.standard("D65").numpy(), np.zeros((64, 64, 3)), mask[0])
face.image[:] = face.reconstruction
widgets.edit(face)"""
COMPARE = """
def history(rate):
    k = np.arange(100.0)
    return History({name: np.exp(-rate * k) for name in LOSSES}, k + 1, np.full(100, np.nan), 0 * k + 1e-3)

widgets.compare({"slow": [history(0.01), history(0.02)], "fast": history(0.1)})"""
ONE = 'widgets.scrub({"melanin": ramps[:1]})'
NONE = 'widgets.scrub({"melanin": ramps[:0]})'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="module")
def server(folder):
    """JupyterLab, with settings and data of its own; its address with the token."""
    for name in ("notebooks", "settings/@jupyterlab/apputils-extension"):
        (folder / name).mkdir(parents=True)
    cells = [new_code_cell(source.strip()) for source in (SAMPLES, SCRUB, EDIT, COMPARE, ONE, NONE)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / "demo.ipynb")
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0 --no-browser --allow-root"
    options += " --IdentityProvider.token=secret --LabApp.expose_app_in_browser=True"
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IPYTHONDIR": str(folder / "ipython")}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options.split(), f"--ServerApp.root_dir={folder / 'notebooks'}"],
            env={k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
            | places
            | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: process.poll() is not None or _answers(port), "JupyterLab")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}/lab/tree/demo.ipynb?token=secret"
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its kernels first
        process.wait(30)


def _answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=secret", timeout=5) as said:
            return said.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(server, folder):
    """The notebook, opened and run to its end."""
    page = Page(folder)
    try:
        page.ask("Page.navigate", url=server)
        opened = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find((w) => w.context)"
        page.wait(f"{opened}?.context.sessionContext.session?.kernel?.status === 'idle'", "the notebook to open")
        page.run(f"jupyterapp.shell.activateById({opened}.id)")
        page.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
        page.wait("document.querySelectorAll('.bioface').length === 5", "five widgets")
        yield page
    finally:
        page.close()


SLIDER = "input[type=range]"


def at(picture, row, column):
    """The mean colour around a place given in shares of height and width."""
    y, x = (int(share * n) for share, n in zip((row, column), picture.shape, strict=False))
    return picture[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))


def test_the_slider_changes_the_picture_and_the_crosshair_says_the_values(page):
    rgb = ".bioface-scrub figure:nth-child(2) canvas"
    before = page.picture(rgb)
    assert np.allclose(at(before, 0.75, 0.25), (191, 64, 0), atol=6)  # the first: red grows downwards, green upwards
    page.focus(f".bioface-scrub {SLIDER}")
    page.press("ArrowRight")
    after = page.picture(rgb)
    assert np.allclose(at(after, 0.75, 0.25), (64, 64, 0), atol=6)  # the second: both grow to the right
    assert page.text(".bioface-caption") == "2 of 3 · second · mismatch score 0.3"
    page.focus(".bioface-scrub .bioface-frame")
    page.press("ArrowDown")  # to the middle, row 32 and column 32
    page.press("ArrowRight", 2)
    assert page.text(".bioface-scrub figure:nth-child(1) output") == f"{0.4 * 34 / 63:.3f} volume fraction"
    assert page.text(".bioface-scrub [role=status]").startswith("row 32, column 34: melanin 0.216")
    marked = page.picture(rgb)
    column = int(34.5 / 64 * marked.shape[1])
    assert np.abs(marked[:, column].astype(int) - after[:, column]).max() > 50, "no crosshair on the other map"
    page.move(rgb, 48.5 / 64, 16.5 / 64)
    assert page.text(".bioface-scrub figure:nth-child(2) output") == "R 0.762 G 0.762 B 0"
    page.move(rgb, 1.5 / 64, 1.5 / 64)  # outside the mask, which the photo does not know
    assert page.text(".bioface-scrub figure:nth-child(1) output") == "no value here"
    page.focus(".bioface-scrub .bioface-frame")
    page.press("Escape")
    assert page.text(".bioface-scrub figure:nth-child(1) output") == ""
    assert page.complaints == []


def test_only_samples_of_a_score(page):
    page.focus(".bioface-scrub input[aria-label='least mismatch score']")
    page.press("ArrowRight")
    assert page.text(".bioface-count") == "0.2 to 0.3: 2 of 3"
    page.run("document.querySelector('.bioface-scrub input[type=checkbox]').click()")
    page.focus(f".bioface-scrub {SLIDER}")
    page.press("Home")
    captions = [page.text(".bioface-caption"), page.press("ArrowRight", 2), page.text(".bioface-caption")]
    assert captions == ["1 of 2 · second · mismatch score 0.3", None, "2 of 2 · third · mismatch score 0.2"]
    page.focus(".bioface-scrub input[aria-label='highest mismatch score']")
    page.press("Home")
    assert page.text(".bioface-caption") == "No sample has a mismatch score within these limits."
    assert page.complaints == []


def test_one_sample_and_none(page):
    single = page.run("[...document.querySelectorAll('.bioface-scrub')].at(-1).textContent")
    assert "1 of 1 · sample 0" in single and "mismatch" not in single
    assert page.text(".bioface-nothing") == "No sample to show."


def test_trainings_are_compared(page):
    curves = "document.querySelectorAll('.bioface-compare polyline').length"
    page.focus(f".bioface-compare {SLIDER}")
    page.press("Home")
    values = "[...document.querySelectorAll('.bioface-compare output')].map((o) => o.textContent)"
    assert page.run(values) == [f"{len(LOSSES)} ({len(LOSSES)} to {len(LOSSES)})", f"{len(LOSSES)}"]
    before = page.picture(".bioface-compare svg")
    assert page.run(curves) == 3
    page.run("[...document.querySelectorAll('.bioface-compare fieldset input')].at(-1).click()")
    assert page.run(curves) == 2
    orange = np.array([213, 94, 0])  # the colour of the second run
    drawn = [
        (np.abs(p.astype(int) - orange).max(-1) < 40).sum() for p in (before, page.picture(".bioface-compare svg"))
    ]
    assert drawn[0] > 200 and drawn[1] == 0
    page.move(".bioface-compare svg", 0.5, 0.5)
    assert page.run("document.querySelector('.bioface-compare input[type=range]').value") in ("46", "47", "48", "49")
    assert page.complaints == []


EDITED = ".bioface-edit figure:nth-child(2) canvas"


def test_a_photo_is_edited_and_put_back(page):
    pictures = "Number(document.querySelector('.bioface-edit').dataset.pictures ?? 0)"
    before = page.picture(EDITED)
    page.focus(f".bioface-edit {SLIDER}")
    page.press("ArrowRight", 12)
    page.wait(f"{pictures} > 0", "an edited picture")
    page.wait("document.querySelector('.bioface-edit .bioface-sliders').textContent.includes('+0.6')", "twelve steps")
    until(lambda: at(page.picture(EDITED), 0.5, 0.5).sum() < 0.85 * at(before, 0.5, 0.5).sum(), "darker skin")
    assert np.allclose(at(page.picture(EDITED), 0.03, 0.03), at(before, 0.03, 0.03), atol=2), "outside the mask"
    page.run("document.querySelector('.bioface-edit button').click()")
    until(lambda: np.abs(page.picture(EDITED).astype(int) - before).max() <= 3, "the photo as it was")
    assert page.complaints == []


@pytest.mark.alone
def test_ten_pictures_a_second(page):
    """Slider to slider: what is drawn at 64 × 64 while one drags."""
    drawn = page.run(
        """(async () => {
          const root = document.querySelector('.bioface-edit'), input = root.querySelector('input[type=range]');
          for (let k = 0, end = performance.now() + 3000; performance.now() < end; k++) {
            input.value = (k % 80) / 40 - 1;
            input.dispatchEvent(new Event('input'));
            await new Promise((done) => setTimeout(done, 5));
          }
          return Number(root.dataset.pictures);
        })()"""
    )
    print(f"{drawn / 3:.0f} pictures a second")
    assert drawn / 3 >= 10


@pytest.fixture(scope="module")
def orphaned(page, folder):
    """The page once its kernel was killed: for the last tests, as it stays so."""
    os.kill(int((folder / "notebooks" / "pid").read_text()), signal.SIGKILL)
    page.wait("document.querySelector('.jp-Dialog') !== null", "JupyterLab to notice")
    page.run("document.querySelector('.jp-Dialog .jp-mod-accept').click()")
    return page


def test_without_a_kernel_samples_can_be_seen_and_the_editor_says_so(orphaned):
    page = orphaned
    page.focus(f".bioface-edit {SLIDER}")
    page.press("ArrowRight")
    page.wait("document.querySelector('.bioface-edit .bioface-warning') !== null", "a word about the kernel")
    assert page.text(".bioface-edit [role=status]").startswith("The kernel does not answer")
    page.focus(".bioface-scrub input[aria-label='highest mismatch score']")
    page.press("End")
    page.focus(f".bioface-scrub {SLIDER}")
    page.press("Home")
    pictures = [page.picture(".bioface-scrub canvas"), page.press("ArrowRight"), page.picture(".bioface-scrub canvas")]
    assert np.abs(pictures[0].astype(int) - pictures[2]).max() > 50
    assert not [complaint for complaint in page.complaints if "anywidget" in complaint or "blob:" in complaint]


CURVES = "document.querySelectorAll('.bioface-compare polyline').length"
TOGGLE = "document.querySelector('.bioface-compare fieldset input').click()"  # the first run, of two seeds
VALUES = "[...document.querySelectorAll('.bioface-compare output')].map((o) => o.textContent)"


def use_compare(page):
    """Switch a run off and on, choose another curve, go to the first step."""
    before = page.run(CURVES)
    page.run(TOGGLE)
    assert page.run(CURVES) == before - 2
    page.run(TOGGLE)
    assert page.run(CURVES) == before
    page.run(
        "(() => { const choice = document.querySelector('.bioface-compare select');"
        "choice.selectedIndex = [...choice.options].findIndex((o) => o.textContent === 'gradient norm');"
        "choice.dispatchEvent(new Event('input')) })()"
    )
    page.focus(f".bioface-compare {SLIDER}")
    page.press("End")
    assert page.run(VALUES) == ["100 (100 to 100)", "100"]
    page.press("ArrowLeft", 3)
    assert page.run(VALUES) == ["97 (97 to 97)", "97"]
    assert not [complaint for complaint in page.complaints if "anywidget" in complaint or "blob:" in complaint]


def test_without_a_kernel_trainings_are_still_compared(orphaned):
    use_compare(orphaned)


PLAIN = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>no Jupyter</title><body><script type="module">
const bytes = Uint8Array.from(atob("DATA"), (letter) => letter.charCodeAt(0));
const traits = {spec: SPEC, data: new DataView(bytes.buffer)};
const code = await import(URL.createObjectURL(new Blob([CODE], {type: "text/javascript"})));
code.default.render({model: {get: (name) => traits[name], on() {}}, el: document.body});
</script>"""


def test_in_a_page_without_jupyter_trainings_are_compared(tmp_path):
    """What the browser was sent is all it takes: no kernel was ever there, and nothing is asked of any network."""
    k = np.arange(100.0)
    slow, fast = (
        History({name: np.exp(-rate * k) for name in LOSSES}, k + 1, np.full(100, np.nan), 0 * k + 1e-3)
        for rate in (0.01, 0.1)
    )
    widget = widgets.compare({"slow": [slow, fast], "fast": fast})
    file = tmp_path / "plain.html"
    parts = {"DATA": base64.b64encode(widget.data).decode(), "SPEC": json.dumps(widget.spec)}
    parts["CODE"] = json.dumps(str(widget._esm)).replace("</", "<\\/")
    file.write_text(re.sub("DATA|SPEC|CODE", lambda found: parts[found[0]], PLAIN), encoding="utf-8")
    page = Page(tmp_path)
    try:
        page.ask("Network.enable")
        page.ask("Page.navigate", url=file.as_uri())
        page.wait("document.querySelector('.bioface-compare') !== null", "the curves")
        assert page.run(CURVES) == 3
        use_compare(page)
        assert page.complaints == []
        assert {address.partition(":")[0] for address in page.requests} <= {"file", "blob", "about"}
    finally:
        page.close()
