"""Downloads against a server of our own on this machine, and the registry against its README."""

import dataclasses
import hashlib
import http.server
import re
import shutil
import socket
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import refuses

from bioface import camera, datasets, paths
from bioface.datasets import nfe, registry
from bioface.errors import DataError
from study import cache

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """/whole gives CONTENT; /short breaks off half-way; /gone does not exist; /other gives something else."""

    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        self.path = self.path.partition("?")[0]
        if self.path == "/gone":
            return self.send_error(404)
        content = b"<html>please log in</html>" if self.path == "/other" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path == "/short" else content)
        return None

    def log_message(self, *arguments):
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy between us and our own server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Server.requests.clear()


def entry(url, content=CONTENT, **changes):
    base = dataclasses.replace(
        registry.ENTRIES["cheeks"],
        name="test",
        files=("some/where/file.bin",),
        url=url,
        sources=(("", hashlib.sha256(content).hexdigest()),),
    )
    return dataclasses.replace(base, **changes)


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_download_arrives_whole_and_once(address, folders):
    one = entry(f"{address}/whole")
    path = folders / "some/where/file.bin"
    assert registry.fetch(one) == [path]
    assert path.read_bytes() == CONTENT
    assert registry.fetch(one) == [path]
    assert Server.requests == ["/whole"]
    assert everything(folders) == ["some/where/file.bin"]


def fails(one, folders, match):
    with pytest.raises(DataError, match=match) as raised:
        registry.fetch(one)
    assert str(raised.value).startswith(str(folders / "some/where/file.bin") + ": expected ")
    assert everything(folders) == []  # neither the file nor a part of it


def test_a_failed_download_leaves_nothing_and_can_be_tried_again(address, folders):
    fails(entry(f"{address}/short"), folders, f"whole download from {address}/short, found a connection that")
    one, found = entry(f"{address}/other"), hashlib.sha256(b"<html>please log in</html>").hexdigest()
    fails(
        one, folders, f"expected SHA-256 {one.sources[0][1]} from {address}/other, found {found}; what came was removed"
    )
    (path,) = registry.fetch(entry(f"{address}/whole"))
    assert path.read_bytes() == CONTENT
    refuses(r"1\.bin: expected SHA-256 .* from .*/other, found", registry.fetch, several(address, "whole", "other"))
    assert everything(folders) == ["some/0.bin", "some/where/file.bin"]  # the good ones stay


def several(address, *ends):
    """A download of some files, all with CONTENT expected."""
    files = tuple(f"some/{k}.bin" for k in range(len(ends)))
    digest = hashlib.sha256(CONTENT).hexdigest()
    return entry(f"{address}/", files=files, sources=tuple((end, digest) for end in ends))


def test_of_several_files_those_that_are_missing_are_fetched_and_all_are_checked(address, folders):
    paths_there = [folders / f"some/{k}.bin" for k in range(3)]
    one = several(address, "whole", "whole?2", "whole?3")
    paths_there[1].parent.mkdir()
    paths_there[1].write_bytes(CONTENT)
    assert registry.status(one).state == "absent" and not registry.is_placed(one)
    assert Server.requests == []  # neither asks for anything
    assert registry.fetch(one) == paths_there
    assert Server.requests == ["/whole", "/whole?3"]
    assert "3 files in" in registry.status(one).detail
    paths_there[2].write_bytes(b"damaged")
    refuses(rf"2\.bin: expected SHA-256 {one.sources[2][1]}, found .* remove the file", registry.fetch, one)
    assert registry.status(one).state == "failed"
    assert paths_there[2].read_bytes() == b"damaged"  # left alone
    assert Server.requests == ["/whole", "/whole?3"]


def test_nobody_answers(address, folders):
    fails(entry(f"{address}/gone"), folders, "found the answer 404")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    no = r"found none \(ConnectionError\)\. Without a network: `make data` downloads"
    for host in (f"127.0.0.1:{port}", "nowhere.invalid"):
        fails(entry(f"http://{host}/whole"), folders, f"expected a connection to http://{host}/whole, {no}")


def test_what_cannot_be_fetched(folders):
    refuses("nothing there. Open the Google Drive folder .* Source: https://drive", registry.fetch, "nfe")
    refuses("unknown data set 'cheek'; did you mean 'cheeks'", registry.fetch, "cheek")


def test_fetch_all_goes_on_after_a_failure(address, monkeypatch, folders):
    entries = {name: registry.ENTRIES[name] for name in ("nfe", "astronaut")}
    good, bad = entry(f"{address}/whole", name="good"), entry(f"{address}/short", name="bad", files=("bad.bin",))
    monkeypatch.setattr(registry, "ENTRIES", {"good": good, "bad": bad} | entries)
    states = {s.name: s.state for s in registry.fetch_all()}
    assert states == {"good": "downloaded", "bad": "failed", "nfe": "absent", "astronaut": "present"}
    states = {s.name: s.state for s in registry.fetch_all()}
    assert states["good"] == "present"
    assert everything(folders) == ["some/where/file.bin"]


