"""The deviations ledger: every number of it is a measured one, and what is shown is what was measured."""

import json
import re

import pytest
from conftest import refuses

from bioface import paths, recipes
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
    ("reference", "says"),
    [
        ("04.z", "ValueError"),
        ("04.y", "ValueError"),
        ("03_lines:one", "03_lines.json"),
        ("02_lines:two", "KeyError"),
        ("02_lines:a/b – c/7", "IndexError"),
        ("02_lines:text", "ValueError"),
        ("02_lines:a/b – c/2", "not a finite number"),
        ("02_lines:a/b – c|medan", "KeyError"),
    ],
)
def test_a_reference_to_nothing_is_an_error(reference, says, figures):
    refuses(
        f"the number {re.escape(reference)} of the ledger.*{says}", ledger.resolved, a_row(f"{{{reference}}}"), figures
    )


def test_every_row_says_something_in_every_column_and_is_resolved():
    assert len({row["topic"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert tuple(row) == COLUMNS
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


def test_the_table_has_a_part_and_a_row_for_each(figures, monkeypatch):
    monkeypatch.setattr(ledger, "load", lambda: {"One & two": [a_row("{04.x} of a | b.", topic="a < b")]})
    head, _, columns, rule, row, _ = ledger.table(figures=figures).data.split("\n")
    assert head == "## One & two" and columns.count("|") == rule.count("|") == 7
    assert row == "| a < b | – | – | – | 0.98 s of a \\| b. | me; effect: notebook 04 |"
