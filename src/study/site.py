"""``make site``: Sphinx makes pages as ``notebooks/conf.py`` says, and their folder appears whole or not at all."""

import fcntl
import io
import re
import sys
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace

from bioface import paths
from bioface.errors import BiofaceError, DataError


def build() -> Path:
    """Write the site into ``build/site``, in place of an older one, and return its index page.

    Raises
    ------
    BiofaceError : what is missing or damaged, or links that lead nowhere, a line each; an older site stays as it is
    DataError : one such file, or a folder that holds something else
    """
    target, conf = paths.build() / "site", paths.notebooks()
    if target.exists() and not any(target.glob("**/site.css")):
        raise DataError(target, "a site, or nothing yet", "something else, which is left alone")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as folder:
        source, said = Path(folder), io.StringIO()
        pages, trees, before = (source / name for name in ("pages", "trees", "before"))
        try:
            with docutils_namespace():
                Sphinx(source, conf, pages, trees, "html", status=None, warning=said).build()
        except SphinxError as error:
            cause = getattr(error, "orig_exc", None)  # what conf.py raised, which Sphinx wraps
            raise cause if isinstance(cause, BiofaceError | OSError) else BiofaceError(f"{conf}: {error}") from error
        if said.getvalue():
            raise BiofaceError(re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).replace(f"{source}/", "").strip())
        with open(conf / "conf.py") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another build may be as far
            if target.exists():
                target.rename(before)
            pages.rename(target)
    return target / "index.html"


def main() -> int:
    """Write the site and say where it is; 2 when something is missing or damaged."""
    try:
        print(f"open {build()}")
    except (BiofaceError, OSError) as error:
        print(paths.describe(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
