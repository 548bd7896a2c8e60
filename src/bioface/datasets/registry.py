"""Where every data set comes from, and how it gets into the data folder.

Three kinds: ``download`` is fetched by ``make data`` and each file held to its SHA-256; ``manual`` is placed by the
reader, because its host or licence asks for that; ``package`` comes inside an installed Python package. What is
in the files, what they are used for, their licences and whom to cite stands in ``data/README.md``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import requests
from tqdm import tqdm

from bioface import paths
from bioface.datasets import cubes, nfe
from bioface.errors import DataError, unknown_name


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set."""

    name: str  #: what :func:`fetch` calls it
    title: str  #: what it is, in a line
    kind: str  #: "download", "manual" or "package"
    files: Sequence[str]  #: paths below the data folder (a manual one may be a pattern), or "package:path" inside one
    home: str  #: its page
    instructions: str  #: how to get it
    url: str = ""  #: what the addresses of a download begin with
    sources: Sequence[Sequence[str]] = ()  #: of each file: the end of its address, and its SHA-256; none of manual ones


@dataclasses.dataclass(frozen=True)
class Status:
    """How a data set stands: ``state`` is "present", "downloaded", "absent" (a manual one), or "failed"."""

    name: str
    state: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.state}: {self.detail}"


_TABLE = tomllib.loads((paths.TABLES / "datasets.toml").read_text(encoding="utf-8"))
#: All data sets by name.
ENTRIES: Mapping[str, Entry] = {name: Entry(name, **fields) for name, fields in _TABLE.items()}


def fetch(which: str | Entry, progress: bool = False) -> list[Path]:
    """The files of one data set, downloaded when they are not there and can be; checked in any case.

    Parameters
    ----------
    which : a name of :data:`ENTRIES`, or an entry
    progress : draw a progress bar

    Raises
    ------
    BiofaceError : on an unknown name
    DataError : a manual data set that is absent (with its instructions); a file whose content is not the one
        expected; a download that cannot start, breaks off, or brings something else. Then nothing is kept.
    """
    entry = _entry(which)
    if entry.kind == "download":
        _check(entry, _present(entry))
        for file, (end, digest) in zip(entry.files, entry.sources, strict=True):
            if not (paths.data() / file).exists():
                _download(entry, paths.data() / file, entry.url + end, digest, progress)
    return placed(entry)


def placed(which: str | Entry) -> list[Path]:
    """The files of one data set as they are, checked; errors as of :func:`fetch`, of a download that is absent too."""
    entry = _entry(which)
    if not is_placed(entry):
        nothing = f"nothing there. {entry.instructions} Source: {entry.home}"
        absent = (file for file in entry.files if not (paths.data() / file).exists())
        raise DataError(paths.data() / next(absent, entry.files[0]), entry.title, nothing)
    found = _present(entry)
    _check(entry, found)
    return found


def status(which: str | Entry) -> Status:
    """How one data set stands, without downloading anything; BiofaceError on an unknown name."""
    entry = _entry(which)
    try:
        if not is_placed(entry):
            return Status(entry.name, "absent", f"{entry.instructions} Source: {entry.home}")
        return Status(entry.name, "present", _describe(entry, placed(entry)))
    except DataError as error:
        return Status(entry.name, "failed", str(error))


def is_placed(which: str | Entry) -> bool:
    """Whether a data set is there, unopened: all files of a download, any of another kind; BiofaceError if unknown."""
    entry = _entry(which)
    found = _present(entry)
    return len(found) == len(entry.files) if entry.kind == "download" else bool(found)


def fetch_all(progress: bool = False) -> Iterator[Status]:
    """Go through every data set: check what is there, download what can be, say how to get the rest.

    One that fails does not stop the others.
    """
    for entry in ENTRIES.values():
        stands = status(entry)
        if stands.state == "absent" and entry.kind == "download":
            try:
                stands = Status(entry.name, "downloaded", _describe(entry, fetch(entry, progress)))
            except DataError as error:
                stands = Status(entry.name, "failed", str(error))
        yield stands


def _entry(which: str | Entry) -> Entry:
    if isinstance(which, Entry):
        return which
    if which not in ENTRIES:
        raise unknown_name("data set", which, ENTRIES)
    return ENTRIES[which]


def _present(entry: Entry) -> list[Path]:
    """The files of an entry that exist."""
    if entry.kind == "package":
        package, _, inside = entry.files[0].partition(":")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise DataError(inside, f"the installed package {package}", "none")
        path = Path(spec.origin).parent / inside
        return [path] if path.is_file() else []
    if entry.name == "iset":
        return cubes.find()
    return [path for file in entry.files for path in paths.data().glob(file)]


def _check(entry: Entry, found: list[Path]) -> None:
    """Hold files to their checksums; those without a published one to their format."""
    if entry.sources:
        by_name = {Path(file).name: digest for file, (_, digest) in zip(entry.files, entry.sources, strict=True)}
        for path in found:
            if (digest := _digest(path)) != by_name[path.name]:
                advice = "" if entry.kind == "package" else "; remove the file and fetch it again"
                raise DataError(path, f"SHA-256 {by_name[path.name]}", f"{digest}{advice}")
    elif entry.name == "nfe":
        for path in found:  # with its partner
            nfe.NFE(path.with_name(path.name.replace("d3_lrgb", "d10_inmc")))
    elif entry.name == "iset":
        for path in found:
            cubes.load(path)


def _describe(entry: Entry, found: list[Path]) -> str:
    where = str(found[0]) if len(found) == 1 else f"{len(found)} files in {found[0].parent}"
    return f"{where} ({'checksum' if entry.sources else 'format'} checked)"


def _download(entry: Entry, target: Path, url: str, sha256: str, progress: bool) -> None:
    """Download to a name beside the target, and give it the target's name once the checksum is right."""
    with paths.whole_file(target) as partial:
        try:
            with requests.get(url, stream=True, timeout=30) as answer, partial.open("wb") as file:
                answer.raise_for_status()
                size = int(answer.headers.get("Content-Length", 0)) or None
                with tqdm(total=size, unit="B", unit_scale=True, disable=not progress) as bar:
                    for part in answer.iter_content(1 << 16):
                        bar.update(file.write(part))
        except requests.exceptions.HTTPError as error:
            raise DataError(target, f"a download from {url}", f"the answer {error}") from error
        except requests.exceptions.ChunkedEncodingError as error:
            found = f"a connection that broke after {partial.stat().st_size} bytes"
            raise DataError(target, f"a whole download from {url}", found) from error
        except requests.exceptions.RequestException as error:
            found = f"none ({type(error).__name__}). Without a network: {entry.instructions}"
            raise DataError(target, f"a connection to {url}", found) from error
        digest = _digest(partial)
        if digest != sha256:
            raise DataError(target, f"SHA-256 {sha256} from {url}", f"{digest}; what came was removed")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
