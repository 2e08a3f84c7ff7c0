"""Inputs by name: data and weights that others made, kept in one folder, fetched where that is possible, always checked.

What is known stands in inputs.yaml: where an input lies in the cache, what it hashes to, who made it and under which
licence. The cache is the folder DATAFREE_CACHE, or the system's usual place for such files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import filelock
import pooch
from PIL import Image
from pydantic import Field

from . import files
from .config import Strict, suggestion, validate
from .errors import DataFreeError

Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]

REGISTRY = Path(__file__).with_name("inputs.yaml")


class Input(Strict):
    """One entry of inputs.yaml.

    file: its place in the cache: a file, or a folder.
    sha256: of the file; of a folder, that of its listing (see `listing_hash`).
    url: where it can be fetched; empty where nobody publishes exactly these bytes (`source` then says what they are).
    model, mean, std: of weights: the network they fit, and the normalisation of its images.
    keys: of weights: the function of networks/weights.py that gives them this library's names.
    count, by_pixels: of a folder: how many files it holds, and whether pixels or bytes are hashed.
    unpack, archive: how `url` becomes a folder (one of UNPACKERS), and the SHA-256 of what `url` gives.
    splits: of data: those that there are; empty where the whole set is one.
    labels: of data: class folder -> number of its class, where that is not its place among the folders.
    """

    kind: Literal["weights", "data"]
    about: Text
    file: Text
    sha256: Sha256
    megabytes: Annotated[float, Field(gt=0)]
    licence: Text
    source: Text
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    model: str = ""
    mean: Channels | None = None
    std: Channels | None = None
    keys: str = ""
    count: Annotated[int, Field(ge=0)] = 0
    by_pixels: bool = False
    unpack: Literal["", "cifar"] = ""
    archive: Sha256 | Literal[""] = ""
    splits: list[str] = []
    labels: dict[str, int] = {}


@functools.cache
def _read(path: Path) -> dict[str, Input]:
    return {
        name: validate(Input, values, f"'{path.name}', input {name}") for name, values in files.read_yaml(path).items()
    }


def registry() -> dict[str, Input]:
    """Name -> entry, of everything in inputs.yaml."""
    return _read(REGISTRY)


def names(kind: str) -> list[str]:
    """The names of all weights, or of all data."""
    return [name for name, known in registry().items() if known.kind == kind]


def entry(name: str, kind: str | None = None) -> Input:
    """The entry of a name (of one kind); DataFreeError with the names there are."""
    known = names(kind) if kind else list(registry())
    if name not in known:
        raise DataFreeError(
            f"{kind or 'input'} '{name}' is not known{suggestion(name, known)}; known: {', '.join(known)}."
        )
    return registry()[name]


def cache() -> Path:
    """The folder where inputs are kept; a relative DATAFREE_CACHE starts at the checkout, wherever a process runs."""
    given = os.environ.get("DATAFREE_CACHE")
    return files.ROOT / Path(given).expanduser() if given else Path(pooch.os_cache("datafree"))


def place(name: str) -> Path:
    """Where an input lies, or would lie, in the cache."""
    return cache() / entry(name).file


def find(name: str) -> Path:
    """The file or folder of an input: from the cache, else fetched; checked either way, and noted as read.

    Raises:
        DataFreeError: an unknown name; content with another hash; an input that is not there and cannot be fetched.
    """
    known, path = entry(name), place(name)
    if path.exists():
        _check_remembered(name, known, path)
    else:
        _fetch(name, known, path)
    files.READ[name] = known.sha256
    return path


def overview() -> list[tuple[str, ...]]:
    """A row for each input: name, kind, size, whether it is there, licence; padded to columns, a heading first."""
    rows = [("name", "kind", "size", "in the cache", "licence")]
    for name, known in registry().items():
        there = "yes" if place(name).exists() else "no, fetched on use" if known.url else "no"
        rows.append((name, known.kind, f"{known.megabytes:g} MB", there, known.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [tuple(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def details(name: str) -> dict[str, str]:
    """All that is known of one input, and what lies in its place; a check that fails is told, not raised."""
    known, path = entry(name), place(name)
    state = "no; it is fetched when it is used" if known.url else "no"
    if path.exists():
        try:
            _check_remembered(name, known, path)
            state = "yes, with the right SHA-256"
        except DataFreeError as error:
            state = f"no: {error}"
    told = {key: value for key, value in known.model_dump().items() if value not in ("", 0, None, [], {}, False)}
    return (
        {"name": name}
        | {key: _readable(value) for key, value in told.items()}
        | {"place": str(path), "in the cache": state}
    )


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# --- checking ---------------------------------------------------------------------------------------------------------


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name below `folder` and path of each file in it, sorted; hidden files and folders do not count."""
    found = []
    for root, folders, leaves in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(root, leaf) for leaf in leaves if not leaf.startswith(".")]
    yield from sorted((path.relative_to(folder).as_posix(), path) for path in found)


