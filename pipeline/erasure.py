"""Find and delete every copy of a photo that the pipeline, the endpoint or a training run has stored.

The result leads to the other copies: its inference id and time to the captures, its hash to the training
copies. It is deleted last, so that an erasure that was interrupted can be completed by running it again.
"""

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import PayloadError, TimeWindow
from model.data import dataset
from model.sagemaker.account import ROLES_STACK, describe_stack, explain, stack_outputs
from model.storage import Storage, is_s3, list_versions
from pipeline.queue import approximate_count, receive_all
from pipeline.stack import Stack

VISIBILITY_TIMEOUT = 300
"""Seconds for which received messages are hidden from other consumers."""
LONGEST_EXECUTION = timedelta(hours=1)
"""The longest an execution runs, and so the longest time from the upload to the capture and the result."""
HISTORY_RETENTION = timedelta(days=90)
"""How long Step Functions keeps an execution's states, photo included (Developer Guide, "Quotas")."""
BACKUP_RETENTION = timedelta(days=35)
"""How far back DynamoDB's point-in-time recovery can restore a deleted item (Developer Guide)."""


class ErasureError(Exception):
    """The copies cannot be found or deleted; the message says why."""


class AddressError(ErasureError):
    """The address is not that of a photo in the stack's bucket."""


@dataclass(frozen=True)
class StoredCopy:
    """Something that contains a photo or was derived from it."""

    kind: str
    where: str
    delete: Callable[[], object]  # succeeds if the copy is already gone
    release: Callable[[], object] = lambda: None  # makes a message that was received visible again


class Retained(NamedTuple):
    """A copy that nobody can delete."""

    kind: str
    where: str
    until: str  # ISO 8601 date on which AWS deletes it


@dataclass
class PhotoIdentity:
    """How a photo's copies are recognised: by the address that it was uploaded to, and by hashes."""

    bucket: str
    key: str
    result: Mapping[str, Any]  # the item in the results table, as plain values; empty if there is none
    versions: list[Mapping[str, Any]]  # with delete markers, as ListObjectVersions describes them
    file_hashes: set[str] = field(default_factory=set)  # SHA-256, in hex, of each version's file
    input_hashes: set[str] = field(default_factory=set)  # SHA-256 of each image sent to the endpoint

    @property
    def uri(self) -> str:
        """The photo's address, which is its key in the results table."""
        return f"s3://{self.bucket}/{self.key}"

    def capture_windows(self) -> list[TimeWindow]:
        """Return the times at which the photo may have been sent to the endpoint."""
        uploads = [one["LastModified"].astimezone(UTC) for one in self.versions if "Size" in one]
        windows = [TimeWindow(at - timedelta(minutes=1), at + LONGEST_EXECUTION) for at in uploads]
        if classified_at := self.result.get("classified_at"):
            at = datetime.fromisoformat(classified_at).astimezone(UTC)
            windows.append(TimeWindow(at - LONGEST_EXECUTION, at + timedelta(minutes=1)))
        return windows

    def matches_capture(self, line: bytes) -> bool:
        """Tell whether a line of a capture file is about the photo, by its inference id or its input."""
        try:
            record = captures.parse(line, None)
            if record.inference_id and record.inference_id == self.result.get("inference_id"):
                return True
            return _sha256(record.photo()) in self.input_hashes
        except (ValueError, PayloadError):
            return False

    def matches_json(self, text: str | bytes) -> bool:
        """Tell whether a ground-truth record, a result or an event is about the photo."""
        try:
            content = json.loads(text)
        except ValueError:
            return False
        match content:
            case {"photo": str(uri)} | {"detail": {"photo": str(uri)}}:
                return uri == self.uri
            case {"photo": {"bucket": str(bucket), "key": str(key)}}:
                return (bucket, key) == (self.bucket, self.key)
            case {"detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
                return (bucket, key) == (self.bucket, self.key)
            case {"detail": {"input": str(execution_input)}}:  # Step Functions' event about an execution
                return self.matches_json(execution_input)
        return False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def split_address(stack: Stack, photo: str) -> tuple[str, str]:
    """Return the bucket and key of an address or a key; raise `AddressError` if it is in another bucket."""
    bucket = stack.output("UploadBucketName")
    if not photo.startswith("s3://"):
        return bucket, photo
    named, _, key = photo.removeprefix("s3://").partition("/")
    if named != bucket or not key:
        raise AddressError(f"{photo} is not in the upload bucket of stack {stack.name}, which is {bucket}.")
    return bucket, key


def identify(stack: Stack, bucket: str, key: str) -> PhotoIdentity:
    """Collect what identifies a photo's copies, from its result and all versions of its file."""
    from functions.serialize.photo import RejectedError, serialize  # noqa: PLC0415  loads the HEIC decoder

    s3, address = stack.client("s3"), stack.result_key(f"s3://{bucket}/{key}")
    item = stack.client("dynamodb").get_item(**address, ConsistentRead=True).get("Item", {})
    # Each attribute has one type: {"S": "bicycle"}, {"NULL": True}
    result = {name: value for name, typed in item.items() for kind, value in typed.items() if kind != "NULL"}
    identity = PhotoIdentity(bucket, key, result, list_versions(s3, bucket, key))
    identity.file_hashes |= {result["sha256"]} if "sha256" in result else set()
    side = int(_parameters(stack)["ImageSize"])
    for version in identity.versions:
        if "Size" in version:
            photo = s3.get_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])["Body"].read()
            identity.file_hashes.add(_sha256(photo))
            with suppress(RejectedError):  # a rejected photo was never sent to the endpoint
                image = base64.b64decode(serialize(io.BytesIO(photo), side)["image_data"])
                identity.input_hashes.add(_sha256(image))
    return identity


