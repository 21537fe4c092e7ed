"""How a photo's copies are recognised, and deleted locally; S3 and the rest are tested end to end."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from functions.classify.capture import format_record
from model.data import dataset
from model.storage import Storage, StorageError
from pipeline.erasure import (
    ErasureError,
    PhotoIdentity,
    find_data_sets,
    keep_lines,
    read_manifest,
    remove_from_data_set,
)

UPLOADED = datetime(2026, 11, 25, 6, tzinfo=UTC)
RESULT = {"inference_id": "ours", "classified_at": "2026-11-25T06:00:05.123Z"}


def identity(**changes) -> PhotoIdentity:
    version = {"Key": "uploads/a.png", "VersionId": "1", "Size": 3, "LastModified": UPLOADED}
    return PhotoIdentity(
        **{"bucket": "photos", "key": "uploads/a.png", "result": RESULT, "versions": [version]} | changes
    )


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def data_set(tmp_path):
    names = ["train/bicycle/a.png", "train/bicycle/b.png", "train/other/c.png", "test/other/d.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for split in dataset.SPLITS:
        rows = [(int("other" in name), name) for name in names if name.startswith(split)]
        lines = [f"{number}\t{label}\t{name}\n" for number, (label, name) in enumerate(rows)]
        (tmp_path / dataset.index_name(split)).write_text("".join(lines))
    manifest = {
        "labels": ["bicycle", "other"],
        "source": "drawn",
        "counts": {"train": {"bicycle": 2, "other": 1}, "test": {"bicycle": 0, "other": 1}},
        "sha256": {name: hashlib.sha256(name.encode()).hexdigest() for name in names},
    }
    (tmp_path / dataset.MANIFEST).write_text(dataset.format_manifest(manifest))
    return tmp_path


def test_a_photo_is_removed_from_a_data_set_with_its_entries(storage, data_set):
    remove_from_data_set(storage, str(data_set), "train/bicycle/a.png")

    assert not (data_set / "train/bicycle/a.png").exists()
    assert (data_set / "train.lst").read_text() == "0\t0\ttrain/bicycle/b.png\n1\t1\ttrain/other/c.png\n"
    assert (data_set / "test.lst").read_text() == "0\t1\ttest/other/d.png\n"
    manifest = json.loads((data_set / "manifest.json").read_text())
    assert list(manifest["sha256"]) == ["train/bicycle/b.png", "train/other/c.png", "test/other/d.png"]
    assert manifest["counts"] == {"train": {"bicycle": 1, "other": 1}, "test": {"bicycle": 0, "other": 1}}
    assert (manifest["labels"], manifest["source"]) == (["bicycle", "other"], "drawn")


def test_removing_a_photo_again_changes_nothing(storage, data_set):
    remove_from_data_set(storage, str(data_set), "train/other/c.png")
    before = {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()}

    remove_from_data_set(storage, str(data_set), "train/other/c.png")

    assert {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()} == before


def test_an_invalid_manifest_and_a_missing_folder_are_reported(storage, tmp_path):
    (tmp_path / "manifest.json").write_text('{"sha256": []}')

    assert find_data_sets(storage, str(tmp_path)) == [str(tmp_path)]
    with pytest.raises(ErasureError, match="is not the manifest of a data set"):
        read_manifest(storage, str(tmp_path))
    with pytest.raises(StorageError, match=r"No such folder: .*gone"):
        find_data_sets(storage, str(tmp_path / "gone"))


def test_kept_lines_are_unchanged_and_a_file_without_any_is_deleted(storage, tmp_path):
    file = tmp_path / "captures.jsonl"
    file.write_bytes(b'{"a":  1}\nours\n')

    keep_lines(storage, str(file), [b'{"a":  1}\n'])
    assert file.read_bytes() == b'{"a":  1}\n'

    keep_lines(storage, str(file), [b"\n"])
    assert not file.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("photo", "inference_id", "ours"),
    [
        (b"another", "ours", True),
        (b"input", "of an earlier upload", True),
        (b"another", "theirs", False),
        (b"another", None, False),
    ],
)
def test_a_capture_is_recognised_by_its_inference_id_or_its_input(photo, inference_id, ours):
    line = format_record(photo, "image/png", "[0, 1]", inference_id, UPLOADED)

    found = identity(input_hashes={hashlib.sha256(b"input").hexdigest()}).matches_capture(line.encode())

    assert found == ours


def test_without_a_result_a_capture_without_an_id_is_not_recognised():
    line = format_record(b"x", "image/png", "[0, 1]", None, UPLOADED)

    assert not identity(result={}).matches_capture(line.encode())


def test_captures_are_searched_after_each_upload_and_around_the_result():
    upload, result = identity().capture_windows()

    assert upload.contains(UPLOADED)
    assert upload.contains(UPLOADED + timedelta(minutes=59))
    assert result.contains(UPLOADED + timedelta(seconds=5))
    assert not result.contains(UPLOADED + timedelta(hours=1))
    assert identity(result={}, versions=[]).capture_windows() == []


EVENT = {"detail": {"bucket": {"name": "photos"}, "object": {"key": "uploads/a.png"}}}


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ({"photo": "s3://photos/uploads/a.png"}, True),
        ({"detail": {"photo": "s3://photos/uploads/a.png"}}, True),
        (EVENT, True),
        ({"source": "aws.states", "detail": {"input": json.dumps(EVENT)}}, True),
        ({"photo": "s3://photos/uploads/a.png.jpg"}, False),
        ({"detail": {"bucket": {"name": "others"}, "object": {"key": "uploads/a.png"}}}, False),
        ({"detail": {"input": "no JSON"}}, False),
        ([], False),
        ("uploads/a.png", False),
    ],
)
def test_messages_are_recognised_in_every_form_that_the_queues_contain(body, ours):
    assert identity().matches_json(json.dumps(body)) == ours
    assert not identity().matches_json("no JSON")
