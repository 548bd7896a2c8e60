"""Claims: how they are declared, what passes, what is said, and what is kept."""

import datetime
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import paths
from study import claims
from study.claims import Claims

TOML = """
[04.a]
what = "a number"
data = "ISSA (measured)"
at_most = 0.5
"""


@pytest.fixture
def declare(tmp_path, folders):
    """``declare(text)``: the claims of a notebook as a claims.toml declares them, perhaps with another bar."""

    def made(text=TOML, notebook="04", bar="at_most = 0.5", **words):
        (tmp_path / "claims.toml").write_text(text.replace("at_most = 0.5", bar), encoding="utf-8")
        return Claims(notebook, tmp_path / "claims.toml", **words)

    return made


@pytest.mark.parametrize(
    ("bar", "text", "passing", "missing"),
    [
        ("at_most = 0.5", "≤ 0.5", [0.5, 0.1, -3.0], [0.5000001, np.nan, np.inf]),
        ("at_least = 10_000", "≥ 10 000", [10_000, 1e9], [9999.9, np.nan, -np.inf, np.inf]),
        ("at_least = 0.8\nat_most = 1.25", "0.8 to 1.25", [0.8, 1.0, 1.25], [0.79, 1.26, np.nan]),
        ("equals = 2.0\ntol = 0.1", "= 2 ± 0.1", [1.95, 2.05], [1.8, 2.2, np.nan]),
        ("equals = 7553", "= 7 553", [7553], [7552]),
    ],
)
def test_a_bar_holds_at_its_edge_and_never_for_what_is_not_finite(declare, bar, text, passing, missing):
    made = declare(bar=bar)
    for value in passing + missing:
        expected = value in passing
        assert made.check("a", value) is expected
        assert made.rows["a"].passed is expected and made.rows["a"].bar == text
    made = declare(TOML + "digits = 2")
    assert not made.check("a", 0.5000001) and made.rows["a"].shown == "0.5"  # judged before it is rounded


def test_one_number_and_one_bar_declared_or_handed_in(declare):
    made = declare(bar="equals = 1")
    assert all(made.check("a", one) for one in (np.float32(1), torch.tensor(1.0), np.array([1.0])[0], True))
    for many in (np.ones(3), torch.ones(3)):
        refuses(r"04\.a: expected one number", made.check, "a", many)
    assert declare(bar="").check("a", 9.0, at_most=10)
    for bar in ("", "at_least = 2\nat_most = 1", "at_most = nan", "at_most = 1"):
        also = {"at_most": 10} if bar == "at_most = 1" else {}
        refuses(r"04\.a: expected .* one bar", declare(bar=bar).check, "a", 9.0, **also)


def test_only_what_is_declared_can_be_handed_in_and_all_of_it_must_be(declare):
    made = declare(TOML.replace("a number", "{faces} faces") + TOML.replace("04.a", "04.b"), faces=16, more=1)
    refuses(r"claims\.toml: expected claims, by notebook and name, found TOML", declare, "[04")
    made.skip("a", reason="no data")
    assert made.rows["a"].what == "16 faces" and made.rows["a"].verdict == "not measured"
    for hand_in in (lambda: made.check("c", 0.1), lambda: made.skip("c", reason="x")):
        refuses(r"claims\.toml: expected a claim \[04\.c\], found none", hand_in)
    made.check("a", 0.1)
    refuses(r"claims\.toml: expected only claims that notebook 04 hands in, found b", made.save)
    assert not list(paths.figures().iterdir())


def test_tables_show_misses_reasons_and_controls_each_in_its_place(declare, capsys):
    names = ("good", "bad", "absent", "fast", "rare")
    text = "".join(TOML.replace("04.a", f"04.{name}") for name in names)
    text = text.replace("a number", "a number, said in more words than one line of a table holds", 2)
    made = declare(text.replace("[04.rare]", 'timing = true\nunit = "s"\n[04.rare]') + "optional = true")
    made.check("good", 0.00471, control="PCA: 0.0072")
    made.skip("absent", reason="no such file in data/")
    for name, value in (("bad", np.nan), ("fast", 12.3456), ("rare", 0.1)):
        made.check(name, value)
    made.table()
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[1].split()[-6:] == ["0.00471", "≤", "0.5", "PASS", "ISSA", "(measured)"]
    assert lines[2:4] == [" " * 11 + "of a table holds", " " * 13 + "beside it: PCA: 0.0072"]  # folded, not cut
    assert "\n             not measured: no such file in data/\n" in told
    assert "FAIL" in next(line for line in lines if "04.bad" in line)
    assert "04.fast" not in told and "04.rare" not in told
    assert lines[-1] == "1 of 3 claims pass, 1 miss their bar, 1 not measured."
    for kind, shown in (("timing", "12.3 s    ≤ 0.5 s  FAIL"), ("optional", "0.1       ≤ 0.5  PASS")):
        made.table(kind)
        told = capsys.readouterr().out
        assert shown in told and told.count("04.") == 1


