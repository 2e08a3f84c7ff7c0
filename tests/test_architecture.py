"""The house: rooms, the direction of imports, and nothing hidden inside functions."""

import ast
import subprocess
import sys

import pytest

from datafree.files import ROOT

LIBRARY = ROOT / "lib" / "datafree"
MOST = 17
"""Things to see at the top of the library, at most."""


def test_imports_only_go_down():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_can_be_seen_at_a_glance():
    seen = [path.name for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert len(seen) <= MOST, sorted(seen)


def inner_imports(path):
    """Imports of the library's own modules inside functions: that is how a circle is hidden."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if getattr(node, "level", 0) or any(name.split(".")[0] == "datafree" for name in named):
                    yield f"{path.relative_to(LIBRARY)}, {function.name}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "path", sorted(set(LIBRARY.rglob("*.py")) - {LIBRARY / "cli.py"}), ids=lambda p: p.relative_to(LIBRARY).as_posix()
)
def test_no_import_hides_in_a_function(path):
    assert not list(inner_imports(path))
