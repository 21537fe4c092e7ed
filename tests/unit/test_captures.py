"""Reading captures loses no record, counts none twice, and opens only the files of the time window."""

import base64
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from functions.monitor.capture_analysis import captures as reader
from functions.monitor.capture_analysis.captures import CaptureError, PayloadError, ReadCounts, TimeWindow
from tests import captures

PHOTO = b"a photo's bytes"
HOUR = timedelta(hours=1)


def line(**changes) -> str:
    """A record as SageMaker writes it, with some fields changed."""
    value = captures.parsed(next(captures.records(1, [PHOTO], random.Random(1))).line)
    value["captureData"] |= changes.pop("captureData", {})
    value["eventMetadata"] |= changes.pop("eventMetadata", {})
    return json.dumps(value | changes)


def payload(data: object, encoding: str, content_type: str = "application/json") -> dict:
    return {"observedContentType": content_type, "mode": "OUTPUT", "data": data, "encoding": encoding}


def read(source: Path | str, start: datetime | None = None, end: datetime | None = None):
    counts = ReadCounts()
    return list(reader.read(str(source), TimeWindow(start, end), counts)), counts


def write(path: Path, *lines: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines) + b"\n")
    return path


@pytest.mark.parametrize("most", [1, 3, 50])
def test_every_record_is_read_however_many_are_in_a_file(tmp_path, most):
    chance = random.Random(most)
    files = captures.write(tmp_path, captures.records(120, [PHOTO], chance), chance, most)

    records, counts = read(tmp_path)

    assert (counts.files, counts.read, counts.records, counts.duplicates, counts.broken) == (
        files,
        120,
        120,
        0,
        0,
    )
    assert [record.inference_id for record in records] == [f"photo-{number}" for number in range(120)]


@pytest.mark.parametrize(
    "level",
    ["", "vehicle-classifier", "vehicle-classifier/AllTraffic", "vehicle-classifier/AllTraffic/2026/03"],
)
def test_the_source_may_be_at_any_level(tmp_path, level):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(20, [PHOTO], chance), chance)

    assert read(tmp_path / level)[1].records == 20


def test_a_flat_folder_and_a_single_file_are_read_too(tmp_path):
    file = write(tmp_path / "flat" / "05-12-996.jsonl", line(), line(eventMetadata={"eventId": "another"}))

    assert read(tmp_path / "flat")[1].records == 2
    assert read(file)[1].records == 2


def test_a_file_that_is_still_being_written_is_not_read(tmp_path):
    write(tmp_path / ".draft" / "05-12-996.jsonl", line()[:100])
    write(tmp_path / "05-12-990.jsonl", line())

    _, counts = read(tmp_path)

    assert (counts.records, counts.broken) == (1, 0)


def test_a_repeated_event_counts_once_even_across_files(tmp_path):
    one, another = line(), line()
    write(tmp_path / "a.jsonl", one, one)
    write(tmp_path / "b.jsonl", one, another)

    records, counts = read(tmp_path)

    assert (counts.read, counts.records, counts.duplicates) == (4, 2, 2)
    assert len(records) == 2


def test_broken_lines_are_skipped_counted_and_listed(tmp_path):
    broken = ['{"eventVersion": "0"}', "[1]", "7", "[" * 100_000]
    file = write(tmp_path / "a.jsonl", line()[:100], "", line(), b"\xff\xfe", *broken)

    records, counts = read(tmp_path)

    assert len(records) == 1
    assert counts.broken == 6
    assert [skipped.removeprefix(f"{file}:") for skipped in counts.skipped] == [
        "1: not JSON",
        "4: not JSON",
        "5: no captureData",
        "6: no captureData",
        "7: no captureData",
        "8: not JSON",
    ]


def test_at_most_a_thousand_broken_lines_are_listed(tmp_path):
    write(tmp_path / "a.jsonl", *["not a record"] * 1200)

    _, counts = read(tmp_path)

    assert (counts.broken, len(counts.skipped)) == (1200, 1000)


def test_records_without_an_event_id_are_not_duplicates(tmp_path):
    write(
        tmp_path / "a.jsonl",
        *[line(eventMetadata={"eventId": None})] * 3,
        line(eventMetadata={"eventId": ""}),
    )

    assert read(tmp_path)[1].records == 4


