"""The morphable head and the rays cast at it."""

from __future__ import annotations

import numpy as np
import pytest

from bioface.datasets import heads
from bioface.datasets.heads import Head, Pose


@pytest.fixture(scope="module")
def head() -> Head:
    return Head.load()


@pytest.fixture(scope="module")
def placed(head: Head) -> np.ndarray:
    return heads.posed(head.vertices, Pose())


def test_no_morph_is_the_neutral_head_and_one_morph_moves_by_its_displacement(head):
    macro, local = np.zeros(len(head.macro_names)), np.zeros(len(head.local_names))
    np.testing.assert_array_equal(head.shaped(macro, local), head.vertices)
    k = head.local_names.index("nose/nose-hump-incr")
    local[k] = 0.5
    moved = head.shaped(macro, local) - head.vertices
    with np.load(heads.ASSET) as asset:
        np.testing.assert_allclose(moved, 0.5 * asset["D"][k].astype(float), atol=1e-12)


def test_pairs_share_a_weight_and_people_are_symmetric(head):
    shape = heads.draw_shape(np.random.default_rng(0), np.ones(3))
    weight = dict(zip(head.local_names, shape.local, strict=True))
    pairs = [name for name in weight if "/l-" in name]
    assert len(pairs) > 50
    assert all(weight[name] == weight[name.replace("/l-", "/r-")] for name in pairs)
    # every vertex has a mirror image
    person = head.shaped(shape.macro, shape.local)
    mirrored = person * (-1, 1, 1)
    nearest = np.min(((person[::97, None] - mirrored[None]) ** 2).sum(-1), axis=1)
    assert np.sqrt(nearest).max() < 0.02


def test_people_follow_the_stated_distributions(head):
    people = [heads.draw_shape(np.random.default_rng(k), np.array([0.3, 3.0, 0.3])) for k in range(40)]
    of_ancestry = np.array([not name.startswith("universal") for name in head.macro_names])
    for person in people[:3]:  # weights of macros are shares
        assert person.macro.min() >= 0 and person.ancestry.sum() == pytest.approx(1)
        np.testing.assert_allclose([person.macro[of_ancestry].sum(), person.macro[~of_ancestry].sum()], 1)
    assert np.std([person.local for person in people]) == pytest.approx(heads.LOCAL_DEVIATION, rel=0.05)
    assert np.mean([person.ancestry for person in people], axis=0)[1] > 0.7


def test_eyes_and_chin_land_on_their_rows(head, placed):
    eyes = np.mean([placed[numbers].mean(0) for numbers in head.eye_vertices], axis=0)
    assert eyes[0] == pytest.approx(0, abs=1e-6)
    assert (1 - eyes[1]) / 2 == pytest.approx(heads.EYE_ROW)
    assert (1 - placed[head.chin_vertex, 1]) / 2 == pytest.approx(heads.CHIN_ROW)


def test_angles_turn_the_way_they_say(head, placed):
    """Yaw brings the nose to the viewer's right, pitch lifts it, roll lifts the eye on that side."""
    nose = int(np.argmax(head.vertices[:, 2]))
    assert heads.posed(head.vertices, Pose(yaw=20.0))[nose, 0] > placed[nose, 0] + 0.1
    assert heads.posed(head.vertices, Pose(pitch=10.0))[nose, 1] > placed[nose, 1] + 0.05
    rolled = heads.posed(head.vertices, Pose(roll=5.0))
    left, right = (rolled[numbers].mean(0) for numbers in head.eye_vertices)
    assert right[1] > left[1] + 0.02 and right[0] > left[0]


def test_rays_meet_the_head_where_it_is_nearest(head, placed):
    hits = heads.cast(placed, np.array([0.0, 0.0, 1.0]), size=32)
    assert hits.hit.shape == (64, 64)
    # the tip of the nose of the neutral head is hit in the pixel where it is projected, and faces us
    nose = int(np.argmax(placed[:, 2]))
    row, column = int((1 - placed[nose, 1]) * 32), int((placed[nose, 0] + 1) * 32)
    np.testing.assert_allclose(hits.neutral[row, column], head.vertices[nose], atol=0.05)
    assert hits.normals[row, column, 2] > 0.8
    np.testing.assert_allclose(np.linalg.norm(hits.normals[hits.hit], axis=-1), 1, atol=1e-9)
    for empty in (hits.normals, hits.neutral, hits.eye, hits.lit):
        assert not empty[~hits.hit].any()
    # two eyeballs, left and right of the middle
    columns = np.flatnonzero(hits.eye.any(0))
    assert columns.min() < 28 and columns.max() > 36 and not hits.eye[:, 31:33].any()


def test_smooth_normals_agree_with_finite_differences_of_the_depth(head, placed):
    """On the forehead, where the surface is smooth, the normal is the gradient of the depth."""
    hits = heads.cast(placed, None, size=64, samples=1)
    # depth from the neutral point: the pose is only a scaling, z' = s z + const
    step = 2 / 64
    scale = np.ptp(placed[:, 1]) / np.ptp(head.vertices[:, 1])
    depth = hits.neutral[..., 2] * scale
    rows, columns = slice(8, 14), slice(26, 38)
    dz_dx = (depth[rows, 27:39] - depth[rows, 25:37]) / (2 * step)
    dz_dy = -(depth[9:15, columns] - depth[7:13, columns]) / (2 * step)
    expected = np.stack([-dz_dx, -dz_dy, np.ones_like(dz_dx)], -1)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert (hits.normals[rows, columns] * expected).sum(-1).min() > 0.995


def test_shadow_rays_find_the_shadow_of_the_nose(placed):
    light = np.array([0.8, 0.1, 0.6])
    light /= np.linalg.norm(light)
    hits = heads.cast(placed, light)
    facing = hits.hit & (hits.normals @ light > 0.15)
    shadowed = facing & ~hits.lit
    # beside the nose, on the side away from the light
    beside = (hits.neutral[..., 0] < -0.10) & (hits.neutral[..., 0] > -0.30)
    beside &= np.abs(hits.neutral[..., 1] - 7.0) < 0.12
    assert shadowed[beside & facing].mean() > 0.3
    assert hits.lit[(hits.neutral[..., 0] > 0.2) & facing & (hits.neutral[..., 2] > 0.9)].mean() > 0.95
    assert not hits.lit[hits.hit & (hits.normals @ light <= 0)].any()


def test_wrong_geometry_moves_mouth_and_nose_and_nothing_else(head):
    rng = np.random.default_rng(1)
    shape = heads.draw_shape(rng, np.ones(3))
    wrong = heads.draw_wrong_geometry(rng, shape)
    changed = [head.local_names[k] for k in np.flatnonzero(wrong.local != shape.local)]
    assert 3 <= sum(n.startswith("mouth/") for n in changed) <= 5
    assert 3 <= sum(n.startswith("nose/") for n in changed) <= 4
    assert all(n.startswith(("mouth/", "nose/")) for n in changed)
    assert set(heads.WRONG) <= set(head.local_names)
    there, here = (head.shaped(one.macro, one.local) for one in (wrong, shape))
    moved = np.linalg.norm(there - here, axis=-1)
    assert moved.max() > 0.03  # 3 mm
    far = (head.vertices[:, 1] > 7.6) | (np.abs(head.vertices[:, 0]) > 0.6)
    assert moved[far].max() < 1e-12
