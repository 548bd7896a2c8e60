"""Numbers written into a README."""

import json
import re

import pytest
from conftest import refuses
from counting import words

from bioface import metrics, paths
from study import readme, table1
from study.claims import Claims

TEXT = """# Title
The error is <!-- {{ measured("04.rmse") }} -->old<!-- / -->, <!-- {{ measured("04.speed") }} -->old<!-- / -->.

<!-- {{ published() }} -->
old
<!-- / -->

<!-- {{ table1({"training mean": "a constant", "expected": "Bayes, a pixel"}) }} -->
old
<!-- / -->

<!-- {{ headlines() }} -->
old
<!-- / -->
after
"""
TOML = """
04.rmse = { what = "x", at_most = 0.005, data = "ISSA", headline = "It fits", refuted_by = "y", set = 2026-11-22 }
04.limit = { what = "z", at_most = 0.004, data = "ISSA", headline = "All do", refuted_by = "w", set = 2026-11-23 }
04.speed = { what = "fit", at_least = 20, unit = "pixels/s", data = "twin (synthetic)", timing = true }
"""


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """A folder of figures with three claims and the numbers of two of notebook 05's figures."""
    monkeypatch.setattr(paths, "figures", lambda: tmp_path)
    (tmp_path / "claims.toml").write_text(TOML)
    rows = Claims("04", tmp_path / "claims.toml")
    for name, value in (("rmse", 0.0047), ("limit", 0.0049), ("speed", 10)):
        rows.check(name, value, control="a constant 0.01")
    rows.save()
    found = {column: [0.25, 0.0124] for column in metrics.TABLE1}
    numbers = {"training mean": found, "expected": found | {"specular": [None, None]}}
    (tmp_path / "05_table1.json").write_text(json.dumps({"numbers": numbers}))
    published = table1.AS_PUBLISHED["BioFaceNet"]
    verdicts = {k: {"published": p, "constant": 0.2, "verdict": "cannot be judged"} for k, p in published.items()}
    (tmp_path / "05_verdicts.json").write_text(json.dumps({"numbers": verdicts}))
    return tmp_path


def filled_with(figures, text=TEXT):
    return readme.fill(text, figures, figures / "claims.toml")


def test_every_place_is_filled_and_filling_again_changes_nothing(figures):
    filled = filled_with(figures)
    assert "old" not in filled and filled.startswith("# Title\nThe error is ") and filled.endswith("after\n")
    for part in (
        '<!-- {{ measured("04.rmse") }} -->0.0047<!-- / -->',
        "-->10 pixels/s<!-- / -->.",
        "| **Missed.** All do; ISSA | 0.0049 | ≤ 0.004, 2026-11-23 | a constant 0.01 | w |\n| It fits; ISSA",
        "| It fits; ISSA | 0.0047 | ≤ 0.005, 2026-11-22 | a constant 0.01 | y |",
        "Of 2 claims that are not times, 1 pass and 1 miss.\n",
        "All that miss, but for times</summary>\n\n| | claim | measured | bar | data |\n",
        "\n|---|---|---|---|---|\n| 04.limit | z |",
        "| SfSNet | 0.1898 | – | 0.1452 | – | – | 0.2831 |",
        "| Bayes, a pixel | 0.250 ± 0.012 | – |",
        "| a constant | 0.250 ± 0.012 |",
        "\nOur verdict on each of BioFaceNet's numbers: cannot be judged.\n",
    ):
        assert part in filled, part
    assert filled_with(figures, filled) == filled
    tables = [line for line in filled.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {6, 8} and tables[1] == "|" + "---|" * 7


def test_what_is_on_record_is_told_with_its_day_and_verdict(figures):
    file = figures / "claims.json"
    rows = json.loads(file.read_text())
    assert "recorded" not in filled_with(figures)
    for row in rows["claims"]:
        if row["id"] == "04.limit":
            row |= {"optional": True, "recorded": "2026-11-26", "reason": "recorded"}
    file.write_text(json.dumps(rows))
    assert "**Missed.** All do; ISSA, recorded on 2026-11-26 | 0.0049 |" in filled_with(figures)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- ", "< ", "found 0 whole ones"),
        ("<!-- / -->\nafter", "", "found 4 whole ones"),
        ('"04.rmse") }}', '"04.x") }}', "'04.x'"),
        ("training mean", "training means", "'training means'"),
        ("table1(", "table2(", "'table2'"),
        ("headlines", "heads", "heads"),
    ],
)
def test_a_place_that_is_broken_or_asks_for_what_is_not_there_is_refused(figures, old, new, message):
    refuses(message, filled_with, figures, TEXT.replace(old, new))


def test_verdicts_that_differ_have_a_row_of_their_own(figures):
    file = figures / "05_verdicts.json"
    file.write_text(file.read_text().replace("cannot be judged", "skill", 1))
    assert "| our verdict on BioFaceNet's | skill |" + " cannot be judged |" * 5 in filled_with(figures)


def test_the_page_is_read_in_a_minute():
    """Question and answer, a picture, then what to type."""
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    opening, _, rest = text.partition("![")
    question, answer = re.search(r"\*\*Question\.\*\*(.*)\n\n\*\*Answer\.\*\*(.*)", opening).groups()
    sentences = [s for s in re.split(r"(?<=[.?]) ", re.sub(r"<!--.*?-->", "", f"{question} {answer}")) if words(s)]
    assert words(question + answer) <= 120 and words(question + answer) <= 16 * len(sentences)
    assert words(text.partition("```")[0]) <= 200
    commands = rest.split("```")[1].strip().splitlines()
    assert len(commands) == 4 and all(re.match(r"make |\.venv/bin/python -m bioface ", line) for line in commands)
    captions = re.findall("^## (Table 1.*)$", text, re.M)
    assert captions == ["Table 1, as published", "Table 1, ours"]
