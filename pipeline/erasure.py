"""Erase a photo: wait until nothing about it is in flight, then delete every copy that can be deleted.

A record of hashes and ids is written before anything is deleted, so that a second run also finds what an
interrupted run left, and what arrived later, such as a late capture.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from botocore.exceptions import BotoCoreError, ClientError

from model.sagemaker.account import explain
from model.storage import Storage
from pipeline.photo_copies import Search, StoredCopy
from pipeline.photo_identity import ErasureError, PhotoIdentity, PhotoTracer
from pipeline.stack import Stack

POLL = 1.0
"""Seconds between two looks at what is in flight."""


class AddressError(ErasureError):
    """The address is not that of a photo in the stack's bucket."""


def split_address(stack: Stack, photo: str) -> tuple[str, str]:
    """Return the bucket and key of an address or a key; raise `AddressError` if it is in another bucket."""
    bucket = stack.output("UploadBucketName")
    if not photo.startswith("s3://"):
        return bucket, photo
    named, _, key = photo.removeprefix("s3://").partition("/")
    if named != bucket or not key:
        raise AddressError(f"{photo} is not in the upload bucket of stack {stack.name}, which is {bucket}.")
    return bucket, key


def settle(
    tracer: PhotoTracer, patience: float, progress: Callable[[str], object]
) -> tuple[PhotoIdentity, list[str]]:
    """Wait up to `patience` seconds until nothing about the photo is in flight.

    Returns what identifies its copies, and in words what is still in flight. `progress` is called with what
    is being waited for.
    """
    give_up_at = time.monotonic() + patience
    while True:
        identity = tracer.identify()
        captured = bool(tracer.parameters.get("CaptureUri"))
        pending = identity.in_flight(tracer.delays, datetime.now(UTC), captured=captured)
        if not pending or time.monotonic() >= give_up_at:
            return identity, pending
        progress(f"Waiting: {pending[0]} …")
        time.sleep(POLL)


def record(stack: Stack, identity: PhotoIdentity) -> None:
    """Write the record of the erasure, if there is or was anything to erase."""
    if identity.recorded or identity.versions or identity.result or identity.executions:
        Storage(stack.client("s3")).overwrite(identity.record_path, identity.record())


def erase(search: Search, *, dry_run: bool) -> Iterator[StoredCopy]:
    """Delete the copies that a search found, and yield each.

    Stop at the first copy that cannot be deleted, and add it and those after it to `remaining`: the photo
    and its result lead to the other copies, so they must be deleted last. A dry run only makes messages
    visible again.
    """
    for number, copy in enumerate(search.copies, 1):
        try:
            (copy.release if dry_run else copy.delete)()
        except (BotoCoreError, ClientError, OSError, ErasureError) as error:
            rest = [f"{one.kind} {one.where} (not tried)" for one in search.copies[number:]]
            search.remaining[:0] = [f"{copy.kind} {copy.where} ({explain(error)})", *rest]
            return
        yield copy
