"""The NFE loader: what it gives, how little it reads, and each way a file can be wrong."""

import dataclasses
import pickle

import h5py
import numpy as np
import pytest
import torch
from conftest import refuses

from bioface.datasets import nfe
from bioface.errors import DataError


def random_images(count, seed=0, dtype=np.float64):
    """Valid stored channels (count, 10, 64, 64): unit normals encoded, a disc for a mask."""
    random = np.random.default_rng(seed)
    images = random.random((count, 10, 64, 64))
    normals = random.normal(size=(count, 3, 64, 64))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    images[:, 3:6] = (normals + 1) / 2
    y, x = np.mgrid[:64, :64]
    images[:, 6] = (y - 32) ** 2 + (x - 32) ** 2 < 28**2
    return images.astype(dtype)


def write(path, values, key="zx_7", **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=values, **options)
    return path


def write_pair(folder, number, count, seed=0, images=None, lights=None, **options):
    """A pair of files; the arrays given or random valid ones."""
    images = random_images(count, seed) if images is None else images
    lights = np.random.default_rng(seed + 1).normal(size=(count, 3, 9)) if lights is None else lights
    image_file = write(folder / f"zx_7_d10_inmc_celebA_{number:02d}.hdf5", images, **options)
    light_file = write(folder / f"zx_7_d3_lrgb_celebA_{number:02d}.hdf5", lights)
    return image_file, light_file, images, lights


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("nfe"), 1, 11)


INDICES = [slice(None), slice(1, 22), slice(None, None, 3), np.random.default_rng(0).permutation(23)[:17]]
INDICES += [[4, 4, 1, 10], -1, slice(5, 5), np.array([], int), np.arange(23) % 5 == 3]


def test_several_files_are_one_sequence(tmp_path):
    one, two = (write_pair(tmp_path, n, count, seed=n) for n, count in ((1, 3), (2, 4)))
    data = nfe.NFE([one[0], two[0]])
    assert len(data) == 7
    faces = data[np.array([6, 0, 3, 2])]
    expected = np.stack([two[2][3], one[2][0], two[2][0], one[2][2]])
    np.testing.assert_allclose(faces.rgb, np.moveaxis(expected[:, 0:3], 1, -1), atol=1e-6)
    for batch, rows in zip(data.batches(2), ([0, 1], [2, 3], [4, 5], [6]), strict=True):  # across the files too
        for name in ("rgb", "normals", "mask", "lighting", "coordinates"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(data[rows], name))
    assert faces.names[0] == "zx_7_d10_inmc_celebA_02.hdf5:3"
    assert faces.names[3] == "zx_7_d10_inmc_celebA_01.hdf5:2"


def test_faces_slice_and_join_and_carry_a_truth_along(pair):
    faces = nfe.NFE(pair[0])[:]
    faces = dataclasses.replace(faces, truth=np.arange(11.0))
    again = nfe.Faces.concatenate([faces[:4], faces[np.arange(4, 11)]])
    assert again.names == faces.names and len(faces[2]) == 1
    np.testing.assert_array_equal(again.normals, faces.normals)
    np.testing.assert_array_equal(nfe.Faces.concatenate([faces[[3, 1]], faces[5:6]]).truth, [3, 1, 5])