def _parameters(stack: Stack) -> dict[str, str]:
    description = describe_stack(stack.client("cloudformation"), stack.name) or {}
    return {one["ParameterKey"]: one["ParameterValue"] for one in description.get("Parameters", [])}


@dataclass
class Search:
    """The copies that a search found, in the order in which to delete them."""

    copies: list[StoredCopy] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)  # what could not be searched or deleted, in words


def find_copies(
    stack: Stack,
    identity: PhotoIdentity,
    capture_places: Iterable[str] = (),
    data_places: Iterable[str] = (),
    *,
    all_captures: bool = False,
) -> Search:
    """Find all copies of a photo that the stack classified.

    Besides the stack's captures and the account's staged data sets, search other folders and
    ``s3://bucket/prefix``, at any depth. Captures are searched around the uploads and the result, or, with
    `all_captures`, at any time. Raises `CaptureError`, `ErasureError` or `StorageError` if captures or a data
    set cannot be read, and `ClientError` if AWS denies access.
    """
    storage, sqs, search = Storage(stack.client("s3")), stack.client("sqs"), Search()
    windows = [TimeWindow()] if all_captures else identity.capture_windows()
    sources = [*_own_captures(stack, identity), *capture_places]
    search.copies += _find_lines(storage, "capture", sources, windows, identity.matches_capture)
    roles = describe_stack(stack.client("cloudformation"), ROLES_STACK) or {}
    bucket = stack_outputs(roles).get("WorkspaceBucketName")
    for place in [*([f"s3://{bucket}/data"] if bucket else []), *data_places]:
        search.copies += _find_training_copies(storage, identity, place)
    sources = [stack.output("GroundTruthUri")]
    search.copies += _find_lines(storage, "ground truth", sources, [TimeWindow()], identity.matches_json)
    for output, kind in (("ReviewQueueUrl", "review message"), ("FailedQueueUrl", "failed message")):
        url = stack.output(output)
        if in_flight := approximate_count(sqs, url, in_flight=True):
            search.remaining.append(f"{in_flight} messages in flight to other consumers of {url}")
        search.copies += _find_messages(sqs, url, kind, identity)
    search.copies += _find_photo(stack, storage, identity)
    return search


def _own_captures(stack: Stack, identity: PhotoIdentity) -> list[str]:
    """Return the captures of the stack's endpoint, and of the one that classified the photo."""
    parameters = _parameters(stack)
    if not (uri := parameters.get("CaptureUri")):
        return []
    endpoints = {parameters["EndpointName"], identity.result.get("model", parameters["EndpointName"])}
    return [f"{uri}/{endpoint}" for endpoint in sorted(endpoints)]


def _find_lines(
    storage: Storage,
    kind: str,
    sources: Iterable[str],
    windows: Iterable[TimeWindow],
    matches: Callable[[bytes], bool],
) -> Iterator[StoredCopy]:
    """Find the lines about the photo in each file, which several time windows may contain."""
    visited = set()
    for source, window in itertools.product(sources, windows):
        for path, content in captures.read_lines(source, window, storage.s3):
            if path in visited:
                continue
            visited.add(path)
            lines = list(content)
            others = [line for line in lines if not matches(line)]
            if count := len(lines) - len(others):
                where = f"{path}, {count} of {len(lines)} records"
                yield StoredCopy(kind, where, partial(keep_lines, storage, path, others))


def keep_lines(storage: Storage, path: str, lines: Sequence[bytes]) -> None:
    """Overwrite a file with these of its lines, or delete it if they are all blank."""
    if any(line.strip() for line in lines):
        storage.overwrite(path, b"".join(lines))
    else:
        storage.erase(path)


