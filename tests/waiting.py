"""Wait for what takes as long as the machine needs: no test depends on its speed."""

import time
from collections.abc import Callable

PATIENCE = 600.0
"""Seconds after which a test that hangs fails: at least ten times what anything takes on a busy machine."""


def eventually[Found](look: Callable[[], Found], pause: float = 0.2) -> Found:
    """Call `look` until it returns something true, and return that."""
    give_up_at = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"nothing after {PATIENCE:.0f} s"
        time.sleep(pause)
    return found
