"""The review loop at one desk and at two: what is written where, in which order, and what is never lost."""

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
from pipeline.review_page import SKIP, SPOILT, keys
from pipeline.review_queue import UNUSABLE, Outcome, ReviewError, ReviewQueue
from pipeline.stack import Stack
from scones import cli

PHOTO = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))


class Pipeline:
    """What the review loop sees of the pipeline: a bucket, a table, and a queue."""

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

    def truth(self) -> dict[str, str]:
        found = self.s3.list_objects_v2(Bucket="uploads", Prefix="ground-truth/").get("Contents", [])
        bodies = [self.s3.get_object(Bucket="uploads", Key=one["Key"])["Body"].read() for one in found]
        records = [json.loads(body) for body in bodies]
        return {one["eventMetadata"]["eventId"]: one["groundTruthData"]["data"] for one in records}

    def left(self) -> tuple[int, int]:
        """Messages that wait, and that somebody has."""
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


def test_an_answer_is_written_beside_the_models_and_as_ground_truth_and_leaves_the_queue(pipeline, ada):
    detail = pipeline.upload()

    photo = ada.take()
    assert ada.content(photo) == PHOTO
    assert ada.answer(photo, "motorcycle") is Outcome.RECORDED

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
    assert pipeline.left() == (0, 0)


def test_two_reviewers_never_have_the_same_photo_and_one_given_back_is_the_others(pipeline, ada, ben):
    pipeline.upload()

    photo = ada.take()
    assert ben.take() is None
    ada.release(photo)
    assert ben.take().uri == photo.uri


def test_a_photo_passed_over_comes_again_later_but_not_at_once(pipeline, ada):
    pipeline.upload()

    ada.skip_photo(ada.take())

    assert ada.take() is None
    assert pipeline.left() == (0, 1)


def test_a_photo_that_slipped_away_has_one_answer_the_first(pipeline, ada, ben):
    pipeline.upload()
    adas = ada.take()
    ada.release(adas)  # as if its time had run out
    bens = ben.take()

    assert ben.answer(bens, "bicycle") is Outcome.RECORDED
    assert ada.answer(adas, "motorcycle") is Outcome.ALREADY
    assert pipeline.result()["reviewed_label"] == "bicycle"
    assert pipeline.truth() == {"1": "bicycle"}


@pytest.mark.parametrize("broken", ["put_object", "delete_message"])
def test_what_breaks_off_after_the_answer_is_made_up_for_without_asking_again(
    pipeline, ada, ben, broken, monkeypatch
):
    pipeline.upload()
    photo = ada.take()
    client = ada.s3 if broken == "put_object" else ada.sqs
    with monkeypatch.context() as patch:

        def fail(**_: Any) -> None:
            raise ConnectionError

        patch.setattr(client, broken, fail)
        with pytest.raises(ConnectionError):
            ada.answer(photo, "other")
    ada.release(photo)

    assert ben.take() is None
    assert pipeline.truth() == {"1": "other"}
    assert pipeline.left() == (0, 0)


def test_a_message_that_came_twice_is_asked_about_once(pipeline, ada):
    pipeline.send(pipeline.upload())

    assert ada.answer(ada.take(), "bicycle") is Outcome.RECORDED
    assert ada.take() is None
    assert pipeline.left() == (0, 0)


def test_a_newer_upload_is_not_overwritten_but_the_older_counts_as_ground_truth(pipeline, ada):
    pipeline.upload()
    photo = ada.take()
    pipeline.upload(inference_id="2", content=PHOTO + b"newer")

    assert ada.content(photo) == PHOTO
    assert ada.answer(photo, "motorcycle") is Outcome.REPLACED
    assert "reviewed_label" not in pipeline.result()
    assert pipeline.truth() == {"1": "motorcycle"}
    assert ada.take().detail["inference_id"] == "2"


def test_of_a_result_that_was_deleted_nothing_is_asked_or_written(pipeline, ada):
    detail = pipeline.upload()
    photo = ada.take()
    pipeline.table.delete_item(Key={"photo": detail["photo"]})
    pipeline.send(detail)

    assert ada.answer(photo, "bicycle") is Outcome.GONE
    assert ada.take() is None
    assert pipeline.truth() == {}
    assert pipeline.left() == (0, 0)
    assert "Item" not in pipeline.table.get_item(Key={"photo": detail["photo"]})


def test_an_unusable_photo_is_answered_but_is_no_ground_truth(pipeline, ada):
    pipeline.upload()

    ada.answer(ada.take(), UNUSABLE)

    assert pipeline.result()["reviewed_label"] == UNUSABLE
    assert pipeline.truth() == {}
    assert pipeline.left() == (0, 0)


def test_a_photo_without_a_version_can_be_reviewed_too(pipeline, ada):
    detail = pipeline.upload()
    pipeline.table.update_item(
        Key={"photo": detail["photo"]},
        UpdateExpression="SET version_id = :none",
        ExpressionAttributeValues={":none": None},
    )
    ada.sqs.delete_message(QueueUrl=pipeline.queue, ReceiptHandle=ada.take().receipt)
    pipeline.send(detail | {"version_id": None})

    assert ada.answer(ada.take(), "bicycle") is Outcome.RECORDED


