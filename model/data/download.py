"""Download a large file over HTTP, resuming where an earlier attempt was interrupted."""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.progress import wrap_file

ATTEMPTS = 5
TIMEOUT = 30
"""Seconds without a byte after which a connection is closed."""
CHUNK = 1 << 20


class DownloadError(Exception):
    """The file cannot be downloaded, or has the wrong checksum; the message says which."""


class Checksum(NamedTuple):
    """An algorithm known to `hashlib`, and the expected digest in hex."""

    algorithm: str
    digest: str

    def verify(self, path: Path) -> None:
        """Raise `DownloadError` if the file has another checksum."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, self.algorithm).hexdigest()
        if digest != self.digest.lower():
            raise DownloadError(
                f"{path} is not the expected file: its {self.algorithm} is {digest}, not {self.digest}"
            )


def download(url: str, folder: Path, checksum: Checksum | None = None) -> Path:
    """Download a file into a folder, made if need be, and return its path.

    With a checksum, a file that is already there is not downloaded again. An incomplete file is called
    ``NAME.part``; a later call resumes it if the server says that the file is unchanged (HTTP Range and
    If-Range, RFC 9110 sections 13.1.5 and 14.2).

    Raises `DownloadError` if the file cannot be downloaded, or has the wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(url)
    if checksum and path.exists():
        checksum.verify(path)
        return path
    part = path.with_name(f"{path.name}.part")
    _download_with_retries(url, part)
    if checksum:
        try:
            checksum.verify(part)
        except DownloadError:
            part.unlink()
            raise
    _version_file(part).unlink(missing_ok=True)
    return part.replace(path)


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise DownloadError(f"{url} is not an http:// or https:// address")
    # files of the same name at different addresses must not be mixed up
    prefix = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{prefix}-{PurePosixPath(unquote(parts.path)).name or 'download'}"


def _version_file(part: Path) -> Path:
    """Return the file that holds the server's validator (ETag or Last-Modified) of an incomplete file."""
    return part.with_name(f"{part.name}.version")


def _download_with_retries(url: str, part: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _resume(url, part)
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                reason = getattr(error, "reason", None) or error
                resumable = f". {part} is kept: call again to resume." if part.exists() else ""
                raise DownloadError(f"{url} cannot be downloaded: {reason}{resumable}") from error
        else:
            return


def _resume(url: str, part: Path) -> None:
    version = _version_file(part).read_text() if _version_file(part).exists() else ""
    size = part.stat().st_size if version and part.exists() else 0
    request = urllib.request.Request(url)  # noqa: S310  _file_name has checked the scheme
    if size:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310  checked by _file_name
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{size}":  # the file is complete
            return
        part.unlink()
        raise ConnectionError("the file on the server has changed") from error
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            size = 0
        etag = response.headers.get("ETag", "")
        # If-Range does not accept a weak ETag
        version = response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
        _version_file(part).write_text(version)
        length = int(response.headers.get("Content-Length", 0))
        with part.open("ab" if size else "wb") as file, _progress(response, url, length) as content:
            shutil.copyfileobj(content, file, CHUNK)
    if length and part.stat().st_size != size + length:
        raise ConnectionError(f"interrupted after {part.stat().st_size:,} of {size + length:,} bytes")


def _progress(response: BinaryIO, url: str, length: int) -> AbstractContextManager[BinaryIO]:
    """Return the response as a file that shows on a terminal how much of it has been read."""
    console, description = Console(stderr=True), f"Downloading {urlsplit(url).netloc}"
    return wrap_file(
        response,
        length,
        description=description,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
