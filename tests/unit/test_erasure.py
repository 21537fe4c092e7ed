"""How a photo's copies are recognised, and deleted locally; S3 and the rest are tested end to end."""

import hashlib
import json
import signal
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from functions.classify.capture import format_record
from functions.serialize import sandbox
from model.data import dataset
from model.storage import Storage, StorageError
from pipeline import sample_images
from pipeline.erasure import erase
from pipeline.photo_copies import (
    COMMON_ACCESS,
    PLACES,
    Search,
    StoredCopy,
    find_data_sets,
    keep_lines,
    read_manifest,
    remove_from_data_set,
    remove_items,
)
from pipeline.photo_identity import LONGEST_EXECUTION, Delays, ErasureError, PhotoIdentity, PhotoTracer
from pipeline.stack import Stack
from tests import permissions
from tests.conftest import ROOT

UPLOADED = datetime(2026, 11, 25, 6, tzinfo=UTC)
RESULT = {"inference_id": "ours", "classified_at": "2026-11-25T06:00:05.123Z"}


def identity(**changes) -> PhotoIdentity:
    version = {"Key": "uploads/a.png", "VersionId": "1", "Size": 3, "LastModified": UPLOADED}
    known = {"inference_ids": {"ours"}, "uploads": {UPLOADED}}
    return PhotoIdentity(
        **{"bucket": "photos", "key": "uploads/a.png", "result": RESULT, "versions": [version]}
        | known
        | changes
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

    assert not identity(result={}, inference_ids=set()).matches_capture(line.encode())


def test_the_longest_executions_are_those_of_the_state_machines():
    definition = json.loads((ROOT / "statemachine" / "classify.asl.json").read_text())

    assert timedelta(seconds=definition["TimeoutSeconds"]) == LONGEST_EXECUTION


def test_captures_are_searched_after_each_upload_and_around_the_result():
    upload, result = identity().capture_windows()

    assert upload.contains(UPLOADED)
    assert upload.contains(UPLOADED + timedelta(minutes=59))
    assert result.contains(UPLOADED + timedelta(seconds=5))
    assert not result.contains(UPLOADED + timedelta(hours=1))
    assert identity(result={}, uploads=set()).capture_windows() == []


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
        ({"detail": {"input": "[" * 100_000}}, False),
        ({"photo": "s3://photos/uploads/a.pn"}, False),
        ({"photo": {"bucket": "photos", "key": "uploads/a.png.jpg"}}, False),
        ({"detail": {"bucket": {"name": "photos"}, "object": {"key": "uploads/a.png.jpg"}}}, False),
        ([], False),
        ("uploads/a.png", False),
    ],
)
def test_messages_are_recognised_in_every_form_that_the_queues_contain(body, ours):
    assert identity().matches_json(json.dumps(body)) == ours
    assert not identity().matches_json("no JSON")


@pytest.mark.parametrize(
    ("child", "ours"),
    [
        ({"Input": '{"Key": "uploads/a.png", "Size": 3}'}, True),
        ({"Input": '{"Key": "uploads/a.png.jpg"}'}, False),
        ({"Input": "[]"}, False),
        ({}, False),
    ],
)
def test_an_entry_of_a_backfill_is_recognised_by_the_whole_key(child, ours):
    assert identity().matches_child(child) == ours


DELAYS = Delays(event=timedelta(minutes=2), capture=timedelta(minutes=5))


@pytest.mark.parametrize(
    ("changes", "minutes", "pending"),
    [
        ({"running": ["arn:1"], "result": {}, "versions": []}, 60, "arn:1 is running"),
        ({"result": {}}, 1, "the execution of its upload at 06:00:00 may not have started"),
        ({"result": {}}, 3, None),
        ({"handled": {"1"}}, 1, "the endpoint's answer at 06:00:05 may not be captured yet"),
        ({"handled": {"1"}}, 6, None),
        (
            {"executions": {"arn:2": UPLOADED + timedelta(minutes=9)}},
            10,
            "the endpoint's answer at 06:09:00 may not be captured yet",
        ),
    ],
)
def test_what_may_still_write_a_copy_is_in_flight(changes, minutes, pending):
    now = UPLOADED + timedelta(minutes=minutes)

    found = identity(**changes).in_flight(DELAYS, now, captured=True)

    assert found == ([pending] if pending else [])


def test_without_captures_nobody_waits_for_one():
    now = UPLOADED + timedelta(seconds=10)

    assert identity(handled={"1"}).in_flight(DELAYS, now, captured=False) == []


