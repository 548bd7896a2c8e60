"""The deviations ledger: every number of it is a measured one, and what is shown is what was measured."""

import json
import re

import pytest
from conftest import refuses

from bioface import paths, recipes
from bioface.errors import DataError
from study import ledger
from study.ledger import COLUMNS, REFERENCE

ROWS = [row for rows in ledger.load().values() for row in rows]


def a_row(effect, **changes):
    return dict.fromkeys(COLUMNS, "–") | {"effect": effect, "source": "me"} | changes


@pytest.fixture
def figures(tmp_path):
    """A folder with one figure and two claims, one of them not measured."""
    numbers = {"a": {"b – c": [1.0, 2.0, None, 9.0]}, "one": -0.0123, "text": "x"}
    (tmp_path / "02_lines.json").write_text(json.dumps({"numbers": numbers}))
    row = {"id": "04.x", "what": "a", "measured": 0.98432, "shown": "0.98", "bar": "≥ 0.5", "unit": "s", "passed": True}
    row |= {"data": "none (arithmetic)", "control": "", "notebook": "04", "timing": False, "reason": ""}
    skipped = row | {"id": "04.y", "measured": None, "shown": "–", "passed": None, "reason": "no file"}
    (tmp_path / "claims.json").write_text(json.dumps({"claims": [row, skipped]}))
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("04.x", "0.98 s"),
        ("02_lines:a/b – c", "4"),
        ("02_lines:a/b – c|median", "2"),
        ("02_lines:a/b – c/1", "2"),
        ("02_lines:one", "−0.012"),
    ],
)
def test_a_reference_becomes_its_number(reference, expected, figures):
    assert ledger.measured(reference, figures) == expected


@pytest.mark.parametrize(
    ("reference", "file", "says"),
    [
        ("04.z", "claims.json", "a measured claim 04.z"),
        ("04.y", "claims.json", "a measured claim 04.y"),
        ("03_lines:one", "03_lines.json", "FileNotFoundError"),
        ("02_lines:two", "02_lines.json", "KeyError"),
        ("02_lines:a/b – c/7", "02_lines.json", "IndexError"),
        ("02_lines:a", "02_lines.json", "TypeError"),
        ("02_lines:text", "02_lines.json", "ValueError"),
        ("02_lines:a/b – c/2", "02_lines.json", "not a finite number"),
    ],
)
def test_a_reference_to_nothing_is_an_error(reference, file, says, figures):
    with pytest.raises(DataError) as caught:
        ledger.measured(reference, figures)
    assert str(caught.value).startswith(f"{figures / file}: ") and says in str(caught.value)
    with pytest.raises(DataError):
        ledger.resolved(a_row(f"It is {{{reference}}}."), figures)


def test_an_unknown_statistic(figures):
    refuses("median", ledger.measured, "02_lines:a/b – c|medan", figures)


def test_every_row_says_something_in_every_column_and_is_resolved():
    assert len({row["topic"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert all(text.strip() == text and text for text in row.values()), row["topic"]
        assert row["effect"].endswith((".", ".)")), row["topic"]
        assert not REFERENCE.search(ledger.resolved(row, paths.figures())["effect"]), row["topic"]


def test_no_number_of_an_effect_is_typed_by_hand():
    for row in ROWS:
        typed = re.sub(r"notebook \w\d", "", REFERENCE.sub("", row["effect"]))
        assert not re.search(r"\d", typed), row["topic"]
        assert "{" not in typed and "}" not in typed, row["topic"]
        known = REFERENCE.search(row["effect"]) or row["effect"].startswith(("Not measured", "Printed in notebook "))
        assert known, row["topic"]


def test_every_fault_and_every_step_of_the_ladders_is_in_it():
    effects = " ".join(row["effect"] for row in ROWS)
    steps = {r.name for r in (*recipes.LADDER, *recipes.CODE_LADDER, *recipes.FAULTS)}
    steps -= {"d65_rows"}  # rows alone, which `rows_sum_1` is about
    assert [name for name in sorted(steps) if not re.search(rf"(02_ladder|A2_faults):{name}/", effects)] == []


def test_who_measured_stands_beside_the_source(figures):
    assert ledger.resolved(a_row("{02_lines:one}."), figures) == a_row("−0.012.", source="me; effect: notebook 02")
    both = ledger.resolved(a_row("{02_lines:one} {04.x}"), figures)
    assert both["source"] == "me; effect: notebook 02, notebook 04" and ledger.resolved(a_row("–"), figures) == a_row(
        "–"
    )


@pytest.mark.parametrize("text", ['[["a"]]\ntopic = "b"', "[[", None])
def test_a_damaged_ledger_is_named(text, tmp_path):
    if text:
        (tmp_path / "x.toml").write_text(text)
    with pytest.raises(DataError, match="x.toml: expected deviations, each with topic, paper"):
        ledger.load(tmp_path / "x.toml")


def test_the_table_has_a_part_and_a_row_for_each(figures, monkeypatch):
    monkeypatch.setattr(ledger, "load", lambda: {"One & two": [a_row("{04.x} of a | b.", topic="a < b")]})
    head, _, columns, rule, row, _ = ledger.table(figures=figures).data.split("\n")
    assert head == "## One & two" and columns.count("|") == rule.count("|") == 7
    assert row == "| a < b | – | – | – | 0.98 s of a \\| b. | me; effect: notebook 04 |"
