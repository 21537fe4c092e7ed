"""The review loop with one reviewer and with two: what is written where, in what order, and never lost."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import click
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto import mock_aws

from model.data.reviewed_photos import ReviewedError, fetch
from pipeline import review_queue, sample_images
from pipeline.commands import review
from pipeline.review_page import SKIP_KEY, UNUSABLE_KEY, assign_keys
from pipeline.review_queue import UNUSABLE, AnswerStatus, ReviewError, ReviewQueue
from pipeline.stack import Stack
from scones import cli
from tests.waiting import PATIENCE

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))


class Pipeline:
    """The parts of the pipeline that reviews use: a bucket, a table and a queue."""

    def __init__(self) -> None:
        session = boto3.Session(region_name="us-east-1")
        self.s3, self.sqs = session.client("s3"), session.client("sqs")
        self.table = session.resource("dynamodb").create_table(
            TableName="results",
            KeySchema=[{"AttributeName": "photo", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "photo", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.s3.create_bucket(Bucket="uploads")
        self.s3.put_bucket_versioning(Bucket="uploads", VersioningConfiguration={"Status": "Enabled"})
        self.queue = self.sqs.create_queue(QueueName="review")["QueueUrl"]
        outputs = {
            "ClassLabels": "bicycle, motorcycle,other",
            "ReviewQueueUrl": self.queue,
            "ResultsTableName": "results",
            "GroundTruthUri": "s3://uploads/ground-truth",
        }
        self.stack = Stack("test", session, outputs)

    def upload(self, key: str = "uploads/a.jpg", inference_id: str = "1", content: bytes = PHOTO) -> dict:
        version = self.s3.put_object(Bucket="uploads", Key=key, Body=content)["VersionId"]
        detail = {
            "photo": f"s3://uploads/{key}",
            "bucket": "uploads",
            "key": key,
            "version_id": version,
            "label": "bicycle",
            "confidence": 0.61,
            "reason": "low_confidence",
            "classified_at": "2026-11-25T05:04:34.327Z",
            "inference_id": inference_id,
        }
        self.table.put_item(
            Item={
                "photo": detail["photo"],
                "version_id": version,
                "label": "bicycle",
                "outcome": "needs_review",
            }
        )
        self.send(detail)
        return detail

    def send(self, body: Any) -> None:
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=json.dumps(body))

    def result(self, key: str = "uploads/a.jpg") -> dict:
        return self.table.get_item(Key={"photo": f"s3://uploads/{key}"})["Item"]

    def ground_truth(self) -> dict[str, str]:
        found = self.s3.list_objects_v2(Bucket="uploads", Prefix="ground-truth/").get("Contents", [])
        bodies = [self.s3.get_object(Bucket="uploads", Key=one["Key"])["Body"].read() for one in found]
        records = [json.loads(body) for body in bodies]
        return {one["eventMetadata"]["eventId"]: one["groundTruthData"]["data"] for one in records}

    def messages(self) -> tuple[int, int]:
        """How many messages are waiting, and how many are in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with mock_aws():
        yield Pipeline()


@pytest.fixture
def ada(pipeline) -> ReviewQueue:
    return ReviewQueue(pipeline.stack, "ada")


@pytest.fixture
def ben(pipeline) -> ReviewQueue:
    return ReviewQueue(pipeline.stack, "ben")


def test_an_answer_is_written_next_to_the_models_and_as_ground_truth_and_deletes_the_message(pipeline, ada):
    detail = pipeline.upload()

    photo = ada.receive()
    assert ada.read_photo(photo) == PHOTO
    assert ada.answer(photo, "motorcycle") is AnswerStatus.RECORDED

    result = pipeline.result()
    assert (result["label"], result["reviewed_label"], result["reviewer"]) == ("bicycle", "motorcycle", "ada")
    assert result["reviewed_at"].startswith("20")
    record = pipeline.s3.get_object(Bucket="uploads", Key="ground-truth/2026/11/25/05/1.jsonl")["Body"].read()
    assert json.loads(record) == {
        "groundTruthData": {"data": "motorcycle", "encoding": "CSV"},
        "eventMetadata": {"eventId": "1"},
        "eventVersion": "0",
        "photo": {name: detail[name] for name in ("bucket", "key", "version_id")},
    }
    assert pipeline.messages() == (0, 0)


