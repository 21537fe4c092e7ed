"""What a reviewer's session asks of SQS, S3 and DynamoDB, and what the page shows of it."""

import json
import re
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from pipeline.review_queue import (
    EXTEND_INTERVAL,
    SKIP_DELAY,
    VISIBILITY_TIMEOUT,
    AnswerStatus,
    ReviewItem,
    ReviewQueue,
)
from pipeline.stack import Stack
from tests.aws_shapes import AwsCalls, recording
from tests.conftest import ROOT
from tests.unit.test_review_queue import Pipeline

ITEM = ReviewItem("receipt", {"photo": "s3://uploads/uploads/a.jpg"})


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with mock_aws():
        yield Pipeline()


@pytest.fixture
def calls(pipeline) -> Iterator[AwsCalls]:
    with recording() as recorded:
        yield recorded
    assert recorded.violations == []


@pytest.fixture
def queue(pipeline, calls) -> ReviewQueue:
    """A queue whose clients are created now, so that their requests are recorded."""
    outputs = dict(pipeline.stack.outputs)
    return ReviewQueue(Stack("test", boto3.Session(region_name="us-east-1"), outputs), "ada")


def test_a_photo_on_display_is_extended_well_before_others_can_receive_it():
    assert 0 < 2 * EXTEND_INTERVAL < VISIBILITY_TIMEOUT


def test_a_received_photo_is_hidden_while_it_is_on_display(pipeline, queue, calls):
    pipeline.upload()

    photo = queue.receive()

    (request,) = calls.of("ReceiveMessage")
    assert (request["VisibilityTimeout"], request["MaxNumberOfMessages"]) == (VISIBILITY_TIMEOUT, 1)
    assert (photo.uri, photo.detail["label"]) == ("s3://uploads/uploads/a.jpg", "bicycle")
    assert all(read["ConsistentRead"] for read in calls.of("GetItem"))


def test_an_extended_skipped_or_released_photo_is_hidden_for_as_long_as_that_means(pipeline, queue, calls):
    pipeline.upload()
    photo = queue.receive()

    queue.extend(photo)
    queue.skip(photo)
    queue.release(photo)

    requests = calls.of("ChangeMessageVisibility")
    timeouts = [request["VisibilityTimeout"] for request in requests]
    assert timeouts == [VISIBILITY_TIMEOUT, SKIP_DELAY, 0]
    assert {request["ReceiptHandle"] for request in requests} == {photo.receipt}


class Sqs:
    """SQS as far as receiving goes; it has no messages, and its clock advances by what is waited."""

    def __init__(self) -> None:
        self.seconds, self.waits = 0.0, []

    def receive_message(self, WaitTimeSeconds: int, **_: object) -> dict:  # noqa: N803
        self.waits.append(WaitTimeSeconds)
        self.seconds += WaitTimeSeconds
        return {}


@pytest.mark.parametrize(("patience", "waits"), [(0, [0]), (2, [2]), (45, [20, 20, 5])])
def test_a_reviewer_waits_as_long_as_asked_in_calls_of_at_most_twenty_seconds(
    queue, monkeypatch, patience, waits
):
    """SQS allows no longer one (API Reference, ReceiveMessage)."""
    queue.sqs = Sqs()
    monkeypatch.setattr("pipeline.review_queue.time.monotonic", lambda: queue.sqs.seconds)

    assert queue.receive(patience) is None
    assert queue.sqs.waits == waits


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        ("AWS.SimpleQueueService.MessageNotInflight", True),
        ("MessageNotInflight", True),
        ("ReceiptHandleIsInvalid", True),
        ("InvalidParameterValue", True),
        ("AccessDenied", False),
        ("AWS.SimpleQueueService.NonExistentQueue", False),
    ],
)
def test_a_photo_that_others_can_receive_is_lost_and_another_error_is_an_error(
    queue, monkeypatch, code, lost
):
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code}}, "ChangeMessageVisibility")

    monkeypatch.setattr(queue.sqs, "change_message_visibility", refuse)

    if lost:
        assert queue.extend(ITEM) is False
    else:
        with pytest.raises(ClientError, match=code):
            queue.extend(ITEM)


def test_an_answer_has_its_time_in_utc_to_the_millisecond(pipeline, queue):
    pipeline.upload()

    queue.answer(queue.receive(), "bicycle")

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", pipeline.result()["reviewed_at"])


def test_ground_truth_is_a_line_of_json_as_sagemaker_writes_it(pipeline, queue):
    detail = pipeline.upload() | {"classified_at": "2026-11-25T23:30:00.000-05:00"}
    pipeline.sqs.purge_queue(QueueUrl=pipeline.queue)
    pipeline.send(detail)

    queue.answer(queue.receive(), "bicycle")

    stored = pipeline.s3.get_object(Bucket="uploads", Key="ground-truth/2026/11/26/04/1.jsonl")
    line = stored["Body"].read()
    assert stored["ContentType"] == "application/jsonl"
    assert line.endswith(b"}\n")
    assert json.loads(line)["groundTruthData"]["data"] == "bicycle"


def test_photos_that_wait_are_counted_without_those_on_display(pipeline, queue):
    for number in range(3):
        pipeline.upload(f"uploads/{number}.jpg", str(number))
    queue.receive()

    assert queue.approximate_waiting() == 2


def test_an_unknown_label_is_answered_with_those_that_are_known(queue):
    with pytest.raises(Exception, match="Use one of: bicycle, motorcycle, other, unusable"):
        queue.answer(ITEM, "bicicle")


@pytest.mark.parametrize("missing", ["photo", "bucket", "key", "inference_id", "classified_at"])
def test_a_message_without_what_a_review_needs_is_left_with_a_warning(pipeline, queue, caplog, missing):
    detail = pipeline.upload()
    pipeline.sqs.purge_queue(QueueUrl=pipeline.queue)
    pipeline.send({name: value for name, value in detail.items() if name != missing})

    assert queue.receive() is None
    assert sum(pipeline.messages()) == 1
    (warning,) = [one for one in caplog.records if one.name == "pipeline.review_queue"]
    assert "is not a photo; left in the queue" in warning.getMessage()


def test_a_message_without_a_time_that_can_be_read_is_left(pipeline, queue):
    detail = pipeline.upload()
    pipeline.sqs.purge_queue(QueueUrl=pipeline.queue)
    pipeline.send(detail | {"classified_at": "yesterday"})

    assert queue.receive() is None
    assert sum(pipeline.messages()) == 1


def test_the_page_knows_the_status_of_an_answer_that_was_recorded():
    page = (ROOT / "pipeline" / "pages" / "review.html").read_text()

    assert f'status !== "{AnswerStatus.RECORDED}"' in page
    assert all(status.message.endswith(".") for status in AnswerStatus)
