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


@pytest.mark.slow
def test_every_model_reads_its_own_skins(people, folders):
    """Exactly; the other one does not read them so well."""
    cells = matrix.matrix(step=1)
    assert set(cells) == {(made, read) for made in matrix.MODELS for read in skin.MODELS}
    for model, other in (("published", "layered"), ("layered", "published")):
        own = cells[model, model]
        np.testing.assert_allclose([own["melanin"], own["haemoglobin"]], 1, atol=1e-4)
        assert own["residual"] < 1e-4 < cells[model, other]["residual"]
    assert cells["measured", "layered"]["melanin"] == [1, 1, 1]  # held to itself
    assert cells["measured", "layered"]["residual"] < 1e-4  # as skins of this model they were made
    np.testing.assert_allclose(cells["radiative transfer", "layered"]["melanin"], 1, atol=0.3)
    matrix.draw("04_matrix", cells)
    figure = plt.gcf()
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert [len(row) for row in texts] == [8, 8] and texts[1][3] == "1.00\n1.00–1.00\n(0.0)"
    assert [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()] == list(matrix.MODELS)
    plt.close(figure)
