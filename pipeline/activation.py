"""Wait until the upload bucket's events arrive, so that the photos uploaded before can be classified.

S3 takes about five minutes to send a new bucket's events (S3 User Guide, "Enabling Amazon EventBridge").
"""

import itertools
import secrets
import time

from rich.progress import Progress

from model.storage import delete_objects, list_prefix_versions
from pipeline.stack import Stack, StackError
from pipeline.subscription import subscribed

PHOTOS = "uploads/"
FOLDER = "activation/"
"""The stack's own rule ignores the objects in this folder."""
MARKER = f"{FOLDER}done"
"""Exists once the photos from before the first event have been classified."""
INTERVAL = 15.0
"""Seconds between two probes."""


def is_active(stack: Stack) -> bool:
    """Tell whether the stack has been activated."""
    bucket = stack.output("UploadBucketName")
    return bool(stack.client("s3").list_objects_v2(Bucket=bucket, Prefix=MARKER)["KeyCount"])


def mark_active(stack: Stack) -> None:
    """Write the marker, or renew it: the bucket's lifecycle rule deletes it as it does photos."""
    stack.client("s3").put_object(Bucket=stack.output("UploadBucketName"), Key=MARKER, Body=b"")


def wait_for_events(stack: Stack, timeout: float, progress: Progress) -> int:
    """Upload a probe repeatedly until its event arrives; return how often it was uploaded.

    The probe, the rule and the queue are deleted afterwards, also on Ctrl-C. Raises `StackError` if no event
    arrives within `timeout` seconds.
    """
    s3, bucket = stack.client("s3"), stack.output("UploadBucketName")
    name = f"{stack.name[:40]}-activation-{secrets.token_hex(4)}"  # a rule's name has at most 64 characters
    key = f"{FOLDER}{name}"
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}, "object": {"key": [key]}}}
    waiting, deadline = progress.add_task("Waiting for S3's events", total=None), time.monotonic() + timeout
    try:
        with subscribed(stack, name, {"default": pattern}) as subscription:
            for probes in itertools.count(1):
                s3.put_object(Bucket=bucket, Key=key, Body=b"")
                repeat_at = min(deadline, time.monotonic() + INTERVAL)
                while not (arrived := subscription.received()) and time.monotonic() < repeat_at:
                    pass
                if arrived:
                    progress.remove_task(waiting)
                    return probes
                if time.monotonic() >= deadline:
                    break
    finally:
        delete_objects(s3, bucket, list_prefix_versions(s3, bucket, key))
    raise StackError(
        f"No event of s3://{bucket} arrived within {timeout:.0f} s. Check that the bucket sends events to "
        "EventBridge, then run `scones activate` again, which also classifies the photos uploaded meanwhile."
    )
