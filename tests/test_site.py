"""The site: pages made of small notebooks, what stops it, and the real one looked at in Chromium."""

import base64
import io
import json
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from browser import CHROMIUM, Page
from bs4 import BeautifulSoup
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from bioface import paths
from bioface.errors import BiofaceError, DataError
from study import ledger, notebook_file, site
from study.ledger import Deviation

ALT = 'Two lines: "a" < "b".'
DEVIATIONS = {
    "Colour & light": (
        Deviation("a < b", "–", "`c`", "d", "It is {01.x}, and {01_lines:a}.", "me"),
        Deviation("e", "–", "–", "d", "Not measured: no file.", "unverified"),
    )
}


def png(shade=128, size=(40, 20)):
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def shown(*pictures):
    return [new_output("display_data", {"image/png": base64.b64encode(p).decode()}) for p in pictures]


def save_notebook(folder, name, cells):
    count = 0
    for cell in cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    write(new_notebook(cells=cells, metadata=notebook_file.METADATA), folder / "notebooks" / f"{name}.ipynb")


def save_figure(folder, name, picture=None):
    (folder / "figures" / f"{name}.png").write_bytes(picture or png())
    about = {"title": name[3:], "description": ALT, "notebook": "", "data": "twin (synthetic)", "numbers": {"a": [1]}}
    (folder / "figures" / f"{name}.json").write_text(json.dumps(about))


