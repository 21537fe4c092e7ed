"""`scones forget`: no copy of one courier's photo remains, and every copy of another's does."""

import base64
import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from rich.progress import Progress

from functions.classify.capture import capture_path, format_record
from functions.monitor.capture_analysis.captures import CaptureError
from functions.serialize.photo import serialize
from local import demo
from local.stack import CAPTURE_BUCKET, ENDPOINT_NAME, Stack
from model.data import dataset
from model.html_page import thumbnail
from model.storage import list_versions
from pipeline import backfill, erasure, photo_copies, sample_images
from pipeline import queue as queues
from pipeline import stack as deployed
from pipeline.photo_identity import LOCALLY, PhotoIdentity, PhotoTracer
from pipeline.review_queue import ReviewItem, ReviewQueue
from tests import permissions
from tests.conftest import ROOT
from tests.permissions import Permission, Person
from tests.waiting import eventually

TRAINING = "training-copies"
DELETED = {place.kind for place in photo_copies.PLACES if place.forget.startswith("deletes")}
"""The kinds of copies that a courier leaves, each of which the command deletes."""
REPORTED = {place.kind for place in photo_copies.PLACES} - DELETED - {"alarm mail"}
"""The kinds that it reports; the local stack sends no mail."""

SHORT_TIMEOUT = 10
"""Seconds for which an interrupted search leaves messages hidden."""


def model_input(photo: bytes) -> bytes:
    """The image that the endpoint is given for a photo."""
    return base64.b64decode(serialize(io.BytesIO(photo), 224)["image_data"])


def leave_ground_truth(stack: Stack, key: str) -> None:
    """Write the record that a review writes."""
    bucket = stack.outputs["UploadBucketName"]
    detail = {"bucket": bucket, "key": key, "inference_id": uuid.uuid4().hex}
    time_and_version = {"classified_at": datetime.now(UTC).isoformat(), "version_id": None}
    session = boto3.Session(region_name=stack.region)
    here = deployed.Stack(stack.name, session, stack.outputs, stack.endpoint_url)
    ReviewQueue(here, "a person")._write_ground_truth(ReviewItem("", detail | time_and_version), "other")