@pytest.mark.parametrize("body", ["no json", '"text"', "{}", '{"photo": 1}'])
def test_what_is_no_photo_of_the_pipelines_stays_in_the_queue(pipeline, ada, body):
    pipeline.sqs.send_message(QueueUrl=pipeline.queue, MessageBody=body)
    pipeline.upload()

    photo = ada.take() or ada.take()

    assert photo.detail["inference_id"] == "1"
    assert ada.take() is None
    assert sum(pipeline.left()) == 2


def test_another_answer_than_a_label_is_refused_before_anything_is_written(pipeline, ada):
    pipeline.upload()

    with pytest.raises(ReviewError, match="bicicle"):
        ada.answer(ada.take(), "bicicle")

    assert "reviewed_label" not in pipeline.result()


def test_a_photo_that_was_deleted_says_so(pipeline, ada):
    detail = pipeline.upload()
    photo = ada.take()
    pipeline.s3.delete_object(Bucket="uploads", Key=detail["key"], VersionId=detail["version_id"])

    with pytest.raises(ReviewError, match="has been deleted"):
        ada.content(photo)


def test_a_photo_is_no_longer_kept_once_it_has_left_the_queue(pipeline, ada):
    pipeline.upload()
    photo = ada.take()

    assert ada.keep(photo)
    ada.sqs.delete_message(QueueUrl=pipeline.queue, ReceiptHandle=photo.receipt)
    assert not ada.keep(photo)


def test_a_photo_that_is_looked_at_stays_at_the_desk_for_as_long(pipeline, ada, monkeypatch):
    pipeline.upload()
    photo, kept = ada.take(), threading.Event()
    monkeypatch.setattr(review_queue, "EVERY", 0.01)
    monkeypatch.setattr(ada, "keep", lambda one: kept.set() if one is photo else None)

    with review_queue.held(ada, photo):
        assert kept.wait(10)


def test_each_label_has_a_key_of_its_own_and_none_of_those_that_mean_something_else():
    labels = ["bicycle", "bus", "scooter", "truck", "other", "x", "s", "路"]

    chosen = keys(labels)

    assert list(chosen) == labels
    assert (chosen["bicycle"], chosen["bus"], chosen["scooter"]) == ("b", "u", "c")
    assert len(set(chosen.values())) == len(labels)
    assert not {SKIP, SPOILT} & set(chosen.values())
    with pytest.raises(ReviewError, match="more labels"):
        keys([f"label {number}" for number in range(40)])


def test_the_plain_form_asks_until_nothing_waits(pipeline, monkeypatch):
    monkeypatch.setattr(review, "find", lambda _: pipeline.stack)
    monkeypatch.setattr(ReviewQueue, "take", lambda desk, patience=0, take=ReviewQueue.take: take(desk))
    for number in range(3):
        pipeline.upload(f"uploads/{number}\x1b[2J.jpg", str(number))

    done = CliRunner().invoke(cli, ["review", "--plain", "--reviewer", "ada"], input="q\nm\ns\nx\n")

    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "bicycle, 61.0% sure (low_confidence)" in done.output
    assert list(pipeline.truth().values()) == ["motorcycle"]
    assert pipeline.left() == (0, 1)
    assert "Nothing waits for review." in done.output


def test_the_plain_form_gives_back_what_it_was_asking_about_when_it_is_left(pipeline, monkeypatch):
    monkeypatch.setattr(review, "find", lambda _: pipeline.stack)
    pipeline.upload()

    def leave(*_: Any, **__: Any) -> None:
        raise click.Abort

    monkeypatch.setattr(click, "prompt", leave)
    done = CliRunner().invoke(cli, ["review", "--plain"])

    assert done.exit_code == 0, done.output
    assert pipeline.left() == (1, 0)
    assert pipeline.truth() == {}


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
        ada.answer(ada.take(), label)
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


def test_of_two_answers_about_the_same_photo_the_later_one_trains(pipeline, ada, tmp_path):
    for number, label in enumerate(["bicycle", "motorcycle"]):
        pipeline.upload(f"uploads/{number}.jpg", str(number))
        ada.answer(ada.take(), label)

    with fetch("s3://uploads/ground-truth") as found:
        files = [file.relative_to(found.folder).parts[0] for file in found.folder.rglob("*.jpg")]

    assert files == ["motorcycle"]
    assert not found.folder.exists()


@pytest.mark.parametrize(
    "record",
    [
        {"groundTruthData": {"data": "bicycle"}},
        {"groundTruthData": {"data": "../../x"}, "photo": {"bucket": "uploads", "key": "a"}},
    ],
)
def test_a_record_of_somebody_elses_is_refused(pipeline, record):
    pipeline.s3.put_object(Bucket="uploads", Key="ground-truth/a.jsonl", Body=json.dumps(record))

    with (
        pytest.raises(ReviewedError, match=r"a\.jsonl:1 is not a ground-truth record"),
        fetch("s3://uploads/ground-truth"),
    ):
        pass


def test_s3s_refusal_is_no_deleted_photo(pipeline, ada, monkeypatch):
    pipeline.upload()
    photo = ada.take()

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    monkeypatch.setattr(ada.s3, "get_object", refuse)
    with pytest.raises(ClientError):
        ada.content(photo)
