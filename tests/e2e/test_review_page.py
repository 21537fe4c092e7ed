"""The review page in a real browser on the whole stack: two reviewers, their keys, and other callers."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from urllib.error import HTTPError

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from PIL import Image
from rich.progress import Progress

from functions.monitor.capture_analysis.captures import split_uri
from local import demo
from local.stack import CAPTURE_URI, Stack
from pipeline import backfill, sample_images
from pipeline import stack as pipeline
from pipeline.review_queue import AnswerStatus, ReviewError, ReviewItem, ReviewQueue
from scones import cli
from tests import permissions
from tests.browser import CHROMIUM, Browser, Tab
from tests.conftest import ROOT
from tests.permissions import Permission, Person
from tests.waiting import PATIENCE, eventually

PHOTOS = {
    "review-1.jpg": sample_images.encoded(
        Image.blend(sample_images.picture(sample_images.bicycle, seed=4), sample_images.FOG, 0.78)
    ),
    "review-2.png": sample_images.encoded(sample_images.picture(sample_images.scone, seed=1), "PNG"),
    "review-3.png": sample_images.encoded(sample_images.picture(sample_images.scone, seed=2), "PNG"),
}


class Server(NamedTuple):
    """A running `scones review`."""

    address: str
    token: str

    def ask(self, path: str, **headers: str) -> tuple[int, dict, dict[str, str]]:
        """Post to it as any program on this machine can."""
        request = urllib.request.Request(f"{self.address}{path}", b"{}", headers, method="POST")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.loads(answer.read()), dict(answer.headers)
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), dict(error.headers)


@pytest.fixture(scope="module")
def waiting(stack) -> Iterator[Stack]:
    """The stack with exactly three photos in its review queue, and no ground truth."""
    stack.client("sqs").purge_queue(QueueUrl=stack.outputs["ReviewQueueUrl"])
    s3, (bucket, prefix) = stack.client("s3"), split_uri(stack.outputs["GroundTruthUri"])
    for record in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=record["Key"])
    outcomes = list(demo.classify(stack, PHOTOS))
    assert {outcome.outcome for outcome in outcomes} == {"needs_review"}
    return stack


@pytest.fixture(scope="module")
def server(waiting) -> Iterator[Server]:
    command = ["-m", "scones", "review", "--no-browser", "--reviewer", "ada", "--stack", waiting.description]
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        address, token = re.search(r"(http://127\.0\.0\.1:\d+/)#(\S+)", process.stderr.readline()).groups()
        yield Server(address, token)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    with Browser.running(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def shown(tab: Tab) -> str:
    """The photo on a page, once it can be seen."""
    tab.until("document.querySelector('#frame img')?.naturalWidth")
    return tab.js("document.querySelector('#photo').textContent")


def test_two_reviewers_each_answer_their_own_photos_by_key(waiting, server, browser):
    ada, ben = browser.tab(), browser.tab()
    for tab in (ada, ben):
        tab.go(f"{server.address}#{server.token}")
    adas, bens = shown(ada), shown(ben)
    assert adas != bens

    ben.go("about:blank")  # closed half-way: its photo goes back, and ada gets it or the third
    answers = {}
    for _ in PHOTOS:
        photo = shown(ada)
        answers[photo] = "bicycle" if photo.endswith("review-1.jpg") else "other"
        ada.press(answers[photo][0])
        ada.until(f"document.querySelector('#photo').textContent !== {json.dumps(photo)}")
    ada.until("document.querySelector('#prediction').textContent.startsWith('No photos are waiting')")

    assert bens in answers
    table, names = waiting.client("dynamodb"), waiting.outputs
    for photo, label in answers.items():
        item = table.get_item(TableName=names["ResultsTableName"], Key={"photo": {"S": photo}})["Item"]
        assert (item["reviewed_label"]["S"], item["reviewer"]["S"]) == (label, "ada")
        assert item["outcome"]["S"] == "needs_review"
    left = waiting.client("sqs").get_queue_attributes(
        QueueUrl=names["ReviewQueueUrl"], AttributeNames=["All"]
    )["Attributes"]
    assert [left[f"ApproximateNumberOfMessages{of}"] for of in ("", "NotVisible")] == ["0", "0"]
    errors = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event.get("method") in errors] == []
    requested = {
        event["params"]["request"]["url"].split("/")[2]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
        and event["params"]["request"]["url"].startswith("http")
    }
    assert {f"http://{host}/" for host in requested} == {server.address}
    ada.go("about:blank")  # an open page takes what comes later


@pytest.fixture(scope="module")
def person(waiting) -> Iterator[Person]:
    """A person who may do what the stack's ReviewPolicy allows."""
    yield Person(waiting, "ReviewPolicyArn")
    waiting.client("sqs").purge_queue(QueueUrl=waiting.outputs["ReviewQueueUrl"])


