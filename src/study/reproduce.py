"""``make reproduce``: run every notebook from top to bottom, and only those that need it.

A notebook is run again when anything that made its results has changed: its own source, this package, the
packages it stands on, its parameters, the files in the data folder, or a figure that it wrote. Executed
copies are in ``build/notebooks/``; a run that fails or is interrupted leaves those of the last good run.

With a profile or parameters other than the notebooks' own, everything (figures too) goes to a folder of its
own, ``build/variants/NAME/``, so that ``figures/`` always says what the notebooks as committed say.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioface import paths
from bioface.errors import BiofaceError, DataError, unknown_name
from study import claims, figures, notebook_file

PROFILES = ("default", "full")

# The kernel dies with the process that started it, even by `kill -9`, so that no orphan writes over a later
# run: at once on Linux (prctl 1 is PR_SET_PDEATHSIG, 9 is SIGKILL), elsewhere within ipykernel's poll of 1 s.
KERNEL = """
import ctypes, sys
try:
    ctypes.CDLL(None).prctl(1, 9)
except (AttributeError, OSError):
    pass
sys.argv[0] = "ipykernel_launcher"
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


@dataclass(frozen=True)
class Job:
    """One notebook to run: where it is, and where its results go."""

    notebook: Path
    parameters: dict[str, Any]  #: those that differ from its own
    folder: Path  #: of the executed copies
    figures: Path

    @property
    def name(self) -> str:
        """Of the notebook, without its ending."""
        return self.notebook.stem

    @property
    def executed(self) -> Path:
        """Where it lies once it ran to its end."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        """Where it lies when a cell raised an error."""
        return self.folder / f"{self.name}.failed.ipynb"

    @property
    def stamp(self) -> Path:
        """Where it is kept what the executed notebook was made of."""
        return self.folder / f"{self.name}.stamp.json"


class NotebookError(Exception):
    """A notebook that did not run to its end; the message shows the cell and the error."""


def jobs(
    folder: str | Path | None = None,
    only: Sequence[str] = (),
    profile: str = "default",
    parameters: Mapping[str, str] | None = None,
) -> list[Job]:
    """The notebooks to run, in order.

    Parameters
    ----------
    folder : of the notebooks
    only : their numbers or names ("04"), all when empty
    profile : "default" or "full"
    parameters : as text, by name; each notebook gets those that it has

    Raises
    ------
    BiofaceError : an unknown notebook, profile or parameter, or a value of the wrong type
    """
    folder = Path(folder or paths.notebooks())
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise DataError(folder, "notebooks named NN_*.ipynb", "none")
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    chosen = []
    for wanted in only:
        names = [name for name in found if wanted in (name, name[:2], f"{name}.ipynb")]
        if not names:
            raise unknown_name("notebook", wanted, found)
        chosen += names
    given = {"profile": profile} if profile != "default" else {}
    given |= dict(parameters or {})
    defaults = {
        name: notebook_file.parameters(notebook_file.read(found[name]), found[name])
        for name in found
        if not only or name in chosen
    }
    known = {name: value for own in defaults.values() for name, value in own.items()}
    for name, text in given.items():
        notebook_file.parse_parameter(name, text, known)  # unknown to every notebook: refuse
    result = []
    label = profile + ("-" + _hash(sorted(given.items()))[:8] if parameters else "")
    place = paths.build() / "variants" / label if given else paths.build()
    figures = place / "figures" if given else paths.figures()
    for name, own in defaults.items():
        values = {k: notebook_file.parse_parameter(k, v, own) for k, v in given.items() if k in own}
        result.append(Job(found[name], values, place / "notebooks", figures))
    return result


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _file_hash(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def source_hashes() -> dict[str, str | None]:
    """SHA-256 of every file of this package: code, tables, assets, style."""
    return {
        path.relative_to(paths.PACKAGE).as_posix(): _file_hash(path)
        for path in sorted(paths.PACKAGE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def common_key() -> dict[str, str]:
    """Hashes of what all notebooks stand on: this package, the locked packages as installed, the data."""
    lock = paths.root() / "requirements.lock"
    installed = {name: _version(name) for name in locked(lock)} if lock.is_file() else {}
    return {
        "package": _hash(source_hashes()),
        "installed": _hash([sys.version, installed]),
        "data": _hash(data_fingerprint(paths.data())),
    }


def data_fingerprint(folder: str | Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file in the data folder, links followed, its README left out."""
    files, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        for name in names:
            path = Path(place, name)
            if path.is_file() and path != Path(folder, "README.md"):
                status = path.stat()
                files.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files)


