"""Fetch a large file over HTTP, going on where an earlier attempt broke off."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

ATTEMPTS = 5
TIMEOUT = 30
"""Seconds without a byte after which a connection is given up."""
CHUNK = 1 << 20


class DownloadError(Exception):
    """The file cannot be had, or is not the one expected; the message says which."""


class Checksum(NamedTuple):
    """What a file has to be: a name that `hashlib` knows and the digest in hex."""

    algorithm: str
    digest: str

    def check(self, path: Path) -> None:
        """Compare.

        Raises
        ------
        DownloadError
            If the file is another.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, self.algorithm).hexdigest()
        if digest != self.digest.lower():
            raise DownloadError(
                f"{path} is not the file expected: its {self.algorithm} is {digest}, not {self.digest}"
            )


def download(url: str, folder: Path, checksum: Checksum | None = None) -> Path:
    """Fetch a file into a folder, or find it there complete.

    While it is incomplete it is called ``NAME.part``. A later call goes on from there if the server says that
    the file is still the same (HTTP Range and If-Range, RFC 9110 sections 13.1.5 and 14.2).

    Parameters
    ----------
    url
        ``http://`` or ``https://``.
    folder
        Made if need be.
    checksum
        What the file has to be. Without it a complete file from an earlier call is fetched again, as there is
        no telling whether it is still the same.

    Raises
    ------
    DownloadError
        If it cannot be had, or is another file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(url)
    if checksum and path.exists():
        checksum.check(path)
        return path
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _go_on(url, part)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                reason = getattr(error, "reason", None) or error
                kept = f"; {part} is kept, call again to go on from there" if part.exists() else ""
                raise DownloadError(f"{url} cannot be fetched: {reason}{kept}") from error
    if checksum:
        try:
            checksum.check(part)
        except DownloadError:
            part.unlink()
            raise
    _validator(part).unlink(missing_ok=True)
    return part.replace(path)


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise DownloadError(f"{url}: only http:// and https:// can be fetched")
    # the address as a whole, so that files of the same name do not get mixed up
    prefix = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{prefix}-{PurePosixPath(unquote(parts.path)).name or 'download'}"


def _validator(part: Path) -> Path:
    """Name the file that keeps what the server calls this version of the file."""
    return part.with_name(f"{part.name}.version")


def _go_on(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() and _validator(part).exists() else 0
    request = urllib.request.Request(url)  # noqa: S310  _file_name has looked at the scheme
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", _validator(part).read_text())
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310  as above
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # all of it had come
            return
        part.unlink()
        raise ConnectionError("the file has changed") from error
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _remember_version(part, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        with part.open("ab" if have else "wb") as file, _bar(url, have, total) as advance:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                advance(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"it broke off after {part.stat().st_size:,} of {total:,} bytes")


def _remember_version(part: Path, etag: str | None, last_modified: str | None) -> None:
    # If-Range takes no weak ETag
    version = etag if etag and not etag.startswith("W/") else last_modified
    if version:
        _validator(part).write_text(version)
    else:
        _validator(part).unlink(missing_ok=True)


@contextmanager
def _bar(url: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress where there is someone to see it, and give what moves it on by so many bytes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Fetching {urlsplit(url).netloc}", completed=have, total=total)
        yield partial(progress.advance, task)
