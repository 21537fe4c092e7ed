"""`scones data --to s3://…` on the emulator, and downloads over HTTP that are interrupted."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from model.data.download import DownloadError, download
from tests.conftest import ROOT

BUCKET = "staging"
CONTENT = np.random.default_rng(1).bytes(5_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bucket(stack) -> Iterator[str]:
    s3 = stack.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    yield BUCKET
    for key in keys(stack):
        s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def photos(tmp_path) -> Path:
    for seed, name in enumerate(["bicycle/a.png", "bicycle/b.png", "motorcycle/c.png", "motorcycle/d.png"]):
        add_photo(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def add_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def data(stack, photos: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    out = photos.parent / "data"
    return subprocess.run(
        [sys.executable, "-m", "model", "data", "--source", photos, "--out", out, *arguments],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL": stack.endpoint_url, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def keys(stack) -> set[str]:
    return {found["Key"] for found in stack.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def test_a_staged_data_set_is_identical_to_the_local_one(stack, bucket, photos):
    done = data(stack, photos, "--to", f"s3://{bucket}/one/two")

    folder = photos.parent / "data"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"s3://{bucket}/one/two: 7 uploaded, 0 unchanged, 0 deleted\n")
    assert keys(stack) == {f"one/two/{path.relative_to(folder).as_posix()}" for path in files}
    for path in files:
        key = f"one/two/{path.relative_to(folder).as_posix()}"
        assert stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == path.read_bytes()


def test_a_dry_run_writes_nothing_here_or_there(stack, bucket, photos):
    done = data(stack, photos, "--to", f"s3://{bucket}/one", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "would contain" in done.stdout
    assert f"s3://{bucket}/one: would be made identical" in done.stdout
    assert not (photos.parent / "data").exists()
    assert keys(stack) == set()
    result = json.loads(data(stack, photos, "--to", f"s3://{bucket}/one", "--json").stdout)
    assert result["staged"] == {"uploaded": 7, "unchanged": 0, "deleted": 0}
    assert sum(sum(counts.values()) for counts in result["photos"].values()) == 4


def test_only_changed_files_are_uploaded_again(stack, bucket, photos):
    data(stack, photos, "--to", f"s3://{bucket}")
    again = data(stack, photos, "--to", f"s3://{bucket}")
    (photos / "bicycle" / "a.png").unlink()
    add_photo(photos / "bicycle" / "new.png", seed=9)
    changed = data(stack, photos, "--to", f"s3://{bucket}")

    assert "0 uploaded, 7 unchanged, 0 deleted" in again.stdout
    # the new photo, the manifest and at least one list
    assert re.search("[34] uploaded, [34] unchanged, 1 deleted", changed.stdout)
    assert not any(key.endswith("a.png") for key in keys(stack))


def test_foreign_objects_stay_and_overwritten_ones_are_uploaded_again(stack, bucket, photos):
    s3 = stack.client("s3")
    data(stack, photos, "--to", f"s3://{bucket}/data")
    ours = next(key for key in keys(stack) if key.endswith("c.png"))
    s3.put_object(Bucket=bucket, Key="data/train/bicycle/theirs.png", Body=b"theirs")
    s3.put_object(Bucket=bucket, Key=ours, Body=b"overwritten")

    done = data(stack, photos, "--to", f"s3://{bucket}/data/")

    assert "1 uploaded, 6 unchanged, 0 deleted" in done.stdout
    assert "data/train/bicycle/theirs.png" in keys(stack)
    assert s3.get_object(Bucket=bucket, Key=ours)["Body"].read() == (photos / "motorcycle/c.png").read_bytes()


@pytest.mark.parametrize(
    ("to", "environment", "reason"),
    [
        ("s3://nowhere-to-be-found/data", {}, "there is no such bucket"),
        (f"s3://{BUCKET}", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
        (
            f"s3://{BUCKET}",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
            "Could not connect",
        ),
        ("bucket/data", {}, "write s3://bucket"),
    ],
)
def test_a_failed_staging_ends_in_one_line(stack, photos, to, environment, reason):
    done = data(stack, photos, "--to", to, **environment)

    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert (photos.parent / "data" / "manifest.json").exists()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path, and closes the first connections after 1,500,000 bytes."""

    requests: list[str | None]
    breaks: int
    etag: str
    content: bytes


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == self.server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.server.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        end = len(self.server.content)
        if self.server.breaks:
            self.server.breaks -= 1
            end = start + 1_500_000
        self.wfile.write(self.server.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(breaks: int = 0) -> Iterator[tuple[str, Server]]:
    server = Server(("127.0.0.1", 0), Handler)
    server.requests, server.breaks, server.etag, server.content = [], breaks, '"1"', CONTENT
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a/archive.tar.gz", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_interrupted_download_is_resumed(tmp_path):
    with serving(breaks=2) as (url, server):
        path = download(url, tmp_path, SHA256)

    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-archive.tar.gz")
    assert server.requests == [None, "bytes=1500000-", "bytes=3000000-"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_later_call_resumes_unless_the_file_has_changed(tmp_path):
    with serving(breaks=5) as (url, server):
        server.content = CONTENT * 2
        with pytest.raises(
            DownloadError, match=r"interrupted after 7,500,000 of 10,000,000 bytes\. .* is kept"
        ):
            download(url, tmp_path)
        server.content, server.etag = CONTENT, '"2"'
        path = download(url, tmp_path, SHA256)

    assert path.read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=7500000-"


def test_a_verified_file_is_not_downloaded_again(tmp_path):
    with serving() as (url, server):
        download(url, tmp_path, SHA256)
        download(url, tmp_path, SHA256)

    assert len(server.requests) == 1


def test_a_partial_file_that_is_complete_is_accepted(tmp_path):
    with serving() as (url, _):
        path = download(url, tmp_path)
        part = path.rename(path.with_name(f"{path.name}.part"))
        part.with_name(f"{part.name}.version").write_text('"1"')
        again = download(url, tmp_path, SHA256)

    assert again.read_bytes() == CONTENT


def test_a_file_with_the_wrong_checksum_is_deleted(tmp_path):
    with serving() as (url, _), pytest.raises(DownloadError, match="not the expected file"):
        download(url, tmp_path, "0" * 64)

    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.gz"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a", "http://127.0.0.1:9/a"])
def test_a_failed_download_names_the_address(tmp_path, url):
    with pytest.raises(DownloadError, match=re.escape(url)):
        download(url, tmp_path)
