"""``make site``: the notebooks, as committed, as web pages that open from disk and ask nothing of any network.

The folder ``build/site/`` holds a page for each notebook, an index with the question, the answer and the claims, a page
with the deviations ledger, the pictures, and beside each picture the numbers behind it. Formulas are MathML, which
browsers draw by themselves; the only script lets the keyboard reach boxes that scroll. The folder appears whole or not
at all.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import io
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import matplotlib
import nbformat
import numpy as np
from jupyterlab_pygments import JupyterStyle
from latex2mathml import converter
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments.formatters import HtmlFormatter
from scipy.optimize import linear_sum_assignment

from bioface import paths
from bioface.errors import BiofaceError, DataError
from study import claims, ledger, notebook_file

TEMPLATES = paths.ASSETS / "site"
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"  #: with the letters of formulas
SAVED = re.compile(r"plotting\.save\(\s*\w+,\s*(f?)[\"'](\d\d_[^\"']+)[\"']")  #: with an f, {parts} of the name vary
FUNCTION = re.compile(r"(<(m[io])>(?:exp|ln|log|max|min)</\2>)(?=<m[isur])")  #: before a letter, not a bracket
QUESTION = re.compile(r"^\*\*Question\.\*\*\s*(.+?)\s*(?:\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """One figure: its name, what it shows, and the pixels that the notebook holds of it."""

    name: str
    title: str
    description: str
    data: str
    png: bytes
    width: int
    height: int


@dataclass
class Page:
    """One notebook as a page."""

    name: str
    title: str
    question: str = ""  #: HTML
    body: str = ""  #: HTML
    sections: list[dict[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    claims: list[claims.Claim] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The title up to its colon, for the list of pages."""
        return self.title.partition(":")[0]


