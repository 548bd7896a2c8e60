"""A folder of photos made into training data in NFE's layout, which :mod:`bioface.datasets.nfe` reads.

Each photo gives its largest face: a square around it in 64 × 64 pixels (averaged in linear light, stored as sRGB),
normals and mask from Face Mesh, coordinates within the face, and a light. Two conventions are ours and no fact about
the photo (``notebooks/deviations.toml``): the light is fitted to *linear* RGB, where NFE's lights belong to display
values, and to skin of one *mean albedo*, since a photo does not tell a dark skin from a dim light.

A run can be killed at any moment. A face is added to plain files in ``OUT/.prepare``, then a line to a journal there;
another run goes on after the last whole line. When all photos are done the HDF5 files are written from these, each
whole or not at all, with the same bytes as without an interruption; then the folder goes in one step.

Reference: Shu et al. (2017), "Neural Face Editing with Intrinsic Image Disentangling", arXiv 1704.04131: the layout.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from bioface import faces, illumination, image_formation, paths, pictures
from bioface.by_network import MARGIN
from bioface.datasets import nfe
from bioface.errors import BiofaceError, DataError

#: Numbers of the files that ten faces in a row go to, as ``nfe.SPLITS`` has them: 8 train, 1 validates, 1 tests.
FILES = (1, 1, 1, 1, 1, 1, 1, 1, 5, 20)
#: Linear RGB of the skin that lights are fitted to: of the median pigments of ISSA's faces, D65, the mean camera.
ALBEDO = (0.416, 0.214, 0.129)
BRIGHT = 0.97  #: linear; a pixel with a brighter channel may be clipped and says nothing of the light
INSIDE = 0.9  #: share of the mesh that must be within the photo
LIST = "prepared.jsonl"  #: of all photos: where each went, or why it was left out
_KINDS = {"d10_inmc": (nfe.CHANNELS, nfe.SIZE, nfe.SIZE), "d3_lrgb": (3, 9)}


class LeftOut(BiofaceError):
    """A photo that cannot be used, and why."""


@dataclass(frozen=True)
class Prepared:
    """What became of a folder."""

    faces: int  #: how many were written
    left_out: dict[str, int]  #: how many photos for what reason
    files: tuple[Path, ...]  #: those written, ``prepared.jsonl`` the last


def prepare(folder: str | Path, out: str | Path | None = None, progress: bool = False) -> Prepared:
    """Make the photos of a folder, and of the folders in it, into NFE's files; the photos are only read.

    Of ten faces in a row eight go to the files 01, one to 05 and one to 20, which train, validate and test. Where a
    photo went, or why it was left out, is a line of JSON in ``prepared.jsonl``. A killed run goes on when it is started
    again. Until it ends it takes twice the room of its results, 0.33 MB a face.

    Parameters
    ----------
    folder : of photos in any format that Pillow reads; hidden files are passed over
    out : folder for the results (default ``data/nfe``)
    progress : show a progress bar

    Raises
    ------
    DataError : no such folder, no picture or no face in it; ``out`` holds faces already, or another folder's run
    OSError : ``out`` cannot be written to, or there is no room; started again, the run goes on
    """
    folder, out = Path(folder), paths.data() / "nfe" if out is None else Path(out)
    if not folder.is_dir():
        raise DataError(folder, "a folder of photos", "a file" if folder.exists() else "no such folder")
    photos = _photos(folder)
    if not photos:
        raise DataError(folder, "a folder with photos in it", "none")
    paths.make_folder(out)
    work, over = out / ".prepare", out / ".prepare.over"
    if over.exists():  # of a run that was killed while it cleaned up
        shutil.rmtree(over)
    if not work.is_dir() and (there := sorted(out.glob("zx_7_*.hdf5"))):
        raise DataError(out, "a folder without faces in it; name another one", there[0].name)
    work.mkdir(exist_ok=True)
    try:
        with filelock.FileLock(work / "lock", timeout=0):
            run = _Run(work, folder)
            done = {entry["photo"] for entry in run.entries}
            for name in tqdm(photos, unit="photo", desc="prepare", disable=not progress):
                if name not in done:
                    run.add(name)
            left_out = dict(Counter(e["left_out"].partition(":")[0] for e in run.entries if "left_out" in e))
            if not run.rows.total():
                shutil.rmtree(work)
                found = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
                raise DataError(folder, "a photo with a face", found)
            return Prepared(run.rows.total(), left_out, run.finish(out))
    except filelock.Timeout as error:
        raise DataError(out, "no other run at work in it", "one") from error


def _photos(folder: Path) -> list[str]:
    """Names of what may be photos, from the folder on, in the order of their letters."""
    Image.init()
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (Path(place, name) for name in files if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in shown if path.suffix.lower() in Image.EXTENSION]
    return sorted(found)


def channels(photo: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """The largest face of a photo, turned upright if it lies on its side.

    Parameters
    ----------
    photo : as :func:`bioface.decompose` takes it

    Returns
    -------
    (10, 64, 64) and (3, 9) float32 as NFE stores an image and its light, and Face Mesh's score

    Raises
    ------
    LeftOut : no face, or one that is cut off
    DataError, BiofaceError : a photo that is none
    """
    linear, _ = pictures.read(photo, None)
    found = faces.search(linear)
    if found and (turns := round(found[0].angle / 90) % 4):
        linear = np.ascontiguousarray(np.rot90(linear, turns))
        found = faces.search(linear)
    if not found:
        raise LeftOut("without a face")
    (H, W), xy = linear.shape[:2], found[0].points[:, :2]
    if ((xy > 0) & (xy < (W, H))).all(1).mean() < INSIDE:
        raise LeftOut("with a face cut off")
    low, high = xy.min(0), xy.max(0)
    side = float(MARGIN * (high - low).max())
    left, top = ((low + high - side) / 2).tolist()
    step = side / nfe.SIZE
    rows, columns = (pictures.windows(n, start, step, nfe.SIZE) for n, start in ((H, top), (W, left)))
    rgb = pictures.resample(linear, rows, columns)
    face = faces.Face(found[0].score, (found[0].points - (left, top, 0)) / step, (nfe.SIZE, nfe.SIZE))

    mask, normals, (low, high) = face.mask(filled=True), face.normals(), (face.points.min(0), face.points.max(0))
    y, x = np.mgrid[: nfe.SIZE, : nfe.SIZE] + 0.5
    towards = 1 + np.nan_to_num(face.depth()) / (high - low)[2]
    within = np.stack([(x - low[0]) / (high - low)[0], (high[1] - y) / (high - low)[1], towards], -1).clip(0, 1)
    maps = [image_formation.srgb_encode(rgb), (normals + 1) / 2, mask[..., None], within * mask[..., None]]
    image = np.concatenate(maps, -1, dtype=np.float32).transpose(2, 0, 1)
    return image, light_of(rgb, normals, face.mask()), face.score


def light_of(rgb: np.ndarray, normals: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(3, 9) float32: the light whose shading (:func:`illumination.sh_shading`) times :data:`ALBEDO` is nearest to
    linear RGB (64, 64, 3) on the skin, by least squares; the shortest where several are."""
    lit = skin & (rgb.max(-1) < BRIGHT)
    lit = lit if lit.sum() > 100 else skin
    basis = illumination.sh_basis(normals[lit].astype(np.float64))
    return np.linalg.lstsq(basis, rgb[lit] / ALBEDO, rcond=1e-6)[0].T.astype(np.float32)


