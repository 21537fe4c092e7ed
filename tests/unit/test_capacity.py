"""The simulation of the whole chain, in virtual time."""

import asyncio

import pytest

from pipeline.costs import usage
from tests.bench.capacity import PAGE, Chain, VirtualLoop, burst, simulate

RATE = usage.photos_per_second()


def test_ten_thousand_photos_in_a_minute_on_one_instance_are_all_classified_at_nearly_its_capacity():
    found = simulate(10_000, 60, instances=1, rate=RATE)

    assert found.failed == 0
    assert 10_000 / RATE / found.seconds > 0.9
    assert found.peak < 1000  # functions at a time


def test_a_burst_that_the_instances_can_answer_in_time_waits_in_the_server_only():
    found = simulate(40, 0, instances=1, rate=RATE)

    assert found.busy == 0


def test_autoscaling_shortens_a_burst():
    alone = simulate(20_000, 60, instances=1, rate=RATE)
    scaled = simulate(20_000, 60, instances=1, rate=RATE, max_instances=4)

    assert scaled.instances == 4
    assert scaled.seconds < 0.75 * alone.seconds


def test_the_oldest_photo_does_not_starve_under_a_stream_that_leaves_no_room():
    """Twice what the instance can do for five minutes: the wait of the slowest is that of the queue."""
    found = simulate(round(2 * RATE * 300), 300, instances=1, rate=RATE)

    assert found.failed == 0
    assert found.p99 < 1.5 * 300


@pytest.mark.parametrize("backfilled", [500])
def test_an_upload_in_the_middle_of_a_backfill_waits_for_no_more_than_the_photos_in_progress(backfilled):
    async def run() -> float:
        chain = Chain(1, 2, lambdas=10_000)
        backfill = [asyncio.create_task(chain.photo(low=True)) for _ in range(backfilled)]
        await asyncio.sleep(60)
        began = chain.loop.time()
        await chain.photo()
        seconds = chain.loop.time() - began
        await asyncio.gather(*backfill)
        assert len(chain.latencies) == backfilled + 1
        return seconds

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(run()) < 5


@pytest.mark.parametrize(("photos", "instances"), [(1_000, 4), (10_000, 1)])
def test_the_page_shows_what_the_simulation_finds(photos, instances):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]

    assert burst(photos, instances) in rows, "make bench BENCH=capacity"