def _pixels(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            return repr(image.size).encode() + image.convert("RGB").tobytes()
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise DataFreeError(f"image '{path}' cannot be read ({error}); remove it or replace it.") from None


def listing_hash(folder: Path, by_pixels: bool = False) -> str:
    """SHA-256 of a folder: of the lines 'HASH  NAME' of its files, sorted by name.

    Args:
        by_pixels: hash what an image shows, not its bytes: two encoders write the same PNG in different bytes.
    """
    whole = hashlib.sha256()
    for name, path in _listed(folder):
        content = _pixels(path) if by_pixels else path.read_bytes()
        whole.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
    return whole.hexdigest()


def _check(name: str, known: Input, path: Path) -> None:
    """Refuse a file or folder that is not what the registry means."""
    again = "remove it and it is fetched anew" if known.url else f"put the right one in its place ({known.source})"
    if known.count and not path.is_dir() or not known.count and not path.is_file():
        kinds = ("a file", "a folder") if known.count else ("a folder", "a file")
        raise DataFreeError(f"'{path}' of input '{name}' is {kinds[0]} where {kinds[1]} was expected; {again}.")
    if known.count and (count := sum(1 for _ in _listed(path))) != known.count:
        raise DataFreeError(f"'{path}' of input '{name}' holds {count} files, expected {known.count}; {again}.")
    found = listing_hash(path, known.by_pixels) if known.count else hashlib.sha256(path.read_bytes()).hexdigest()
    if found != known.sha256:
        raise DataFreeError(
            f"'{path}' of input '{name}' has SHA-256 {found}, expected {known.sha256}: it is damaged or something else; "
            f"{again}."
        )


def _stamp(known: Input, path: Path) -> str:
    """What a folder looks like without reading its files: names, sizes and times, and the hash it is to have."""
    whole = hashlib.sha256(f"{known.sha256} {known.by_pixels}".encode())
    for name, file in _listed(path):
        stat = file.stat()
        whole.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return whole.hexdigest()


def _remembered(name: str) -> Path:
    return cache() / ".checked" / f"{name.replace('/', '-')}.json"


def _check_remembered(name: str, known: Input, path: Path) -> None:
    """As `_check`; a folder is read only once, and again after a name, a size or a time in it has changed."""
    if not path.is_dir():
        return _check(name, known, path)
    stamp, note = _stamp(known, path), _remembered(name)
    if note.is_file() and note.read_text() == json.dumps(stamp):
        return None
    _check(name, known, path)
    return _remember(note, stamp)


def _remember(note: Path, stamp: str) -> None:
    try:
        files.write_atomically(note, lambda temporary: temporary.write_text(json.dumps(stamp)))
    except DataFreeError:  # a cache that cannot be written is checked in each run
        return


# --- fetching ---------------------------------------------------------------------------------------------------------


def _absent(name: str, known: Input, path: Path, reason: str) -> DataFreeError:
    what = f"the folder of {known.count} files whose listing has" if known.count else "the file with"
    return DataFreeError(
        f"input '{name}' is not in the cache and {reason}; put {what} SHA-256 {known.sha256} at '{path}' "
        f"(it comes from: {known.source})."
    )


def _fetch(name: str, known: Input, path: Path) -> None:
    """Fetch what is not there, one process at a time; it appears under its name whole and checked, or not at all."""
    if not known.url:
        raise _absent(name, known, path, "cannot be fetched")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache() / f".{name.replace('/', '-')}.lock"):
            if path.exists():  # another process was faster
                return _check_remembered(name, known, path)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache()) as folder:
                os.replace(_fetched(name, known, Path(folder)), path)
    except (OSError, ValueError) as error:  # no network, no such page, a full disk; another hash
        reason = " ".join(str(error).split())
        raise _absent(name, known, path, f"'{known.url}' could not be fetched ({reason})") from None
    return None


def _fetched(name: str, known: Input, folder: Path) -> Path:
    pooch.get_logger().setLevel("WARNING")
    wanted = f"sha256:{known.archive or known.sha256}"
    got = Path(pooch.retrieve(known.url, wanted, fname="fetched", path=folder))
    if known.unpack:
        got = UNPACKERS[known.unpack](got, folder / "unpacked")
        _check(name, known, got)
    return got


# --- archives ----------------------------------------------------------------------------------------------------------

BATCHES = {
    "cifar-10-batches-py": {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    "cifar-100-python": {"train": ["train"], "test": ["test"]},
}
"""Folder in the archive -> the files of each split, in the data set's own order."""


def unpack_cifar(archive: Path, folder: Path) -> Path:
    """Write FOLDER/{train,test}/CLASS/NNNNN.png, NNNNN being an image's place in its split, from CIFAR's `archive`.

    The archive holds pickles: give one whose SHA-256 was checked.
    """
    with tarfile.open(archive) as tar:
        inside = next(name for name in BATCHES if name in tar.getnames())
        classes = _class_names(tar, inside)
        for split, batches in BATCHES[inside].items():
            for name in classes:
                (folder / split / name).mkdir(parents=True)
            rows = (row for batch in batches for row in _rows(_unpickled(tar, f"{inside}/{batch}")))
            for place, (label, pixels) in enumerate(rows):
                path = folder / split / classes[label] / f"{place:05d}.png"
                Image.fromarray(pixels).save(path, compress_level=1)
    return folder


def _unpickled(tar: tarfile.TarFile, name: str) -> dict[bytes, Any]:
    return pickle.load(tar.extractfile(name), encoding="bytes")


def _class_names(tar: tarfile.TarFile, inside: str) -> list[str]:
    place, key = ("batches.meta", b"label_names") if inside == "cifar-10-batches-py" else ("meta", b"fine_label_names")
    return [name.decode() for name in _unpickled(tar, f"{inside}/{place}")[key]]


def _rows(batch: dict[bytes, Any]):
    """Label and pixels [32, 32, 3] of each image; in the file a row holds all of red, then green, then blue."""
    labels = batch.get(b"fine_labels") or batch[b"labels"]
    yield from zip(labels, batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), strict=True)


UNPACKERS: dict[str, Callable[[Path, Path], Path]] = {"cifar": unpack_cifar}
"""Ways to make a folder of a published archive."""
