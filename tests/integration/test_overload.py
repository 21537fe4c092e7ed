"""A burst that the endpoint is far too slow for: every photo is classified, and none fails."""

import threading
import time

import pytest

from tests.executions import Pipeline, calls_to, slow_endpoint


def test_a_burst_of_ten_times_what_the_endpoint_holds_is_classified_without_a_failure():
    with slow_endpoint(10) as url, calls_to(url) as metrics:
        pipeline = Pipeline()
        pipeline.start(100)
        pipeline.join()

    assert pipeline.outcomes() == {"classified": 100}
    assert metrics["PhotosClassified"] == 100  # none twice
    assert metrics["EndpointBusy"] > 0
    assert metrics["EndpointUnavailable"] == 0


def test_an_upload_overtakes_the_photos_of_a_backfill():
    with slow_endpoint(10) as url, calls_to(url):
        pipeline = Pipeline()
        backfill = pipeline.start(100, "low")
        while sum(one.entered[-1] == "Filter" for one in backfill if one.entered) < 10:
            time.sleep(0.01)
        (upload,) = pipeline.start(1)
        upload_thread = pipeline.threads[-1]
        upload_thread.join()
        overtaken = sum(one.entered[-1] != "Filter" for one in backfill)
        pipeline.join()

    assert pipeline.outcomes() == {"classified": 101}
    assert upload.entered == ["Classify", "Filter"]  # it was not sent away
    assert overtaken > 0


def test_photos_wait_for_an_endpoint_that_is_down():
    with slow_endpoint(50) as url:
        port = int(url.rpartition(":")[2])
    with calls_to(url) as metrics:
        pipeline = Pipeline(speed=10)
        pipeline.start(20)
        while metrics["EndpointUnavailable"] < 40:  # each has failed about twice
            time.sleep(0.01)
        with slow_endpoint(50, port):
            pipeline.join()

    assert pipeline.outcomes() == {"classified": 20}
    assert metrics["PhotosClassified"] == 20


@pytest.mark.verify
def test_five_hundred_photos_at_once_at_two_photos_per_second(record_property):
    with slow_endpoint(2) as url, calls_to(url) as metrics:
        pipeline = Pipeline()
        started_at = time.time()
        pipeline.start(500)
        assert threading.active_count() > 300
        pipeline.join()
        seconds = time.time() - started_at

    assert pipeline.outcomes() == {"classified": 500}
    assert metrics["PhotosClassified"] == 500
    record_property("seconds", round(seconds))
    record_property("transitions", sum(one.transitions for one in pipeline.executions))
    record_property("busy", metrics["EndpointBusy"])
    # The endpoint's speed, not this machine's, is the measure.
    assert seconds < 1.15 * 500 / 2


@pytest.mark.verify
def test_an_upload_in_the_middle_of_a_backfill_of_five_hundred_is_answered_within_ten_seconds(
    record_property,
):
    with slow_endpoint(2) as url, calls_to(url):
        pipeline = Pipeline()
        pipeline.start(500, "low")
        uploads = []
        for _ in range(5):
            time.sleep(30)
            uploads += pipeline.start(1)
        pipeline.join()

    assert pipeline.outcomes() == {"classified": 505}
    record_property("uploads", [round(one.seconds, 1) for one in uploads])
    assert max(one.seconds for one in uploads) < 10


@pytest.mark.verify
def test_an_endpoint_that_is_down_for_ten_minutes_loses_nothing(record_property):
    with slow_endpoint(20) as url:
        port = int(url.rpartition(":")[2])
    with calls_to(url):
        pipeline = Pipeline(speed=10)
        for _ in range(60):  # 10 s of each minute: 600 s
            time.sleep(1)
            pipeline.start(10)
        with slow_endpoint(20, port):
            pipeline.start(10)
            pipeline.join()

    assert pipeline.outcomes() == {"classified": 610}
    record_property("attempts", sum(one.attempts for one in pipeline.executions))