@dataclass
class Courier:
    """A courier who uploaded two photos under one key, the second over the first, and deleted it."""

    stack: Stack
    name: str
    seed: int
    suffix: str = ".png"

    @property
    def key(self) -> str:
        return f"uploads/{self.name}{self.suffix}"

    @property
    def address(self) -> str:
        return f"s3://{self.stack.outputs['UploadBucketName']}/{self.key}"

    @property
    def photos(self) -> list[bytes]:
        return [
            sample_images.encoded(sample_images.picture(sample_images.scone, self.seed + n), "PNG")
            for n in (0, 100)
        ]

    def leave_copies(self) -> None:
        """Leave a copy of every kind."""
        s3, sqs = self.stack.client("s3"), self.stack.client("sqs")
        for photo in self.photos:
            (outcome,) = demo.classify(self.stack, {self.key.removeprefix("uploads/"): photo}, silence=60)
            assert outcome.outcome == "needs_review"
        event = {
            "detail": {
                "bucket": {"name": self.stack.outputs["UploadBucketName"]},
                "object": {"key": self.key},
            }
        }
        for body in (event, {"source": "aws.states", "detail": {"input": json.dumps(event)}}):
            sqs.send_message(QueueUrl=self.stack.outputs["FailedQueueUrl"], MessageBody=json.dumps(body))
        leave_ground_truth(self.stack, self.key)
        here = deployed.find_stack(str(self.stack.description))
        backfill.follow(here, backfill.start(here, self.key, None, None), Progress(disable=True))
        s3.delete_object(Bucket=self.stack.outputs["UploadBucketName"], Key=self.key)

    def upload(self) -> None:
        """Upload the first photo."""
        bucket = self.stack.outputs["UploadBucketName"]
        self.stack.client("s3").put_object(Bucket=bucket, Key=self.key, Body=self.photos[0])

    def result(self) -> dict[str, Any] | None:
        table, photo = self.stack.outputs["ResultsTableName"], {"photo": {"S": self.address}}
        return self.stack.client("dynamodb").get_item(TableName=table, Key=photo).get("Item")

    def versions(self) -> list[dict[str, Any]]:
        bucket = self.stack.outputs["UploadBucketName"]
        return list_versions(self.stack.client("s3"), bucket, self.key)

    def captured(self) -> list[tuple[str, bytes]]:
        """Each capture file and model input of these photos that it contains."""
        s3, ours = self.stack.client("s3"), {base64.b64encode(model_input(photo)) for photo in self.photos}
        found = s3.list_objects_v2(Bucket=CAPTURE_BUCKET, Prefix="captures/").get("Contents", [])
        files = {one["Key"]: s3.get_object(Bucket=CAPTURE_BUCKET, Key=one["Key"]) for one in found}
        contents = {key: file["Body"].read() for key, file in files.items()}
        return [(key, photo) for key, content in contents.items() for photo in ours if photo in content]

    def ground_truth(self) -> int:
        """How many ground-truth records there are of the photo."""
        s3, bucket = self.stack.client("s3"), self.stack.outputs["UploadBucketName"]
        found = s3.list_objects_v2(Bucket=bucket, Prefix="ground-truth/").get("Contents", [])
        bodies = [s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found]
        return sum(json.loads(body)["photo"]["key"] == self.key for body in bodies)

    def messages(self) -> int:
        """How many messages about the photo are in both queues."""
        sqs, bodies = self.stack.client("sqs"), []
        for queue in ("ReviewQueueUrl", "FailedQueueUrl"):
            url = self.stack.outputs[queue]
            held = []
            while batch := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                held += batch
            bodies += [message["Body"] for message in held]
            for message in held:
                sqs.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
                )
        return sum(bool(re.search(rf'{re.escape(self.key)}\\?"', body)) for body in bodies)


@pytest.fixture(scope="module")
def forgotten_and_other(stack) -> Iterator[tuple[Courier, Courier]]:
    # photos that no other test uploads
    # the other one's key begins with the forgotten one's
    couriers = Courier(stack, "courier-17", 1717), Courier(stack, "courier-17.png", 1818)
    for courier in couriers:
        courier.leave_copies()
    eventually(lambda: all(len(one.captured()) >= 2 for one in couriers) and couriers[1].messages() >= 4)
    yield couriers
    # a test that fails for lack of a permission leaves messages hidden
    for courier in couriers:
        forget = ("forget", courier.address, "--stack", str(stack.description))
        eventually(lambda forget=forget: not scones(stack, *forget).returncode, pause=5)


@pytest.fixture(scope="module")
def data_set(forgotten_and_other, stack, tmp_path_factory) -> Path:
    """A data set with a photo of each courier among others, on this machine and staged in S3."""
    home = tmp_path_factory.mktemp("data")
    for courier in forgotten_and_other:
        for number, photo in enumerate(courier.photos):
            file = home / "photos" / "other" / f"{courier.name}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo)
    for seed in range(3):
        file = home / "photos" / "bicycle" / f"{seed}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(sample_images.encoded(sample_images.picture(sample_images.bicycle, seed), "PNG"))
    stack.client("s3").create_bucket(Bucket=TRAINING)
    made = scones(
        stack,
        *("data", "--source", str(home / "photos"), "--out", str(home / "data")),
        *("--to", f"s3://{TRAINING}/data/today"),
    )
    assert made.returncode == 0, made.stderr
    return home


@pytest.fixture(scope="module")
def report_folder(forgotten_and_other, stack, tmp_path_factory) -> Path:
    """A report of `scones monitor` with the pictures of both couriers."""
    home = tmp_path_factory.mktemp("monitor")
    photos = [photo for courier in forgotten_and_other for photo in courier.photos]
    records = [
        format_record(model_input(one), "image/jpeg", "[0.5, 0.3, 0.2]", None, datetime.now(UTC))
        for one in photos
    ]
    (home / "captures.jsonl").write_text("".join(records))
    done = scones(stack, "monitor", "--captures", str(home / "captures.jsonl"), "--out", str(home / "report"))
    assert done.returncode == 0, done.stderr
    return home / "report"


