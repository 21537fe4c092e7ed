"""Files are written whole or not at all, on this machine and in S3, and deleted with all their versions."""

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from model import storage
from model.storage import Storage, StorageError


@pytest.fixture
def s3():
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="files")
        yield client


@pytest.fixture
def versioned(s3):
    enabled = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="files", VersioningConfiguration=enabled)
    return s3


def test_a_written_file_leaves_no_draft(tmp_path):
    storage.write_file(tmp_path / "new" / "file", b"content")

    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"content"]


def test_the_draft_of_a_file_is_in_a_hidden_folder(tmp_path, monkeypatch):
    drafts = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, _content: drafts.append(path) or path.touch())

    storage.write_file(tmp_path / "file", b"content")

    assert [draft.relative_to(tmp_path).parts[0].startswith(".") for draft in drafts] == [True]


def test_a_full_disk_leaves_the_old_files_as_they_were(tmp_path, monkeypatch):
    storage.write_files(tmp_path, {"a": b"old", "stale": b"old"})
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.name == "b":
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(StorageError, match=f"^{tmp_path} cannot be written: No space left on device$"):
        storage.write_files(tmp_path, {"a": b"new", "b": b"new"}, stale=["stale"])

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "stale": b"old"}


def test_stale_files_are_deleted_with_the_write(tmp_path):
    storage.write_files(tmp_path, {"a": b"old", "b": b"old"})

    storage.write_files(tmp_path, {"a": b"new"}, stale=["a", "b", "never written"])

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    storage.write_file(tmp_path / "data" / "old", b"")

    with storage.replaced_folder(tmp_path / "data") as draft:
        (draft / "new").write_bytes(b"")

    assert [path.name for path in tmp_path.rglob("*")] == ["data", "new"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    storage.write_file(tmp_path / "data" / "old", b"")

    def fail():
        with storage.replaced_folder(tmp_path / "data"):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="data cannot be written: No space left on device"):
        fail()

    assert [path.name for path in tmp_path.rglob("*")] == ["data", "old"]


@pytest.mark.parametrize("place", ["s3://files", "s3://files/data"])
def test_s3_holds_the_same_files_as_a_folder(s3, tmp_path, place):
    files = Storage(s3)
    for folder in (place, str(tmp_path)):
        files.write(f"{folder}/a", b"a")
        files.write(f"{folder}/b/c", b"c")

        assert files.list_files(folder) == [f"{folder}/a", f"{folder}/b/c"]
        assert files.read(f"{folder}/b/c") == b"c"
        assert files.has(f"{folder}/a", b"a")
        assert not files.has(f"{folder}/a", b"c")
        with pytest.raises(FileNotFoundError):
            files.read(f"{folder}/missing")

        files.delete(f"{folder}/a")
        files.delete(f"{folder}/missing")
        assert files.list_files(folder) == [f"{folder}/b/c"]


def test_a_prefix_ends_with_a_folder(s3):
    files = Storage(s3)
    files.write("s3://files/data-2/a", b"")

    assert files.list_files("s3://files/data") == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(StorageError, match=f"^No such folder: {tmp_path}/missing$"):
        Storage().list_files(f"{tmp_path}/missing")


def keys(s3) -> list[tuple[str, bool]]:
    """The keys of all versions, each with whether it is the latest."""
    return [(one["Key"], one["IsLatest"]) for one in storage.list_prefix_versions(s3, "files", "")]


def test_an_overwritten_object_leaves_no_earlier_version(versioned):
    files = Storage(versioned)
    files.write("s3://files/a", b"1")
    files.write("s3://files/ab", b"1")

    files.overwrite("s3://files/a", b"2")

    assert files.read("s3://files/a") == b"2"
    assert keys(versioned) == [("a", True), ("ab", True)]


def test_an_overwritten_object_of_a_bucket_without_versions_stays(s3):
    files = Storage(s3)
    files.write("s3://files/a", b"1")

    files.overwrite("s3://files/a", b"2")

    assert files.read("s3://files/a") == b"2"


def test_an_erased_object_leaves_neither_versions_nor_delete_markers(versioned):
    files = Storage(versioned)
    for name in ("a", "a", "ab"):
        files.write(f"s3://files/{name}", b"")
    files.delete("s3://files/a")
    assert keys(versioned) == [("a", False), ("a", False), ("ab", True), ("a", True)]

    files.erase("s3://files/a")
    files.erase("s3://files/a")

    assert keys(versioned) == [("ab", True)]


def test_many_versions_are_deleted_in_batches(versioned, monkeypatch):
    monkeypatch.setattr(storage, "BATCH", 2)
    for name in ("a", "a", "b", "c", "c"):
        Storage(versioned).write(f"s3://files/{name}", b"")

    versions = storage.list_prefix_versions(versioned, "files", "")
    storage.delete_objects(versioned, "files", versions)

    assert keys(versioned) == []


def test_an_object_that_s3_does_not_delete_is_named():
    class Refusing:
        def delete_objects(self, **_):
            return {"Errors": [{"Key": "a", "Message": "Access Denied"}]}

    with pytest.raises(StorageError, match=r"^s3://files/a cannot be deleted: Access Denied$"):
        storage.delete_objects(Refusing(), "files", [{"Key": "a"}])
