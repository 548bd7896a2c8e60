"""The command line: ``python -m bioface`` with ``data``, ``decompose``, ``prepare``, ``fit`` or ``train``.

Thin over the functions that notebooks call. What is wrong with the input is said in one line, exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bioface import paths
from bioface.errors import BiofaceError, DataError, print_anywhere

if TYPE_CHECKING:  # brings torch
    from bioface.maps import Decomposition

#: What :class:`bioface.decomposition.NoMask` means here.
NO_MASK = "no mask given and no face found for certain: the whole picture is taken as face; give --mask or a crop"
BATCH = 64  #: faces a step of ``train``, as in the paper


def data() -> int:
    """Download what can be, check what is there, say how to get the rest; 2 when something failed."""
    from bioface.datasets import registry

    failed = False
    for status in registry.fetch_all(progress=sys.stderr.isatty()):
        failed |= status.state == "failed"
        print(status, file=sys.stderr if status.state == "failed" else sys.stdout, flush=True)
    return 2 if failed else 0


def decompose(photo: Path, mask: Path | None, weights: Path | None, method: str | None, face: Any, out: Path) -> int:
    """Take a photo apart and write its maps: ``NAME_maps.npz``, ``NAME_overview.png`` and a picture of each.

    Without a mask ``NAME_found.png`` shows the faces found, with their numbers; the maps of each are named
    ``NAME_1_maps.npz`` and so on where all are asked for. Albedo and reconstruction are sRGB. The pictures of maps are
    grey, from 0 (black) to the highest value of the quantity in :data:`bioface.plotting.QUANTITIES` (white); where
    there is nothing to say they are black.
    """
    from bioface import decomposition, faces, pictures, plotting
    from bioface.datasets import photos

    plotting.use_style()
    paths.make_folder(out)
    if sys.stderr.isatty():
        print(f"{photo.name}: read, taken apart, then written to {out}", file=sys.stderr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", decomposition.NoMask)
        made: Any = decomposition.decompose(photo, mask, weights, method, face=face)
    for warning in caught:
        known = issubclass(warning.category, decomposition.NoMask)
        print(NO_MASK if known else warning.message, file=sys.stderr)
    linear, opaque = pictures.read(photo, None)  # what is transparent says where the face is
    if mask is None and opaque.all() and (found := faces.search(linear, everyone=face is not None)):
        with paths.whole_file(out / f"{photo.stem}_found.png") as partial:
            Image.fromarray(faces.picture(linear, found)).save(partial)
    named = {f"{photo.stem}_{k}": one for k, one in enumerate(made, 1)} if face == "all" else {photo.stem: made}
    for name, one in named.items():
        _write_maps(one, name, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(photo) as image:  # its header only
            pixels = image.width * image.height
    if pixels > opaque.size:
        shrunk = "{} × {}".format(*opaque.shape)
        print(f"{photo.name} has {pixels / 1e6:.0f} million pixels: shrunk to {shrunk}", file=sys.stderr)
    print(f"{photo.name}: colours are {photos.colours_of(photo)}")
    return 0


def _write_maps(found: Decomposition, name: str, out: Path) -> None:
    """The maps of one face, and pictures of them."""
    from bioface import arrays, identifiability, image_formation, plotting

    white = {quantity: plotting.QUANTITIES[quantity].high for quantity in identifiability.MAPS}
    images: dict[str, Any] = {quantity: getattr(found, quantity) / top for quantity, top in white.items()}
    for quantity in ("albedo", "reconstruction"):
        images[quantity] = image_formation.srgb_encode(getattr(found, quantity))
    # the overview: the face, in the paper's order, and no more pixels than it needs
    rows, columns = arrays.extent(np.isfinite(found.melanin))
    step = max(1, max(rows.stop - rows.start, columns.stop - columns.start) // 512)
    face = slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)
    maps = ("diffuse_shading", "specular_shading", "melanin", "haemoglobin", "albedo")
    figure, _ = plotting.panel_grid(
        [[found.image[face], images["reconstruction"][face], *(getattr(found, name)[face] for name in maps)]],
        quantities=["linear_rgb", "rgb", *maps],
        titles=["photo", "reconstruction", *(name.removesuffix("_shading") for name in maps)],
        masks=[found.mask[face]],
        panel=1.8,
    )
    with contextlib.ExitStack() as files:  # all of them, or none
        for what, image in images.items():
            partial = files.enter_context(paths.whole_file(out / f"{name}_{what.removesuffix('_shading')}.png"))
            Image.fromarray(np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)).save(partial)
        figure.savefig(files.enter_context(paths.whole_file(out / f"{name}_overview.png")))
        found.save(files.enter_context(paths.whole_file(out / f"{name}_maps.npz")))
    size = " × ".join(map(str, found.mask.shape))
    whites = ", ".join(f"{quantity} {top:g}" for quantity, top in white.items())
    print(f"{name}: maps of {size} in {out / name}_maps.npz, pictures beside them; white is {whites}")


def prepare(folder: Path, out: Path | None) -> int:
    """Make a folder of photos into training data in NFE's layout; 2 when there is no face in them."""
    from bioface.datasets import prepare

    made = prepare.prepare(folder, out, progress=sys.stderr.isatty())
    for reason, count in made.left_out.items():
        print(f"left out: {count} {reason}", file=sys.stderr)
    print(f"{made.faces} faces in {made.files[0].parent}; what became of each photo: {made.files[-1]}")
    return 0


