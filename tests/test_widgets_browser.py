"""The widgets for real: JupyterLab on loopback, a notebook run in headless Chromium, keys pressed, pixels looked at."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pytest
import websocket
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from bioface.training import LOSSES

WAIT = 120  # seconds at most for anything, on a machine that is busy with other work
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

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
face = decomposition.Decomposition.of_maps(
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


class Page:
    """One page of a headless Chromium, over its own debugging protocol."""

    def __init__(self, folder):
        (folder / "profile").mkdir()
        # no sandbox, because root has none; no talk to anybody but the page that is asked for
        options = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        options += " disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars window-size=1200,1000"
        options = [f"--{option}" for option in options.split()]
        options += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder / 'profile'}"]
        self.socket = None
        self.process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = folder / "profile" / "DevToolsActivePort"
            until(lambda: port.exists() and port.read_text().count("\n"), "Chromium's port")
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", timeout=10
            ) as said:
                target = next(t for t in json.load(said) if t["type"] == "page")
            self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=WAIT)
        except BaseException:
            self.close()
            raise
        self.count, self.complaints = 0, []
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("id") == self.count:
                assert "error" not in said, said
                return said["result"]
            about = said.get("params", {})
            is_error = about.get("type") == "error" or about.get("entry", {}).get("level") == "error"
            if said["method"] == "Runtime.exceptionThrown" or is_error:
                self.complaints.append(json.dumps(about))

    def run(self, script):
        """The value of a JavaScript expression, once its promise is kept."""
        said = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, condition, what, seconds=WAIT):
        until(lambda: self.run(condition), what, seconds)

    def press(self, key, times=1):
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Escape": 27}
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def focus(self, selector):
        """Focus, again until it stays: a notebook that scrolls takes cells out of the page and back."""
        element = f"document.querySelector({selector!r})"
        in_view = f"{element}.scrollIntoView({{block: 'center'}}), new Promise((done) => setTimeout(done, 200))"
        self.wait(
            f"{in_view}.then(() => ({element}.focus(), new Promise((done) => setTimeout(done, 100))))"
            f".then(() => document.activeElement === {element})",
            f"focus on {selector}",
        )

    def text(self, selector):
        return self.run(f"document.querySelector({selector!r})?.textContent").replace("\xa0", " ")

    def move(self, selector, x, y):
        """The pointer to a place within an element, in shares of its width and height."""
        self.picture(selector)  # scrolls there
        box = self.box(selector)
        place = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", **place)

    def box(self, selector):
        return self.run(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            "return {x: b.x, y: b.y, width: b.width, height: b.height} })()"
        )

    def picture(self, selector):
        """What the screen shows of an element: (H, W, 3) uint8."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        time.sleep(0.2)
        box = self.box(selector) | {"scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", clip=box)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.process.terminate()
        self.process.wait(20)


def until(condition, what, seconds=WAIT):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


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


def test_without_a_kernel_samples_can_be_seen_and_the_editor_says_so(page, folder):
    os.kill(int((folder / "notebooks" / "pid").read_text()), signal.SIGKILL)
    page.wait("document.querySelector('.jp-Dialog') !== null", "JupyterLab to notice")
    page.run("document.querySelector('.jp-Dialog .jp-mod-accept').click()")
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
