"""The statistical camera, white balance, raw to XYZ."""

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import camera, illumination, image_formation, paths
from bioface.camera import CameraModel


def test_shipped_table_rederives_from_the_raw_data_base(real_file):
    raw = CameraModel.from_database(real_file("cameras/jiang2013_camspec_database.txt"))
    shipped = CameraModel.load()
    for name in ("mean", "components", "deviations"):
        assert torch.allclose(getattr(raw, name), getattr(shipped, name), atol=1e-9), name
    assert raw.explained_variance == pytest.approx(shipped.explained_variance, abs=1e-9)


def test_components_are_orthonormal_and_explain_less_than_the_papers_97_percent_once_centred():
    model = CameraModel.load()
    V = model.components.reshape(2, -1)
    assert torch.allclose(V @ V.T, torch.eye(2, dtype=torch.float64), atol=1e-9)
    assert torch.equal(model.sensitivity(), model.sensitivity(torch.zeros(2).double()))  # the mean camera is b = 0
    assert 0.5 < model.explained_variance < 0.65
    assert model.explained_uncentred == pytest.approx(0.98, abs=0.005)


def test_white_of_the_paper_is_pink_and_of_the_code_neutral_at_0342():
    S, e = CameraModel.load().sensitivity(), illumination.standard("F2")
    paper = camera.reflectance_to_rgb(e, S, "paper").sum(-1)
    assert torch.allclose(paper, torch.tensor([1.205, 0.948, 0.909]).double(), atol=5e-4)
    code = camera.reflectance_to_rgb(e, S, "code").sum(-1)
    assert torch.allclose(code, torch.full((3,), 0.342).double(), atol=1e-3)
    refuses("did you mean 'd65'", camera.raw_to_xyz, S, "D65")


def test_colour_pipeline_matches_the_authors_matlab_to_1e6(real_file):
    reference = torch.from_numpy(np.loadtxt(paths.TABLES / "reference_linear_rgb.csv", delimiter=","))
    _, cameras = camera.read_database(real_file("cameras/jiang2013_camspec_database.txt"))
    S = cameras[0] / cameras[0].sum(-1, keepdim=True)
    m, h = reference[:, :2].T.reshape(2, 1, -1)
    one, zero = torch.ones_like(m), torch.zeros_like(m)
    light = illumination.standard("A")
    ours = image_formation.render(m, h, one, zero, light, S, "published", "code", method="exact")
    assert (ours[0] - reference[:, 2:]).abs().max() < 1e-6


def test_white_balance_divides_each_image_by_its_own_white():
    model = CameraModel.load()
    S = model.sensitivity(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    e = illumination.mix(torch.softmax(torch.arange(56.0).reshape(4, 14), -1), torch.full((4,), 6000.0))
    raw = torch.einsum("bcd,bd->bc", S, e)[:, None, None, :].expand(4, 2, 3, 3)
    assert torch.allclose(camera.white_balance(raw, S, e), torch.ones(4, 2, 3, 3))
    refuses("every camera channel", camera.white_balance, raw, S, 0 * e)


def test_gradients_reach_camera_and_light():
    b = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    e = illumination.standard("D65").requires_grad_()
    model = CameraModel.load()
    assert torch.autograd.gradcheck(lambda b, e: camera.reflectance_to_rgb(e, model.sensitivity(b)), (b, e))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "FileNotFoundError"),
        ("Canon\n1 2 3\n", "blocks of a camera's name"),
        ("Canon\n" + 3 * (" ".join(["1"] * 32) + "\n"), "33 sensitivities, .* found ValueError"),
        ("Canon\n" + 3 * (" ".join(["x"] * 33) + "\n"), "could not convert"),
        ("Canon\n" + 3 * (" ".join(["nan"] * 33) + "\n"), "camera 'Canon' with rows that sum to"),
        ("Canon\n" + 3 * (" ".join(["0"] * 33) + "\n"), "camera 'Canon' with rows that sum to"),
    ],
)
def test_bad_camera_data_base_is_named(tmp_path, text, message):
    path = tmp_path / "cameras.txt"
    if text is not None:
        path.write_text(text)
    refuses(rf"cameras\.txt: .*{message}", camera.read_database, path)
