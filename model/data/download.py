"""Download a large file over HTTP, resuming where an earlier attempt was interrupted."""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from rich.progress import wrap_file

from model.terminal.tables import Console

ATTEMPTS = 5
TIMEOUT = 30
"""Seconds after which a connection that receives nothing is closed."""
CHUNK = 1 << 20


class DownloadError(Exception):
    """The file cannot be downloaded, or is not the expected one; the message says which."""


def verify(path: Path, sha256: str) -> None:
    """Raise `DownloadError` if the file has another SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256.lower():
        raise DownloadError(f"{path} is not the expected file: its sha256 is {digest}, not {sha256}")


def download(url: str, folder: Path, sha256: str | None = None) -> Path:
    """Download a file into a folder, which is created if needed, and return its path.

    If `sha256` is given, a file that is already there is not downloaded again. An incomplete file is called
    ``NAME.part``; a later call resumes it if the server says that the file is unchanged (HTTP Range and
    If-Range, RFC 9110 sections 13.1.5 and 14.2).

    Raises `DownloadError` if the file cannot be downloaded, or has another SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(url)
    if sha256 and path.exists():
        verify(path, sha256)
        return path
    part = path.with_name(f"{path.name}.part")
    _download_with_retries(url, part)
    if sha256:
        try:
            verify(part, sha256)
        except DownloadError:
            part.unlink()
            raise
    _version_file(part).unlink(missing_ok=True)
    return part.replace(path)


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise DownloadError(f"{url} is not an http:// or https:// address")
    # files of the same name at different addresses must not be confused
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
    headers = {"Range": f"bytes={size}-", "If-Range": version} if size else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  _file_name has checked the scheme
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
        console = Console(stderr=True)
        progress = wrap_file(
            response,
            length,
            description=f"Downloading {urlsplit(url).netloc}",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        with part.open("ab" if size else "wb") as file, progress as content:
            shutil.copyfileobj(content, file, CHUNK)
    if length and part.stat().st_size != size + length:
        raise ConnectionError(f"interrupted after {part.stat().st_size:,} of {size + length:,} bytes")