def scones(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scones", *arguments],
        cwd=ROOT,
        env=stack._environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def forget(stack: Stack, data_set: Path, photo: str, *options: str) -> subprocess.CompletedProcess[str]:
    places = [option for place in (str(data_set), f"s3://{TRAINING}") for option in ("--data", place)]
    return scones(stack, "forget", photo, "--stack", str(stack.description), *places, *options)


def hashes(stack: Stack, data_set: Path) -> tuple[set[str], set[str]]:
    """The SHA-256 of all files of the data set, on this machine and in S3."""
    here = {hashlib.sha256(file.read_bytes()).hexdigest() for file in data_set.rglob("*.png")}
    s3 = stack.client("s3")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=TRAINING)["Contents"]]
    bodies = [s3.get_object(Bucket=TRAINING, Key=key)["Body"].read() for key in keys]
    return here, {hashlib.sha256(body).hexdigest() for body in bodies}


def test_a_dry_run_lists_every_copy_and_deletes_nothing(stack, forgotten_and_other, data_set, report_folder):
    courier, _ = forgotten_and_other
    before = courier.captured(), courier.versions(), hashes(stack, data_set)

    done = forget(stack, data_set, courier.address, "--dry-run", "--json", "--report", str(report_folder))

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {one["kind"] for one in report["deleted"]} == DELETED
    assert report["dry_run"]
    assert (courier.captured(), courier.versions(), hashes(stack, data_set)) == before
    assert courier.result()
    assert courier.messages() == 4


def test_a_photo_in_another_bucket_is_refused(stack, data_set):
    done = forget(stack, data_set, "s3://nobodys/uploads/photo.jpg")

    assert done.returncode == 2
    assert "s3://nobodys/uploads/photo.jpg is not in the upload bucket of stack" in done.stderr


def test_no_copy_of_the_photo_remains_and_all_of_the_other_one_do(
    stack, forgotten_and_other, data_set, report_folder
):
    courier, other = forgotten_and_other
    of_other = other.result(), other.versions(), len(other.captured())
    execution = courier.result()["execution"]["S"]

    done = forget(stack, data_set, courier.key, "--json", "--report", str(report_folder))

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {one["kind"] for one in report["deleted"]} == DELETED
    assert report["left"] == []
    assert {one["kind"] for one in report["goes_by_itself"]} == REPORTED
    assert execution in {one["where"] for one in report["goes_by_itself"]}
    page = (report_folder / "report.html").read_text()
    for photo in (*courier.photos, *other.photos):
        assert (thumbnail(model_input(photo)) in page) == (photo in other.photos)
    assert courier.result() is None
    assert courier.versions() == []
    assert courier.captured() == []
    assert courier.messages() == 0
    assert (courier.ground_truth(), other.ground_truth()) == (0, 1)
    assert (other.result(), other.versions(), len(other.captured())) == of_other
    assert other.messages() == 4
    for there in hashes(stack, data_set):
        assert not there & {hashlib.sha256(photo).hexdigest() for photo in courier.photos}
        assert there >= {hashlib.sha256(photo).hexdigest() for photo in other.photos}


def test_the_data_set_is_still_valid(stack, forgotten_and_other, data_set):
    training, testing = (dataset.read(data_set / "data", split) for split in dataset.SPLITS)

    manifest = json.loads((data_set / "data" / "manifest.json").read_text())
    assert len(training.paths) + len(testing.paths) == 5 == len(manifest["sha256"])
    assert sum(sum(labels.values()) for labels in manifest["counts"].values()) == 5
    staged = stack.client("s3").get_object(Bucket=TRAINING, Key="data/today/manifest.json")["Body"].read()
    assert staged == (data_set / "data" / "manifest.json").read_bytes()