def review(stack: pipeline.Stack, reviewer: str) -> ReviewItem:
    """Review a photo with every call that the page makes."""
    stack.client("cloudformation").describe_stacks(StackName=stack.name)
    queue = ReviewQueue(stack, reviewer)
    photo = queue.receive(patience=PATIENCE)
    assert photo is not None
    assert queue.read_photo(photo) == PHOTOS["review-3.png"]
    versionless = {**photo.detail, "version_id": None}
    assert queue.read_photo(replace(photo, detail=versionless)) == PHOTOS["review-3.png"]
    with pytest.raises(ReviewError, match="deleted"):
        queue.read_photo(replace(photo, detail={**versionless, "key": "uploads/gone.png"}))
    assert queue.extend(photo)
    assert queue.approximate_waiting() == 0
    assert queue.answer(photo, "other") is AnswerStatus.RECORDED
    return photo


def test_a_reviewer_needs_no_more_than_the_policy_for_reviewers(waiting, person):
    waiting.client("sqs").purge_queue(QueueUrl=waiting.outputs["ReviewQueueUrl"])
    list(demo.classify(waiting, {"review-4.png": PHOTOS["review-3.png"]}))
    person.may(person.policy)

    photo = review(person.stack, person.name)

    assert photo.uri.endswith("review-4.png")
    with pytest.raises(ClientError, match="AccessDenied"):
        person.stack.client("s3").put_object(Bucket=photo.detail["bucket"], Key=photo.detail["key"], Body=b"")


def test_a_reviewer_opens_a_photo_that_a_backfill_sent_to_review(waiting, person):
    waiting.client("sqs").purge_queue(QueueUrl=waiting.outputs["ReviewQueueUrl"])
    key, stack = "archive/reviewed/old.png", pipeline.find_stack(str(waiting.description))
    bucket = stack.output("UploadBucketName")
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=PHOTOS["review-3.png"])
    person.may(person.policy)

    backfill.follow(stack, backfill.start(stack, "archive/reviewed/", None, None), Progress(disable=True))

    queue = ReviewQueue(person.stack, person.name)
    photo = queue.receive(patience=PATIENCE)
    assert photo is not None
    assert photo.detail["key"] == key
    for version in (photo.detail["version_id"], None):
        opened = queue.read_photo(replace(photo, detail={**photo.detail, "version_id": version}))
        assert opened == PHOTOS["review-3.png"]
    queue.release(photo)


@pytest.fixture(scope="module")
def noticed() -> Iterator[set[Permission]]:
    yield from permissions.noticed(permissions.of("ReviewPolicy"))


@pytest.mark.verify
@pytest.mark.parametrize("permission", permissions.of("ReviewPolicy"), ids=" ".join)
def test_without_a_permission_reviewing_fails(waiting, person, noticed, permission):
    waiting.client("sqs").purge_queue(QueueUrl=waiting.outputs["ReviewQueueUrl"])
    name = f"lacking-{permission.action.replace(':', '-')}.png"
    (outcome,) = demo.classify(waiting, {name: PHOTOS["review-3.png"]})
    assert outcome.outcome == "needs_review"
    person.may(permissions.without(person.policy, permission))

    with pytest.raises(ClientError) as raised:
        review(person.stack, person.name)

    assert permissions.is_missed(permission, str(raised.value))
    noticed.add(permission)


def test_monitoring_measures_accuracy_by_the_answers(waiting, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", waiting.endpoint_url)

    options = ["--captures", CAPTURE_URI, "--truth", waiting.outputs["GroundTruthUri"]]
    labels = ["--labels", waiting.outputs["ClassLabels"]]
    bucket, prefix = split_uri(waiting.outputs["GroundTruthUri"])
    records = waiting.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"]

    def measured() -> int:
        done = CliRunner().invoke(cli, ["monitor", *options, *labels, "--json"])
        assert done.exit_code == 0, done.output
        labelled = json.loads(done.output)["labelled"]
        return labelled["accuracy"]["of"] if labelled else 0

    eventually(lambda: measured() == records > 0)  # the last captures take a few seconds to come


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-Review-Token": "guessed"}, 403),
        ({"X-Review-Token": "TOKEN", "Host": "evil.example"}, 421),
        ({"X-Review-Token": "TOKEN", "Origin": "http://evil.example"}, 421),
        ({"X-Review-Token": "TOKEN"}, 400),
    ],
)
def test_other_callers_are_refused(server, headers, status):
    headers = {name: value.replace("TOKEN", server.token) for name, value in headers.items()}

    for path in ("answer", "extend"):
        found, answer, response_headers = server.ask(path, **headers)
        assert (found, response_headers["cache-control"]) == (status, "no-store")
        assert set(answer) == {"error"}