@pytest.fixture
def project(tmp_path):
    """Two notebooks, their figures, claims, a README."""
    for name in ("notebooks", "figures"):
        (tmp_path / name).mkdir()
    opening = "# 01 · First: of two\n\n**Question.** Is $x^2$ < 3?\n\n**Answer.** See [two](02_second.ipynb#claims)."
    cells = [
        new_markdown_cell(opening),
        new_markdown_cell(
            "## A & B\n\n$$\\frac{\\log x}{\\sqrt{2}}$$\n\n[code](../src/bioface/site.py) [net](https://x.org/)"
        ),
        new_code_cell('figures.save(figure, "01_lines", numbers={}, alt="x")\nplt.show()', outputs=shown(png())),
        new_code_cell("print('<b>')", outputs=[new_output("stream", text="<b>\n")]),
        new_markdown_cell("## A & B\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
    ]
    save_notebook(tmp_path, "01_first", cells)
    save_notebook(tmp_path, "02_second", [new_markdown_cell("# 02 · Second\n\n## Claims")])
    save_figure(tmp_path, "01_lines")
    row = {"id": "01.x", "what": "a < b", "measured": 1.0, "shown": "1", "bar": "≥ 0.5", "unit": "", "passed": True}
    row |= {"data": "none (arithmetic)", "control": "0", "notebook": "01", "timing": False, "reason": ""}
    (tmp_path / "figures" / "claims.json").write_text(json.dumps({"claims": [row]}))
    readme = "# Study\n\n**Why?** See notebook 02.\n\n![Two lines](figures/01_lines.png)\n\n## Run it\n\nno more\n"
    (tmp_path / "README.md").write_text(readme)
    return tmp_path


def build(folder):
    places = {"notebooks": folder / "notebooks", "figures": folder / "figures", "readme": folder / "README.md"}
    return site.build(folder / "site", **places, deviations=DEVIATIONS)


def read(folder, name):
    return BeautifulSoup((folder / "site" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_links(folder):
    """Everything a page loads is on the site; every link leads somewhere."""
    ids = {
        p.name: {e["id"] for e in BeautifulSoup(p.read_text(), "html.parser").select("[id]")}
        for p in folder.glob("*.html")
    }
    for page in folder.glob("*.html"):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        named = [e["id"] for e in soup.select("[id]")]
        assert len(named) == len(set(named)), f"{page.name}: one id twice"
        for element in soup.select("[src], link[href]"):
            address = element.get("src") or element["href"]
            assert address == "data:," or (folder / address).is_file(), f"{page.name}: {address}"
        for link in soup.select("a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme in ("http", "https"):
                continue
            file = unquote(parts.path) or page.name
            assert (folder / file).is_file(), f"{page.name}: {link['href']}"
            assert not parts.fragment or parts.fragment in ids[file], f"{page.name}: {link['href']}"
    assert "url(" not in re.sub(r'url\("math.ttf"\)', "", (folder / "site.css").read_text())


def test_a_page_has_what_its_notebook_has(project):
    assert build(project) == project / "site" / "index.html"
    page = read(project, "01_first")
    assert page.title.string == "01 · First: of two · BioFaceNet, revisited"
    assert [a.get_text() for a in page.select(".sections a")] == ["A & B", "A & B"]
    assert [h["id"] for h in page.select("h2")] == ["a-b", "a-b-1"]
    assert page.select_one("main a[href='02_second.html#claims']").string == "two"
    assert page.select_one("main a[href='https://x.org/']") and "code" in page.main.get_text()
    assert not page.select("main a[href*='site.py']")
    assert len(page.select("math")) == 2 and "$" not in page.main.get_text()
    assert page.select_one("math[display=block] msqrt") and page.select_one("mspace")
    assert page.select_one("pre.output").string == "<b>\n"
    assert page.figure["id"] == "01_lines"
    picture = page.select_one("figure img")
    assert (picture["alt"], picture["width"], picture["height"]) == (ALT, "40", "20")
    assert [a["href"] for a in page.select("figcaption a")] == ["figures/01_lines.json", "figures/01_lines.png"]
    assert (project / "site" / picture["src"]).read_bytes() == png()
    assert page.select_one("[rel=next]")["href"] == "02_second.html"
    assert page.select_one("header [aria-current]")["href"] == "01_first.html"
    assert read(project, "02_second").select_one("[rel=prev]")["href"] == "01_first.html"


def test_the_index_has_question_answer_key_figure_claims_and_numbers(project):
    build(project)
    page = read(project, "index")
    assert page.h1.string == "Study" and "no more" not in page.get_text()
    assert page.select_one("main p a")["href"] == "02_second.html"
    assert page.select_one("main img")["alt"] == "Two lines"
    row = page.find(id="claim-01.x").find_all(("th", "td"))
    assert [cell.get_text().strip() for cell in row] == [
        "a < bbeside it: 0",
        "1",
        "≥ 0.5",
        "PASS",
        "none (arithmetic)",
    ]
    assert page.select_one(".card math"), "the question"
    assert page.select_one(".numbers td a")["href"] == "figures/01_lines.json"
    assert json.loads((project / "site" / "figures" / "01_lines.json").read_text())["numbers"] == {"a": [1]}


def test_the_page_of_deviations_has_every_row_with_its_numbers(project):
    build(project)
    page = read(project, "deviations")
    rows = [[cell.get_text() for cell in row.find_all(("th", "td"))] for row in page.select("tbody tr:not(.group)")]
    assert rows[0] == ["a < b", "–", "c", "d", "It is 1, and 1.", "me; effect: notebook 01"]
    assert rows[1][4:] == ["Not measured: no file.", "unverified"]
    assert page.select_one(".scroll[data-label=deviations] > table thead th[scope=col]").string == "what"
    assert page.select_one("td a")["href"] == "01_first.html"
    assert "1 of 2 have one" in page.main.p.get_text()
    assert page.select_one(".sections a")["href"] == "#ledger-colour-light"
    assert page.select_one("header [aria-current]").string == "Where we deviate"
    assert page.select_one("[rel=prev]")["href"] == "02_second.html" and not page.select("[rel=next]")
    assert read(project, "02_second").select_one("[rel=next]")["href"] == "deviations.html"
    assert read(project, "index").select_one(".card a[href='deviations.html']")


def test_links_lead_somewhere_and_the_same_sources_give_the_same_site(project):
    build(project)
    check_links(project / "site")
    before = contents(project / "site")
    (project / "site" / "stray.html").write_text("of an older site")
    build(project)
    assert contents(project / "site") == before
    assert [p.name for p in project.iterdir() if "partial" in p.name] == []


def test_pictures_named_in_a_loop_go_by_likeness(project):
    source = 'for name in names:\n    figures.save(figure, f"02_{name}_face", alt="x")'
    save_notebook(
        project,
        "02_second",
        [new_markdown_cell("# 02 · Second"), new_code_cell(source, outputs=shown(png(250), png(5)))],
    )
    save_figure(project, "02_dark_face", png(3))
    save_figure(project, "02_fair_face", png(240))
    build(project)
    assert [f["id"] for f in read(project, "02_second").select("figure")] == ["02_fair_face", "02_dark_face"]


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace(name, text):
    return lambda folder: (folder / name).write_text(text)


def change(name, old, new):
    def edit(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


FIRST = "notebooks/01_first.ipynb"


@pytest.mark.parametrize(
    ("spoil", "file", "says"),
    [
        (replace(FIRST, "{"), FIRST, "expected a notebook"),
        (change(FIRST, '"execution_count": 2', '"execution_count": null'), FIRST, "not executed"),
        (change(FIRST, '"source"', '"sauce"'), FIRST, "expected a notebook"),
        (change(FIRST, "# 01", "01"), FIRST, "expected a title"),
        (change(FIRST, "figures.save", "savefig"), FIRST, "1 shown and 0 saved in code cell 1"),
        (change(FIRST, base64.b64encode(png()).decode()[40:60], "!"), FIRST, "a picture in code cell 1"),
        (change(FIRST, base64.b64encode(png()).decode()[60:], "AAAA"), FIRST, "a picture in code cell 1"),
        (change(FIRST, "\\\\sqrt", "\\\\sqroot"), FIRST, "sqroot"),
        (change(FIRST, "\\\\frac{", "\\\\frac}{"), FIRST, "expected a formula"),
        (remove("figures/01_lines.json"), "figures/01_lines.json", "no such file"),
        (replace("figures/01_lines.json", "[]"), "figures/01_lines.json", "TypeError"),
        (change("figures/01_lines.json", json.dumps(ALT), '""'), "figures/01_lines.json", "empty"),
        (remove("figures/01_lines.png"), "figures/01_lines.png", "no such file"),
        (replace("figures/01_lines.png", "text"), "figures/01_lines.png", "expected a picture"),
        (remove("figures/claims.json"), "figures/claims.json", "no such file"),
        (replace("figures/claims.json", "{}"), "figures/claims.json", "KeyError"),
        (replace("figures/claims.json", '{"claims": []}'), "figures/claims.json", "a measured claim 01.x"),
        (remove("README.md"), "README.md", "expected the question"),
        (replace("README.md", "nothing"), "README.md", "expected a title"),
        (change("README.md", "![Two lines]", "![]"), "README.md", "alternative text"),
        (change("README.md", "01_lines", "01_other"), "README.md", "pictures from figures/"),
    ],
)
def test_what_is_missing_or_damaged_is_named_and_the_old_site_stays(project, spoil, file, says):
    build(project)
    before = contents(project / "site")
    spoil(project)
    with pytest.raises(BiofaceError) as caught:
        build(project)
    assert str(caught.value).startswith(f"{project / file}: ") and says in str(caught.value)
    assert contents(project / "site") == before
    assert [p.name for p in project.iterdir() if "partial" in p.name] == []


def test_no_notebooks_at_all(project):
    for file in (project / "notebooks").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="expected notebooks named"):
        build(project)
    assert not (project / "site").exists()


def test_a_folder_of_something_else_is_left_alone(project):
    (project / "site").mkdir()
    (project / "site" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="left alone"):
        build(project)
    assert (project / "site" / "mine.txt").read_text() == "mine"


def test_an_interrupted_build_leaves_the_old_site(project, monkeypatch):
    build(project)
    before = contents(project / "site")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(site.shutil, "copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(project)
    assert contents(project / "site") == before
    assert [p.name for p in project.iterdir() if "partial" in p.name] == []


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "notebooks", lambda: tmp_path / "none")
    assert site.main() == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'none'}: expected notebooks")


def luminance(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def test_every_colour_is_read_on_page_and_box():
    css = (site.TEMPLATES / "site.css").read_text()
    schemes = [
        dict(re.findall(r"--([a-z]+): (#\w{6});", block))
        for block in css.split("/* The style of code")[0].split("@media")
    ]
    assert [scheme["page"] for scheme in schemes] == ["#ffffff", "#17191c"]
    for scheme in schemes:
        assert scheme.keys() == schemes[0].keys()
        for name in scheme.keys() - {"page", "box", "line"}:
            for below in ("page", "box"):
                light, dark = sorted((luminance(scheme[name]), luminance(scheme[below])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, below)


# The contrast of every text with what lies below it, least first; and what is below 4.5.
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const below = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] !== 0) throw new Error("half transparent");
    }
  };
  const found = new Map();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(below(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.set(`${element.tagName}.${element.className}`, ratio);
  }
  return {count: found.size, bad: [...found].filter(([, ratio]) => ratio < 4.5)};
})()"""
BOXES = "[...document.querySelectorAll('.scroll')].filter((b) => b.scrollWidth > b.clientWidth)"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real site, and a page of Chromium that asks for light or dark, wide or narrow."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("real")
    site.build(folder / "site")
    page = Page(folder)
    page.ask("Network.enable")
    try:
        yield folder / "site", page
    finally:
        page.close()


def visit(page, file, width, scheme="light"):
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.ask("Page.navigate", url="about:blank")
    page.ask("Page.navigate", url=file.as_uri())
    page.wait(f"location.href === {file.as_uri()!r} && document.readyState === 'complete'", file.name)


@pytest.mark.slow
def test_links_of_the_real_site(real):
    check_links(real[0])
    assert {p.stem for p in real[0].glob("*.html")} == {
        "index",
        "deviations",
        *(p.stem for p in paths.notebooks().glob("*.ipynb")),
    }
    page = BeautifulSoup((real[0] / "deviations.html").read_text(encoding="utf-8"), "html.parser")
    shown = [cell.get_text() for cell in page.select("main table th, main table td")]
    table = BeautifulSoup(ledger.as_html(ledger.resolved()), "html.parser")
    assert shown == [cell.get_text() for cell in table.select("th, td")]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_real_site_in_a_browser(real, width):
    folder, page = real
    for file in sorted(folder.glob("*.html")):
        visit(page, file, width)
        page.run("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager' })")
        page.wait("[...document.images].every((i) => i.complete)", "pictures")
        page.run("document.fonts.ready.then(() => true)")
        assert page.run("[...document.images].filter((i) => !i.naturalWidth || !i.alt.trim()).map((i) => i.src)") == []
        assert page.run("document.documentElement.scrollWidth") <= width, file.name
        overflowing = (
            "[...document.querySelectorAll('main *, header *, footer *')].filter((e) => !e.closest('.scroll'))"
        )
        assert page.run(f"{overflowing}.filter((e) => e.getBoundingClientRect().right > innerWidth).length") == 0, (
            file.name
        )
        assert page.run("[...document.querySelectorAll('math')].every((m) => m.getBoundingClientRect().width > 0)")
        page.wait(f"{BOXES}.every((b) => b.tabIndex === 0 && b.getAttribute('aria-label'))", "boxes by keyboard")
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.ask("Emulation.setEmulatedMedia", features=features)
            contrast = page.run(CONTRAST)
            assert contrast["count"] > 5 and contrast["bad"] == [], (file.name, scheme)
    assert page.complaints == [] and page.failures == []
    assert {urlsplit(address).scheme for address in page.requests} <= {"file", "data", "about"}


@pytest.mark.slow
def test_the_keyboard_reaches_navigation_first(real):
    folder, page = real
    first = sorted(folder.glob("[0-9]*.html"))[0]
    visit(page, first, 1280)
    focused = []
    for _ in range(40):
        page.press("Tab")
        focused.append(page.run("document.activeElement.getAttribute('href') ?? document.activeElement.tagName"))
    pages = len(list(folder.glob("*.html")))
    assert focused[0] == "#text" and focused[1] == "index.html" and focused[2] == first.name
    assert all(address.endswith(".html") for address in focused[1 : pages + 1])
    sections = page.run("[...document.querySelectorAll('.sections a')].map((a) => a.getAttribute('href'))")
    assert focused[pages + 1 : pages + 1 + len(sections)] == sections[: 39 - pages]
    visit(page, first, 1280)
    page.press("Tab")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.run("document.activeElement.click()")
    page.wait("document.activeElement.tagName === 'MAIN'", "the text")


@pytest.mark.slow
def test_make_site_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "study.site"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"open {paths.build() / 'site' / 'index.html'}\n"
