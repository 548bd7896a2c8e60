"""``make reproduce``: run every notebook from top to bottom, and only those that need it.

A notebook is run again when anything that made its results has changed: its own source, the bars beside it, both
packages, those they stand on, its parameters, the files in the data folder, or a file that it wrote. Executed
copies are in ``build/notebooks/``; a run that fails or is interrupted leaves those of the last good run.

With a profile or parameters other than the notebooks' own, everything (figures too) goes to a folder of its
own, ``build/variants/NAME/``, so that ``figures/`` always says what the notebooks as committed say.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bioface import paths
from bioface.errors import BiofaceError, print_anywhere, unknown_name
from study import cache, claims, comparison, notebook

#: Folders of ``data/`` whose small public files the committed notebooks may show, in cells that nbval ignores.
SHOWN = ("skin", "cameras", "bioskin")


class NotebookError(BiofaceError):
    """A notebook that did not run to its end; the message shows the cell and the error."""


class Job(NamedTuple):
    """One notebook to run, those parameters that differ from its own, and where its results go."""

    notebook: Path
    parameters: dict[str, Any]
    folder: Path  #: of the executed copies
    figures: Path

    def file(self, ending: str) -> Path:
        """Where it is kept.

        ``ipynb``: as it ran to its end; ``failed.ipynb``: as far as it went; ``stamp``: the hash of its state
        """
        return self.folder / f"{self.notebook.stem}.{ending}"


def jobs(folder: Path, only: Sequence[str] = (), parameters: Sequence[str] = ()) -> list[Job]:
    """The notebooks of a folder in order, or only those numbered or named; each gets those parameters that it has.

    Raises
    ------
    BiofaceError : an unknown notebook or parameter (``name=value``), or a value of the wrong type
    """
    found = {path.stem: path for path in notebook.every(folder)}
    for name in only:
        if name not in {*found, *(stem[:2] for stem in found)}:
            raise unknown_name("notebook", name, found)
    chosen = [path for stem, path in found.items() if not only or {stem, stem[:2]} & set(only)]
    if not parameters:
        return [Job(path, {}, paths.build() / "notebooks", paths.figures()) for path in chosen]
    place = paths.build() / "variants" / cache.digest(sorted(parameters))[:8]
    values = notebook.parameters(chosen, parameters)
    return [Job(path, own, place / "notebooks", place / "figures") for path, own in values.items()]


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold ``build/.lock``: a second run waits for the first, and a dead one holds nothing."""
    with open(paths.build() / ".lock", "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another run is at work in build/; waiting for it to end ...", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sweep(folder: Path, seconds: int | float) -> None:
    """Remove what a killed process left half written (see :func:`bioface.paths.whole_file`).

    Parameters
    ----------
    seconds : since it was last written to; others may be at work in the same folder
    """
    for partial in folder.rglob(".*.partial*"):
        with contextlib.suppress(FileNotFoundError):
            # folders are the twin's, which knows by itself whether the process that makes one still lives
            if partial.is_file() and time.time() - partial.stat().st_mtime >= seconds:
                partial.unlink()


def state(job: Job, made_of: str) -> str:
    """Hash of what a notebook is made of and of its results.

    While it is as the last good run left it, there is nothing to do.
    """
    number, file = job.notebook.name[:2], job.figures / claims.FILE
    rows = [asdict(c) for c in claims.read(file) if c.notebook == number] if file.exists() else []  # others come and go
    written = [*job.folder.glob(job.file("ipynb").name), *sorted(job.figures.glob(f"{number}_*"))]
    return cache.digest([made_of, rows, [(path.name, cache.digest(path.read_bytes())) for path in written]])


def execute(job: Job) -> None:
    """Run one notebook; its executed copy appears only when it ran to its end.

    Raises
    ------
    NotebookError : a cell failed, or the kernel died
    OSError : there is no room to write
    """
    import papermill  # seconds to import, and not needed when there is nothing to do
    from nbclient.exceptions import DeadKernelError
    from nbconvert.filters import strip_ansi

    name, failed = job.notebook.stem, job.file("failed.ipynb")
    for leftover in (job.file("stamp"), failed):
        leftover.unlink(missing_ok=True)
    with paths.whole_file(job.file("ipynb")) as partial:
        try:
            papermill.execute_notebook(
                job.notebook,
                partial,
                job.parameters,
                kernel_name="python3",
                cwd=job.notebook.parent,
                progress_bar=sys.stderr.isatty(),
            )
        except papermill.PapermillExecutionError as error:
            os.replace(partial, failed)
            if any(os.strerror(code) in error.evalue for code in paths.NO_ROOM):
                advice = f"make room, or else {paths.ELSEWHERE}; the same command resumes here"
                raise BiofaceError(f"{name}: code cell {error.exec_count}: {error.evalue}; {advice}") from None
            head = f"{name}: code cell {error.exec_count} failed with {error.ename}: {error.evalue}"
            shown = strip_ansi(str(error)).splitlines()[-25:]
            raise NotebookError("\n".join([head, *shown, f"The notebook as far as it went: {failed}"])) from None
        except DeadKernelError:
            raise NotebookError(f"{name}: its kernel died (out of memory?); the same command resumes there") from None


def without_data() -> None:
    """Leave the reader's own images aside: the committed notebooks are those of a checkout that has none."""
    mine, shown = paths.data(), paths.build() / "published-data"
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(parents=True)
    for name in SHOWN:
        if (mine / name).is_dir():
            (shown / name).symlink_to(mine / name)
    if cache.data_files(shown) != cache.data_files(mine):
        print(f"note: of {mine} only {', '.join(SHOWN)} are used, as committed notebooks hold no data of one's own")
    os.environ["BIOFACE_DATA"] = str(shown)


def run(todo: Sequence[Job], home: Path, publish: bool = False) -> int:
    """Run what needs running, in order, then print the claims.

    Parameters
    ----------
    home : folder of the notebooks, the bars beside them
    publish : write the executed notebooks back, cleaned

    Raises
    ------
    NotebookError : the first failure; what ran before it stays, and is not run again
    """
    folder, figures = todo[0].folder, todo[0].figures
    for place, seconds in ((paths.build(), 600), (folder, 0), (figures, 0)):
        sweep(place, seconds)
    common = cache.foundation(home)
    for job in todo:
        name, stamp = job.notebook.stem, job.file("stamp")
        # a parameter may be a file, which counts by its content
        given = {k: cache.content(v) for k, v in job.parameters.items()}
        made_of = cache.digest([notebook.source(job.notebook), given, common])
        if stamp.exists() and stamp.read_bytes() == state(job, made_of).encode():
            print(f"{name}  up to date")
        else:
            print(f"{name}  running ...", flush=True)
            began = time.monotonic()
            execute(job)
            print(f"{name}  took {time.monotonic() - began:.0f} s", flush=True)
            with paths.whole_file(stamp) as partial:
                partial.write_text(state(job, made_of), encoding="utf-8")
        if publish:
            text = notebook.clean(job.file("ipynb"))
            with paths.whole_file(job.notebook) as partial:
                partial.write_text(text, encoding="utf-8")
    if (figures / claims.FILE).exists():
        print(claims.format_table(claims.read(figures / claims.FILE)))
    print(f"figures and claims: {figures}; executed notebooks: {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when everything ran, 1 when a notebook failed, 2 for a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m study.reproduce", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--notebook", nargs="*", action="extend", default=[], help="only these, by number or name")
    parser.add_argument("--profile", choices=["default", "full"], default="default", help="full: paper width, long")
    parser.add_argument("--parameter", nargs="*", action="extend", default=[], help="of notebooks, as NAME=VALUE")
    parser.add_argument("--publish", action="store_true", help="write the cleaned, executed notebooks back")
    parser.add_argument("--compare", action="store_true", help="run under nbval and compare outputs")
    parser.add_argument("--folder", type=Path, default=paths.notebooks(), help="of the notebooks")
    options = parser.parse_args(arguments)
    print_anywhere()
    try:
        profile = [f"profile={options.profile}"] if options.profile != "default" else []
        todo = jobs(options.folder, options.notebook, profile + options.parameter)
        if (options.publish or options.compare) and todo[0].figures != paths.figures():
            raise BiofaceError("notebooks are published and compared with their own parameters only")
        for folder in (paths.build(), todo[0].folder, todo[0].figures):
            paths.make_folder(folder)  # said now, not when the first notebook has run for minutes
        if other := cache.differing():
            print(f"note: numbers may differ from the committed ones, by {', '.join(other)}", file=sys.stderr)
        with only_one():
            if options.publish or options.compare:
                without_data()
            os.environ |= {  # of the kernels, which run elsewhere
                "BIOFACE_BUILD": str(paths.build()),
                "BIOFACE_DATA": str(paths.data()),
                "BIOFACE_FIGURES": str(todo[0].figures),
                "JUPYTER_PATH": str(Path(__file__).parent / "jupyter"),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.getenv("PYTHONPATH", ".")]),
            }
            if options.compare:
                return comparison.compare(job.notebook for job in todo)
            return run(todo, options.folder, options.publish)
    except BiofaceError as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, NotebookError) else 2
    except OSError as error:  # a full disk, a folder that may not be written to
        print(paths.describe(error), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{error}; run: {sys.executable} -m pip install -r requirements.lock", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