LAYOUTS = {
    "contiguous": {},
    "single precision": {},
    "one face a chunk": {"chunks": (1, 10, 64, 64), "compression": "lzf"},
    "many faces a chunk": {"chunks": (7, 1, 32, 64)},
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_decoding_is_the_same_to_the_last_bit_however_it_is_stored_and_shared_out(
    tmp_path, monkeypatch, layout, threads
):
    """Cached trainings rest on these numbers. Groups of a few rows against all at once."""
    monkeypatch.setattr(nfe, "GROUP", 2)
    monkeypatch.setattr(nfe, "THREADS", threads)
    images = random_images(23, dtype=np.float32 if layout == "single precision" else np.float64)
    images[:, 3:6] = np.round(images[:, 3:6] * 255) / 255  # 8 bits spoil the length of normals
    images[0, 3:6, 32, 32] = 0.5  # of none at all
    image_file, _, _, lights = write_pair(tmp_path, 1, 23, images=images, **LAYOUTS[layout])
    last = np.moveaxis(images, 1, -1)
    mask = last[..., 6] > 0.5
    normals = np.where(mask[..., None], 2 * last[..., 3:6] - 1, 0)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    wanted = {
        "rgb": last[..., 0:3],
        "normals": normals / np.where(length > 0, length, 1),
        "coordinates": last[..., 7:10],
        "lighting": lights,
    }
    for index in INDICES:
        faces, rows = nfe.NFE(image_file)[index], np.atleast_1d(np.arange(23)[index])
        assert faces.names == tuple(f"{image_file.name}:{row}" for row in rows) and faces.truth is None
        np.testing.assert_array_equal(nfe.NFE(image_file).raw(index), images[rows])
        np.testing.assert_array_equal(faces.mask, mask[rows])
        for name, values in wanted.items():
            found = getattr(faces, name)
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, values[rows].astype(np.float32), err_msg=name)


@pytest.mark.parametrize("size", [1, 4, 50])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_give_every_face_once_in_an_order_that_the_seed_fixes(pair, size, shuffle, monkeypatch):
    monkeypatch.setattr(nfe, "BLOCK", 3)
    data, orders = nfe.NFE(pair[0]), []
    for seed in (0, 0, 1):
        batches = list(data.batches(size, shuffle, seed))
        assert all(len(batch) == size for batch in batches[:-1])
        orders.append([int(name.split(":")[1]) for batch in batches for name in batch.names])
        assert sorted(orders[-1]) == list(range(11))
    assert orders[0] == orders[1]
    assert (orders[0] == list(range(11))) is (not shuffle)
    assert (orders[0] == orders[2]) is (not shuffle)
    refuses("positive batch size, found 0", data.batches, 0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_loader_takes_it_as_it_is(pair, monkeypatch, workers, shuffle):
    monkeypatch.setattr(nfe, "BLOCK", 3)
    data = pickle.loads(pickle.dumps(nfe.NFE(pair[0])))
    data[0]  # read in this process first: nothing of it may leak into the workers
    rows = data.batch_rows(4, shuffle, seed=1)
    assert [len(r) for r in rows] == [4, 4, 3]
    options = {"collate_fn": lambda faces: faces, "num_workers": workers}
    loader = torch.utils.data.DataLoader(data, batch_sampler=rows, **options)
    for batch, wanted in zip(loader, data.batches(4, shuffle, seed=1), strict=True):
        assert batch.names == wanted.names
        np.testing.assert_array_equal(batch.normals, wanted.normals)
    plain = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=len, num_workers=workers)
    assert list(plain) == [5, 5, 1]
    alone = torch.utils.data.DataLoader(data, collate_fn=lambda faces: faces.rgb, num_workers=workers)
    np.testing.assert_array_equal(np.concatenate(list(alone)), data[:].rgb)


def test_splits_go_by_file_number_and_share_no_file(folders):
    numbers = [n for split in nfe.SPLITS.values() for n in split]
    assert len(numbers) == len(set(numbers))
    (folders / "nfe").mkdir()
    write_pair(folders / "nfe", 20, 4)
    refuses("NN = 01 or 02 or 03 or 04 .*found file numbers 20", nfe.open_split, "train")
    refuses("unknown split 'trian'; did you mean 'train'", nfe.open_split, "trian")
    for number, count in ((1, 2), (4, 1), (5, 3)):
        write_pair(folders / "nfe", number, count)
    assert {s: len(nfe.open_split(s)) for s in nfe.SPLITS} == {"train": 3, "validation": 3, "test": 4}
    assert len(nfe.open_split()) == 10
    (folders / "nfe" / "other.hdf5").write_bytes(b"")
    assert list(nfe.find()) == [1, 4, 5, 20] and nfe.find(folders / "nowhere") == {}
    refuses("other.hdf5: expected a name like", nfe.NFE, folders / "nfe" / "other.hdf5")


