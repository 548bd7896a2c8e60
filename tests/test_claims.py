"""The claims table: what passes, what is said, and what is kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from bioface.errors import BiofaceError, DataError
from study import claims
from study.claims import Claims


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("bar", "passing", "missing"),
    [
        ({"at_most": 0.5}, [0.5, 0.1, -3.0], [0.5000001, np.nan, np.inf]),
        ({"at_least": 0.5}, [0.5, 7.0], [0.4999999, np.nan, -np.inf, np.inf]),
        ({"between": (0.8, 1.25)}, [0.8, 1.0, 1.25], [0.79, 1.26, np.nan]),
        ({"equals": 2.0, "tol": 0.1}, [1.95, 2.05], [1.8, 2.2, np.nan]),
        ({"equals": 7553}, [7553], [7552]),
    ],
)
def test_a_bar_holds_at_its_edge_and_never_for_what_is_not_finite(bar, passing, missing):
    for k, (value, expected) in enumerate([(v, True) for v in passing] + [(v, False) for v in missing]):
        made = Claims("04")
        assert made.check(f"c{k}", "a number", value, data="none", **bar) is expected
        assert next(iter(made)).passed is expected


def test_judged_on_the_number_not_on_its_rounding():
    assert not Claims("04").check("a", "just over", 0.00500001, at_most=0.005, digits=2, data="none")


def test_numbers_of_numpy_and_torch():
    made = Claims("04")
    assert made.check("a", "numpy", np.float32(1), equals=1, data="none")
    assert made.check("b", "torch", torch.tensor(1.0), equals=1, data="none")
    assert made.check("c", "array of one", np.array([1.0])[0], equals=1, data="none")
    with pytest.raises(BiofaceError, match="'d': expected one number, found ndarray"):
        made.check("d", "many", np.ones(3), equals=1, data="none")
    with pytest.raises(BiofaceError, match="expected one number, found Tensor"):
        made.check("d", "many", torch.ones(3), equals=1, data="none")


@pytest.mark.parametrize(
    "bar", [{}, {"at_most": 1, "at_least": 0}, {"between": (2, 1)}, {"at_most": np.nan}, {"at_most": np.inf}]
)
def test_a_bar_that_makes_no_sense_is_refused(bar):
    with pytest.raises(BiofaceError, match="bar"):
        Claims("04").check("a", "x", 1.0, data="none", **bar)


def test_a_copied_id_cannot_hide_a_missed_bar():
    made = Claims("04")
    made.check("a", "first", 9.0, at_most=1, data="none")
    with pytest.raises(BiofaceError, match="taken by 'first'"):
        made.check("a", "second", 0.0, at_most=1, data="none")
    made.check("a", "first", 8.0, at_most=1, data="none")  # a cell run twice
    assert [c.measured for c in made] == [8.0]


@pytest.mark.parametrize("name", ["", "A", "a b", "a-b", "é"])
def test_ids_are_plain(name):
    with pytest.raises(BiofaceError, match="id"):
        Claims("04").check(name, "x", 1, at_most=1, data="none")


def test_a_notebook_is_two_digits():
    with pytest.raises(BiofaceError, match="'4'"):
        Claims("4")


def test_the_table_shows_misses_reasons_and_controls_but_no_times(capsys):
    made = Claims("04")
    made.check("good", "a number that is fine", 0.00471, at_most=0.005, data="ISSA (measured)", control="PCA: 0.0072")
    made.check("bad", "a number that is not, said in more words than one line holds", np.nan, at_most=1, data="x")
    made.skip("absent", "cheeks", reason="no such file in data/", data="ISET (measured)")
    made.check("fast", "all spectra", 12.3456, at_most=1, unit="s", data="x", timing=True)
    made.table()
    table = capsys.readouterr().out
    lines = table.splitlines()
    assert next(line for line in lines if "04.good" in line).split()[-6:] == [
        "0.00471",
        "≤",
        "0.005",
        "PASS",
        "ISSA",
        "(measured)",
    ]
    assert "beside it: PCA: 0.0072" in table
    assert "FAIL" in next(line for line in lines if "04.bad" in line)
    assert "line holds" in table  # folded, not cut
    assert "not measured: no such file in data/" in table
    assert "12.3" not in table and "04.fast" not in table
    assert lines[-1] == "1 of 3 claims pass, 1 miss their bar, 1 not measured."
    made.timing_table()
    times = capsys.readouterr().out
    assert "12.3 s" in times and "FAIL" in times and "04.good" not in times


def test_skipping_needs_a_reason():
    with pytest.raises(BiofaceError, match="say why"):
        Claims("04").skip("a", "x", reason="", data="y")


def test_saving_replaces_the_notebook_s_rows_only(figures):
    for notebook, names in [("04", "ab"), ("01", "c"), ("04", "bd")]:
        made = Claims(notebook)
        for name in names:
            made.check(name, name, 1.0, at_most=1, data="none")
        made.save()
    assert [c.id for c in claims.read()] == ["01.c", "04.b", "04.d"]
    assert [p.name for p in figures.iterdir()] == ["claims.json"]


def test_saved_rows_say_what_was_measured(figures):
    made = Claims("04")
    made.check("a", "x", 1 / 3, at_most=0.5, data="twin (synthetic)", unit="s", control="y")
    made.check("b", "x", np.nan, at_most=0.5, data="twin (synthetic)")
    made.save()
    first, second = json.loads((figures / "claims.json").read_text())["claims"]
    assert first["measured"] == 0.333333 and first["shown"] == "0.333" and first["passed"] is True
    assert (first["bar"], first["unit"], first["control"]) == ("≤ 0.5", "s", "y")
    assert second["measured"] is None and second["shown"] == "nan" and second["passed"] is False
    assert "NaN" not in (figures / "claims.json").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        '{"claims": [',
        "",
        "[]",
        '{"claims": [{"id": "04.a"}]}',
        '{"claims": 3}',
        '{"claims": [{"measured": NaN}]}',
    ],
)
def test_a_damaged_file_is_named_and_left_alone(figures, damage):
    file = figures / "claims.json"
    file.write_text(damage)
    made = Claims("04")
    made.check("a", "x", 1.0, at_most=1, data="none")
    with pytest.raises(DataError, match=r"claims\.json: expected claims .*remove the file"):
        made.save()
    assert file.read_text() == damage


def test_the_same_claim_twice_in_the_file_is_damage(figures):
    made = Claims("04")
    made.check("a", "x", 1.0, at_most=1, data="none")
    made.save()
    file = figures / "claims.json"
    row = json.loads(file.read_text())["claims"][0]
    file.write_text(json.dumps({"claims": [row, row]}))
    with pytest.raises(DataError, match="one claim twice"):
        claims.read()


def test_digest_is_of_one_notebook(figures):
    def save(notebook, value):
        made = Claims(notebook)
        made.check("a", "x", value, at_most=9, data="none")
        made.save()

    save("04", 1.0)
    before = claims.digest("04")
    save("01", 2.0)
    assert claims.digest("04") == before
    save("04", 3.0)
    assert claims.digest("04") != before


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0050000, 3, "0.005"),
        (0.99961, 3, "1"),
        (54321, 2, "54 000"),
        (1234567, 3, "1 230 000"),
        (2.5e8, 3, "2.5e+08"),
        (-0.01234, 2, "-0.012"),
        (0.0001, 2, "0.0001"),
        (0.0000999, 2, "0.0001"),
        (1e-12, 2, "1e-12"),
        (0, 3, "0"),
        (float("inf"), 3, "inf"),
    ],
)
def test_numbers_read_well(value, digits, text):
    assert claims.number(value, digits) == text


def test_the_command_line(figures):
    command = [sys.executable, "-m", "study.claims"]
    missing = subprocess.run(command, capture_output=True, text=True)
    assert missing.returncode == 2 and "claims.json: expected" in missing.stderr
    made = Claims("04")
    made.check("a", "a missed bar", 2.0, at_most=1, data="none")
    made.save()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "04.a" in done.stdout and "FAIL" in done.stdout
