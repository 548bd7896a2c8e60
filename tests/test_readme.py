"""Numbers written into a README."""

import json

import pytest
from conftest import refuses

from bioface import metrics, paths
from bioface.errors import DataError
from study import readme, table1
from study.claims import Claims

TEXT = """# Title
The error is <!-- {{ measured("04.rmse") }} -->old<!-- / -->, <!-- {{ measured("04.speed") }} -->old<!-- / -->.

<!-- {{ table1({"training mean": "a constant", "expected": "Bayes, a pixel"}) }} -->
old
<!-- / -->

<!-- {{ table("04.rmse", "04.limit") }} -->
old
<!-- / -->
after
"""
TOML = """
04.rmse = { what = "median RMSE", at_most = 0.005, data = "ISSA (measured)" }
04.limit = { what = "median over groups", at_most = 0.004, data = "ISSA (measured)" }
04.speed = { what = "fit", at_least = 20, unit = "pixels/s", data = "twin (synthetic)", timing = true }
"""


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """A folder of figures with three claims and the numbers of two of notebook 05's figures."""
    monkeypatch.setattr(paths, "figures", lambda: tmp_path)
    (tmp_path / "claims.toml").write_text(TOML)
    rows = Claims("04", tmp_path / "claims.toml")
    for name, value in (("rmse", 0.0047), ("limit", 0.0049), ("speed", 10)):
        rows.check(name, value)
    rows.save()
    found = {column: [0.25, 0.0124] for column in metrics.TABLE1}
    numbers = {"training mean": found, "expected": found | {"specular": [None, None]}}
    (tmp_path / "05_table1.json").write_text(json.dumps({"numbers": numbers}))
    published = table1.AS_PUBLISHED["BioFaceNet"]
    verdicts = {k: {"published": p, "constant": 0.2, "verdict": "cannot be judged"} for k, p in published.items()}
    (tmp_path / "05_verdicts.json").write_text(json.dumps({"numbers": verdicts}))
    return tmp_path


def test_every_place_is_filled_and_filling_again_changes_nothing(figures):
    filled = readme.fill(TEXT, figures)
    assert "old" not in filled and filled.startswith("# Title\nThe error is ") and filled.endswith("after\n")
    for part in (
        '<!-- {{ measured("04.rmse") }} -->0.0047<!-- / -->',
        "-->10 pixels/s<!-- / -->.",
        "| median RMSE | 0.0047 | ≤ 0.005 | PASS | ISSA (measured) |",
        "Of 2 claims that need neither",
        "1 pass. These miss their bar: `04.limit`.",
        "| SfSNet, as published | 0.1898 | – | 0.1452 | – | – | 0.2831 |",
        "| Bayes, a pixel | 0.250 ± 0.012 | – |",
        "| a constant | 0.250 ± 0.012 |",
        "| no | no | no | yes | yes | no |",  # of the published numbers against 0.2
    ):
        assert part in filled, part
    assert readme.fill(filled, figures) == filled
    tables = [line for line in filled.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {6, 8} and tables[1] == "|" + "---|" * 7


def test_what_is_on_record_is_told_with_its_day_and_verdict(figures):
    file = figures / "claims.json"
    rows = json.loads(file.read_text())
    assert "On record" not in readme.fill(TEXT, figures)
    for row in rows["claims"]:
        if row["id"] == "04.limit":
            row |= {"optional": True, "recorded": "2026-11-26", "reason": "recorded"}
    file.write_text(json.dumps(rows))
    filled = readme.fill(TEXT, figures)
    assert "FAIL | ISSA (measured), recorded on 2026-11-26, not measured here |" in filled
    assert "in this run: `04.limit` 0.0049 for ≤ 0.004 (FAIL, 2026-11-26).\n<!-- / -->" in filled


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- ", "< ", "found 0 whole ones"),
        ("<!-- / -->\nafter", "", "found 3 whole ones"),
        ('"04.rmse") }}', '"04.x") }}', "'04.x'"),
        ('"04.limit"', '"04.y"', "'04.y'"),
        ("training mean", "training means", "'training means'"),
        ("table1(", "table2(", "'table2'"),
        ("table1({", "table1(", "table1"),
    ],
)
def test_a_place_that_is_broken_or_asks_for_what_is_not_there_is_refused(figures, old, new, message):
    refuses(message, readme.fill, TEXT.replace(old, new), figures)


@pytest.mark.parametrize("name", ["claims.json", "05_table1.json", "05_verdicts.json"])
def test_missing_or_damaged_numbers_are_named(figures, name):
    for damage in ((figures / name).unlink, lambda: (figures / name).write_text('{"numbers": ')):
        damage()
        with pytest.raises(DataError, match=name):
            readme.fill(TEXT, figures)


def test_a_verdict_too_few_is_refused(figures):
    file = figures / "05_verdicts.json"
    file.write_text(file.read_text().replace("albedo", "another"))
    refuses("'albedo'", readme.fill, TEXT, figures)
