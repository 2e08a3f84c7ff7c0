"""Provenance: the commit, the code, and a machine without a name."""

import json
import subprocess

from datafree.core.provenance import git_state, provenance


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
