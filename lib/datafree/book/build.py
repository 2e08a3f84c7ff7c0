"""From executed notebooks to the rendered book: staging, rendering, and a build that can always be repeated.

`_build/src` holds what Jupyter Book reads, made anew each time. The rendered pages take the name `_build/html`
only when they are complete, so an interrupted or failed build leaves the last good book in place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from .. import files, inputs
from ..errors import DataFreeError
from ..evidence.record import read, read_all
from . import chapter_page, dreams, locks, plan, progress, run, slides

SOURCE = files.BUILD / "src"
HTML = files.BUILD / "html"
PAGES = files.BUILD / "pages"
TEXTS = ("chapters.yaml", "front.yaml", "explore.yaml", "handouts.yaml", "faults.yaml")
"""Files of book/ that pages are made of, and no pages themselves."""

EQUATIONS = files.BUILD / "equations.md"
LOGS = files.BUILD / "logs"

PATIENCE = 20
"""Seconds that an interrupted build has for ending what it has started."""

EXECUTORS = ("slurm",)
"""Where runs can be started but on this machine; each has its Snakemake profile in book/NAME."""


def stage(profile: str, notebooks: list[str]) -> Path:
    """Make _build/src: the prose, the generated pages with what they link to, the executed notebooks (seed 0)."""
    fresh = files.BUILD / ".src-new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(
        files.ROOT / "book",
        fresh,
        ignore=shutil.ignore_patterns("records", "repeats", "papers", "_toc.yml", *TEXTS, ".*"),
    )
    os.rename(fresh / "_static", fresh / "static")  # under its own name Jupyter Book would load every script in it
    shutil.copytree(PAGES, fresh, dirs_exist_ok=True)
    shutil.copy(EQUATIONS, fresh)
    (fresh / "notebooks").mkdir()
    dreams.draw(profile, fresh / "static" / "figures")
    found = read_all()
    ledger = json.loads((fresh / "ledger.json").read_text(encoding="utf-8"))
    for name in notebooks:
        executed, record = run.places(name, profile, 0)
        whole = merged(json.loads(run.find(name).read_text()), json.loads(executed.read_text()), name)
        page = chapter_page.page(whole, read(record), found, ledger["claims"] + ledger["ours"], fresh / "static")
        (fresh / "notebooks" / f"{name}.ipynb").write_text(json.dumps(page, indent=1))
    swap(fresh, SOURCE)
    return SOURCE


def merged(notebook: dict, executed: dict, name: str) -> dict:
    """The notebook as it is now, with the outputs of its run: a changed text needs no other run."""
    ran = [c for c in executed["cells"] if c["cell_type"] == "code" and "injected-parameters" not in _tags(c)]
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    if len(ran) != len(code):
        raise DataFreeError(f"the run of '{name}' has other cells than the notebook; run 'datafree build' again.")
    for cell, run_cell in zip(code, ran):
        cell["outputs"] = run_cell["outputs"]
        cell["execution_count"] = run_cell["execution_count"]
    return notebook


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def swap(fresh: Path, place: Path) -> None:
    """Put the folder `fresh` in the place of `place`."""
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.rename(place, old)
    os.rename(fresh, place)
    shutil.rmtree(old, ignore_errors=True)


def render(profile: str) -> Path:
    """Render _build/src to _build/html with Jupyter Book; any warning fails and leaves the old pages."""
    fresh = files.BUILD / ".render"
    shutil.rmtree(fresh, ignore_errors=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("jupyter-book")
    options = [
        "--config",
        files.ROOT / "_config.yml",
        "--toc",
        files.ROOT / "book" / "_toc.yml",
        "--path-output",
        fresh,
    ]
    command = [program, "build", SOURCE, *options, "--all", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    log = LOGS / "render.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        wrong = [line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line]
        raise DataFreeError(
            "\n  ".join([f"the book was not rendered; Jupyter Book says (all of it in '{log}'):", *wrong[:20]])
        )
    pages = fresh / "_build" / "html"
    (pages / f".{profile}").touch()  # says what the book shows; Snakemake looks for it
    slides.write(pages)
    swap(pages, HTML)
    shutil.rmtree(fresh)
    return HTML / "index.html"


def publish_records(profile: str) -> int:
    """Copy to book/records the fresh records for which none of today is committed; return their number.

    What an interrupted audit has finished is published by the next one.
    """
    fresh = sorted((files.BUILD / "records" / profile).glob("*/seed*.json"))
    runs = [plan.Due(path.parent.name, int(path.stem.removeprefix("seed"))) for path in fresh]
    wanted = [path for path, one in zip(fresh, runs, strict=True) if plan.is_only_fresh(*one, profile)]
    for path in wanted:
        target = files.RECORDS / path.relative_to(files.BUILD / "records")
        files.write_atomically(target, lambda temporary, path=path: shutil.copyfile(path, temporary))
    return len(wanted)


def orphans() -> list[str]:
    """One sentence for each process that still runs a notebook of _build."""
    found = []
    for lock in sorted((files.BUILD / "executed").glob("*/.*.lock")):
        process = locks.holder(lock)
        if process:
            found.append(locks.busy_sentence(lock.with_name(lock.stem[1:] + ".ipynb"), process))
    return found


def stale_locks() -> list[Path]:
    """Snakemake's locks; stale whenever no build is running."""
    return sorted((files.ROOT / ".snakemake" / "locks").glob("*.lock"))


