"""The command line: ``python -m bioface data`` and ``python -m bioface fit CUBE.mat [--out DIR]``.

Thin over the functions that notebooks call. What is wrong with the input is said in one line, exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bioface import paths
from bioface.errors import BiofaceError


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

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BiofaceError(f"{out}: expected a folder that can be written to, found {error.strerror}") from error
    if not os.access(out, os.W_OK):
        raise BiofaceError(f"{out}: expected a folder that can be written to, found one that cannot")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bioface", description="BioFaceNet, revisited")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("data", help="download the data sets that can be, and say how to get the others")
    fitting = commands.add_parser("fit", help="fit skin to a multispectral cube in ISET's .mat layout")
    fitting.add_argument("cube", type=Path, metavar="CUBE.mat")
    fitting.add_argument("--out", type=Path, metavar="DIR", help="folder for the maps (default build/fit)")
    given = parser.parse_args(arguments)
    try:
        return data() if given.command == "data" else fit(given.cube, given.out or paths.build() / "fit")
    except (BiofaceError, OSError) as error:  # OSError: a folder that cannot be written
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