def test_placed_files_are_checked(folders):
    assert registry.status("nfe").state == "absent"
    (folders / "nfe").mkdir()
    images, lights = (folders / name for name in registry.ENTRIES["nfe"].files[:2])
    for path, shape in ((images, (2, 10, 64, 64)), (lights, (2, 3, 9))):
        with h5py.File(path, "w") as file:
            file["zx_7"] = np.zeros(shape)
    assert registry.status("nfe").state == "present"
    assert registry.is_placed("nfe") and not registry.is_placed("iset")
    images.write_bytes(images.read_bytes()[:5000])
    failed = registry.status("nfe")
    assert failed.state == "failed" and "truncated" in failed.detail

    (folders / "iset").mkdir()
    scipy.io.savemat(folders / "iset" / "face.mat", {"photons": np.ones((2, 2, 3))})
    assert "wavelengths" in registry.status("iset").detail


def test_installed_data_sets_are_those_of_the_study():
    assert registry.status("issa").state == registry.status("astronaut").state == "present"
    absent = dataclasses.replace(registry.ENTRIES["issa"], files=("no_such_package:a.xlsx",))
    assert "the installed package no_such_package" in registry.status(absent).detail
    assert registry.status(dataclasses.replace(absent, files=("skimage:none.png",))).state == "absent"


@pytest.mark.parametrize("name", ["cheeks", "cameras", "bioskin"])
def test_the_real_files_have_the_checksums(real_file, folders, name):
    one = registry.ENTRIES[name]
    targets = [folders / file for file in one.files]
    targets[0].parent.mkdir(parents=True)
    for file, target in zip(one.files, targets, strict=True):
        shutil.copy(real_file(file), target)
    assert registry.fetch(name) == targets
    assert registry.status(name).state == "present"
    if name == "cameras":
        names, sensitivities = camera.read_database(targets[0])
        assert len(names) == 28 and tuple(sensitivities.shape) == (28, 3, 33)


def test_the_loaders_look_where_the_registry_puts_files(folders):
    (folders / "nfe").mkdir()
    for name in registry.ENTRIES["nfe"].files:
        (folders / name).touch()
    images = nfe.find()
    assert set(images) == {n for split in nfe.SPLITS.values() for n in split}
    lights = [file.with_name(file.name.replace("d10_inmc", "d3_lrgb")) for file in images.values()]
    assert all(file.is_file() for file in lights)


def test_dotfiles_are_no_data(folders):
    """As macOS leaves them beside every file that it copies to another disk."""
    for name in ("iset/._face.mat", "iset/.DS_Store", "nfe/._zx_7_d10_inmc_celebA_20.hdf5", "skin/._cheeks.mat"):
        (folders / name).parent.mkdir(exist_ok=True)
        (folders / name).write_bytes(b"Mac OS X")
    assert not registry.is_placed("iset") and not registry.is_placed("nfe")
    assert cache.data_files(folders) == []
    cube = {"reflectance": np.full((2, 2, 33), 0.4), "wave": np.arange(400, 721, 10)}
    scipy.io.savemat(folders / "iset" / "face.mat", cube)
    assert [cube.name for cube in datasets.load("iset")] == ["face"]
    assert registry.status("iset").state == "present"


def test_the_readme_says_what_the_registry_says_and_whom_to_cite():
    readme = (paths.root() / "data" / "README.md").read_text(encoding="utf-8")
    for name, one in registry.ENTRIES.items():
        assert name == one.name and f"| `{name}` | {one.title} |" in readme
        section = re.split("\n##+ ", readme.partition(f"\n### `{name}`: {one.title}\n")[2])[0]
        source = f"<{one.home}>; file: <{one.url}>" if one.url else f"<{one.home}>"
        digests = [digest for _, digest in one.sources]
        names = [f"`{Path(file).name}` " if len(digests) > 1 else "" for file in one.files]
        digest = ", ".join(f"{n}`{d}`" for n, d in zip(names, digests, strict=False)) or "none published"
        said = {"How to get it": one.instructions, "Source": source, "SHA-256": digest}
        said["Files"] = ", ".join(f"`{file}`" for file in one.files)
        assert not [line for line in (f"- **{k}:** {v}\n" for k, v in said.items()) if line not in section]
        assert all(f"\n- **{key}:** " in section for key in ("Layout", "Licence", "Cite"))
        assert one.kind == "manual" or len(digests) == len(one.files)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
        assert digests or "checksum" in section.partition("**Unverified:**")[2]
        assert (one.kind == "download") == bool(one.url)
