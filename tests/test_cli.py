"""The command line: results in files, mistakes in one line with exit code 2."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.io

from bioface import __main__ as cli
from bioface import skin
from bioface.datasets import registry

WAVE = np.arange(420.0, 721, 10)


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


def test_fit_writes_maps_and_a_picture(cube_file, tmp_path, capsys):
    path, melanin, mask = cube_file
    out = tmp_path / "results"
    assert cli.main(["fit", str(path), "--out", str(out)]) == 0
    with np.load(out / "face_fit.npz") as maps:
        np.testing.assert_allclose(maps["melanin"][mask], melanin[mask], atol=1e-3)
        assert np.isnan(maps["melanin"][~mask]).all()
        assert {"haemoglobin", "diffuse_shading", "specular_shading", "residual", "status"} <= set(maps)
        np.testing.assert_array_equal(maps["wavelengths"], WAVE)
    assert (out / "face_fit.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["face_fit.npz", "face_fit.png"]
    said = capsys.readouterr().out
    assert "7 pixels" in said and "face_fit.npz" in said


def test_fit_goes_to_the_build_folder_by_default(cube_file, tmp_path):
    assert cli.main(["fit", str(cube_file[0])]) == 0
    assert (tmp_path / "build" / "fit" / "face_fit.npz").is_file()


def one_line_error(arguments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert "Traceback" not in said.err
    return said.err


def test_a_missing_cube(tmp_path, capsys):
    assert "nobody.mat: expected an ISET cube" in one_line_error(["fit", str(tmp_path / "nobody.mat")], capsys)


def test_a_cube_that_is_none(tmp_path, capsys):
    (tmp_path / "face.mat").write_text("hello\nworld")
    assert "face.mat: expected a MATLAB .mat file" in one_line_error(["fit", str(tmp_path / "face.mat")], capsys)


def test_out_is_a_file(cube_file, capsys):
    path = str(cube_file[0])
    assert "expected a folder" in one_line_error(["fit", path, "--out", path], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "wroking"], "unknown recipe 'wroking'; did you mean 'working'"),
        (["--recipe", "working"], "expected zx_7_d10_inmc_celebA_NN.hdf5 with NN = 01 or 02 or 03 or 04"),
        (["--recipe", "working", "--split", "trian"], "unknown split 'trian'; did you mean 'train'"),
        (["--recipe", "working", "--limit", "0"], "expected a limit of at least 1, found 0"),
        (["--recipe", "working", "--width", "0"], "expected a width of at least 1 filter, found 0"),
    ],
)
def test_training_that_cannot_be(arguments, message, folders, capsys):
    assert message in one_line_error(["train", "--data", "nfe", *arguments], capsys)


def test_training_into_a_file(folders, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ["train", "--data", "nfe", "--recipe", "working", "--out", str(tmp_path / "file")]
    assert "expected a folder" in one_line_error(arguments, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fitt"],
        ["fit"],
        ["data", "extra"],
        ["fit", "a.mat", "--outt", "b"],
        ["train"],
        ["train", "--recipe", "working", "--data", "iset"],
        ["train", "--recipe", "working", "--steps", "many"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m bioface" in capsys.readouterr().err


def test_data_reports_every_data_set(monkeypatch, capsys):
    statuses = [registry.Status("a", "present", "here"), registry.Status("b", "absent", "get it there")]
    monkeypatch.setattr(registry, "fetch_all", lambda progress: iter(statuses))
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out == "a: present: here\nb: absent: get it there\n"
    monkeypatch.setattr(
        registry, "fetch_all", lambda progress: iter([*statuses, registry.Status("c", "failed", "no network")])
    )
    assert cli.main(["data"]) == 2
    said = capsys.readouterr()
    assert said.err == "c: failed: no network\n" and said.out.count("\n") == 2


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "bioface", "fit", str(tmp_path / "nobody.mat")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
