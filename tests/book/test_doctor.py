"""The check-up: what is missing, damaged or left over gets a sentence."""

import re
import sys
import tomllib

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_requirements_pin_every_package_exactly_and_by_hash():
    entries = re.split(r"\n(?=\S)", (files.ROOT / "requirements.txt").read_text())
    pin = r"[\w.-]+==[\w.]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n*"
    assert [e for e in entries if not e.startswith("#") and not re.fullmatch(pin, e)] == []
    names = {one.name for one in doctor.pinned()}
    assert {"snakemake", "torch", "torchvision"} <= names and ("pywinpty" in names) == (sys.platform == "win32")


def test_no_build_of_torch_is_pinned_with_the_rest():
    text = (files.ROOT / "requirements.txt").read_text()
    assert re.findall(r"^(?:torch|torchvision|triton|nvidia|cuda)\b.*", text, re.M) == []
    assert "://" not in text


def test_every_dependency_is_among_the_pins():
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(r) for r in project["dependencies"]]
    ranges += [
        Requirement(r) for extra in ("book", "export", "slurm", "test") for r in project["optional-dependencies"][extra]
    ]
    pins = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in doctor.pinned()}
    unmet = [str(r) for r in ranges if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert unmet == []


def test_the_doctor_sees_a_torch_whose_clamp_stops_the_gradient(monkeypatch):
    """As from torch 2.14 on: none at the ends of the range."""
    assert [f.state for f in doctor._clamp()] == ["ok"]
    monkeypatch.setattr(torch.Tensor, "clamp", lambda x, low, high: torch.where((x > low) & (x < high), x, x.detach()))
    (finding,) = doctor._clamp()
    assert finding.state == "broken" and torch.__version__ in finding.sentence