def test_two_reviewers_never_have_the_same_photo_and_a_released_one_can_be_received_again(pipeline, ada, ben):
    pipeline.upload()

    photo = ada.receive()
    assert ben.receive() is None
    ada.release(photo)
    assert ben.receive().uri == photo.uri


def test_a_skipped_photo_is_received_again_later_but_not_immediately(pipeline, ada):
    pipeline.upload()

    ada.skip(ada.receive())

    assert ada.receive() is None
    assert pipeline.messages() == (0, 1)


def test_the_first_of_two_answers_stands(pipeline, ada, ben):
    pipeline.upload()
    adas = ada.receive()
    ada.release(adas)  # as if the visibility timeout had passed
    bens = ben.receive()

    assert ben.answer(bens, "bicycle") is AnswerStatus.RECORDED
    assert ada.answer(adas, "motorcycle") is AnswerStatus.ALREADY_ANSWERED
    assert pipeline.result()["reviewed_label"] == "bicycle"
    assert pipeline.ground_truth() == {"1": "bicycle"}


@pytest.mark.parametrize("broken", ["put_object", "delete_message"])
def test_an_interrupted_answer_is_completed_without_asking_again(pipeline, ada, ben, broken, monkeypatch):
    pipeline.upload()
    photo = ada.receive()
    client = ada.s3 if broken == "put_object" else ada.sqs
    with monkeypatch.context() as patch:

        def fail(**_: Any) -> None:
            raise ConnectionError

        patch.setattr(client, broken, fail)
        with pytest.raises(ConnectionError):
            ada.answer(photo, "other")
    ada.release(photo)

    assert ben.receive() is None
    assert pipeline.ground_truth() == {"1": "other"}
    assert pipeline.messages() == (0, 0)


def test_a_message_delivered_twice_is_asked_about_once(pipeline, ada):
    pipeline.send(pipeline.upload())

    assert ada.answer(ada.receive(), "bicycle") is AnswerStatus.RECORDED
    assert ada.receive() is None
    assert pipeline.messages() == (0, 0)


def test_a_newer_upload_keeps_its_result_and_the_older_ones_answer_is_ground_truth(pipeline, ada):
    pipeline.upload()
    photo = ada.receive()
    pipeline.upload(inference_id="2", content=PHOTO + b"newer")

    assert ada.read_photo(photo) == PHOTO
    assert ada.answer(photo, "motorcycle") is AnswerStatus.SUPERSEDED
    assert "reviewed_label" not in pipeline.result()
    assert pipeline.ground_truth() == {"1": "motorcycle"}
    assert ada.receive().detail["inference_id"] == "2"


def test_nothing_is_asked_or_written_about_a_deleted_result(pipeline, ada):
    detail = pipeline.upload()
    photo = ada.receive()
    pipeline.table.delete_item(Key={"photo": detail["photo"]})
    pipeline.send(detail)

    assert ada.answer(photo, "bicycle") is AnswerStatus.RESULT_DELETED
    assert ada.receive() is None
    assert pipeline.ground_truth() == {}
    assert pipeline.messages() == (0, 0)
    assert "Item" not in pipeline.table.get_item(Key={"photo": detail["photo"]})


def test_an_unusable_photo_is_recorded_but_not_as_ground_truth(pipeline, ada):
    pipeline.upload()

    ada.answer(ada.receive(), UNUSABLE)

    assert pipeline.result()["reviewed_label"] == UNUSABLE
    assert pipeline.ground_truth() == {}
    assert pipeline.messages() == (0, 0)


def test_a_photo_without_a_version_can_be_reviewed_too(pipeline, ada):
    detail = pipeline.upload()
    pipeline.table.update_item(
        Key={"photo": detail["photo"]},
        UpdateExpression="SET version_id = :none",
        ExpressionAttributeValues={":none": None},
    )
    ada.sqs.delete_message(QueueUrl=pipeline.queue, ReceiptHandle=ada.receive().receipt)
    pipeline.send(detail | {"version_id": None})

    assert ada.answer(ada.receive(), "bicycle") is AnswerStatus.RECORDED


