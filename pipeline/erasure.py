"""All that is left of a photo, wherever the pipeline, the endpoint or a training put it, and how it goes.

What a result says leads to the rest: its inference id and its time to the captures, its hash to the training
copies. So the result goes last, and forgetting that broke off can be begun again.
"""

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from botocore.exceptions import BotoCoreError, ClientError

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import PayloadError, Record, Tally, TimeWindow
from model.data import dataset
from model.sagemaker.account import ROLES_STACK, describe_stack, explain, stack_outputs
from model.storage import Storage, list_versions
from pipeline import queue
from pipeline.stack import Stack

HIDDEN = 300
"""Seconds for which the messages looked through are hidden from others."""

UNDER_WAY = timedelta(hours=1)
"""How long an execution may take, which is how far an answer may be from the upload and from the result."""

HISTORY = timedelta(days=90)
"""For which Step Functions keeps an execution's states, photo included (Developer Guide, "Quotas")."""

RECOVERABLE = timedelta(days=35)
"""For which DynamoDB's point-in-time recovery can bring a deleted item back (Developer Guide)."""


class ErasureError(Exception):
    """Traces cannot be looked for or deleted; the message says why."""


@dataclass(frozen=True)
class Trace:
    """Something that holds a photo, or was derived from it.

    Attributes
    ----------
    kind, where
        What it is, in words, and its address.
    delete
        Makes it go; that it has gone already is fine.
    spare
        Undoes what looking at it did: a message is hidden from others then.
    """

    kind: str
    where: str
    delete: Callable[[], object]
    spare: Callable[[], object] = lambda: None


class Left(NamedTuple):
    """What nobody can delete, and until when it is there (ISO 8601, UTC, or a day)."""

    kind: str
    where: str
    until: str


@dataclass
class Known:
    """What tells a photo's traces from those of others.

    Attributes
    ----------
    bucket, key
        Where it was uploaded.
    result
        Its item in the results table, as plain values; empty where there is none.
    versions
        Each of the object's versions and delete markers, as ListObjectVersions names them.
    sha256
        Of the photo's file, in hex, for each version of it.
    shown
        SHA-256, in hex, of what the endpoint was shown of each version.
    """

    bucket: str
    key: str
    result: Mapping[str, Any]
    versions: list[Mapping[str, Any]]
    sha256: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)

    @property
    def photo(self) -> str:
        """The photo's address, which is its key in the results table."""
        return f"s3://{self.bucket}/{self.key}"

    def windows(self) -> list[TimeWindow]:
        """Return the times at which the endpoint may have been asked about the photo."""
        uploads = [one["LastModified"].astimezone(UTC) for one in self.versions if "Size" in one]
        windows = [TimeWindow(at - timedelta(minutes=1), at + UNDER_WAY) for at in uploads]
        if at := self.result.get("classified_at"):
            windows.append(TimeWindow(_time(at) - UNDER_WAY, _time(at) + timedelta(minutes=1)))
        return windows

    def is_of(self, record: Record) -> bool:
        """Tell whether a captured record is about the photo."""
        if record.inference_id and record.inference_id == self.result.get("inference_id"):
            return True
        try:
            return hashlib.sha256(record.photo()).hexdigest() in self.shown
        except PayloadError:
            return False


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def know(stack: Stack, bucket: str, key: str) -> Known:
    """Find out what tells a photo's traces, from its result and from all versions of its file."""
    s3 = stack.client("s3")
    table, address = stack.output("ResultsTableName"), {"photo": {"S": f"s3://{bucket}/{key}"}}
    item = (
        stack.client("dynamodb").get_item(TableName=table, Key=address, ConsistentRead=True).get("Item", {})
    )
    # Each attribute is of one type: {"S": "bicycle"}, {"NULL": True}
    result = {name: value for name, typed in item.items() for kind, value in typed.items() if kind != "NULL"}
    known = Known(bucket, key, result, list_versions(s3, bucket, key))
    known.sha256 |= {result["sha256"]} if "sha256" in result else set()
    box = int(parameters(stack)["ImageSize"])
    for version in known.versions:
        if "Size" in version:
            answer = s3.get_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
            photo = answer["Body"].read()
            known.sha256.add(hashlib.sha256(photo).hexdigest())
            known.shown |= _shown(photo, box)
    return known


def parameters(stack: Stack) -> dict[str, str]:
    """Return the parameters that a stack was deployed with, by name."""
    deployed = describe_stack(stack.client("cloudformation"), stack.name) or {}
    return {one["ParameterKey"]: one["ParameterValue"] for one in deployed.get("Parameters", [])}


def _shown(photo: bytes, box: int) -> set[str]:
    """Return the SHA-256 of what serialize makes of a photo, which is what the endpoint is shown."""
    from functions.serialize.app import RejectedError, serialize  # noqa: PLC0415  HEIC's decoder takes a while

    try:
        image = base64.b64decode(serialize(io.BytesIO(photo), box)["image_data"])
    except RejectedError:
        return set()
    return {hashlib.sha256(image).hexdigest()}


