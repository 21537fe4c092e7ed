"""The servers that a stack consists of: what starts or ends them is not cut short."""

import signal

import pytest

from local import processes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_waits_until_all_is_done(number):
    told = []
    before = signal.signal(number, lambda *_: told.append("to end"))
    try:
        with processes.uninterrupted():
            signal.raise_signal(number)
            told.append("done")
    finally:
        signal.signal(number, before)

    assert told == ["done", "to end"]