def test_forgetting_again_finds_no_copies(stack, forgotten_and_other, data_set):
    courier, _ = forgotten_and_other

    done = forget(stack, data_set, courier.address)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"No copies of {courier.address} were found."
    assert any(line.startswith("Expires on") and "execution history" in line for line in lines[1:])


def test_messages_in_flight_are_named_and_the_command_fails(stack, data_set):
    sqs, url = stack.client("sqs"), stack.outputs["ReviewQueueUrl"]
    (held,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=60)["Messages"]
    try:
        done = forget(stack, data_set, "uploads/nobodys.png", "--json")
    finally:
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=held["ReceiptHandle"], VisibilityTimeout=0)

    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["left"] == [f"1 messages in flight to other consumers of {url}"]
    assert "is not completely deleted, run it again" in done.stderr


def test_a_photo_in_flight_is_waited_for(stack, forgotten_and_other, data_set):
    """An execution that runs, and then an answer that is not captured yet, would leave copies afterwards."""
    courier = Courier(stack, "courier-19", 1919)
    with slow_endpoint(stack, seconds=4):
        courier.upload()
        refused = forget(stack, data_set, courier.key, "--json", "--wait", "0")
        courier.upload()
        done = forget(stack, data_set, courier.key, "--json", "--wait", "120")

    assert refused.returncode == 1
    assert any(
        one.endswith(("is running", "may not have started")) for one in json.loads(refused.stdout)["left"]
    )
    assert done.returncode == 0, done.stderr
    assert "capture" in {one["kind"] for one in json.loads(done.stdout)["deleted"]}
    time.sleep(LOCALLY.capture.total_seconds())
    assert (courier.captured(), courier.versions(), courier.result()) == ([], [], None)


def test_a_late_capture_is_found_by_the_record(stack, forgotten_and_other, data_set):
    courier = Courier(stack, "courier-20", 2020)
    demo_outcomes = list(demo.classify(stack, {"courier-20.png": courier.photos[0]}, silence=60))
    assert len(demo_outcomes) == 1
    inference_id = courier.result()["inference_id"]["S"]
    assert forget(stack, data_set, courier.key).returncode == 0
    now = datetime.now(UTC)
    stack.client("s3").put_object(
        Bucket=CAPTURE_BUCKET,
        Key=f"captures/{capture_path(ENDPOINT_NAME, now)}",
        Body=format_record(model_input(courier.photos[0]), "image/png", "[0, 1]", inference_id, now).encode(),
    )
    assert len(courier.captured()) == 1

    done = forget(stack, data_set, courier.key, "--json")

    assert done.returncode == 0, done.stderr
    assert {one["kind"] for one in json.loads(done.stdout)["deleted"]} == {"capture"}
    assert courier.captured() == []


@contextlib.contextmanager
def slow_endpoint(stack: Stack, seconds: float) -> Iterator[None]:
    """The endpoint answers late during a ``with`` block."""
    url = f"{stack.endpoint_url}/faults"
    httpx.put(url, json=[{"place": "endpoint", "seconds": seconds}]).raise_for_status()
    try:
        yield
    finally:
        httpx.put(url, json=[]).raise_for_status()


@pytest.fixture(scope="module")
def person(stack) -> Person:
    """A person who may do what the stack's ForgetPolicy allows."""
    return Person(stack, "ForgetPolicyArn")


def forgotten(stack: deployed.Stack, key: str) -> set[str]:
    """Forget a photo as the command does, without waiting; return the kinds of copies deleted."""
    tracer = PhotoTracer(stack, stack.output("UploadBucketName"), key)
    identity, _ = erasure.settle(tracer, 0, print)
    search = photo_copies.find_copies(photo_copies.Context(stack, tracer, identity))
    erasure.record(stack, identity)
    for copy in search.copies:
        copy.delete()
    return {copy.kind for copy in search.copies}


