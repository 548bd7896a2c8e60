"""Headless Chromium, driven over its own debugging protocol, for the tests that look at pages."""

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import websocket
from PIL import Image

WAIT = 120  # seconds at most for anything, on a machine that is busy with other work
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
        self.count, self.complaints, self.requests, self.failures = 0, [], [], []
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
            if said["method"] == "Network.requestWillBeSent":  # once Network.enable was asked
                self.requests.append(about["request"]["url"])
            if said["method"] == "Network.loadingFailed":
                self.failures.append(json.dumps(about))
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
        codes["Tab"] = 9
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
