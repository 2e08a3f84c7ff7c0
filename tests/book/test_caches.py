"""Nothing of ours, nor of the programs that we start, goes into the user's home."""

import os
import subprocess
import sys

import pytest
from tests.book.test_build import root, up_to_date  # noqa: F401
from tests.book.test_run import NAME, WRITE_RECORD, small_root

from datafree import files
from datafree.book import build, caches

LEFT_ALONE = ("DATAFREE_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", *caches.PLACES)


def at_home(home, checkout, *arguments) -> subprocess.CompletedProcess:
    """A command of a user whose home is an empty folder and who has set nothing; or who has no home."""
    kept = {key: value for key, value in os.environ.items() if key not in (*LEFT_ALONE, "HOME")}
    where = {"DATAFREE_ROOT": str(checkout)} | ({"HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "datafree.cli", *arguments]
    return subprocess.run(command, cwd=checkout, env=kept | where, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("has_home", [True, False])
def test_a_run_leaves_nothing_at_home(tmp_path, has_home):
    home = tmp_path / "home"
    home.mkdir()
    cells = ("import matplotlib.pyplot as plt\nplt.figure().savefig('/dev/null', format='png')", WRITE_RECORD)
    checkout = small_root(tmp_path, *cells)
    done = at_home(home if has_home else None, checkout, "run", NAME, "--profile", "smoke", "--no-bar")
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert {p.name for p in (checkout / "_build" / "caches").iterdir()} == set(caches.PLACES.values())


def test_a_build_leaves_nothing_at_home(root, tmp_path_factory):  # noqa: F811
    home = tmp_path_factory.mktemp("home")
    (root / "_build" / "html" / "index.html").unlink()
    (root / "_build" / "html" / ".book").unlink()
    done = at_home(home, root, "build", "book", "--dry-run")
    assert done.returncode == 0 and "html: 1" in done.stdout, done.stderr
    assert list(home.rglob("*")) == []


def test_inputs_stay_where_they_are(monkeypatch, tmp_path):
    monkeypatch.delenv("DATAFREE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build._environment()["DATAFREE_CACHE"] == str(tmp_path / "datafree")
    assert build._environment()["XDG_CACHE_HOME"] == str(files.BUILD / "caches")


def test_what_the_user_has_set_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "BUILD", tmp_path)
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    monkeypatch.setenv("IPYTHONDIR", "")
    monkeypatch.delenv("IPYTHONDIR")
    caches.keep_here()
    assert os.environ["MPLCONFIGDIR"] == "mine" and os.environ["IPYTHONDIR"] == str(tmp_path / "caches" / "ipython")
