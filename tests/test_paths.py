"""Folders, and files that are whole or absent."""

import errno
import pickle

import pytest

from bioface import paths
from bioface.errors import DataError, unknown_name


def test_environment_moves_the_folders(folders, tmp_path):
    assert paths.data() == folders
    assert paths.build() == tmp_path / "build"
    assert paths.figures() == tmp_path / "figures"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), paths.whole_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),  # a write names no file
        (OSError("80 requested and 20 written"), errno.EIO),  # NumPy's says nothing else
        (OSError(errno.EROFS, "Read-only file system", "{partial}"), errno.EROFS),  # opening names the one beside
    ],
)
def test_a_file_that_cannot_be_written_is_named(tmp_path, raised, code):
    target = tmp_path / "a.npz"
    with pytest.raises(OSError) as caught, paths.whole_file(target) as partial:
        if raised.filename:
            raised.filename = str(partial)
        raise raised
    assert caught.value.filename == str(target) and caught.value.errno == code
    assert (raised.strerror or str(raised)) in paths.describe(caught.value)


@pytest.mark.parametrize(
    "raised", [OSError(errno.EACCES, "no", "another"), ConnectionResetError(errno.ECONNRESET, "x")]
)
def test_errors_that_are_not_about_the_file_stay_as_they_are(tmp_path, raised):
    with pytest.raises(OSError) as caught, paths.whole_file(tmp_path / "a.npz"):
        raise raised
    assert caught.value is raised and raised.filename in ("another", None)


def test_what_to_do_depends_on_the_error():
    full, closed = OSError(errno.ENOSPC, "full", "a", None, "b"), OSError(errno.EACCES, "closed", "c")
    assert paths.describe(full) == f"b: full; make room, or else {paths.ELSEWHERE}"
    assert paths.describe(closed) == f"c: closed; {paths.ELSEWHERE}"
    assert paths.describe(OSError("no file\nin it"), "go") == "no file in it; go"


def test_a_folder_for_results(tmp_path):
    paths.make_folder(tmp_path / "a" / "b")
    paths.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="expected a folder that can be written to, found File exists"):
        paths.make_folder(tmp_path / "file")


def test_errors_name_the_file_survive_pickling_and_suggest_near_names_only(tmp_path):
    error = pickle.loads(pickle.dumps(DataError(tmp_path / "x.mat", "wavelengths", "none")))
    assert str(error) == f"{tmp_path / 'x.mat'}: expected wavelengths, found none"
    assert "did you mean" not in str(unknown_name("solver", "zzz", ["lm"]))