class Renderer(IPythonRenderer):
    """Markdown to HTML: formulas as MathML, headings to link to, and only links that lead somewhere.

    Parameters
    ----------
    source : the file that the text is from, for messages
    figures : size of every picture in the site's ``figures/``, by file name
    pages : names of the pages
    """

    def __init__(self, source: Path, figures: Mapping[str, tuple[int, int]], pages: Sequence[str]):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.source, self.figures, self.pages = source, figures, pages
        self.sections: list[dict[str, str]] = []
        self.anchors: set[str] = set()

    def block_math(self, body: str) -> str:
        """A formula on lines of its own, as MathML."""
        return f'<span class="formula scroll" data-label="formula">{self._math(body, "block")}</span>'

    def inline_math(self, body: str) -> str:
        """A formula within a line, as MathML."""
        return self._math(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        """An environment such as ``align``, as MathML."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def _math(self, latex: str, display: str) -> str:
        if not _balanced(latex):
            raise DataError(self.source, "a formula in LaTeX", f"{latex!r}, whose braces do not match")
        try:
            drawn = converter.convert(latex.strip(), display=display)
        except Exception as error:  # it has a dozen of its own and lets others through
            raise DataError(self.source, "a formula in LaTeX", f"{latex!r} ({type(error).__name__})") from error
        if unknown := re.search(r"\\[A-Za-z]+", html.unescape(re.sub(r"<[^>]*>", " ", drawn))):
            raise DataError(self.source, "a formula in LaTeX", f"{unknown[0]} in {latex!r}, which MathML does not know")
        return FUNCTION.sub(r'\1<mspace width="0.167em" />', drawn)

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A heading that can be linked to."""
        plain = html.unescape(re.sub(r"<[^>]*>", "", text))
        stem = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "section"
        anchor = next(
            a for n in range(len(self.anchors) + 1) if (a := f"{stem}-{n}" if n else stem) not in self.anchors
        )
        self.anchors.add(anchor)
        if level == 2:
            self.sections.append({"anchor": anchor, "title": plain})
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def table(self, text: str) -> str:
        """A table that scrolls sideways where it is wide."""
        return f'<div class="scroll" data-label="table"><table>\n{text}</table></div>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link, or its text alone where it would lead nowhere."""
        address = self._address(url)
        return text if address is None else super().link(text, address, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture of the figures folder, within the page.

        Raises
        ------
        DataError : another file, or no alternative text
        """
        name = PurePosixPath(url).name
        if name not in self.figures:
            raise DataError(self.source, "pictures from figures/", url)
        if not text.strip():
            raise DataError(self.source, "an alternative text for every picture", f"none for {url}")
        width, height = self.figures[name]
        alt = html.escape(html.unescape(text))
        return f'<img src="figures/{name}" width="{width}" height="{height}" alt="{alt}">'

    def _address(self, url: str) -> str | None:
        """Where a link goes on the site; None for a file that is not on it."""
        if re.match(r"[a-z]+:|#", url):
            return url
        path, hash, fragment = url.partition("#")
        file = PurePosixPath(path)
        if file.suffix == ".ipynb" and file.stem in self.pages:
            return f"{file.stem}.html{hash}{fragment}"
        on_site = file.name in self.figures or file.with_suffix(".png").name in self.figures or file.name == claims.FILE
        return f"figures/{file.name}" if file.parent.name == "figures" and on_site else None


def _balanced(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?:\\.)|([{}])", latex):
        depth += {"{": 1, "}": -1, "": 0}[brace]
        if depth < 0:
            return False
    return depth == 0


class Exporter(HTMLExporter):
    """nbconvert's, with templates and a renderer of our own."""

    def __init__(self, renderer: Renderer):
        folders = [str(paths.ASSETS)]
        super().__init__(extra_template_basedirs=folders, template_name=TEMPLATES.name)  # type: ignore[no-untyped-call]
        self.config.NbConvertBase.display_data_priority = ["image/png", "text/html", "text/markdown", "text/plain"]
        render = MarkdownWithMath(renderer=renderer).render
        self.register_filter("markdown2html", render)  # type: ignore[no-untyped-call]


def _about(figures: Path, name: str) -> dict[str, str]:
    """Title, description and data of a figure, from the JSON beside it."""
    file = figures / f"{name}.json"
    expected = "what figures.save writes (`make reproduce` makes it again)"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        about = {key: about[key] for key in ("title", "description", "data")}
        if not all(isinstance(text, str) and text.strip() for text in about.values()):
            raise ValueError("an empty title, description or data")
    except FileNotFoundError:
        raise DataError(file, expected, "no such file") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(file, expected, f"{type(error).__name__}: {error}") from error
    if not file.with_suffix(".png").is_file():
        raise DataError(file.with_suffix(".png"), expected, "no such file")
    return about


def _size(png: bytes | Path, source: Path, what: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png, formats=["PNG"]) as image:
            image.verify()
            return image.size
    except (OSError, SyntaxError) as error:  # Pillow's own for a broken PNG is a SyntaxError
        raise DataError(source, what, f"{type(error).__name__}: {error}") from error


def _read(path: Path) -> nbformat.NotebookNode:
    """An executed notebook.

    Raises
    ------
    DataError : it is missing, damaged, not executed to its end, or a cell failed
    """
    try:
        node = nbformat.reads(notebook_file.clean(path), as_version=4)
        nbformat.validate(node)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        found = str(error).partition("\n")[0]
        raise DataError(
            path, "a notebook executed to its end (`make notebooks`)", f"{type(error).__name__}: {found}"
        ) from error
    return node


def _pictures(node: nbformat.NotebookNode, path: Path, figures: Path) -> list[Picture]:
    """The pictures of a notebook in order; each output is told what it shows.

    A cell that shows pictures saves them, in the same order, by ``figures.save(figure, "NN_name", ...)``; where a
    loop makes the names, each output is given to the saved picture that it is most like.

    Raises
    ------
    DataError : a picture that is not saved under a name, so that nothing is known of it, or a damaged one
    """
    found = []
    for cell in node.cells:
        if cell.cell_type != "code":
            continue
        outputs = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        names: list[str] = []
        in_order = True
        for varies, name in SAVED.findall(cell.source):
            pattern = re.sub(r"\\\{.*?\\\}", "[a-z0-9_]+", re.escape(name))
            saved = sorted(file.stem for file in figures.glob("*.json") if re.fullmatch(pattern, file.stem))
            names += saved if varies else [name]
            in_order = in_order and not varies
        if len(names) != len(outputs):
            raise DataError(
                path,
                'every picture saved by figures.save(figure, "NN_name", ...) in the cell that shows it',
                f"{len(outputs)} shown and {len(names)} saved in code cell {cell.execution_count}",
            )
        shown = []
        for output in outputs:
            try:
                shown.append(base64.b64decode("".join(output.data["image/png"].split()), validate=True))
            except binascii.Error as error:
                raise DataError(path, f"a picture in code cell {cell.execution_count}", f"{error}") from error
        about = {name: _about(figures, name) for name in names}
        sizes = [_size(png, path, f"a picture in code cell {cell.execution_count}") for png in shown]
        if not in_order:
            saved_as = [_thumbnail(figures / f"{name}.png") for name in names]
            unlike = [[np.abs(_thumbnail(io.BytesIO(png)) - other).mean() for other in saved_as] for png in shown]
            names = [names[k] for k in linear_sum_assignment(unlike)[1]]
        for name, output, png, (width, height) in zip(names, outputs, shown, sizes, strict=True):
            picture = Picture(name, **about[name], png=png, width=width, height=height)
            output.metadata["picture"] = {k: v for k, v in vars(picture).items() if k != "png"}
            found.append(picture)
    return found


def _thumbnail(png: Path | io.BytesIO) -> np.ndarray:
    with Image.open(png) as image:
        return np.asarray(image.convert("L").resize((64, 64)), float)


def _page(path: Path, renderer: Renderer, figures: Path, rows: Sequence[claims.Claim]) -> Page:
    """A notebook as a page."""
    node = _read(path)
    opening = node.cells[0] if node.cells else {"cell_type": "", "source": ""}
    title = re.match(r"# (.+)", opening["source"])
    if opening["cell_type"] != "markdown" or title is None:
        raise DataError(path, "a title, as in `# 01 · What it is about`, in the first cell", "none")
    page = Page(path.stem, title[1].strip(), pictures=_pictures(node, path, figures))
    renderer.anchors.update(picture.name for picture in page.pictures)
    if question := QUESTION.search(opening["source"]):
        page.question = MarkdownWithMath(renderer=renderer).render(question[1])
    page.body, _ = Exporter(renderer).from_notebook_node(node)
    page.sections = renderer.sections
    page.claims = [claim for claim in rows if claim.notebook == path.stem[:2]]
    return page


def _opening(readme: Path, renderer: Renderer) -> str:
    """The README down to its first section: question, answer and key figure; "notebook NN" becomes a link."""
    try:
        text = readme.read_text(encoding="utf-8").partition("\n## ")[0]
    except (OSError, ValueError) as error:
        raise DataError(readme, "the question and the answer", f"{type(error).__name__}") from error
    if not text.startswith("# "):
        raise DataError(readme, "a title, the question and the answer", repr(text[:40]))
    for name in renderer.pages:
        text = re.sub(rf"\bnotebook {name[:2]}\b", f"[notebook {name[:2]}]({name}.ipynb)", text)
    return MarkdownWithMath(renderer=renderer).render(text)


def _differences(deviations: ledger.Ledger, figures: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the page of deviations is made of; notebooks that its table names become links."""
    table = ledger.as_html(ledger.resolved(deviations, figures))
    for name in names:
        table = re.sub(rf"\bnotebook {name[:2]}\b", f'<a href="{name}.html">notebook {name[:2]}</a>', table)
    return {
        "table": table,
        "sections": [{"anchor": ledger.anchor(part), "title": part} for part in deviations],
        "count": sum(map(len, deviations.values())),
        "measured": sum(bool(row.notebooks) for rows in deviations.values() for row in rows),
    }


def _style() -> str:
    """Our style sheet and the colours of code."""
    code = HtmlFormatter(style=JupyterStyle).get_style_defs(".highlight")
    return (TEMPLATES / "site.css").read_text(encoding="utf-8") + code + "\n"


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Make a folder whole or not at all: gives one beside ``target`` and puts it in its place on success."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.partial"):  # of a killed process
        if time.time() - leftover.stat().st_mtime > 600:
            shutil.rmtree(leftover, ignore_errors=True)
    partial, before = (target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial") for _ in range(2))
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            os.replace(target, before)
        try:
            os.replace(partial, target)
        except OSError:
            if before.exists():
                os.replace(before, target)
            raise
    except OSError as error:
        if error.errno in paths.NO_ROOM:  # which names no file, or one of the folder that is gone
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def build(
    target: str | Path | None = None,
    *,
    notebooks: str | Path | None = None,
    figures: str | Path | None = None,
    readme: str | Path | None = None,
    deviations: ledger.Ledger = ledger.LEDGER,
) -> Path:
    """Write the site.

    Parameters
    ----------
    target : the folder to make; left out, ``build/site``. A site that is there already is replaced
    notebooks, figures, readme : where to read from; left out, the project's own
    deviations : the ledger, its numbers still references

    Returns
    -------
    the index page

    Raises
    ------
    DataError : a notebook, figure, README or file of claims that is missing, damaged or says too little; a number that
        the ledger refers to and that is not there; or a target that holds something else. What was there before stays
        as it is.
    """
    target = Path(target or paths.build() / "site")
    notebooks = Path(notebooks or paths.notebooks())
    figures = Path(figures or paths.figures())
    readme = Path(readme or paths.root() / "README.md")
    if target.exists() and not (target / "site.css").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(target, "a site, or nothing yet", "something else, which is left alone")
    files = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not files:
        raise DataError(notebooks, "notebooks named NN_*.ipynb", "none")
    rows = claims.read(figures / claims.FILE)
    sizes = {png.name: _size(png, png, "a picture") for png in sorted(figures.glob("[0-9][0-9]_*.png"))}
    names = [file.stem for file in files]
    pages = [_page(file, Renderer(file, sizes, names), figures, rows) for file in files]

    renderer = Renderer(readme, sizes, names)
    opening = _opening(readme, renderer)
    differences = _differences(deviations, figures, names)
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    home = {
        "title": "BioFaceNet, revisited",
        "body": opening,
        "summary": claims.format_table(rows).splitlines()[-1],
        "count": differences["count"],
        "sections": [
            *renderer.sections,
            {"anchor": "notebooks", "title": "Notebooks"},
            {"anchor": "claims", "title": "Claims"},
            {"anchor": "numbers", "title": "Figures and numbers"},
        ],
    }
    with whole_folder(target) as folder:

        def write(name: str, template: str, **values: Any) -> None:
            text = env.get_template(template).render(here=name, pages=pages, **values)
            (folder / f"{name}.html").write_text(text, encoding="utf-8")

        write("index", "home.html.j2", **home, previous=None, next=pages[0])
        last = Page("deviations", "Where we deviate")
        neighbours = [Page("index", "BioFaceNet, revisited"), *pages, last]
        for k, page in enumerate(pages):
            around = {"previous": neighbours[k], "next": neighbours[k + 2]}
            write(page.name, "page.html.j2", title=page.title, body=page.body, sections=page.sections, **around)
        write(last.name, "deviations.html.j2", title=last.title, **differences, previous=pages[-1], next=None)
        for name in ("pictures", "figures", "notebooks"):
            (folder / name).mkdir()
        for file in files:
            shutil.copyfile(file, folder / "notebooks" / file.name)
        for picture in (picture for page in pages for picture in page.pictures):
            (folder / "pictures" / f"{picture.name}.png").write_bytes(picture.png)
        for png in sizes:
            shutil.copyfile(figures / png, folder / "figures" / png)
            _about(figures, png[:-4])
            shutil.copyfile((figures / png).with_suffix(".json"), (folder / "figures" / png).with_suffix(".json"))
        shutil.copyfile(figures / claims.FILE, folder / "figures" / claims.FILE)
        (folder / "site.css").write_text(_style(), encoding="utf-8")
        shutil.copyfile(TEMPLATES / "site.js", folder / "site.js")
        shutil.copyfile(FONT, folder / "math.ttf")
    return target / "index.html"


def main() -> int:
    """Write the site and say where it is; 2 when something is missing or damaged."""
    try:
        print(f"open {build()}")
    except BiofaceError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(paths.describe(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