@pytest.mark.parametrize("body", ["no json", '"text"', "{}", '{"photo": 1}'])
def test_a_message_that_is_not_a_photo_stays_in_the_queue(pipeline, ada, body):
    pipeline.sqs.send_message(QueueUrl=pipeline.queue, MessageBody=body)
    pipeline.upload()

    photo = ada.receive() or ada.receive()

    assert photo.detail["inference_id"] == "1"
    assert ada.receive() is None
    assert sum(pipeline.messages()) == 2


def test_an_unknown_label_is_refused_before_anything_is_written(pipeline, ada):
    pipeline.upload()

    with pytest.raises(ReviewError, match="Unknown label: 'bicicle'"):
        ada.answer(ada.receive(), "bicicle")

    assert "reviewed_label" not in pipeline.result()


def test_a_deleted_photo_cannot_be_read(pipeline, ada):
    detail = pipeline.upload()
    photo = ada.receive()
    pipeline.s3.delete_object(Bucket="uploads", Key=detail["key"], VersionId=detail["version_id"])

    with pytest.raises(ReviewError, match="has been deleted"):
        ada.read_photo(photo)


def test_a_photo_cannot_be_extended_after_its_message_is_deleted(pipeline, ada):
    pipeline.upload()
    photo = ada.receive()

    assert ada.extend(photo)
    ada.sqs.delete_message(QueueUrl=pipeline.queue, ReceiptHandle=photo.receipt)
    assert not ada.extend(photo)


def test_a_held_photo_is_extended_repeatedly(pipeline, ada, monkeypatch):
    pipeline.upload()
    photo, extended = ada.receive(), threading.Event()
    monkeypatch.setattr(review_queue, "EXTEND_INTERVAL", 0.01)
    monkeypatch.setattr(ada, "extend", lambda one: extended.set() if one is photo else None)

    with ada.hold(photo):
        assert extended.wait(PATIENCE)


def test_each_label_has_a_key_of_its_own_other_than_the_reserved_ones():
    labels = ["bicycle", "bus", "scooter", "truck", "other", "x", "s", "路"]

    assigned = assign_keys(labels)

    assert list(assigned) == labels
    assert (assigned["bicycle"], assigned["bus"], assigned["scooter"]) == ("b", "u", "c")
    assert len(set(assigned.values())) == len(labels)
    assert not {SKIP_KEY, UNUSABLE_KEY} & set(assigned.values())
    with pytest.raises(ReviewError, match="more labels"):
        assign_keys([f"label {number}" for number in range(40)])


def test_review_on_the_terminal_asks_until_no_photos_are_waiting(pipeline, monkeypatch):
    monkeypatch.setattr(review, "find_stack", lambda _: pipeline.stack)
    receive = ReviewQueue.receive
    monkeypatch.setattr(ReviewQueue, "receive", lambda queue, patience: receive(queue))
    for number in range(3):
        pipeline.upload(f"uploads/{number}\x1b[2J.jpg", str(number))

    done = CliRunner().invoke(cli, ["review", "--plain", "--reviewer", "ada"], input="q\nm\ns\nx\n")

    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "Prediction: bicycle, confidence 61.0% (low_confidence)" in done.output
    assert list(pipeline.ground_truth().values()) == ["motorcycle"]
    assert pipeline.messages() == (0, 1)
    assert "No photos are waiting for review." in done.output


@pytest.mark.parametrize(
    "key",
    [
        "uploads/a." + "a" * 1000,
        "uploads/a.\0",
        "uploads/a.desktop",
        "uploads/a\x1b[2J\u202egpj.exe\nPrediction",
    ],
)
def test_no_key_stops_a_review_or_chooses_the_name_of_the_file_that_is_opened(pipeline, monkeypatch, key):
    monkeypatch.setattr(review, "find_stack", lambda _: pipeline.stack)
    receive = ReviewQueue.receive
    monkeypatch.setattr(ReviewQueue, "receive", lambda queue, patience: receive(queue))
    pipeline.upload(key)

    done = CliRunner().invoke(cli, ["review", "--plain", "--reviewer", "ada"], input="m\n")

    assert done.exit_code == 0, done.output
    lines = done.output.split("\n")
    assert all(line.isprintable() and len(line) <= 1000 for line in lines)
    assert lines[2].endswith("/photo.jpg")
    assert lines[3].startswith("Prediction: bicycle")
    assert pipeline.ground_truth() == {"1": "motorcycle"}