class _Run:
    """A run and those killed before it, with what they left half written cut off.

    Attributes
    ----------
    entries : a dictionary for each photo that is done: the journal's lines
    rows : how many faces are in the file of each number
    first : names of the photos with faces, by the digest of their bytes
    """

    def __init__(self, work: Path, folder: Path):
        self.work, self.folder, self.journal = work, folder, work / "journal"
        begin = json.dumps({"folder": str(folder.resolve())}).encode() + b"\n"
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")] or [begin]
        if whole[0] != begin:
            raise DataError(work, f"an unfinished run of {folder.resolve()}", json.loads(whole[0])["folder"])
        self.entries = [json.loads(line) for line in whole[1:]]
        faces = [entry for entry in self.entries if "file" in entry]
        self.rows = Counter(entry["file"] for entry in faces)
        self.first = {entry["digest"]: entry["photo"] for entry in faces}
        if whole != lines:
            with paths.whole_file(self.journal) as partial:
                partial.write_bytes(b"".join(whole))
        for kind, file in itertools.product(_KINDS, set(FILES)):
            raw, size = self.raw(kind, file), self.rows[file] * math.prod(_KINDS[kind]) * 4
            raw.touch()
            if raw.stat().st_size < size:
                raise DataError(raw, "as many faces as in its journal; remove the folder to start anew", "fewer")
            os.truncate(raw, size)

    def raw(self, kind: str, file: int) -> Path:
        """Rows of single precision, one after the other."""
        return self.work / f"{kind}_{file:02d}"

    def add(self, name: str) -> None:
        """Put one photo into the files, then into the journal."""
        entry: dict[str, Any] = {"photo": name}
        try:
            path = self.folder / name
            if not path.is_file():
                raise DataError(path, "a photo", "a broken link, or no file")
            with path.open("rb") as stream:
                entry["digest"] = digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest in self.first:
                raise LeftOut(f"a copy: of {self.first[digest]}")
            image, light, entry["score"] = channels(path)
        except LeftOut as error:
            entry["left_out"] = str(error)
        except (BiofaceError, OSError) as error:
            entry["left_out"] = f"unreadable: {getattr(error, 'found', error)}"
        else:
            entry["file"] = file = FILES[self.rows.total() % len(FILES)]
            entry["row"] = self.rows[file]
            for kind, values in zip(_KINDS, (image, light), strict=True):
                with self.raw(kind, file).open("ab") as stream:
                    stream.write(values.tobytes())
            self.rows[file] += 1
            self.first[digest] = name
        with self.journal.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
        self.entries.append(entry)

    def finish(self, out: Path) -> tuple[Path, ...]:
        """Write the HDF5 files, then the list, and remove what was kept for them."""
        files = []
        for (file, count), (kind, shape) in itertools.product(sorted(self.rows.items()), _KINDS.items()):
            files.append(out / f"zx_7_{kind}_celebA_{file:02d}.hdf5")
            numbers = math.prod(shape)
            with paths.whole_file(files[-1]) as partial, h5py.File(partial, "w") as target:
                data = target.create_dataset(nfe.KEY, (count, *shape), np.float32)
                with self.raw(kind, file).open("rb") as source:
                    for row in range(0, count, nfe.BLOCK):
                        block = np.fromfile(source, np.float32, nfe.BLOCK * numbers).reshape(-1, *shape)
                        data[row : row + len(block)] = block
        with paths.whole_file(out / LIST) as partial:
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        shutil.rmtree(self.work.rename(out / ".prepare.over"))  # in one step: no journal loses what belongs to it
        return (*files, out / LIST)
