"""Records: what was measured, on which inputs, with which parameters, by which commit, at what cost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from .. import files, inputs
from ..config import Strict, validate
from ..errors import DataFreeError

SCALES = ("smoke", "book", "reduced", "paper")
"""How near a measurement is to the paper's own setting; smoke runs never count."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class Record(Strict):
    """What one run of a notebook leaves behind.

    inputs: name of each file or image set that was read -> its SHA-256.
    fingerprint: what the run depends on (evidence/fingerprint.py); empty where it was made before there was one.
    hits: path of an accuracy in `metrics` ('top1/4w4a/BNS') -> which test images were right (evidence/measured.py).
    digest: of everything else in the record, so that an edited value is noticed.
    """

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
    inputs: dict[str, str]
    fingerprint: str
    metrics: dict[str, Any]
    hits: dict[str, str]
    digest: str


class Cost(NamedTuple):
    """What a run took: seconds by the clock and of the processor (None in old records), and the most memory, in MiB."""

    seconds: float
    cpu_seconds: float | None
    peak_memory_mb: float


def cost(notebook: str, profile: str = "book") -> Cost | None:
    """What the last run of a notebook in this profile took: on this machine, else where its committed record was made."""
    for folder in reversed(_folders()):
        for path in sorted((folder / profile / notebook).glob("seed*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(path.read_text(encoding="utf-8"))
                return Cost(float(entry["seconds"]), entry.get("cpu_seconds"), float(entry["peak_memory_mb"]))
    return None


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of a record without its own digest, whatever the order of its keys."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


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
    """A parameter without the folders of one machine: '/home/me/x.pt' becomes 'PATH/x.pt'; an input's name stays."""
    if not isinstance(value, str) or "/" not in value or value in inputs.registry():
        return value
    prefix, _, path = value.rpartition(":") if value.startswith("folder:") else ("", "", value)
    name = path.rstrip("/").rpartition("/")[2]
    return (f"{prefix}:" if prefix else "") + (f"PATH/{name}" if name else "PATH")


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is not a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a key twice")
    return found


def read(path: Path) -> dict[str, Any]:
    """One record as a dict; DataFreeError naming the file where it is not a whole and valid record."""
    again = "remove it and run its notebook again"
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataFreeError(f"record '{path}' cannot be read ({error}); {again}.") from None
    if not isinstance(content, dict):
        raise DataFreeError(f"record '{path}' is not a record but a {type(content).__name__}; {again}.")
    if "claims" in content and "digest" not in content:
        raise DataFreeError(f"record '{path}' is of an earlier edition, whose chapters still judged; {again}.")
    entry = validate(Record, content, f"record '{path}'").model_dump()
    if entry["digest"] != digest(content):
        raise DataFreeError(f"record '{path}' was changed after its run: its digest does not fit; {again}.")
    if (place := Path(path)).stem != f"seed{entry['seed']}" and place.stem.startswith("seed"):
        raise DataFreeError(f"record '{path}' is of seed {entry['seed']}, which its name contradicts; {again}.")
    return entry


def _folders() -> tuple[Path, Path]:
    return files.RECORDS, files.BUILD / "records"


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
