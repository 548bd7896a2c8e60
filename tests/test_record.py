"""Measurements on record: what is measured, how it is kept, and how a claim stands on it where the files are absent."""

import datetime
import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import refuses

from bioface import paths
from bioface.datasets import registry
from study import claims, measurements, record
from study.measurements import Measured

TOML = """
[04.cheeks_layered]
what = "cheeks"
data = "ISET cheeks (measured)"
optional = true
"""


@pytest.fixture
def pretended(folders, monkeypatch):
    """One source with a file in place; ``pretended(value)`` sets what is measured on it. Returns the data folder."""
    file = folders / registry.ENTRIES["cheeks"].files[0]
    file.parent.mkdir()
    file.write_bytes(b"spectra")
    monkeypatch.setattr(registry, "fetch", lambda name: [file])
    monkeypatch.setattr(record, "commit", lambda: "0123456789")

    def sets(value, **more):
        row = Measured(id="04.cheeks_layered", measured=value, model="layered", **more)
        monkeypatch.setattr(measurements, "SOURCES", {"cheeks": (lambda: iter([row]), ("cheeks_layered",))})
        return file

    return sets


@pytest.fixture
def made(tmp_path):
    (tmp_path / "claims.toml").write_text(TOML)
    return lambda: claims.Claims("04", tmp_path / "claims.toml")


def test_a_record_says_date_data_model_commit_and_machine(pretended, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: "a card")
    pretended(0.0228588123, bar={"at_most": 0.0216}, control="published 0.0216")
    assert record.main([]) == 0
    assert capsys.readouterr().out == "04.cheeks_layered: 0.02286, beside it: published 0.0216\n"
    (row,) = claims.records()
    today = datetime.date.today().isoformat()
    digest = hashlib.sha256(b"spectra").hexdigest()
    assert row["measured"] == 0.0228588 and row["bar"] == {"at_most": 0.0216}
    assert (row["model"], row["date"], row["commit"]) == ("layered", today, "0123456789")
    assert "cores, torch" in row["machine"] and row["machine"].endswith(", a card")
    assert row["data"][0] == {"name": "HyspexSkinReflectance.mat", "size": 7, "sha256": digest}


def test_rows_of_other_commits_and_data_stay_and_the_same_is_replaced(pretended, monkeypatch):
    for value, commit, content in ((1.0, "a", b"1"), (2.0, "b", b"1"), (3.0, "b", b"2"), (4.0, "b", b"2")):
        pretended(value).write_bytes(content)
        monkeypatch.setattr(record, "commit", lambda commit=commit: commit)
        assert record.main([]) == 0
    assert [row["measured"] for row in claims.records()] == [1.0, 2.0, 4.0]


def test_a_claim_without_its_files_stands_as_last_recorded(pretended, made, tmp_path, capsys):
    """The miss that is on record is a miss, whatever this run has: never "not measured"."""
    file = pretended(0.9)
    record.main([])
    pretended(0.0229, bar={"at_most": 0.0216}, control="published 0.0216").write_bytes(b"others")
    record.main([])
    file.unlink()
    without = made()
    measurements.hand_in(without, "cheeks")
    row = without.rows["cheeks_layered"]
    assert (row.verdict, row.shown, row.bar, row.control) == ("FAIL", "0.0229", "≤ 0.0216", "published 0.0216")
    today = datetime.date.today().isoformat()
    assert row.recorded == today and row.reason.startswith(f"recorded on {today}, not measured here: no skin/Hyspex")
    on = claims.records()[-1]["machine"]
    assert row.reason.endswith(f"; on HyspexSkinReflectance.mat, {on}, at commit 0123456789")
    capsys.readouterr()
    without.table("optional")
    told = capsys.readouterr().out
    assert f"  recorded on {today}, not measured here" in told and "1 miss their bar, 0 not measured" in told
    without.save()
    assert claims.read() == [row]
    (tmp_path / "claims.toml").write_text(TOML + "at_most = 0.02\n")  # the bar declared since then counts
    (stricter := made()).skip("cheeks_layered", reason="x")
    assert stricter.rows["cheeks_layered"].verdict == "FAIL" and stricter.rows["cheeks_layered"].bar == "≤ 0.02"


