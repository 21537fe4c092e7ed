"""The inventory of every place that holds a photo, or data derived from it.

`PLACES` is the only list: the search and the erasure go through it, a test compares the stack's ForgetPolicy
with it, `make docs` writes it to docs/security.md, and the tests expect a copy in each place.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import TimeWindow
from model.data import dataset
from model.html_page import REPORT, thumbnail
from model.photo import PhotoError
from model.sagemaker.account import ROLES_STACK, describe_stack, stack_outputs
from model.storage import Storage, is_s3
from pipeline.photo_identity import ErasureError, PhotoIdentity, PhotoTracer, sha256
from pipeline.queue import approximate_count, receive_all
from pipeline.stack import Stack

VISIBILITY_TIMEOUT = 300
"""Seconds for which received messages are hidden from other consumers."""
HISTORY_RETENTION = timedelta(days=90)
"""How long Step Functions keeps an execution's states, photo included (Developer Guide, "Quotas"). No API
deletes them; AWS shortens it to 30 days for an account on request."""
BACKUP_RETENTION = timedelta(days=35)
"""How far back DynamoDB's point-in-time recovery can restore a deleted item (Developer Guide)."""
NONCURRENT = timedelta(days=7)
"""How long the upload bucket keeps an expired object as an old version."""


@dataclass(frozen=True)
class StoredCopy:
    """Something that contains a photo or was derived from it."""

    kind: str
    where: str
    delete: Callable[[], object]  # succeeds if the copy is already gone
    release: Callable[[], object] = lambda: None  # makes a message that was received visible again


class Retained(NamedTuple):
    """A copy that this command does not delete."""

    kind: str
    where: str
    until: str | None  # ISO 8601 date on which it is deleted; None if only a person can delete it


class Context(NamedTuple):
    """What to search for, and where besides the places of the stack."""

    stack: Stack
    tracer: PhotoTracer
    identity: PhotoIdentity
    captures: Sequence[str] = ()
    data: Sequence[str] = ()
    reports: Sequence[str] = ()
    all_captures: bool = False

    @property
    def storage(self) -> Storage:
        """The stack's S3, and this machine's files."""
        return Storage(self.stack.client("s3"))

    @property
    def log_retention(self) -> timedelta:
        """How long logs and what expires like them are kept."""
        return timedelta(days=float(self.tracer.parameters["LogRetentionDays"]))


@dataclass
class Search:
    """The copies that a search found, in the order in which to delete them."""

    copies: list[StoredCopy] = field(default_factory=list)
    retained: list[Retained] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)  # what could not be searched or deleted, in words


type Find = Callable[[Context], Iterator[StoredCopy | Retained | str]]
"""Yields a place's copies and, in words, what it could not search. The copies have no kind yet."""


@dataclass(frozen=True)
class Place:
    """A place that holds photos or what was derived from them.

    ``access`` has the IAM actions that finding and erasing need, by the statement of ForgetPolicy.
    """

    kind: str
    holds: str
    where: str
    retention: str
    parameter: str
    forget: str  # what the command does with a copy
    find: Find
    access: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find_copies(context: Context) -> Search:
    """Find all copies of a photo that the stack classified, in every one of `PLACES`.

    Captures are searched around the uploads, the executions and the result, or, with `all_captures`, at any
    time. Raises `CaptureError`, `ErasureError` or `StorageError` if captures or a data set cannot be read,
    and `ClientError` if AWS denies access.
    """
    search = Search()
    for place in PLACES:
        for found in place.find(context):
            match found:
                case StoredCopy(_, where, delete, release):
                    search.copies.append(StoredCopy(place.kind, where, delete, release))
                case Retained(_, where, until):
                    search.retained.append(Retained(place.kind, where, until))
                case _:
                    search.remaining.append(found)
    return search


def _find_captures(context: Context) -> Iterator[StoredCopy]:
    parameters, identity = context.tracer.parameters, context.identity
    own, home = [], context.stack.home
    if uri := parameters.get("CaptureUri"):
        endpoints = {parameters["EndpointName"], identity.result.get("model", parameters["EndpointName"])}
        own = [f"{uri}/{endpoint}" for endpoint in sorted(endpoints)]
    if home and (home / "captures").is_dir():
        own.append(str(home / "captures"))
    windows = [TimeWindow()] if context.all_captures else identity.capture_windows()
    yield from _find_lines(context.storage, [*own, *context.captures], windows, identity.matches_capture)


