"""Files that are whole or absent, and checksums that notice a changed byte."""

import resource

import pytest
import torch
from safetensors.torch import save_file

from datafree import files
from datafree.errors import DataFreeError


def left_overs(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writing_makes_folders_and_leaves_no_temporary_file(tmp_path):
    target = tmp_path / "a" / "b" / "note.json"
    assert files.write_atomically(target, lambda p: p.write_text("1")) == target
    assert target.read_text() == "1" and left_overs(target.parent) == ["note.json"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, stop):
    target = tmp_path / "note.json"
    target.write_text("old")

    def write(path):
        path.write_text("ne")
        raise stop

    with pytest.raises(stop):
        files.write_atomically(target, write)
    assert target.read_text() == "old" and left_overs(tmp_path) == ["note.json"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFreeError, match="cannot write .*choose a folder"):
        files.write_atomically(tmp_path / "file" / "note.json", lambda p: p.write_text("1"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataFreeError, match="cannot write"):
        files.write_atomically(tmp_path / "folder", lambda p: p.write_text("1"))
    assert left_overs(tmp_path) == ["file", "folder"]


@pytest.fixture
def full_disk():
    """Files of at most 100 kB within the test, which is how a full disk feels."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


STATE = {"a": torch.zeros(100_000)}


@pytest.mark.parametrize(
    "write",
    [lambda p: save_file(STATE, p), lambda p: torch.save(STATE, p), lambda p: p.write_text("x" * 200_000)],
    ids=["safetensors", "torch", "text"],
)
def test_a_full_disk_is_one_sentence_for_every_writer(tmp_path, full_disk, write):
    with pytest.raises(DataFreeError, match="cannot write .*free some space"):
        files.write_atomically(tmp_path / "x", write)
    assert left_overs(tmp_path) == []


def test_other_errors_of_a_writer_are_not_dressed_up(tmp_path):
    with pytest.raises(RuntimeError, match="something else"):
        files.write_atomically(tmp_path / "x", lambda p: (_ for _ in ()).throw(RuntimeError("something else")))


def test_weights_need_a_name_that_their_record_does_not_take(tmp_path):
    assert files.weights_name(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
    with pytest.raises(DataFreeError, match="ends in '.safetensors'"):
        files.weights_name(tmp_path / "a.json")


def test_every_embedded_file_is_listed_with_its_checksum(stubs):
    listed = {line.split("  ")[1] for line in (stubs / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(stubs).as_posix() for p in stubs.rglob("*") if p.is_file()}
    assert listed == there - {"SHA256SUMS", "README.md"}
    for name in listed:
        assert files.verified(stubs / name) == stubs / name


def test_progress_of_a_training_is_not_sealed(stubs):
    torch.save({}, stubs / "models" / "x.resume")
    assert "resume" not in files.seal().read_text()


def test_one_flipped_bit_is_noticed(stubs, forget):
    path = stubs / "cifar10" / "test.webp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    forget()
    with pytest.raises(DataFreeError, match="corrupt or was replaced.*git checkout data_stubs"):
        files.verified(path)


def test_a_file_that_nobody_sealed_is_refused(stubs):
    (stubs / "models" / "mine.safetensors").write_bytes(b"")
    with pytest.raises(DataFreeError, match="not listed in data_stubs/SHA256SUMS"):
        files.verified(stubs / "models" / "mine.safetensors")


def test_a_missing_list_and_a_missing_file_are_named(stubs, forget):
    (stubs / "SHA256SUMS").unlink()
    forget()
    with pytest.raises(DataFreeError, match="list of checksums is missing"):
        files.verified(stubs / "cifar10" / "test.json")
    with pytest.raises(DataFreeError, match=r"model 'x' is not here \(no file"):
        files.stub_path("models/x", "model 'x' is not here")
