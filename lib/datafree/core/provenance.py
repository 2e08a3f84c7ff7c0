"""What a number needs to be believed: commit, code, packages, machine and time."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
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