def put(path, place, value):
    """One value of a file."""
    with h5py.File(path, "r+") as file:
        file["zx_7"][place] = value


def empty(images, lights):
    write(images, np.zeros((0, 10, 64, 64)))
    write(lights, np.zeros((0, 3, 9)))


SHAPES = [(2, 7, 64, 64), (2, 10, 32, 32), (2, 64, 64, 10), (10, 64, 64)]
CHANNELS = [(0, "RGB"), (4, "normals"), (6, "mask"), (9, "coordinates")]
OUTSIDE = [(channel, what, value) for channel, what in CHANNELS for value in (-0.01, 1.01)]
PAGE = "<html>Google Drive can't scan this file for viruses</html>"

#: what happens to the image and the light file of four faces, and what is said
WRONG = [
    (lambda i, _: i.unlink(), "d10_inmc_celebA_01.hdf5: .*no such file"),
    (lambda _, j: j.unlink(), "d3_lrgb_celebA_01.hdf5: .*no such file"),
    (lambda i, _: i.write_bytes(i.read_bytes()[:9000]), "a whole HDF5 file, found a damaged or truncated one"),
    (lambda i, _: i.write_text(PAGE), "expected an HDF5 file, found 5[0-9] bytes of something else"),
    (lambda i, _: write(i, random_images(1), key="images"), "the key 'zx_7', found the keys 'images'"),
    (lambda i, _: write(i, 0.5, key="zx_7/part"), r"of shape \(N, 10, 64, 64\), found a group"),
    *(
        (lambda i, _, s=s: write(i, np.zeros(s)), rf"\(N, 10, 64, 64\), found shape \({s[0]}, {s[1]}, {s[2]}")
        for s in SHAPES
    ),
    (lambda _, j: write(j, np.zeros((4, 9, 3))), r"d3_lrgb.*of shape \(N, 3, 9\), found shape \(4, 9, 3\)"),
    (lambda i, _: write(i, np.zeros((4, 10, 64, 64), np.uint8)), "floating point, found uint8"),
    (empty, "at least one row, found none"),
    (lambda _, j: write(j, np.zeros((2, 3, 9))), "d3_lrgb_celebA_01.hdf5: expected 4 lights.*found 2"),
    *(
        (lambda i, _, c=c, v=v: put(i, (2, c, 5, 6), v), rf"{what} stored within \[0, 1\].*first in row 2")
        for c, what, v in OUTSIDE
    ),
    (lambda i, _: put(i, np.s_[:, 3:6], np.linspace(-1, 1, 64)), r"expected normals stored within \[0, 1\], found -"),
    (lambda i, _: put(i, np.s_[1::2, 8, 5, 6], (1.5, -0.25)), "coordinates .* found -0.25 to 1.5, first in row 1"),
    *((lambda i, _, v=v: put(i, (3, 1, 0, 0), v), "finite RGB.*in row 3") for v in (np.nan, np.inf)),
    *((lambda _, j, v=v: put(j, (1, 2, 8), v), "d3_lrgb.*finite lighting.*in row 1") for v in (np.nan, np.inf)),
]


@pytest.mark.parametrize(("harm", "said"), WRONG)
def test_what_is_wrong_is_said(tmp_path, harm, said, monkeypatch):
    """Of all rows read, in groups and on threads."""
    monkeypatch.setattr(nfe, "GROUP", 2)
    monkeypatch.setattr(nfe, "THREADS", 3)
    image_file, light_file, *_ = write_pair(tmp_path, 1, 4)
    harm(image_file, light_file)
    with pytest.raises(DataError, match=said) as raised:
        nfe.NFE(image_file)[:]
    assert raised.value.path in (image_file, light_file)


def test_rounding_at_the_ends_of_the_range_is_not_an_error(tmp_path):
    images = random_images(2)
    images[0, 0, 0, 0], images[1, 2, 1, 1] = 1 + 1e-9, -1e-9
    image_file, *_ = write_pair(tmp_path, 1, 2, images=images)
    rgb = nfe.NFE(image_file)[:].rgb
    assert rgb.min() >= 0 and rgb.max() <= 1
