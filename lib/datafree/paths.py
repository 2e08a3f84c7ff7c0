"""Where things are, and files that are either whole or absent."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import DataFreeError

ROOT = Path(os.environ.get("DATAFREE_ROOT", Path(__file__).resolve().parents[2]))
"""The checkout. Set DATAFREE_ROOT if the library is installed away from it."""

STUBS = ROOT / "data_stubs"
RECORDS = ROOT / "book" / "records"
PAPERS = ROOT / "book" / "papers"
BUILD = ROOT / "_build"


def stub_path(name: str, missing: str) -> Path:
    """The path of a file of data_stubs; DataFreeError beginning with `missing` if it is not there."""
    path = STUBS / name
    if not path.is_file():
        raise DataFreeError(f"{missing} (no file '{path}').")
    return path


@functools.cache
def _checksums() -> dict[str, str]:
    lines = stub_path("SHA256SUMS", "the list of checksums is missing").read_text().split("\n")
    return {name.strip(): digest for digest, _, name in (line.partition("  ") for line in lines if line)}


@functools.lru_cache(maxsize=64)
def _verify(path: Path, size: int, mtime: int) -> None:
    name = path.relative_to(STUBS).as_posix()
    expected = _checksums().get(name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected is None:
        raise DataFreeError(f"'{name}' is not listed in data_stubs/SHA256SUMS; run 'datafree doctor --seal' if you made it.")
    if found != expected:
        raise DataFreeError(
            f"'{path}' does not have the SHA-256 of data_stubs/SHA256SUMS: the file is corrupt or was replaced. "
            "Restore it with 'git checkout data_stubs'."
        )


def verified(path: Path) -> Path:
    """`path`, after its SHA-256 was found equal to the one in data_stubs/SHA256SUMS."""
    stat = path.stat()
    _verify(path, stat.st_size, stat.st_mtime_ns)
    return path


def seal() -> Path:
    """Write data_stubs/SHA256SUMS anew, over every file there but the README and the list itself."""
    files = sorted(p for p in STUBS.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "README.md"))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(STUBS).as_posix()}\n" for p in files]
    _checksums.cache_clear()
    _verify.cache_clear()
    return write_atomically(STUBS / "SHA256SUMS", lambda temporary: temporary.write_text("".join(lines)))


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary name beside `path`, then rename: readers see all of it or nothing."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise DataFreeError(f"cannot write '{path}' ({error.strerror}); choose a folder that is writable and has room.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DataFreeError(f"cannot write '{path}' ({error.strerror or error}); free some space or choose another folder.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
