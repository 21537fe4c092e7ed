"""Which request is answered next, and when one that has to wait too long should come back."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from model.serving import admission
from model.serving.admission import PATIENCE, Admission, BusyError, Caller


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def one_worker(clock: Clock) -> Admission:
    """Occupied, and known to take a second for each photo."""
    queue = Admission(1, clock)
    queue._seconds = queue._pace = 1.0
    queue._working = 1
    return queue


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_as_many_are_admitted_at_once_as_there_are_workers(clock):
    async def test():
        queue = Admission(2, clock)
        await queue.enter(Caller())
        await queue.enter(Caller())
        third = asyncio.create_task(queue.enter(Caller()))
        await settle()
        assert not third.done()

        queue.leave(0.1)
        await third

    run(test)


def test_the_photo_that_has_waited_longest_is_first_and_low_priority_is_last(clock):
    async def test():
        queue, order = one_worker(clock), []

        async def ask(name: str, caller: Caller) -> None:
            await queue.enter(caller)
            order.append(name)

        callers = {
            "backfill": Caller(60, waited=900, low=True),
            "new": Caller(60),
            "old": Caller(60, waited=300),
            "older": Caller(60, waited=301),
        }
        tasks = [asyncio.create_task(ask(name, caller)) for name, caller in callers.items()]
        await settle()
        for _ in tasks:
            queue.leave(1)
            await settle()
        assert order == ["older", "old", "new", "backfill"]

    run(test)


def test_whoever_can_be_answered_in_time_waits_and_the_others_are_sent_away_at_once(clock):
    async def test():
        queue = one_worker(clock)
        tasks = [asyncio.create_task(queue.enter(Caller(patience=10))) for _ in range(20)]
        await settle()

        refused = [task for task in tasks if task.done()]
        # 80% of 10 s: the seventh would be answered after 8 s, the eighth after 9
        assert [task.done() for task in tasks] == [False] * 7 + [True] * 13
        times = [task.exception().retry_after for task in refused]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert times[0] == pytest.approx(7 / 2 + 1 / admission.OVERBOOKING)
        assert gaps == pytest.approx([1 / admission.OVERBOOKING] * 12)

    run(test)


def test_an_older_photo_takes_the_place_of_the_youngest_and_any_upload_that_of_a_backfill(clock):
    async def test():
        queue = one_worker(clock)
        backfill = asyncio.create_task(queue.enter(Caller(3.75, waited=5000, low=True)))
        young = asyncio.create_task(queue.enter(Caller(3.75)))
        await settle()
        assert not backfill.done()
        assert not young.done()

        old = asyncio.create_task(queue.enter(Caller(3.75, waited=60)))
        await settle()
        assert isinstance(backfill.exception(), BusyError)
        assert not young.done()
        older = asyncio.create_task(queue.enter(Caller(3.75, waited=90)))
        await settle()
        assert isinstance(young.exception(), BusyError)
        assert not old.done()
        assert not older.done()

    run(test)


def test_an_upload_is_not_sent_away_behind_the_appointments_of_a_backfill(clock):
    async def test():
        queue = one_worker(clock)
        backfill = [asyncio.create_task(queue.enter(Caller(1, low=True))) for _ in range(100)]
        await settle()
        with pytest.raises(BusyError) as upload:
            await queue.enter(Caller(1))
        with pytest.raises(BusyError) as another:
            await queue.enter(Caller(1, low=True))

        assert upload.value.retry_after < 2
        assert max(task.exception().retry_after for task in backfill) > 90
        assert another.value.retry_after > 90

    run(test)


def test_nobody_is_sent_away_for_longer_than_the_horizon(clock):
    async def test():
        queue = one_worker(clock)
        tasks = [asyncio.create_task(queue.enter(Caller(1))) for _ in range(1000)]
        await settle()

        times = [task.exception().retry_after for task in tasks]
        beyond = times[400:]
        assert max(times) <= admission.HORIZON
        assert min(beyond) >= admission.HORIZON / 2
        assert len(set(beyond)) == len(beyond)  # they do not all come back at once

    run(test)


def test_a_caller_that_hung_up_is_not_answered(clock):
    async def test():
        queue = one_worker(clock)
        gone, stays = (asyncio.create_task(queue.enter(Caller(60))) for _ in range(2))
        await settle()
        gone.cancel()
        await settle()
        assert len(queue._waiting) == 1

        queue.leave(1)
        await stays

    run(test)


def test_a_caller_that_hangs_up_just_as_its_turn_comes_passes_it_on(clock):
    async def test():
        queue = one_worker(clock)
        gone, stays = (asyncio.create_task(queue.enter(Caller(60))) for _ in range(2))
        await settle()
        queue.leave(1)
        gone.cancel()

        await stays
        assert queue._working == 1

    run(test)


def test_a_caller_whose_time_is_up_is_passed_over(clock):
    async def test():
        queue = one_worker(clock)
        late, patient = (asyncio.create_task(queue.enter(Caller(patience))) for patience in (5, 60))
        await settle()
        clock.now += 5
        queue.leave(1)

        await patient
        assert isinstance(late.exception(), BusyError)

    run(test)


def test_a_slower_model_shortens_the_queue(clock):
    async def test():
        queue = one_worker(clock)
        tasks = [asyncio.create_task(queue.enter(Caller(10))) for _ in range(7)]
        await settle()
        clock.now += 4
        queue.leave(4)
        await settle()

        assert sum(task.done() for task in tasks) > 1
        assert not tasks[0].exception()

    run(test)


@pytest.mark.parametrize(
    ("attributes", "caller"),
    [
        ("", Caller()),
        ("patience=8; waited=31.5; priority=low", Caller(8, 31.5, low=True)),
        ("priority=high;patience=2", Caller(2)),
        ("patience=1e9", Caller(admission.MAX_PATIENCE)),
        ("patience=nan; waited=inf", Caller(PATIENCE)),
        ("patience=-1; waited=-1; what", Caller(PATIENCE)),
        ("trace-id 7", Caller()),
    ],
)
def test_what_a_caller_says_is_read_and_what_is_invalid_ignored(attributes, caller):
    assert Caller.from_attributes(attributes) == caller


def test_callers_that_all_hang_up_early_are_held_no_longer_than_that(clock):
    """Otherwise the queue would be full of callers that leave just before their turn."""

    async def test():
        queue = one_worker(clock)
        for _ in range(100):
            gone = asyncio.create_task(queue.enter(Caller(60)))
            await settle()
            clock.now += 5
            gone.cancel()
            await settle()

        tasks = [asyncio.create_task(queue.enter(Caller(60))) for _ in range(20)]
        await settle()
        assert [task.done() for task in tasks] == [False] * 3 + [True] * 17  # 80% of 5 s

        for _ in range(300):
            queue._working = 1
            queue.leave(1)
            await settle()
        queue._working = 1
        tasks = [asyncio.create_task(queue.enter(Caller(60))) for _ in range(20)]
        await settle()
        assert not any(task.done() for task in tasks)

    run(test)