@dataclass
class Found:
    """What a search came to.

    Attributes
    ----------
    traces
        In the order in which they can go.
    unseen
        What could not be looked through, in words.
    """

    traces: list[Trace] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def search(
    stack: Stack,
    known: Known,
    captured: Iterable[str] = (),
    data: Iterable[str] = (),
    *,
    all_captures: bool = False,
) -> Found:
    """Find what is left of a photo.

    Parameters
    ----------
    stack
        Whose pipeline.
    known
        What tells the traces.
    captured
        Where to look for captures beside the stack's own place: folders and ``s3://bucket/prefix``.
    data
        Where to look for training copies beside the account's own place: folders and ``s3://bucket/prefix``,
        with data sets anywhere below.
    all_captures
        Whether to look through the captures of all times.

    Raises
    ------
    CaptureError, ErasureError
        Captures, or a data set, cannot be read.
    botocore.exceptions.ClientError
        AWS refuses.
    """
    files, found = Files(stack.client("s3")), Found()
    windows = [TimeWindow()] if all_captures else known.windows()
    found.traces += _in_captures(files, known, [*_own_captures(stack, known), *captured], windows)
    for place in [*_own_data(stack), *data]:
        found.traces += _in_data(files, known, place)
    found.traces += _in_ground_truth(files, known, stack.output("GroundTruthUri"))
    for output, kind in (("ReviewQueueUrl", "review message"), ("FailedQueueUrl", "failed message")):
        _look_through(stack, stack.output(output), kind, known, found)
    found.traces += [_version(files, known, version) for version in known.versions]
    if known.result:
        found.traces.append(_result(stack, known))
    return found


def _own_captures(stack: Stack, known: Known) -> list[str]:
    """Return where the endpoints that the stack asks, and that the photo was shown, capture their data."""
    told = parameters(stack)
    if not (uri := told.get("CaptureUri")):
        return []
    endpoints = {told["EndpointName"], known.result.get("model", told["EndpointName"])}
    return [f"{uri}/{endpoint}" for endpoint in sorted(endpoints)]


def _own_data(stack: Stack) -> list[str]:
    """Return where the account's training data is staged, if it has a place for it."""
    roles = describe_stack(stack.client("cloudformation"), ROLES_STACK)
    bucket = stack_outputs(roles).get("WorkspaceBucketName") if roles else None
    return [f"s3://{bucket}/data"] if bucket else []


def _in_captures(
    files: "Files", known: Known, sources: Iterable[str], windows: Sequence[TimeWindow]
) -> Iterator[Trace]:
    seen = set()
    for source, window in itertools.product(sources, windows):
        for path, lines in captures.read_lines(source, window, Tally(), files.s3):
            if path in seen:
                continue
            seen.add(path)
            content = list(lines)
            of_others = [line for line in content if not _is_captured(line, known)]
            if count := len(content) - len(of_others):
                where = f"{path}, {count} of {len(content)} records"
                yield Trace("capture", where, partial(files.keep, path, of_others))


def _is_captured(line: bytes, known: Known) -> bool:
    try:
        return known.is_of(captures.parse(line, None))
    except ValueError:  # no record
        return False


def _in_ground_truth(files: "Files", known: Known, uri: str) -> Iterator[Trace]:
    """Find what people said that the photo shows, whenever that was."""
    for path, lines in captures.read_lines(uri, TimeWindow(), Tally(), files.s3):
        content = list(lines)
        of_others = [line for line in content if not _is_said_of(line, known)]
        if len(of_others) < len(content):
            yield Trace("ground truth", path, partial(files.keep, path, of_others))


def _is_said_of(line: bytes, known: Known) -> bool:
    try:
        told = json.loads(line)
    except ValueError:
        return False
    match told:
        case {"photo": {"bucket": str(bucket), "key": str(key)}}:
            return (bucket, key) == (known.bucket, known.key)
    return False


def _in_data(files: "Files", known: Known, place: str) -> Iterator[Trace]:
    """Find training copies: photos in data sets by their manifests, and of a plain folder by themselves."""
    hashes = known.sha256 | known.shown
    listed = set()
    for folder in files.data_sets(place):
        for path, sha256 in files.manifest(folder)["sha256"].items():
            listed.add(f"{folder}/{path}")
            if sha256 in hashes:
                yield Trace("training copy", f"{folder}/{path}", partial(files.take_out, folder, path))
    if not place.startswith("s3://"):
        for file in sorted(path for path in Path(place).rglob("*") if path.is_file()):
            if str(file) not in listed and hashlib.sha256(file.read_bytes()).hexdigest() in hashes:
                yield Trace("training copy", str(file), partial(files.storage.erase, str(file)))


def _look_through(stack: Stack, url: str, kind: str, known: Known, found: Found) -> None:
    """Look through a queue, and put back what is not about the photo; what is stays hidden for a while."""
    sqs = stack.client("sqs")
    held = queue.held_by_others(sqs, url)
    others = []
    for message in itertools.chain.from_iterable(queue.taken(sqs, url, HIDDEN)):
        receipt = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
        put_back = partial(sqs.change_message_visibility, **receipt, VisibilityTimeout=0)
        if _is_about(message["Body"], known):
            where = f"{url}, message {message['MessageId']}"
            found.traces.append(Trace(kind, where, partial(sqs.delete_message, **receipt), put_back))
        else:
            others.append(put_back)
    for put_back in others:
        put_back()
    if held:
        found.unseen.append(f"{held} messages of {url}, which others hold at the moment")


