"""Records: what was measured, with which parameters, by which commit, at what cost."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from . import facts, params, paths
from .errors import DataFreeError
from .params import Strict
from .paths import ROOT

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "papermill")
SCALES = ("smoke", "book", "reduced", "paper")
"""How near a measurement is to the paper's own setting; smoke runs never count."""

WORDS = {True: "holds", False: "does not hold", None: "undecided"}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class ClaimEntry(Strict):
    """What one run found about one claim."""

    id: str
    holds: bool | None
    measured: dict[str, Any]
    margin: float | None
    note: str
    scale: Literal["smoke", "book", "reduced", "paper"]
    printed: dict[str, Any] = {}


class Addition(ClaimEntry):
    """What one run found about a statement of ours, which no paper makes."""

    statement: str


class Record(Strict):
    """What one run of a notebook leaves behind."""

    notebook: Name
    profile: Name
    seed: Annotated[int, Field(ge=0)]
    parameters: dict[str, Any]
    overrides: dict[str, Any] = {}
    command: str
    provenance: dict[str, Any]
    started: str
    seconds: Annotated[float, Field(ge=0)]
    cpu_seconds: Annotated[float, Field(ge=0)] | None = None
    peak_memory_mb: Annotated[float, Field(ge=0)]
    metrics: dict[str, Any]
    claims: list[ClaimEntry]
    additions: list[Addition] = []


def git_state(root: Path = ROOT) -> dict:
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


def plain(value: Any, name: str) -> Any:
    """Numbers, truth values, text, lists and dicts for JSON, from tensors and NumPy too; NaN and infinity are refused."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise DataFreeError(f"'{name}' is {value}; a record holds finite numbers only, so look where it comes from.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataFreeError(
        f"'{name}' is a {type(value).__name__}; a record holds numbers, truth values, text, lists and dicts."
    )


def portable(value: Any) -> Any:
    """A parameter without the folders of one machine: '/home/me/x.pt' becomes 'PATH/x.pt'."""
    if not isinstance(value, str) or "/" not in value:
        return value
    prefix, _, path = value.rpartition(":") if value.startswith("folder:") else ("", "", value)
    name = path.rstrip("/").rpartition("/")[2]
    return (f"{prefix}:" if prefix else "") + (f"PATH/{name}" if name else "PATH")


def command(notebook: str, config: Strict) -> str:
    """The command line that runs the notebook with these parameters again."""
    given = {name: value for name, value in config.model_dump().items() if name in _given(notebook, config)}
    words = ["datafree", "run", notebook, "--profile", config.profile, "--seed", str(config.seed)]
    for name, value in given.items():
        words += ["-p", f"{name}={portable(value)}"]
    return shlex.join(words)


def _given(notebook: str, config: Strict) -> set[str]:
    asked = {
        name for name, value in params.load_profile(config.profile).get(notebook, {}).items() if value == params.ASK
    }
    return asked | set(params.overridden(notebook, config))


def default_path(notebook: str, config: Strict) -> Path:
    """_build/records/PROFILE/NOTEBOOK/seedK.json; under _build/runs where the profile's parameters were changed."""
    trial = bool(params.overridden(notebook, config))
    folder = paths.BUILD / "runs" if trial else paths.BUILD / "records" / config.profile
    return folder / notebook / f"seed{config.seed}.json"


def _seed_everything(seed: int) -> None:
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