@pytest.mark.parametrize(
    "wrong",
    [{"confidence": "high"}, {"confidence": None}, {"label": 1}, {"reason": None}, {"classified_at": 0}],
)
def test_a_message_of_another_form_does_not_stop_a_review(pipeline, ada, wrong):
    pipeline.send({**pipeline.upload(), **wrong})

    photo = ada.receive()
    assert photo.detail["confidence"] == 0.61
    ada.answer(photo, "bicycle")
    assert ada.receive() is None
    assert sum(pipeline.messages()) == 1


def test_a_user_without_a_name_is_asked_for_one(monkeypatch):
    def unknown() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(review.getpass, "getuser", unknown)

    done = CliRunner().invoke(cli, ["review", "--plain"])

    assert done.exit_code == 2
    assert "Give one with --reviewer." in done.output


def test_review_on_the_terminal_releases_the_photo_when_it_is_stopped(pipeline, monkeypatch):
    monkeypatch.setattr(review, "find_stack", lambda _: pipeline.stack)
    pipeline.upload()

    def stop(*_: Any, **__: Any) -> None:
        raise click.Abort

    monkeypatch.setattr(click, "prompt", stop)
    done = CliRunner().invoke(cli, ["review", "--plain"])

    assert done.exit_code == 0, done.output
    assert pipeline.messages() == (1, 0)
    assert pipeline.ground_truth() == {}


def test_reviewed_photos_train_the_next_model(pipeline, ada, tmp_path):
    for number, (label, draw) in enumerate(
        [
            ("bicycle", sample_images.bicycle),
            ("other", sample_images.scone),
            ("bicycle", sample_images.bicycle),
        ]
    ):
        content = sample_images.encoded(sample_images.picture(draw, seed=number))
        pipeline.upload(f"uploads/{number}.jpg", str(number), content)
        ada.answer(ada.receive(), label)
    first = pipeline.s3.list_object_versions(Bucket="uploads", Prefix="uploads/2.jpg")["Versions"][0]
    pipeline.s3.delete_object(Bucket="uploads", Key="uploads/2.jpg", VersionId=first["VersionId"])
    for label in ("bicycle", "motorcycle"):
        for number in range(2):
            file = tmp_path / "own" / label / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn = sample_images.picture(getattr(sample_images, label), seed=10 + number)
            file.write_bytes(sample_images.encoded(drawn))

    options = ["--source", tmp_path / "own", "--out", tmp_path / "out", "--reviewed"]
    done = CliRunner().invoke(cli, ["data", *map(str, options), "s3://uploads/ground-truth"])

    assert done.exit_code == 0, done.output
    assert "s3://uploads/uploads/2.jpg (has been deleted)" in done.output
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert sum(counts["train"].values()) == 4
    assert counts["train"]["other"] == 1


def test_the_later_of_two_answers_about_the_same_photo_is_trained_with(pipeline, ada, tmp_path):
    for number, label in enumerate(["bicycle", "motorcycle"]):
        pipeline.upload(f"uploads/{number}.jpg", str(number))
        ada.answer(ada.receive(), label)

    with fetch("s3://uploads/ground-truth") as (folder, _):
        files = [file.relative_to(folder).parts[0] for file in folder.rglob("*.jpg")]

    assert files == ["motorcycle"]
    assert not folder.exists()


@pytest.mark.parametrize(
    "record",
    [
        {"groundTruthData": {"data": "bicycle"}},
        {"groundTruthData": {"data": "../../x"}, "photo": {"bucket": "uploads", "key": "a"}},
    ],
)
def test_a_record_from_another_source_is_refused(pipeline, record):
    pipeline.s3.put_object(Bucket="uploads", Key="ground-truth/a.jsonl", Body=json.dumps(record))

    with (
        pytest.raises(ReviewedError, match=r"a\.jsonl:1 is not a ground-truth record"),
        fetch("s3://uploads/ground-truth"),
    ):
        pass


def test_access_denied_is_not_taken_for_a_deleted_photo(pipeline, ada, monkeypatch):
    pipeline.upload()
    photo = ada.receive()

    def deny(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    monkeypatch.setattr(ada.s3, "get_object", deny)
    with pytest.raises(ClientError):
        ada.read_photo(photo)