def saved(made, **values):
    """Claims handed in and saved: the text of the file."""
    for name, value in values.items():
        made.check(name, value, control="y")
    made.save()
    return (paths.figures() / "claims.json").read_text()


def test_saved_rows_say_what_was_measured_and_replace_those_of_their_notebook(declare):
    text = saved(declare(TOML + 'unit = "s"' + TOML.replace("04.a", "04.b")), a=1 / 3, b=np.nan)
    first, second = json.loads(text)["claims"]
    assert first["measured"] == 0.333333 and first["shown"] == "0.333" and first["passed"] is True
    assert (first["bar"], first["unit"], first["control"]) == ("≤ 0.5", "s", "y")
    assert second["measured"] is None and second["shown"] == "nan" and second["passed"] is False
    assert "NaN" not in text
    rows = []
    for notebook, names in [("04", "ab"), ("01", "c"), ("04", "bd")]:
        text = "".join(TOML.replace("04.a", f"{notebook}.{name}") for name in names)
        saved(declare(text, notebook), **dict.fromkeys(names, 1.0))
        rows.append([c for c in claims.read() if c.notebook == "04"])
    assert [c.id for c in claims.read()] == ["01.c", "04.b", "04.d"]
    assert [p.name for p in paths.figures().iterdir()] == ["claims.json"]
    assert rows[0] == rows[1] != rows[2]


def test_a_damaged_file_is_named_and_left_alone(declare):
    made = declare()
    whole = saved(made, a=0.25)
    file = paths.figures() / "claims.json"
    damages = ['{"claims": [', "", "[]", '{"claims": 3}', '{"claims": [{"id": "04.a"}]}', '{"claims": [3]}']
    damages += ["[" * 100_000, whole.replace("0.25,", "NaN,"), whole.replace('"what"', '"waht"')]
    for damage in damages:
        file.write_text(damage)
        refuses(r"claims\.json: expected claims .*remove the file", made.save)
        assert file.read_text() == damage


def test_the_command_line(declare):
    command = [sys.executable, "-m", "study.claims"]
    missing = subprocess.run(command, capture_output=True, text=True)
    assert missing.returncode == 2 and "claims.json: expected" in missing.stderr
    saved(declare(), a=2.0)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "04.a" in done.stdout and "FAIL" in done.stdout


def test_ten_claims_are_headlines_each_with_a_control_a_day_and_what_would_refute_it():
    rows = {row.id: row for row in claims.read(paths.root() / "figures" / claims.FILE)}
    heads = {id: row for id, row in claims.declared().items() if row.get("headline")}
    assert len(heads) == 10
    for id, row in heads.items():
        assert row["refuted_by"] and rows[id].control and not rows[id].timing, id
    assert {row.passed for row in map(rows.get, heads)} == {True, False}, "misses are among them"


def test_the_committed_rows_are_the_declared_claims():
    """Every claim was handed in, none beside them, each with the words, data and bar that are declared."""
    rows = {row.id: row for row in claims.read(paths.root() / "figures" / claims.FILE)}
    declared = claims.declared()
    assert declared.keys() == rows.keys()
    bars = {}
    for id, row in declared.items():
        for field in ("what", "data"):
            pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(row[field]))
            assert re.fullmatch(pattern, getattr(rows[id], field)), id
        bar = bars[id] = {key: row[key] for key in ("at_least", "at_most", "equals", "tol") if key in row}
        assert "equals" not in bar or bar.keys() <= {"equals", "tol"}, id
        assert not bar or rows[id].passed is None or rows[id].bar == claims.limits(**bar)[2], id
        assert isinstance(row["set"], datetime.date), id
    without = {id for id, bar in bars.items() if not bar}
    assert without == {"01.bias", "04.cheeks_layered", "06.hue"}