def _find_ground_truth(context: Context) -> Iterator[StoredCopy]:
    source = [context.stack.output("GroundTruthUri")]
    yield from _find_lines(context.storage, source, [TimeWindow()], context.identity.matches_json)


def _find_lines(
    storage: Storage,
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
                yield StoredCopy("", where, partial(keep_lines, storage, path, others))


def keep_lines(storage: Storage, path: str, lines: Sequence[bytes]) -> None:
    """Overwrite a file with these of its lines, or delete it if they are all blank."""
    if any(line.strip() for line in lines):
        storage.overwrite(path, b"".join(lines))
    else:
        storage.erase(path)


def _find_report_items(context: Context) -> Iterator[StoredCopy]:
    """Find pictures of the photo in reports of `scones monitor`, by their inference ids and content."""
    home = context.stack.home
    folders = [*([home / "report"] if home else []), *map(Path, context.reports)]
    pages = [page for folder in folders if (page := folder / REPORT).is_file()]
    if not pages:
        return
    marks = {*context.identity.inference_ids, *_thumbnails(context)}
    for page in pages:
        content = page.read_text()
        kept = remove_items(content, marks)
        if kept != content:
            yield StoredCopy("", str(page), partial(context.storage.write, str(page), kept.encode()))


def _thumbnails(context: Context) -> Iterator[str]:
    for image in context.tracer.inputs():
        try:
            yield thumbnail(image)
        except PhotoError:
            continue


def remove_items(page: str, marks: Iterable[str]) -> str:
    """Remove the list items of a page that contain any of the marks."""
    known = tuple(marks)
    return re.sub(
        r"<li>.*?</li>\n?",
        lambda item: "" if any(mark in item[0] for mark in known) else item[0],
        page,
        flags=re.DOTALL,
    )


def _find_training_copies(context: Context) -> Iterator[StoredCopy]:
    roles = describe_stack(context.stack.client("cloudformation"), ROLES_STACK) or {}
    bucket = stack_outputs(roles).get("WorkspaceBucketName")
    for place in [*([f"s3://{bucket}/data"] if bucket else []), *context.data]:
        yield from _find_training_copies_in(context.storage, context.identity, place)


def _find_training_copies_in(storage: Storage, identity: PhotoIdentity, place: str) -> Iterator[StoredCopy]:
    """Find copies in data sets by their manifests, and other local files by their content."""
    hashes = identity.file_hashes | identity.input_hashes
    listed = set()
    for folder in find_data_sets(storage, place):
        for path, content_hash in read_manifest(storage, folder)["sha256"].items():
            listed.add(f"{folder}/{path}")
            if content_hash in hashes:
                yield StoredCopy("", f"{folder}/{path}", partial(remove_from_data_set, storage, folder, path))
    if is_s3(place):
        return
    for file in storage.list_files(place):
        if file not in listed and sha256(Path(file).read_bytes()) in hashes:
            yield StoredCopy("", file, partial(storage.erase, file))


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


def _find_backfill_results(context: Context) -> Iterator[StoredCopy]:
    """Find the entries about the photo in result files of backfills, and note their executions."""
    storage, identity = context.storage, context.identity
    for path in storage.list_files(f"s3://{identity.bucket}/backfills"):
        if path.endswith("/manifest.json"):  # only lists the result files
            continue
        children = json.loads(storage.read(path))
        ours = [child for child in children if identity.matches_child(child)]
        identity.children.update(child["ExecutionArn"] for child in ours)
        if ours:
            others = [json.dumps(child).encode() for child in children if child not in ours]
            keep = [b"[" + b",\n".join(others) + b"]"] if others else []
            where = f"{path}, {len(ours)} of {len(children)} photos"
            yield StoredCopy("", where, partial(keep_lines, storage, path, keep))


def _find_review_messages(context: Context) -> Iterator[StoredCopy | str]:
    yield from _find_messages(context, "ReviewQueueUrl")


def _find_failed_messages(context: Context) -> Iterator[StoredCopy | str]:
    yield from _find_messages(context, "FailedQueueUrl")


def _find_messages(context: Context, queue: str) -> Iterator[StoredCopy | str]:
    """Find messages about the photo, which stay hidden; make all others visible again."""
    sqs, url = context.stack.client("sqs"), context.stack.output(queue)
    if in_flight := approximate_count(sqs, url, in_flight=True):
        yield f"{in_flight} messages in flight to other consumers of {url}"
    release_others = []
    for message in itertools.chain.from_iterable(receive_all(sqs, url, VISIBILITY_TIMEOUT)):
        receipt = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
        release = partial(sqs.change_message_visibility, **receipt, VisibilityTimeout=0)
        if context.identity.matches_json(message["Body"]):
            where = f"{url}, message {message['MessageId']}"
            yield StoredCopy("", where, partial(sqs.delete_message, **receipt), release)
        else:
            release_others.append(release)
    for release in release_others:
        release()


def _find_versions(context: Context) -> Iterator[StoredCopy]:
    identity = context.identity
    for version in identity.versions:
        name = "version" if "Size" in version else "delete marker"
        where = f"{identity.uri}, {name} {version['VersionId']}"
        yield StoredCopy("", where, partial(context.storage.delete_versions, identity.bucket, [version]))


def _find_result(context: Context) -> Iterator[StoredCopy]:
    if context.identity.result:
        address = context.stack.result_key(context.identity.uri)
        delete = partial(context.stack.client("dynamodb").delete_item, **address)
        yield StoredCopy("", f"{address['TableName']}, {context.identity.uri}", delete)


def _find_backup(context: Context) -> Iterator[Retained]:
    if context.identity.result:
        table = context.stack.output("ResultsTableName")
        yield Retained("", table, _date(datetime.now(UTC) + BACKUP_RETENTION))


def _find_histories(context: Context) -> Iterator[Retained]:
    if not context.tracer.express:  # an Express execution has only its log, which contains no photo
        for arn, at in context.identity.executions.items():
            yield Retained("", arn, _date(at + HISTORY_RETENTION))
    for arn in sorted(context.identity.children):  # the latest date: result files end after the executions
        yield Retained("", arn, _date(datetime.now(UTC) + HISTORY_RETENTION))


def _find_log_lines(context: Context) -> Iterator[Retained]:
    if last := max(context.identity.executions.values(), default=None):
        groups = [f"/aws/lambda/{context.stack.name}-{name}" for name in ("serialize", "classify", "filter")]
        groups += [f"/aws/vendedlogs/states/{context.stack.name}-{name}" for name in ("classify", "backfill")]
        for group in groups:
            yield Retained("", group, _date(last + context.log_retention))


def _find_local_logs(context: Context) -> Iterator[Retained]:
    if context.stack.home and context.identity.executions:
        yield Retained("", str(context.stack.home / "logs"), None)


def _find_mails(context: Context) -> Iterator[Retained]:
    if context.identity.failed and context.tracer.parameters.get("AlarmEmail"):
        yield Retained("", f"the mailbox of {context.tracer.parameters['AlarmEmail']}", None)


def _find_record(context: Context) -> Iterator[Retained]:
    identity = context.identity
    if identity.recorded or identity.executions or identity.versions or identity.result:
        yield Retained(
            "", identity.record_path, _date(datetime.now(UTC) + context.log_retention + NONCURRENT)
        )


def _date(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


COMMON_ACCESS = {
    "FindTheStacks": ["cloudformation:DescribeStacks"],
    "FindExecutions": ["states:ListExecutions"],
    "ReadExecutionInputs": ["states:DescribeExecution"],
    "FindLogLines": ["logs:FilterLogEvents"],
}
"""The IAM actions that identify a photo and tell what is in flight, by the statement of ForgetPolicy."""

PLACES = (
    Place(
        "capture",
        "the endpoint's inputs and outputs",
        "`captures/` in the workspace bucket; `.local/captures` of the local stack",
        "90 days",
        "`CaptureRetentionDays` of `model/roles.yaml`",
        "deletes the record",
        _find_captures,
        {
            "FindCaptures": ["s3:ListBucket", "s3:ListBucketVersions"],
            "RemovePhotoFromCaptures": ["s3:GetObject", "s3:PutObject", "s3:DeleteObjectVersion"],
        },
    ),
    Place(
        "report item",
        "thumbnails in a report of `scones monitor`",
        "`.local/report`; any folder given with `--report`",
        "until the report is deleted",
        "",
        "deletes the picture",
        _find_report_items,
    ),
    Place(
        "training copy",
        "the photo, as training data",
        "data sets, in S3 and on disk",
        "until they are deleted",
        "",
        "deletes the file and its entries",
        _find_training_copies,
    ),
    Place(
        "ground truth",
        "a reviewer's label, with the photo's address; no picture",
        "`ground-truth/` in the upload bucket",
        "365 days, and 7 days as an old version",
        "`ResultRetentionDays`",
        "deletes the record",
        _find_ground_truth,
        {
            "FindObjects": ["s3:ListBucket"],
            "DeleteGroundTruth": ["s3:GetObject", "s3:DeleteObjectVersion"],
        },
    ),
    Place(
        "backfill result",
        "a backfill's result files: addresses, outcomes, causes of failures; no picture",
        "`backfills/` in the upload bucket",
        "30 days, and 7 days as an old version",
        "`LogRetentionDays`",
        "deletes the entry",
        _find_backfill_results,
        {"RemovePhotoFromBackfills": ["s3:GetObject", "s3:PutObject", "s3:DeleteObjectVersion"]},
    ),
    Place(
        "review message",
        "a message: address and result; no picture",
        "review queue",
        "14 days",
        "",
        "deletes the message",
        _find_review_messages,
        {
            "DeleteMessages": [
                "sqs:GetQueueAttributes",
                "sqs:ReceiveMessage",
                "sqs:ChangeMessageVisibility",
                "sqs:DeleteMessage",
            ]
        },
    ),
    Place(
        "failed message",
        "a failed execution's input, or an undelivered event: address; no picture",
        "failed queue, which is also the rules' dead-letter queue",
        "14 days",
        "",
        "deletes the message",
        _find_failed_messages,
    ),
    Place(
        "photo",
        "the photo",
        "`uploads/` and `archive/` in the upload bucket, versioned",
        "90 days; an overwritten or deleted version, 7 days after that",
        "`PhotoRetentionDays`",
        "deletes every version",
        _find_versions,
        {
            "FindAllVersions": ["s3:ListBucketVersions"],
            "DeletePhoto": ["s3:GetObjectVersion", "s3:DeleteObjectVersion"],
        },
    ),
    # The last of what is deleted, because it leads to the rest.
    Place(
        "result",
        "its result: label, confidence, hash; no picture",
        "results table",
        "365 days (`expires_at`)",
        "`ResultRetentionDays`",
        "deletes the item",
        _find_result,
        {"DeleteResult": ["dynamodb:GetItem", "dynamodb:DeleteItem"]},
    ),
    Place(
        "backup of the result",
        "the result before it was deleted",
        "the table's point-in-time recovery",
        "35 days, fixed by AWS",
        "",
        "reports it",
        _find_backup,
    ),
    Place(
        "execution history",
        "an execution's states, including the reduced photo, also of failed ones and of backfills",
        "Step Functions",
        "90 days, fixed by AWS; 30 days on request",
        "",
        "reports it",
        _find_histories,
    ),
    Place(
        "log lines",
        "logs: address, hash, ids, probabilities; no picture",
        "CloudWatch Logs",
        "30 days",
        "`LogRetentionDays`",
        "reports them",
        _find_log_lines,
    ),
    Place(
        "local log",
        "the emulator's log: address and ids; no picture",
        "`.local/logs` of the local stack",
        "until the next `make up`",
        "",
        "reports it",
        _find_local_logs,
    ),
    Place(
        "alarm mail",
        "a notification of a failure: address and cause; no picture",
        "the mailbox of `AlarmEmail`",
        "until somebody deletes it",
        "",
        "reports it",
        _find_mails,
    ),
    Place(
        "erasure record",
        "an erasure's hashes and ids, to find what arrives later; no address and no picture",
        "`erasures/` in the upload bucket",
        "30 days, and 7 days as an old version",
        "`LogRetentionDays`",
        "writes it, and reports it",
        _find_record,
        {"RecordErasure": ["s3:GetObject", "s3:PutObject", "s3:DeleteObjectVersion"]},
    ),
)
"""Every place, in the order of deletion."""
