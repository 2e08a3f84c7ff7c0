"""Run one notebook: strict parameters in, an executed notebook and a record out, or nothing and one sentence.

Papermill's metadata is not trusted: it says 'completed' after a dead kernel. A run has succeeded when no cell
failed and the notebook's last cell wrote its record; only then do both files get their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import files
from ..errors import DataFreeError
from . import parameters
from .locks import sole_writer

NOTEBOOKS = files.ROOT / "notebooks"
CELL_SECONDS = {"smoke": 300, "book": 1800}
"""Longest time one cell may take in a profile; other profiles have a day."""


def run_notebook(
    name: str,
    profile: str = "book",
    seed: int = 0,
    overrides: dict | None = None,
    device: str = "auto",
    out: Path | None = None,
    record: Path | None = None,
    timeout: int | None = None,
    progress: bool = False,
) -> tuple[Path, Path]:
    """Execute notebooks/NAME.ipynb and return the paths of the executed notebook and of its record.

    Args:
        overrides: parameters that replace those of the profile; values may be text, as typed.
        device: where it computes; see `config.Device`.
        out, record: where to write; the defaults lie in _build (runs with overrides apart, in _build/runs).
        timeout: seconds a cell may take.
        progress: show a bar that advances with the cells.
    Raises:
        DataFreeError: parameters, places or the run itself; a failed run leaves OUT's stem + '.failed.ipynb'.
    """
    source = find(name)
    config = parameters.resolve(source.stem, profile, overrides or {}, seed, device)
    default_out, default_record = places(source.stem, profile, seed, config.model_dump() if overrides else None)
    out, record = Path(out or default_out), Path(record or default_record)
    _check_before(out, record)
    seconds = timeout or CELL_SECONDS.get(profile, 86400)
    with sole_writer(out), scratch(out) as draft, scratch(record) as note:
        node = _execute(source, config.model_dump(), draft, note, seconds, progress, out)
        _check_record(note, source.stem, out)
        _keep(node, out)
        _move(note, record)
    failed_path(out).unlink(missing_ok=True)
    return out, record


def _check_before(*places: Path) -> None:
    """What a run would find only at its very end."""
    for place in places:
        if place.is_dir():
            raise DataFreeError(f"'{place}' is a folder; give the name of a file to write.")


def find(name: str) -> Path:
    """The notebook called `name` (with or without folder and suffix); DataFreeError lists those there are."""
    path = NOTEBOOKS / f"{Path(name).name.removesuffix('.ipynb')}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb"))) or "none"
        raise DataFreeError(f"there is no notebook '{name}'; those in notebooks/ are: {known}.")
    return path


def short_copies(folder: Path, profile: str = "smoke") -> list[Path]:
    """Every notebook with the parameters of `profile` written into its parameters cell, for tests of all cells."""
    import nbformat

    made = []
    for name in parameters.NOTEBOOKS:
        notebook = nbformat.read(find(name), 4)
        values = parameters.resolve(name, profile).model_dump()
        cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        cell.source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
        made.append(folder / f"{name}.ipynb")
        files.write_atomically(made[-1], lambda temporary, notebook=notebook: nbformat.write(notebook, temporary))
    return made


def places(name: str, profile: str, seed: int, altered: dict | None = None) -> tuple[Path, Path]:
    """Where the executed notebook and the record go; runs with altered parameters stay out of the ledger."""
    if altered is None:
        return (
            files.BUILD / "executed" / profile / f"{name}-seed{seed}.ipynb",
            files.BUILD / "records" / profile / name / f"seed{seed}.json",
        )
    digest = hashlib.sha256(json.dumps(altered, sort_keys=True).encode()).hexdigest()[:8]
    stem = files.BUILD / "runs" / f"{name}-{digest}"
    return stem.with_name(stem.name + ".ipynb"), stem.with_name(stem.name + ".json")


def failed_path(out: Path) -> Path:
    """Where the notebook of a failed run is kept."""
    return out.with_name(out.stem + ".failed.ipynb")


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, removed at the end; leftovers of killed runs go too."""
    prefix = f".{path.name}-draft-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(prefix + "*"):
            shutil.rmtree(stale)
        folder = tempfile.mkdtemp(prefix=prefix, dir=path.parent)
    except OSError as error:
        raise files.unwritable(path, error) from None
    draft = Path(folder) / path.name
    try:
        yield draft
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _execute(source: Path, values: dict, draft: Path, note: Path, seconds: int, progress: bool, out: Path):
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel

    try:
        with _environment(DATAFREE_RECORD=str(note.absolute()), JUPYTER_PREFER_ENV_PATH="1"):
            return papermill.execute_notebook(
                source,
                draft,
                parameters=values,
                kernel_name="python3",
                execution_timeout=seconds,
                progress_bar=progress,
                cwd=NOTEBOOKS,
                extra_arguments=["--log-level=ERROR"],  # not a word about its ports: they are this machine's own
            )
    except NoSuchKernel:
        raise DataFreeError(
            "Jupyter finds no kernel 'python3' in this environment; run 'make book' to mend it."
        ) from None
    except OSError as error:
        if error.errno is None:
            raise _failure(source, draft, out, error, seconds) from None
        raise files.unwritable(out, error) from None
    except Exception as error:
        raise _failure(source, draft, out, error, seconds) from None


