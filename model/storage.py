"""The very upload that an event, a result or a ground-truth record is about."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GONE = {"NoSuchKey", "NoSuchVersion", "404"}
"""How S3 says that there is none (API Reference, "Error Responses")."""


def content(s3: "S3Client", photo: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of ``{"bucket", "key", "version_id"?}``, or ``None`` once it has been deleted."""
    version: Any = {"VersionId": photo["version_id"]} if photo.get("version_id") else {}
    try:
        return s3.get_object(Bucket=photo["bucket"], Key=photo["key"], **version)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return None
        raise