def leave_copies(stack: Stack, key: str) -> None:
    """Leave a copy of each kind, next to something of others; the file need not be a photo."""
    address = f"s3://{stack.outputs['UploadBucketName']}/{key}"
    (outcome,) = demo.classify(stack, {key.removeprefix("uploads/"): b"no photo"}, silence=60)
    assert outcome.outcome == "rejected"
    now, ours = datetime.now(UTC), uuid.uuid4().hex
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["ResultsTableName"],
        Key={"photo": {"S": address}},
        UpdateExpression="SET inference_id = :id",
        ExpressionAttributeValues={":id": {"S": ours}},
    )
    ours_alone = [format_record(b"photo", "image/png", "[0, 1]", ours, now)]
    with_others = [*ours_alone, format_record(b"another", "image/png", "[0, 1]", "another", now)]
    for lines in (ours_alone, with_others):
        name = f"{now:%Y/%m/%d/%H/%M-%S}-000-{uuid.uuid4()}.jsonl"
        stack.client("s3").put_object(
            Bucket=CAPTURE_BUCKET,
            Key=f"captures/{ENDPOINT_NAME}/AllTraffic/{name}",
            Body="".join(lines).encode(),
        )
    leave_ground_truth(stack, key)
    leave_backfill_results(stack, key)
    leave_record(stack, key)
    # an execution that fails is described, to learn which photo it was about
    stack.client("stepfunctions").start_execution(
        stateMachineArn=stack.outputs["StateMachineArn"],
        input=json.dumps({"detail": {"object": {"key": "no bucket"}}}),
    )
    for photo in (address, "s3://of/another"):
        for queue in ("ReviewQueueUrl", "FailedQueueUrl"):
            stack.client("sqs").send_message(
                QueueUrl=stack.outputs[queue], MessageBody=json.dumps({"photo": photo})
            )


def leave_backfill_results(stack: Stack, key: str) -> None:
    """Write a result file about the photo alone, and another one about a neighbour too."""
    children = [
        {"ExecutionArn": "arn:aws:states:::execution:child", "Input": json.dumps({"Key": one})}
        for one in (key, f"{key}.jpg")
    ]
    for number, ours in enumerate((children[:1], children)):
        stack.client("s3").put_object(
            Bucket=stack.outputs["UploadBucketName"],
            Key=f"backfills/{uuid.uuid4()}/SUCCEEDED_{number}.json",
            Body=json.dumps(ours).encode(),
        )


def leave_record(stack: Stack, key: str) -> None:
    """Write the record of an earlier erasure."""
    here = deployed.find_stack(str(stack.description))
    identity = PhotoIdentity(stack.outputs["UploadBucketName"], key, {}, [], recorded=True)
    erasure.record(here, identity)


@pytest.fixture(scope="module")
def noticed() -> Iterator[set[Permission]]:
    yield from permissions.noticed(permissions.of("ForgetPolicy"))


@pytest.mark.verify
def test_the_policy_is_enough(stack, person):
    leave_copies(stack, "uploads/enough.txt")

    person.may(person.policy)

    kinds = forgotten(person.stack, "uploads/enough.txt")
    assert kinds == DELETED - {"report item", "training copy"}


@pytest.mark.verify
@pytest.mark.parametrize("permission", permissions.of("ForgetPolicy"), ids=" ".join)
def test_without_a_permission_forgetting_fails(stack, person, noticed, permission, monkeypatch):
    monkeypatch.setattr(queues, "EMPTY_AFTER", 0)
    monkeypatch.setattr(photo_copies, "VISIBILITY_TIMEOUT", SHORT_TIMEOUT)
    key = f"uploads/lacking-{permission.action.replace(':', '-')}-{permission.sid}.txt"
    leave_copies(stack, key)

    person.may(permissions.without(person.policy, permission))

    with pytest.raises((ClientError, erasure.ErasureError, CaptureError)) as raised:
        forgotten(person.stack, key)
    assert permissions.is_missed(permission, str(raised.value))
    # the result leads to the remaining copies, so that the next run can finish
    assert Courier(stack, key.removeprefix("uploads/").removesuffix(".txt"), 0, ".txt").result()
    noticed.add(permission)
