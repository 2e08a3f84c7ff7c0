"""The check-up: what is missing, damaged or left over gets a sentence."""

import re

from datafree import files
from datafree.book import doctor, locks


def test_the_doctor_names_a_corrupt_a_missing_and_an_unlisted_file(tmp_path, monkeypatch):
    (tmp_path / "good").write_text("x")
    (tmp_path / "unlisted").write_text("x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  good\n{digest}  gone\n")
    monkeypatch.setattr(files, "STUBS", tmp_path)
    said = {f.sentence: f.state for f in doctor.examine()}
    assert [state for sentence, state in said.items() if "gone" in sentence] == ["broken"]
    assert [state for sentence, state in said.items() if "unlisted" in sentence] == ["broken"]
    assert not any("data_stubs/good " in sentence for sentence in said)
    (tmp_path / "good").write_text("y")
    assert any("good has a wrong SHA-256" in f.sentence and f.state == "broken" for f in doctor.examine())


def test_the_doctor_sees_a_left_over_run(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUILD", tmp_path)
    out = tmp_path / "executed" / "book" / "00_start-seed0.ipynb"
    with locks.sole_writer(out):
        assert any("still writing" in f.sentence for f in doctor.examine())
    assert locks.lock_path(out).is_file()
    assert not any("still writing" in f.sentence for f in doctor.examine())


def test_requirements_pin_every_package_exactly():
    lines = [line for line in (files.ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in lines
