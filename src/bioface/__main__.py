"""The command line: ``python -m bioface data``, ``fit CUBE.mat [--out DIR]`` and ``train --recipe NAME [...]``.

Thin over the functions that notebooks call. What is wrong with the input is said in one line, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioface import paths
from bioface.errors import BiofaceError

BATCH = 64  #: faces a step of ``train``, as in the paper


def data() -> int:
    """Download what can be, check what is there, say how to get the rest; 2 when something failed."""
    from bioface.datasets import registry

    failed = False
    for status in registry.fetch_all(progress=sys.stderr.isatty()):
        failed |= status.state == "failed"
        print(status, file=sys.stderr if status.state == "failed" else sys.stdout, flush=True)
    return 2 if failed else 0


def fit(cube_file: Path, out: Path) -> int:
    """Fit skin to an ISET cube and write its maps as ``NAME_fit.npz`` and ``NAME_fit.png``."""
    from bioface import identifiability, plotting, smith2019
    from bioface.datasets import iset

    _make_folder(out)
    cube = iset.load(cube_file)
    if cube.dropped:
        print("left out, zero-filled: " + ", ".join(f"{w:g}" for w in cube.dropped) + " nm")
    found = smith2019.fit(cube, cube.wavelengths, cube.illuminant, mask=cube.mask, progress=sys.stderr.isatty())
    names = (*identifiability.MAPS, "residual")
    maps = {name: getattr(found, name).astype(np.float32) for name in names}
    target = out / f"{cube.name}_fit.npz"
    with paths.whole_file(target) as partial:
        deviation = found.standard_deviation.astype(np.float32)
        np.savez_compressed(
            partial, **maps, standard_deviation=deviation, status=found.status, wavelengths=found.wavelengths
        )
    figure, _ = plotting.panel_grid([list(maps.values())], quantities=names, masks=[cube.mask])
    with paths.whole_file(target.with_suffix(".png")) as partial:
        figure.savefig(partial)
    print(found)
    print(f"maps in {target}, picture in {target.with_suffix('.png')}")
    return 0


def train(
    recipe: str,
    data: str,
    split: str,
    limit: int | None,
    width: int,
    steps: int,
    batch_size: int | None,
    seed: int,
    out: Path,
) -> int:
    """Train a network and write ``NAME.safetensors``, its checkpoint and its history; goes on from a checkpoint.

    Under ``torchrun`` or ``accelerate launch`` the processes share every batch, and the first one writes.
    """
    import torch
    from accelerate import PartialState

    from bioface import datasets, training

    model = training.build(recipe, width, seed)
    _make_folder(out)
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
            _write_history(out / f"{recipe}.history.json", recipe, history)
            shared = "" if alone else f" on {state.num_processes} processes"
            print(f"{recipe}: loss {history.total[-1]:.6g} after {steps} steps{shared}; files in {out}")
        state.wait_for_everyone()
    finally:
        state.destroy_process_group()
    return 0


def _write_history(path: Path, recipe: str, history: Any) -> None:
    """Every array of a ``training.History`` as a list, null where nothing was measured."""

    def numbers(values: np.ndarray) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in values]

    content = {
        "recipe": recipe,
        "steps": len(history),
        "losses": {name: numbers(values) for name, values in history.losses.items()},
        **{name: numbers(getattr(history, name)) for name in ("gradient_norm", "output_change", "learning_rate")},
        "seconds": history.seconds,
    }
    with paths.whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _make_folder(out: Path) -> None:
    """Make a folder for results, or say why it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BiofaceError(f"{out}: expected a folder that can be written to, found {error.strerror}") from error
    if not os.access(out, os.W_OK):
        raise BiofaceError(f"{out}: expected a folder that can be written to, found one that cannot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bioface", description="BioFaceNet, revisited")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("data", help="download the data sets that can be, and say how to get the others")
    fitting = commands.add_parser("fit", help="fit skin to a multispectral cube in ISET's .mat layout")
    fitting.add_argument("cube", type=Path, metavar="CUBE.mat")
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
    try:
        if command == "data":
            return data()
        given["out"] = given["out"] or paths.build() / command
        return fit(given["cube"], given["out"]) if command == "fit" else train(**given)
    except (BiofaceError, OSError) as error:  # OSError: a folder that cannot be written
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
