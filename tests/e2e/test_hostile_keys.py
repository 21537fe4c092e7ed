"""Keys that try to control a terminal, through the whole stack and every command that prints keys."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner, Result

from local import demo
from local.stack import Stack
from model.terminal import tables
from pipeline import review_queue, sample_images
from scones import cli

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u200b\u2028\u202egpj.exe\x7f"
# Without ESC, because the emulator cannot list keys that XML 1.0 cannot contain; \x9b means ESC and [.
LISTED = "\x9b2J\x9b31m\x85\u200b\u2028\u202egpj.exe\x7f"
NAMES = {
    "vehicle": f"vehicle{LISTED}\nDeleted everything.jpg",
    "doubtful": f"doubtful{LISTED}\nPrediction: bicycle.desktop",
    "long": "long." + "x\x9b" * 320,
    "broken": f"broken{LISTED}",
}


def contents() -> dict[str, bytes]:
    vehicle, scone = (
        sample_images.encoded(sample_images.picture(subject, seed=3))
        for subject in (sample_images.bicycle, sample_images.scone)
    )
    return {
        NAMES["vehicle"]: vehicle,
        NAMES["doubtful"]: scone,
        NAMES["long"]: scone,
        NAMES["broken"]: vehicle[:500],
    }


@pytest.fixture(scope="module")
def outcomes(stack: Stack) -> list[demo.Outcome]:
    """The outcome of each photo; no other photo waits in a queue."""
    for queue in ("ReviewQueueUrl", "FailedQueueUrl"):
        stack.client("sqs").purge_queue(QueueUrl=stack.outputs[queue])
    return list(demo.classify(stack, contents()))


@pytest.fixture
def aws(stack: Stack, monkeypatch) -> Iterator[None]:
    """Commands without --stack, such as `scones data`, use the emulator too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.endpoint_url)
    boto3.DEFAULT_SESSION = None
    yield
    boto3.DEFAULT_SESSION = None


def scones(*arguments: str, answers: str | None = None) -> Result:
    done = CliRunner().invoke(cli, arguments, input=answers)
    assert_harmless(done.output)
    assert done.exit_code in {0, 1}, done.output
    return done


def assert_harmless(output: str) -> None:
    for line in output.split("\n"):
        assert line.isprintable(), repr(line)
        assert not line.startswith(("Deleted everything", "Prediction: bicycle.desktop"))


def test_the_demos_table(outcomes, capsys):
    assert {one.outcome for one in outcomes} >= {"accepted", "needs_review", "rejected"}

    tables.Console(width=110).print(demo.table(outcomes))

    assert_harmless(capsys.readouterr().out)


def test_every_command_that_prints_keys(stack: Stack, outcomes, aws, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(review_queue, "SKIP_DELAY", 0)
    this = f"--stack={stack.description}"
    bucket = stack.outputs["UploadBucketName"]
    review = [name for name in NAMES.values() if name.startswith(("doubtful", "long"))]

    reviewed = scones("review", "--plain", "--reviewer", f"ada{ESCAPES}", this, answers="o\n" * 9)
    assert reviewed.exit_code == 0
    assert reviewed.output.count("/photo.jpg") == len(review)

    s3 = stack.client("s3")
    for version in s3.list_object_versions(Bucket=bucket, Prefix=f"uploads/{NAMES['doubtful'][:8]}")[
        "Versions"
    ]:
        s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    for label, subject in (("bicycle", sample_images.bicycle), ("other", sample_images.scone)):
        (tmp_path / "own" / label).mkdir(parents=True)
        for seed in range(4):
            photo = sample_images.encoded(sample_images.picture(subject, seed=20 + seed))
            (tmp_path / "own" / label / f"{seed}{ESCAPES}.jpg").write_bytes(photo)
    (tmp_path / "own" / "other" / f"unreadable{ESCAPES}.jpg").write_bytes(b"no photo")
    data = ("data", f"--source={tmp_path / 'own'}", f"--reviewed={stack.outputs['GroundTruthUri']}")
    built = scones(*data, "--skip-unreadable", f"--out={tmp_path / 'data'}")
    assert "has been deleted" in built.output
    assert "unreadable" in built.output
    assert built.exit_code == 0
    assert scones(*data, f"--out={tmp_path / 'data'}").exit_code == 1
    assert "rejected" in scones("predict", str(tmp_path / "own" / "other")).output

    failed = {"detail": {"bucket": {"name": bucket}, "object": {"key": f"uploads/gone{ESCAPES}"}}}
    stack.client("sqs").send_message(QueueUrl=stack.outputs["FailedQueueUrl"], MessageBody=json.dumps(failed))
    assert "1 started" in scones("replay", this).output
    assert "No photos under" in scones("backfill", f"uploads/none{ESCAPES}", this).output
    assert "have a result" in scones("backfill", f"uploads/{NAMES['vehicle'][:8]}", this).output
    assert scones("activate", "--dry-run", this).exit_code == 0
    assert "1 sent" in scones("traffic", "--burst=1", f"--photos={tmp_path / 'own' / 'bicycle'}", this).output

    for name in NAMES.values():
        for options in (["--dry-run"], []):
            output = scones("forget", f"uploads/{name}", *options, this).output
            assert "elete" in output
    assert "No copies" in scones("forget", f"uploads/{NAMES['vehicle']}", this).output
