"""What identifies the copies of a photo: its address, hashes, inference ids and executions.

The photo's versions, its result, the log of the serialize function, failed executions and the record of an
earlier erasure lead to them.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from functions.monitor.capture_analysis import captures
from functions.monitor.capture_analysis.captures import PayloadError, TimeWindow
from model.sagemaker.account import describe_stack
from model.storage import Storage, list_versions
from pipeline.stack import Stack

LONGEST_EXECUTION = timedelta(hours=7)
"""The longest an execution runs, and so the longest time from the upload to the capture and the result."""
LONGEST_EXPRESS_EXECUTION = timedelta(minutes=5)
"""The limit of Express workflows (Step Functions Developer Guide, "Quotas")."""
MAX_FILTER = 1024
"""The longest filter pattern in characters (CloudWatch Logs API Reference, FilterLogEvents)."""
ERASURES = "erasures"
"""The prefix of the records of erasures in the upload bucket."""


class ErasureError(Exception):
    """The copies cannot be found or deleted; the message says why."""


class Delays(NamedTuple):
    """How long something that will become a copy of a photo can be under way, unseen."""

    event: timedelta  # from an upload to its execution
    capture: timedelta  # from the endpoint's answer to the capture file


IN_AWS = Delays(event=timedelta(minutes=2), capture=timedelta(minutes=5))
"""S3's events "can sometimes take a minute or longer" (S3 User Guide, "Amazon S3 Event Notifications").
SageMaker promises no time for captures; they usually arrive within a minute or two."""
LOCALLY = Delays(event=timedelta(seconds=3), capture=timedelta(seconds=10))
"""The emulator starts executions at once; `scones serve` writes a capture file after 5 seconds."""


@dataclass
class PhotoIdentity:
    """How a photo's copies are recognised: by the address that it was uploaded to, by hashes and by ids."""

    bucket: str
    key: str
    result: Mapping[str, Any]  # the item in the results table, as plain values; empty if there is none
    versions: list[Mapping[str, Any]]  # with delete markers, as ListObjectVersions describes them
    file_hashes: set[str] = field(default_factory=set)  # SHA-256, in hex, of each version's file
    input_hashes: set[str] = field(default_factory=set)  # SHA-256 of each image sent to the endpoint
    inference_ids: set[str] = field(default_factory=set)
    uploads: set[datetime] = field(default_factory=set)  # in UTC
    executions: dict[str, datetime] = field(default_factory=dict)  # ARN, and when it was last active, in UTC
    failed: set[str] = field(default_factory=set)  # ARNs of executions that failed
    children: set[str] = field(default_factory=set)  # ARNs of backfills' executions for the photo
    handled: set[str] = field(default_factory=set)  # ids of the versions whose execution started
    recorded: bool = False  # by an earlier erasure
    running: list[str] = field(default_factory=list)  # ARNs of executions, and of backfills of its prefix

    @property
    def uri(self) -> str:
        """The photo's address, which is its key in the results table."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def record_path(self) -> str:
        """Where the record of the photo's erasure is; its name does not reveal the photo's address."""
        return f"s3://{self.bucket}/{ERASURES}/{sha256(self.uri.encode())}.json"

    def capture_windows(self) -> list[TimeWindow]:
        """Return the times at which the photo may have been sent to the endpoint."""
        windows = [TimeWindow(at - timedelta(minutes=1), at + LONGEST_EXECUTION) for at in self.uploads]
        around = timedelta(minutes=1)
        active = [*self.executions.values(), *_classified_at(self.result)]
        return windows + [TimeWindow(at - LONGEST_EXECUTION, at + around) for at in active]

    def matches_capture(self, line: bytes) -> bool:
        """Tell whether a line of a capture file is about the photo, by its inference id or its input."""
        try:
            record = captures.parse(line, None)
            if record.inference_id and record.inference_id in self.inference_ids:
                return True
            return sha256(record.photo()) in self.input_hashes
        except (ValueError, PayloadError):
            return False

    def matches_json(self, text: str | bytes) -> bool:
        """Tell whether a ground-truth record, a result, an event or an execution's input is about it."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
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

    def matches_child(self, child: Mapping[str, Any]) -> bool:
        """Tell whether an entry of a backfill's result file is about the photo."""
        try:
            return bool(json.loads(child["Input"])["Key"] == self.key)
        except (KeyError, TypeError, ValueError):
            return False

    def in_flight(self, delays: Delays, now: datetime, *, captured: bool) -> list[str]:
        """Say what may still write a copy; `captured` tells whether the stack has an endpoint's captures."""
        pending = [f"{execution} is running" for execution in self.running]
        pending += [
            f"the execution of its upload at {one['LastModified']:%H:%M:%S} may not have started"
            for one in self.versions
            if one.get("Size") and one["VersionId"] not in self.handled
            if now - one["LastModified"] < delays.event
        ]
        answers = [*self.executions.values(), *_classified_at(self.result)]
        if captured and answers and now - max(answers) < delays.capture:
            pending.append(f"the endpoint's answer at {max(answers):%H:%M:%S} may not be captured yet")
        return pending

    def record(self) -> bytes:
        """Return what a later run needs to find what arrived after the erasure: hashes and ids, no photo."""
        content = {
            "file_hashes": sorted(self.file_hashes),
            "input_hashes": sorted(self.input_hashes),
            "inference_ids": sorted(self.inference_ids),
            "uploads": sorted(at.isoformat() for at in self.uploads),
            "executions": {arn: at.isoformat() for arn, at in sorted(self.executions.items())},
            "failed": sorted(self.failed),
            "children": sorted(self.children),
        }
        return json.dumps(content).encode()

    def add_record(self, content: bytes) -> None:
        """Add what the record of an earlier erasure says."""
        record = json.loads(content)
        for name in ("file_hashes", "input_hashes", "inference_ids", "failed", "children"):
            getattr(self, name).update(record[name])
        self.uploads.update(map(datetime.fromisoformat, record["uploads"]))
        self.executions |= {arn: datetime.fromisoformat(at) for arn, at in record["executions"].items()}
        self.recorded = True

    def add_execution(self, arn: str, at: datetime) -> None:
        """Add an execution, or that it was still active at a time."""
        self.executions[arn] = max(at, self.executions.get(arn, at))


