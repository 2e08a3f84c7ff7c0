"""The evidence as one archive that others can read: an RO-Crate with ledger, records, notebooks and their schemas.

The crate's description follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1). `codecheck.yml` is the form that a
CODECHECK fills in; who checks and when is left open, because nobody checks himself.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import files
from ..errors import DataFreeError
from .record import Record

PLACE = files.BUILD / "datafree-crate.zip"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
FORMATS = {
    ".json": "application/json", ".csv": "text/csv", ".ipynb": "application/x-ipynb+json", ".yaml": "application/yaml",
    ".yml": "application/yaml", ".md": "text/markdown", ".txt": "text/plain", ".cff": "application/yaml", ".pdf": "application/pdf",
}  # fmt: skip
ABOUT = {
    "ledger.json": "Every claim with its state, effect, interval, criterion, commands and records",
    "ledger.csv": "The ledger as a table, a claim a line",
    "ledger.schema.json": "JSON Schema of ledger.json",
    "record.schema.json": "JSON Schema of each file in records/",
    "codecheck.yml": "The form of a CODECHECK, to be filled in by whoever checks",
}


def contents() -> Iterator[tuple[str, Path]]:
    """Name in the crate and file, for all that is packed as it is.

    Raises:
        DataFreeError: no ledger has been drawn up.
    """
    for name in ("ledger.json", "ledger.csv", "ledger.schema.json"):
        if not (files.BUILD / name).is_file():
            raise DataFreeError(
                f"there is no '{files.BUILD / name}' to pack; run 'make book' or 'datafree ledger' first."
            )
        yield name, files.BUILD / name
    for path in sorted(files.RECORDS.rglob("*.json")):
        yield f"records/{path.relative_to(files.RECORDS).as_posix()}", path
    for pattern in ("notebooks/*.ipynb", "notebooks/profiles/*.yaml", "book/papers/*.yaml"):
        for path in sorted(files.ROOT.glob(pattern)):
            yield path.relative_to(files.ROOT).as_posix(), path
    for name in ("README.md", "LICENSE", "CITATION.cff", "requirements.txt", "requirements-torch.txt"):
        yield name, files.ROOT / name


def record_schema() -> str:
    """JSON Schema of a record."""
    return json.dumps(Record.model_json_schema(), indent=1) + "\n"


def codecheck(ledger: Mapping[str, Any], citation: Mapping[str, Any]) -> str:
    """The form of a CODECHECK: what there is to check, and blanks for who checks."""
    shown = [row for row in ledger["claims"] if row["state"] in ("reproduced", "partly", "contradicted")]
    form = {
        "version": "https://codecheck.org.uk/spec/config/1.0/",
        "paper": {"title": citation["title"], "authors": [{"name": _name(a)} for a in citation["authors"]], "reference": citation["repository-code"]},
        "manifest": [{"file": "ledger.json", "comment": "claims and states"}]
        + [{"file": place, "comment": f"{row['id']}: {row['state']}"} for row in shown for place in row["records"][:1]],
        "codechecker": [{"name": "", "ORCID": ""}],
        "summary": "",
        "check_time": "",
        "report": "",
    }  # fmt: skip
    return yaml.safe_dump(form, sort_keys=False, allow_unicode=True)


def _name(author: Mapping[str, str]) -> str:
    return author.get("name") or f"{author.get('given-names', '')} {author.get('family-names', '')}".strip()


def crate(entries: Mapping[str, bytes], citation: Mapping[str, Any], day: str) -> dict[str, Any]:
    """ro-crate-metadata.json: the archive as a whole and each file in it."""
    described = [_entry(name, content) for name, content in entries.items()]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Evidence of '{citation['title']}'",
        "description": "Claims of four papers on data-free compression, the records they were judged by, and the notebooks that made them.",
        "datePublished": day,
        "license": {"@id": "LICENSE"},
        "author": [{"@type": "Organization", "name": _name(author)} for author in citation["authors"]],
        "hasPart": [{"@id": name} for name in entries],
    }
    head = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    return {"@context": CONTEXT, "@graph": [head, root, *described]}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    found = {
        "@id": name,
        "@type": "File",
        "name": name,
        "contentSize": str(len(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    kind = FORMATS.get(Path(name).suffix)
    about = ABOUT.get(name)
    return found | ({"encodingFormat": kind} if kind else {}) | ({"description": about} if about else {})


def pack(target: Path = PLACE, day: str | None = None) -> Path:
    """Write the archive; the same content gives the same bytes on the same day."""
    entries = {name: path.read_bytes() for name, path in contents()}
    citation = files.read_yaml(files.ROOT / "CITATION.cff")
    entries["record.schema.json"] = record_schema().encode()
    entries["codecheck.yml"] = codecheck(json.loads(entries["ledger.json"]), citation).encode()
    described = crate(entries, citation, day or datetime.date.today().isoformat())
    entries["ro-crate-metadata.json"] = (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()
    return files.write_atomically(target, lambda fresh: _zip(entries, fresh))


def _zip(entries: Mapping[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name)  # with the zip format's first date, so that equal content has equal bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, entries[name])