def locked(lock: Path) -> dict[str, str]:
    """Name to version of every line of ``requirements.lock``."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_environment() -> list[str]:
    """Raise for packages that are missing; answer with those whose version is not the locked one."""
    project = paths.root() / "pyproject.toml"
    lock = paths.root() / "requirements.lock"
    if not (project.is_file() and lock.is_file()):
        raise DataError(paths.root(), "the checkout with pyproject.toml and requirements.lock", "none")
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    needed = table["dependencies"] + table["optional-dependencies"]["notebooks"]
    names = [re.match(r"[\w.-]+", line).group() for line in needed]  # type: ignore[union-attr]
    if missing := [name for name in names if _version(name) is None]:
        raise BiofaceError(
            f"this Python ({sys.executable}) lacks {', '.join(missing)}; "
            f"run: {sys.executable} -m pip install -r requirements.lock"
        )
    versions = locked(lock)
    return [
        f"{name} {_version(name)} (locked: {versions[name]})"
        for name in names
        if name in versions and _version(name).split("+")[0] != versions[name]  # type: ignore[union-attr]
    ]


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold ``build/.lock``: a second run waits for the first, and a dead one holds nothing."""
    paths.build().mkdir(parents=True, exist_ok=True)
    with open(paths.build() / ".lock", "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another run is at work in build/; waiting for it to end ...", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def key_of(job: Job, common: Mapping[str, str]) -> str:
    """Hash of everything that makes a notebook's results."""
    notebook = notebook_file.source_hash(notebook_file.read(job.notebook))
    return _hash([notebook, job.parameters, dict(common)])


def read_stamp(job: Job) -> dict[str, Any]:
    """What the last good run left behind; empty when there was none, or its note cannot be read."""
    try:
        stamp = json.loads(job.stamp.read_text(encoding="utf-8"))
        return stamp if stamp.keys() == {"key", "seconds", "executed", "outputs"} else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _output_hash(job: Job, name: str) -> str | None:
    """Of the rows of claims.json only this notebook's own count, since the others come and go."""
    path = job.figures / name
    if name == claims.FILE and path.exists():
        return claims.digest(job.name[:2], path)
    return _file_hash(path)


def up_to_date(job: Job, key: str) -> bool:
    """Whether the last good run had the same key and all that it wrote is still there, unchanged."""
    stamp = read_stamp(job)
    return (
        bool(stamp)
        and stamp["key"] == key
        and stamp["executed"] == _file_hash(job.executed)
        and all(_output_hash(job, name) == known for name, known in stamp["outputs"].items())
    )


def kernel_environment() -> dict[str, str]:
    """Environment in which "python3" is a kernel of this very Python that dies with its parent."""
    spec = {
        # quiet: it warns on every start that it talks over loopback in the clear
        "argv": [sys.executable, "-c", KERNEL, "-f", "{connection_file}", "--log-level=CRITICAL"],
        "display_name": "Python 3",
        "language": "python",
        # no progress bars, which would go into the outputs; the same order of sets in every run
        "env": {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"},
    }
    folder = paths.build() / "jupyter"
    with paths.whole_file(folder / "kernels" / "python3" / "kernel.json") as partial:
        partial.write_text(json.dumps(spec), encoding="utf-8")
    others = os.environ.get("JUPYTER_PATH")
    return {"JUPYTER_PATH": os.pathsep.join([str(folder), *([others] if others else [])])}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def sweep(folder: Path, older_than: int | float) -> None:
    """Remove what a killed process left half written (see :func:`bioface.paths.whole_file`).

    Parameters
    ----------
    older_than : seconds since it was last written to; others may be at work in the same folder
    """
    for partial in folder.rglob(".*.partial*"):
        with contextlib.suppress(FileNotFoundError):
            # folders are the twin's, which knows by itself whether the process that makes one still lives
            if partial.is_file() and time.time() - partial.stat().st_mtime >= older_than:
                partial.unlink()


def execute(job: Job, key: str) -> float:
    """Run one notebook; its executed copy and stamp appear only when it ran to its end.

    Returns
    -------
    seconds it took

    Raises
    ------
    NotebookError : a cell failed, or the kernel died; the copy as far as it went is ``NN_name.failed.ipynb``
    BiofaceError, OSError : there is no room to write
    """
    import papermill  # a second to import, and not needed when there is nothing to do
    from nbclient.exceptions import DeadKernelError

    job.folder.mkdir(parents=True, exist_ok=True)
    for leftover in (job.stamp, job.failed, *job.folder.glob(".partial-*")):
        leftover.unlink(missing_ok=True)
    sweep(job.figures, older_than=0)
    partial = job.folder / f".partial-{job.name}.ipynb"
    outputs = job.folder / f".partial-{job.name}.outputs"
    outputs.write_text("", encoding="utf-8")
    started = time.monotonic()
    settings = kernel_environment() | {
        figures.OUTPUTS: str(outputs),
        "BIOFACE_FIGURES": str(job.figures),
        "BIOFACE_BUILD": str(paths.build()),
        "BIOFACE_DATA": str(paths.data()),
    }
    try:
        with _environment(**settings):
            papermill.execute_notebook(
                str(job.notebook),
                str(partial),
                parameters=job.parameters,
                kernel_name="python3",
                language="python",
                cwd=str(job.notebook.parent),
                progress_bar=sys.stderr.isatty(),
                start_timeout=120,
            )
    except papermill.PapermillExecutionError as error:
        os.replace(partial, job.failed)
        if any(os.strerror(code) in error.evalue for code in paths.NO_ROOM):
            raise BiofaceError(
                f"{job.name}: code cell {error.exec_count} could not write: {error.evalue}; make room, or else "
                f"{paths.ELSEWHERE}; the same command resumes with this notebook"
            ) from None
        raise NotebookError(_failure(job, error)) from None
    except OSError as error:  # papermill's own writing, which names no file
        raise OSError(error.errno, error.strerror, error.filename or str(job.executed)) from error
    except DeadKernelError:
        raise NotebookError(
            f"{job.name}: its kernel died before the end (interrupted, or out of memory); "
            "the same command resumes with this notebook"
        ) from None
    finally:
        written = outputs.read_text(encoding="utf-8").splitlines()
        for leftover in (partial, outputs) if sys.exc_info()[0] else (outputs,):
            leftover.unlink(missing_ok=True)
    seconds = time.monotonic() - started
    os.replace(partial, job.executed)
    stamp = {
        "key": key,
        "seconds": seconds,
        "executed": _file_hash(job.executed),
        "outputs": {name: _output_hash(job, name) for name in sorted(set(written))},
    }
    with paths.whole_file(job.stamp) as file:
        file.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    return seconds


def _failure(job: Job, error: Any) -> str:
    """What went wrong, and where: the cell, the end of the traceback, the file to open."""
    source = "\n".join("    " + line for line in error.source.splitlines())
    traceback = notebook_file.strip_ansi("\n".join(error.traceback)).splitlines()
    return "\n".join(
        [
            f"{job.name}: code cell {error.exec_count} failed with {error.ename}: {error.evalue}",
            source,
            *traceback[-25:],
            f"The notebook as far as it went: {job.failed}",
        ]
    )


#: Folders of ``data/`` whose small public files the committed notebooks may show, in cells that nbval ignores.
SHOWN = ("skin", "cameras")


def without_data() -> None:
    """Leave the reader's own images aside: the committed notebooks are those of a checkout that has none."""
    mine = paths.data()
    shown = paths.build() / "published-data"
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(parents=True)
    for name in SHOWN:
        if (mine / name).is_dir():
            (shown / name).symlink_to(mine / name)
    if data_fingerprint(shown) != data_fingerprint(mine):
        print(f"note: of {mine} only {' and '.join(SHOWN)} are used, as committed notebooks hold no data of one's own")
    os.environ["BIOFACE_DATA"] = str(shown)


def publish(job: Job) -> bool:
    """Put the cleaned executed copy in place of the notebook; whether anything changed."""
    cleaned = notebook_file.clean(notebook_file.read(job.executed))
    text = notebook_file.to_text(cleaned)
    if job.notebook.read_text(encoding="utf-8") == text:
        return False
    with paths.whole_file(job.notebook) as partial:
        partial.write_text(text, encoding="utf-8")
    return True


def compare(folder: str | Path | None = None, only: Sequence[str] = ()) -> int:
    """Run the notebooks again under nbval, which compares every output with the committed one.

    Figures go to ``build/compare/``. Caches are used: after a cold ``make reproduce`` they are new.

    Returns
    -------
    pytest's exit code: 0 when all agree
    """
    files = [str(job.notebook) for job in jobs(folder, only)]
    command = [sys.executable, "-m", "pytest", "--nbval", *files, "-q", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=", "-o", "filterwarnings=", "-o", "timeout=0"]  # ours are for unit tests
    settings = kernel_environment() | {
        "BIOFACE_BUILD": str(paths.build()),
        "BIOFACE_FIGURES": str(paths.build() / "compare" / "figures"),
    }
    environment = {name: value for name, value in os.environ.items() if name != figures.OUTPUTS}
    return subprocess.run(command, env=environment | settings, cwd=paths.root(), check=False).returncode


def duration(seconds: int | float) -> str:
    """A time as people say it.

    >>> duration(7.25), duration(125)
    ('7.2 s', '2 min 05 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"


def run(todo: Sequence[Job], publishing: bool = False) -> None:
    """Run what needs running, in order, then print the claims and the times.

    Raises
    ------
    NotebookError : the first failure; what ran before it stays, and is not run again
    """
    started = time.monotonic()
    sweep(paths.build(), older_than=600)
    width = max(len(job.name) for job in todo)
    common = common_key()
    times = []
    for job in todo:
        key = key_of(job, common)
        if up_to_date(job, key):
            took = f"up to date (took {duration(read_stamp(job)['seconds'])})"
        else:
            print(f"{job.name.ljust(width)}  running ...", flush=True)
            took = duration(execute(job, key))
        times.append(f"{job.name.ljust(width)}  {took}")
        if publishing:
            times[-1] += ", written to notebooks/" if publish(job) else ", notebooks/ has it already"
    if publishing and todo[0].notebook.parent == paths.notebooks():
        from bioface import readme  # which imports torch: seconds, and not needed otherwise

        front = paths.root() / "README.md"
        text = readme.fill(front.read_text(encoding="utf-8"), todo[0].figures)
        with paths.whole_file(front) as partial:
            partial.write_text(text, encoding="utf-8")
    if (todo[0].figures / claims.FILE).exists():
        print(claims.format_table(claims.read(todo[0].figures / claims.FILE)))
    print("\n".join(["", *times, f"{'all'.ljust(width)}  {duration(time.monotonic() - started)}"]))
    print(f"figures and claims: {todo[0].figures}; executed notebooks: {todo[0].folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when everything ran, 1 when a notebook failed, 2 for a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m study.reproduce", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--notebook", nargs="*", action="extend", default=[], help="only these, by number or name")
    parser.add_argument("--profile", default="default", help="default (minutes) or full (paper width, long)")
    parser.add_argument(
        "--parameter", nargs="*", action="extend", default=[], metavar="NAME=VALUE", help="notebook parameters"
    )
    parser.add_argument("--publish", action="store_true", help="write the cleaned, executed notebooks back")
    parser.add_argument("--compare", action="store_true", help="run again under nbval and compare outputs")
    parser.add_argument("--folder", default=None, help="of the notebooks; left out, the checkout's")
    options = parser.parse_args(arguments)
    try:
        for difference in check_environment():
            print(f"note: {difference}; numbers may differ from the committed ones", file=sys.stderr)
        if wrong := [text for text in options.parameter if not re.fullmatch(r"\w+=.*", text)]:
            raise BiofaceError(f"parameters: expected NAME=VALUE, found {wrong[0]!r}")
        parameters = dict(text.split("=", 1) for text in options.parameter)
        todo = jobs(options.folder, options.notebook, options.profile, parameters)
        if (options.publish or options.compare) and any(job.parameters for job in todo):
            raise BiofaceError("notebooks are published and compared with their own parameters only")
        written = [paths.build()] if options.compare else [paths.build(), todo[0].folder, todo[0].figures]
        for folder in [*written, *([todo[0].notebook.parent] if options.publish else [])]:
            paths.make_folder(folder)  # said now, not when the first notebook has run for minutes
        if options.publish or options.compare:
            without_data()
        with only_one():
            if options.compare:
                return compare(options.folder, options.notebook)
            run(todo, options.publish)
    except BiofaceError as error:
        print(error, file=sys.stderr)
        return 2
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        print(paths.describe(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