def sha256(content: bytes) -> str:
    """Return a SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def _classified_at(result: Mapping[str, Any]) -> list[datetime]:
    """Return the time of a result as a list, empty if there is none."""
    at = result.get("classified_at")
    return [datetime.fromisoformat(at).astimezone(UTC)] if at else []


class PhotoTracer:
    """Finds what identifies one photo's copies; repeated calls do not read again what cannot have changed."""

    def __init__(self, stack: Stack, bucket: str, key: str) -> None:
        self.stack, self.bucket, self.key = stack, bucket, key
        description = describe_stack(stack.client("cloudformation"), stack.name) or {}
        parameters = description.get("Parameters", [])
        self.parameters = {one["ParameterKey"]: one["ParameterValue"] for one in parameters}
        self.delays = LOCALLY if stack.endpoint_url else IN_AWS
        self._contents: dict[
            str, tuple[str, bytes | None]
        ] = {}  # hash of the file and model's input, by version
        self._inputs: dict[str, Mapping[str, Any]] = {}  # answers of DescribeExecution, by ARN

    @property
    def express(self) -> bool:
        """Whether executions are Express ones, which appear only in logs."""
        return self.parameters.get("WorkflowType") == "EXPRESS"

    def identify(self) -> PhotoIdentity:
        """Collect what identifies the photo's copies now; raise `ErasureError` if its decoder was killed."""
        address = self.stack.result_key(f"s3://{self.bucket}/{self.key}")
        item = self.stack.client("dynamodb").get_item(**address, ConsistentRead=True).get("Item", {})
        # Each attribute has one type: {"S": "bicycle"}, {"NULL": True}
        result = {
            name: value for name, typed in item.items() for kind, value in typed.items() if kind != "NULL"
        }
        versions = list_versions(self.stack.client("s3"), self.bucket, self.key)
        identity = PhotoIdentity(self.bucket, self.key, result, versions)
        identity.file_hashes |= {result["sha256"]} if "sha256" in result else set()
        identity.inference_ids |= {result["inference_id"]} if "inference_id" in result else set()
        identity.handled |= {result["version_id"]} if "version_id" in result else set()
        for at in _classified_at(result):
            identity.add_execution(result["execution"], at)
        self._add_record(identity)
        self._add_versions(identity)
        self._add_logs(identity)
        if not self.express:
            self._add_executions(identity)
        self._add_backfills(identity)
        return identity

    def _add_record(self, identity: PhotoIdentity) -> None:
        try:
            identity.add_record(Storage(self.stack.client("s3")).read(identity.record_path))
        except FileNotFoundError:
            return

    def _add_versions(self, identity: PhotoIdentity) -> None:
        for version in identity.versions:
            if "Size" not in version:
                continue
            identity.uploads.add(version["LastModified"].astimezone(UTC))
            if version["VersionId"] not in self._contents:
                self._contents[version["VersionId"]] = self._read(version["VersionId"])
            file_hash, image = self._contents[version["VersionId"]]
            identity.file_hashes.add(file_hash)
            identity.input_hashes |= {sha256(image)} if image else set()

    def inputs(self) -> list[bytes]:
        """Return what the endpoint was sent for each version that `identify` has read."""
        return [image for _, image in self._contents.values() if image]

    def _read(self, version: str) -> tuple[str, bytes | None]:
        """Return the hash of a version's file and, unless it is rejected, what the endpoint was sent."""
        from functions.serialize import sandbox  # noqa: PLC0415  loads image decoders
        from functions.serialize.photo import RejectedError  # noqa: PLC0415

        s3, where = self.stack.client("s3"), {"Bucket": self.bucket, "Key": self.key, "VersionId": version}
        photo = s3.get_object(**where)["Body"].read()
        try:
            side = int(self.parameters["ImageSize"])
            image = sandbox.serialize_in_subprocess(io.BytesIO(photo), side, {})["image_data"]
        except RejectedError:  # was never sent to the endpoint
            return sha256(photo), None
        except sandbox.DecodingStoppedError as error:
            raise ErasureError(f"s3://{self.bucket}/{self.key} cannot be decoded here ({error}).") from error
        return sha256(photo), base64.b64decode(image)

    def _add_logs(self, identity: PhotoIdentity) -> None:
        """Add the executions that read the photo, and under which ids they sent it to the endpoint."""
        since = min(identity.uploads, default=None)
        escaped = self.key.replace("\\", "\\\\").replace('"', '\\"')
        for at, line in self._log("serialize", f'{{ $.key = "{escaped}" }}', since):
            if (line.get("bucket"), line.get("key")) != (
                self.bucket,
                self.key,
            ) or "correlation_id" not in line:
                continue
            identity.add_execution(line["correlation_id"], at)
            identity.file_hashes |= {line["sha256"]} if "sha256" in line else set()
            identity.handled |= {line["version_id"]} if line.get("version_id") else set()
        for execution, started in list(identity.executions.items()):
            pattern = f'{{ $.correlation_id = "{execution}" }}'
            for at, line in self._log("classify", pattern, started - LONGEST_EXECUTION):
                if line.get("correlation_id") == execution and "inference_id" in line:
                    identity.inference_ids.add(line["inference_id"])
                    identity.add_execution(execution, at)
        if self.express:
            now = datetime.now(UTC)
            recent = (arn for arn, at in identity.executions.items() if now - at < LONGEST_EXPRESS_EXECUTION)
            identity.running += [arn for arn in recent if arn != identity.result.get("execution")]

    def _log(
        self, function: str, pattern: str, since: datetime | None
    ) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
        """Yield the time and content of each line of a function's log that matches a pattern."""
        if len(pattern) > MAX_FILTER:
            pattern = f'{pattern[: MAX_FILTER - 5].rstrip("\\")}*" }}'
        start = {} if since is None else {"startTime": int((since - timedelta(minutes=1)).timestamp() * 1000)}
        pages = self.stack.client("logs").get_paginator("filter_log_events")
        group = f"/aws/lambda/{self.stack.name}-{function}"
        for event in pages.paginate(logGroupName=group, filterPattern=pattern, **start).search("events[]"):
            try:
                line = json.loads(event["message"])
            except ValueError:  # a line of Lambda itself
                continue
            if isinstance(line, dict):
                yield datetime.fromtimestamp(event["timestamp"] / 1000, UTC), line

    def _add_executions(self, identity: PhotoIdentity) -> None:
        """Add the executions that logs may lack: those that run, and those that failed."""
        since = min(identity.uploads, default=datetime(1970, 1, 2, tzinfo=UTC)) - timedelta(minutes=1)
        for status in ("RUNNING", "FAILED", "TIMED_OUT", "ABORTED"):
            for execution in self._executions("StateMachineArn", status):
                if execution["startDate"] < since or not identity.matches_json(self._input(execution)):
                    continue
                arn = execution["executionArn"]
                identity.add_execution(arn, execution.get("stopDate", execution["startDate"]).astimezone(UTC))
                content = json.loads(self._input(execution))
                identity.handled |= {content["detail"]["object"].get("version-id", "")}
                identity.inference_ids |= {content["id"]} if "id" in content else set()
                (identity.running.append if status == "RUNNING" else identity.failed.add)(arn)

    def _add_backfills(self, identity: PhotoIdentity) -> None:
        for execution in self._executions("BackfillStateMachineArn", "RUNNING"):
            prefix = json.loads(self._input(execution)).get("prefix", "uploads/")
            if self.key.startswith(prefix):
                identity.running.append(execution["executionArn"])

    def _executions(self, state_machine: str, status: str) -> Iterator[dict[str, Any]]:
        pages = self.stack.client("stepfunctions").get_paginator("list_executions")
        arn = self.stack.output(state_machine)
        yield from pages.paginate(stateMachineArn=arn, statusFilter=status).search("executions[]")

    def _input(self, execution: Mapping[str, Any]) -> str:
        arn = execution["executionArn"]
        if arn not in self._inputs:
            self._inputs[arn] = self.stack.client("stepfunctions").describe_execution(executionArn=arn)
        return str(self._inputs[arn].get("input", "{}"))
