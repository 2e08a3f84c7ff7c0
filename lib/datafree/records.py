"""Records: what was measured, with which parameters, by which commit, at what cost."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from .paths import ROOT

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "papermill")


def git_state(root: Path = ROOT) -> dict:
    """Commit and whether the tree differs from it; 'unknown' outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "lib", "notebooks"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


def machine() -> dict:
    """Kind of processor, cores and threads; no names of machines or people."""
    import os

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
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