def fit(cube_file: Path, out: Path, axes: str | None = None, wavelengths: str | None = None) -> int:
    """Fit skin to a multispectral cube and write its maps as ``NAME_fit.npz`` and ``NAME_fit.png``.

    ``wavelengths`` are stated as FIRST:STEP:LAST in nm, ``axes`` as in :func:`bioface.datasets.cubes.load`.
    """
    from bioface import identifiability, plotting, skin, smith2019, solvers
    from bioface.datasets import cubes

    plotting.use_style()
    paths.make_folder(out)
    cube = cubes.load(cube_file, axes, None if wavelengths is None else _spaced(wavelengths))
    for note in cube.notes:
        print(f"{cube.name}: {note}")
    if cube.dropped:
        print("left out, zero-filled: " + ", ".join(f"{w:g}" for w in cube.dropped) + " nm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told below
        found = smith2019.fit(cube, cube.wavelengths, cube.illuminant, mask=cube.mask, progress=sys.stderr.isatty())
    names = (*identifiability.MAPS, "residual")
    if (found.status[cube.mask] == solvers.Status.NO_SKIN).all():
        raise DataError(cube_file, "the spectra of skin (or its axes and wavelengths stated otherwise)", "none at all")
    maps = {name: getattr(found, name).astype(np.float32) for name in names}
    target = out / f"{cube.name}_fit.npz"
    with paths.whole_file(target) as partial:
        rest: dict[str, Any] = dict(status=found.status, wavelengths=found.wavelengths)
        np.savez_compressed(partial, **maps, standard_deviation=found.standard_deviation.astype(np.float32), **rest)
    figure, _ = plotting.panel_grid([list(maps.values())], quantities=names, masks=[cube.mask])
    with paths.whole_file(target.with_suffix(".png")) as partial:
        figure.savefig(partial)
    print(found)
    low, high = skin.BIAS[1]
    print(f"of radiative transfer's blood the skin model finds {low:g} to {high:g} times the true fraction")
    if found.doubt:
        print(f"warning: {found.doubt}", file=sys.stderr)
    print(f"maps in {target}, picture in {target.with_suffix('.png')}")
    return 0


def _spaced(text: str) -> np.ndarray:
    """The wavelengths FIRST:STEP:LAST.

    >>> _spaced("400:10:420").tolist()
    [400.0, 410.0, 420.0]
    """
    try:
        first, step, last = map(float, text.split(":"))
        return first + step * np.arange(round((last - first) / step) + 1)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BiofaceError(f"expected wavelengths like 400:10:720, found {text!r}") from error


def train(recipe: str, data: str, split: str, limit: int | None, out: Path, **given: Any) -> int:
    """Train a network and write ``NAME.safetensors``, its checkpoint and its history; goes on from a checkpoint.

    ``given`` are width, steps, batch_size and seed. Under ``torchrun`` or ``accelerate launch`` the processes share
    every batch, and the first one writes.
    """
    import torch
    from accelerate import PartialState

    from bioface import datasets, training

    steps, seed, batch_size = given["steps"], given["seed"], given["batch_size"]
    model = training.build(recipe, given["width"], seed)
    paths.make_folder(out)
    here, cards = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if 0 < cards < here:
        told = f"expected a graphics processor for each of {here} processes, found {cards}"
        raise BiofaceError(f"{told}; with CUDA_VISIBLE_DEVICES= (nothing) before the command they do without")
    # accelerate takes processes without a graphics processor for a group only when it is told
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    state = PartialState(cpu=not alone and not torch.cuda.is_available())
    try:
        stream = data == "nfe" and limit is None  # 50 000 faces do not fit in memory
        faces = datasets.nfe.open_split(split) if stream else datasets.load(data, split, limit)
        history = training.train(
            model,
            faces,
            recipe,
            steps,
            batch_size=min(BATCH, len(faces)) if batch_size is None else batch_size,
            seed=seed,
            checkpoint=out / f"{recipe}.checkpoint.safetensors",
            progress=sys.stderr.isatty(),
        )
        if state.is_main_process:
            model.save(out / f"{recipe}.safetensors", recipe=recipe, steps=str(steps), seed=str(seed))
            content = {"recipe": recipe, "steps": len(history), **vars(history)}
            with paths.whole_file(out / f"{recipe}.history.json") as partial:
                partial.write_text(json.dumps(content, indent=1, default=np.ndarray.tolist) + "\n")
            shared = "" if alone else f" on {state.num_processes} processes"
            print(f"{recipe}: loss {history.total[-1]:.6g} after {steps} steps{shared}; files in {out}")
        state.wait_for_everyone()
    finally:
        state.destroy_process_group()
    return 0


def _face(word: str) -> int | str:
    return "all" if word == "all" else int(word)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    print_anywhere()
    parser = argparse.ArgumentParser(prog="python -m bioface", description="BioFaceNet, revisited")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("data", help="download the data sets that can be, and say how to get the others")
    photo = commands.add_parser("decompose", help="take the face of a photo apart")
    photo.add_argument("photo", type=Path, metavar="PHOTO")
    photo.add_argument("--mask", type=Path, metavar="M", help="picture of the same size, light where the face is")
    photo.add_argument("--face", type=_face, metavar="N", help="which face, 1 for the largest; or all of them: all")
    photo.add_argument("--weights", type=Path, metavar="W", help="of a network (default: the one that ships)")
    photo.add_argument("--method", help="bayes (default, or network where there are weights) or network")
    photo.add_argument("--out", type=Path, metavar="DIR", help="folder for the maps (default build/decompose)")
    preparing = commands.add_parser("prepare", help="make a folder of photos into training data in NFE's layout")
    preparing.add_argument("folder", type=Path, metavar="FOLDER", help="of photos; they are only read")
    preparing.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default data/nfe)")
    fitting = commands.add_parser("fit", help="fit skin to a multispectral cube (.mat, HDF5, ENVI, pictures)")
    fitting.add_argument("cube_file", type=Path, metavar="CUBE")
    fitting.add_argument("--axes", metavar="RCB", help="their order in the file, where it is not clear: r, c, b")
    fitting.add_argument("--wavelengths", metavar="A:S:B", help="nm, where the file has none, such as 400:10:720")
    fitting.add_argument("--out", type=Path, metavar="DIR", help="folder for the maps (default build/fit)")
    training = commands.add_parser("train", help="train a network on faces, or go on from its checkpoint")
    training.add_argument("--recipe", required=True, metavar="NAME", help="such as working or paper_literal")
    training.add_argument("--data", choices=["twin", "nfe"], default="twin", help="the faces (default twin)")
    training.add_argument("--split", default="train", help="train, validation or test (default train)")
    training.add_argument("--limit", type=int, metavar="N", help="only the first N faces")
    training.add_argument("--width", type=int, default=32, metavar="W", help="filters (default 32, the paper's)")
    training.add_argument("--steps", type=int, default=1000, metavar="N", help="of the whole run (default 1000)")
    training.add_argument(
        "--batch-size", type=int, metavar="N", help=f"faces a step, over all processes (default {BATCH} or all)"
    )
    training.add_argument("--seed", type=int, default=0, metavar="S", help="of weights and order (default 0)")
    training.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default build/train)")
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    run: dict[str, Callable[..., int]] = dict(data=data, decompose=decompose, prepare=prepare, fit=fit, train=train)
    try:
        if "out" in given and command != "prepare":
            given["out"] = given["out"] or paths.build() / command
        return run[command](**given)
    except BiofaceError as error:
        told = str(error)
    except OSError as error:
        told = paths.describe(error, "--out names another folder")
    except RuntimeError as error:  # HDF5 closes a file that there was no room for, and speaks of the closing
        if not isinstance(error.__context__, OSError):
            raise
        told = paths.describe(error.__context__, "BIOFACE_BUILD names another folder")
    print(f"error: {' '.join(told.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
