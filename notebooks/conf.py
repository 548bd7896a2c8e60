"""The site by Sphinx and MyST-NB; ``make site`` builds it (:mod:`study.site`).

Pages keep their places in the checkout, so that links between them lead somewhere here and there. Nothing is executed,
and a page loads nothing from any network: formulas become MathML here, which browsers draw by themselves.
"""

import base64
import html
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import matplotlib
import nbformat
from docutils import nodes
from latex2mathml import converter
from PIL import Image
from sphinx.util import logging

from bioface import paths
from bioface.errors import DataError
from study import claims, ledger

logger = logging.getLogger(__name__)
project = html_title = "BioFaceNet, revisited"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
# the font has the letters of formulas
html_static_path = ["_static", str(Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))]
html_css_files = ["site.css"]
html_copy_source = html_use_index = html_domain_indices = html_show_copyright = html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which browsers refuse from disk
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # else scripts from a network
myst_enable_extensions = ["amsmath", "dollarmath", "substitution"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
html_math_renderer = "mathml"

PAGES = ("*.md", "*.cff", "data/README.md", "src/bioface/assets/*.md", "notebooks/**/*.ipynb")
SAVED = re.compile(r"figures\.save\(\s*\w+,\s*[\"'](\d\d_\w+)[\"']")
FIGURE = """```{{figure}} /pictures/{name}.png
:name: figure-{name}
:alt: {description}

{title}. Data: {data}. {{download}}`Numbers (JSON) of {title} </figures/{name}.json>`,
{{download}}`larger picture (PNG) of {title} </figures/{name}.png>`
```"""


def gather(app, config):
    """Copy the pages into the source folder, write those of modules, and make the tables of two others."""
    source, root = Path(app.srcdir), paths.root()
    (source / "pictures").mkdir()
    (source / "figures").symlink_to(paths.figures())
    for page in itertools.chain.from_iterable(map(root.glob, PAGES)):
        (source / page.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, source / page.relative_to(root))
    for page in paths.notebooks().glob("*.md"):
        shutil.copyfile(page, source / page.name)
    (source / "api").mkdir()
    for file in root.glob("src/*/**/[a-z]*.py"):
        name = ".".join(file.relative_to(root / "src").with_suffix("").parts)
        page = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
        (source / "api" / f"{name}.rst").write_text(page, encoding="utf-8")
    deviations = f'<div class="table-wrapper">\n{ledger.as_html(ledger.resolved())}\n</div>'
    config.myst_substitutions = {"claims": table_of_claims(claims.read()), "deviations": deviations}


def table_of_claims(rows):
    """All claims in Markdown: for each notebook a heading and a table."""
    lines = [claims.format_table(rows).splitlines()[-1]]
    for notebook, group in itertools.groupby(rows, lambda row: row.notebook):
        lines += ["", f"## Notebook {notebook}", "", "| what | measured | bar | verdict | data |", "|---" * 5 + "|"]
        for row in group:
            what = f"{row.what} · {row.control or row.reason}".removesuffix(" · ")
            cells = (row.id, what, f"{row.shown} {row.unit}", f"{row.bar} {row.unit}", row.verdict, row.data)
            plain = [re.sub(r"([\\`*_|<$\[\]])", r"\\\1", cell) for cell in cells]
            lines.append("| **{}**: {} | {} | {} | {} | {} |".format(*plain))
    return "\n".join(lines)


def tell_pictures(app, docname, text):
    """Give each picture of a notebook what was said of it when it was saved: alternative text, title, data, numbers.

    A cell that shows pictures saves them, in the same order, by ``figures.save(figure, "NN_name", ...)``.
    """
    file = paths.root() / f"{docname}.ipynb"
    if not file.is_file():
        return
    try:
        notebook = nbformat.reads(text[0], 4)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            if cell.execution_count is None:
                raise ValueError("a cell that was not")
            shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            for name, output in zip(SAVED.findall(cell.source), shown, strict=True):
                about = json.loads((paths.figures() / f"{name}.json").read_text(encoding="utf-8"))
                png = base64.b64decode(output.data["image/png"])
                Image.open(io.BytesIO(png)).verify()
                Path(app.srcdir, "pictures", f"{name}.png").write_bytes(png)
                output.data = {"text/markdown": FIGURE.format(name=name, **about)}
        link = f"{{download}}`This notebook as a file <{file.name}>`"
        notebook.cells.append(nbformat.v4.new_markdown_cell(link))
        text[0] = nbformat.writes(notebook)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, SyntaxError) as error:  # the last is Pillow's
        found = f"{type(error).__name__}: {error}"
        raise DataError(file, "a notebook executed to its end, its pictures saved in figures/", found) from error


def expect_alternatives(app, doctree):
    """Warn of a picture that does not say what it shows."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning("expected an alternative text for every picture, found none", location=image)


def itemise(app, what, name, obj, options, lines):
    """The sections of a docstring, their heads underlined and their items ``name : text``, as lists."""
    text = re.sub(r"(``.*?``)|\|", lambda bar: bar[1] or r"\|", "\n".join(lines))
    text = re.sub(r"(?m)^(\w+)\n-+$", r"**\1**\n", text)
    items = r"(?m)^([\w*][\w*, ]*) : (.*(?:\n {4}.*)*)"
    text = re.sub(items, lambda item: f"- **{item[1]}**: " + re.sub(r"\n +", "\n  ", item[2]), text)
    lines[:] = text.split("\n")


def formula(display):
    """What draws a formula as MathML: "inline" or as a "block"."""

    def visit(self, node):
        try:
            drawn = converter.convert(node.astext().strip(), display=display)
            drawn = re.sub(
                r"(<(m[io])>(?:exp|ln|log|max|min)</\2>)(?=<m[isur])", r'\1<mspace width="0.167em" />', drawn
            )
            if unknown := re.search(r"\\[A-Za-z]+", html.unescape(re.sub(r"<[^>]*>", " ", drawn))):
                raise ValueError(f"{unknown[0]}, which MathML does not know")
            self.body.append(drawn)
        except Exception as error:  # it has a dozen of its own and lets others through
            logger.warning("expected a formula in LaTeX, found %r: %r", node.astext(), error, location=node)
        raise nodes.SkipNode

    return visit, None


def setup(app):
    """Where Sphinx calls what."""
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("config-inited", gather)
    app.connect("source-read", tell_pictures)
    app.connect("doctree-read", expect_alternatives)
    app.connect("autodoc-process-docstring", itemise)