def _is_about(body: str, known: Known) -> bool:
    """Tell whether a message is about the photo: a result, an S3 event, or what holds one of them."""
    try:
        told = json.loads(body)
    except ValueError:
        return False
    match told:
        case {"photo": str(photo)} | {"detail": {"photo": str(photo)}}:
            return photo == known.photo
        case {"detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            return (bucket, key) == (known.bucket, known.key)
        case {"detail": {"input": str(given)}}:  # Step Functions' event about an execution
            return _is_about(given, known)
    return False


def _version(files: "Files", known: Known, version: Mapping[str, Any]) -> Trace:
    kind = "photo" if "Size" in version else "delete marker"
    where = f"{known.photo}, version {version['VersionId']}"
    return Trace(kind, where, partial(files.storage.delete_versions, known.bucket, [version]))


def _result(stack: Stack, known: Known) -> Trace:
    table, item = stack.output("ResultsTableName"), {"photo": {"S": known.photo}}
    delete = partial(stack.client("dynamodb").delete_item, TableName=table, Key=item)
    return Trace("result", f"{table}, {known.photo}", delete)


class Files:
    """Data sets and captures, in folders and in S3: ``/folder/file`` or ``s3://bucket/key``."""

    def __init__(self, s3: Any) -> None:  # noqa: ANN401  boto3's client
        self.s3 = s3
        self.storage = Storage(s3)

    def data_sets(self, place: str) -> list[str]:
        """Return each place at or under `place` where a manifest of a data set is."""
        folders = (path.rpartition("/") for path in self.storage.list_files(place))
        return [folder for folder, _, name in folders if name == dataset.MANIFEST]

    def manifest(self, folder: str) -> dict[str, Any]:
        """Read the manifest of a data set.

        Raises
        ------
        ErasureError
            It is none.
        """
        try:
            manifest: dict[str, Any] = json.loads(self.storage.read(f"{folder}/{dataset.MANIFEST}"))
            manifest["sha256"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ErasureError(f"{folder}/{dataset.MANIFEST} is no manifest of a data set") from error
        return manifest

    def take_out(self, folder: str, path: str) -> None:
        """Delete a photo of a data set, and its lines in the index and the manifest; these last."""
        self.storage.erase(f"{folder}/{path}")
        manifest = self.manifest(folder)
        index = dataset.index_name(path.partition("/")[0])
        lines = self.storage.read(f"{folder}/{index}").decode().splitlines(keepends=True)
        self.storage.overwrite(f"{folder}/{index}", dataset.remove_from_index(lines, path).encode())
        self.storage.overwrite(
            f"{folder}/{dataset.MANIFEST}", dataset.remove_from_manifest(manifest, path).encode()
        )

    def keep(self, path: str, lines: Sequence[bytes]) -> None:
        """Keep these lines of a file, and of a file without any nothing."""
        if any(line.strip() for line in lines):
            self.storage.overwrite(path, b"".join(lines))
        else:
            self.storage.erase(path)


def left(stack: Stack, known: Known) -> list[Left]:
    """Name what stays for a while because AWS lets nobody delete it, as far as the result tells."""
    if not known.result:
        return []
    at = _time(known.result["classified_at"])
    backup = f"{datetime.now(UTC) + RECOVERABLE:%Y-%m-%d}"
    stays = [Left("backup of the result", stack.output("ResultsTableName"), backup)]
    # An Express workflow has no history but its log, which holds no photo.
    if ":execution:" in known.result["execution"]:
        stays.append(Left("execution history", known.result["execution"], f"{at + HISTORY:%Y-%m-%d}"))
    return stays


def account(
    photo: str, gone: Iterable["Trace"], left: Iterable["Left"], unseen: Iterable[str], *, dry_run: bool
) -> dict[str, Any]:
    """Say what became of a photo, as ``--json`` prints it."""
    return {
        "photo": photo,
        "dry_run": dry_run,
        "deleted": [{"kind": one.kind, "where": one.where} for one in gone],
        "goes_by_itself": [one._asdict() for one in left],
        "left": list(unseen),
    }


def address(stack: Stack, photo: str) -> tuple[str, str]:
    """Return the bucket and the key of a photo, which is in the stack's own bucket."""
    bucket = stack.output("UploadBucketName")
    if not photo.startswith("s3://"):
        return bucket, photo
    named, _, key = photo.removeprefix("s3://").partition("/")
    if named != bucket or not key:
        raise click.UsageError(f"{photo} is no photo of stack {stack.name}, whose bucket is {bucket}")
    return bucket, key


def refusal(delete: Callable[[], object]) -> str | None:
    """Delete something; return why it could not be."""
    try:
        delete()
    except (BotoCoreError, ClientError) as error:
        return explain(error)
    except (OSError, ErasureError) as error:
        return str(error)
    return None