def _busy(_, process: str | None) -> str:
    return f"another build is running (process {process}); wait for it, or end it with 'kill {process}'."


def build(
    goal: str = "book", profile: str = "book", cores: int | None = None, seeds: int = plan.AUDITED, dry: bool = False,
    executor: str = "local",
) -> None:  # fmt: skip
    """Bring `goal` up to date with Snakemake; one build at a time, left-over locks are removed.

    Args:
        cores: default: `plan.usual_cores`.
        seeds: of an audit, how many.
        dry: only print which steps there are to do.
        executor: where runs are started: local, or slurm (settings in book/slurm/config.yaml).
    Raises:
        DataFreeError: another build or a left-over process is at work, or a step failed.
    """
    cores = cores or plan.usual_cores()
    with locks.sole_writer(files.BUILD / "build", _busy) as lock:
        left_over = orphans()
        if left_over:
            raise DataFreeError(left_over[0])
        due = plan.due(goal, profile, seeds)
        command = [*_snakemake(goal, profile, cores, due), *_executor(executor)]
        if dry:
            _tell_plan(due, command)
            return
        if stale_locks():
            print("an earlier build was interrupted; going on from what it finished", flush=True)
            subprocess.run([*command, "--unlock"], cwd=files.ROOT, env=_environment(), capture_output=True)
        with progress.shown(due, profile, cores):
            failed = _supervise([*command, "--quiet", "all"], lock)
    if failed:
        raise DataFreeError(
            "the build stopped at the step named above; what was finished is kept, and the same command goes on from there."
        )


def _tell_plan(due: list[plan.Due], command: list[str]) -> None:
    """Print the runs and the steps that there are to do."""
    print(f"runs: {' '.join(map(str, due)) or 'none'}", flush=True)
    done = subprocess.run([*command, "--dry-run"], cwd=files.ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise DataFreeError(f"the steps cannot be planned: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    steps = re.findall(r"^rule (\w+):", done.stdout, re.M)
    for step in dict.fromkeys(steps):
        print(f"{step}: {steps.count(step)}")


def _snakemake(goal: str, profile: str, cores: int, due: list[plan.Due]) -> list[str]:
    """The command that makes the runs that are due, and what is missing or older than what it is made from."""
    command = [sys.executable, "-m", "snakemake", goal, "--cores", str(cores), "--scheduler", "greedy"]
    command += ["--rerun-triggers", "mtime", "--rerun-incomplete"]
    command += [
        "--config",
        f"profile={profile}",
        f"images={plan.images_key(profile)}",
        f"due={' '.join(map(str, due))}",
    ]
    forced = plan.forced(due, profile)
    return [*command, *(["--forcerun", *map(str, forced)] if forced else [])]


def _executor(name: str) -> list[str]:
    """What tells Snakemake to start its jobs elsewhere; nothing where they run on this machine."""
    if name == "local":
        return []
    if name not in EXECUTORS:
        raise DataFreeError(f"the executor '{name}' is not known; choose one of local, {', '.join(EXECUTORS)}.")
    if importlib.util.find_spec(f"snakemake_executor_plugin_{name}") is None:
        raise DataFreeError(f"the executor '{name}' is not installed; pip install 'datafree[{name}]'.")
    return ["--workflow-profile", str(files.ROOT / "book" / name)]


def _environment() -> dict[str, str]:
    """Snakemake keeps in _build what it would keep in the user's folder of caches; our inputs stay where they are."""
    here = {"XDG_CACHE_HOME": str(files.BUILD / "caches"), "DATAFREE_CACHE": str(inputs.cache())}
    return os.environ | here


def _supervise(command: list[str], lock: int) -> int:
    """Run `command` with all its descendants, which an interruption ends; it holds the lock as well."""
    process = subprocess.Popen(command, cwd=files.ROOT, env=_environment(), start_new_session=True, pass_fds=(lock,))
    locks.name_holder(lock, process.pid)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise


def _end(process: subprocess.Popen) -> None:
    """End the process and its descendants: kindly, and by force after some seconds or at a second interruption."""
    tree = _tree(process.pid)
    with contextlib.suppress(KeyboardInterrupt, ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        psutil.wait_procs(tree, timeout=PATIENCE)
    for one in {*tree, *_tree(process.pid)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    for draft in files.BUILD.glob("*/**/.*-draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _tree(number: int) -> list[psutil.Process]:
    """The process and its descendants, kernels in sessions of their own among them."""
    try:
        process = psutil.Process(number)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