@pytest.mark.parametrize(
    "output",
    [
        payload("[0.9, 0.1]", "JSON"),
        payload(base64.b64encode(b"[0.9, 0.1]").decode(), "BASE64"),
        payload("[[0.9, 0.1]]", "JSON"),
        payload("0.9,0.1", "CSV", "text/csv"),
        payload("0.9, 0.1\n", "CSV", "text/csv"),
        payload(base64.b64encode(b"0.9,0.1\n").decode(), "BASE64", "text/csv"),
    ],
)
def test_an_answer_is_read_in_each_of_its_encodings(tmp_path, output):
    write(tmp_path / "a.jsonl", line(captureData={"endpointOutput": output}))

    ((record,), _) = read(tmp_path)

    assert record.probabilities() == [0.9, 0.1]
    assert record.photo() == PHOTO


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (None, "no output was captured"),
        (payload(None, "JSON"), "the payload has no data"),
        (payload("!", "BASE64"), "the payload is not valid BASE64"),
        (payload("bicycle", "JSON"), "the output is not a list of numbers"),
        (payload('["a", "b"]', "JSON"), "the output is not a list of numbers"),
        (payload("[[0.9], [0.1]]", "JSON"), "the output is not a list of numbers"),
        (payload("[0.9]", "JSON"), "the output is not a list of probabilities"),
        (payload("[9, 1]", "JSON"), "the output is not a list of probabilities"),
        (payload("[NaN, 1]", "JSON"), "the output is not a list of probabilities"),
    ],
)
def test_a_record_with_a_missing_or_malformed_answer_counts_and_gives_the_reason(tmp_path, output, reason):
    write(tmp_path / "a.jsonl", line(captureData={"endpointOutput": output}))

    ((record,), counts) = read(tmp_path)

    assert (counts.records, counts.broken) == (1, 0)
    with pytest.raises(PayloadError, match=reason):
        record.probabilities()


@pytest.mark.parametrize(
    ("captured_input", "reason"),
    [(None, "no input was captured"), (payload("1,2", "CSV", "text/csv"), "the input is CSV, not a photo")],
)
def test_a_record_without_a_photo_still_has_its_answer(tmp_path, captured_input, reason):
    write(tmp_path / "a.jsonl", line(captureData={"endpointInput": captured_input}))

    ((record,), _) = read(tmp_path)

    assert sum(record.probabilities()) == pytest.approx(1)
    with pytest.raises(PayloadError, match=reason):
        record.photo()


def test_files_of_other_hours_are_not_opened(tmp_path):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(240, [PHOTO], chance, hours=24), chance, most=5)
    (broken_hour,) = tmp_path.glob("*/*/2026/03/04/05")
    write(broken_hour / "00-00-000.jsonl", "not a record: counted if it is opened")

    inside, counts = read(tmp_path, captures.START + 10 * HOUR, captures.START + 12 * HOUR)

    assert counts.broken == 0
    assert counts.files < 20
    assert {record.at.hour for record in inside} <= {10, 11, 12}


def test_consecutive_windows_contain_each_record_once(tmp_path):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(480, [PHOTO], chance, hours=24), chance, most=30)

    hours = [read(tmp_path, captures.START + n * HOUR, captures.START + (n + 1) * HOUR)[0] for n in range(24)]

    names = [record.inference_id for hour in hours for record in hour]
    assert sorted(names) == sorted(f"photo-{number}" for number in range(480))


def test_if_the_window_ends_within_an_hour_each_records_own_time_decides(tmp_path):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(60, [PHOTO], chance, hours=1), chance, most=1)

    half_hour, _ = read(tmp_path, captures.START, captures.START + HOUR / 2)

    assert [record.inference_id for record in half_hour] == [f"photo-{number}" for number in range(30)]


def test_a_record_without_a_timestamp_gets_the_hour_of_its_path(tmp_path):
    write(tmp_path / "e/v/2026/03/04/05/00-00-000.jsonl", line(eventMetadata={"inferenceTime": None}))
    write(tmp_path / "flat.jsonl", line(eventMetadata={"eventId": "x", "inferenceTime": "soon"}))

    everything, _ = read(tmp_path)
    windowed, counts = read(tmp_path, captures.START, captures.START + 24 * HOUR)

    assert {record.at for record in everything} == {captures.START + 5 * HOUR, None}
    assert [record.at for record in windowed] == [captures.START + 5 * HOUR]
    assert counts.skipped == [f"{tmp_path}/flat.jsonl:1: record has no timestamp"]


