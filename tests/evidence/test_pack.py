"""The archive of the evidence: complete, described file by file, and the same each time."""

import hashlib
import json
import zipfile

import jsonschema
import pytest
import yaml

from datafree import DataFreeError, files
from datafree.evidence import pack, record

ROW = {"id": "kw-c17", "state": "reproduced", "records": ["records/book/x/seed0.json"]}


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A build with a small ledger."""
    monkeypatch.setattr(files, "BUILD", tmp_path)
    for name in ("ledger.json", "ledger.csv", "ledger.schema.json"):
        (tmp_path / name).write_text(json.dumps({"claims": [ROW, ROW | {"id": "kw-c18", "state": "open"}], "ours": []}))
    return tmp_path


def test_the_archive_describes_every_file_in_it(built):
    with zipfile.ZipFile(pack.pack(built / "crate.zip", "2026-01-02")) as archive:
        described = json.loads(archive.read("ro-crate-metadata.json"))
        names = set(archive.namelist()) - {"ro-crate-metadata.json"}
        root = next(entry for entry in described["@graph"] if entry["@id"] == "./")
        assert {part["@id"] for part in root["hasPart"]} == names and root["datePublished"] == "2026-01-02"
        for entry in described["@graph"]:
            if entry["@type"] == "File":
                assert hashlib.sha256(archive.read(entry["@id"])).hexdigest() == entry["sha256"]
        assert {f"notebooks/{p.name}" for p in (files.ROOT / "notebooks").glob("*.ipynb")} <= names
        assert sum(name.startswith("records/") for name in names) == len(list(files.RECORDS.rglob("*.json")))
        check = yaml.safe_load(archive.read("codecheck.yml"))
    assert [entry["comment"] for entry in check["manifest"]] == ["claims and states", "kw-c17: reproduced"]
    assert check["codechecker"] == [{"name": "", "ORCID": ""}]


def test_equal_content_gives_equal_bytes(built):
    one, other = (pack.pack(built / f"{k}.zip", "2026-01-02").read_bytes() for k in range(2))
    assert one == other


def test_records_fit_the_schema_that_goes_along():
    schema = json.loads(pack.record_schema())
    path = next(files.RECORDS.rglob("seed0.json"))
    content = json.loads(path.read_text())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "seed": "zero"}, schema)
    assert record.read(path)


def test_without_a_ledger_there_is_nothing_to_pack(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUILD", tmp_path)
    with pytest.raises(DataFreeError, match="no .*ledger.json' to pack"):
        pack.pack(tmp_path / "crate.zip")
