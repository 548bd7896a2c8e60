"""The site by Sphinx and MyST-NB, which ``make site`` builds (:mod:`study.site`): nothing is executed, nothing fetched.

Pages keep their places in the checkout, so that links between them lead somewhere here and there.
"""

import base64
import json
import re
import shutil
from pathlib import Path

import jinja2
import matplotlib
import nbformat
from docutils import nodes
from latex2mathml import converter
from sphinx.util import logging

from bioface import paths
from bioface.errors import DataError
from study import claims, ledger, notebook

project = html_title = "BioFaceNet, revisited"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_static_path = ["_static", str(Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_use_index = html_domain_indices = html_show_copyright = html_show_sphinx = False
html_show_search_summary = False  # it would fetch pages, which browsers refuse from disk
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # else scripts from a network
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

PAGES = ("*.md", "*.cff", "data/README.md", "src/bioface/assets/*.md")
FIGURE = """```{{figure}} /pictures/{name}.png
:name: figure-{name}
:alt: {description}
{title}. Data: {data}. [Numbers of {title} (JSON)](/figures/{name}.json),
[larger picture of {title} (PNG)](/figures/{name}.png)
```"""
logger = logging.getLogger(__name__)


def gather(app, config):
    """Copy the pages into the source folder, fill what is a template, and write a page for each module."""
    source, root = Path(app.srcdir), paths.root()
    for folder in ("api", "pictures", "data", "notebooks/appendix", "src/bioface/assets"):
        (source / folder).mkdir(parents=True)
    (source / "figures").symlink_to(paths.figures())
    for page in [*notebook.every(paths.notebooks()), *(page for pattern in PAGES for page in root.glob(pattern))]:
        shutil.copyfile(page, source / page.relative_to(root))
    tables = {
        "claims": claims.read(),
        "declared": claims.declared(),
        "records": claims.records(),
        "deviations": ledger.table().data,
    }
    for page in paths.notebooks().glob("*.md"):
        target = source / ("" if page.stem == "index" else "notebooks") / page.name
        jinja2.Template(page.read_text("utf-8"), trim_blocks=True).stream(tables).dump(str(target))
    for file in root.glob("src/*/**/[a-z]*.py"):
        name = ".".join(file.relative_to(root / "src").with_suffix("").parts)
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
        (source / "api" / f"{name}.rst").write_text(text, encoding="utf-8")


def tell_pictures(app, docname, text):
    """Give the pictures of a notebook what was said of them when they were saved, in the order in which a cell did."""
    file = paths.root() / f"{docname}.ipynb"
    if not file.is_file():
        return
    try:
        notebook = nbformat.reads(text[0], 4)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            shown = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            saved = re.findall(rf"[\"']({file.name[:2]}_\w+)[\"']", cell.source) if shown else []
            for name, output in zip(saved, shown, strict=True):
                about = json.loads((paths.figures() / f"{name}.json").read_text(encoding="utf-8"))
                picture = Path(app.srcdir, "pictures", f"{name}.png")
                picture.write_bytes(base64.b64decode(output.data["image/png"]))
                output.data = {"text/markdown": FIGURE.format(name=name, **about)}
        notebook.cells.append(nbformat.v4.new_markdown_cell(f"{{download}}`This notebook as a file <{file.name}>`"))
        text[0] = nbformat.writes(notebook)
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise DataError(file, "a notebook executed to its end, its pictures saved in figures/", repr(error)) from error


def expect_alternatives(app, doctree):
    """Warn of a picture that does not say what it shows."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning("expected an alternative text for every picture, found none", location=image)


def itemise(app, what, name, obj, options, lines):
    """Make lists of the sections of a docstring, their heads underlined and their items ``name : text``."""
    text = re.sub(r"(``.*?``)|\|", lambda bar: bar[1] or r"\|", "\n".join(lines))
    text = re.sub(r"(?m)^(\w+)\n-+$", r"**\1**\n", text)
    items = r"(?m)^([\w*][\w*, ]*) : (.*(?:\n {4}.*)*)"
    text = re.sub(items, lambda item: f"- **{item[1]}**: " + re.sub(r"\n +", "\n  ", item[2]), text)
    lines[:] = text.split("\n")


def draw_formula(self, node):
    """Write a formula as MathML, which browsers draw by themselves."""
    latex = node.astext().strip()
    try:
        drawn = converter.convert(latex, display="block" if isinstance(node, nodes.math_block) else "inline")
        if unknown := re.search(r"(?:\\|&#x0005C;)([A-Za-z]+)", re.sub(r"<[^>]*>", " ", drawn)):
            raise ValueError(f"{unknown[1]}, which MathML does not know")
        before_a_letter = r"(<(m[io])>(?:exp|ln|log|max|min)</\2>)(?=<m[isur])"
        self.body.append(re.sub(before_a_letter, r'\1<mspace width="0.167em" />', drawn))
    except Exception as error:  # it has a dozen of its own and lets others through
        logger.warning("expected a formula in LaTeX, found %r: %r", latex, error, location=node)
    raise nodes.SkipNode


def setup(app):
    """Tell Sphinx when to call what."""
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_formula, None))
    app.connect("config-inited", gather)
    app.connect("source-read", tell_pictures)
    app.connect("doctree-read", expect_alternatives)
    app.connect("autodoc-process-docstring", itemise)