class Chapter:
    """One run of a notebook: its parameters, what it measures, and the record it leaves."""

    def __init__(self, notebook: str, config: Strict):
        self.notebook = notebook
        self.config = config
        self._started = datetime.datetime.now(datetime.UTC)
        self._clock = time.perf_counter()
        self._cpu = time.process_time()
        self._provenance = provenance()
        self._metrics: dict[str, Any] = {}
        self._claims: dict[str, dict] = {}
        self._additions: dict[str, dict] = {}

    def metric(self, name: str, value: Any) -> None:
        """Keep a measured value; a later value of the same name takes its place."""
        self._metrics[str(name)] = plain(value, str(name))

    def claim(
        self,
        claim_id: str,
        *,
        holds: bool | None,
        measured: dict[str, Any] | None = None,
        note: str = "",
        margin: float | None = None,
        scale: str | None = None,
        printed: dict[str, Any] | None = None,
    ) -> None:
        """Note whether a claim held, and say so in words.

        Args:
            claim_id: an id of book/papers/claims.yaml, once a run.
            holds: True, False, or None where the run cannot tell.
            measured: name -> number, or a list with one number a repetition (they become points of the ledger).
            note: what a reader must know to judge it.
            margin: the tolerance that the verdict allowed.
            scale: 'book', 'reduced' or 'paper'; default: the profile's name ('reduced' for a profile of your own).
            printed: name -> what the paper prints for it.
        """
        statement = facts.claim(claim_id).statement
        entry = self._entry(claim_id, holds, measured, note, margin, scale) | {
            "printed": plain(printed or {}, claim_id)
        }
        self._keep(self._claims, params.build(ClaimEntry, entry, f"claim '{claim_id}'"), statement)

    def addition(
        self,
        name: str,
        statement: str,
        *,
        holds: bool | None,
        measured: dict[str, Any] | None = None,
        note: str = "",
        margin: float | None = None,
    ) -> None:
        """Note whether a statement of ours held; the ledger lists these apart from the papers' claims.

        Args:
            name: 'own-' and a short word, once a run. Others as for `claim`.
        """
        if not name.startswith("own-"):
            raise DataFreeError(f"the name of an addition starts with 'own-', unlike '{name}', so none is a paper's.")
        entry = self._entry(name, holds, measured, note, margin, None) | {"statement": statement}
        self._keep(self._additions, params.build(Addition, entry, f"addition '{name}'"), statement)

    def _entry(self, name: str, holds, measured, note: str, margin, scale: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "holds": plain(holds, f"{name}, holds"),
            "measured": plain(measured or {}, name),
            "margin": plain(margin, f"{name}, margin"),
            "note": note,
            "scale": self._scale(scale),
        }

    def _keep(self, where: dict[str, dict], entry: ClaimEntry, statement: str) -> None:
        if entry.id in where:
            raise DataFreeError(
                f"claim '{entry.id}' was already measured in this run; run the notebook again from its first cell."
            )
        where[entry.id] = entry.model_dump()
        print(f"{entry.id} {WORDS[entry.holds]}: {statement}")

    def _scale(self, scale: str | None) -> str:
        profile = self.config.profile
        return "smoke" if profile == "smoke" else scale or (profile if profile in SCALES else "reduced")

    def record(self) -> dict[str, Any]:
        """The record as it stands now."""
        overrides = params.overridden(self.notebook, self.config)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return {
            "notebook": self.notebook,
            "profile": self.config.profile,
            "seed": self.config.seed,
            "parameters": {name: portable(value) for name, value in self.config.model_dump().items()},
            "overrides": {name: portable(value) for name, value in overrides.items()},
            "command": command(self.notebook, self.config),
            "provenance": self._provenance | {"written": now},
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 2),
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "peak_memory_mb": peak_memory_mb(),
            "metrics": self._metrics,
            "claims": list(self._claims.values()),
            "additions": list(self._additions.values()),
        }

    def finish(self) -> None:
        """Write the record, whole or not at all: the last cell of a notebook."""
        record = self.record()
        params.build(Record, record, f"the record of {self.notebook}")
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path = Path(os.environ.get("DATAFREE_RECORD") or default_path(self.notebook, self.config))
        paths.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        print(f"{self.notebook}: record written.")


def begin(notebook: str, namespace: dict[str, Any]) -> Chapter:
    """Start a chapter: check the parameters found in `namespace` (a notebook's globals()), seed, and note the time.

    Raises:
        DataFreeError: an unknown notebook or profile, or a parameter that is missing or does not fit.
    """
    cls = params.parameters_of(notebook)
    missing = [name for name in cls.model_fields if name not in namespace]
    if missing:
        raise DataFreeError(f"{notebook}: the parameters cell does not set {', '.join(missing)}; run that cell first.")
    config = params.build(cls, {name: namespace[name] for name in cls.model_fields}, notebook)
    params.load_profile(config.profile)
    _seed_everything(config.seed)
    chapter = Chapter(notebook, config)
    git, torch = chapter._provenance["git"], chapter._provenance["packages"]["torch"]
    state = git["commit"][:7] + (" with changes" if git["dirty"] else "")
    print(f"{notebook} · profile {config.profile} · seed {config.seed} · commit {state} · torch {torch}")
    return chapter


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is not a number")


def read(path: Path) -> dict[str, Any]:
    """One record as a dict; DataFreeError naming the file where it is not a whole and valid record."""
    again = "remove it and run its notebook again"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise DataFreeError(f"record '{path}' cannot be read ({error}); {again}.") from None
    if not isinstance(content, dict):
        raise DataFreeError(f"record '{path}' is not a record but a {type(content).__name__}; {again}.")
    entry = params.build(Record, content, f"record '{path}'").model_dump()
    ids = [claim["id"] for claim in entry["claims"]]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice:
        raise DataFreeError(f"record '{path}' has the claim '{twice}' twice; {again}.")
    return entry


def _folders() -> tuple[Path, Path]:
    return paths.RECORDS, paths.BUILD / "records"


def scan() -> tuple[list[dict[str, Any]], list[str]]:
    """All records, each with its 'path', and a sentence for each file that could not be read.

    A record of _build/records takes the place of a committed one with the same profile, notebook and seed.
    Records made with changed parameters (their 'overrides') are trials and are left out.
    """
    kept: dict[tuple, dict] = {}
    problems = []
    for folder in _folders():
        here: dict[tuple, dict] = {}
        for path in sorted(folder.glob("*/*/[!.]*.json")):
            try:
                record = read(path) | {"path": path}
            except DataFreeError as error:
                problems.append(str(error))
                continue
            key = record["profile"], record["notebook"], record["seed"]
            if record["overrides"]:
                continue
            if key in here:
                problems.append(
                    f"records '{here[key]['path']}' and '{path}' are of the same profile, notebook and seed; remove one."
                )
                continue
            here[key] = record
        kept |= here
    return [kept[key] for key in sorted(kept)], problems


def read_all() -> list[dict[str, Any]]:
    """All records of book/records and _build/records (see `scan`); DataFreeError where one cannot be read."""
    found, problems = scan()
    if problems:
        raise DataFreeError(" ".join(problems))
    return found
