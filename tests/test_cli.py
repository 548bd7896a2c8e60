"""The command line: results in files, mistakes in one line with exit code 2."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

from bioface import __main__ as cli
from bioface import decomposition, image_formation, maps, pictures, skin, training
from bioface.datasets import registry

WAVE = np.arange(420.0, 721, 10)
TRAIN = ["train", "--recipe", "working", "--data", "nfe"]


@pytest.fixture
def cube_file(folders):
    """Eight pixels of known skin, the last one outside the mask."""
    melanin = np.linspace(0.03, 0.3, 8).reshape(2, 4)
    radiance = 0.9 * skin.reflectance(melanin, np.full((2, 4), 0.04), wavelengths=WAVE) + 0.02
    mask = np.ones((2, 4))
    mask[1, 3] = 0
    path = folders / "face.mat"
    scipy.io.savemat(path, {"photons": radiance, "wave": WAVE, "illuminant": np.ones(31), "mask": mask})
    return path, melanin, mask == 1


@pytest.mark.slow
def test_fit_writes_maps_and_a_picture(cube_file, tmp_path, capsys):
    path, melanin, mask = cube_file
    out = tmp_path / "results"
    assert cli.main(["fit", str(path), "--out", str(out)]) == 0
    with np.load(out / "face_fit.npz") as found:
        np.testing.assert_allclose(found["melanin"][mask], melanin[mask], atol=1e-3)
        assert np.isnan(found["melanin"][~mask]).all()
        assert {"haemoglobin", "diffuse_shading", "specular_shading", "residual", "status"} <= set(found)
        np.testing.assert_array_equal(found["wavelengths"], WAVE)
    assert (out / "face_fit.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["face_fit.npz", "face_fit.png"]
    said = capsys.readouterr().out
    assert "7 pixels" in said and "face_fit.npz" in said
    assert cli.main(["fit", str(path)]) == 0
    assert (tmp_path / "build/fit/face_fit.npz").is_file()


def test_fit_of_what_is_no_skin_says_so(cube_file, tmp_path, capsys):
    green = (0.1 + 0.5 * np.exp(-(((WAVE - 550) / 40) ** 2))) * np.ones((2, 4, 1))
    scipy.io.savemat(cube_file[0], {"photons": green, "wave": WAVE, "illuminant": np.ones(31)})
    assert cli.main(["fit", str(cube_file[0]), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("warning: no skin fits") and said.err.count("\n") == 1
    assert "times the true fraction" in said.out


def one_line_error(arguments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected axes that 33 wavelengths tell apart, or stated"),
        (["--axes", "bcr", "--wavelengths", "750:10:1070"], "within 400–720 nm, found 0 of 33 bands"),
        (["--axes", "rcb", "--wavelengths", "400-720"], "expected wavelengths like 400:10:720, found '400-720'"),
    ],
)
def test_fit_asks_for_axes_and_takes_what_is_stated(options, said, folders, capsys):
    reflectance = np.full((33, 33, 33), 0.8) * skin.reflectance(np.array(0.1), np.array(0.04))
    path = folders / "face.mat"
    scipy.io.savemat(path, {"cube": reflectance.transpose(2, 0, 1), "wavelengths": np.arange(400, 721, 10) / 1e3})
    assert said in one_line_error(["fit", str(path), *options], capsys)
    assert cli.main(["fit", str(path), "--axes", "brc", "--wavelengths", "400:10:720"]) == 0
    said = capsys.readouterr().out
    assert "face: no illuminant in it, so cube is taken for reflectance" in said and "face: axes: bands, rows" in said


def test_a_cube_without_any_skin_is_an_error(folders, capsys):
    path = folders / "face.mat"
    scipy.io.savemat(path, {"reflectance": np.ones((4, 3, 33)), "wave": np.arange(400, 721, 10)})
    assert "expected the spectra of skin" in one_line_error(["fit", str(path)], capsys)


# --- decompose


@pytest.fixture
def decompose(folders):
    """``decompose(*options)`` runs the command on the photo me.png with its mask, and gives its exit code."""
    photo, weights, mask = (folders / name for name in ("me.png", "w.safetensors", "mask.png"))
    Image.fromarray(np.full((80, 60, 3), (180, 120, 100), np.uint8)).save(photo)
    inside = np.zeros((80, 60), np.uint8)
    inside[30:60, 20:45] = 255
    Image.fromarray(inside).save(mask)
    training.build("working", 2).save(weights)
    command = ["decompose", str(photo), "--mask", str(mask), "--weights", str(weights)]
    return lambda *options: cli.main([*command, *options])


def test_decompose_writes_maps_and_pictures(decompose, folders, tmp_path, capsys):
    out = tmp_path / "results"
    assert decompose("--out", str(out)) == 0
    said = capsys.readouterr()
    assert said.err == "" and "maps of 80 × 60" in said.out and str(out / "me_maps.npz") in said.out
    assert "melanin 0.43" in said.out  # what white is
    assert "me.png: colours are sRGB, assumed: it states none" in said.out
    shown = ["albedo", "diffuse", "haemoglobin", "melanin", "overview", "reconstruction", "specular"]
    assert {p.name for p in out.iterdir()} == {"me_maps.npz", *(f"me_{name}.png" for name in shown)}
    found = maps.Decomposition.load(out / "me_maps.npz")
    same = decomposition.decompose(*(folders / name for name in ("me.png", "mask.png", "w.safetensors")))
    np.testing.assert_array_equal(found.melanin, same.melanin)
    colour = image_formation.srgb_encode(found.reconstruction)
    for name, expected in (("diffuse", found.diffuse_shading / 1.5), ("reconstruction", colour)):
        shown = np.asarray(Image.open(out / f"me_{name}.png"))
        assert shown.shape == expected.shape and shown.dtype == np.uint8
        np.testing.assert_allclose(shown, np.nan_to_num(expected).clip(0, 1) * 255, atol=0.51)
    assert (shown[0] == 0).all() and (shown[45, 30] > 0).all()  # nothing is known outside the crop


def test_decompose_without_a_mask_says_so_in_one_line(decompose, folders, tmp_path, capsys):
    assert cli.main(["decompose", str(folders / "me.png"), "--weights", str(folders / "w.safetensors")]) == 0
    said = capsys.readouterr().err
    assert said.startswith("no mask given and no face found for certain: the whole picture is taken as face")
    assert "give --mask or a crop" in said and said.count("\n") == 1
    assert (tmp_path / "build/decompose/me_maps.npz").is_file()


def test_decompose_says_when_it_shrinks_and_how_far_it_is(decompose, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 40 * 30)
    assert decompose() == 0
    said = capsys.readouterr()
    assert said.err == "me.png has 0 million pixels: shrunk to 40 × 30\n" and "maps of 40 × 30" in said.out
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert decompose() == 0
    assert capsys.readouterr().err.startswith("me.png: read, taken apart, then written to")


@pytest.mark.slow
def test_any_output_and_any_matplotlibrc(decompose, folders, tmp_path):
    """Neither an output of ASCII nor what a user likes in plots changes the files."""
    assert decompose("--out", str(tmp_path / "one")) == 0
    (tmp_path / "matplotlibrc").write_text("image.origin: lower\ntext.usetex: True\nsavefig.dpi: 30\n")
    photo, weights, mask = (str(folders / name) for name in ("me.png", "w.safetensors", "mask.png"))
    command = [sys.executable, "-m", "bioface", "decompose", photo, "--mask", mask, "--weights", weights]
    env = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run([*command, "--out", str(tmp_path / "two")], capture_output=True, timeout=120, env=env)
    assert done.returncode == 0 and b"maps of 80 ? 60" in done.stdout and done.stderr == b""
    pictures = [np.asarray(Image.open(tmp_path / out / "me_overview.png")) for out in ("one", "two")]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(photo="tiny.png", mask=""), "tiny.png: expected a photo of at least 16 pixels a side, found 10 × 10"),
        (dict(photo="nobody.png"), "nobody.png: expected a picture, found no such file"),
        (dict(mask="nobody.png"), "nobody.png: expected a picture, found no such file"),
        (dict(weights="nobody.safetensors"), "nobody.safetensors: expected BioFaceNet weights"),
        (dict(weights="me.png"), "me.png: expected BioFaceNet weights"),
        (dict(out="me.png"), "expected a folder"),
    ],
)
def test_what_cannot_be_decomposed_leaves_nothing(change, message, decompose, folders, tmp_path, capsys):
    Image.new("RGB", (10, 10)).save(folders / "tiny.png")
    names = dict(photo="me.png", mask="mask.png", weights="w.safetensors", out="../results") | change
    where = {name: str(folders / file) for name, file in names.items()}
    options = [word for name in ("mask", "weights", "out") if names[name] for word in (f"--{name}", where[name])]
    assert message in one_line_error(["decompose", where["photo"], *options], capsys)
    assert not list((tmp_path / "results").glob("*")) and not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "text.mat"], "text.mat: expected a MATLAB .mat file"),
        (["fit", "face.mat", "--out", "face.mat"], "expected a folder"),
        (["train", "--recipe", "wroking"], "unknown recipe 'wroking'; did you mean 'working'"),
        ([*TRAIN], "expected zx_7_d10_inmc_celebA_NN.hdf5 with NN = 01 or 02 or 03 or 04"),
        ([*TRAIN, "--split", "trian"], "unknown split 'trian'; did you mean 'train'"),
        ([*TRAIN, "--limit", "0"], "expected a limit of at least 1, found 0"),
        ([*TRAIN, "--width", "0"], "expected a width of at least 1 filter, found 0"),
        ([*TRAIN, "--out", __file__], "expected a folder"),
    ],
)
def test_what_cannot_be_fitted_or_trained(arguments, message, cube_file, monkeypatch, capsys):
    monkeypatch.chdir(cube_file[0].parent)
    cube_file[0].with_name("text.mat").write_text("hello\nworld")
    assert message in one_line_error(arguments, capsys)


USAGE = "|fitt|fit|data extra|bench|decompose|decompose a.png --masc b.png|fit a.mat --outt b|train"
USAGE += "|train --recipe working --data iset|train --recipe working --steps many"


@pytest.mark.parametrize("line", USAGE.split("|"))
def test_wrong_usage_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert "usage: python -m bioface" in capsys.readouterr().err


def test_data_reports_every_data_set(monkeypatch, capsys):
    statuses = [registry.Status("a", "present", "here"), registry.Status("b", "absent", "get it there")]
    monkeypatch.setattr(registry, "fetch_all", lambda progress: iter(statuses))
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out == "a: present: here\nb: absent: get it there\n"
    statuses.append(registry.Status("c", "failed", "no network"))
    assert cli.main(["data"]) == 2
    said = capsys.readouterr()
    assert said.err == "c: failed: no network\n" and said.out.count("\n") == 2
