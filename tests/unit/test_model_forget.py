"""A photo is taken out of captures and data sets on this machine; S3 and the rest are tried end to end."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from functions.monitor.capture_analysis import captures
from model.data import dataset
from model.serving.capture import format_record
from model.storage import StorageError
from pipeline.erasure import ErasureError, Files, Known
from pipeline.erasure import _is_about as is_about

UPLOADED = datetime(2026, 11, 25, 6, tzinfo=UTC)
RESULT = {"inference_id": "ours", "classified_at": "2026-11-25T06:00:05.123Z"}


def known(**changes) -> Known:
    version = {"Key": "uploads/a.png", "VersionId": "1", "Size": 3, "LastModified": UPLOADED}
    return Known(
        **{"bucket": "photos", "key": "uploads/a.png", "result": RESULT, "versions": [version]} | changes
    )


@pytest.fixture
def files() -> Files:
    return Files(s3=None)


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


def test_a_photo_is_taken_out_of_a_data_set_with_its_lines(files, data_set):
    files.take_out(str(data_set), "train/bicycle/a.png")

    assert not (data_set / "train/bicycle/a.png").exists()
    assert (data_set / "train.lst").read_text() == "0\t0\ttrain/bicycle/b.png\n1\t1\ttrain/other/c.png\n"
    assert (data_set / "test.lst").read_text() == "0\t1\ttest/other/d.png\n"
    manifest = json.loads((data_set / "manifest.json").read_text())
    assert list(manifest["sha256"]) == ["train/bicycle/b.png", "train/other/c.png", "test/other/d.png"]
    assert manifest["counts"] == {"train": {"bicycle": 1, "other": 1}, "test": {"bicycle": 0, "other": 1}}
    assert (manifest["labels"], manifest["source"]) == (["bicycle", "other"], "drawn")


def test_taking_a_photo_out_again_changes_nothing(files, data_set):
    files.take_out(str(data_set), "train/other/c.png")
    before = {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()}

    files.take_out(str(data_set), "train/other/c.png")

    assert {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()} == before


def test_what_is_no_manifest_is_told(files, tmp_path):
    (tmp_path / "manifest.json").write_text('{"sha256": []}')

    assert files.data_sets(str(tmp_path)) == [str(tmp_path)]
    with pytest.raises(ErasureError, match="no manifest of a data set"):
        files.manifest(str(tmp_path))
    with pytest.raises(StorageError, match=r"No such folder: .*gone"):
        files.data_sets(str(tmp_path / "gone"))


def test_lines_that_stay_stay_as_they_are_and_a_file_of_none_goes(files, tmp_path):
    file = tmp_path / "captures.jsonl"
    file.write_bytes(b'{"a":  1}\nours\n')

    files.keep(str(file), [b'{"a":  1}\n'])
    assert file.read_bytes() == b'{"a":  1}\n'

    files.keep(str(file), [b"\n"])
    assert not file.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("photo", "inference_id", "ours"),
    [
        (b"another", "ours", True),
        (b"shown", "of an earlier upload", True),
        (b"another", "theirs", False),
        (b"another", None, False),
    ],
)
def test_a_record_is_known_by_its_id_or_by_what_was_shown(photo, inference_id, ours):
    line = format_record(photo, "image/png", "[0, 1]", inference_id, UPLOADED)

    record = captures.parse(line.encode(), None)

    assert known(shown={hashlib.sha256(b"shown").hexdigest()}).is_of(record) == ours


def test_without_a_result_no_record_is_known_by_having_no_id_either():
    record = captures.parse(format_record(b"x", "image/png", "[0, 1]", None, UPLOADED).encode(), None)

    assert not known(result={}).is_of(record)


def test_captures_are_looked_for_from_each_upload_and_around_the_result():
    upload, result = known().windows()

    assert upload.holds(UPLOADED)
    assert upload.holds(UPLOADED + timedelta(minutes=59))
    assert result.holds(UPLOADED + timedelta(seconds=5))
    assert not result.holds(UPLOADED + timedelta(hours=1))
    assert known(result={}, versions=[]).windows() == []


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
def test_messages_are_known_in_every_form_that_the_queues_hold(body, ours):
    assert is_about(json.dumps(body), known()) == ours
    assert not is_about("no JSON", known())
