"""Skins made by one model and read by another."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bioface import skin
from bioface.datasets import skin_spectra
from study import matrix


@pytest.fixture
def people(monkeypatch):
    """Forty made-up people whose measured spectra are ``layered`` skins under a surface, and two beyond the table."""
    rng = np.random.default_rng(0)
    m, h = np.append(0.03 + 0.3 * rng.random(40), [0.7, 0.1]), np.append(0.01 + 0.06 * rng.random(40), [0.02, np.nan])
    nm = skin_spectra.ISSA_WAVELENGTHS
    R = skin.reflectance(m, np.nan_to_num(h), "layered", nm) + matrix.SURFACE
    names = np.full(42, "x")
    spectra = skin_spectra.SkinSpectra(R, nm, names, names, np.arange(42))
    monkeypatch.setattr(skin_spectra, "load", lambda name: spectra)
    monkeypatch.setattr(skin_spectra, "pigments", lambda: (m, h))
    return m[:40], h[:40]


@pytest.mark.slow
def test_every_model_reads_its_own_skins(people, folders):
    """Exactly, or as finely as its table is stepped; nothing else reads them so well."""
    cells = matrix.matrix(step=1)
    assert set(cells) == {(a, b) for a in matrix.MODELS for b in matrix.MODELS}
    for model, within in (("published", 1e-4), ("layered", 1e-4), ("radiative transfer", 0.03)):
        own = cells[model, model]
        np.testing.assert_allclose([own.melanin, own.haemoglobin], 1, atol=within)
        assert own.residual < 1e-4
        for read in set(matrix.MODELS) - {model}:
            assert cells[model, read].residual > own.residual
    assert cells["measured", "layered"].melanin == (1, 1, 1)  # held to itself
    matrix.draw("04_matrix", cells)
    figure = plt.gcf()
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert [len(row) for row in texts] == [16, 16] and texts[1][5] == "1.00\n1.00–1.00\n(0.0)"
    assert [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()] == list(matrix.MODELS)
    plt.close(figure)


def test_measured_spectra_lose_their_surface_and_never_answer_for_themselves(people):
    assert len(matrix.issa_sample(step=7)[0]) == 6
    spectra, pigments = matrix.issa_sample(step=1)
    np.testing.assert_array_equal(pigments, people)  # without what no table holds
    painted = matrix.paint("measured", spectra, pigments)
    np.testing.assert_allclose(painted, matrix.paint("layered", spectra, pigments), atol=1e-4)
    found = matrix.invert("measured", painted, spectra, pigments)
    assert (found[:, 0] != pigments[0]).all() and np.isin(found[:, 0], pigments[0]).all()
    assert np.median(np.abs(found[:, 0] / pigments[0] - 1)) < 0.3
    shaded = matrix.invert("measured", 0.5 * painted + 0.1, spectra, pigments)
    np.testing.assert_allclose(shaded[:, :2], found[:, :2])  # both shadings are free
    np.testing.assert_allclose(shaded[:, 2], 0.5 * found[:, 2], rtol=1e-6)
    R = matrix.paint("radiative transfer", spectra, pigments)
    found = matrix.invert("radiative transfer", 0.7 * R + 0.05, spectra, pigments)
    np.testing.assert_allclose(found[:, :2] / np.stack(pigments, -1), 1, atol=0.05)
