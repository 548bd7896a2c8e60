"""What several test files share: the real files where there are any, and a place of its own for each test."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

CHECKOUT = Path(__file__).resolve().parents[1]


def refuses(message, call, *arguments, **options):
    """The call ends in the package's own error, which says so; ``message`` is a pattern."""
    from bioface.errors import BiofaceError

    with pytest.raises(BiofaceError, match=message):
        call(*arguments, **options)


@contextlib.contextmanager
def no_room(size):
    """No file longer than so many bytes: a write fails in the middle, as on a full disk; in what begins here too."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """Twenty open figures are a warning, and a warning is an error, in whichever test comes next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data (``BIOFACE_DATA``, else ``shared/data`` beside the checkout); skips without."""
    given = os.environ.get("BIOFACE_DATA")
    folder = Path(given) if given else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (set BIOFACE_DATA)")
    return folder


@pytest.fixture
def real_file(real_data):
    """``real_file("skin/x.mat")``: that file of the real data; skips when it is absent."""

    def find(name: str) -> Path:
        path = real_data / name
        if not path.exists():
            pytest.skip(f"no real data: {path} is not there")
        return path

    return find


@pytest.fixture(scope="session")
def issa_build(tmp_path_factory) -> Path:
    """A build folder whose cache holds the ISSA spectra: parsing their workbook takes 5 s, once a checkout."""
    from bioface import paths
    from bioface.datasets import skin_spectra

    folder = tmp_path_factory.mktemp("issa_build")
    (folder / "cache").mkdir()
    skin_spectra.load("issa")  # into the checkout's own build folder, where it stays
    for kept in (paths.build() / "cache").glob("issa-*.npz"):
        shutil.copy(kept, folder / "cache")
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Empty data, build and figure folders below the test's own; returns the data folder."""
    for name in ("data", "build", "figures"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"BIOFACE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "data"
