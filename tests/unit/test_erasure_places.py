"""Every copy of a photo is found and deleted, in every place, and nothing of any other photo."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from functions.classify.capture import format_record
from functions.serialize.photo import serialize
from model.data import dataset
from model.sagemaker.account import ROLES_STACK
from pipeline import erasure, photo_copies, sample_images
from pipeline.erasure import AddressError
from pipeline.photo_copies import Context, Search, StoredCopy, find_copies
from pipeline.photo_identity import ErasureError, PhotoIdentity, PhotoTracer
from pipeline.stack import Stack
from tests.aws_shapes import recording

OURS, THEIRS = "uploads/a.jpg", "uploads/a.jpg.old"
"""The other photo's key begins with the photo's."""
ENDPOINT, EARLIER_ENDPOINT = "vehicles", "vehicles-before"
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:classify:1"
PARAMETERS = {
    "ImageSize": "224",
    "CaptureUri": "s3://workspace/captures",
    "EndpointName": ENDPOINT,
    "LogRetentionDays": "30",
}


def picture(seed: int) -> bytes:
    return sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=seed))


def sent(photo: bytes) -> bytes:
    """What the endpoint gets of a photo."""
    return base64.b64decode(serialize(io.BytesIO(photo), 224)["image_data"])


CONTENT = {OURS: picture(1), THEIRS: picture(2)}


def state_machine(session: boto3.Session, name: str) -> str:
    definition = json.dumps({"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}})
    role = "arn:aws:iam::123456789012:role/none"
    created = session.client("stepfunctions").create_state_machine(
        name=name, definition=definition, roleArn=role
    )
    return str(created["stateMachineArn"])


class Places:
    """Everything that holds photos, with both photos in each place."""

    def __init__(self) -> None:
        session = boto3.Session(region_name="us-east-1")
        clients = map(session.client, ("s3", "sqs", "dynamodb", "cloudformation"))
        self.s3, self.sqs, self.dynamodb, cloudformation = clients
        for bucket in ("photos", "workspace"):
            self.s3.create_bucket(Bucket=bucket)
            versioning = {"Status": "Enabled"}
            self.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=versioning)
        self.dynamodb.create_table(
            TableName="results",
            KeySchema=[{"AttributeName": "photo", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "photo", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.queues = [self.sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("review", "failed")]
        topic = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
        cloudformation.create_stack(
            StackName="test",
            TemplateBody=json.dumps(
                topic | {"Parameters": {name: {"Type": "String"} for name in PARAMETERS}}
            ),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in PARAMETERS.items()],
        )
        output = {"Outputs": {"WorkspaceBucketName": {"Value": "workspace"}}}
        cloudformation.create_stack(StackName=ROLES_STACK, TemplateBody=json.dumps(topic | output))
        for function in ("serialize", "classify"):
            session.client("logs").create_log_group(logGroupName=f"/aws/lambda/test-{function}")
        machines = {name: state_machine(session, name) for name in ("StateMachine", "BackfillStateMachine")}
        self.stack = Stack(
            "test",
            session,
            {f"{name}Arn": arn for name, arn in machines.items()}
            | {
                "UploadBucketName": "photos",
                "ResultsTableName": "results",
                "GroundTruthUri": "s3://photos/ground-truth",
                "ReviewQueueUrl": self.queues[0],
                "FailedQueueUrl": self.queues[1],
            },
        )
        self.at = datetime.now(UTC)

    def fill(self) -> None:
        for key in (OURS, THEIRS):
            self.upload(key)
            self.record(key)
        self.capture(ENDPOINT, "shared", OURS, THEIRS)
        self.capture(EARLIER_ENDPOINT, "alone", OURS)
        self.capture(EARLIER_ENDPOINT, "others", THEIRS)
        self.stage(lambda name, body: self.s3.put_object(Bucket="workspace", Key=f"data/1/{name}", Body=body))

    def upload(self, key: str) -> None:
        self.s3.put_object(Bucket="photos", Key=key, Body=CONTENT[key])
        self.s3.delete_object(Bucket="photos", Key=key)
        self.s3.put_object(Bucket="photos", Key=key, Body=CONTENT[key] + b"again")

    def record(self, key: str) -> None:
        """Write a result, its ground truth, and a message in each queue."""
        item = {
            "photo": f"s3://photos/{key}",
            "inference_id": key,
            "classified_at": f"{self.at:%Y-%m-%dT%H:%M:%S}.000Z",
            "execution": EXECUTION,
            "model": EARLIER_ENDPOINT,
            "sha256": hashlib.sha256(CONTENT[key]).hexdigest(),
        }
        typed = {name: {"S": value} for name, value in item.items()} | {"etag": {"NULL": True}}
        self.dynamodb.put_item(TableName="results", Item=typed)
        address = {"bucket": "photos", "key": key}
        self.s3.put_object(
            Bucket="photos",
            Key=f"ground-truth/2026/11/25/05/{key}.jsonl",
            Body=json.dumps({"photo": address}).encode() + b"\n",
        )
        event = {"detail": {"bucket": {"name": "photos"}, "object": {"key": key}}}
        for queue, body in zip(self.queues, ({"photo": item["photo"]}, event), strict=True):
            self.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(body))

    def capture(self, endpoint: str, name: str, *keys: str, at: datetime | None = None) -> None:
        at = at or self.at
        lines = [format_record(sent(CONTENT[key]), "image/jpeg", "[1, 0]", key, at) for key in keys]
        path = f"captures/{endpoint}/AllTraffic/{at:%Y/%m/%d/%H}/00-00-000-{name}.jsonl"
        self.s3.put_object(Bucket="workspace", Key=path, Body="".join(lines).encode())

    def stage(self, write: Any) -> None:
        """Write a data set with both photos."""
        names = {f"train/bicycle/{number}.jpg": CONTENT[key] for number, key in enumerate((OURS, THEIRS))}
        manifest = {
            "labels": ["bicycle"],
            "source": "photos",
            "counts": {"train": {"bicycle": 2}, "test": {"bicycle": 0}},
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in names.items()},
        }
        index = "".join(f"{number}\t0\t{name}\n" for number, name in enumerate(names))
        files = names | {dataset.index_name("train"): index.encode(), dataset.index_name("test"): b""}
        for name, content in (files | {dataset.MANIFEST: dataset.format_manifest(manifest).encode()}).items():
            write(name, content)

    def tracer(self, key: str = OURS) -> PhotoTracer:
        return PhotoTracer(self.stack, "photos", key)

    def identify(self) -> PhotoIdentity:
        return self.tracer().identify()

    def search(self, key: str = OURS, **options: Any) -> Search:
        tracer = self.tracer(key)
        return find_copies(Context(self.stack, tracer, tracer.identify(), **options))

    def forget(self, **options: Any) -> list[str]:
        """Erase the photo, and return the kinds of what was deleted, in that order."""
        self.remaining = self.search(**options)
        return [copy.kind for copy in erasure.erase(self.remaining, dry_run=False)]

    def stored(self) -> dict[str, bytes]:
        """All that is stored, by its place; each version of an object and each message is one."""
        found: dict[str, bytes] = {}
        for bucket in ("photos", "workspace"):
            listed = self.s3.list_object_versions(Bucket=bucket)
            for one in listed.get("Versions", []):
                version = {"Bucket": bucket, "Key": one["Key"], "VersionId": one["VersionId"]}
                found[f"{bucket}/{one['Key']} {one['VersionId']}"] = self.s3.get_object(**version)[
                    "Body"
                ].read()
            found |= {f"{bucket}/{m['Key']} {m['VersionId']}": b"" for m in listed.get("DeleteMarkers", [])}
        for item in self.dynamodb.scan(TableName="results")["Items"]:
            found[f"results {item['photo']['S']}"] = json.dumps(item).encode()
        for queue in self.queues:
            received = self.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
            found |= {f"{queue} {m['MessageId']}": m["Body"].encode() for m in received.get("Messages", [])}
        return found


@pytest.fixture
def places(monkeypatch) -> Iterator[Places]:
    monkeypatch.setattr("pipeline.queue.EMPTY_AFTER", 0)
    with mock_aws():
        made = Places()
        made.fill()
        yield made


def about(stored: dict[str, bytes], key: str) -> set[str]:
    """The places with a photo's content, hash, address or id, or its key alone as an object's."""
    marks = [
        CONTENT[key],
        base64.b64encode(sent(CONTENT[key])),
        hashlib.sha256(CONTENT[key]).hexdigest().encode(),
        f'"{key}"'.encode(),
        f'"s3://photos/{key}"'.encode(),
    ]
    named = {place for place in stored if place.startswith(f"photos/{key} ")}
    return named | {place for place, content in stored.items() if any(mark in content for mark in marks)}


def test_nothing_of_the_photo_is_left_and_everything_of_another_is_unchanged(places):
    before = places.stored()
    assert len(about(before, OURS)) == len(about(before, THEIRS)) == 11

    places.forget()

    after = places.stored()
    assert about(after, OURS) == set()
    untouched = about(before, THEIRS) - about(before, OURS)
    assert {place: after[place] for place in untouched} == {place: before[place] for place in untouched}
    assert about(after, THEIRS) >= untouched
    # What both were in exists again, without the photo.
    assert len(about(after, THEIRS)) == 11
    assert places.remaining.remaining == []


def test_what_leads_to_other_copies_is_deleted_last(places):
    kinds = places.forget()

    assert kinds[:4] == ["capture", "capture", "training copy", "ground truth"]
    assert kinds[4:6] == ["review message", "failed message"]
    assert kinds[6:9] == ["photo", "photo", "photo"]
    assert kinds[9:] == ["result"]


def test_forgetting_again_finds_nothing(places):
    places.forget()

    assert places.forget() == []


def test_a_dry_run_says_what_would_be_deleted_and_changes_nothing(places):
    before = places.stored()
    search = places.search()

    named = [(copy.kind, copy.where) for copy in erasure.erase(search, dry_run=True)]

    assert places.stored() == before
    assert len(named) == 10
    assert ("result", "results, s3://photos/uploads/a.jpg") in named
    places_of_captures = sorted(where.partition(".jsonl, ")[2] for kind, where in named if kind == "capture")
    assert places_of_captures == ["1 of 1 records", "1 of 2 records"]
    assert sorted(where.split()[1] for kind, where in named if kind == "photo") == [
        "delete",
        "version",
        "version",
    ]
    assert all("message" in where for kind, where in named if "message" in kind)
    assert ("training copy", "s3://workspace/data/1/train/bicycle/0.jpg") in named


def test_a_data_set_of_which_the_photo_is_deleted_stays_usable(places):
    places.forget()

    body = places.s3.get_object(Bucket="workspace", Key="data/1/train.lst")["Body"].read()
    manifest = places.s3.get_object(Bucket="workspace", Key="data/1/manifest.json")["Body"].read()
    assert body == b"0\t0\ttrain/bicycle/1.jpg\n"
    assert json.loads(manifest)["counts"]["train"] == {"bicycle": 1}


def test_copies_on_this_machine_are_found_by_their_content(places, tmp_path):
    places.stage(lambda name, body: write(tmp_path / "set" / name, body))
    loose = write(tmp_path / "loose" / "renamed.png", CONTENT[OURS])
    reduced = write(tmp_path / "loose" / "reduced.jpg", sent(CONTENT[OURS]))
    other = write(tmp_path / "loose" / "other.jpg", CONTENT[THEIRS])

    kinds = places.forget(data=[str(tmp_path)])

    assert kinds.count("training copy") == 4
    assert not loose.exists()
    assert not reduced.exists()
    assert other.exists()
    assert (tmp_path / "set" / "train/bicycle/1.jpg").exists()
    assert not (tmp_path / "set" / "train/bicycle/0.jpg").exists()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_captures_elsewhere_and_at_any_time_are_found_on_request(places, tmp_path):
    line = format_record(sent(CONTENT[OURS]), "image/jpeg", "[1, 0]", "x", places.at - timedelta(days=50))
    folder = tmp_path / "AllTraffic" / f"{places.at - timedelta(days=50):%Y/%m/%d/%H}"
    file = write(folder / "00-00-000-a.jsonl", line.encode())

    around_the_upload = places.search(captures=[str(tmp_path)]).copies
    assert not [copy.where for copy in around_the_upload if str(tmp_path) in copy.where]
    places.forget(captures=[str(tmp_path)], all_captures=True)

    assert not file.exists()


def test_messages_in_flight_cannot_be_searched_and_are_reported(places):
    places.sqs.receive_message(QueueUrl=places.queues[0], MaxNumberOfMessages=1, VisibilityTimeout=600)

    assert places.search().remaining == [f"1 messages in flight to other consumers of {places.queues[0]}"]


def test_messages_about_others_can_be_received_at_once(places):
    places.search()

    for queue in places.queues:
        bodies = [
            message["Body"]
            for message in places.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        ]
        assert len(bodies) == 1
        assert THEIRS in bodies[0]


def test_an_erasure_stops_at_what_it_cannot_delete_and_can_be_completed(places, monkeypatch):
    """The result leads to the other copies, so it must not be deleted before them."""

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "DeleteMessage")

    with monkeypatch.context() as patch:
        patch.setattr(places.stack.client("sqs"), "delete_message", refuse)
        search = places.search()
        deleted = [copy.kind for copy in erasure.erase(search, dry_run=False)]

    assert "result" not in deleted
    assert "photo" not in deleted
    remaining, *rest = search.remaining
    assert len(rest) == len(search.copies) - len(deleted) - 1
    assert all(one.endswith("(not tried)") for one in rest)
    assert remaining.startswith(f"review message {places.queues[0]}, message ")
    assert "not yours" in remaining
    for copy in search.copies:
        copy.release()
    assert places.forget()[-1] == "result"
    assert about(places.stored(), OURS) == set()


@pytest.mark.parametrize("error", [OSError("disk"), ErasureError("no manifest")])
def test_any_copy_that_cannot_be_deleted_is_reported_first(error):
    def fail() -> None:
        raise error

    search = Search([StoredCopy("training copy", "a.jpg", fail)], remaining=["another"])

    assert list(erasure.erase(search, dry_run=False)) == []
    assert search.remaining[0].startswith("training copy a.jpg (")
    assert search.remaining[1] == "another"


def test_the_identity_has_the_hashes_of_every_version_and_of_the_result(places):
    identity = places.identify()

    contents = {CONTENT[OURS], CONTENT[OURS] + b"again"}
    assert identity.uri == "s3://photos/uploads/a.jpg"
    assert identity.file_hashes == {hashlib.sha256(content).hexdigest() for content in contents}
    assert identity.input_hashes == {hashlib.sha256(sent(CONTENT[OURS])).hexdigest()}
    assert identity.result["inference_id"] == OURS
    assert "etag" not in identity.result
    assert len(identity.versions) == 3


def test_a_photo_of_which_only_the_result_is_left_is_identified_by_it(places):
    for version in places.identify().versions:
        places.s3.delete_object(Bucket="photos", Key=OURS, VersionId=version["VersionId"])

    identity = places.identify()

    assert (identity.versions, identity.input_hashes) == ([], set())
    assert identity.file_hashes == {hashlib.sha256(CONTENT[OURS]).hexdigest()}


def test_a_file_that_is_no_photo_is_forgotten_too(places):
    places.s3.put_object(Bucket="photos", Key="uploads/text.jpg", Body=b"text")

    search = places.search("uploads/text.jpg")

    assert [copy.kind for copy in search.copies] == ["photo"]


@pytest.mark.parametrize("photo", ["s3://photos/uploads/a.jpg", "uploads/a.jpg"])
def test_a_photo_is_addressed_by_its_uri_or_its_key(places, photo):
    assert erasure.split_address(places.stack, photo) == ("photos", "uploads/a.jpg")


@pytest.mark.parametrize("photo", ["s3://others/uploads/a.jpg", "s3://photos", "s3://photos/"])
def test_an_address_elsewhere_is_refused_with_the_bucket(places, photo):
    with pytest.raises(
        AddressError, match=f"{photo} is not in the upload bucket of stack test, which is photos"
    ):
        erasure.split_address(places.stack, photo)


def test_what_nobody_can_delete_is_named_with_the_day_on_which_aws_does(places):
    found = {one.kind: one for one in places.search().retained}

    backup, history = found["backup of the result"], found["execution history"]
    assert (backup.where, history.where) == ("results", EXECUTION)
    days = [(datetime.fromisoformat(one.until).date() - places.at.date()).days for one in (backup, history)]
    assert days in ([35, 90], [36, 90])  # if the day ends during the test
    assert places.identify().record_path == found["erasure record"].where
    assert found.keys() == {"backup of the result", "execution history", "log lines", "erasure record"}


def test_an_express_execution_has_no_history(places):
    tracer = places.tracer()
    tracer.parameters["WorkflowType"] = "EXPRESS"

    search = find_copies(Context(places.stack, tracer, tracer.identify()))

    assert "execution history" not in {one.kind for one in search.retained}
    assert "backup of the result" in {one.kind for one in search.retained}


def test_of_a_photo_that_was_never_here_nothing_is_kept(places):
    search = places.search("uploads/never.jpg")

    assert (search.copies, search.retained, search.remaining) == ([], [], [])


@pytest.mark.parametrize("missing", ["CaptureUri", "WorkspaceBucketName"])
def test_a_stack_without_captures_or_training_data_is_searched_as_far_as_it_goes(
    places, monkeypatch, missing
):
    tracer = places.tracer()
    if missing == "CaptureUri":
        tracer.parameters["CaptureUri"] = ""
    else:
        monkeypatch.setattr(photo_copies, "stack_outputs", lambda _: {})

    search = find_copies(Context(places.stack, tracer, tracer.identify()))

    gone = {"CaptureUri": "capture", "WorkspaceBucketName": "training copy"}[missing]
    every = {
        "capture",
        "training copy",
        "ground truth",
        "review message",
        "failed message",
        "photo",
        "result",
    }
    assert {copy.kind for copy in search.copies} == every - {gone}


def test_the_result_is_read_as_it_is_now(places):
    """An eventually consistent read could miss a result that was just written."""
    with recording() as calls:
        fresh = Stack("test", boto3.Session(region_name="us-east-1"), places.stack.outputs)
        PhotoTracer(fresh, "photos", OURS).identify()

    assert [read["ConsistentRead"] for read in calls.of("GetItem")] == [True]


def test_a_file_that_is_called_a_manifest_but_is_no_json_is_reported(places):
    places.s3.put_object(Bucket="workspace", Key="data/2/manifest.json", Body=b"no JSON")

    with pytest.raises(ErasureError, match=r"s3://workspace/data/2/manifest\.json is not the manifest"):
        places.search()
