"""The site: pages made of a small project, what stops it, and the real one looked at in Chromium."""

import base64
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium
from bs4 import BeautifulSoup
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from bioface import paths
from bioface.errors import BiofaceError
from study import notebook, site

# MyST-NB uses what the next Sphinx will not have
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")
ROOT = paths.root()  # of the real one: a fixture changes it
EVERY = notebook.every(paths.notebooks())
ALT = 'Two lines: "a" < "b".'
ROW = {"id": "01.x", "what": "a < b_c", "measured": 1.0, "shown": "1", "bar": "≥ 0.5", "unit": "", "passed": False}
ROW |= {"data": "none (arithmetic)", "control": "0", "notebook": "01", "timing": False, "reason": ""}
DEVIATION = "[[Colour]]\ntopic='a < b'\npaper='–'\ncode='`c`'\nours='d'\neffect='It is {01.x}.'\nsource='me'"
PNG = io.BytesIO()
Image.new("RGB", (40, 20), (128, 128, 128)).save(PNG, "PNG")
PIXELS = base64.b64encode(PNG.getvalue()).decode()
SHOWN = new_output("display_data", {"image/png": PIXELS})
FIRST = [
    new_markdown_cell("# 01 · First\n\n**Question.** Is $x^2$ < 3? See [two](02_second.ipynb#parts).\n\n| a |\n|---|"),
    new_markdown_cell("## A\n\n$$\\frac{\\log x}{\\sqrt{2}}$$\n\n[card](../src/bioface/assets/biofacenet.md)"),
    new_code_cell('figures.save(figure, "01_lines", alt="x")', execution_count=1, outputs=[SHOWN]),
    new_code_cell("print('<b>')", execution_count=2, outputs=[new_output("stream", text="<b>\n")]),
]
SECOND = [new_markdown_cell("# 02 · Second\n\n## Parts\n\n[more](appendix/A1_third.ipynb)")]
THIRD = [new_markdown_cell("# A1 · Third\n\n[back](../02_second.ipynb#parts)")]
README = "# Study\n\n**Why?**\n\n![A](figures/01_lines.png)\n\n## Run it\n\n[devs](notebooks/deviations.md) "
README += "[data](data/README.md) [c](CITATION.cff)"
TEXTS = {
    "README.md": README,
    "CITATION.cff": "cff",
    "notebooks/deviations.toml": DEVIATION,
    "notebooks/claims.toml": '[01.x]\nset = 2026-11-26\nheadline = "It is"\nrefuted_by = "a 2"',
    "src/bioface/errors.py": (paths.PACKAGE / "errors.py").read_text(),
    "CONTRIBUTING.md": "# Contributing\n\n[first](notebooks/01_first.ipynb)",
    "figures/claims.json": json.dumps({"claims": [ROW]}),
    "figures/01_lines.json": json.dumps({"title": "lines", "description": ALT, "data": "twin", "numbers": {"a": [1]}}),
}
RECORD = {"id": "01.x", "measured": 0.02286, "model": "layered", "control": "0.0216", "bar": {}, "date": "2026-11-26"}
RECORD |= {"commit": "954dfdb0f8", "data": [{"name": "a.mat", "size": 7, "sha256": "0123456789abcdef"}]}
TEXTS["figures/recorded/measurements.json"] = json.dumps({"rows": [RECORD]})
OTHERS = ("CHANGELOG.md", "data/README.md", "src/bioface/assets/README.md", "src/bioface/assets/biofacenet.md")
TEXTS |= dict.fromkeys(OTHERS, "# Another page")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The site of a project of two notebooks, one module, one claim and one deviation."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(paths.notebooks(), folder / "notebooks", ignore=shutil.ignore_patterns("*.ipynb", "*.toml"))
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "figures" / "01_lines.png").write_bytes(PNG.getvalue())
    for name, cells in (("01_first", FIRST), ("02_second", SECOND), ("appendix/A1_third", THIRD)):
        (folder / "notebooks" / "appendix").mkdir(exist_ok=True)
        notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
        write(notebook, folder / "notebooks" / f"{name}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "root", lambda: folder)
        assert site.build() == folder / "build" / "site" / "index.html"
        yield folder / "build" / "site"


def read(folder, name):
    return BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_links(folder):
    """Whatever a page loads or links to is on the site, but for links to the web."""
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for element, target in set(re.findall(r'<(\w+)\b[^>]*?\s(?:src|href)="([^"]*)"', text)):
            address = urlsplit(html.unescape(target))
            if element != "a" or address.scheme not in ("http", "https"):
                file = page.parent / unquote(address.path) if address.path else page
                assert not address.scheme and file.is_file(), f"{page.name}: {target}"


@pytest.mark.slow
def test_a_page_has_what_its_notebook_has(small):
    page = read(small, "notebooks/01_first")
    assert page.title.string == "01 · First - BioFaceNet, revisited"
    assert page.select_one("article a[href='02_second.html#parts']").get_text() == "two"
    assert page.select_one("article a[href='../src/bioface/assets/biofacenet.html']").get_text() == "card"
    assert len(page.select("math")) == 2 and "$" not in page.article.get_text()
    assert page.select_one("math[display=block] msqrt") and page.select_one("mspace")
    assert page.select_one(".cell_output pre").get_text() == "<b>\n"
    assert page.select_one(".table-wrapper table")
    assert page.figure["id"] == "figure-01-lines" and "lines. Data: twin." in page.figcaption.get_text()
    picture = page.select_one("figure img")
    assert picture["alt"] == ALT and (small / "notebooks" / picture["src"]).read_bytes() == PNG.getvalue()
    numbers, larger = (small / "notebooks" / a["href"] for a in page.select("figcaption a[download]"))
    assert json.loads(numbers.read_text())["numbers"] == {"a": [1]} and larger.read_bytes() == PNG.getvalue()
    assert page.select_one("article a[href$='01_first.ipynb'][download]")


@pytest.mark.slow
def test_the_other_pages(small):
    home = read(small, "index")
    assert home.h1.find(string=True) == "Study" and home.select_one("article img")["alt"] == "A"
    appendix = home.find(string="Appendix").find_next("a")
    assert (appendix["href"], appendix.get_text()) == ("notebooks/appendix/A1_third.html", "A1 · Third")
    assert read(small, "notebooks/appendix/A1_third").select_one("article a[href='../02_second.html#parts']")
    assert "Run it" not in home.article.get_text() and "Run it" in read(small, "README").article.get_text()
    assert read(small, "README").select_one("article a[href='data/README.html']")
    assert read(small, "CONTRIBUTING").select_one("article a[href='notebooks/01_first.html']")
    claim = [cell.get_text() for cell in read(small, "notebooks/claims").select("tbody td")]
    assert claim[0] == "01.x: a < b_c; beside it: 0; headline, would be refuted by: a 2"
    assert claim[1:5] == ["1", "≥ 0.5, 2026-11-26", "FAIL", "none (arithmetic)"]
    assert claim[5:8] == ["01.x", "2026-11-26", "0.02286; beside it: 0.0216"]
    assert claim[8:] == ["layered", "a.mat, 7 bytes, SHA-256 0123456789ab…", "954dfdb0f8"]
    deviations = read(small, "notebooks/deviations").select_one(".table-wrapper.container > table")
    row = [cell.get_text() for cell in deviations.select("tbody td")]
    assert row[:5] == ["a < b", "–", "c", "d", "It is 1."]
    module = read(small, "api/bioface.errors")
    assert module.find(id="bioface.errors.unknown_name")
    items = [item.get_text() for item in module.find(id="bioface.errors.DataError").parent.select("li")]
    assert items[0] == "path: the file (or folder) at fault; its name opens the message"


@pytest.mark.slow
def test_links_lead_somewhere_and_the_same_sources_give_the_same_site(small):
    check_links(small)
    before = contents(small)
    (small / "stray.html").write_text("of an older site")
    site.build()
    assert contents(small) == before
    assert [p.name for p in small.parent.iterdir()] == ["site"]


NOTEBOOK, CLAIMS, LINES = "notebooks/01_first.ipynb", "figures/claims.json", "figures/01_lines.json"
DAMAGED = [
    (NOTEBOOK, "{", "", f"^/.*/{NOTEBOOK}: expected a notebook"),
    (NOTEBOOK, "01_lines", "lines", f"^/.*/{NOTEBOOK}: .* its pictures saved in figures/, .* is longer"),
    (LINES, '"description"', '"sense"', f"^/.*/{NOTEBOOK}: .*'description'"),
    (CLAIMS, '{"claims"', '{"blame"', f"^/.*/{CLAIMS}: .* KeyError"),
    ("notebooks/conf.py", "import re", "import nothing", "^/.*/notebooks: .*'nothing'"),
]
NOWHERE = [  # or nothing said; all are named at once
    ("README.md", "![A]", "![]", "README.md:: WARNING: expected an alternative text"),
    ("README.md", "figures/01", "figures/02", r"figures/02_lines.png \[image.not_readable"),
    ("README.md", "data/README.md", "data/none.md", "'data/none.md'"),
    (NOTEBOOK, "02_second", "03_third", "'03_third.ipynb"),
    (NOTEBOOK, "\\\\sqrt{2}", "\\\\sqroot{2}", "sqroot, which MathML does not know"),
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [*([change] for change in DAMAGED), NOWHERE])
def test_what_is_damaged_or_leads_nowhere_is_named_and_the_old_site_stays(small, changes):
    before, project = contents(small), small.parents[1]
    texts = {name: (project / name).read_text(encoding="utf-8") for name, *_ in changes}
    for name, old, new, _ in changes:
        text = (project / name).read_text(encoding="utf-8")
        assert old in text
        (project / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(BiofaceError) as caught:
        site.build()
    for name, text in texts.items():
        (project / name).write_text(text, encoding="utf-8")
    for *_, words in changes:
        assert re.search(words, str(caught.value), re.DOTALL)
    assert contents(small) == before and [p.name for p in small.parent.iterdir()] == ["site"]


def test_a_folder_of_something_else_is_left_alone_and_builds_do_not_harm_each_other(tmp_path, monkeypatch, capsys):
    beside = []  # what happens during a build

    def quick(source, conf, pages, *_, **__):
        """In Sphinx's place: one page."""

        def build():
            while beside:
                beside.pop()()
            pages.mkdir()
            (pages / "site.css").write_text("new")

        return SimpleNamespace(build=build)

    monkeypatch.setattr(site, "Sphinx", quick)
    monkeypatch.setattr(paths, "build", lambda: tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("mine")
    assert site.main() == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'site'}: expected a site, or nothing yet")
    (tmp_path / "site" / "mine.txt").rename(tmp_path / "site" / "site.css")
    beside.append(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        site.build()
    assert contents(tmp_path) == {"site/site.css": b"mine"}
    beside.append(site.build)
    assert site.main() == 0
    assert contents(tmp_path) == {"site/site.css": b"new"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real site, made by the command in a folder of its own."""
    folder = tmp_path_factory.mktemp("real")
    # its lines are counted where the small one is built; counting these would take as long again
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    environment |= {"BIOFACE_BUILD": str(folder)}
    done = subprocess.run([sys.executable, "-m", "study.site"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"open {folder / 'site' / 'index.html'}\n"), done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def page(real):
    """A page of Chromium; what it loads and complains of in all tests is looked at in the end."""
    with chromium() as new:
        yield (page := new())
    assert page.errors == page.failures == []
    assert {urlsplit(address).scheme for address in page.requests} == {"file"}


@pytest.mark.slow
def test_links_of_the_real_site(real):
    check_links(real)
    notebooks = {path.relative_to(ROOT).with_suffix("").as_posix() for path in EVERY}
    pages = {page.relative_to(real).with_suffix("").as_posix() for page in real.rglob("*.html")}
    assert {"index", "README", "notebooks/claims", "notebooks/deviations", "api/bioface.skin", *notebooks} <= pages


# what reaches beyond the screen and is in no box that scrolls
BEYOND = """[...document.querySelectorAll('article *')].filter((e) => {
  for (let p = e; p.tagName !== 'ARTICLE'; p = p.parentElement)
    if (getComputedStyle(p).overflowX === 'auto' && p.getBoundingClientRect().right <= innerWidth) return false;
  return e.getBoundingClientRect().right > innerWidth + 0.5;
}).map((e) => e.outerHTML.slice(0, 80))"""
# the theme's navigation; Sphinx's signatures on several lines, corners of tables; boxes that scroll are the browser's
KNOWN = {"aria-required-attr", "landmark-unique", "definition-list", "empty-table-header"}
KNOWN |= {"scrollable-region-focusable"}
LONG = 80_000  # bytes: what is longer has the same kinds of elements, which axe looks at in light alone


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_real_site_in_a_browser(real, page, width, scheme):
    """Nothing is cut off or missing, and axe finds no fault: contrast, alternative text, boxes that scroll, names, …"""
    modules = sorted(real.glob("api/*.html"))[::20]
    for file in [*real.glob("[!s]*.html"), *real.glob("data/*.html"), *real.glob("notebooks/**/*.html"), *modules]:
        page.open(file, width, 900, scheme)
        assert page.run("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)") == []
        assert page.run("document.documentElement.scrollWidth") <= width and page.run(BEYOND) == [], file.name
        assert page.run("[...document.querySelectorAll('math')].every((m) => m.getBoundingClientRect().width > 0)")
        background = page.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
        assert (int(background) > 128) == (scheme == "light")
        if scheme == "dark" and file.stat().st_size > LONG:
            continue
        found = Axe().run(page.page, options={"preload": False, "resultTypes": ["violations"]})
        faults = {fault["id"]: fault["nodes"][0]["html"] for fault in found.response["violations"]}
        assert not faults.keys() - KNOWN, (file.name, faults)


@pytest.mark.slow
def test_the_first_screen_shows_the_question_the_answer_and_faces(real, page):
    page.open(real / "index.html", 1280, 900)
    ends = page.run("[...document.querySelectorAll('article p, article img')].map((e) => e.getBoundingClientRect())")
    texts = page.run("[...document.querySelectorAll('article p')].map((e) => e.textContent.split('.')[0])")
    assert texts[:2] == ["Question", "Answer"] and ends[1]["bottom"] < 900
    top = page.run("document.querySelector('article img').getBoundingClientRect().top")
    assert top < 700, "enough of the picture to see a row of faces"


@pytest.mark.slow
def test_the_keyboard_skips_and_reaches_what_lies_beside_the_screen_and_boxes_that_scroll(real, page):
    page.open(real / "notebooks" / "claims.html", 390, 900)
    page.press("Tab")
    assert page.run("document.activeElement.hash") == "#furo-main-content"
    page.wait("document.activeElement.getBoundingClientRect().top >= 0")
    page.press("Tab", 4)
    page.wait("document.activeElement.closest('.sidebar-drawer').getBoundingClientRect().left === 0")
    page.run("document.querySelector('article a.download').focus()")
    page.press("Tab")
    page.press("ArrowRight", 3)
    page.wait("document.activeElement.matches('.table-wrapper') && document.activeElement.scrollLeft > 0")
