"""Which runs a build has to make: those whose record was not made from what the notebook depends on today."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from .. import files
from ..evidence.fingerprint import fingerprint_of, module_hash
from ..evidence.record import portable
from . import parameters, run

SCHEMES = ("inception", "bns", "bns_inception")
"""Images that are made before the chapters start; noise is drawn by the chapter itself, in no time."""

AUDITED = 3
"""Seeds of an audit: as many as a verdict asks for."""

MEMORY = 2 * 2**30
"""Bytes that a chapter may need."""


class Due(NamedTuple):
    """A run that is to be made."""

    notebook: str
    seed: int

    def __str__(self) -> str:
        return f"{self.notebook}-seed{self.seed}"


def usual_cores() -> int:
    """Processor cores for a build, a notebook each: all that this process may use and that have the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // MEMORY))


def needs_images(notebook: str) -> bool:
    """Whether a chapter takes the images that several chapters share."""
    return issubclass(parameters.NOTEBOOKS[notebook], parameters.KWImages)


def due(goal: str, profile: str, seeds: int = AUDITED) -> list[Due]:
    """The runs that bring `goal` up to date; an audit makes those that no record, committed or fresh, stands for."""
    numbers = {"audit": range(seeds), "images": ()}.get(goal, (0,))
    runs = [Due(name, seed) for seed in numbers for name in parameters.NOTEBOOKS]
    stands = has_record if goal == "audit" else is_current
    return [one for one in runs if not stands(*one, profile)]


def is_current(notebook: str, seed: int, profile: str) -> bool:
    """Whether there is an executed notebook whose code, parameters, packages and embedded files are today's."""
    executed, record = run.places(notebook, profile, seed)
    return executed.is_file() and _is_of_today(record, notebook, seed, profile)


def has_record(notebook: str, seed: int, profile: str) -> bool:
    """Whether a committed or a fresh record of this run is of today."""
    return any(_is_of_today(record, notebook, seed, profile) for record in _records(notebook, seed, profile))


def is_only_fresh(notebook: str, seed: int, profile: str) -> bool:
    """Whether the fresh record of this run is of today, and the committed one is not."""
    committed, fresh = (_is_of_today(record, notebook, seed, profile) for record in _records(notebook, seed, profile))
    return fresh and not committed


def _records(notebook: str, seed: int, profile: str) -> tuple[Path, Path]:
    """Where the committed and the fresh record of a run lie."""
    _, fresh = run.places(notebook, profile, seed)
    return files.RECORDS / fresh.relative_to(files.BUILD / "records"), fresh


def _is_of_today(record: Path, notebook: str, seed: int, profile: str) -> bool:
    """Whether a record was made from what its run depends on now; what cannot be read was not."""
    now = fingerprint_of(notebook, parameters.resolve(notebook, profile, {}, seed))
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        embedded = {name: digest for name, digest in made["inputs"].items() if name in files.checksums()}
        return made["fingerprint"] == now and embedded.items() <= files.checksums().items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def forced(runs: list[Due], profile: str) -> list[Path]:
    """The records of those runs that Snakemake has to make although they are there."""
    records = [run.places(one.notebook, profile, one.seed)[1] for one in runs]
    return [path.relative_to(files.ROOT) for path in records if path.is_file()]


def images_key(profile: str) -> str:
    """A hash of how the shared images of a profile are made, the seed aside."""
    config = parameters.resolve("02_kw_calibration", profile)
    settings = config.model_dump(include=set(parameters.KWImages.model_fields), exclude={"seed", "profile", "device"})
    settings = {name: portable(value) for name, value in settings.items()}
    code = module_hash("datafree.papers.knowledge_within.synthesis")
    return hashlib.sha256(json.dumps([settings, code], sort_keys=True).encode()).hexdigest()[:12]