def _failure(source: Path, draft: Path, out: Path, error: Exception, seconds: int) -> DataFreeError:
    """Keep the notebook as far as it went; say which cell failed and how."""
    import nbformat

    cell, said = _describe(error, draft, seconds)
    text = f"notebook '{source.stem}' failed {cell}: {said.rstrip('.')}."
    with contextlib.suppress(FileNotFoundError, ValueError):
        _keep(nbformat.read(draft, 4), failed_path(out))
        text += f" The notebook up to there is '{failed_path(out)}'."
    return DataFreeError(text)


def _describe(error: Exception, draft: Path, seconds: int) -> tuple[str, str]:
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        last = (str(error.evalue).strip().splitlines() or [""])[-1]
        return _label(error.exec_count, error.source), f"{error.ename}: {last}"
    where = _label(*_last_started(draft))
    if isinstance(error, DeadKernelError):
        return where, "the kernel died (often for want of memory)"
    if isinstance(error, CellTimeoutError):
        return where, f"the cell took more than {seconds} seconds; allow more with --timeout"
    return where, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


def _label(count: object, source: str) -> str:
    lines = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return f"in cell [{count}] ('{lines[0].strip()[:60]}')" if lines else f"in cell [{count}]"


def _last_started(draft: Path) -> tuple[object, str]:
    """Number among the code cells, and source, of the last cell that was begun."""
    try:
        cells = [c for c in json.loads(draft.read_text())["cells"] if c["cell_type"] == "code"]
    except (OSError, ValueError):
        return "unknown", ""
    begun = [n for n, c in enumerate(cells) if c["metadata"].get("papermill", {}).get("start_time")]
    return (begun[-1] + 1, "".join(cells[begun[-1]]["source"])) if begun else (1, "")


def _check_record(note: Path, name: str, out: Path) -> None:
    try:
        written = json.loads(note.read_text())
    except (OSError, ValueError):
        raise DataFreeError(
            f"notebook '{name}' ran to its end but wrote no record, so nothing was kept; its last cell must be 'chapter.finish()'."
        ) from None
    if written.get("notebook") != name:
        raise DataFreeError(
            f"notebook '{name}' wrote a record for '{written.get('notebook')}', so nothing was kept; mend its chapters.begin()."
        )


def _keep(node, out: Path) -> None:
    import nbformat

    for key in ("input_path", "output_path"):  # where it was made is nobody's business
        node.metadata.get("papermill", {}).pop(key, None)
    files.write_atomically(out, lambda temporary: nbformat.write(node, temporary))


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        raise files.unwritable(target, error) from None
