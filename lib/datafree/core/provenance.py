"""What a number needs to be believed: commit, code, packages, machine and time."""

from __future__ import annotations

import ast
import datetime
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path

from .. import files

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "papermill")


def git_state(root: Path = files.ROOT) -> dict:
    """Commit, and whether lib/ or notebooks/ differ from it (new files count); 'unknown' outside a checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=all", "--", "lib", "notebooks")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


LIBRARY = Path(__file__).parents[1]
"""The folder of the package that this file belongs to."""


def _file(module: str) -> Path | None:
    """The file of a module of the library, given by its dotted name; None for other packages and for what is no module."""
    package, *names = module.split(".")
    path = LIBRARY.joinpath(*names)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((p for p in candidates if package == LIBRARY.name and p.is_file()), None)


def _imported(path: Path, module: str) -> Iterator[str]:
    """The dotted names that a module's file imports, also inside its functions."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # 'from ..core import batchnorm' names a module, 'from ..core.batchnorm import stored' what is inside of one
            inner = (f"{base}.{alias.name}" for alias in node.names)
            yield from (name if _file(name) else base for name in inner)


def import_closure(module: str) -> dict[str, Path]:
    """Module -> file for `module` and all of the library that it imports, directly or through others."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path and name not in found:
            found[name] = path
            waiting += _imported(path, name)
    return dict(sorted(found.items()))


def code_hash(module: str) -> str:
    """SHA-256 over `import_closure`: another value where the code changed that `module` may run."""
    digest = hashlib.sha256()
    for name, path in import_closure(module).items():
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine() -> dict:
    """Kind of processor, cores and threads; no names of machines or people."""
    import torch

    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def provenance() -> dict:
    """Commit, packages, machine and time: what a number needs to be believed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "git": git_state(),
        "python": platform.python_version(),
        "packages": versions,
        "machine": machine(),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
