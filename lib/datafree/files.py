"""Where things are, files that are either whole or absent, and readers that refuse what is damaged."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .errors import DataFreeError


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """A safe loader (the fast one, where there is one) that refuses a key given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((k for i, k in enumerate(keys) if k in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; DataFreeError naming the file (and line) where it cannot be read."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise DataFreeError(f"'{path}'{line} is not valid YAML ({getattr(error, 'problem', error)}).") from None
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise DataFreeError(f"'{path}' cannot be read ({error}).") from None


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
def checksums() -> dict[str, str]:
    """File of data_stubs -> its SHA-256, as the list there says."""
    lines = stub_path("SHA256SUMS", "the list of checksums is missing").read_text().split("\n")
    return {name.strip(): digest for digest, _, name in (line.partition("  ") for line in lines if line)}


@functools.lru_cache(maxsize=64)
def _verify(path: Path, size: int, mtime: int) -> None:
    name = path.relative_to(STUBS).as_posix()
    expected = checksums().get(name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected is None:
        raise DataFreeError(
            f"'{name}' is not listed in data_stubs/SHA256SUMS; run 'datafree doctor --seal' if you made it."
        )
    if found != expected:
        raise DataFreeError(
            f"'{path}' does not have the SHA-256 of data_stubs/SHA256SUMS: the file is corrupt or was replaced. "
            "Restore it with 'git checkout data_stubs'."
        )


READ: dict[str, str] = {}
"""What this process has read so far: name of a file -> its SHA-256. Records keep it."""


def verified(path: Path) -> Path:
    """`path`, after its SHA-256 was found equal to the one in data_stubs/SHA256SUMS."""
    stat = path.stat()
    _verify(path, stat.st_size, stat.st_mtime_ns)
    name = path.relative_to(STUBS).as_posix()
    READ[name] = checksums()[name]
    return path


def forget_checksums() -> None:
    """Read the list and the files again when they are used next."""
    checksums.cache_clear()
    _verify.cache_clear()


def _is_sealed(path: Path) -> bool:
    return path.name not in ("SHA256SUMS", "README.md") and path.suffix != ".resume" and not path.name.startswith(".")


def seal() -> Path:
    """Write data_stubs/SHA256SUMS anew, over every file there but the README, the list and a training's progress."""
    files = sorted(p for p in STUBS.rglob("*") if p.is_file() and _is_sealed(p))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(STUBS).as_posix()}\n" for p in files]
    forget_checksums()
    return write_atomically(STUBS / "SHA256SUMS", lambda temporary: temporary.write_text("".join(lines)))


def _writing_failed(error: Exception) -> bool:
    """True for a full disk and the like; safetensors and torch.save have errors of their own for it."""
    own = (
        type(error).__name__ == "SafetensorError"
        or "inline_container" in str(error)
        or "PytorchStreamWriter" in str(error)
    )
    return isinstance(error, OSError) or own


def weights_name(path: Path) -> Path:
    """`path`, if it ends in .safetensors: the record beside it then has another name."""
    if Path(path).suffix != ".safetensors":
        raise DataFreeError(f"'{path}' is no name for weights; give one that ends in '.safetensors'.")
    return Path(path)


def unwritable(path: Path, error: OSError) -> DataFreeError:
    """What to raise where the system does not let us write `path`."""
    return DataFreeError(f"cannot write '{path}' ({error.strerror}); choose a folder that is writable and has room.")


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary name beside `path`, then rename: readers see all of it or nothing."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        if not _writing_failed(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise DataFreeError(f"cannot write '{path}' ({reason}); free some space or choose another folder.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
