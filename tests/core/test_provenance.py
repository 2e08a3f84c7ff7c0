"""Provenance: the commit, the code, and a machine without a name."""

import json
import subprocess

from datafree.core import provenance as provenance_module
from datafree.core.provenance import code_hash, git_state, import_closure, provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state_sees_every_change(tmp_path, monkeypatch):
    assert git_state(tmp_path / "nowhere") == {"commit": "unknown", "dirty": True}
    root = tmp_path / "checkout"
    (root / "lib").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "lib" / "a.py").write_text("1")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one", "--no-verify")
    git(root, "config", "status.showUntrackedFiles", "no")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    clean = git_state(root)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (root / "README").write_text("outside")
    assert git_state(root)["dirty"] is False
    (root / "notebooks" / "new.ipynb").write_text("{}")
    assert git_state(root)["dirty"] is True
    (root / "notebooks" / "new.ipynb").unlink()
    (root / "lib" / "a.py").write_text("2")
    assert git_state(root)["dirty"] is True


def test_the_machine_has_no_name():
    import getpass
    import platform

    text = json.dumps(provenance())
    assert platform.node() not in text or len(platform.node()) < 3
    assert f'"{getpass.getuser()}"' not in text


def test_the_closure_follows_imports_through_other_modules():
    found = import_closure("datafree.papers.knowledge_within.synthesis")
    assert {"datafree.core.batchnorm", "datafree.data.images", "datafree.errors"} <= set(found)
    assert not any(name.startswith(("datafree.book", "datafree.papers.udfc", "torch")) for name in found)
    assert all(path.is_file() for path in found.values())
    assert set(import_closure("datafree.data.corruptions")) == {
        "datafree.data.corruptions", "datafree.data.images", "datafree.errors", "datafree.torchvision_shim"
    }  # fmt: skip


def test_the_hash_changes_with_the_code_it_runs_and_no_other(tmp_path, monkeypatch):
    library = tmp_path / "datafree"
    (library / "core").mkdir(parents=True)
    for name, text in {
        "a": "from .core import b\n",
        "core/b": "def f():\n    from ..c import x\n",
        "c": "x = 1\n",
        "d": "",
    }.items():
        (library / f"{name}.py").write_text(text)
    monkeypatch.setattr(provenance_module, "LIBRARY", library)
    before = code_hash("datafree.a")
    assert list(import_closure("datafree.a")) == ["datafree.a", "datafree.c", "datafree.core.b"]
    (library / "d.py").write_text("y = 2\n")
    assert code_hash("datafree.a") == before
    (library / "c.py").write_text("x = 2\n")
    assert code_hash("datafree.a") != before