def test_a_record_brings_back_hashes_and_ids_but_has_no_address():
    first = identity(file_hashes={"f"}, input_hashes={"i"}, failed={"arn:1"}, children={"arn:3"})
    first.add_execution("arn:2", UPLOADED)

    second = identity(result={}, versions=[], inference_ids=set(), uploads=set())
    second.add_record(first.record())

    assert b"a.png" not in first.record() + first.record_path.encode()
    assert second.record() == first.record()
    assert second.recorded
    assert second.matches_capture(format_record(b"x", "image/png", "[0, 1]", "ours", UPLOADED).encode())


def test_erasing_stops_at_the_first_copy_that_cannot_be_deleted():
    deleted = []

    def deny():
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DeleteObject")

    names = ["first", "second", "third"]
    deletes = [lambda: deleted.append("first"), deny, lambda: deleted.append("third")]
    search = Search([StoredCopy("photo", *one) for one in zip(names, deletes, strict=True)])

    assert [copy.where for copy in erase(search, dry_run=False)] == ["first"]
    assert deleted == ["first"]
    assert search.remaining[0].startswith("photo second (")
    assert search.remaining[1:] == ["photo third (not tried)"]


def test_a_dry_run_releases_and_deletes_nothing():
    calls = []
    copy = StoredCopy("photo", "a", lambda: calls.append("deleted"), lambda: calls.append("released"))

    assert list(erase(Search([copy]), dry_run=True)) == [copy]
    assert calls == ["released"]


def test_only_the_pictures_of_the_photo_are_removed_from_a_report():
    page = "<ul><li>a <small>theirs</small></li>\n<li>b\n<small>ours</small></li>\n<li>c</li></ul>"

    assert remove_items(page, {"ours"}) == "<ul><li>a <small>theirs</small></li>\n<li>c</li></ul>"
    assert remove_items(page, set()) == page


def test_the_policy_allows_exactly_what_the_inventory_needs():
    needed = {sid: set(actions) for sid, actions in COMMON_ACCESS.items()}
    for place in PLACES:
        needed |= {sid: set(actions) for sid, actions in place.access.items()}

    allowed: dict[str, set[str]] = {}
    for one in permissions.of("ForgetPolicy"):
        allowed.setdefault(one.sid, set()).add(one.action)

    assert allowed == needed


def test_what_leads_to_other_copies_is_deleted_last():
    deleted = [place.kind for place in PLACES if place.forget.startswith("deletes")]

    assert deleted[-2:] == ["photo", "result"]
    assert len({place.kind for place in PLACES}) == len(PLACES)


@pytest.fixture
def tracer():
    """A stack with a photo and a neighbour whose key begins with the photo's."""
    with mock_aws():
        session = boto3.Session()
        s3 = session.client("s3")
        s3.create_bucket(Bucket="photos")
        s3.put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
        for key in ("uploads/a.png", "uploads/a.png.jpg"):
            s3.put_object(Bucket="photos", Key=key, Body=key.encode())
        outputs = {"ResultsTableName": "results", "UploadBucketName": "photos"}
        tracer = PhotoTracer(Stack("scones", session, outputs), "photos", "uploads/a.png")
        tracer.parameters = {"ImageSize": "224"}
        yield tracer


def test_a_photo_whose_key_begins_with_the_photos_key_is_another(tracer):
    session = tracer.stack.session
    session.client("dynamodb").create_table(
        TableName="results",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "photo", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "photo", "KeyType": "HASH"}],
    )
    for name in ("serialize", "classify"):
        session.client("logs").create_log_group(logGroupName=f"/aws/lambda/scones-{name}")
    tracer.parameters["WorkflowType"] = "EXPRESS"
    tracer._add_backfills = lambda _identity: None

    found = tracer.identify()

    assert [one["Key"] for one in found.versions] == ["uploads/a.png"]
    assert found.file_hashes == {hashlib.sha256(b"uploads/a.png").hexdigest()}


def test_a_photo_that_decodes_forever_is_given_up_in_the_sandbox(tracer, monkeypatch):
    photo = sample_images.encoded(sample_images.picture(sample_images.bicycle, 1), "PNG")
    s3 = tracer.stack.client("s3")
    version = s3.put_object(Bucket="photos", Key="uploads/a.png", Body=photo)["VersionId"]
    monkeypatch.setattr(sandbox, "serialize", lambda *_: signal.pause())
    monkeypatch.setattr(sandbox, "DECODING_SECONDS", 0)

    assert tracer._read(version) == (hashlib.sha256(photo).hexdigest(), None)