def test_with_its_files_a_claim_is_measured_and_without_a_record_it_is_not(pretended, made, monkeypatch):
    pretended(0.5, bar={"at_most": 1.0})
    here = made()
    measurements.hand_in(here, "cheeks")
    assert here.rows["cheeks_layered"].passed and not here.rows["cheeks_layered"].recorded
    pretended(0.5).unlink()
    monkeypatch.setattr(paths, "root", paths.figures)  # nor is there one of the project
    measurements.hand_in(here, "cheeks")
    assert here.rows["cheeks_layered"].verdict == "not measured" and not here.rows["cheeks_layered"].recorded


def test_what_draws_elsewhere_finds_the_record_of_the_project(monkeypatch, tmp_path):
    monkeypatch.setenv("BIOFACE_FIGURES", str(tmp_path))
    assert claims.records() == claims.records(paths.root() / "figures" / claims.RECORDED) != []


def test_a_folder_without_files_adds_nothing_and_a_damaged_record_is_named_and_left_alone(pretended, capsys):
    placed = pretended(1.0)
    record.main([])
    file = paths.figures() / claims.RECORDED
    whole = file.read_text()
    placed.unlink()
    assert record.main([]) == 0 and file.read_text() == whole
    for old, new in (("1.0", "NaN"), ('"id"', '"name"'), ("202", "20x"), ("]}\n", "]")):
        file.write_text(damaged := whole.replace(old, new))
        assert damaged != whole
        assert record.main([]) == 2
        assert "measurements.json: expected records of `python -m study.record`" in capsys.readouterr().err
        assert file.read_text() == damaged


def test_a_longer_run_is_recorded_with_its_machine_and_what_it_lacks_is_refused(
    pretended, made, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(record, "recorded_file", lambda name: tmp_path / f"{name}.json")
    (tmp_path / "claims.toml").write_text(TOML + "at_most = 1\n")
    run = made()
    run.check("cheeks_layered", 0.5, control="a constant 0.7")
    run.save()
    (paths.figures() / "04_rows.json").write_text('{"numbers": {"a": [1.5, null]}}')
    assert record.main(["--run", str(paths.figures()), "04.cheeks_layered", "04_rows"]) == 0
    (row,) = claims.records()
    assert row["measured"] == 0.5 and row["data"] == [] and "cores, torch" in row["machine"]
    again = made()
    again.skip("cheeks_layered", reason="a long run")
    told = again.rows["cheeks_layered"].reason
    assert told.endswith(f"a long run; on {row['machine']}, at commit 0123456789")
    numbers, when = record.numbers("04_rows")
    assert numbers == {"a": [1.5, None]} and when.endswith(f"on {row['machine']}, at commit 0123456789")
    again.save()
    for name, why in (
        ("04.cheeks_layered", "as measured there"),
        ("04.other", "as measured there"),
        ("04_other", "numbers"),
    ):
        assert record.main(["--run", str(paths.figures()), name]) == 2
        assert why in capsys.readouterr().err
    (tmp_path / "04_rows.json").unlink()
    assert record.main(["--run", str(paths.figures()), "04_rows", "04.other"]) == 2
    assert not (tmp_path / "04_rows.json").exists()  # all of it or nothing
    with pytest.raises(SystemExit, match="2"):
        record.main(["04_rows"])


def test_a_record_names_its_commit_or_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    refuses("expected committed sources, found fatal: not a git", record.commit)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    assert len(record.commit()) == 10
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "new.py").touch()
    refuses(r"found \?\? src/", record.commit)


@pytest.mark.parametrize("name", ["cheeks", "cameras"])
def test_real_files_give_what_is_on_record(real_file, folders, name):
    """At today's bar the record of the same skin model comes out again; of another model it is another row."""
    target = folders / registry.ENTRIES[name].files[0]
    target.parent.mkdir()
    shutil.copy(real_file(registry.ENTRIES[name].files[0]), target)
    rows = list(measurements.SOURCES[name][0]())
    assert [row.id[3:] for row in rows] == list(measurements.SOURCES[name][1])
    assert all(np.isfinite(row.measured) and 0 <= row.measured < 0.05 for row in rows)
    json.dumps([row.bar for row in rows])  # plain numbers


def test_what_is_on_record_is_of_claims_and_commits_that_are_there():
    """The miss on ISET's cheeks is among it. Of what is no claim any more the bar is there, too."""
    rows = claims.records(paths.root() / "figures" / claims.RECORDED)
    known = {row.id for row in claims.read(paths.root() / "figures" / claims.FILE)}
    assert {row["id"] for row in rows if not row["bar"]} <= known
    first = next(row for row in rows if row["id"] == "04.cheeks_layered")
    assert first["measured"] > first["bar"]["at_most"] and first["date"] == "2026-11-26"
