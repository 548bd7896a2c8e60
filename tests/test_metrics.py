"""Errors of maps inside their masks, and how well scores tell two kinds apart."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import illumination, metrics, skin
from bioface.maps import Decomposition

MAPS = (metrics.rmse, metrics.scale_aligned_rmse, metrics.correlation)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 1, (5, 8, 9))
    prediction = truth + rng.normal(0, 0.1, truth.shape)
    mask = rng.random(truth.shape) < 0.6
    return prediction, truth, mask


def test_maps_agree_with_their_definitions(batch):
    for k, (p, t, m) in enumerate(zip(*batch, strict=True)):
        p, t = p[m], t[m]
        scale = np.linalg.lstsq(p[:, None], t, rcond=None)[0][0]
        assert metrics.rmse(*batch)[k] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))
        assert metrics.scale_aligned_rmse(*batch)[k] == pytest.approx(np.sqrt(np.mean((scale * p - t) ** 2)))
        assert metrics.correlation(*batch)[k] == pytest.approx(np.corrcoef(p, t)[0, 1])


@pytest.mark.parametrize("metric", MAPS)
def test_numpy_and_torch_in_any_batch_and_nothing_counts_outside_the_mask(metric, batch):
    prediction, truth, mask = batch
    expected = metric(prediction, truth, mask)
    assert isinstance(expected, np.ndarray) and expected.shape == (5,) and expected.dtype == np.float64
    spoilt = np.where(mask, prediction, np.nan), np.where(mask, truth, np.inf)
    np.testing.assert_array_equal(metric(*spoilt, mask), expected)
    answer = metric(*(torch.from_numpy(a[:4]).reshape(2, 2, 8, 9) for a in batch))
    assert isinstance(answer, torch.Tensor) and answer.shape == (2, 2)
    np.testing.assert_allclose(answer.flatten().numpy(), expected[:4])
    one = metric(prediction[0], truth[0], mask[0])
    assert one.shape == () and one == expected[0]


def test_images_count_all_channels(batch):
    prediction, truth, mask = (np.stack([a] * 3, axis=-1) if a.dtype != bool else a for a in batch)
    prediction = prediction + np.array([0.0, 0.3, 0.0])
    expected = np.sqrt(np.mean((prediction - truth)[0][mask[0]] ** 2))
    assert metrics.rmse(prediction, truth, mask)[0] == pytest.approx(expected)
    assert metrics.scale_aligned_rmse(2 * truth, truth, mask) == pytest.approx(np.zeros(5), abs=1e-12)


def test_a_scale_is_forgiven_an_offset_is_not_and_constants_do_not_correlate(batch):
    _, truth, mask = batch
    assert metrics.scale_aligned_rmse(3 * truth, truth, mask).max() < 1e-12
    assert metrics.scale_aligned_rmse(truth + 0.5, truth, mask).min() > 0.05
    assert metrics.correlation(truth + 0.5, truth, mask) == pytest.approx(np.ones(5))
    for constant in (0.0, 0.1, 0.7):  # 0.1 is not exact in binary
        assert np.isnan(metrics.correlation(np.full(truth.shape, constant), truth, mask)).all()


@pytest.mark.parametrize("metric", MAPS)
def test_bad_maps_are_refused(metric, batch):
    prediction, truth, mask = batch
    empty = mask.copy()
    empty[3] = False
    refuses("empty mask", metric, prediction, truth, empty)
    refuses("NaN", metric, np.where(np.arange(9) == 4, np.nan, prediction), truth, np.ones_like(mask))
    refuses("one shape", metric, prediction[:, :4], truth, mask)
    refuses("expected a mask", metric, prediction, truth, mask[:, :4])


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 12, 60).astype(float), rng.random(60) < 0.4  # with ties
    pairs = scores[labels][:, None] - scores[~labels]
    assert metrics.auc(scores, labels) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert metrics.auc(-scores, labels) == pytest.approx(1 - metrics.auc(scores, labels))


def test_interval_holds_the_truth_as_often_as_it_says():
    """Two unit normals a standard deviation apart: the true AUC is Φ(1/√2) = 0.760."""
    rng = np.random.default_rng(2)
    labels = np.arange(80) >= 40
    held = 0
    for _ in range(60):
        low, high = metrics.auc_interval(rng.normal(labels.astype(float), 1), labels, rng, draws=300)
        held += low < 0.7602 < high
    assert 50 <= held <= 60 and high - low < 0.25


def test_mean_interval():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = metrics.mean_interval(values, np.random.default_rng(1))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([1.0, 2.0, 3.0], [True, True, True], "both kinds, found .* with 3 true"),
        ([1.0, np.nan, 3.0], [True, False, True], "finite"),
        ([1.0, 2.0], [True, False, True], "as many"),
    ],
)
def test_bad_scores_are_refused(scores, labels, match):
    refuses(match, metrics.auc, scores, np.array(labels))


def made_up(*shape):
    """The decomposition of one photo, (H, W), or of several, (N, H, W), from random maps that make the photo."""
    rng = np.random.default_rng(4)
    maps = [rng.uniform(*span, shape) for span in ((0.01, 0.3), (0.01, 0.06), (0.5, 1.2), (0, 0.1))]
    white = np.broadcast_to(illumination.standard("D65").numpy(), (*shape[:-2], 33))
    camera, mask = np.zeros((*shape[:-2], 2)), rng.random(shape) < 0.7
    made = Decomposition.of_maps(*maps, camera, white, np.zeros((*shape, 3)), mask)
    return dataclasses.replace(made, image=made.reconstruction)


@pytest.fixture(scope="module")
def truth():
    return made_up(3, 6, 7)


def test_the_truth_has_no_error(truth):
    row = metrics.table1_row(truth, truth)
    assert set(metrics.TABLE1) < set(row)
    for column, values in row.items():
        assert values.shape == (3,)
        assert values == pytest.approx(np.full(3, float(column.endswith("correlation"))), abs=1e-6), column


def test_columns_are_the_errors_of_their_maps(truth):
    prediction = dataclasses.replace(
        truth,
        melanin=skin.table_fraction(truth.melanin_coordinate - np.float32(0.1), 0.43),
        haemoglobin=truth.haemoglobin + np.float32(0.002),
        diffuse_shading=2 * truth.diffuse_shading,
        specular_shading=truth.specular_shading + np.float32(0.03),
        albedo=truth.albedo + np.float32(0.04),
        reconstruction=truth.image + np.float32(0.05),
    )
    row = metrics.table1_row(prediction, truth)
    for column, expected in (("specular", 0.03), ("albedo", 0.04), ("reconstruction", 0.05), ("melanin", 0.1)):
        assert row[column] == pytest.approx(np.full(3, expected), rel=1e-4), column
    assert row["haemoglobin_fraction"] == pytest.approx(np.full(3, 0.002), rel=1e-4)
    assert row["diffuse"] == pytest.approx(np.zeros(3), abs=1e-6)
    power = np.array([np.sqrt(np.mean(d[m] ** 2)) for d, m in zip(truth.diffuse_shading, truth.mask, strict=True)])
    assert row["diffuse_raw"] == pytest.approx(power, rel=1e-5)
    assert row["melanin_fraction"].min() > 0 and row["haemoglobin"].min() > 0
    one = metrics.table1_row(prediction[1], truth[1])
    assert all(isinstance(v, float) and v == pytest.approx(row[k][1]) for k, v in one.items())


def test_a_given_mask_counts_instead(truth):
    spoilt = dataclasses.replace(truth, melanin=np.where(np.arange(7) < 3, truth.melanin, 0.2).astype(np.float32))
    left = np.zeros_like(truth.mask)
    left[..., :3] = True
    assert metrics.table1_row(spoilt, truth)["melanin"].min() > 0.01
    assert metrics.table1_row(spoilt, truth, left)["melanin"] == pytest.approx(np.zeros(3))


def test_silence_is_nan_and_what_does_not_fit_an_error(truth):
    silent = truth.specular_shading.copy()
    silent[1] = np.nan
    row = metrics.table1_row(dataclasses.replace(truth, specular_shading=silent), truth)
    assert np.isnan(row["specular"]).tolist() == [False, True, False]
    assert not np.isnan(row["diffuse"]).any()
    silent[0, truth.mask[0].argmax() // 7] = np.nan
    refuses("NaN", metrics.table1_row, dataclasses.replace(truth, specular_shading=silent), truth)
    refuses("empty mask", metrics.table1_row, truth, truth, np.zeros_like(truth.mask))
    refuses("expected maps", metrics.table1_row, truth[:2], truth)
    refuses("expected maps", metrics.table1_row, truth, truth, truth.mask[:, :3])