def _find_training_copies(storage: Storage, identity: PhotoIdentity, place: str) -> Iterator[StoredCopy]:
    """Find copies in data sets by their manifests, and other local files by their content."""
    hashes = identity.file_hashes | identity.input_hashes
    listed = set()
    for folder in find_data_sets(storage, place):
        for path, sha256 in read_manifest(storage, folder)["sha256"].items():
            listed.add(f"{folder}/{path}")
            if sha256 in hashes:
                delete = partial(remove_from_data_set, storage, folder, path)
                yield StoredCopy("training copy", f"{folder}/{path}", delete)
    if is_s3(place):
        return
    for file in storage.list_files(place):
        if file not in listed and _sha256(Path(file).read_bytes()) in hashes:
            yield StoredCopy("training copy", file, partial(storage.erase, file))


def find_data_sets(storage: Storage, place: str) -> list[str]:
    """Return the folder of each data set at or below a place; raise `StorageError` if it does not exist."""
    paths = (path.rpartition("/") for path in storage.list_files(place))
    return [folder for folder, _, name in paths if name == dataset.MANIFEST]


def read_manifest(storage: Storage, folder: str) -> dict[str, Any]:
    """Read the manifest of a data set; raise `ErasureError` if the file is not a manifest."""
    path = f"{folder}/{dataset.MANIFEST}"
    try:
        manifest: dict[str, Any] = json.loads(storage.read(path))
        manifest["sha256"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ErasureError(f"{path} is not the manifest of a data set.") from error
    return manifest


def remove_from_data_set(storage: Storage, folder: str, path: str) -> None:
    """Delete a photo of a data set, then its entries in the index and the manifest."""
    storage.erase(f"{folder}/{path}")
    manifest = read_manifest(storage, folder)
    index = f"{folder}/{dataset.index_name(path.partition('/')[0])}"
    lines = storage.read(index).decode().splitlines(keepends=True)
    storage.overwrite(index, dataset.remove_from_index(lines, path).encode())
    storage.overwrite(f"{folder}/{dataset.MANIFEST}", dataset.remove_from_manifest(manifest, path).encode())


def _find_messages(sqs: Any, url: str, kind: str, identity: PhotoIdentity) -> Iterator[StoredCopy]:  # noqa: ANN401
    """Find messages about the photo, which stay hidden; make all others visible again."""
    release_others = []
    for message in itertools.chain.from_iterable(receive_all(sqs, url, VISIBILITY_TIMEOUT)):
        receipt = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
        release = partial(sqs.change_message_visibility, **receipt, VisibilityTimeout=0)
        if identity.matches_json(message["Body"]):
            where = f"{url}, message {message['MessageId']}"
            yield StoredCopy(kind, where, partial(sqs.delete_message, **receipt), release)
        else:
            release_others.append(release)
    for release in release_others:
        release()


def _find_photo(stack: Stack, storage: Storage, identity: PhotoIdentity) -> Iterator[StoredCopy]:
    """Find the versions of the photo itself and, last, its result."""
    for version in identity.versions:
        kind = "photo" if "Size" in version else "delete marker"
        where = f"{identity.uri}, version {version['VersionId']}"
        yield StoredCopy(kind, where, partial(storage.delete_versions, identity.bucket, [version]))
    if identity.result:
        address = stack.result_key(identity.uri)
        delete = partial(stack.client("dynamodb").delete_item, **address)
        yield StoredCopy("result", f"{address['TableName']}, {identity.uri}", delete)


def find_retained(stack: Stack, identity: PhotoIdentity) -> list[Retained]:
    """Return the copies that nobody can delete, as far as the result leads to them."""
    if not identity.result:
        return []
    backup_until = f"{datetime.now(UTC) + BACKUP_RETENTION:%Y-%m-%d}"
    retained = [Retained("backup of the result", stack.output("ResultsTableName"), backup_until)]
    execution = identity.result["execution"]
    if ":execution:" in execution:  # an Express execution has only its log, which contains no photo
        until = datetime.fromisoformat(identity.result["classified_at"]).astimezone(UTC) + HISTORY_RETENTION
        retained.append(Retained("execution history", execution, f"{until:%Y-%m-%d}"))
    return retained


def erase(search: Search, *, dry_run: bool) -> Iterator[StoredCopy]:
    """Delete the copies that a search found, and yield each.

    Stop at the first copy that cannot be deleted and add it to `remaining`: the photo and its result lead to
    the other copies, so they must be deleted last. A dry run only makes messages visible again.
    """
    for copy in search.copies:
        try:
            (copy.release if dry_run else copy.delete)()
        except (BotoCoreError, ClientError, OSError, ErasureError) as error:
            search.remaining.insert(0, f"{copy.kind} {copy.where} ({explain(error)})")
            return
        yield copy
