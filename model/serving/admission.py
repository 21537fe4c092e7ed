"""Decide which request is answered next, and when a request that has to wait too long should come back.

An overloaded server that queues without a bound works for callers that have given up, and answers nobody in
time. This one holds only what it can answer within its callers' patience, the oldest photos first; it sends
the others away at once, each with a time at which there will be room. So a photo asks about twice, however
many are waiting, and the server never runs out of work.
"""

import asyncio
import random
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

PATIENCE = 3.0
"""Seconds that a caller is assumed to wait for the answer if it does not say."""
MAX_PATIENCE = 60.0
"""Seconds that SageMaker waits for a container's answer (API Reference, InvokeEndpoint)."""
HORIZON = 300.0
"""The longest time in seconds to send a caller away for. A new instance takes over photos within this time,
because a photo that waits for its appointment does not hear of it."""
CERTAINTY = 0.8
"""Share of a caller's patience that it is expected to need when it is admitted, so that few have to be sent
away later."""
OVERBOOKING = 1.1
"""Appointments per photo that can be answered. Some callers come late, or not at all."""
GROWTH = 1.01
"""Factor by which an answer raises the patience that callers are trusted to have; a hang-up lowers it."""
FIRST_SECONDS = 0.1
"""Assumed time to answer a photo before one has been measured."""
SMOOTHING = 0.1
"""Weight of the latest photo in the averages."""


class BusyError(Exception):
    """The request cannot be answered within its caller's patience; it may come back in `retry_after` s."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"busy; retry after {retry_after:.0f} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Caller:
    """What a caller says about its request, in seconds; `low` priority comes after all others."""

    patience: float = PATIENCE
    waited: float = 0.0
    low: bool = False

    @classmethod
    def from_attributes(cls, attributes: str) -> Self:
        """Parse ``patience=8; waited=31; priority=low``; ignore what is missing or invalid.

        InvokeEndpoint forwards this text verbatim (API Reference, CustomAttributes).
        """
        parts = (part.partition("=") for part in attributes.split(";"))
        values = {name.strip(): value.strip() for name, _, value in parts}
        return cls(
            patience=min(_seconds(values, "patience", PATIENCE), MAX_PATIENCE),
            waited=_seconds(values, "waited", 0),
            low=values.get("priority") == "low",
        )


def _seconds(values: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(values[name])
    except (KeyError, ValueError):
        return default
    return seconds if 0 <= seconds < float("inf") else default


@dataclass(eq=False)
class _Turn:
    low: bool
    since: float  # when the photo began to wait
    asked_at: float
    patience: float
    granted: asyncio.Future[None]

    @property
    def rank(self) -> tuple[bool, float]:
        return self.low, self.since


class Admission:
    """Admits as many requests at a time as there are `workers`. Use it in one event loop only.

    Pair each successful `enter` with one `leave`.
    """

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._clock = clock
        self._working = 0
        self._waiting: list[_Turn] = []
        self._seconds = FIRST_SECONDS  # to answer a photo
        self._pace = FIRST_SECONDS / workers  # from one answer to the next, if all workers are busy
        self._trusted = MAX_PATIENCE  # patience of callers at most, whatever they say
        self._left_at = clock()
        self._saturated = False  # all workers have been busy since then
        self._booked_until = {False: 0.0, True: 0.0}  # by low priority

    async def enter(self, caller: Caller) -> None:
        """Wait for the caller's turn; raise `BusyError` as soon as its answer would come too late.

        Cancel this when the caller hangs up.
        """
        if self._working < self._workers:
            self._working += 1
            return
        now, granted = self._clock(), asyncio.get_running_loop().create_future()
        patience = min(caller.patience, self._trusted)
        turn = _Turn(caller.low, now - caller.waited, now, patience, granted)
        insort(self._waiting, turn, key=lambda one: one.rank)
        self._send_last_away(CERTAINTY)
        try:
            await granted
        except asyncio.CancelledError:
            self._trusted += SMOOTHING * min(0.0, self._clock() - now - self._trusted)
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif granted.done() and not granted.cancelled() and not granted.exception():
                self._next()
            raise

    def leave(self, seconds: float) -> None:
        """Let the next request in, after one that took this many seconds."""
        now = self._clock()
        interval = now - self._left_at if self._saturated else seconds / self._workers
        self._seconds += SMOOTHING * (seconds - self._seconds)
        self._pace += SMOOTHING * (interval - self._pace)
        self._trusted = min(MAX_PATIENCE, GROWTH * self._trusted)
        self._left_at, self._saturated = now, bool(self._waiting)
        self._next()

    def _next(self) -> None:
        """Pass a worker that has become free to the first request in the queue."""
        self._working -= 1
        while self._waiting and self._working < self._workers:
            turn = self._waiting.pop(0)
            if self._clock() + self._seconds > turn.asked_at + turn.patience:
                self._send_away(turn)
            elif not turn.granted.done():
                self._working += 1
                turn.granted.set_result(None)
        self._send_last_away(1)

    def _send_last_away(self, certainty: float) -> None:
        """Shorten the queue until its last request can be answered within a share of its patience."""
        while self._waiting:
            last, expected = self._waiting[-1], len(self._waiting) * self._pace + self._seconds
            if self._clock() + expected <= last.asked_at + certainty * last.patience:
                return
            self._send_away(self._waiting.pop())

    def _send_away(self, turn: _Turn) -> None:
        if not turn.granted.done():
            turn.granted.set_exception(BusyError(self._appoint(low=turn.low)))

    def _appoint(self, *, low: bool) -> float:
        """Return the seconds until there will be room for one more photo."""
        now = self._clock()
        booked_until = max(self._booked_until.values()) if low else self._booked_until[low]
        # Appointments begin when half of the queue has been answered, so that it does not run empty.
        free_at = max(booked_until, now + len(self._waiting) * self._pace / 2) + self._pace / OVERBOOKING
        if free_at - now > HORIZON:
            return random.uniform(HORIZON / 2, HORIZON)  # noqa: S311  not a secret
        self._booked_until[low] = free_at
        return free_at - now