def test_folders_that_only_resemble_dates_are_read(tmp_path):
    write(tmp_path / "2024" / "AllTraffic" / "2026/13/45/99" / "a.jsonl", line())

    assert read(tmp_path, captures.START, captures.START + HOUR)[1].records == 1


def test_a_missing_folder_is_reported_in_one_line(tmp_path):
    with pytest.raises(CaptureError, match=r"nowhere cannot be read \(No such file or directory\)"):
        read(tmp_path / "nowhere")


@pytest.fixture
def s3():
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="captures")
        yield client


def upload(s3, folder: Path, prefix: str) -> None:
    for file in folder.rglob("*.jsonl"):
        s3.upload_file(str(file), "captures", f"{prefix}{file.relative_to(folder).as_posix()}")


@pytest.mark.parametrize(("prefix", "source"), [("", "s3://captures"), ("data/", "s3://captures/data/")])
def test_s3_has_the_same_records_as_a_folder(tmp_path, s3, prefix, source):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(100, [PHOTO], chance), chance, most=7)
    upload(s3, tmp_path, prefix)

    from_s3, counts = read(source)

    assert [record.event_id for record in from_s3] == [record.event_id for record in read(tmp_path)[0]]
    assert counts.files == read(tmp_path)[1].files


def test_folders_of_other_hours_are_not_listed_in_s3(tmp_path, s3, monkeypatch):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(60, [PHOTO], chance, hours=60), chance, most=1)
    upload(s3, tmp_path, "")
    listed = []
    original = reader.Bucket.list
    monkeypatch.setattr(
        reader.Bucket, "list", lambda self, folder: listed.append(folder) or original(self, folder)
    )

    records, _ = read("s3://captures", captures.START, captures.START + HOUR)

    assert records
    assert listed == [
        "s3://captures",
        *(
            f"s3://captures/vehicle-classifier{below}"
            for below in (
                "",
                "/AllTraffic",
                "/AllTraffic/2026",
                "/AllTraffic/2026/03",
                "/AllTraffic/2026/03/04",
                "/AllTraffic/2026/03/04/00",
            )
        ),
    ]


def test_an_object_deleted_since_it_was_listed_is_skipped(tmp_path, s3, monkeypatch):
    chance = random.Random(1)
    captures.write(tmp_path, captures.records(5, [PHOTO], chance), chance, most=1)
    upload(s3, tmp_path, "")
    original = reader.Bucket.list

    def list_and_expire(self, folder):
        folders, files = original(self, folder)
        for uri in files[:1]:
            s3.delete_object(Bucket="captures", Key=reader.split_uri(uri)[1])
        return folders, files

    monkeypatch.setattr(reader.Bucket, "list", list_and_expire)

    assert read("s3://captures")[1].records == 0


def test_an_unreadable_bucket_is_reported_in_one_line(s3):
    with pytest.raises(CaptureError, match=r"s3://nobodys cannot be read: .*NoSuchBucket"):
        read("s3://nobodys")


def test_a_time_window_compares_times_in_any_time_zone():
    window = TimeWindow(datetime(2026, 3, 4, 12, tzinfo=UTC))

    assert window.contains(datetime.fromisoformat("2026-03-04T13:00:00+01:00"))
    assert not window.contains(datetime.fromisoformat("2026-03-04T12:59:59+01:00"))


def test_a_record_outside_the_window_does_not_end_the_file(tmp_path):
    """The last records in a file are often from the next hour, and clocks go back."""
    times = ("05:59:59", "06:00:01", "05:59:59")
    write(
        tmp_path / "a.jsonl",
        *(
            line(eventMetadata={"eventId": str(number), "inferenceTime": f"2026-03-04T{time}Z"})
            for number, time in enumerate(times)
        ),
    )

    records, _ = read(tmp_path, end=datetime(2026, 3, 4, 6, tzinfo=UTC))

    assert [record.event_id for record in records] == ["0", "2"]


@pytest.mark.parametrize(
    ("uri", "bucket_and_key"),
    [
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://bucket/a/b//", ("bucket", "a/b")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket", ("bucket", "")),
    ],
)
def test_an_address_is_a_bucket_and_a_key_without_a_slash_at_the_end(uri, bucket_and_key):
    assert reader.split_uri(uri) == bucket_and_key
